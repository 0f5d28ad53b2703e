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
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from lpcaffe.errors import LpcaffeError, MissingExtraError
from lpcaffe.numbers.qformat import QFormat

# Importing a scheme's file registers it.
from lpcaffe.numbers.rounding import deterministic as deterministic
from lpcaffe.numbers.rounding import floor as floor
from lpcaffe.numbers.rounding import half_even as half_even
from lpcaffe.numbers.rounding import numpy_backend, stats
from lpcaffe.numbers.rounding import stochastic as stochastic
from lpcaffe.numbers.rounding.arrays import checked, flattened
from lpcaffe.numbers.rounding.philox import stream_of
from lpcaffe.numbers.rounding.scheme import SCHEMES, Scheme
from lpcaffe.numbers.rounding.stats import RoundingStats

__all__ = ["BACKENDS", "DEVICES", "SCHEMES", "RoundingStats", "round_fp", "round_fp_stats", "stream_of"]

BACKENDS = ("auto", "numpy", "numba")
DEVICES = ("cpu", "cuda")

NUMBA_FROM = 1 << 22
"""Elements from which `auto` takes Numba, those of earlier calls counted: NumPy needs 20 ms for them and up to 100 when
stochastic, while Numba needs an import of 0.4 s and is then 10 to 40 times as fast."""

_earlier = 0
"""Elements that `auto` has been given so far in this process."""


def round_fp(
    x: Any,
    bd: int,
    ad: int,
    scheme: str = "deterministic",
    *,
    seed: int = 0,
    stream: int = 0,
    index: int = 0,
    out: Any = None,
    backend: str = "auto",
    threads: int | None = None,
    device: str = "cpu",
    cuda_stream: Any = None,
) -> NDArray[Any]:
    """Round every element of `x` to the fixed-point format Q(bd).(ad); `bd` counts the sign bit.

    x        float32 or float64 of any shape and strides. Python numbers and lists of them are read as float64, which a
             Python float is. Other types are refused: to round them to float32 first would be a second rounding.
    scheme   "deterministic" (nearest, ties away from zero), "stochastic", "half_even" or "floor".
    seed, stream, index
             the arguments of the random numbers, each 0 .. 2^64 - 1; only "stochastic" reads them. Element k in C order
             uses index + k, so pieces of an array can be rounded apart and give the bits of the whole.
    out      where to write: an array of the shape and type of `x`. It may be `x` itself; other overlaps are refused.
    backend  on the CPU: "numpy" is the reference, "numba" compiled code with the same bits, "auto" picks by size.
    threads  at most so many on the CPU; by default one for each processor, as far as the array is worth it.
    device   "cuda" rounds on a GPU (extra `cuda`): host arrays are sent there and back; contiguous arrays that are
             there already (`__cuda_array_interface__`: CuPy, PyTorch, Numba) stay there, and nothing waits for the end.
    cuda_stream
             for arrays on the GPU: the CUDA stream to work on, as an object of Numba, CuPy or PyTorch, or its address.

    Returns `out`, or a new array (0-d for a scalar) of the shape and type of `x`; a Numba device array when `x` is on
    the GPU. Raises FormatError when the format does not exist or the data type cannot hold it (float32: bd + ad <= 25,
    -24 <= ad <= 126), MissingExtraError without numba-cuda, LpcaffeError otherwise; nothing has been written then.
    """
    fmt, rule = QFormat(bd, ad), _scheme(scheme)
    words = _word("seed", seed), _word("stream", stream), _word("index", index)
    if device not in DEVICES:
        raise LpcaffeError(f"unknown device {device!r}; expected one of {', '.join(DEVICES)}")
    if device == "cuda":
        if backend != "auto" or threads is not None:
            raise LpcaffeError('backend and threads are for device="cpu"')
        from lpcaffe.numbers.rounding import cuda_backend

        return cuda_backend.round_arrays(x, out, rule, fmt, *words, cuda_stream)  # type: ignore[no-any-return]
    if cuda_stream is not None:
        raise LpcaffeError('cuda_stream is for device="cuda"')
    threads = _threads(threads)
    source, target = checked(x, out, fmt, words[2])
    round_flat = _backend(backend, source.size)
    with flattened(source, target) as (flat, flat_out):
        round_flat(flat, flat_out, rule, fmt, *words, threads=threads)
    return target


def round_fp_stats(
    x: Any,
    bd: int,
    ad: int,
    scheme: str = "deterministic",
    *,
    seed: int = 0,
    stream: int = 0,
    index: int = 0,
    out: Any = None,
    backend: str = "auto",
    threads: int | None = None,
) -> tuple[NDArray[Any], RoundingStats]:
    """round_fp on the CPU, and what it did: (rounded, statistics). The arguments are those of `round_fp`.

    The statistics are taken piece by piece while the piece is in the cache, so memory is read once. They are the same
    numbers, bit for bit, for any backend, number of threads and memory layout.
    """
    fmt, rule = QFormat(bd, ad), _scheme(scheme)
    words = _word("seed", seed), _word("stream", stream), _word("index", index)
    threads = _threads(threads)
    source, target = checked(x, out, fmt, words[2])
    compiled = _backend(backend, source.size) is not numpy_backend.round_flat
    with flattened(source, target) as (flat, flat_out):
        return target, stats.round_flat(flat, flat_out, rule, fmt, *words, compiled, threads)


def _scheme(name: str) -> Scheme:
    if name not in SCHEMES:
        raise LpcaffeError(f"unknown rounding scheme {name!r}; expected one of {', '.join(sorted(SCHEMES))}")
    return SCHEMES[name]


def _word(name: str, value: int) -> int:
    try:
        word = operator.index(value)
    except TypeError:
        raise LpcaffeError(f"{name} must be an integer, got {value!r}") from None
    if not 0 <= word < 1 << 64:
        raise LpcaffeError(f"{name} must be in 0 .. 2^64 - 1, got {word}")
    return word


def _threads(value: int | None) -> int | None:
    if value is not None and (not isinstance(value, int) or value < 1):
        raise LpcaffeError(f"threads must be a positive integer, got {value!r}")
    return value


def _backend(name: str, size: int) -> Callable[..., None]:
    """The function that rounds contiguous arrays."""
    global _earlier
    if name not in BACKENDS:
        raise LpcaffeError(f"unknown backend {name!r}; expected one of {', '.join(BACKENDS)}")
    if name == "auto":
        _earlier = min(_earlier + size, NUMBA_FROM)
    if name == "numba" or (name == "auto" and _earlier >= NUMBA_FROM):
        from lpcaffe.numbers.rounding import numba_backend

        try:
            numba_backend.require()
            return numba_backend.round_flat
        except MissingExtraError:
            if name == "numba":
                raise
    return numpy_backend.round_flat
