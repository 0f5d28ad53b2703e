"""Quant, the activation of Label-free compression (He and Cheng 2018)."""

from __future__ import annotations

import math

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, layer
from lpcaffe.numbers import Affine

_BITS = 7


@layer("Quant", "relu_param", rounds=True)
def quant(ops: Ops, p: Message, x: Array) -> Array:
    """ReLU on a grid of 128 values: alpha min(127, floor(max(x, 0) / alpha + 1/2)).

    alpha is in `relu_param.negative_slope`, as the layer's authors added no parameter of its own. This is what their
    GPU code computes; their CPU code forgets the factor alpha and gives the codes.
    """
    alpha = p.negative_slope
    if not 0 < alpha < math.inf:
        raise NetError(f"Quant needs relu_param.negative_slope above 0: it holds the step (got {alpha:g})")
    return ops.quantize(x, Affine(_BITS, alpha, ties="away"), "deterministic", "top")
