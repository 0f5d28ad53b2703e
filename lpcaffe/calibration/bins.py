"""The histogram behind TensorStats: float32 values counted by the leading bits of their representation.

    bit    31     30 ... 23     22 ... 18            17 ... 0
           sign   exponent      top of mantissa      rest of mantissa
           the key of the bin                        summed in the bin

A key of 14 bits is one bin: 32 bins an octave, so a bin is 1/32 to 1/63 of its values wide. A bin holds integers only:
the number of its values, the sum of their low 18 bits, which makes its mean exact, and the sum of the squares of the
low bits, rounded to units of 16, which gives the variance (2^35 values in a bin are sure not to overflow it). -0.0
counts as 0.0.

With the bins come the counters `above`: for m = 0 .. 31, how many x > 2^m - 1, exactly. The exponents tell how many
x >= 2^m; those strictly between 2^m - 1 and 2^m are counted by exponent while the bins are filled (from m = 25 on no
float32 lies there).

Small arrays are counted by NumPy, others by a loop compiled by Numba, which is imported for them only; both give the
same integers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Keys = NDArray[np.uint16]
Bits = NDArray[np.uint32]

KEYS = 1 << 14
SIGN = KEYS // 2
"""Keys from here on are of negative values."""
INFINITE = 255 << 5
"""The bins of magnitudes from here on are of infinity and NaN, and stay empty."""
LOW_BITS = 18
COUNTERS = 32

_SMALL = 1 << 12
_PIECE = 1 << 21
"""Values that one scratch table takes: a cell is count * 2^40 + sum, and so many low parts sum to less than 2^39."""
_LANES = 4
"""Scratch tables filled in turn: many equal values, as after a ReLU, would make every addition wait for the last."""

# By sign and exponent, the representation that a value must exceed to be counted between 2^m - 1 and 2^m (exponent
# m - 1), or as a positive denormal (exponent 0). No other value exceeds its entry.
_FLOORS = np.full(512, 1 << 32, np.int64)
_FLOORS[0] = 0
_FLOORS[127:151] = (2.0 ** np.arange(1, 25) - 1).astype(np.float32).view(np.uint32)


def fill(values: NDArray[np.float32]) -> tuple[Ints, Keys, Ints, Ints, Ints]:
    """`above`, then keys (ascending), counts, sums and squares of the bins that hold something.

    The values must be finite.
    """
    bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32)
    if bits.size <= _SMALL:
        counts, sums, squares, between = _count_small(bits)
    else:
        counts, sums, squares = np.zeros((3, KEYS), np.int64)
        between = np.zeros(512, np.int64)
        for start in range(0, bits.size, _PIECE):
            cells, square_cells = np.zeros((2, _LANES, KEYS), np.int64)
            own = np.zeros((_LANES, 512), np.int64)
            _kernel()(bits[start : start + _PIECE], _FLOORS, cells, square_cells, own)
            counts += (cells >> 40).sum(0)
            sums += (cells & ((1 << 40) - 1)).sum(0)
            squares += square_cells.sum(0)
            between += own.sum(0)
    keys = np.flatnonzero(counts)
    return _above(counts, between), keys.astype(np.uint16), counts[keys], sums[keys], squares[keys]


def _above(counts: Ints, between: Ints) -> Ints:
    octaves = counts[:SIGN].reshape(256, 32).sum(1)
    reached = octaves[::-1].cumsum()[::-1]  # how many have this exponent or a larger one
    above: Ints = reached[127 : 127 + COUNTERS].copy()
    above[0] = reached[1] + between[0]
    above[1:25] += between[127:151]
    return above


def _count_small(bits: Bits) -> tuple[Ints, Ints, Ints, Ints]:
    own = np.where(bits == 1 << 31, 0, bits).astype(np.int64)
    keys, exponents, low = own >> LOW_BITS, own >> 23, own & ((1 << LOW_BITS) - 1)
    # Sums in float64: exact, of so few values they stay far below 2^53.
    counts, sums, squares = (np.bincount(keys, w, minlength=KEYS) for w in (None, low, ((low + 8) >> 4) ** 2))
    between = np.bincount(exponents[own > _FLOORS[exponents]], minlength=512)
    return counts, sums.astype(np.int64), squares.astype(np.int64), between


def _count(bits: Any, floors: Any, cells: Any, squares: Any, between: Any) -> None:
    whole = bits.size // 4 * 4
    for start in range(0, whole, 4):
        for lane in range(4):
            own: Any = np.int64(bits[start + lane])
            if own == 1 << 31:
                own = 0
            low = own & 0x3FFFF
            sixteenth = (low + 8) >> 4
            cells[lane, own >> 18] += (1 << 40) + low
            squares[lane, own >> 18] += sixteenth * sixteenth
            between[lane, own >> 23] += own > floors[own >> 23]
    for k in range(whole, bits.size):
        last: Any = np.int64(bits[k])
        if last == 1 << 31:
            last = 0
        low = last & 0x3FFFF
        sixteenth = (low + 8) >> 4
        cells[0, last >> 18] += (1 << 40) + low
        squares[0, last >> 18] += sixteenth * sixteenth
        between[0, last >> 23] += last > floors[last >> 23]


@functools.cache
def _kernel() -> Callable[..., None]:
    from lpcaffe.numbers.rounding.numba_backend import compiled, require

    require()
    return compiled(_count, "count_bins")
