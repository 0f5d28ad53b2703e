"""Codebooks: any values in ascending order, which a `scale` may multiply. The code of a value is its index.

Rounding is to nearest, and saturates. Of two values as near, the one of larger magnitude is taken, and of two that
differ in sign alone the positive one.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from lpcaffe.errors import FormatError
from lpcaffe.numbers.levels import Levels, TableFormat, nearest
from lpcaffe.numbers.number_format import (
    FLOAT32_MAX,
    is_vector,
    per_channel,
    plain,
    positive,
    real,
    short,
    shown,
)

MAX_VALUES = 1 << 16


@functools.lru_cache(maxsize=64)
def _levels(values: tuple[float, ...]) -> Levels:
    return nearest(np.array(values), np.arange(len(values), dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Codebook(TableFormat):
    """The values, at most 65,536 (codes of 16 bits), ascending as float32 numbers.

    `scale` may have one number a channel. Raises FormatError.
    """

    VECTORS: ClassVar[tuple[str, ...]] = ("scale",)

    values: tuple[float, ...]
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        if not is_vector(self.values) or not 1 <= len(self.values) <= MAX_VALUES:
            raise FormatError(f"codebook: expected a list of 1 to {MAX_VALUES} numbers, got {short(self.values)}")
        values = tuple(real("codebook", value) for value in self.values)
        for before, after in itertools.pairwise(values):
            if not before < after:
                raise FormatError(
                    f"codebook: expected ascending float32 values, got {shown(before)} before {shown(after)}"
                )
        object.__setattr__(self, "values", tuple(value + 0.0 for value in values))
        object.__setattr__(self, "scale", per_channel("scale", self.scale, positive))
        if max(-np.min(self.min), np.max(self.max)) > FLOAT32_MAX:
            raise FormatError(f"expected values that float32 holds, got {self._name}")

    def __str__(self) -> str:
        scale = "" if self.scale == 1.0 else f",scale={shown(self.scale)}"
        return f"codebook({','.join(map(shown, self.values))}{scale})"

    def to_plain(self) -> dict[str, Any]:
        """`{codebook: [-0.5, 0, 0.5]}`, and the scale where there is one."""
        return {"codebook": plain(self.values)} | ({} if self.scale == 1.0 else {"scale": plain(self.scale)})

    @property
    def width(self) -> int:
        """Bits of an index."""
        return max(1, (len(self.values) - 1).bit_length())

    @property
    def table(self) -> Levels:
        """The grid, without the scale."""
        return _levels(self.values)
