"""Layers that only move values."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import ANY, Array, Ops, Shape, canonical_axis, layer


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
    return [ops.slice(x, axis, a, b) for a, b in pairwise(bounds)]


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


@layer("Crop", "crop_param", bottoms=(2, 2))
def crop(ops: Ops, p: Message, x: Array, like: Array) -> Array:
    """The first bottom cut to the size of the second in every axis from `axis` on, beginning at `offset`.

    One offset is for all those axes, none means 0. The values of the second bottom are not read.
    """
    shape, wanted = ops.shape(x), ops.shape(like)
    start = canonical_axis(p.axis, len(shape))
    offsets = list(p.offset) or [0]
    if len(offsets) not in (1, len(shape) - start):
        raise NetError(f"expected one offset, or one for each of {len(shape) - start} axes (got {len(offsets)})")
    if len(wanted) < len(shape):
        raise NetError(f"cannot crop {shape_text(shape)} to {shape_text(wanted)}, which has fewer axes")
    for axis in range(start, len(shape)):
        offset = offsets[0] if len(offsets) == 1 else offsets[axis - start]
        if offset + wanted[axis] > shape[axis]:
            raise NetError(f"axis {axis} has the size {shape[axis]}: no room for {wanted[axis]} from {offset} on")
        if wanted[axis] < shape[axis]:
            x = ops.slice(x, axis, offset, offset + wanted[axis])
    return x


@layer("Permute", "permute_param")
def permute(ops: Ops, p: Message, x: Array) -> Array:
    """Axes in another order: first those in `order`, then the others as they were."""
    rank = len(ops.shape(x))
    order = list(p.order)
    if len(set(order)) < len(order) or any(axis >= rank for axis in order):
        raise NetError(f"order {order} must name axes below {rank}, each once")
    return ops.permute(x, order + [axis for axis in range(rank) if axis not in order])


def _copies(ops: Ops, x: Array, count: int, axis: int) -> Array:
    """x so many times along an axis, by doubling: few steps for any count."""
    if count == 1:
        return x
    half = _copies(ops, x, count // 2, axis)
    return ops.concat([half, half, x] if count % 2 else [half, half], axis)


@layer("Tile", "tile_param")
def tile(ops: Ops, p: Message, x: Array) -> Array:
    """The bottom repeated `tiles` times along `axis`, as a whole: 1 2 3 1 2 3."""
    if p.tiles < 1:
        raise NetError(f"tile_param needs tiles of at least 1 (got {p.tiles})")
    return _copies(ops, x, p.tiles, canonical_axis(p.axis, len(ops.shape(x))))


@layer("ShuffleChannel", "shuffle_channel_param")
def shuffle_channel(ops: Ops, p: Message, x: Array) -> Array:
    """Channels in `group` groups dealt out in turn: the first of each group, then the second of each.

    It is a transposition of group x C / group (ShuffleNet, Zhang et al. 2017, section 3.1).
    """
    shape = ops.shape(x)
    if len(shape) < 2 or not p.group or shape[1] % p.group:
        raise NetError(f"group {p.group} must divide the channels of N x C x ..., got {shape_text(shape)}")
    grouped = ops.reshape(x, [0, p.group, shape[1] // p.group, -1])
    return ops.reshape(ops.permute(grouped, (0, 2, 1, 3)), [0, *shape[1:]])


@layer("Silence", bottoms=(1, ANY))
def silence(ops: Ops, *xs: Array) -> list[Array]:
    """No tops: it takes blobs that nothing else reads, so that Caffe does not list them as outputs."""
    return []


def parameter_blobs(p: Message) -> list[Shape]:
    """One of the given shape; no dimensions mean a single value."""
    shape = tuple(p.shape.dim)
    if any(dim < 1 for dim in shape):
        raise NetError(f"parameter_param has the shape {shape_text(shape)}: every dimension must be at least 1")
    return [shape]


@layer("Parameter", "parameter_param", blobs=parameter_blobs, bottoms=(0, 0))
def parameter(ops: Ops, p: Message, blob: Array) -> Array:
    """The layer's learned blob itself, as a top."""
    return blob
