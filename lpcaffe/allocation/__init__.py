"""Choosing formats: one file a method."""

# Importing a method registers it.
from lpcaffe.allocation import (  # noqa: F401
    aciq_gauss,
    aciq_laplace,
    adaption,
    kl,
    max_abs,
    mse,
    nstd,
    overflow,
    percentile,
    ristretto,
    sqnr,
)
from lpcaffe.allocation.allocate import LayerTensors, allocate, layer_tensors
from lpcaffe.allocation.bits import layer_widths
from lpcaffe.allocation.registry import METHODS, Tensor, method, method_named

__all__ = ["METHODS", "LayerTensors", "Tensor", "allocate", "layer_tensors", "layer_widths", "method", "method_named"]
