"""Pooling."""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import Array, Ops, Shape, Window, layer

_MAX, _AVE = (enum_number("PoolingParameter.PoolMethod", name) for name in ("MAX", "AVE"))
_FLOOR = enum_number("PoolingParameter.RoundMode", "FLOOR")


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
    if pad[0] >= kernel[0] or pad[1] >= kernel[1]:
        raise NetError(f"padding {pad} must be smaller than the kernel {kernel}")
    down = p.round_mode == _FLOOR or (p.HasField("ceil_mode") and not p.ceil_mode)
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


@layer("Pooling", "pooling_param")
def pooling(ops: Ops, p: Message, x: Array) -> Array:
    """Largest value or mean of each window.

    MAX ignores padding. AVE counts it, but not what hangs over beyond it. STOCHASTIC is not supported.
    """
    shape = ops.shape(x)
    if len(shape) != 4:
        raise NetError(f"Pooling needs N x C x H x W, got {len(shape)} axes")
    window = pooling_window(shape[2:], p)
    if p.pool == _MAX:
        return ops.max_pool(x, window)
    if p.pool == _AVE:
        return ops.avg_pool(x, window, clipped_sizes(shape[2:], window))
    raise NetError("pool: STOCHASTIC is not supported", hint="MAX and AVE are")
