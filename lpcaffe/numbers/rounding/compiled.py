"""What the two compilers share: the scalar rule of a scheme, ready to be compiled for the CPU or for CUDA.

The files of this folder hold plain functions, so that importing them costs nothing. Of all that Numba offers, only
functions of `njit(inline="always")` can be called on the CPU, on CUDA (even where no driver is installed) and in the
simulator alike; `bound` makes them of the plain ones.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from lpcaffe.numbers.qformat import QFormat

Plain = Callable[..., Any]
PACKAGE = "lpcaffe.numbers.rounding."


def bound(function: Plain, **names: Any) -> FunctionType:
    """A copy of a plain function in which `names` mean something else, down to the functions of this package it calls.

    Those are inlined. The copy has globals of its own rather than a closure: Numba's cache knows a function by what it
    closes over, and compiled functions look new to it in every process.
    """
    scope = {**function.__globals__, **names}
    for name in set(function.__code__.co_names) - set(names):
        value = scope.get(name)
        if isinstance(value, FunctionType) and value.__module__.startswith(PACKAGE):
            scope[name] = inlined(value, **names)
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return copy


def inlined(function: Plain, **names: Any) -> Plain:
    """`bound` for a function that compiled code calls."""
    import numba

    dispatcher: Plain = numba.njit(bound(function, **names), inline="always")
    return dispatcher


@functools.lru_cache(maxsize=256)
def constants(fmt: QFormat, dtype: np.dtype[Any]) -> tuple[Any, Any, Any, Any]:
    """`top`, `scale`, `step` and `whole` of scalar.py in the data's type."""
    real = dtype.type
    return real(fmt.max), real(2.0**fmt.ad), real(fmt.step), real(2.0 ** np.finfo(dtype).nmant)


@functools.cache
def version() -> str:
    """A hash of this folder. Kernels carry it in their name, since Numba's cache watches one file of the several."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
