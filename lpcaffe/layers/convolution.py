"""Convolution."""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, canonical_axis, layer


def per_axis(p: Message, name: str, default: int | None, rank: int) -> Shape:
    """A convolution parameter for each spatial axis.

    Caffe takes NAME_h and NAME_w where either is set (two axes only), else the repeated field: none means the default,
    one serves all axes, otherwise one for each.
    """
    repeated = list(getattr(p, "kernel_size" if name == "kernel" else name))
    if name != "dilation" and (p.HasField(f"{name}_h") or p.HasField(f"{name}_w")):
        if rank != 2 or repeated:
            raise NetError(f"{name}_h and {name}_w need two spatial axes and no {name} beside them")
        return int(getattr(p, f"{name}_h")), int(getattr(p, f"{name}_w"))
    if not repeated:
        if default is None:
            raise NetError("convolution_param needs kernel_size, or kernel_h and kernel_w")
        return (default,) * rank
    if len(repeated) not in (1, rank):
        raise NetError(f"{name} is given {len(repeated)} times, for {rank} spatial axes")
    return tuple(repeated) if len(repeated) == rank else (repeated[0],) * rank


def convolution_blobs(p: Message, x: Shape) -> list[Shape]:
    """Weights O x C/group x kernel, and biases O."""
    if len(x) < 3:
        raise NetError(f"convolution needs N x C and at least one spatial axis, got {len(x)} axes")
    if canonical_axis(p.axis, len(x)) != 1:
        raise NetError(f"convolution along axis {p.axis} is not supported; only axis 1 is")
    if not p.num_output:
        raise NetError("convolution_param needs num_output of at least 1")
    if p.group < 1 or x[1] % p.group or p.num_output % p.group:
        raise NetError(f"group {p.group} must divide {x[1]} input and {p.num_output} output channels")
    kernel = per_axis(p, "kernel", None, len(x) - 2)
    if min(kernel) < 1:
        raise NetError(f"convolution_param needs a kernel of at least 1 (got {kernel})")
    weights = (p.num_output, x[1] // p.group, *kernel)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


@layer("Convolution", "convolution_param", blobs=convolution_blobs)
def convolution(ops: Ops, p: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Cross-correlation with groups and dilation.

    The output size is floor((in + 2 pad - dilation (kernel - 1) - 1) / stride) + 1.
    """
    rank = len(ops.shape(x)) - 2
    return ops.conv(x, w, b, group=p.group, **convolution_geometry(p, rank))


def convolution_geometry(p: Message, rank: int) -> dict[str, Shape]:
    """stride, pad and dilation of each spatial axis."""
    return {
        "stride": per_axis(p, "stride", 1, rank),
        "pad": per_axis(p, "pad", 0, rank),
        "dilation": per_axis(p, "dilation", 1, rank),
    }
