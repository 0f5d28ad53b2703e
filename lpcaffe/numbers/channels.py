"""Qm.f with a fraction for each channel: codes of the same width, and a step of its own for each channel.

    value = code * 2^-ad[c]        -N <= code <= N = 2^(bits - 1) - 1

Channel c is the format Q(bits - ad[c]).(ad[c]), and rounds as it does, bit for bit: scaling by 2^ad is exact, so
round_fp with ad = 0 does the rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import (
    Codes,
    Floats,
    Number,
    NumberFormat,
    as_floats,
    clipped,
    is_vector,
    short,
    whole,
)
from lpcaffe.numbers.qformat import QFormat


@dataclass(frozen=True, slots=True)
class ChannelQFormat(NumberFormat):
    """`bits` of a code, and `ad`, the bits after the point of each channel. Raises FormatError.

    Each channel must be a QFormat of at most 54 bits, which float64 holds.
    """

    VECTORS: ClassVar[tuple[str, ...]] = ("ad",)

    bits: int
    ad: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", whole("bits", self.bits, 1, 54))
        if not is_vector(self.ad) or not len(self.ad):
            raise FormatError(f"ad: expected a list of integers, one a channel, got {short(self.ad)}")
        object.__setattr__(self, "ad", tuple(whole("ad", ad, -53, 1022) for ad in self.ad))

    def __str__(self) -> str:
        return f"q{self.bits}[{','.join(map(str, self.ad))}]"

    def to_plain(self) -> dict[str, Any]:
        """`{bits: 8, ad: [7, 8, 7]}`."""
        return {"bits": self.bits, "ad": list(self.ad)}

    def channel(self, index: int) -> QFormat:
        """The format of one channel."""
        return QFormat(self.bits - self.ad[index], self.ad[index])

    @property
    def width(self) -> int:
        """Bits of a code."""
        return self.bits

    @property
    def code_max(self) -> int:
        """The largest code, N."""
        return (1 << (self.bits - 1)) - 1

    @property
    def max(self) -> Number:
        """The largest value of each channel."""
        return np.ldexp(float(self.code_max), -np.asarray(self.ad, np.intc))

    @property
    def min(self) -> Number:
        """The smallest value of each channel, -max."""
        return -self.max

    def quantize(
        self, x: ArrayLike, scheme: str = "deterministic", *, seed: int = 0, stream: int = 0, index: int = 0
    ) -> Floats:
        """round_fp of each channel; element k of the result, in C order, takes the random number of index + k."""
        from lpcaffe.numbers.rounding import round_fp

        given = as_floats(x)
        self.check_dtype(given.dtype)
        ad = np.asarray(self.ad, np.intc)
        with np.errstate(all="ignore"):  # infinities saturate, and tiny numbers underflow
            scaled = np.ldexp(given, ad)
            # A tiny number can underflow. Any number of its sign below a step does in its place.
            np.copyto(scaled, np.copysign(np.finfo(given.dtype).tiny, given), where=(scaled == 0) & (given != 0))
            round_fp(scaled, self.bits, 0, scheme, seed=seed, stream=stream, index=index, out=scaled)
            values = np.ldexp(scaled, -ad)
        np.copyto(values, given, where=np.isnan(given))
        return values

    def check_dtype(self, dtype: DTypeLike) -> None:
        """Raise FormatError when a channel's values are not exact in `dtype`; see QFormat.check_dtype."""
        ads = np.asarray(self.ad)
        for ad in {int(ads.min()), int(ads.max())} if ads.size else ():
            QFormat(self.bits - ad, ad).check_dtype(dtype)

    def holds(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Whether each number is a value of its channel; the result is broadcast. See QFormat.holds."""
        return self._coded(np.asarray(x, np.float64))[1]

    def _quantized(self, x: Floats) -> Floats:
        return self.quantize(x)

    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        ad = np.asarray(self.ad, np.intc)
        with np.errstate(all="ignore"):
            scaled = np.ldexp(values.astype(np.float64), ad)
            whole_codes = (np.trunc(scaled) == scaled) & (np.ldexp(scaled, -ad) == values)
            held = whole_codes & (np.abs(scaled) <= self.code_max)
            return np.where(held, scaled, 0).astype(np.int64), held

    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        values = np.ldexp(codes.astype(dtype), -np.asarray(self.ad, np.intc))
        return values, np.broadcast_to(np.abs(codes) <= self.code_max, values.shape)

    def _limits(self) -> tuple[Number, Number]:
        high = np.ldexp(self.code_max + 0.5, -np.asarray(self.ad, np.intc))
        return -high, high

    @property
    def _name(self) -> str:
        return clipped(str(self)) if isinstance(self.ad, tuple) else f"the selected {self.bits}-bit Qm.f"
