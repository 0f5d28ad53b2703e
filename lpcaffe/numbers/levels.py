"""A grid as a table: its values in ascending order, and where one ends and the next begins.

Between values i and i + 1 lies break i. Numbers below it belong to value i, numbers above it to value i + 1, and the
break itself to the one that `up[i]` names. Every rule of rounding that does not look at the code is such a table:
`nearest` puts the breaks half way.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.numbers.number_format import Codes, Floats, Number, NumberFormat, scalar_or_array

Values = NDArray[np.float64]
Scale = NDArray[np.float64] | float


@dataclass(frozen=True, eq=False)
class Levels:
    """`values` and `codes` have an entry a level, `breaks` and `up` one for each gap. All ascend but the codes.

    All values are float32 numbers. A scale, one number or an array that broadcasts, multiplies the grid. x / scale is
    then what is looked up, in the type of x; for float64 the result is compared with the scaled breaks, so that it is
    right where the division rounds.
    """

    values: Values
    breaks: Values
    up: NDArray[np.bool_]
    codes: Codes

    @cached_property
    def starts(self) -> dict[np.dtype[Any], Floats]:
        """For each float type, the smallest number that belongs to value i + 1."""
        doubles = np.where(self.up, self.breaks, np.nextafter(self.breaks, np.inf))
        with np.errstate(over="ignore", under="ignore"):
            singles = doubles.astype(np.float32)
        below = singles < doubles
        singles[below] = np.nextafter(singles[below], np.float32(np.inf))
        return {np.dtype(np.float32): singles, np.dtype(np.float64): doubles}

    def index(self, x: Floats, scale: Scale = 1.0) -> NDArray[np.intp]:
        """The index of the value that each number of `x` becomes; the last one's for NaN."""
        starts = self.starts[x.dtype]
        if np.ndim(scale) == 0 and scale == 1.0:
            return np.searchsorted(starts, x, side="right")
        near = np.searchsorted(starts, x / np.asarray(scale, x.dtype), side="right")
        return near if x.dtype == np.float32 else self._mended(near, x, scale)

    def _mended(self, near: NDArray[np.intp], x: Floats, scale: Scale) -> NDArray[np.intp]:
        """`near`, moved by one where x lies on the other side of a scaled break, or on it and belongs there."""
        breaks = np.concatenate([[-np.inf], self.breaks, [np.inf]])
        up = np.concatenate([[True], self.up, [False]])
        lower, upper = breaks[near] * scale, breaks[near + 1] * scale
        rises = (x > upper) | ((x == upper) & up[near + 1])
        falls = (x < lower) | ((x == lower) & ~up[near])
        mended: NDArray[np.intp] = near + rises - falls
        return mended

    def quantized(self, x: Floats, scale: Scale = 1.0) -> Floats:
        """The values that the numbers of `x` become, in its type."""
        return self.at(self.index(x, scale), x.dtype, scale)

    def at(self, index: NDArray[np.intp], dtype: np.dtype[Any], scale: Scale = 1.0) -> Floats:
        """The values at `index`, times the scale."""
        values: Floats = self.values.astype(dtype)[index] * np.asarray(scale, dtype)
        return values

    def coded(self, values: Floats, scale: Scale = 1.0) -> tuple[Codes, NDArray[np.bool_]]:
        """The codes of `values`, and which of them are on the grid."""
        index = self.index(values, scale)
        return self.codes[index], np.asarray(self.at(index, values.dtype, scale) == values)

    def valued(self, codes: Codes, dtype: np.dtype[Any], scale: Scale = 1.0) -> tuple[Floats, NDArray[np.bool_]]:
        """The values of `codes`, and which of them are codes."""
        order = np.argsort(self.codes)
        place = np.minimum(np.searchsorted(self.codes, codes, sorter=order), len(order) - 1)
        values = self.at(order[place], dtype, scale)
        return values, np.broadcast_to(self.codes[order[place]] == codes, values.shape)

    def limits(self, scale: Scale = 1.0) -> tuple[Number, Number]:
        """Half a step beyond the ends, the step being the outermost gap; none for a single value."""
        if len(self.values) == 1:
            return -np.inf, np.inf
        low, high = (1.5 * self.values[end] - 0.5 * self.values[inner] for end, inner in ((0, 1), (-1, -2)))
        factor = np.asarray(scale, np.float64)
        return scalar_or_array(low * factor), scalar_or_array(high * factor)


def nearest(values: Values, codes: Codes) -> Levels:
    """Each number becomes the nearest value; of two as near, the one of larger magnitude, or the positive one."""
    low, high = values[:-1], values[1:]
    total = low + high
    missing = (low - (total - (total - low))) + (high - (total - low))  # of the sum, which float64 has rounded
    return Levels(values, total / 2, np.where(missing == 0, total >= 0, missing < 0), codes)


class TableFormat(NumberFormat):
    """A format whose grid is a table, times its `scale` if it has one."""

    __slots__ = ()

    @property
    @abstractmethod
    def table(self) -> Levels:
        """The grid, without the scale."""

    @property
    def factor(self) -> NDArray[np.float64]:
        """The scale, 1 without one."""
        return np.asarray(getattr(self, "scale", 1.0), np.float64)

    @property
    def max(self) -> Number:
        """The largest value."""
        return scalar_or_array(self.factor * self.table.values[-1])

    @property
    def min(self) -> Number:
        """The smallest value."""
        return scalar_or_array(self.factor * self.table.values[0])

    def _quantized(self, x: Floats) -> Floats:
        return self.table.quantized(x, self.factor)

    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        return self.table.coded(values, self.factor)

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        return self.table.valued(codes, dtype, self.factor)

    def _limits(self) -> tuple[Number, Number]:
        return self.table.limits(self.factor)
