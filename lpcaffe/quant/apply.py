"""A plan applied to a network: the one place that interprets a plan.

    base       the full-precision network that the formats apply to: checked, and folded where the policy folds
    formats    what is rounded, and to which format: those of the plan, and those that follow from it
    blobs      the blobs as they will be, lazily
    roundings  the values that are rounded on the way

Writers of every dialect, trials, validation, export and every engine take it from here.

Formats that follow from a plan: with `round_bias` a bias has the format of its weights. With coverage `all` a bias
without a format lies on the grid of the sums that it is added to, ad = ad_in + ad_w (for each channel where the weights
have a fraction for each), and has BIAS_BITS bits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from lpcaffe.engines import Shapes, infer_shapes
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import NetError, PlanError
from lpcaffe.formats.schema import Message
from lpcaffe.net import LOW_PRECISION, ArrayBlob, Layer, Net, Rounding, WeightBlob, fold_batch_norm
from lpcaffe.numbers import ChannelQFormat, NumberFormat, QFormat
from lpcaffe.numbers.huffman import CodeCounts
from lpcaffe.quant.coverage import Effect, effect
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.rounded import RoundedBlob, channels_of, check_channels
from lpcaffe.quant.sites import Site, grids, sites

# Bits of a bias that has no format of its own: those of an accumulator.
BIAS_BITS = 32

Formats = Mapping[Site, NumberFormat]


def check_full_precision(net: Net) -> None:
    """Raise NetError when a network has low-precision layers already."""
    present = [layer for layer in net.layers if layer.type in (*LOW_PRECISION.values(), "LPAct")]
    if present:
        raise NetError(
            f"expected a full-precision network, got {present[0].type}",
            path=net.path,
            layer=present[0].name,
            hint="give the network that this one was made from",
        )


@dataclass(frozen=True)
class Quantized:
    """A network with formats at its sites. `sites` are all of its sites, `formats` those that are rounded.

    schemes          of sites that round otherwise than the policy, in files that lpcaffe did not write
    rounded_already  the blobs of `base` are in their formats
    source           the network before it was folded, whose weights are at fault where a value is not finite
    errors           takes up what rounding does to parameters, by site, each time a blob of `blobs` is read
    counted          takes up how often their codes occur, in the same way; None for nobody
    """

    base: Net
    policy: Policy
    sites: tuple[Site, ...]
    formats: Formats
    schemes: Mapping[Site, str] = field(default_factory=dict)
    rounded_already: bool = False
    source: Net | None = field(default=None, compare=False)
    errors: dict[Site, ErrorStats] = field(default_factory=dict, compare=False)
    counted: dict[Site, CodeCounts] | None = field(default=None, compare=False)

    def site(self, layer: str, role: str) -> Site:
        """The site of a layer's role, which it has."""
        return self._by_key[layer, role]

    @cached_property
    def _by_key(self) -> dict[tuple[str, str], Site]:
        return {site.key: site for site in self.sites}

    def scheme(self, site: Site) -> str:
        """How a site rounds."""
        return self.schemes.get(site, self.policy.rounding)

    @cached_property
    def parameters(self) -> dict[str, dict[int, Site]]:
        """The sites of blobs with a format, by layer and index of the blob."""
        found: dict[str, dict[int, Site]] = {}
        for site in self.formats:
            if site.blob is not None:
                found.setdefault(site.layer, {})[site.blob] = site
        return found

    @cached_property
    def shapes(self) -> Shapes:
        """The shapes of the network."""
        return infer_shapes(self.base)

    @cached_property
    def roundings(self) -> dict[str, Rounding]:
        """The values that are rounded on the way, by tensor."""
        return {site.tensor: self._rounding(site, fmt) for site, fmt in self.formats.items() if site.role == "output"}

    def _rounding(self, site: Site, fmt: NumberFormat) -> Rounding:
        if fmt.channels is not None:
            shape = self.shapes.tensors[site.tensor]
            assert shape is not None
            channels = channels_of(self.base.by_name[site.after], site, shape)
            check_channels(fmt, channels, site)
            fmt = fmt.select(channels)
        return Rounding(fmt, self.scheme(site), site.act)

    @property
    def blobs(self) -> dict[str, Sequence[WeightBlob]]:
        """The blobs of every layer, in the shapes that the network declares, those with a format rounded.

        Nothing is read or computed before the blobs are. Raises WeightsError for blobs that are missing or do not fit.
        """
        found: dict[str, Sequence[WeightBlob]] = {}
        for name, expected in self.shapes.params.items():
            blobs = check_blobs(self.base, name, expected)
            own = self.parameters.get(name, {})
            found[name] = [
                self.rounded(own[i], blob, shape) if i in own and not self.rounded_already else blob
                for i, (blob, shape) in enumerate(zip(blobs, expected, strict=True))
            ]
        return found

    def rounded(
        self, site: Site, blob: WeightBlob, shape: tuple[int, ...], fmt: NumberFormat | None = None
    ) -> RoundedBlob:
        """A blob in the format of its site, or in another one; `errors` is filled as it is read, and
        `counted` if the site has a format."""
        layer, counted = self.base.by_name[site.layer], self.counted if site in self.formats else None
        policy = dataclasses.replace(self.policy, rounding=self.scheme(site))
        errors = self.errors.setdefault(site, ErrorStats())
        return RoundedBlob(blob, shape, layer, site, fmt or self.formats[site], policy, errors, counted)

    @cached_property
    def message(self) -> Message:
        """The message of the network, with the fields that have a format rounded."""
        message = type(self.base.message)()
        message.CopyFrom(self.base.message)
        for layer in message.layer:
            self.round_fields(layer)
        return message

    @cached_property
    def _field_sites(self) -> dict[str, Site]:
        """The sites with a format that are fields of a message, by layer."""
        return {site.layer: site for site in self.formats if site.role == "weights" and site.blob is None}

    def with_rounded_fields(self, layer: Layer) -> Layer:
        """A layer of the network whose message has rounded slopes and coefficients, where they have a format."""
        if layer.name not in self._field_sites:
            return layer
        message = type(layer.message)()
        message.CopyFrom(layer.message)
        self.round_fields(message)
        return dataclasses.replace(layer, message=message)

    def round_fields(self, message: Message) -> None:
        """Round the slopes and coefficients that a layer's message holds, in place."""
        site = self._field_sites.get(message.name)
        if site is None or site.type != message.type:
            return
        fmt = self.formats[site]
        if site.type == "ReLU":
            slope = np.array([message.relu_param.negative_slope], np.float32)
            message.relu_param.negative_slope = float(fmt.quantize(slope)[0])
        else:
            coefficients = np.array(message.eltwise_param.coeff, np.float32)
            message.eltwise_param.coeff[:] = fmt.quantize(coefficients).tolist()

    @cached_property
    def net(self) -> Net:
        """The network as it computes: rounded parameters, and the values rounded on the way. Blobs are lazy."""
        weights = None if self.base.weights is None else self.blobs
        return dataclasses.replace(self.base, message=self.message, weights=weights, roundings=self.roundings)

    @property
    def float_sites(self) -> tuple[Site, ...]:
        """The sites that are still in float: those of coverage `all` that have no format."""
        return float_sites(self.base, self.policy, self.formats)


def apply_plan(net: Net, plan: BitPlan) -> Quantized:
    """Apply a plan to the full-precision network that it was made for.

    Raises PlanError for a plan of another network, or with a format at a site that the network does not have; NetError
    for a network with low-precision layers.
    """
    check_full_precision(net)
    plan.check(net)
    base = fold_batch_norm(net) if plan.policy.fold_bn else net
    found = sites(base, plan.policy)
    by_key = {site.key: site for site in found}
    formats: dict[Site, NumberFormat] = {}
    for name, row in plan.layers.items():
        for role, fmt in row.formats().items():
            if (name, role) not in by_key:
                raise PlanError(f"{role}: {_no_site(found, name)}", layer=name)
            formats[by_key[name, role]] = fmt
    applied = Quantized(base, plan.policy, found, with_implied(base, found, formats, plan.policy), source=net)
    _check_channels(applied)
    return applied


def _check_channels(applied: Quantized) -> None:
    """Raise PlanError for a format that has not one parameter for each channel of its site."""
    for site, fmt in applied.formats.items():
        if fmt.channels is not None:
            layer = applied.base.by_name[site.after or site.layer]
            if site.role != "output" and site.blob is None:
                problem = f"{site.role}: expected one format for all slopes or coefficients, got {fmt}"
                raise PlanError(problem, layer=site.layer)
            shapes = applied.shapes.params.get(site.layer, [])
            shape = applied.shapes.tensors[site.tensor] if site.blob is None else shapes[site.blob]
            check_channels(fmt, channels_of(layer, site, shape or ()), site)


def quantize(net: Net, plan: BitPlan) -> Net:
    """The network of a plan, in memory: what the written files compute, in every dialect that can express the plan.

    The result has the layers and blobs of the full-precision network (BatchNorm folded if the plan folds it), rounded
    weights, and `roundings` for its outputs, so that `lpcaffe.run` and every engine compute it. Raises as `apply_plan`.
    """
    return in_memory(apply_plan(net, plan).net)


def in_memory(net: Net) -> Net:
    """A network whose lazy blobs are computed."""
    if net.weights is None:
        return net
    return net.replace(
        net.message, {name: [ArrayBlob(blob.array()) for blob in blobs] for name, blobs in net.weights.items()}
    )


def with_implied(net: Net, found: Sequence[Site], formats: Formats, policy: Policy) -> dict[Site, NumberFormat]:
    """The formats, and those that follow from them; in the order of the sites."""
    by_key = {site.key: site for site in found}
    implied: dict[Site, NumberFormat] = dict(formats)
    lies_on: dict[str, frozenset[Site]] | None = None
    for site in found:
        if site.role != "bias" or site in implied:
            continue
        weights = formats.get(by_key[site.layer, "weights"]) if (site.layer, "weights") in by_key else None
        if policy.round_bias and weights is not None and site.type in LOW_PRECISION:
            implied[site] = weights
        elif policy.coverage == "all" and site.covered:
            if lies_on is None:
                tensors = {s.tensor: s for s in formats if s.role == "output"}
                lies_on = grids(net, found, tensors)
            own = lies_on[net.by_name[site.layer].bottoms[0]]
            has_weights = (site.layer, "weights") in by_key
            if (fmt := _accumulator_grid(own, formats, weights, has_weights)) is not None:
                implied[site] = fmt
    _check_shared(net, implied)
    return {site: implied[site] for site in found if site in implied}


def _accumulator_grid(
    inputs: frozenset[Site], formats: Formats, weights: NumberFormat | None, has_weights: bool
) -> NumberFormat | None:
    """The grid of sums of products of an input and weights; None where either has no Qm.f."""
    read = {formats.get(site) for site in inputs}
    fmt = next(iter(read)) if len(read) == 1 else None
    if not isinstance(fmt, QFormat):
        return None
    if not has_weights:
        return QFormat(BIAS_BITS - fmt.ad, fmt.ad)
    if isinstance(weights, QFormat):
        ad = fmt.ad + weights.ad
        return QFormat(BIAS_BITS - ad, ad)
    if isinstance(weights, ChannelQFormat):
        return ChannelQFormat(BIAS_BITS, tuple(fmt.ad + ad for ad in weights.ad))
    return None


def _check_shared(net: Net, formats: Formats) -> None:
    """Raise PlanError where layers share a blob (`param { name: ... }`) and have two formats for it."""
    first: dict[str, tuple[Site, NumberFormat]] = {}
    for site, fmt in formats.items():
        if site.blob is None:
            continue
        names = [spec.name for spec in net.by_name[site.layer].message.param]
        name = names[site.blob] if site.blob < len(names) else ""
        if name and (other := first.setdefault(name, (site, fmt)))[1] != fmt:
            problem = f'{site.role}: {fmt}, but layer "{other[0].layer}" shares the blob "{name}" and has {other[1]}'
            hint = "give biases a format of their own (--bias-bits)" if site.role == "bias" else None
            raise PlanError(problem, layer=site.layer, hint=hint)


def float_sites(net: Net, policy: Policy, formats: Formats) -> tuple[Site, ...]:
    """The sites of coverage `all` that have no format, in source order.

    Sites count by what they are, a tensor or a blob: with other settings another name may stand for it. A Concat
    without a format of its own is not in float where all its inputs are on one grid.
    """
    everything = sites(net, dataclasses.replace(policy, coverage="all", round_output=True))
    tensors = {site.tensor for site in formats if site.role == "output"}
    parameters = {(site.layer, site.role) for site in formats}
    lies_on = grids(net, everything, dict.fromkeys(tensors))
    fmt_at = {site.tensor: fmt for site, fmt in formats.items() if site.role == "output"}
    found = []
    for site in everything:
        if not site.covered or (site.tensor in tensors if site.role == "output" else site.key in parameters):
            continue
        layer = net.by_name.get(site.after or site.layer)
        joins = site.role == "output" and layer is not None and effect(layer) is Effect.JOINS
        if not joins or len({fmt_at.get(one.tensor) for one in lies_on[site.tensor]}) != 1:
            found.append(site)
    return tuple(found)


def _no_site(found: Sequence[Site], name: str) -> str:
    """Why a layer has no site of a role."""
    roles = [site.role for site in found if site.layer == name]
    return f"the layer has no such site, only {' and '.join(roles)}" if roles else "the layer has no site for a format"
