"""round_fp: the one function that decides every number this project writes.

    y = x * 2^ad                         exact
    n = R(y)                             R is the scheme: deterministic, stochastic, half_even or floor
    q = clip(n, -N, N) * 2^-ad           N = 2^(bd + ad - 1) - 1

The result is never -0.0; NaN comes back with its own bits; infinities saturate. Every backend returns the same bits for
the same input, format, scheme, seed, stream and index. docs/rounding.md derives all of this from first principles.

A new scheme is one file beside this one (see scheme.py) and one line below.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpcaffe.errors import LpcaffeError, MissingExtraError
from lpcaffe.qformat import QFormat

# Importing a scheme's file registers it.
from lpcaffe.rounding import deterministic as deterministic
from lpcaffe.rounding import floor as floor
from lpcaffe.rounding import half_even as half_even
from lpcaffe.rounding import numpy_backend
from lpcaffe.rounding import stochastic as stochastic
from lpcaffe.rounding.philox import stream_of
from lpcaffe.rounding.scheme import SCHEMES, Floats

__all__ = ["BACKENDS", "SCHEMES", "round_fp", "stream_of"]

BACKENDS = ("auto", "numpy", "numba")

NUMBA_FROM = 1 << 22
"""Elements from which `auto` takes Numba. NumPy needs 5 to 40 ms for them, Numba 1 to 5 after an import of 0.4 s."""


def round_fp(
    x: ArrayLike,
    bd: int,
    ad: int,
    scheme: str = "deterministic",
    *,
    seed: int = 0,
    stream: int = 0,
    index: int = 0,
    out: NDArray[Any] | None = None,
    backend: str = "auto",
) -> NDArray[Any]:
    """Round every element of `x` to the fixed-point format Q(bd).(ad); `bd` counts the sign bit.

    x        float32 or float64 of any shape and strides. Python numbers and lists of them are read as float64, which a
             Python float is. Other types are refused: to round them to float32 first would be a second rounding.
    scheme   "deterministic" (nearest, ties away from zero), "stochastic", "half_even" or "floor".
    seed, stream, index
             the arguments of the random numbers, each 0 .. 2^64 - 1; only "stochastic" reads them. Element k in C order
             uses index + k, so pieces of an array can be rounded apart and give the bits of the whole.
    out      where to write: an array of the shape and type of `x`, which may be `x` itself.
    backend  "numpy" is the reference, "numba" compiled code with the same bits, "auto" picks by size.

    Returns `out`, or a new array (0-d for a scalar) of the shape and type of `x`. Raises FormatError when the format
    does not exist or the data type cannot hold it (float32: bd + ad <= 25, -24 <= ad <= 126), LpcaffeError otherwise.
    """
    fmt = QFormat(bd, ad)
    if scheme not in SCHEMES:
        raise LpcaffeError(f"unknown rounding scheme {scheme!r}; expected one of {', '.join(sorted(SCHEMES))}")
    source = _as_floats(x)
    fmt.check_dtype(source.dtype)
    target = np.empty(source.shape, source.dtype) if out is None else _checked(out, source)
    seed, stream, index = _word("seed", seed), _word("stream", stream), _word("index", index)
    if index + source.size > 1 << 64:
        raise LpcaffeError(f"index {index} leaves no 64-bit index for all {source.size} elements")
    round_piece, limit = _backend(backend, source.size)
    for piece, target_piece, position in _pieces(source, target, limit):
        round_piece(piece, target_piece, SCHEMES[scheme], fmt, seed, stream, index + position)
    return target


def _as_floats(x: ArrayLike) -> Floats:
    try:
        array = np.asarray(x)
        if not hasattr(x, "dtype") and array.dtype.kind in "iu":
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise LpcaffeError(f"expected an array of float32 or float64, got {type(x).__name__} ({error})") from None
    if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise LpcaffeError(
            f"expected an array of float32 or float64, got {array.dtype}", hint="convert it with .astype(np.float32)"
        )
    return array


def _checked(out: NDArray[Any], source: Floats) -> Floats:
    if not isinstance(out, np.ndarray) or (out.shape, out.dtype) != (source.shape, source.dtype):
        got = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise LpcaffeError(f"out must be an array of {source.dtype} {source.shape} like x, got {got}")
    if not out.flags.writeable:
        raise LpcaffeError("out is read-only")
    return out


def _word(name: str, value: int) -> int:
    try:
        word = operator.index(value)
    except TypeError:
        raise LpcaffeError(f"{name} must be an integer, got {value!r}") from None
    if not 0 <= word < 1 << 64:
        raise LpcaffeError(f"{name} must be in 0 .. 2^64 - 1, got {word}")
    return word


def _backend(name: str, size: int) -> tuple[Callable[..., None], int]:
    """The function that rounds a contiguous piece, and the largest piece it wants."""
    if name not in BACKENDS:
        raise LpcaffeError(f"unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
    if name == "numba" or (name == "auto" and size >= NUMBA_FROM):
        from lpcaffe.rounding import numba_backend

        try:
            numba_backend.require()
            return numba_backend.round_piece, numba_backend.PIECE
        except MissingExtraError:
            if name == "numba":
                raise
    return numpy_backend.round_piece, numpy_backend.PIECE


def _pieces(x: Floats, out: Floats, limit: int) -> Iterator[tuple[Floats, Floats, int]]:
    """Walk both arrays in C order: contiguous 1-D pieces of each, and the position of the first element.

    Pieces are views where the memory allows it and small buffers where it does not. `out` may be `x`; where they
    overlap in any other way, `x` is copied first.
    """
    per_operand: list[Any] = ["contig", "aligned", "overlap_assume_elementwise"]  # NumPy's stubs do not know "contig"
    walk = np.nditer(
        [x, out],
        flags=["external_loop", "buffered", "zerosize_ok", "copy_if_overlap"],
        op_flags=[["readonly", *per_operand], ["writeonly", *per_operand]],
        order="C",
        buffersize=limit,
    )
    position = 0
    with walk:
        for piece, out_piece in walk:
            yield piece, out_piece, position
            position += piece.size
