"""Convolution, its depthwise forms, its reverse, and im2col."""

from __future__ import annotations

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import ANY, Array, Geometry, Ops, Shape, canonical_axis, layer


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


def convolution_kernel(p: Message, x: Shape) -> Shape:
    """The kernel of a convolution whose bottom is N x C x spatial."""
    if len(x) < 3:
        raise NetError(f"convolution needs N x C and at least one spatial axis, got {len(x)} axes")
    if canonical_axis(p.axis, len(x)) != 1:
        raise NetError(f"convolution along axis {p.axis} is not supported; only axis 1 is")
    return kernel_of(p, len(x) - 2)


def kernel_of(p: Message, rank: int) -> Shape:
    """The kernel along each of `rank` spatial axes."""
    kernel = per_axis(p, "kernel", None, rank)
    if min(kernel) < 1:
        raise NetError(f"convolution_param needs a kernel of at least 1 (got {kernel})")
    return kernel


def _check_channels(p: Message, x: Shape, others: tuple[Shape, ...]) -> None:
    if not p.num_output:
        raise NetError("convolution_param needs num_output of at least 1")
    if p.group < 1 or x[1] % p.group or p.num_output % p.group:
        raise NetError(f"group {p.group} must divide {x[1]} input and {p.num_output} output channels")
    if any(other != x for other in others):
        raise NetError(f"bottoms differ in shape: {', '.join(map(shape_text, (x, *others)))}")


def convolution_blobs(p: Message, x: Shape, *others: Shape) -> list[Shape]:
    """Weights O x C/group x kernel, and biases O."""
    kernel = convolution_kernel(p, x)
    _check_channels(p, x, others)
    weights = (p.num_output, x[1] // p.group, *kernel)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


def convolution(ops: Ops, p: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Cross-correlation of one bottom."""
    return ops.conv(x, w, b, convolution_geometry(p, len(ops.shape(x)) - 2), p.group)


def _each_bottom(p: Message, arrays: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """(x, weights, biases if any) for each bottom: all have the same blobs, which come last."""
    count = len(arrays) - (2 if p.bias_term else 1)
    return [(x, *arrays[count:]) for x in arrays[:count]]


@layer("Convolution", "convolution_param", blobs=convolution_blobs, bottoms=(1, ANY))
@layer("DepthwiseConvolution", "convolution_param", blobs=convolution_blobs, bottoms=(1, ANY))
def convolutions(ops: Ops, p: Message, *arrays: Array) -> list[Array]:
    """Cross-correlation of each bottom with the same weights, with groups and dilation: one top for each bottom.

    The output size is floor((in + 2 pad - dilation (kernel - 1) - 1) / stride) + 1. DepthwiseConvolution is the same:
    its forks compute faster, but take `group` from the file.
    """
    return [convolution(ops, p, *one) for one in _each_bottom(p, arrays)]


def depthwise_blobs(p: Message, x: Shape) -> list[Shape]:
    """Weights C x 1 x kernel, and biases C."""
    if len(x) != 4:
        raise NetError(f"ConvolutionDepthwise needs N x C x H x W, got {len(x)} axes")
    weights = (x[1], 1, *kernel_of(p, 2))
    return [weights, (x[1],)] if p.bias_term else [weights]


@layer("ConvolutionDepthwise", "convolution_param", blobs=depthwise_blobs)
def convolution_depthwise(ops: Ops, p: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Cross-correlation of each channel with a kernel of its own; `num_output` and `group` do not matter."""
    return ops.conv(x, w, b, convolution_geometry(p, 2), ops.shape(x)[1])


def deconvolution_blobs(p: Message, x: Shape, *others: Shape) -> list[Shape]:
    """Weights C x O/group x kernel, and biases O."""
    kernel = convolution_kernel(p, x)
    _check_channels(p, x, others)
    weights = (x[1], p.num_output // p.group, *kernel)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


def deconvolution(ops: Ops, p: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Transposed convolution of one bottom."""
    return ops.deconv(x, w, b, convolution_geometry(p, len(ops.shape(x)) - 2), p.group)


@layer("Deconvolution", "convolution_param", blobs=deconvolution_blobs, bottoms=(1, ANY))
def deconvolutions(ops: Ops, p: Message, *arrays: Array) -> list[Array]:
    """Transposed convolution of each bottom with the same weights: what a convolution's gradient does to its input.

    The output size is stride (in - 1) + dilation (kernel - 1) + 1 - 2 pad: padding takes away from it.
    """
    return [deconvolution(ops, p, *one) for one in _each_bottom(p, arrays)]


@layer("Im2col", "convolution_param")
def im2col(ops: Ops, p: Message, x: Array) -> Array:
    """The values under each kernel position as channels, (C kernel) of them; the axes before `axis` are images."""
    shape = ops.shape(x)
    axis = canonical_axis(p.axis, len(shape))
    rank = len(shape) - axis - 1
    if rank < 1:
        raise NetError(f"Im2col needs a spatial axis after axis {axis}, got {len(shape)} axes")
    images = x if axis == 1 else ops.reshape(x, (-1, *shape[axis:]))
    y = ops.im2col(images, kernel_of(p, rank), convolution_geometry(p, rank))
    before = (-1, *shape[1:axis]) if axis else ()
    return y if axis == 1 else ops.reshape(y, (*before, *ops.shape(y)[1:]))


def convolution_geometry(p: Message, rank: int) -> Geometry:
    """stride, pad and dilation of each of `rank` spatial axes."""
    return Geometry(per_axis(p, "stride", 1, rank), per_axis(p, "pad", 0, rank), per_axis(p, "dilation", 1, rank))
