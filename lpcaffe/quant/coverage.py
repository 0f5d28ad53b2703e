"""What each layer type does to the grid that its inputs lie on: the facts behind coverage `all`.

    COMPUTES  arithmetic leaves the grid of the inputs: the output needs a format of its own
    KEEPS     values are moved, compared or dropped: they stay on the grid of the input
    JOINS     values of several inputs side by side: on their grid, where they share one
    FLOAT     a float function: the output needs a format only where a COMPUTES layer reads it
    OTHER     boxes, indices, labels: no values that a format is for

A type that no line names is FLOAT, so that nothing is taken for fixed-point by mistake.
"""

from __future__ import annotations

from enum import Enum

from lpcaffe.formats.schema import enum_number
from lpcaffe.layers.data import is_data
from lpcaffe.net import Layer, learned_param

_POOL_MAX = enum_number("PoolingParameter.PoolMethod", "MAX")
_ELTWISE_MAX = enum_number("EltwiseParameter.EltwiseOp", "MAX")


class Effect(Enum):
    """See the module."""

    COMPUTES = "computes"
    KEEPS = "keeps"
    JOINS = "joins"
    FLOAT = "float"
    OTHER = "other"


_EFFECTS = {
    Effect.COMPUTES: (
        "Convolution DepthwiseConvolution ConvolutionDepthwise InnerProduct Deconvolution PReLU BatchNorm Scale Bias "
        "Interp Power Reduction Axpy PSROIPooling"
    ),
    Effect.KEEPS: (
        "Reshape Flatten Permute Slice Split Crop Tile ShuffleChannel Silence Im2col BatchReindex Filter ROIPooling "
        "Upsample AbsVal"
    ),
    Effect.JOINS: "Concat",
    Effect.OTHER: "PriorBox DetectionOutput ArgMax Python",
}
_BY_TYPE = {kind: effect for effect, kinds in _EFFECTS.items() for kind in kinds.split()}


def effect(layer: Layer) -> Effect:
    """What a layer does to the grid of its inputs."""
    message = layer.message
    if layer.type == "ReLU":
        return Effect.COMPUTES if message.relu_param.negative_slope else Effect.KEEPS
    if layer.type == "Pooling":
        return Effect.KEEPS if message.pooling_param.pool == _POOL_MAX else Effect.COMPUTES
    if layer.type == "Eltwise":
        return Effect.JOINS if message.eltwise_param.operation == _ELTWISE_MAX else Effect.COMPUTES
    if layer.type == "Dropout":
        return Effect.KEEPS if message.dropout_param.scale_train else Effect.COMPUTES
    return _BY_TYPE.get(layer.type, Effect.FLOAT)


# How many bottoms hold values. The others give a shape to cut to, boxes, or indices.
_VALUES = {"Crop": 1, "Interp": 1, "BatchReindex": 1, "ROIPooling": 1, "PSROIPooling": 1, "Upsample": 1, "Filter": -1}


def value_bottoms(layer: Layer) -> tuple[str, ...]:
    """The tensors whose values a layer computes with, or passes on."""
    return layer.bottoms[: _VALUES.get(layer.type)]


def is_input(layer: Layer) -> bool:
    """Whether a layer brings the network's inputs."""
    return layer.type == "Input" or is_data(layer.type)


# Where a layer keeps what it multiplies with and adds: the index of the blob by role. A learned factor of Scale and
# Bias that comes as a second bottom is no blob.
_BLOBS = {
    "Convolution": ("weights", "bias"),
    "DepthwiseConvolution": ("weights", "bias"),
    "ConvolutionDepthwise": ("weights", "bias"),
    "Deconvolution": ("weights", "bias"),
    "InnerProduct": ("weights", "bias"),
    "Scale": ("weights", "bias"),
    "Bias": ("bias",),
    "PReLU": ("weights",),
    "Normalize": ("weights",),
}


def parameter_roles(layer: Layer) -> dict[str, int | None]:
    """The roles of a layer's parameters: the index of each one's blob, None for what a field of the message holds."""
    message = layer.message
    if layer.type == "ReLU" and message.relu_param.negative_slope:
        return {"weights": None}
    if layer.type == "Eltwise" and any(abs(coefficient) != 1 for coefficient in message.eltwise_param.coeff):
        return {"weights": None}
    if layer.type not in _BLOBS or (layer.type in ("Scale", "Bias") and len(layer.bottoms) > 1):
        return {}
    roles = _BLOBS[layer.type]
    has_bias = _has_bias(layer)
    return {role: index for index, role in enumerate(roles) if role == "weights" or has_bias}


def _has_bias(layer: Layer) -> bool:
    message = layer.message
    if layer.type == "Scale":
        return bool(message.scale_param.bias_term)
    if layer.type == "Bias":
        return True
    return bool(learned_param(message).bias_term)
