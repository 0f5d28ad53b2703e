"""How far rounded values are from what they were."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.errors import DataError
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.rounding import RoundingStats


@dataclass
class ErrorStats:
    """Running figures of a tensor and its rounded version; `add` takes them piece by piece.

    saturated       values beyond the largest of the format by half a step or more
    max_abs_error   the largest |rounded - value|
    signal, noise   sums of squares of the values and of the errors, float64
    zeros_before, zeros_after    exact zeros
    min, max        extremes of the values; infinities the wrong way round without any
    """

    count: int = 0
    saturated: int = 0
    zeros_before: int = 0
    zeros_after: int = 0
    max_abs_error: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    min: float = math.inf
    max: float = -math.inf

    def add(
        self, values: np.ndarray, rounded: np.ndarray, fmt: NumberFormat | None, unrounded: np.ndarray | None = None
    ) -> None:
        """Add a piece: the true values and what became of them.

        Saturation is judged on `unrounded`, what round_fp was given; the values themselves when it is left out. Raises
        DataError for NaN and infinity: no figure could tell of them.
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
        self.min = min(self.min, float(values.min(initial=math.inf)))
        self.max = max(self.max, float(values.max(initial=-math.inf)))
        self.max_abs_error = max(self.max_abs_error, float(np.abs(error).max(initial=0.0)))
        self.signal += float(np.sum(np.square(values, dtype=np.float64)))
        self.noise += float(np.sum(np.square(error)))

    def add_stats(self, values: np.ndarray, stats: RoundingStats) -> None:
        """Add a piece that `round_fp_stats` rounded, and what it says of it. The values must be finite."""
        self.count += stats.count
        self.saturated += stats.saturated
        self.zeros_before += stats.zeros_before
        self.zeros_after += stats.zeros_after
        self.min = min(self.min, float(values.min(initial=math.inf)))
        self.max = max(self.max, float(values.max(initial=-math.inf)))
        self.max_abs_error = max(self.max_abs_error, stats.max_abs_error)
        self.signal += stats.signal
        self.noise += stats.noise

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization-noise ratio, 10 log10(signal / noise) in dB; None without noise, or without signal."""
        if self.noise == 0 or self.signal == 0:
            return None
        return 10 * math.log10(self.signal / self.noise)

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
        """What a reader should know of the values: that nothing varies in them; None otherwise."""
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


def rounded_db(value: float | None) -> float | None:
    """Decibels to a thousandth."""
    return None if value is None else round(value, 3)
