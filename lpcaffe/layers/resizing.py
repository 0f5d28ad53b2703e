"""Layers of forks that enlarge and shrink images: Interp (DeepLab) and Upsample (SegNet; YOLO)."""

from __future__ import annotations

import numpy as np

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, layer


def _interp_size(p: Message, size: Shape, other: Shape | None) -> Shape:
    """Height and width after Interp: by the factors that are set, else `height` and `width`, else the second bottom's.

    A single factor goes before height and width, both factors come after them: the order of DeepLab v2.
    """
    shrink, zoom = p.HasField("shrink_factor"), p.HasField("zoom_factor")
    if shrink == zoom and p.HasField("height") and p.HasField("width"):
        return p.height, p.width
    if not shrink and not zoom:
        if other is None:
            raise NetError("interp_param needs height and width, zoom_factor, shrink_factor or a second bottom")
        return other
    if p.shrink_factor < 1 or p.zoom_factor < 1:
        raise NetError(f"interp_param needs factors of at least 1 (got {p.shrink_factor} and {p.zoom_factor})")
    return tuple((n - 1) // p.shrink_factor * p.zoom_factor + 1 for n in size)


@layer("Interp", "interp_param", bottoms=(1, 2))
def interp(ops: Ops, p: Message, x: Array, other: Array | None = None) -> Array:
    """Bilinear interpolation with the corners in place, after `pad_beg` and `pad_end` (at most 0) cut both axes.

    The size is given by `height` and `width`, by `zoom_factor` and `shrink_factor` (which count the steps between
    pixels, not the pixels), or by a second bottom.
    """
    shape = ops.shape(x)
    if len(shape) != 4 or (other is not None and len(ops.shape(other)) != 4):
        raise NetError(f"Interp needs N x C x H x W, got {shape_text(shape)}")
    if p.pad_beg > 0 or p.pad_end > 0:
        raise NetError(f"interp_param takes padding of at most 0, which crops (got {p.pad_beg} and {p.pad_end})")
    if min(shape[2:]) + p.pad_beg + p.pad_end < 1:
        raise NetError(f"padding {p.pad_beg} and {p.pad_end} leaves nothing of {shape_text(shape[2:])} pixels")
    for axis in (2, 3) if p.pad_beg or p.pad_end else ():
        x = ops.slice(x, axis, -p.pad_beg, shape[axis] + p.pad_end)
    size = _interp_size(p, ops.shape(x)[2:], None if other is None else ops.shape(other)[2:])
    if min(size) < 1:
        raise NetError(f"interp_param needs a height and width of at least 1 (got {shape_text(size)})")
    return ops.interpolate(x, size)


def _factors(p: Message) -> Shape:
    """By how much Upsample enlarges: scale_h and scale_w, else scale for both."""
    given = [p.HasField(name) for name in ("scale", "scale_h", "scale_w")]
    if any(given[1:]) and given != [False, True, True]:
        raise NetError("upsample_param needs scale, or scale_h and scale_w")
    factors = (p.scale_h, p.scale_w) if given[1] else (p.scale, p.scale)
    if min(factors) < 1:
        raise NetError(f"upsample_param needs a scale of at least 1 (got {shape_text(factors)})")
    return factors


def _unpooled_size(p: Message, size: Shape) -> Shape:
    """upsample_h and upsample_w, else by the factors, less one row or column with pad_out_h or pad_out_w."""
    if p.HasField("upsample_h") and p.HasField("upsample_w"):
        if not p.upsample_h or not p.upsample_w:
            raise NetError(f"upsample_param needs a size of at least 1 (got {p.upsample_h} x {p.upsample_w})")
        return p.upsample_h, p.upsample_w
    factors, less = _factors(p), (p.pad_out_h, p.pad_out_w)
    if any(one and factor != 2 for one, factor in zip(less, factors, strict=True)):
        raise NetError(f"pad_out_h and pad_out_w need a scale of 2 (got {shape_text(factors)})")
    return tuple(n * factor - one for n, factor, one in zip(size, factors, less, strict=True))


@layer("Upsample", "upsample_param", bottoms=(1, 2))
def upsample(ops: Ops, p: Message, x: Array, argmax: Array | None = None) -> Array:
    """Unpooling (SegNet): each value at the index that a MAX Pooling layer's second top gives, zeros elsewhere.

    With one bottom, as in forks for YOLO, each value is repeated `scale` times along both axes.
    """
    shape = ops.shape(x)
    if len(shape) != 4:
        raise NetError(f"Upsample needs N x C x H x W, got {len(shape)} axes")
    if argmax is not None:
        if ops.shape(argmax) != shape:
            got = shape_text(ops.shape(argmax))
            raise NetError(f"expected argmax indices of the shape {shape_text(shape)}, got {got}")
        return ops.unpool(x, argmax, _unpooled_size(p, shape[2:]))
    if p.upsample_h or p.upsample_w or p.pad_out_h or p.pad_out_w:
        raise NetError("upsample_h, upsample_w, pad_out_h and pad_out_w need a second bottom with argmax indices")
    (height, width), (rows, columns) = shape[2:], _factors(p)
    spread = ops.reshape(x, (0, 0, height, 1, width, 1))
    for repeats in ((rows, 1, 1), (columns,)):
        spread = ops.mul(spread, ops.literal(np.broadcast_to(np.float32(1), repeats)))
    return ops.reshape(spread, (0, 0, height * rows, width * columns))
