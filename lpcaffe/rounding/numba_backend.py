"""The rounding rule compiled by Numba for the CPU: one plain loop for each scheme and data type.

Numba is imported here only, and only when a kernel is asked for. Kernels are compiled when first called and kept in
Numba's cache beside this file, in the user's cache directory when that is read-only, and nowhere when both are.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from lpcaffe.errors import MissingExtraError
from lpcaffe.qformat import QFormat
from lpcaffe.rounding import philox, scalar
from lpcaffe.rounding import scheme as schemes
from lpcaffe.rounding.philox import uniform
from lpcaffe.rounding.scalar import ZERO, join, split
from lpcaffe.rounding.scheme import SCHEMES, Floats, Scheme

PIECE = 1 << 20
"""Elements in a piece: calls are rare then, and the buffers that a strided array needs are small."""


def require() -> None:
    """Raise MissingExtraError when Numba cannot be imported."""
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(f"Numba cannot be imported: {error}", hint='use backend="numpy"') from error


def round_piece(x: Floats, out: Floats, scheme: Scheme, fmt: QFormat, seed: int, stream: int, index: int) -> None:
    """Round the contiguous 1-D array `x` into `out`, which may be `x`. `index` is that of the first element."""
    real = x.dtype.type
    whole = real(2.0 ** np.finfo(x.dtype).nmant)
    constants = real(fmt.max), real(2.0**fmt.ad), real(fmt.step), whole
    source = None if x.ctypes.data == out.ctypes.data else x  # two pointers into one array would not be vectorised
    kernel(scheme.name)(source, out, *constants, np.uint64(seed), np.uint64(stream), np.uint64(index))


@functools.cache
def kernel(name: str) -> Callable[..., int]:
    """The compiled loop of one scheme."""
    import numba

    rule, random = SCHEMES[name].rule, SCHEMES[name].random
    for function in (scalar.floor_of, split, join, philox.philox4x32, uniform, rule):
        _make_callable(function)
    # Numba's cache watches this file and the values that a kernel closes over, but not the other files that the
    # kernel is made of. So it closes over their hash, and returns it, which keeps it from being optimised away.
    sources = [inspect.getsource(module) for module in (schemes, scalar, philox, inspect.getmodule(rule)) if module]
    version = int(hashlib.sha256("".join(sources).encode()).hexdigest()[:15], 16)

    def round_all(
        x: Any, out: Any, top: Any, scale: Any, step: Any, whole: Any, seed: Any, stream: Any, first: Any
    ) -> int:
        source = out if x is None else x  # see round_piece
        for k in range(out.size):
            value = source[k]
            u = uniform(seed, stream, first + np.uint64(k)) if random else ZERO
            negative, integer, fraction, odd = split(value, top, scale, whole)
            q = join(negative, integer, rule(odd, fraction, u, negative), step)
            out[k] = q if value == value else value
        return version

    compiled: Callable[..., int]
    try:
        compiled = numba.njit(round_all, nogil=True, fastmath=False, cache=True)
    except RuntimeError:  # no directory for the cache can be written
        compiled = numba.njit(round_all, nogil=True, fastmath=False)
    return compiled


@functools.cache
def _make_callable(function: Callable[..., Any]) -> None:
    """Let compiled code call a plain function, which stays plain for Python and for other targets.

    The generator is inlined by Numba: LLVM would keep it a call, and the loop around it would run 9 times slower.
    """
    from numba.extending import overload

    inline: Any = "always" if function in (philox.philox4x32, uniform) else "never"
    overload(function, inline=inline, strict=False)(lambda *arguments: function)
