"""Powers of two: `pow2(lo,hi)` is +-2^e with lo <= e <= hi; `pow2z(lo,hi)` has 0 besides. A `scale` may multiply them.

Rounding is to nearest in value, and saturates. A number half way becomes the larger magnitude: 1.5 * 2^e becomes
2^(e + 1), and in pow2z 2^(lo - 1) becomes 2^lo. In pow2, 0 becomes +2^lo. Two other rules are

    pow2(lo,hi)/ristretto     Ristretto's: nearest in the logarithm, so that numbers part at sqrt(2) * 2^e
    pow2z(lo,hi)/labelfree    of Label-free-Network-Compression: 1.5 * 2^e becomes 2^e, and magnitudes up to
                              0.75 * 2^lo become 0

**Codes** are a sign bit above the index of the magnitude: e - lo, or in pow2z e - lo + 1 with 0 for the number 0, which
has no negative code.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lpcaffe.errors import FormatError
from lpcaffe.numbers.levels import Levels, TableFormat
from lpcaffe.numbers.number_format import (
    FLOAT32_MAX,
    per_channel,
    plain,
    positive,
    short,
    shown,
    whole,
)

# Exponents of normal float32 numbers.
LOWEST, HIGHEST = -126, 127

# Rule, and whether there is a 0 -> the factors of a power of two at which it parts from the next one and from 0, and
# whether a magnitude there becomes the larger one.
RULES = {
    ("", False): (1.5, 0.0, True),
    ("", True): (1.5, 0.5, True),
    ("ristretto", False): (math.sqrt(2), 0.0, True),
    ("labelfree", True): (1.5, 0.75, False),
}


@functools.lru_cache(maxsize=64)
def _levels(lo: int, hi: int, zero: bool, rule: str) -> Levels:
    next_one, from_zero, larger = RULES[rule, zero]
    powers = np.ldexp(1.0, np.arange(lo, hi + 1))
    index = np.arange(len(powers), dtype=np.int64) + zero
    sign = 1 << _index_bits(lo, hi, zero)
    breaks, first = powers[:-1] * next_one, powers[0] * from_zero
    none, middle = ([0], [-first, first]) if zero else ([], [0.0])
    at = np.concatenate([-breaks[::-1], middle, breaks])
    values = np.concatenate([-powers[::-1], none, powers])
    codes = np.concatenate([sign + index[::-1], np.asarray(none, np.int64), index])
    return Levels(values, at, at >= 0 if larger else at < 0, codes)


def _index_bits(lo: int, hi: int, zero: bool) -> int:
    return (hi - lo + zero).bit_length()


@dataclass(frozen=True, slots=True)
class PowerOfTwo(TableFormat):
    """The powers from 2^lo to 2^hi, both normal float32 numbers; `zero` adds 0. `scale` may have one number a channel.

    `rule` is "", "ristretto" (without 0) or "labelfree" (with 0). Raises FormatError.
    """

    VECTORS: ClassVar[tuple[str, ...]] = ("scale",)

    lo: int
    hi: int
    zero: bool = False
    scale: float | tuple[float, ...] = 1.0
    rule: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lo", whole("lo", self.lo, LOWEST, HIGHEST))
        object.__setattr__(self, "hi", whole("hi", self.hi, LOWEST, HIGHEST))
        object.__setattr__(self, "scale", per_channel("scale", self.scale, positive))
        if self.lo > self.hi:
            raise FormatError(f"expected lo <= hi, got {self.kind}({self.lo},{self.hi})")
        if not isinstance(self.zero, bool):
            raise FormatError(f"zero: expected true or false, got {short(self.zero)}")
        if not isinstance(self.rule, str) or (self.rule, self.zero) not in RULES:
            raise FormatError(f"expected pow2/ristretto or pow2z/labelfree, got {self.kind} and {short(self.rule)}")
        if np.max(self.max) > FLOAT32_MAX:
            raise FormatError(f"expected values that float32 holds, got {self._name}")

    def __str__(self) -> str:
        scale = "" if self.scale == 1.0 else f",scale={shown(self.scale)}"
        return f"{self.kind}({self.lo},{self.hi}{scale})" + f"/{self.rule}" * bool(self.rule)

    def to_plain(self) -> str | dict[str, Any]:
        """The text; with a scale `{pow2: [-8, -1], scale: 0.01}`, and `rule` where there is one."""
        if self.scale == 1.0:
            return str(self)
        rule = {"rule": self.rule} if self.rule else {}
        return {self.kind: [self.lo, self.hi], "scale": plain(self.scale)} | rule

    @property
    def kind(self) -> str:
        """pow2, or pow2z with 0."""
        return "pow2z" if self.zero else "pow2"

    @property
    def width(self) -> int:
        """Bits of a code: the sign's, and those of the index."""
        return 1 + _index_bits(self.lo, self.hi, self.zero)

    @property
    def table(self) -> Levels:
        """The grid, without the scale."""
        return _levels(self.lo, self.hi, self.zero, self.rule)
