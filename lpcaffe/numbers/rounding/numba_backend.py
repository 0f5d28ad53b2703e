"""The rounding rule compiled by Numba for the CPU, on as many threads as the array is worth.

One plain loop for each scheme, data type and way of writing (in place or not), vectorised by LLVM. Kernels release the
GIL, so the threads are Python's own, each taking the next piece of the array (docs/decisions/0010). Kernels are
compiled when first called and kept in Numba's cache beside this file, in the user's cache directory when that is
read-only, and nowhere when both are. Numba is imported only when a kernel is asked for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from lpcaffe.errors import MissingExtraError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding.compiled import bound, constants, inlined, version
from lpcaffe.numbers.rounding.philox import block_words, uniform, unit
from lpcaffe.numbers.rounding.scalar import ZERO, round_one
from lpcaffe.numbers.rounding.scheme import SCHEMES, Floats, Scheme

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

PIECE = 1 << 18
"""Elements that a thread takes at a time, 1 MiB of float32: about 70 microseconds, against 3 for the call."""


def require() -> None:
    """Raise MissingExtraError when Numba cannot be imported."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"Numba cannot be imported: {error}", hint='use backend="numpy"') from error


def round_flat(
    x: Floats, out: Floats, scheme: Scheme, fmt: QFormat, seed: int, stream: int, index: int, threads: int | None = None
) -> None:
    """Round the contiguous 1-D array `x` into `out`, which may be `x`. `index` is that of the first element."""
    run, numbers = kernel(scheme.name), constants(fmt, x.dtype)
    words = np.uint64(seed), np.uint64(stream)
    # Two pointers into one array would not be vectorised, and arrays that are writable or not are two types to Numba.
    source = None if x.ctypes.data == out.ctypes.data else read_only(x)

    def round_piece(start: int) -> None:
        part = slice(start, start + PIECE)
        run(None if source is None else source[part], out[part], *numbers, *words, np.uint64(index + start))

    each_piece(round_piece, x.size, PIECE, threads)


def read_only(x: Floats) -> Floats:
    """The same memory as an array that cannot be written."""
    view = x.view()
    view.flags.writeable = False
    return view


def each_piece(work: Callable[[int], None], size: int, piece: int, threads: int | None = None) -> None:
    """Call `work` with the start of every piece, on `threads` threads, or on as many as there are processors.

    An array of one piece is not worth a second thread.
    """
    starts = range(0, size, piece)
    threads = min(threads or processors(), len(starts))
    if threads <= 1:
        for start in starts:
            work(start)
        return
    left = iter(starts)  # shared: who is free takes the next

    def take() -> None:
        for start in left:
            work(start)

    others = [pool(os.getpid()).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


@functools.cache
def pool(process: int) -> ThreadPoolExecutor:
    """The threads of a process; a forked one starts its own."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(processors(), thread_name_prefix="round_fp")


@functools.cache
def processors() -> int:
    """Those this process may use, or NUMBA_NUM_THREADS."""
    import numba

    return int(numba.config.NUMBA_NUM_THREADS)


@functools.cache
def kernel(name: str) -> Callable[..., None]:
    """The compiled loop of one scheme."""
    loop = bound(random_loop if SCHEMES[name].random else plain_loop, rule=inlined(SCHEMES[name].rule))
    return compiled(loop, f"round_{name}")


def compiled(function: Any, name: str) -> Callable[..., Any]:
    """njit, cached under a name that changes with any file of this folder: the cache itself watches one of them."""
    import numba

    function.__qualname__ = f"{name}_{version()}"
    try:
        return numba.njit(function, nogil=True, fastmath=False, cache=True)  # type: ignore[no-any-return]
    except RuntimeError:  # no directory for the cache can be written
        return numba.njit(function, nogil=True, fastmath=False)  # type: ignore[no-any-return]


def plain_loop(
    x: Any, out: Any, top: Any, scale: Any, step: Any, whole: Any, seed: Any, stream: Any, first: Any
) -> None:
    """A scheme without random numbers. `x` is None when `out` is rounded in place."""
    source = out if x is None else x
    for k in range(out.size):
        out[k] = round_one(source[k], ZERO, top, scale, step, whole)


def random_loop(
    x: Any, out: Any, top: Any, scale: Any, step: Any, whole: Any, seed: Any, stream: Any, first: Any
) -> None:
    """A scheme with them: elements up to the first whole block of four, the blocks, and what is left."""
    source = out if x is None else x
    size = out.size
    head = min(np.int64((np.uint64(4) - (first & np.uint64(3))) & np.uint64(3)), size)
    tail = head + (size - head) // 4 * 4
    for k in range(head):
        out[k] = round_one(source[k], uniform(seed, stream, first + np.uint64(k)), top, scale, step, whole)
    results = out[head:tail]  # an index that starts at 0 is known not to count from the end
    values = results if x is None else x[head:tail]
    first_block = (first + np.uint64(head)) >> np.uint64(2)
    for b in range(results.size // 4):
        w0, w1, w2, w3 = block_words(seed, stream, first_block + np.uint64(b))
        results[4 * b] = round_one(values[4 * b], unit(w0), top, scale, step, whole)
        results[4 * b + 1] = round_one(values[4 * b + 1], unit(w1), top, scale, step, whole)
        results[4 * b + 2] = round_one(values[4 * b + 2], unit(w2), top, scale, step, whole)
        results[4 * b + 3] = round_one(values[4 * b + 3], unit(w3), top, scale, step, whole)
    for k in range(tail, size):
        out[k] = round_one(source[k], uniform(seed, stream, first + np.uint64(k)), top, scale, step, whole)
