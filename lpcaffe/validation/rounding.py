"""Is every rounded weight the one that round_fp gives? The NumPy reference in float64 is asked for each.

Values count, so -0.0 equals 0.0. Without a plan the seed of stochastic rounding is unknown; then a rounded weight must
be one of the two neighbours of the weight. Blob 3, the rounded bias, counts only where the layer uses it
(`round_bias`); ADaPTION leaves filler there otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.engines import infer_shapes
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import NetError, PlanError, WeightsError, located
from lpcaffe.layers.low_precision import format_of, scheme_of
from lpcaffe.net import Layer, Net, WeightBlob
from lpcaffe.net.blobs import side_by_side
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp, stream_of
from lpcaffe.quant.plan import BitPlan
from lpcaffe.validation.stages import LOW_TYPES, is_plain


@dataclass(frozen=True)
class BlobCheck:
    """One rounded blob: how many values differ from the reference, the first of them, and whether they count."""

    layer: str
    blob: int
    format: QFormat
    count: int
    differing: int
    first: int | None
    counts: bool
    changed: int

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


def check_rounding(base: Net | None, low: Net, plan: BitPlan | None) -> list[BlobCheck]:
    """Check every rounded blob of a low-precision network.

    `base` is the full-precision network (folded alike); where it is given, `changed` counts the full-precision weights
    that differ from it: a fine-tuned network has such, a converted one has none.
    """
    if base is not None:
        for name, expected in infer_shapes(base, strict=False).params.items():
            check_blobs(base, name, expected)
    if is_plain(low):
        if plan is None or base is None:
            raise NetError("the network has no LP layers", path=low.path, hint="give its plan with --plan")
        return list(_plain(base, low, plan))
    return list(_adaption(base, low, plan))


def _adaption(base: Net | None, low: Net, plan: BitPlan | None) -> Iterator[BlobCheck]:
    for layer in low.layers:
        if layer.type not in LOW_TYPES:
            continue
        with located(path=low.path, layer=layer.name):
            lpfp = layer.message.lpfp_param
            fmt, scheme = format_of(lpfp), scheme_of(lpfp)
        _same_as_plan(layer, fmt, scheme, plan)
        with located(path=low.weights_path, layer=layer.name):
            blobs = (low.weights or {}).get(layer.name, ())
            ip = layer.type == "LPInnerProduct"
            bias = (layer.message.inner_product_param if ip else layer.message.convolution_param).bias_term
            if len(blobs) != (4 if bias else 2):
                raise WeightsError(f"expected {4 if bias else 2} blobs, got {len(blobs)}")
            source = (base.weights or {}).get(layer.name, ()) if base is not None else None
            if source is not None and len(blobs) != 2 * len(source):
                twice = "twice as many as the full-precision network has"
                raise WeightsError(f"expected {2 * len(source)} blobs, {twice}, got {len(blobs)}")
            for index in range(0, len(blobs), 2):
                seed = None if scheme == "stochastic" and plan is None else (plan.seed if plan else 0)
                even, odd = blobs[index], blobs[index + 1]
                differing, first = _compare(even, odd, fmt, scheme, seed, stream_of(f"{layer.name}/{index}"))
                changed = 0 if source is None else _changed(source[index // 2], even)
                counts = index == 0 or lpfp.round_bias
                count = int(np.prod(odd.shape, dtype=np.int64))
                yield BlobCheck(layer.name, index + 1, fmt, count, differing, first, counts, changed)


def _same_as_plan(layer: Layer, fmt: QFormat, scheme: str, plan: BitPlan | None) -> None:
    if plan is None:
        return
    line = plan.layers.get(layer.name)
    has = (fmt, scheme, layer.message.lpfp_param.round_bias)
    says = (line and line.weights, plan.rounding, plan.round_bias)
    for what, ours, theirs in zip(("weights", "rounding", "round_bias"), has, says, strict=True):
        if ours != theirs:
            raise PlanError(f"{what}: the low-precision network has {ours}, the plan says {theirs}", layer=layer.name)


def _plain(base: Net, low: Net, plan: BitPlan) -> Iterator[BlobCheck]:
    for name, line in plan.layers.items():
        if line.weights is None:
            continue
        with located(path=low.weights_path, layer=name):
            sources, blobs = (base.weights or {}).get(name, ()), (low.weights or {}).get(name, ())
            if not blobs or len(blobs) != len(sources):
                raise WeightsError(f"expected {len(sources)} blobs, got {len(blobs)}")
            for index, (source, blob) in enumerate(zip(sources, blobs, strict=True)):
                stream = stream_of(f"{name}/{2 * index}")
                rounded = index == 0 or plan.round_bias
                if rounded:
                    differing, first = _compare(source, blob, line.weights, plan.rounding, plan.seed, stream)
                    changed = 0
                else:
                    differing, first, changed = 0, None, _changed(source, blob)
                count = int(np.prod(blob.shape, dtype=np.int64))
                yield BlobCheck(name, index, line.weights, count, differing, first, rounded, changed)


def _compare(
    true: WeightBlob, rounded: WeightBlob, fmt: QFormat, scheme: str, seed: int | None, stream: int
) -> tuple[int, int | None]:
    """How many rounded values are not the reference's, and the first. `seed` None accepts either neighbour."""
    differing, first, start = 0, None, 0
    for values, got in _pairs(true, rounded):
        options = [scheme] if seed is not None else ["floor"]
        expected = [
            round_fp(values, fmt.bd, fmt.ad, option, seed=seed or 0, stream=stream, index=start, backend="numpy")
            for option in options
        ]
        if seed is None:
            expected.append(-round_fp(-values, fmt.bd, fmt.ad, "floor", backend="numpy"))
        wrong = np.flatnonzero(np.all([got != e for e in expected], axis=0))
        if wrong.size and first is None:
            first = start + int(wrong[0])
        differing += int(wrong.size)
        start += values.size
    return differing, first


def _changed(source: WeightBlob, even: WeightBlob) -> int:
    return sum(int(np.count_nonzero(a != b)) for a, b in _pairs(source, even))


def _pairs(a: WeightBlob, b: WeightBlob) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The float32 values of two blobs of one size, side by side, as float64. Files cut their blobs as they like."""
    counts = [int(np.prod(blob.shape, dtype=np.int64)) for blob in (a, b)]
    if counts[0] != counts[1]:
        raise WeightsError(f"expected {counts[0]} values, got {counts[1]}")
    for piece, other in side_by_side(a, b):
        yield piece.astype(np.float32).astype(np.float64), other.astype(np.float32).astype(np.float64)
