"""Statistics of a rounding, taken while it happens: each piece is rounded and looked at while it is in the cache.

Sums of floats depend on their order, so the order is part of the definition, and the same for every backend, number of
threads and memory layout: the array in C order is cut into pieces of 2^16 elements; in a piece, element k is added to
sum k mod 128, and then the 128 sums one after the other; the sums of the pieces are added exactly and rounded once
(math.fsum).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.numbers.decibels import sqnr_db
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import numba_backend, numpy_backend
from lpcaffe.numbers.rounding.compiled import bound
from lpcaffe.numbers.rounding.scalar import ZERO
from lpcaffe.numbers.rounding.scheme import Floats, Scheme

PIECE = 1 << 16
LANES = 128

Tally = tuple[int, int, int, float, float, float]
"""saturated, zeros before, zeros after, largest error, sum of squares, sum of squared errors"""


@dataclass(frozen=True, slots=True)
class RoundingStats:
    """What rounding did to `count` elements. Differences and sums are taken in float64; NaN adds to `count` only.

    saturated       values beyond the largest of the format by half a step or more (docs/decisions/0009)
    zeros_before, zeros_after    zeros among the values and among the results
    max_abs_error   the largest |rounded - value|; infinite when a value is
    signal, noise   sums of squares of the values and of the errors
    """

    count: int
    saturated: int
    zeros_before: int
    zeros_after: int
    max_abs_error: float
    signal: float
    noise: float

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization-noise ratio in dB; None without noise, or without signal."""
        return sqnr_db(self.signal, self.noise)


def round_flat(
    x: Floats,
    out: Floats,
    scheme: Scheme,
    fmt: QFormat,
    seed: int,
    stream: int,
    index: int,
    compiled: bool,
    threads: int | None,
) -> RoundingStats:
    """Round the contiguous 1-D array `x` into `out`, which may be `x`, with or without compiled code."""
    limit = x.dtype.type(fmt.max + fmt.step / 2)  # rounds up where half a step is more than the type can tell
    in_place = x.ctypes.data == out.ctypes.data
    tallies: list[Tally] = []

    def piece(start: int) -> None:
        part = slice(start, start + PIECE)
        before = x[part].copy() if in_place else x[part]
        backend = numba_backend if compiled else numpy_backend
        backend.round_flat(x[part], out[part], scheme, fmt, seed, stream, index + start, threads=1)
        tallies.append(
            kernel()(numba_backend.read_only(before), out[part], limit) if compiled else tally(before, out[part], limit)
        )

    numba_backend.each_piece(piece, x.size, PIECE, threads if compiled else 1)
    saturated, before, after, largest, signal, noise = zip(*tallies, strict=True) if tallies else [(0,)] * 6
    return RoundingStats(
        x.size, sum(saturated), sum(before), sum(after), max(largest), exact_sum(signal), exact_sum(noise)
    )


def exact_sum(values: tuple[float, ...]) -> float:
    """The sum of numbers that are not negative, in any order, rounded once."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def tally(x: Floats, q: Floats, limit: Any) -> Tally:
    """The figures of a piece, in NumPy."""
    number = x == x
    values = np.where(number, x, 0).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        error = np.abs(np.where(number, q, 0) - values)
        sums = [lane_sum(values * values), lane_sum(error * error)]
    return (
        int(np.count_nonzero(np.abs(x) >= limit)),
        int(np.count_nonzero(x == 0)),
        int(np.count_nonzero(q == 0)),
        float(error.max(initial=0.0)),
        sums[0],
        sums[1],
    )


def lane_sum(squares: Floats) -> float:
    """The sum in the order that the module defines; zeros fill the last row."""
    rows = -(-squares.size // LANES)
    filled = np.zeros(rows * LANES)
    filled[: squares.size] = squares
    return float(np.add.accumulate(np.add.reduce(filled.reshape(rows, LANES), axis=0))[-1])


@functools.cache
def kernel() -> Callable[..., Tally]:
    """`tally`, compiled."""
    return numba_backend.compiled(bound(tally_loop), "tally")


def tally_loop(x: Any, q: Any, limit: Any) -> Any:
    """The figures of a piece, for compiled code; loops in a form that LLVM vectorises without changing any order."""
    saturated, zeros_before, zeros_after = np.int32(0), np.int32(0), np.int32(0)
    for k in range(x.size):
        saturated += np.int32(abs(x[k]) >= limit)
    for k in range(x.size):
        zeros_before += np.int32(x[k] == ZERO)
    for k in range(x.size):
        zeros_after += np.int32(q[k] == ZERO)
    largest, signal, noise = np.zeros(LANES), np.zeros(LANES), np.zeros(LANES)
    for start in range(0, x.size, LANES):
        row, rounded = x[start : start + LANES], q[start : start + LANES]
        for lane in range(row.size):
            before, after = row[lane], rounded[lane]
            value = np.float64(before) if before == before else 0.0
            error = abs(np.float64(after) - value) if before == before else 0.0
            largest[lane] = error if error > largest[lane] else largest[lane]
            signal[lane] += value * value
            noise[lane] += error * error
    most, squares, wrong = 0.0, 0.0, 0.0
    for lane in range(LANES):
        most = largest[lane] if largest[lane] > most else most
        squares += signal[lane]
        wrong += noise[lane]
    return saturated, zeros_before, zeros_after, most, squares, wrong
