"""How far rounded values are from what they were.

Statistics merge: `a + b` describes what both describe, to the same bits in any order. Sums of floats depend on their
order, so the order is part of the definition: the squares of a piece are added in float64, in C order, and the sums of
pieces are added exactly. A piece is an image, or a chunk of a blob (lpcaffe.net.blobs.CHUNK).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from lpcaffe.errors import DataError
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.decibels import rounded_db, sqnr_db
from lpcaffe.numbers.rounding import RoundingStats

ExactSum = Fraction | float
"""A sum without rounding: a Fraction, or infinity."""


@dataclass
class ErrorStats:
    """Running figures of a tensor and its rounded version. `add` and `add_stats` take more of it, `a + b` merges.

    saturated       values beyond the largest of the format by half a step or more
    max_abs_error   the largest |rounded - value|
    signal_sum, noise_sum    sums of squares of the values and of the errors
    zeros_before, zeros_after    exact zeros
    min, max        extremes of the values; infinities the wrong way round without any
    """

    count: int = 0
    saturated: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    max_abs_error: float = 0.0
    signal_sum: ExactSum = Fraction(0)
    noise_sum: ExactSum = Fraction(0)
    min: float = math.inf
    max: float = -math.inf

    def add(
        self, values: np.ndarray, rounded: np.ndarray, fmt: NumberFormat | None, unrounded: np.ndarray | None = None
    ) -> None:
        """Add images: the true values, N x ..., and their rounded versions. Every index of axis 0 is a piece.

        Saturation is judged on `unrounded`, what round_fp was given; the values themselves when it is left out. Raises
        DataError for NaN and infinity, for which no figure has a meaning.
        """
        with np.errstate(invalid="ignore"):
            error = rounded.astype(np.float64) - values
        if not np.isfinite(error).all():
            raise DataError("a value is NaN or infinite", hint="check the weights and the input's range")
        given = values if unrounded is None else unrounded
        self.count += int(values.size)
        self.zeros_before += int(np.count_nonzero(values == 0))
        self.zeros_after += int(np.count_nonzero(rounded == 0))
        if fmt is not None:
            self.saturated += int(np.count_nonzero(fmt.saturates(given)))
        self._extend(values, float(np.abs(error).max(initial=0.0)))
        self.signal_sum = self.signal_sum + squares(values)
        self.noise_sum = self.noise_sum + squares(error)

    def add_stats(self, values: np.ndarray, stats: RoundingStats) -> None:
        """Add a piece that `round_fp_stats` rounded, and its statistics. The values must be finite."""
        self.count += stats.count
        self.saturated += stats.saturated
        self.zeros_before += stats.zeros_before
        self.zeros_after += stats.zeros_after
        self._extend(values, stats.max_abs_error)
        self.signal_sum = self.signal_sum + exact(stats.signal)
        self.noise_sum = self.noise_sum + exact(stats.noise)

    def _extend(self, values: np.ndarray, max_abs_error: float) -> None:
        """Take more values into the extremes; + 0.0 leaves no -0.0."""
        self.min = min(self.min, float(values.min(initial=math.inf)) + 0.0)
        self.max = max(self.max, float(values.max(initial=-math.inf)) + 0.0)
        self.max_abs_error = max(self.max_abs_error, max_abs_error)

    def __add__(self, other: ErrorStats) -> ErrorStats:
        return ErrorStats(
            self.count + other.count,
            self.saturated + other.saturated,
            self.zeros_before + other.zeros_before,
            self.zeros_after + other.zeros_after,
            max(self.max_abs_error, other.max_abs_error),
            self.signal_sum + other.signal_sum,
            self.noise_sum + other.noise_sum,
            min(self.min, other.min),
            max(self.max, other.max),
        )

    @property
    def signal(self) -> float:
        """The sum of the squares of the values, rounded once."""
        return rounded_once(self.signal_sum)

    @property
    def noise(self) -> float:
        """The sum of the squares of the errors, rounded once."""
        return rounded_once(self.noise_sum)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization-noise ratio in dB; None without noise, or without signal."""
        return sqnr_db(self.signal, self.noise)

    @property
    def saturated_fraction(self) -> float:
        """Saturated values of all."""
        return self.saturated / max(self.count, 1)

    @property
    def zero_fraction(self) -> float:
        """Zeros after rounding, of all."""
        return self.zeros_after / max(self.count, 1)

    @property
    def note(self) -> str | None:
        """A note for the reader where all values are equal: "constant" or "all zero"; None otherwise."""
        if self.count < 2 or self.min != self.max:
            return None
        return "constant" if self.max else "all zero"

    def weights_json(self, fmt: NumberFormat) -> dict[str, Any]:
        """The entry of report.json for weights or a bias."""
        return {
            "format": str(fmt),
            "count": self.count,
            "saturated": self.saturated,
            "max_abs_error": self.max_abs_error,
            "sqnr_db": rounded_db(self.sqnr_db),
            "zeros_before": self.zeros_before,
            "zeros_after": self.zeros_after,
        }

    def output_json(self, fmt: NumberFormat) -> dict[str, Any]:
        """The entry of report.json for an output."""
        return {
            "format": str(fmt),
            "saturated_fraction": self.saturated_fraction,
            "zero_fraction": self.zero_fraction,
            "sqnr_db": rounded_db(self.sqnr_db),
        }


def exact(value: float) -> ExactSum:
    """A number to add without rounding."""
    return Fraction(value) if math.isfinite(value) else value


def squares(values: np.ndarray) -> ExactSum:
    """The sum of the squares: in float64 within each index of axis 0, exact from one to the next."""
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(np.square(values, dtype=np.float64))
        return sum((exact(float(np.sum(row))) for row in rows), Fraction(0))


def rounded_once(total: ExactSum) -> float:
    """A sum as float64, infinite where it is too large for one."""
    try:
        return float(total)
    except OverflowError:
        return math.inf
