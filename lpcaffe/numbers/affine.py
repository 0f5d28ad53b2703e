"""Affine formats: evenly spaced values with a scale and a zero point.

    value = (code - zero) * scale        lo <= code <= hi

Codes are 0 .. 2^bits - 1, or -2^(bits - 1) .. 2^(bits - 1) - 1 where `signed`. `zero` may be a fraction, and need not
be a code. Rounding is

    v    = clip(x / scale + zero, lo, hi)
    code = R(v)                          R: nearest, with `ties`
    q    = (code - zero) * scale

    ties    v half way between k and k + 1
    even    the even one
    away    away from code 0, as C's round() does
    down    k, as ceil(v - 1/2)
    up      k + 1, as floor(v + 1/2)

**In which arithmetic.** For float32 data every operation is float32's, rounded by itself. That is what gemmlowp's
quantizer computes in cnn-quantization, and what a kernel computes, so a number within a rounding error of a tie goes
where v went. For float64 data x is compared with the middle (k + 1/2 - zero) * scale of its two neighbours. float64
holds that product when zero is a whole number and there are at most 24 bits, or when the scale is a power of two; the
result is then the nearest value exactly.

At most 32 bits, what an integer of any machine has; for float32 data 23, of which it holds the codes and their halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import (
    FLOAT32_MAX,
    Codes,
    Floats,
    Number,
    NumberFormat,
    check_lengths,
    per_channel,
    plain,
    positive,
    real,
    scalar_or_array,
    short,
    shown,
    whole,
)

MAX_BITS = 32
MAX_FLOAT32_BITS = 23

# Whether a tie between k and k + 1 goes up.
TIES: dict[str, Callable[[Floats], Any]] = {
    "even": lambda k: np.floor(k / 2) * 2 != k,
    "away": lambda k: k >= 0,
    "down": lambda k: False,
    "up": lambda k: True,
}


DEFAULTS = {"signed": False, "ties": "even"}


@dataclass(frozen=True, slots=True)
class Affine(NumberFormat):
    """The format of `bits` bits with `scale` and `zero`; each may be a tuple of one number a channel.

    In a tuple a channel may have 0 bits, as bit allocation gives them: its one code is 0. Raises FormatError.
    """

    VECTORS: ClassVar[tuple[str, ...]] = ("bits", "scale", "zero")

    bits: int | tuple[int, ...]
    scale: float | tuple[float, ...]
    zero: float | tuple[float, ...] = 0.0
    signed: bool = False
    ties: str = "even"

    def __post_init__(self) -> None:
        fewest = 0 if isinstance(self.bits, list | tuple | np.ndarray) else 1
        bits = per_channel("bits", self.bits, lambda what, value: whole(what, value, fewest, MAX_BITS))
        object.__setattr__(self, "bits", bits)
        object.__setattr__(self, "scale", per_channel("scale", self.scale, positive))
        object.__setattr__(self, "zero", per_channel("zero", self.zero, real))
        check_lengths(bits=self.bits, scale=self.scale, zero=self.zero)
        if not isinstance(self.signed, bool):
            raise FormatError(f"signed: expected true or false, got {short(self.signed)}")
        if not isinstance(self.ties, str) or self.ties not in TIES:
            raise FormatError(f"ties: expected {', '.join(TIES)}, got {short(self.ties)}")
        if np.max(np.abs([self._at(self.code_min, np.float64), self._at(self.code_max, np.float64)])) > FLOAT32_MAX:
            raise FormatError(f"expected values that float32 holds, got {self._name}")

    def __str__(self) -> str:
        options = ",signed" * self.signed + f",ties={self.ties}" * (self.ties != "even")
        return f"affine({shown(self.bits)},{shown(self.scale)},{shown(self.zero)}{options})"

    def to_plain(self) -> dict[str, Any]:
        """`{bits: 4, scale: [0.01, 0.02], zero: [7, 8]}`, and `signed` and `ties` where they are not the defaults."""
        head = {"bits": plain(self.bits), "scale": plain(self.scale), "zero": plain(self.zero)}
        options = {"signed": self.signed, "ties": self.ties}
        return head | {name: value for name, value in options.items() if value != DEFAULTS[name]}

    @property
    def width(self) -> int:
        """Bits of a code; of the widest channel."""
        return int(np.max(self.bits))

    @property
    def code_min(self) -> Any:
        """The smallest code of each channel, lo."""
        return -(2 ** np.asarray(self.bits) // 2) * self.signed

    @property
    def code_max(self) -> Any:
        """The largest code of each channel, hi."""
        return self.code_min + 2 ** np.asarray(self.bits) - 1

    @property
    def max(self) -> Number:
        """The largest value."""
        return scalar_or_array(self._at(self.code_max, np.float64))

    @property
    def min(self) -> Number:
        """The smallest value."""
        return scalar_or_array(self._at(self.code_min, np.float64))

    def check_dtype(self, dtype: DTypeLike) -> None:
        """Raise FormatError for other types than float64 and, up to 23 bits, float32; it rounds the values."""
        NumberFormat.check_dtype(self, dtype)
        if np.dtype(dtype) == np.float32 and self.width > MAX_FLOAT32_BITS:
            raise FormatError(
                f"{self._name}: expected at most {MAX_FLOAT32_BITS} bits for float32 data, got {self.width}",
                hint="use float64 data",
            )

    def _at(self, codes: Any, dtype: DTypeLike) -> Any:
        """(code - zero) * scale, in `dtype`."""
        zero, scale = np.asarray(self.zero, dtype), np.asarray(self.scale, dtype)
        return np.asarray((np.asarray(codes, dtype) - zero) * scale)

    def _rounded(self, x: Floats) -> Floats:
        """The codes of `x` as floats."""
        zero, scale, low, high = (np.asarray(p, x.dtype) for p in (self.zero, self.scale, self.code_min, self.code_max))
        v = np.clip(x / scale + zero, low, high)
        k = np.floor(v)
        half = x.dtype.type(0.5)
        beyond = v - (k + half) if x.dtype == np.float32 else x - (k + half - zero) * scale
        up = beyond > 0
        tie = beyond == 0
        if tie.any():
            up |= tie & TIES[self.ties](k)
        codes: Floats = np.minimum(k + up, high)
        return codes

    def _quantized(self, x: Floats) -> Floats:
        values: Floats = self._at(self._rounded(x), x.dtype)
        return values

    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        codes = self._rounded(values)
        held = np.asarray(self._at(codes, values.dtype) == values)
        return np.where(held, codes, 0).astype(np.int64), held

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        values: Floats = self._at(codes, dtype)
        return values, np.broadcast_to((codes >= self.code_min) & (codes <= self.code_max), values.shape)

    def _limits(self) -> tuple[Number, Number]:
        return (
            scalar_or_array(self._at(self.code_min - 0.5, np.float64)),
            scalar_or_array(self._at(self.code_max + 0.5, np.float64)),
        )
