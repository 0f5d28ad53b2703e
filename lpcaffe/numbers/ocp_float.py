"""The floats of the Open Compute Project: OFP8 (e4m3fn, e5m2) and the elements of its Microscaling formats.

    name      exponent, mantissa bits    largest    specials
    e4m3fn    4, 3                       448        NaN
    e5m2      5, 2                       57344      infinities and NaN
    e3m2fn    3, 2                       28         none
    e2m3fn    2, 3                       7.5        none
    e2m1fn    2, 1                       6          none

With subnormal numbers and two zeros. Rounding is to nearest, ties to the even pattern, and saturates; no number becomes
an infinity or NaN. A code is the bit pattern. The pattern of -0 decodes to 0, and those of infinities and NaN are no
codes. Grid and patterns are those of ml_dtypes; its casts are not used, since they round float64 by way of float32.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.levels import Levels, TableFormat
from lpcaffe.numbers.number_format import Codes, Floats, short

# Bits of a pattern, and ml_dtypes' name of the type.
KINDS = {
    "e4m3fn": (8, "float8_e4m3fn"),
    "e5m2": (8, "float8_e5m2"),
    "e3m2fn": (6, "float6_e3m2fn"),
    "e2m3fn": (6, "float6_e2m3fn"),
    "e2m1fn": (4, "float4_e2m1fn"),
}


@functools.cache
def _levels(name: str) -> Levels:
    """Every finite number, and ties to the even pattern; the pattern of -0 is left out."""
    import ml_dtypes

    width, kind = KINDS[name]
    patterns = np.arange(1 << width, dtype=np.uint8)
    values = patterns.view(getattr(ml_dtypes, kind)).astype(np.float64)
    kept = np.isfinite(values) & ~((values == 0) & (patterns > 0))
    order = np.argsort(values[kept])
    values, codes = values[kept][order], patterns[kept][order].astype(np.int64)
    return Levels(values, (values[:-1] + values[1:]) / 2, codes[1:] % 2 == 0, codes)


@dataclass(frozen=True, slots=True)
class OcpFloat(TableFormat):
    """The format of this name. Raises FormatError for other names."""

    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or self.name not in KINDS:
            raise FormatError(f"expected one of {', '.join(KINDS)}, got {short(self.name)}")

    def __str__(self) -> str:
        return self.name

    def to_plain(self) -> str:
        """The name."""
        return self.name

    @property
    def width(self) -> int:
        """Bits of a code."""
        return KINDS[self.name][0]

    @property
    def table(self) -> Levels:
        """The grid."""
        return _levels(self.name)

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        minus_zero = 1 << (self.width - 1)
        return self.table.valued(np.where(codes == minus_zero, 0, codes), dtype)
