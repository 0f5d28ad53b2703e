"""Folding BatchNorm, Scale and Bias into the convolution or inner product before them.

Caffe normalises with a BatchNorm layer (mean, variance) and a Scale layer (gamma, beta) after a convolution. At test
time each is one multiplication and one addition for each channel, y = gain x + offset, and so is any sequence of them:

    gain_2 (gain_1 x + offset_1) + offset_2  =  (gain_2 gain_1) x + (gain_2 offset_1 + offset_2)

so the whole **chain** is the same convolution with other weights, W' = gain W for each output channel, and other
biases, b' = gain b + offset (Jacob et al. 2018, equation 14). A fixed-point network needs this: a rounded weight that
is then multiplied by a float is no fixed-point weight any more.

A chain ends where a layer is not a per-channel affine map, where another layer also reads the value in between, and
where `Net.roundings` rounds that value.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.errors import NetError, WeightsError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.net.blobs import ArrayBlob, ScaledBlob, WeightBlob, Weights
from lpcaffe.net.graph import Layer, Net

# The layer types whose weights get a fixed-point format, and their low-precision twins.
LOW_PRECISION = {"Convolution": "LPConvolution", "InnerProduct": "LPInnerProduct"}
_LEARNED = {*LOW_PRECISION, *LOW_PRECISION.values()}
_AFFINE = ("BatchNorm", "Scale", "Bias")


def learned_param(layer: Message) -> Message:
    """The parameters of a layer with weights, a Convolution or InnerProduct of either precision."""
    return layer.inner_product_param if "InnerProduct" in layer.type else layer.convolution_param


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


def quantizable_layers(net: Net) -> tuple[Layer, ...]:
    """The layers that a plan gives a format: Convolution and InnerProduct, in the order of the file.

    Raises NetError for one with several bottoms or tops (Caffe convolves each bottom with the same weights), or none.
    """
    learned = tuple(layer for layer in net.layers if layer.type in LOW_PRECISION)
    for layer in learned:
        if (len(layer.bottoms), len(layer.tops)) != (1, 1):
            counts = f"{len(layer.bottoms)} and {len(layer.tops)}"
            raise NetError(f"{layer.type} takes one bottom and one top, the file names {counts}", layer=layer.name)
    return learned


def chain_after(net: Net, layer: Layer) -> Chain:
    """The chain that begins with a learned layer (of either precision)."""
    affine: list[Layer] = []
    if _no_chain(net, layer):
        return Chain(layer, ())
    while True:
        tensor = (affine or [layer])[-1].tops[0]
        readers = net.readers[tensor]
        if len(readers) != 1 or net.readers_in_other_phase.get(tensor) or tensor in net.roundings:
            return Chain(layer, tuple(affine))
        if _no_affine(readers[0]):
            return Chain(layer, tuple(affine))
        affine.append(readers[0])


def _no_chain(net: Net, layer: Layer) -> str:
    """Why nothing can be folded into a learned layer; empty if something can."""
    if "InnerProduct" in layer.type and layer.message.inner_product_param.axis != 1:
        return f'the outputs of layer "{layer.name}" are not axis 1'
    if any(net.blob_name_users[spec.name] > 1 for spec in layer.message.param if spec.name):
        return f'layer "{layer.name}" shares its weights'
    if layer.name in net.redefined_in_other_phase:
        return f'the other phase has another layer "{layer.name}"'
    return ""


def _no_affine(layer: Layer) -> str:
    """Why the layer is not a fixed affine map of each channel; empty if it is one."""
    message = layer.message
    if layer.type not in _AFFINE:
        return f"{layer.type} is not BatchNorm, Scale or Bias"
    if len(layer.bottoms) > 1:
        return "its factors come from a second bottom"
    if len(layer.bottoms) + len(layer.tops) != 2:
        return "it has not one bottom and one top"
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
    folded = {layer.name for learned in quantizable_layers(net) for layer in chain_after(net, learned).affine}
    writers = {top: layer for layer in net.layers for top in layer.tops}
    return tuple(
        Unfolded(layer.name, layer.type, _no_affine(layer) or _no_place(net, layer, writers[layer.bottoms[0]]))
        for layer in net.layers
        if layer.type in _AFFINE and layer.name not in folded
    )


def _no_place(net: Net, layer: Layer, before: Layer) -> str:
    """Why no chain takes up a layer that is a fixed affine map of what the layer `before` it made."""
    readers = [f'"{reader.name}"' for reader in net.readers[layer.bottoms[0]] if reader is not layer]
    elsewhere = net.readers_in_other_phase.get(layer.bottoms[0], ())
    other = next(iter([*readers, *(f'"{name}" of the other phase' for name in elsewhere)]), None)
    if layer.bottoms[0] in net.roundings:
        return f'the output of the layer before it, "{before.name}", is rounded'
    if before.type not in (*LOW_PRECISION, *_AFFINE):
        return f'the layer before it, "{before.name}", is a {before.type}'
    if before.type in LOW_PRECISION and (reason := _no_chain(net, before)):
        return reason
    return f'layer "{before.name}" before it stays' if other is None else f"its input is read by layer {other} too"


def fold_batch_norm(net: Net) -> Net:
    """The net with every chain folded into its learned layer; weights are folded when the net has them.

    The folded layer takes the name of the chain's last top, and gains a bias. Arithmetic is float64, the result
    float32; folded weights are computed when they are read, so nothing is held. A BatchNorm scale factor of 0 means
    mean and variance 0, as in Caffe. Where the last top of a chain is rounded, the folded layer's is. Raises
    WeightsError when the blobs of a chain are missing or of the wrong size.
    """
    chains = [chain for layer in quantizable_layers(net) if (chain := chain_after(net, layer)).affine]
    if not chains:
        return net
    weights = None if net.weights is None else _fold_weights(net.weights, chains)
    tensors = {chain.tensor: f"{chain.last.raw_tops[0]}@{chain.layer.name}" for chain in chains}
    roundings = {tensors.get(tensor, tensor): rounding for tensor, rounding in net.roundings.items()}
    return dataclasses.replace(net, message=_fold_message(net.message, chains), weights=weights, roundings=roundings)


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
            learned_param(kept).ClearField("bias_term")
    return folded


def _fold_weights(weights: Weights, chains: Sequence[Chain]) -> Weights:
    removed = {layer.name for chain in chains for layer in chain.affine}
    folded: dict[str, Sequence[WeightBlob]] = {name: blobs for name, blobs in weights.items() if name not in removed}
    for chain in chains:
        layer = chain.layer
        ip = layer.type == "InnerProduct"
        own_param = learned_param(layer.message)
        channels = int(own_param.num_output)
        own = _blobs(weights, layer, [None, channels][: 1 + own_param.bias_term])
        shape = own[0].shape
        axis = (-1 if own_param.transpose else -2) + len(shape) if ip else 0
        if axis not in range(len(shape)) or shape[axis] != channels:
            problem = f"expected weights for {channels} outputs, got {shape_text(shape)}"
            raise WeightsError(problem, layer=layer.name, blob=0)
        gain, offset = _affine_of(weights, chain, channels)
        # What becomes NaN or infinite is found, with its place, where the folded blobs are used.
        with np.errstate(over="ignore", invalid="ignore"):
            bias = gain * (_float64(own[1]) if len(own) > 1 else np.zeros(channels)) + offset
            folded[layer.name] = (ScaledBlob(own[0], gain, axis), ArrayBlob(bias.astype(np.float32)))
    return folded


def _affine_of(weights: Weights, chain: Chain, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Gain and offset of the whole chain, float64, one for each channel."""
    gain, offset = np.ones(channels), np.zeros(channels)
    for layer in chain.affine:
        blobs = _blobs(weights, layer, _affine_sizes(layer, channels))
        with np.errstate(all="ignore"):
            g, o = _AFFINE_MAPS[layer.type](layer.message, [_float64(blob) for blob in blobs])
            gain, offset = g * gain, g * offset + o
    return gain, offset


def _affine_sizes(layer: Layer, channels: int) -> list[int | None]:
    """Number of values of each blob of a BatchNorm, Scale or Bias layer."""
    if layer.type == "BatchNorm":
        return [channels, channels, 1]
    return [channels] * (1 + (layer.type == "Scale" and layer.message.scale_param.bias_term))


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


def _blobs(weights: Weights, layer: Layer, sizes: Sequence[int | None]) -> Sequence[WeightBlob]:
    """The layer's blobs, of these numbers of values; None is any number."""
    blobs = weights.get(layer.name, ())
    if len(blobs) != len(sizes):
        raise WeightsError(f"{layer.type} has {len(sizes)} blobs, the weights hold {len(blobs)}", layer=layer.name)
    for index, (blob, size) in enumerate(zip(blobs, sizes, strict=True)):
        if size is not None and math.prod(blob.shape) != size:
            raise WeightsError(f"expected {size} values, got {shape_text(blob.shape)}", layer=layer.name, blob=index)
    return blobs
