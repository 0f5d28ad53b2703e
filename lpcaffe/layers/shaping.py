"""Layers that only move values: Concat, Slice, Split, Flatten, Reshape."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import ANY, Array, Ops, canonical_axis, layer, shape_text


def _axis(p: Message, old_name: str, rank: int) -> int:
    """The axis of Concat or Slice, by its present or its deprecated name."""
    if not p.HasField(old_name):
        return canonical_axis(p.axis, rank)
    if p.HasField("axis"):
        raise NetError(f"axis and {old_name} are both given; one of them says it")
    return canonical_axis(getattr(p, old_name), rank)


@layer("Concat", "concat_param", bottoms=(1, ANY))
def concat(ops: Ops, p: Message, *xs: Array) -> Array:
    """The bottoms joined along `axis` (or the deprecated `concat_dim`)."""
    shapes = [ops.shape(x) for x in xs]
    axis = _axis(p, "concat_dim", len(shapes[0]))
    if len({(len(s), s[:axis], s[axis + 1 :]) for s in shapes}) > 1:
        raise NetError(f"bottoms differ outside axis {axis}: {', '.join(map(shape_text, shapes))}")
    return xs[0] if len(xs) == 1 else ops.concat(xs, axis)


@layer("Slice", "slice_param", "top")
def slice_(ops: Ops, p: Message, tops: Sequence[str], x: Array) -> list[Array]:
    """The bottom cut along `axis` (or the deprecated `slice_dim`) at each `slice_point`, else into equal parts."""
    shape = ops.shape(x)
    axis = _axis(p, "slice_dim", len(shape))
    if not tops:
        raise NetError("Slice needs at least one top")
    points = list(p.slice_point)
    if not points:
        if shape[axis] % len(tops):
            raise NetError(f"cannot cut axis {axis} of size {shape[axis]} into {len(tops)} equal parts")
        points = list(range(0, shape[axis], shape[axis] // len(tops)))[1:]
    bounds = [0, *points, shape[axis]]
    if len(bounds) != len(tops) + 1 or any(a >= b for a, b in pairwise(bounds)):
        raise NetError(f"slice points {points} do not cut axis {axis} of size {shape[axis]} into {len(tops)} parts")
    return [ops.cut(x, axis, a, b) for a, b in pairwise(bounds)]


@layer("Split", "top")
def split(ops: Ops, tops: Sequence[str], x: Array) -> list[Array]:
    """The bottom, for each top. Caffe inserts these layers itself; they occur in caffemodels."""
    return [x for _ in tops]


@layer("Flatten", "flatten_param")
def flatten(ops: Ops, p: Message, x: Array) -> Array:
    """The axes from `axis` to `end_axis`, both included, joined to one."""
    shape = ops.shape(x)
    start, end = canonical_axis(p.axis, len(shape)), canonical_axis(p.end_axis, len(shape))
    if start > end:
        raise NetError(f"axis {start} comes after end_axis {end}")
    return ops.reshape(x, [0] * start + [-1] + list(shape[end + 1 :]))


@layer("Reshape", "reshape_param")
def reshape(ops: Ops, p: Message, x: Array) -> Array:
    """The axes from `axis`, `num_axes` of them (-1: all), replaced by `shape`: 0 copies a dimension, -1 is inferred."""
    shape = ops.shape(x)
    start = p.axis if p.axis >= 0 else len(shape) + p.axis + 1
    end = len(shape) if p.num_axes == -1 else start + p.num_axes
    if not 0 <= start <= end <= len(shape):
        raise NetError(f"axis {p.axis} and num_axes {p.num_axes} do not fit a bottom with {len(shape)} axes")
    return ops.reshape(x, [0] * start + list(p.shape.dim) + list(shape[end:]))
