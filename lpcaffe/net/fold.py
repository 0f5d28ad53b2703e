"""Folding BatchNorm, Scale and Bias into the convolution or inner product before them.

Caffe normalises with a BatchNorm layer (mean, variance) and a Scale layer (gamma, beta) after a convolution. At test
time each is one multiplication and one addition for each channel, y = gain x + offset, and so is any sequence of them:

    gain_2 (gain_1 x + offset_1) + offset_2  =  (gain_2 gain_1) x + (gain_2 offset_1 + offset_2)

so the whole **chain** is the same convolution with other weights, W' = gain W for each output channel, and other
biases, b' = gain b + offset (Jacob et al. 2018, equation 14). A fixed-point network needs this: a rounded weight that
is then multiplied by a float is no fixed-point weight any more.

A chain ends where a layer is not a per-channel affine map, or where another layer also reads the value in between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.errors import WeightsError
from lpcaffe.formats.schema import Message
from lpcaffe.net.blobs import ArrayBlob, ScaledBlob, WeightBlob, Weights
from lpcaffe.net.graph import Layer, Net

# The layer types whose weights get a fixed-point format, and their low-precision twins.
LOW_PRECISION = {"Convolution": "LPConvolution", "InnerProduct": "LPInnerProduct"}
_LEARNED = {*LOW_PRECISION, *LOW_PRECISION.values()}
_AFFINE = ("BatchNorm", "Scale", "Bias")


@dataclass(frozen=True)
class Chain:
    """A learned layer and the BatchNorm, Scale and Bias layers that follow it and nothing else reads in between."""

    layer: Layer
    affine: tuple[Layer, ...]

    @property
    def tensor(self) -> str:
        """The value at the end of the chain."""
        return (self.affine or (self.layer,))[-1].tops[0]

    @property
    def last(self) -> Layer:
        """The last layer of the chain."""
        return (self.affine or (self.layer,))[-1]


def learned_layers(net: Net) -> tuple[Layer, ...]:
    """The layers that a plan gives a format: Convolution and InnerProduct, in the order of the file."""
    return tuple(layer for layer in net.layers if layer.type in LOW_PRECISION)


def chain_after(net: Net, layer: Layer) -> Chain:
    """The chain that begins with a learned layer (of either precision)."""
    affine: list[Layer] = []
    while True:
        readers = net.readers[(affine or [layer])[-1].tops[0]]
        if len(readers) != 1 or _no_affine(readers[0]) or _shares_weights(layer) or not _channels_second(layer):
            return Chain(layer, tuple(affine))
        affine.append(readers[0])


def _channels_second(layer: Layer) -> bool:
    """Whether the layer's output channels are axis 1 of its top, the axis that BatchNorm and Scale work on."""
    message = layer.message
    return bool((message.inner_product_param if "InnerProduct" in layer.type else message.convolution_param).axis == 1)


def _shares_weights(layer: Layer) -> bool:
    return any(spec.name for spec in layer.message.param)


def _no_affine(layer: Layer) -> str:
    """Why the layer is not a fixed affine map of each channel; empty if it is one."""
    message = layer.message
    if layer.type not in _AFFINE:
        return f"{layer.type} is not BatchNorm, Scale or Bias"
    if len(layer.bottoms) != 1:
        return "its factors come from a second bottom"
    if len(layer.tops) != 1:
        return "it has several tops"
    if layer.type == "BatchNorm":
        own = message.batch_norm_param
        return "use_global_stats is false" if own.HasField("use_global_stats") and not own.use_global_stats else ""
    own = message.scale_param if layer.type == "Scale" else message.bias_param
    return "" if own.axis == 1 and own.num_axes == 1 else "its factors are not one a channel (axis 1, num_axes 1)"


@dataclass(frozen=True)
class Unfolded:
    """A BatchNorm, Scale or Bias layer that stays, and why."""

    layer: str
    type: str
    reason: str


def unfolded(net: Net) -> tuple[Unfolded, ...]:
    """The BatchNorm, Scale and Bias layers that no chain takes up, with the reason."""
    folded = {layer.name for learned in learned_layers(net) for layer in chain_after(net, learned).affine}
    writers = {top: layer for layer in net.layers for top in layer.tops}
    left = []
    for layer in net.layers:
        if layer.type in _AFFINE and layer.name not in folded:
            before = writers[layer.bottoms[0]]
            others = [reader.name for reader in net.readers[layer.bottoms[0]] if reader is not layer]
            reason = _no_affine(layer)
            if not reason and others:
                reason = f'its input is read by layer "{others[0]}" too'
            if not reason and _shares_weights(before):
                reason = f'layer "{before.name}" shares its weights'
            if not reason:
                reason = f'the layer before it, "{before.name}", is a {before.type}'
            left.append(Unfolded(layer.name, layer.type, reason))
    return tuple(left)


def fold_batch_norm(net: Net) -> Net:
    """The net with every chain folded into its learned layer; weights are folded when the net has them.

    The folded layer takes the name of the chain's last top, and gains a bias. Arithmetic is float64, the result
    float32; folded weights are computed when they are read, so nothing is held. A BatchNorm scale factor of 0 means
    mean and variance 0, as in Caffe. Raises WeightsError when the blobs of a chain are missing or of the wrong size.
    """
    chains = [chain for layer in learned_layers(net) if (chain := chain_after(net, layer)).affine]
    if not chains:
        return net
    weights = None if net.weights is None else _fold_weights(net.weights, chains)
    return net.replace(_fold_message(net.message, chains), weights)


def _fold_message(message: Message, chains: Sequence[Chain]) -> Message:
    last_tops = {chain.layer.name: chain.last.raw_tops[0] for chain in chains}
    removed = {layer.name for chain in chains for layer in chain.affine}
    folded = type(message)()
    folded.CopyFrom(message)
    del folded.layer[:]
    for layer in message.layer:
        if layer.name in removed:
            continue
        kept = folded.layer.add()
        kept.CopyFrom(layer)
        if layer.name in last_tops:
            kept.top[0] = last_tops[layer.name]
            (kept.inner_product_param if kept.type == "InnerProduct" else kept.convolution_param).ClearField(
                "bias_term"
            )
    return folded


def _fold_weights(weights: Weights, chains: Sequence[Chain]) -> Weights:
    removed = {layer.name for chain in chains for layer in chain.affine}
    folded: dict[str, Sequence[WeightBlob]] = {name: blobs for name, blobs in weights.items() if name not in removed}
    for chain in chains:
        own = _blobs(weights, chain.layer)
        ip = chain.layer.type == "InnerProduct"
        transposed = ip and chain.layer.message.inner_product_param.transpose
        axis = len(own[0].shape) - 1 if transposed else (len(own[0].shape) - 2 if ip else 0)
        channels = own[0].shape[axis]
        gain, offset = _affine_of(weights, chain, channels)
        bias = own[1].array().ravel().astype(np.float64) if len(own) > 1 else np.zeros(channels)
        folded[chain.layer.name] = (
            ScaledBlob(own[0], gain, axis),
            ArrayBlob((gain * bias + offset).astype(np.float32)),
        )
    return folded


def _affine_of(weights: Weights, chain: Chain, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset of the whole chain, float64, one for each channel."""
    gain, offset = np.ones(channels), np.zeros(channels)
    for layer in chain.affine:
        g, o = _AFFINE_MAPS[layer.type](layer.message, [_float64(blob) for blob in _blobs(weights, layer)])
        if g.size not in (1, channels) or o.size not in (1, channels):
            raise WeightsError(f"expected {channels} channels, got {max(g.size, o.size)}", layer=layer.name)
        gain, offset = g * gain, g * offset + o
    return gain, offset


def _float64(blob: WeightBlob) -> np.ndarray:
    return blob.array().ravel().astype(np.float64)


def _batch_norm_map(message: Message, blobs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    mean, variance, factor = blobs
    scale = 0.0 if factor[0] == 0 else 1 / factor[0]
    gain = 1 / np.sqrt(variance * scale + message.batch_norm_param.eps)
    return gain, -mean * scale * gain


def _scale_map(message: Message, blobs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return blobs[0], blobs[1] if len(blobs) > 1 else np.zeros(1)


def _bias_map(message: Message, blobs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(1), blobs[0]


_AFFINE_MAPS: dict[str, Callable[[Any, list[np.ndarray]], tuple[np.ndarray, np.ndarray]]] = {
    "BatchNorm": _batch_norm_map,
    "Scale": _scale_map,
    "Bias": _bias_map,
}


def _blobs(weights: Weights, layer: Layer) -> Sequence[WeightBlob]:
    """The layer's blobs, counted."""
    message = layer.message
    expected = {
        "BatchNorm": 3,
        "Scale": 1 + message.scale_param.bias_term,
        "Bias": 1,
        "InnerProduct": 1 + message.inner_product_param.bias_term,
    }.get(layer.type, 1 + message.convolution_param.bias_term)
    blobs = weights.get(layer.name, ())
    if len(blobs) != expected:
        raise WeightsError(f"{layer.type} has {expected} blobs, the weights hold {len(blobs)}", layer=layer.name)
    return blobs
