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
from lpcaffe.allocation.allocate import Methods, allocate
from lpcaffe.allocation.bits import Widths
from lpcaffe.allocation.registry import METHODS, Tensor, method, method_named
from lpcaffe.allocation.tensors import site_tensors

__all__ = ["METHODS", "Methods", "Tensor", "Widths", "allocate", "method", "method_named", "site_tensors"]
