"""Decibels: the signal to quantization-noise ratio."""

from __future__ import annotations

import math


def sqnr_db(signal: float, noise: float) -> float | None:
    """10 log10(signal / noise) in dB, of two sums of squares; None without noise, or without signal."""
    if noise == 0 or signal == 0:
        return None
    return 10 * math.log10(signal / noise)


def rounded_db(value: float | None) -> float | None:
    """Decibels to a thousandth, for reports."""
    return None if value is None else round(value, 3)
