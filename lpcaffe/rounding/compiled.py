"""What the two compilers share: the scalar rule of a scheme, ready to be compiled for the CPU or for CUDA.

The files of this folder hold plain functions, so that importing them costs nothing. Of all that Numba offers, only
functions of `njit(inline="always")` can be called on the CPU, on CUDA (even where no driver is installed) and in the
simulator alike; `bound` makes them of the plain ones.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

from lpcaffe.qformat import QFormat
from lpcaffe.rounding.scalar import round_one
from lpcaffe.rounding.scheme import SCHEMES

Plain = Callable[..., Any]


def bound(function: Plain, **names: Any) -> FunctionType:
    """A copy of a plain function in which `names` mean something else, and whose calls into this package are inlined.

    It has globals of its own rather than a closure: Numba's cache knows a function by what it closes over, and
    compiled functions look new to it in every process.
    """
    assert isinstance(function, FunctionType)
    scope = {**function.__globals__, **names}
    for name in function.__code__.co_names:
        value = scope.get(name)
        if inspect.isfunction(value) and value.__module__.startswith(__package__ or ""):
            scope[name] = _inlined(value)
    copy = FunctionType(function.__code__, scope, function.__name__, function.__defaults__)
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return copy


@functools.cache
def _inlined(function: FunctionType) -> Plain:
    import numba

    inlined: Plain = numba.njit(bound(function), inline="always")
    return inlined


def rule_of(scheme: str) -> FunctionType:
    """`round_one` with the rule of a scheme."""
    return bound(round_one, rule=SCHEMES[scheme].rule)


def constants(fmt: QFormat, dtype: np.dtype[Any]) -> tuple[Any, Any, Any, Any]:
    """`top`, `scale`, `step` and `whole` of scalar.py in the data's type."""
    real = dtype.type
    return real(fmt.max), real(2.0**fmt.ad), real(fmt.step), real(2.0 ** np.finfo(dtype).nmant)


@functools.cache
def version() -> str:
    """A hash of this folder. Kernels carry it in their name, since Numba's cache watches one file of the several."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
