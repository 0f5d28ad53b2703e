"""From statistics and widths to a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lpcaffe.allocation.bits import Widths
from lpcaffe.allocation.registry import Choice, method_named
from lpcaffe.allocation.tensors import Tensors, site_tensors
from lpcaffe.calibration import Calibration, TensorStats
from lpcaffe.dialects import Dialect, check_scheme, dialect_named
from lpcaffe.errors import PlanError, located, warn
from lpcaffe.net import LOW_PRECISION, Net
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.quant.coverage import Effect, effect
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site, grids, sites

# What becomes of biases: left in full precision, with a report or without; rounded, in formats that hold them.
BIASES = ("report", "none", "own")

_DEFAULT = Policy()


@dataclass(frozen=True)
class Methods:
    """How formats are chosen: the names of methods, each with its option after a colon ("percentile:99.9")."""

    weights: str = "max"
    outputs: str = "max"

    def chosen(self) -> dict[str, Choice]:
        """The methods by role; that of weights is for biases too. Raises PlanError for a name that is none."""
        weights = method_named(self.weights)
        return {"weights": weights, "bias": weights, "output": method_named(self.outputs)}


def allocate(
    net: Net,
    stats: Calibration | None,
    *,
    bits: int | Widths = 16,
    method: str | Methods = "max",
    bias: str = "report",
    keep_even: bool = False,
    policy: Policy = _DEFAULT,
) -> BitPlan:
    """A format for every site that the policy covers.

    `bits` is the width of every format, the sign counted, or the `Widths` that decide it. `method` is one of
    docs/methods, with its option after a colon, or the `Methods` for weights and outputs. Formats of parameters come
    from the parameters, those of outputs from `stats`; without `stats` no output is rounded. With stats, folding and
    placement are those of the calibration. What leads to the network's answers alone keeps full precision, unless the
    policy has `round_output`.

    `bias` is "report" (full precision; the plan's comments count those that would saturate in the layer's format),
    "none" (full precision), or "own" (rounded; the layer's format is chosen over weights and bias), which the policy's
    `round_bias` means too. `Widths.bias` gives biases formats of their own instead.

    Where a method asks for a format that the dialect cannot express, the nearest one is taken, with one warning that
    names the layers. In the ADaPTION dialect, weights of a format with bd < 1 are written at its limit where they
    exceed it; with `keep_even` the fraction is shortened until none does.
    """
    if bias not in BIASES or (policy.round_bias and bias == "none"):
        got = f"{bias!r}{' with round_bias' if policy.round_bias else ''}"
        raise PlanError(f"bias: expected {', '.join(BIASES[:-1])} or {BIASES[-1]}, got {got}")
    if bias == "own":
        policy = dataclasses.replace(policy, round_bias=True)
    if stats is not None:
        policy = dataclasses.replace(policy, fold_bn=stats.fold_bn, act_placement=stats.act_placement)
    widths = bits if isinstance(bits, Widths) else Widths(bits)
    methods = (method if isinstance(method, Methods) else Methods(method, method)).chosen()
    if widths.plan is not None:
        widths.plan.check(net)
    folded, tensors = site_tensors(net, stats, policy)
    dialect, asked = dialect_named(policy.dialect), {}
    check_scheme(dialect, policy)
    for site, width in widths.of(list(tensors)).items():
        with located(layer=site.layer):
            asked[site] = methods[site.role](tensors[site], width)
    formats = fitted(asked, dialect)
    warn_of_fitted(asked, formats, dialect)
    if keep_even:
        formats = {site: _without_clipping(fmt, site, tensors, policy) for site, fmt in formats.items()}
    formats = _without_needless_joins(folded, formats, policy)
    rows = layer_plans(tensors, formats)
    comments = {name: _comment(name, tensors, stats) for name in rows}
    if bias == "report" and not policy.round_bias and policy.coverage == "learned":
        _report_biases(folded, tensors, formats, comments)
    return BitPlan(rows, policy, net.name, net.sha256, comments=comments)


def fitted(asked: Mapping[Site, QFormat], dialect: Dialect) -> dict[Site, NumberFormat]:
    """The formats, or the nearest that the dialect can express."""
    formats: dict[Site, NumberFormat] = {}
    for site, fmt in asked.items():
        with located(layer=site.layer):
            formats[site] = dialect.fit(fmt, site)
    return formats


def layer_plans(tensors: Sequence[Site] | Tensors, formats: Mapping[Site, NumberFormat]) -> dict[str, LayerPlan]:
    """The rows of a plan: of each convolution and inner product, and of each other layer with a format."""
    rows: dict[str, dict[str, NumberFormat]] = {}
    types: dict[str, str] = {}
    for site in tensors:
        if site in formats or site.type in LOW_PRECISION:
            types[site.layer] = site.type
            rows.setdefault(site.layer, {}).update({site.role: formats[site]} if site in formats else {})
    return {name: LayerPlan(types[name], **row) for name, row in rows.items()}


def _without_clipping(fmt: NumberFormat, site: Site, tensors: Tensors, policy: Policy) -> NumberFormat:
    """A format of weights with bd < 1, its fraction shortened until no value saturates."""
    largest = tensors[site].stats.abs_max
    while isinstance(fmt, QFormat) and site.role == "weights" and site.type in LOW_PRECISION and fmt.bd < 1:
        limit = fmt.max if policy.rounding == "stochastic" else fmt.max + fmt.step / 2
        if largest < limit or (largest == limit and policy.rounding == "stochastic"):
            break
        fmt = QFormat(fmt.bd + 1, fmt.ad - 1)
    return fmt


def warn_of_fitted(asked: Mapping[Site, QFormat], formats: Mapping[Site, NumberFormat], dialect: Dialect) -> None:
    """Warn, once, of the sites whose values need a format that the dialect cannot express."""
    losing = []
    for site, fmt in asked.items():
        taken = formats[site]
        if isinstance(taken, QFormat) and taken != fmt:
            lost = fmt.ad - taken.ad
            loss = f"loses {lost} of {fmt.width} bits" if lost < fmt.width else f"loses all {fmt.width} bits"
            losing.append(f"{site} (asks for {fmt}; {taken} {loss if lost > 0 else 'saturates'})")
    if losing:
        shown = ", ".join(losing[:8]) + (f" and {len(losing) - 8} more" if len(losing) > 8 else "")
        help_ = f" ({dialect.hint}, and more bits help)" if dialect.hint else ""
        warn(f"the dialect {dialect.name} cannot express every format{help_}: {shown}", stacklevel=3)


def _without_needless_joins(net: Net, formats: dict[Site, NumberFormat], policy: Policy) -> dict[Site, NumberFormat]:
    """The formats without those of a Concat or Eltwise MAX whose inputs share one: its output is on their grid."""
    kept = dict(formats)
    for site in formats:
        layer = net.by_name.get(site.after)
        if layer is None or effect(layer) is not Effect.JOINS:
            continue
        others = {one.tensor: fmt for one, fmt in kept.items() if one.role == "output" and one is not site}
        inputs = grids(net, sites(net, policy), others)[site.tensor]
        own = {others.get(one.tensor) for one in inputs}
        if len(own) == 1 and own != {None}:
            del kept[site]
    return kept


def _comment(name: str, tensors: Tensors, stats: Calibration | None) -> str:
    """What the formats of a layer were chosen from, for the plan."""
    own = {site.role: tensor.stats for site, tensor in tensors.items() if site.layer == name}
    weights = own.get("weights")
    output = own.get("output", None if stats is None else stats.layers.get(name))
    parts = [] if weights is None else [f"|weights| <= {weights.abs_max:.4g}{_note(weights)}"]
    parts += [] if output is None else [f"output {output.min:.4g} .. {output.max:.4g}{_note(output)}"]
    return ", ".join(parts)


def _note(stats: TensorStats) -> str:
    if stats.count < 2 or stats.min != stats.max:
        return ""
    return " (constant)" if stats.abs_max else " (all zero)"


def _report_biases(net: Net, tensors: Tensors, formats: Mapping[Site, NumberFormat], comments: dict[str, str]) -> None:
    """Add to the comments how many values of biases lie beyond the format of their weights by half a step or more."""
    by_key = {site.key: site for site in tensors}
    for site in tensors:
        fmt = formats.get(by_key.get((site.layer, "weights"), site))
        if site.role != "bias" or site in formats or fmt is None or net.weights is None:
            continue
        assert site.blob is not None
        values = np.asarray(net.weights[site.layer][site.blob].array(), np.float32)
        if fmt.channels is None and (count := int(np.count_nonzero(fmt.saturates(values)))):
            comments[site.layer] += f", {count} of {values.size} bias values beyond {fmt}"
