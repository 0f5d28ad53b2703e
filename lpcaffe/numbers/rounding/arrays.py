"""The arrays that go in and come out: what is accepted, and the one flat form that every backend works on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.errors import LpcaffeError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding.scheme import Floats

FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def checked(x: Any, out: Any, fmt: QFormat, index: int) -> tuple[Floats, Floats]:
    """`x` as an array, and the array to write: `out`, or a new one. Raises before anything is written."""
    source = as_floats(x)
    check_numbers(fmt, source.dtype, index, source.size)
    if out is None:
        return source, np.empty(source.shape, source.dtype)
    if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (source.shape, source.dtype):
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise LpcaffeError(f"out must be an array of {source.dtype} {source.shape} like x, got {got}")
    if not out.flags.writeable:
        raise LpcaffeError("out is read-only")
    if out.size and any(stride == 0 and length > 1 for stride, length in zip(out.strides, out.shape, strict=True)):
        raise LpcaffeError("out holds one element several times; give an array of its own memory")
    if overlap(source, out):
        raise LpcaffeError("out overlaps x", hint="give x itself, or an array of its own memory")
    return source, out


def check_numbers(fmt: QFormat, dtype: np.dtype[Any], index: int, size: int) -> None:
    """Raise FormatError or LpcaffeError when the data type cannot hold the format, or 64 bits not every index."""
    fmt.check_dtype(dtype)
    if index + size > 1 << 64:
        raise LpcaffeError(f"index {index} leaves no 64-bit index for all {size} elements")


def as_floats(x: Any) -> Floats:
    """`x` as a NumPy array of float32 or float64."""
    if hasattr(x, "__cuda_array_interface__"):
        raise LpcaffeError("x is on a CUDA device", hint='give device="cuda"')
    try:
        array = np.asarray(x)
        if not hasattr(x, "dtype") and array.dtype.kind in "iu":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise LpcaffeError(f"expected an array of float32 or float64, got {type(x).__name__} ({error})") from None
    if array.dtype not in FLOATS:
        raise LpcaffeError(
            f"expected an array of float32 or float64, got {array.dtype}", hint="convert it with .astype(np.float32)"
        )
    return array


def overlap(x: NDArray[Any], out: NDArray[Any]) -> bool:
    """Whether the two share memory other than element by element. What is too hard to find out counts as overlap."""
    if not np.may_share_memory(x, out) or (x.ctypes.data, x.strides) == (out.ctypes.data, out.strides):
        return False
    try:
        return np.shares_memory(x, out, max_work=1_000_000)  # type: ignore[arg-type]  # NumPy's stubs know -1 and 0
    except np.exceptions.TooHardError:
        return True


@contextmanager
def flattened(x: Floats, out: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Both as contiguous 1-D arrays in C order; what is written to the second is in `out` afterwards.

    They are views where the memory allows it. Otherwise `x` is copied to where the result goes and rounded in place.
    """
    target = out if is_flat(out) else np.empty(out.shape, out.dtype)
    if not is_flat(x):
        np.copyto(target, x)
    flat = target.reshape(-1)
    yield (x.reshape(-1) if is_flat(x) else flat), flat
    if target is not out:
        np.copyto(out, target)


def is_flat(x: Floats) -> bool:
    """Whether reshape(-1) is a view that compiled code can read."""
    return x.flags.c_contiguous and x.flags.aligned
