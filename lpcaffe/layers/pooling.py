"""Pooling, and its pyramid (SPP)."""

from __future__ import annotations

from collections.abc import Sequence

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import Array, Ops, Shape, Window, layer

# SPPParameter's methods have the same numbers.
_MAX, _AVE = (enum_number("PoolingParameter.PoolMethod", name) for name in ("MAX", "AVE"))
_FLOOR = enum_number("PoolingParameter.RoundMode", "FLOOR")
_SMALLEST = 2.0**-126  # FLT_MIN


def _height_width(p: Message, name: str) -> Shape:
    """NAME_h and NAME_w where they are set, else NAME (kernel_size, stride, pad) for both axes."""
    square = "kernel_size" if name == "kernel" else name
    if p.HasField(f"{name}_h") or p.HasField(f"{name}_w"):
        if p.HasField(square) or not (p.HasField(f"{name}_h") and p.HasField(f"{name}_w")):
            raise NetError(f"pooling_param needs {square}, or {name}_h and {name}_w")
        return getattr(p, f"{name}_h"), getattr(p, f"{name}_w")
    return (getattr(p, square),) * 2


def pooling_window(size: Shape, p: Message) -> Window:
    """Caffe's windows over an image of `size`.

    Their number is rounded up (the ceil rule), or down with `round_mode: FLOOR` or `ceil_mode: false`; where there is
    padding, a last window that would begin beyond the image and its padding is dropped. A kernel larger than the padded
    image still gets its one window where the division rounds up to it.
    """
    if p.global_pooling:
        if p.HasField("kernel_size") or p.HasField("kernel_h") or p.HasField("kernel_w"):
            raise NetError("pooling_param has both global_pooling and a kernel size")
        kernel = size
    else:
        kernel = _height_width(p, "kernel")
    stride, pad = _height_width(p, "stride"), _height_width(p, "pad")
    if min(kernel) < 1 or min(stride) < 1:
        raise NetError("pooling_param needs a kernel size and a stride of at least 1")
    if p.global_pooling and (pad != (0, 0) or stride != (1, 1)):
        raise NetError("global_pooling allows no padding and only stride 1")
    down = p.round_mode == _FLOOR or (p.HasField("ceil_mode") and not p.ceil_mode)
    return _window(size, kernel, stride, pad, down)


def _window(size: Shape, kernel: Shape, stride: Shape, pad: Shape, down: bool = False) -> Window:
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise NetError(f"padding {pad} must be smaller than the kernel {kernel}")
    out = []
    for n, k, s, q in zip(size, kernel, stride, pad, strict=True):
        room = n + 2 * q - k
        count = room // s + 1 if down else -(-room // s) + 1
        if count < 1:
            raise NetError(f"kernel {k} is larger than the padded image, {n + 2 * q}")
        if max(pad) and (count - 1) * s >= n + q:
            count -= 1
        out.append(count)
    return Window(kernel, stride, pad, tuple(out))


def clipped_sizes(size: Shape, window: Window) -> list[list[int]]:
    """For each axis the sizes of the windows, clipped to the image and its padding: what AVE divides by."""
    return [
        [min(i * s - q + k, n + q) - (i * s - q) for i in range(count)]
        for n, k, s, q, count in zip(size, window.kernel, window.stride, window.pad, window.out, strict=True)
    ]


@layer("Pooling", "pooling_param", "top")
def pooling(ops: Ops, p: Message, tops: Sequence[str], x: Array) -> Array | list[Array]:
    """Largest value, mean, or (STOCHASTIC, in TEST) mean weighted with the values themselves, of each window.

    MAX ignores padding; a second top holds where in its image (h W + w) each largest value stood, the first of equals.
    AVE counts padding, but not what hangs over beyond it. STOCHASTIC gives 0 where the sum of the window is not
    positive, and takes no padding.
    """
    shape = ops.shape(x)
    if len(shape) != 4:
        raise NetError(f"Pooling needs N x C x H x W, got {len(shape)} axes")
    window = pooling_window(shape[2:], p)
    if p.pool == _MAX and len(tops) > 1:
        return list(ops.max_pool_with_argmax(x, window))
    return _pooled(ops, p.pool, x, window)


def _pooled(ops: Ops, method: int, x: Array, window: Window) -> Array:
    if method == _MAX:
        return ops.max_pool(x, window)
    if method == _AVE:
        return ops.avg_pool(x, window, clipped_sizes(ops.shape(x)[2:], window))
    if max(window.pad):
        raise NetError(f"pool: STOCHASTIC takes no padding (got {window.pad})", hint="MAX and AVE do")
    # Zeiler and Fergus 2013, equation 6: each value's weight is its share of the sum.
    ones = [[1] * count for count in window.out]
    total, squares = ops.avg_pool(x, window, ones), ops.avg_pool(ops.mul(x, x), window, ones)
    return ops.div(ops.mul(squares, ops.greater(total, 0.0)), ops.maximum(total, _SMALLEST))


@layer("SPP", "spp_param")
def spp(ops: Ops, p: Message, x: Array) -> Array:
    """Pooling into 1, 4, 16, ... windows, up to `pyramid_height` levels, as one vector (He et al. 2014).

    A pyramid of one level is a Pooling layer, and its top N x C x 1 x 1. Padding makes the image divisible; where that
    needs as much as the kernel, the image is too small for the level.
    """
    shape = ops.shape(x)
    if len(shape) != 4:
        raise NetError(f"SPP needs N x C x H x W, got {len(shape)} axes")
    if not p.pyramid_height:
        raise NetError("spp_param needs pyramid_height of at least 1")
    levels = []
    for level in range(p.pyramid_height):
        bins = 2**level
        kernel = tuple(-(-n // bins) for n in shape[2:])
        pad = tuple((k * bins - n + 1) // 2 for n, k in zip(shape[2:], kernel, strict=True))
        levels.append(_pooled(ops, p.pool, x, _window(shape[2:], kernel, kernel, pad)))
    return levels[0] if len(levels) == 1 else ops.concat([ops.reshape(y, (0, -1)) for y in levels], 1)
