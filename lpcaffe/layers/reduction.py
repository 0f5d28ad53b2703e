"""Layers that make fewer values of many: Reduction and ArgMax."""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import Array, Ops, canonical_axis, layer, product

_ASUM, _SUMSQ, _MEAN = (enum_number("ReductionParameter.ReductionOp", name) for name in ("ASUM", "SUMSQ", "MEAN"))


@layer("Reduction", "reduction_param")
def reduction(ops: Ops, p: Message, x: Array) -> Array:
    """SUM, ASUM (of magnitudes), SUMSQ (of squares) or MEAN over all axes from `axis` on, times `coeff`.

    The axes go: from `axis: 0`, the default, on, a single value is left, of no axes.
    """
    shape = ops.shape(x)
    axis = canonical_axis(p.axis, len(shape))
    if p.operation == _ASUM:
        x = ops.absolute(x)
    elif p.operation == _SUMSQ:
        x = ops.mul(x, x)
    axes = range(axis, len(shape))
    y = ops.mean(x, axes) if p.operation == _MEAN else ops.sum(x, axes)
    return ops.reshape(y if p.coeff == 1 else ops.mul(y, p.coeff), [0] * axis)


@layer("ArgMax", "argmax_param")
def arg_max(ops: Ops, p: Message, x: Array) -> Array:
    """Indices of the `top_k` largest values, as floats, the largest first; of equals the later one first.

    With `axis`, along it, in its place; `out_max_val` gives the values instead. Without `axis`, over each whole image:
    N x 1 x top_k, followed by ones up to the bottom's number of axes; `out_max_val` gives N x 2 x top_k, first the
    indices, then the values.
    """
    shape = ops.shape(x)
    axis = canonical_axis(p.axis, len(shape)) if p.HasField("axis") else None
    size = product(shape[1:]) if axis is None else shape[axis]
    if not shape or not 1 <= p.top_k <= size:
        raise NetError(f"top_k must be from 1 to {size} (got {p.top_k})")
    if axis is not None:
        values, indices = ops.top_k(x, p.top_k, axis)
        return values if p.out_max_val else indices
    values, indices = ops.top_k(ops.reshape(x, [0, -1]), p.top_k, 1)
    rows = [ops.reshape(y, [0, 1, p.top_k] + [1] * (len(shape) - 3)) for y in (indices, values)]
    return ops.concat(rows, 1) if p.out_max_val else rows[0]
