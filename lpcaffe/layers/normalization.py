"""BatchNorm, Scale, Bias, LRN, MVN and SSD's Normalize."""

from __future__ import annotations

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.pooling import clipped_sizes
from lpcaffe.layers.registry import Array, Ops, Shape, Window, canonical_axis, layer

_WITHIN_CHANNEL = enum_number("LRNParameter.NormRegion", "WITHIN_CHANNEL")


def batch_norm_blobs(p: Message, x: Shape) -> list[Shape]:
    """Mean and variance of each channel, and the factor by which both are scaled."""
    if len(x) < 2:
        raise NetError(f"BatchNorm needs at least N x C, got {len(x)} axes")
    channels = x[1]
    return [(channels,), (channels,), (1,)]


@layer("BatchNorm", "batch_norm_param", blobs=batch_norm_blobs)
def batch_norm(ops: Ops, p: Message, x: Array, mean: Array, variance: Array, factor: Array) -> Array:
    """(x - mean) / sqrt(variance + eps), without gamma and beta.

    The stored mean and variance are divided by the stored factor; a factor of 0 makes them 0. With
    `use_global_stats: false` they are those of the batch, as in training.
    """
    if p.HasField("use_global_stats") and not p.use_global_stats:
        axes = [axis for axis in range(len(ops.shape(x))) if axis != 1]
        centred = ops.sub(x, ops.mean(x, axes))
        return ops.div(centred, ops.power(ops.add(ops.mean(ops.mul(centred, centred), axes), p.eps), 0.5))
    scale = ops.reciprocal_or_zero(factor)
    deviation = ops.power(ops.add(ops.mul(variance, scale), p.eps), 0.5)
    return ops.div(
        ops.sub(x, ops.broadcast_to_axis(ops.mul(mean, scale), x, 1)), ops.broadcast_to_axis(deviation, x, 1)
    )


def _own_shape(p: Message, x: Shape) -> Shape:
    """The shape of a learned factor: the bottom's axes from `axis` on, `num_axes` of them (-1: all)."""
    axis = canonical_axis(p.axis, len(x))
    if p.num_axes < -1 or axis + p.num_axes > len(x):
        raise NetError(f"num_axes {p.num_axes} from axis {axis} on: the bottom has {len(x)} axes")
    return x[axis:] if p.num_axes == -1 else x[axis : axis + p.num_axes]


def scale_blobs(p: Message, x: Shape, factor: Shape | None = None) -> list[Shape]:
    """The factor, unless it is the second bottom; and the bias with `bias_term`."""
    own = _own_shape(p, x) if factor is None else factor
    return ([own] if factor is None else []) + ([own] if p.bias_term else [])


@layer("Scale", "scale_param", blobs=scale_blobs, bottoms=(1, 2))
def scale(ops: Ops, p: Message, x: Array, factor: Array, bias: Array | None = None) -> Array:
    """x times a factor (a learned blob or the second bottom), broadcast from `axis`; plus a bias with `bias_term`."""
    axis = canonical_axis(p.axis, len(ops.shape(x)))
    y = ops.mul(x, ops.broadcast_to_axis(factor, x, axis))
    return y if bias is None else ops.add(y, ops.broadcast_to_axis(bias, x, axis))


def bias_blobs(p: Message, x: Shape, term: Shape | None = None) -> list[Shape]:
    """The term, unless it is the second bottom."""
    return [_own_shape(p, x)] if term is None else []


@layer("Bias", "bias_param", blobs=bias_blobs, bottoms=(1, 2))
def bias(ops: Ops, p: Message, x: Array, term: Array) -> Array:
    """x plus a term (a learned blob or the second bottom), broadcast from `axis`."""
    return ops.add(x, ops.broadcast_to_axis(term, x, canonical_axis(p.axis, len(ops.shape(x)))))


@layer("LRN", "lrn_param")
def lrn(ops: Ops, p: Message, x: Array) -> Array:
    """x / (k + alpha mean-square of the neighbours) ^ beta (Krizhevsky et al. 2012, section 3.3).

    Across channels alpha is divided by local_size. Within a channel the neighbours are a square of local_size, alpha is
    divided by its area, and k is 1 whatever the file says: Caffe computes it with a pooling layer.
    """
    if len(ops.shape(x)) != 4:
        raise NetError(f"LRN needs N x C x H x W, got {len(ops.shape(x))} axes")
    if p.local_size % 2 == 0:
        raise NetError(f"local_size must be odd (got {p.local_size})")
    square = ops.mul(x, x)
    if p.norm_region == _WITHIN_CHANNEL:
        size = ops.shape(x)[2:]
        pad = (p.local_size - 1) // 2
        window = Window((p.local_size,) * 2, (1, 1), (pad, pad), size)
        pooled = ops.avg_pool(square, window, clipped_sizes(size, window))
        return ops.mul(x, ops.power(ops.add(ops.mul(pooled, p.alpha), 1.0), -p.beta))
    total = ops.channel_window_sum(square, p.local_size)
    return ops.mul(x, ops.power(ops.add(ops.mul(total, p.alpha / p.local_size), p.k), -p.beta))


@layer("MVN", "mvn_param")
def mvn(ops: Ops, p: Message, x: Array) -> Array:
    """x minus its mean, divided by its standard deviation + eps, over each channel of each image by itself.

    `across_channels` takes each image as a whole; `normalize_variance: false` subtracts the mean alone. eps stands
    beside the deviation, not under the root.
    """
    shape = ops.shape(x)
    if not 1 <= len(shape) <= 4:
        raise NetError(f"MVN needs one to four axes, got {len(shape)}")
    whole = p.across_channels or len(shape) == 1
    rows = ops.reshape(x, [0, -1] if whole else [0, 0, -1])
    axes = [1] if whole else [2]
    y = ops.sub(rows, ops.mean(rows, axes))
    if p.normalize_variance:
        y = ops.div(y, ops.add(ops.power(ops.mean(ops.mul(y, y), axes), 0.5), p.eps))
    return ops.reshape(y, [0, *shape[1:]])


def normalize_blobs(p: Message, x: Shape) -> list[Shape]:
    """One factor, of no axes, or one for each channel."""
    if not 2 <= len(x) <= 4:
        raise NetError(f"Normalize needs two to four axes, got {shape_text(x)}")
    return [() if p.channel_shared else (x[1],)]


@layer("Normalize", "norm_param", blobs=normalize_blobs)
def normalize(ops: Ops, p: Message, x: Array, factor: Array) -> Array:
    """x / sqrt(sum of squares + eps), times a learned factor for all channels or for each (SSD, after ParseNet).

    The sum is over all of an image; with `across_spatial: false` over the channels of each pixel.
    """
    last = len(ops.shape(x)) if p.across_spatial else 2
    norm = ops.power(ops.add(ops.sum(ops.mul(x, x), range(1, last)), p.eps), 0.5)
    return ops.mul(ops.div(x, norm), factor if p.channel_shared else ops.broadcast_to_axis(factor, x, 1))
