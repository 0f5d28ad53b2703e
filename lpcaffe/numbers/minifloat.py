"""Small floats with exponent and mantissa bits of any number: `minifloat(e,m)`.

    value = +-(1 + M / 2^m) * 2^(E - bias)        0 <= M < 2^m    0 <= E < 2^e    bias = 2^(e - 1) - 1

and 0. There are no infinities, no NaN and no subnormal numbers: the smallest magnitude is 2^-bias, the largest
(2 - 2^-m) * 2^(2^(e - 1)). Rounding is to nearest, halves away from zero, and saturates. A magnitude of 2^-bias / 2 or
more becomes 2^-bias, a smaller one 0.

`minifloat(e,m)/ristretto` is Ristretto's rule (Trim2MiniFloat_cpu, applied to each number): a magnitude below 2^-bias
becomes 0, and one that rounds up past the largest becomes the next power of two, which the format does not have; from
that power on it is the largest again. With (4,3), 496 to 511.99 become 512, and 512 becomes 480. Ristretto computes on
float32, so 8 exponent bits are for float32 data too: float32's own subnormal numbers become 0 then, and what rounds up
past its largest number becomes an infinity.

**Codes** are sign, exponent and mantissa, from the top bit down, in 1 + e + m bits. Each of these patterns is a number
other than 0, so 0 has the code after the last, 2^width; Ristretto's power of two has 2^width + 1, its negative
2^width + 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import Codes, Floats, NumberFormat, short, whole

MAX_EXPONENT_BITS = 8
MAX_MANTISSA_BITS = 23

RULES = ("", "ristretto")


@dataclass(frozen=True, slots=True)
class Minifloat(NumberFormat):
    """The format with 1 to 8 `exponent` bits and 1 to 23 `mantissa` bits: at most a float32's.

    `rule` is "" or "ristretto", which allows 0 mantissa bits too. Raises FormatError.
    """

    exponent: int
    mantissa: int
    rule: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponent", whole("exponent bits", self.exponent, 1, MAX_EXPONENT_BITS))
        if not isinstance(self.rule, str) or self.rule not in RULES:
            raise FormatError(f"expected minifloat(e,m) or minifloat(e,m)/ristretto, got the rule {short(self.rule)}")
        fewest = 0 if self.rule == "ristretto" else 1  # Ristretto computes with mant_bits 0 too
        object.__setattr__(self, "mantissa", whole("mantissa bits", self.mantissa, fewest, MAX_MANTISSA_BITS))

    def __str__(self) -> str:
        return f"minifloat({self.exponent},{self.mantissa})" + f"/{self.rule}" * bool(self.rule)

    def to_plain(self) -> str:
        """The text."""
        return str(self)

    @property
    def width(self) -> int:
        """Bits of a code; see above for 0."""
        return 1 + self.exponent + self.mantissa

    @property
    def bias(self) -> int:
        """What the exponent's code exceeds the exponent by."""
        return (1 << (self.exponent - 1)) - 1

    @property
    def smallest(self) -> float:
        """The smallest magnitude but 0."""
        return math.ldexp(1.0, -self.bias)

    @property
    def carry(self) -> float:
        """The power of two after the largest value."""
        return math.ldexp(1.0, self.bias + 2)

    @property
    def largest(self) -> float:
        """The largest value that has a pattern: carry * (1 - 2^-(m + 1))."""
        return math.ldexp(2 - math.ldexp(1.0, -self.mantissa), self.bias + 1)

    @property
    def max(self) -> float:
        """The largest value; with Ristretto's rule that is the power of two after it."""
        return self.carry if self.rule else self.largest

    @property
    def min(self) -> float:
        """The smallest value, -max."""
        return -self.max

    def check_dtype(self, dtype: DTypeLike) -> None:
        """Raise FormatError for types other than floats, and for float32 with 8 exponent bits (see above)."""
        NumberFormat.check_dtype(self, dtype)
        if np.dtype(dtype) == np.float32 and self.exponent == MAX_EXPONENT_BITS and not self.rule:
            raise FormatError(f"{self} reaches beyond float32's numbers", hint="use float64 data")

    def _quantized(self, x: Floats) -> Floats:
        """Round the mantissa's bits as an integer: the carry runs into the exponent, where it belongs."""
        unused = np.finfo(x.dtype).nmant - self.mantissa
        magnitude = np.abs(x)
        bits: NDArray[Any] = magnitude.view(f"i{x.itemsize}")
        bits = (bits + ((1 << unused) >> 1)) & -(1 << unused)  # Python's integers take the type of the array
        rounded: Floats = bits.view(x.dtype)
        real = x.dtype.type
        if self.rule:
            rounded[magnitude >= real(self.carry)] = self.largest
            rounded[magnitude < max(self.smallest, np.finfo(x.dtype).tiny)] = 0
        else:
            np.clip(rounded, real(self.smallest), real(self.largest), out=rounded)
            rounded[magnitude < real(self.smallest / 2)] = 0
        return np.copysign(rounded, x, out=rounded)

    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        magnitude = np.abs(values).astype(np.float64)
        significand, power = np.frexp(np.where(np.isfinite(magnitude), magnitude, 0.0))
        fraction = np.ldexp(significand, self.mantissa + 1) - (1 << self.mantissa)
        exponent = power.astype(np.int64) - 1 + self.bias
        negative = values < 0
        codes = (
            (negative.astype(np.int64) << (self.exponent + self.mantissa))
            + (exponent << self.mantissa)
            + fraction.astype(np.int64)
        )
        held = (np.trunc(fraction) == fraction) & (exponent >= 0) & (magnitude <= self.largest)
        zero, carry = magnitude == 0, (magnitude == self.carry) & bool(self.rule)
        after = 1 << self.width
        return np.where(zero, after, np.where(carry, after + 1 + negative, codes)), held | zero | carry

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        after = 1 << self.width
        fraction = 1 + np.ldexp((codes & ((1 << self.mantissa) - 1)).astype(np.float64), -self.mantissa)
        exponent = (codes >> self.mantissa) & ((1 << self.exponent) - 1)
        magnitude = np.ldexp(fraction, (exponent - self.bias).astype(np.int32))
        negative = (codes < after) & ((codes >> (self.exponent + self.mantissa)) == 1) | (codes == after + 2)
        magnitude = np.where(codes == after, 0.0, np.where(codes > after, self.carry, magnitude))
        known = (codes >= 0) & (codes <= (after + 2 if self.rule else after))
        return np.where(negative, -magnitude, magnitude).astype(dtype), known

    def _limits(self) -> tuple[float, float]:
        """From the carry on Ristretto's rule clips; without it, from half a step beyond the largest."""
        high = self.carry if self.rule else (self.largest + self.carry) / 2
        return -high, high
