"""A fixed-point format, Qm.f, as a value.

Q(bd).(ad) has `bd` bits before the binary point, **the sign bit included**, and `ad` bits after it. Its values are the
integer codes -N .. N times the step:

    width = bd + ad        step = 2^-ad        N = 2^(width - 1) - 1        max = N * step = 2^(bd - 1) - 2^-ad

The range is symmetric: -2^(bd - 1) is not a value. Q2.14 is what C++'s `ap_fixed<16, 2>` is, and what ADaPTION has
written since November 2016. Text is `Q2.14`; either number may be negative (`Q-1.3` holds small weights in 2 bits,
`Q20.-4` counts sixteens).
"""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import Codes, Floats, NumberFormat

_TEXT = re.compile(r"[Qq](-?[0-9]{1,6})\.(-?[0-9]{1,6})")

# Widest format, smallest and largest ad of which a float type holds every value; see check_dtype.
_LIMITS = {
    np.dtype(kind): (np.finfo(kind).nmant + 2, -(np.finfo(kind).nmant + 1), -int(np.finfo(kind).minexp))
    for kind in (np.float32, np.float64)
}


@dataclass(frozen=True, slots=True, order=True)
class QFormat(NumberFormat):
    """The format Q(bd).(ad): `bd` bits before the binary point with the sign, `ad` after it.

    Any integers with `bd + ad >= 1`, as long as step and range are float64 numbers (`bd <= 1024`, `ad <= 1074`).
    What a prototxt can say or a data type can hold is narrower: the dialect and `check_dtype` decide that.
    Formats compare by `bd`, then `ad`. Raises FormatError.
    """

    bd: int
    ad: int

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "bd", operator.index(self.bd))
            object.__setattr__(self, "ad", operator.index(self.ad))
        except TypeError:
            raise FormatError(f"a format needs two integers, got bd={self.bd!r}, ad={self.ad!r}") from None
        if self.width < 1:
            raise FormatError(f"{self} has {self.width} bits; expected bd + ad >= 1")
        if self.bd > 1024 or self.ad > 1074:
            raise FormatError(f"{self}: step and range must be float64 numbers; expected bd <= 1024 and ad <= 1074")

    def __str__(self) -> str:
        return f"Q{self.bd}.{self.ad}"

    def to_plain(self) -> str:
        """The text."""
        return str(self)

    @property
    def width(self) -> int:
        """Bits in all."""
        return self.bd + self.ad

    @property
    def step(self) -> float:
        """The distance of neighbouring values, 2^-ad."""
        return math.ldexp(1.0, -self.ad)

    @property
    def code_max(self) -> int:
        """The largest integer code, N = 2^(width - 1) - 1."""
        return (1 << (self.width - 1)) - 1

    @property
    def max(self) -> float:
        """The largest value, N * step; exact up to a width of 54."""
        return math.ldexp(1.0, self.bd - 1) - self.step

    @property
    def min(self) -> float:
        """The smallest value, -max."""
        return -self.max

    def quantize(
        self, x: ArrayLike, scheme: str = "deterministic", *, seed: int = 0, stream: int = 0, index: int = 0
    ) -> Floats:
        """round_fp."""
        from lpcaffe.numbers.rounding import round_fp

        return round_fp(x, self.bd, self.ad, scheme, seed=seed, stream=stream, index=index)

    def holds(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Whether each number is one of this format's values: on the grid and in range. -0.0 is 0, NaN is no value.

        The result has the shape of `x`, which is read as float64.
        """
        values = np.asarray(x, dtype=np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            codes = np.ldexp(values, self.ad)
            # ldexp back tells a code from a value that underflowed to one; the bound is compared as a float because
            # N + 1 is a power of two and so always exact.
            on_grid = (np.trunc(codes) == codes) & (np.ldexp(codes, -self.ad) == values)
            return np.asarray(on_grid & (np.abs(codes) < math.ldexp(1.0, min(self.width - 1, 1023))))

    def codes(self, x: ArrayLike) -> NDArray[np.int64]:
        """The integer codes of values that are in the format already (see `holds`; `round_fp` puts them there).

        Returns int64 of the shape of `x`. Raises FormatError for a value that the format does not hold, naming the
        first index, and for formats wider than 64 bits.
        """
        if self.width > 64:
            raise FormatError(f"the codes of {self} have {self.width} bits; an int64 holds 64")
        values = np.asarray(x, dtype=np.float64)
        held = self.holds(values)
        if not held.all():
            first = int(np.argmin(held.reshape(-1)))
            value = float(values.reshape(-1)[first])
            raise FormatError(
                f"{value!r} at index {first} is not a value of {self}", hint="round it with round_fp first"
            )
        return np.asarray(np.ldexp(values, self.ad)).astype(np.int64)

    def _quantized(self, x: Floats) -> Floats:
        return self.quantize(x)

    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        held = self.holds(values)
        return self.codes(np.where(held, values, 0)), held

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        return np.ldexp(codes.astype(dtype), -self.ad), np.asarray(np.abs(codes) <= self.code_max)

    def _limits(self) -> tuple[float, float]:
        return self.min - self.step / 2, self.max + self.step / 2

    def check_dtype(self, dtype: DTypeLike) -> None:
        """Raise FormatError, with the reason, when float32 or float64 arithmetic in this format is not exact.

        A float of p significant bits (24 or 53) holds all codes up to 2^p - 1, so a width of p + 1: 25 or 54. The step
        must be a normal number, ad <= 126 or 1022, and ad >= -p keeps the other end in range with room to spare.
        """
        kind = np.dtype(dtype)
        if kind not in _LIMITS:
            raise FormatError(f"expected float32 or float64 data for {self}, got {kind}")
        widest, lowest, highest = _LIMITS[kind]
        wider = "use float64 data or a narrower format" if kind == np.float32 else "use a narrower format"
        if self.width > widest:
            raise FormatError(
                f"{self} has {self.width} bits; a {kind} holds every value of a format only up to bd + ad = {widest}",
                hint=wider,
            )
        if not lowest <= self.ad <= highest:
            raise FormatError(f"{self}: {kind} data needs {lowest} <= ad <= {highest} (got {self.ad})")

    @staticmethod
    def parse(text: str) -> QFormat:
        """The format that `text` names: "Q2.14", "q2.14", "Q-1.3". Raises FormatError."""
        match = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise FormatError(f"expected a format such as Q2.14, got {text!r}")
        return QFormat(int(match[1]), int(match[2]))

    @staticmethod
    def holding(max_abs: float, width: int) -> QFormat:
        """The format of `width` bits with the fewest bits before the point that holds +-max_abs without saturating.

        That is the smallest bd, of any sign, with round(max_abs * 2^ad) <= N, ties away from zero and ad = width - bd.
        Nothing decides for max_abs = 0; bd is 1 then. Raises FormatError when max_abs is negative, NaN or infinite.

        With max_abs = m * 2^e and 1/2 <= m < 1 the smallest candidate is bd = e + 1. The code there is
        m * 2^(width - 1), which rounds to N or less when it is below N + 1/2: when m < 1 - 2^-width. Else bd = e + 2.
        """
        magnitude = float(max_abs)
        if not (math.isfinite(magnitude) and magnitude >= 0):
            raise FormatError(f"expected a finite magnitude, got {max_abs}")
        if magnitude == 0:
            return QFormat(1, width - 1)
        mantissa, exponent = math.frexp(magnitude)
        bd = exponent + (1 if mantissa < 1 - math.ldexp(1.0, -width) else 2)
        return QFormat(bd, width - bd)


def from_old_bd(bd: int, ad: int) -> QFormat:
    """The format that ADaPTION meant by `bd` and `ad` before November 2016, when `bd` did not count the sign bit."""
    return QFormat(bd + 1, ad)
