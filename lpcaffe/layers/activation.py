"""Layers that work element by element on one bottom."""

from __future__ import annotations

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
    slopes = slope if p.channel_shared else ops.align(slope, x, 1)
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
