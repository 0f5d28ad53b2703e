"""Is every rounded weight the one that round_fp gives? Each is compared with the NumPy reference in float64.

Values count, so -0.0 equals 0.0. Without a plan the seed of stochastic rounding is unknown; then a rounded weight must
be one of the two neighbours of the weight. Blob 3, the rounded bias, counts only where the layer uses it
(`round_bias`); ADaPTION leaves filler there otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.dialects import dialect_of
from lpcaffe.dialects.adaption import clip_even, effective_format, written_format
from lpcaffe.dialects.adaption_read import extract
from lpcaffe.engines import infer_shapes
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import LpcaffeError, NetError, PlanError, WeightsError, located
from lpcaffe.layers.low_precision import format_of, scheme_of
from lpcaffe.net import LOW_PRECISION, Layer, Net, WeightBlob, learned_param
from lpcaffe.net.blobs import side_by_side
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.numbers.rounding import round_fp, stream_of
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import Site
from lpcaffe.validation.pairs import applied

LOW_TYPES = tuple(LOW_PRECISION.values())


@dataclass(frozen=True)
class BlobCheck:
    """One rounded blob: how many values differ from the reference, the first of them, and whether they count.

    `source` is the blob that it is round_fp of; None where it holds rounded values itself.
    """

    layer: str
    blob: int
    format: NumberFormat
    count: int
    differing: int
    first: int | None
    counts: bool
    changed: int
    source: int | None = None

    @property
    def holds(self) -> bool:
        """Whether the check passes."""
        return not (self.counts and self.differing)

    def to_json(self) -> dict[str, Any]:
        """The row of a report."""
        return {
            "layer": self.layer,
            "blob": self.blob,
            "format": str(self.format),
            "count": self.count,
            "differing": self.differing,
            "first": self.first,
            "counts": self.counts,
            "changed": self.changed,
        }


def check_rounding(float_net: Net | None, quant_net: Net, plan: BitPlan | None) -> list[BlobCheck]:
    """Check every rounded blob of a low-precision network.

    `float_net` is the full-precision network, folded like `quant_net`. Where it is given, `changed` counts the
    full-precision weights that differ from it: a fine-tuned network has such, a converted one has none.
    """
    if float_net is not None:
        for name, expected in infer_shapes(float_net, strict=False).params.items():
            check_blobs(float_net, name, expected)
    if not dialect_of(quant_net).marked:
        if plan is None or float_net is None:
            raise NetError("the network has no LP layers", path=quant_net.path, hint="give its plan with --plan")
        return list(_in_place(float_net, quant_net, applied(float_net, plan), ()))
    checks = list(check_lp_layers(float_net, quant_net, plan))
    return checks if plan is None else [*checks, *check_in_place(float_net, quant_net, plan)]


def check_in_place(
    float_net: Net | None, quant_net: Net, plan: BitPlan, problems: list[LpcaffeError] | None = None
) -> Iterator[BlobCheck]:
    """Check what no LP layer rounds and files hold rounded: other parameters, and biases with formats of their own.

    Without `float_net` the values need only be in their formats. `problems` takes up the errors of single sites, so
    that all others are checked; without it the first one is raised.
    """
    if plan.version == 1:  # which expresses LP layers alone
        return
    source = plan.naming_inputs(extract(quant_net.replace(quant_net.message, None))) if float_net is None else float_net
    done = [layer.name for layer in quant_net.layers if layer.type in LOW_TYPES]
    yield from _in_place(float_net, quant_net, applied(source, plan), done, problems)


def check_lp_layers(float_net: Net | None, quant_net: Net, plan: BitPlan | None) -> Iterator[BlobCheck]:
    """Check the odd blobs of every LP layer, and that the layers have the formats of the plan."""
    for layer in quant_net.layers:
        if layer.type not in LOW_TYPES:
            continue
        with located(path=quant_net.path, layer=layer.name):
            lpfp = layer.message.lpfp_param
            fmt, scheme = format_of(lpfp), scheme_of(lpfp)
        planned = _same_as_plan(layer, fmt, scheme, plan)
        with located(path=quant_net.weights_path, layer=layer.name):
            blobs = (quant_net.weights or {}).get(layer.name, ())
            bias = learned_param(layer.message).bias_term
            if len(blobs) != (4 if bias else 2):
                raise WeightsError(f"expected {4 if bias else 2} blobs, got {len(blobs)}")
            source = (float_net.weights or {}).get(layer.name, ()) if float_net is not None else None
            if source is not None and len(blobs) != 2 * len(source):
                twice = "twice as many as the full-precision network has"
                raise WeightsError(f"expected {2 * len(source)} blobs, {twice}, got {len(blobs)}")
            limit = planned or effective_format(blobs[1], fmt)
            for index in range(0, len(blobs), 2):
                seed = None if scheme == "stochastic" and plan is None else (plan.policy.seed if plan else 0)
                even, odd = blobs[index], blobs[index + 1]
                counts = index == 0 or lpfp.round_bias
                within = limit if planned is not None and counts else None
                found = _compare(even, odd, fmt, scheme, seed, stream_of(f"{layer.name}/{index}"), within)
                rounded_in_place = index and plan is not None and plan.format_of(layer.name, "bias") is not None
                changed = 0
                if source is not None and not rounded_in_place:
                    changed = _changed(source[index // 2], even, limit if counts else None, scheme)
                count = _count(odd)
                yield BlobCheck(layer.name, index + 1, fmt, count, *found, counts, changed, index)


def _same_as_plan(layer: Layer, fmt: QFormat, scheme: str, plan: BitPlan | None) -> QFormat | None:
    """The plan's format of the weights of an LP layer. PlanError where the layer has not what the dialect writes."""
    if plan is None:
        return None
    planned = plan.format_of(layer.name, "weights")
    written = written_format(planned) if isinstance(planned, QFormat) else planned
    has = (fmt, scheme, layer.message.lpfp_param.round_bias)
    wanted = (written, plan.policy.rounding, plan.policy.round_bias)
    for what, ours, theirs in zip(("weights", "rounding", "round_bias"), has, wanted, strict=True):
        if ours != theirs:
            problem = f"{what}: the low-precision network has {ours}, the plan has {theirs}"
            raise PlanError(problem, layer=layer.name)
    assert isinstance(planned, QFormat)
    return planned


def _in_place(
    float_net: Net | None,
    quant_net: Net,
    expected: Quantized,
    weights_done: Collection[str],
    problems: list[LpcaffeError] | None = None,
) -> Iterator[BlobCheck]:
    """Blobs that hold rounded values themselves.

    Of the layers `weights_done` the biases with formats of their own alone, which are blob 2.
    """
    planned = {site.layer for site in expected.formats if site.role == "weights"}
    own_biases = set() if expected.policy.round_bias else {site for site in expected.formats if site.role == "bias"}
    for site in expected.sites:
        if site.role == "output" or (site.layer in weights_done and site not in own_biases):
            continue
        if site in expected.formats or (site.role == "bias" and site.layer in planned):
            try:
                with located(path=quant_net.weights_path, layer=site.layer):
                    check = _checked(float_net, quant_net, expected, site, site.layer in weights_done)
            except LpcaffeError as error:
                if problems is None:
                    raise
                problems.append(error)
            else:
                yield check


def _checked(float_net: Net | None, quant_net: Net, expected: Quantized, site: Site, lp_layer: bool) -> BlobCheck:
    fmt = expected.formats.get(site)
    if site.blob is None:
        assert fmt is not None
        ours, theirs = (field_values(net.by_name[site.layer]) for net in (expected.base, quant_net))
        wrong = np.flatnonzero(fmt.quantize(ours) != theirs)
        first = int(wrong[0]) if wrong.size else None
        return BlobCheck(site.layer, 0, fmt, theirs.size, int(wrong.size), first, True, 0)
    copies = 2 if lp_layer else 1
    blobs = (quant_net.weights or {}).get(site.layer, ())
    sources = blobs[::copies] if float_net is None else (float_net.weights or {}).get(site.layer, ())
    wanted = max(len(sources), site.blob + 1) * copies
    if len(blobs) != wanted:
        raise WeightsError(f"expected {wanted} blobs, got {len(blobs)}")
    index = site.blob * copies
    source, blob = sources[site.blob], blobs[index]
    count = _count(blob)
    if fmt is None:
        weights = expected.formats[expected.site(site.layer, "weights")]
        return BlobCheck(site.layer, index, weights, count, 0, None, False, _changed(source, blob))
    if isinstance(fmt, QFormat):
        stream = stream_of(site.stream)
        policy = expected.policy
        found = _compare(source, blob, fmt, policy.rounding, policy.seed, stream)
    else:
        shape = tuple(int(n) for n in expected.shapes.params[site.layer][site.blob])
        for one in (source, blob):
            _check_count(one, math.prod(shape))
        found = _differing(side_by_side(expected.rounded(site, source, shape), blob))
    return BlobCheck(site.layer, index, fmt, count, *found, True, 0)


def field_values(layer: Layer) -> np.ndarray:
    """The slope or the coefficients that a layer's message holds."""
    message = layer.message
    values = [message.relu_param.negative_slope] if layer.type == "ReLU" else list(message.eltwise_param.coeff)
    return np.array(values, np.float32)


def _compare(
    true: WeightBlob,
    rounded: WeightBlob,
    fmt: QFormat,
    scheme: str,
    seed: int | None,
    stream: int,
    within: QFormat | None = None,
) -> tuple[int, int | None]:
    """How many rounded values are not the reference's, or beyond a narrower format, and the first of them.

    `seed` None accepts either neighbour.
    """
    differing, first, start = 0, None, 0
    for values, got in _pairs(true, rounded):
        options = [scheme] if seed is not None else ["floor"]
        expected = [
            round_fp(values, fmt.bd, fmt.ad, option, seed=seed or 0, stream=stream, index=start, backend="numpy")
            for option in options
        ]
        if seed is None:
            expected.append(-round_fp(-values, fmt.bd, fmt.ad, "floor", backend="numpy"))
        wrong = np.all([got != e for e in expected], axis=0)
        if within is not None:
            wrong |= np.abs(got) > within.max
        found = np.flatnonzero(wrong)
        if found.size and first is None:
            first = start + int(found[0])
        differing += int(found.size)
        start += values.size
    return differing, first


def _differing(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[int, int | None]:
    """How many values of two blobs differ, and the first."""
    differing, first, start = 0, None, 0
    for expected, got in pairs:
        wrong = np.flatnonzero(expected != got)
        if wrong.size and first is None:
            first = start + int(wrong[0])
        differing += int(wrong.size)
        start += got.size
    return differing, first


def _changed(source: WeightBlob, even: WeightBlob, limit: QFormat | None = None, scheme: str = "deterministic") -> int:
    """How many values differ from the source's, as the dialect writes them for a format of the width `limit`."""
    changed = 0
    for values, got in _pairs(source, even):
        written = values if limit is None or limit.bd >= 1 else clip_even(values, limit, scheme)
        changed += int(np.count_nonzero((values != got) & (written != got)))
    return changed


def _count(blob: WeightBlob) -> int:
    return int(np.prod(blob.shape, dtype=np.int64))


def _check_count(blob: WeightBlob, expected: int) -> None:
    if _count(blob) != expected:
        raise WeightsError(f"expected {expected} values, got {_count(blob)}")


def _pairs(a: WeightBlob, b: WeightBlob) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The float32 values of two blobs of one size, side by side, as float64. Files cut their blobs as they like."""
    _check_count(b, _count(a))
    for piece, other in side_by_side(a, b):
        yield piece.astype(np.float32).astype(np.float64), other.astype(np.float32).astype(np.float64)
