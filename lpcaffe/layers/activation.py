"""Layers that work element by element on one bottom."""

from __future__ import annotations

import math

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, layer


@layer("ReLU", "relu_param")
def relu(ops: Ops, p: Message, x: Array) -> Array:
    """max(x, 0) + negative_slope min(x, 0)."""
    positive = ops.maximum(x, 0.0)
    if p.negative_slope == 0:
        return positive
    return ops.add(positive, ops.mul(ops.minimum(x, 0.0), p.negative_slope))


def prelu_blobs(p: Message, x: Shape) -> list[Shape]:
    """One slope, or one for each channel."""
    if len(x) < 2:
        raise NetError(f"PReLU needs at least two axes, got {len(x)}")
    return [() if p.channel_shared else (x[1],)]


@layer("PReLU", "prelu_param", blobs=prelu_blobs)
def prelu(ops: Ops, p: Message, x: Array, slope: Array) -> Array:
    """max(x, 0) + slope min(x, 0), with a slope for each channel, or one for all (`channel_shared`)."""
    slopes = slope if p.channel_shared else ops.broadcast_to_axis(slope, x, 1)
    return ops.add(ops.maximum(x, 0.0), ops.mul(ops.minimum(x, 0.0), slopes))


@layer("Sigmoid", "sigmoid_param")
def sigmoid(ops: Ops, p: Message, x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return ops.sigmoid(x)


@layer("TanH", "tanh_param")
def tanh(ops: Ops, p: Message, x: Array) -> Array:
    """Hyperbolic tangent."""
    return ops.tanh(x)


@layer("Power", "power_param")
def power(ops: Ops, p: Message, x: Array) -> Array:
    """(shift + scale x) ^ power; where scale or power is 0, the constant that follows, even of infinities."""
    if p.scale == 0:
        x = ops.power(x, 0.0)  # 1, of NaN and infinity too
    y = x if p.scale == 1 else ops.mul(x, p.scale)
    y = y if p.shift == 0 else ops.add(y, p.shift)
    return y if p.power == 1 else ops.power(y, p.power)


@layer("Dropout", "dropout_param")
def dropout(ops: Ops, p: Message, x: Array) -> Array:
    """The identity at test time; with the fork field `scale_train: false`, x (1 - dropout_ratio)."""
    return x if p.scale_train else ops.mul(x, 1 - p.dropout_ratio)


@layer("Softmax", "softmax_param")
def softmax(ops: Ops, p: Message, x: Array) -> Array:
    """exp(x) / sum exp(x) along `axis`."""
    return ops.softmax(x, p.axis)


@layer("AbsVal")
def abs_val(ops: Ops, x: Array) -> Array:
    """|x|."""
    return ops.absolute(x)


@layer("BNLL")
def bnll(ops: Ops, x: Array) -> Array:
    """log(1 + exp(x)), as max(x, 0) + log(1 + exp(-|x|)), which cannot overflow."""
    tail = ops.log(ops.add(ops.exp(ops.mul(ops.absolute(x), -1.0)), 1.0))
    return ops.add(ops.maximum(x, 0.0), tail)


@layer("Clip", "clip_param")
def clip(ops: Ops, p: Message, x: Array) -> Array:
    """max(min, min(x, max)): x clamped to [min, max], and `min` where the two bounds are in the wrong order."""
    if not (p.HasField("min") and p.HasField("max")):
        raise NetError("clip_param needs min and max")
    return ops.maximum(ops.minimum(x, p.max), p.min)


@layer("ELU", "elu_param")
def elu(ops: Ops, p: Message, x: Array) -> Array:
    """x where x > 0, else alpha (exp(x) - 1) (Clevert et al. 2015)."""
    negative = ops.sub(ops.exp(ops.minimum(x, 0.0)), 1.0)
    return ops.add(ops.maximum(x, 0.0), ops.mul(negative, p.alpha))


def _log_base(base: float) -> float:
    """ln(base), where -1 means e."""
    if base != -1 and not 0 < base < math.inf:
        raise NetError(f"base must be -1 (for e) or a positive number (got {base:g})")
    return 1.0 if base == -1 else math.log(base)


@layer("Exp", "exp_param")
def exp(ops: Ops, p: Message, x: Array) -> Array:
    """base ^ (shift + scale x); the base -1 means e."""
    log_base = _log_base(p.base)
    y = x if p.scale == 1 else ops.mul(x, p.scale)
    y = y if p.shift == 0 else ops.add(y, p.shift)
    return ops.exp(y if log_base == 1 else ops.mul(y, log_base))


@layer("Log", "log_param")
def log(ops: Ops, p: Message, x: Array) -> Array:
    """Logarithm to `base` of (shift + scale x); the base -1 means e."""
    log_base = _log_base(p.base)
    if log_base == 0:
        raise NetError("there is no logarithm to the base 1")
    y = x if p.scale == 1 else ops.mul(x, p.scale)
    y = ops.log(y if p.shift == 0 else ops.add(y, p.shift))
    return y if log_base == 1 else ops.mul(y, 1 / log_base)


@layer("Swish", "swish_param")
def swish(ops: Ops, p: Message, x: Array) -> Array:
    """x / (1 + exp(-beta x)) (Ramachandran et al. 2017)."""
    return ops.mul(x, ops.sigmoid(x if p.beta == 1 else ops.mul(x, p.beta)))


@layer("Threshold", "threshold_param")
def threshold(ops: Ops, p: Message, x: Array) -> Array:
    """1 where x > threshold, else 0."""
    return ops.greater(x, p.threshold)


@layer("ReLU6")
def relu6(ops: Ops, x: Array) -> Array:
    """min(max(x, 0), 6), a layer of several forks."""
    return ops.minimum(ops.maximum(x, 0.0), 6.0)
