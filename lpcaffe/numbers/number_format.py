"""What every number format is: a frozen value that names a grid, and the verbs that put numbers on it.

    quantize(x)       the values of the grid nearest to x; beyond the ends, the ends; NaN stays NaN
    encode, decode    values <-> integer codes of `width` bits
    codes             the codes of values that are on the grid already
    holds             which numbers are on the grid
    saturates         which numbers lie beyond an end by half a step or more

    kind                   text                       grid
    QFormat                Q2.14                      -N .. N times 2^-ad                         qformat.py
    ChannelQFormat         q8[7,8,7]                  the same, with an ad for each channel       channels.py
    Affine                 affine(4,0.01,7)           (code - zero) * scale                       affine.py
    Minifloat              minifloat(4,3)             +-(1 + M / 2^m) 2^(E - bias), and 0         minifloat.py
    OcpFloat               e4m3fn                     the floats of 8 bits or less of OCP         ocp_float.py
    PowerOfTwo             pow2(-8,-1)                +-2^e, with 0 or without                    power_of_two.py
    Codebook               codebook(-0.5,0,0.5)       any list of values                          codebook.py

`str()` of a format is text that `text.parse_format` reads; `to_plain()` is what a plan holds of it.

**Channels.** The fields that `VECTORS` names may be one number, or a tuple of one number a channel. Arithmetic
broadcasts them against x as NumPy does, so `select` first brings them into shape: `fmt.select(channel)` holds
arrays of the shape of `channel`, the values of those channels. With output channels on axis 0 that is
`fmt.select(np.arange(C).reshape(-1, 1, 1, 1)).quantize(w)`; a piece of a flattened blob takes the channel of each of
its elements.

**Real numbers.** A scale, a zero point or a level is a float32 value. Others are rounded to float32 when the format is
made, and print as the shortest decimal that gives the float32 back.
"""

from __future__ import annotations

import copy
import operator
import reprlib
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from lpcaffe.errors import FormatError

Floats = NDArray[np.floating[Any]]
Codes = NDArray[np.int64]
Number = float | NDArray[np.float64]

FLOAT32_MAX = float(np.finfo(np.float32).max)


class NumberFormat(ABC):
    """A number format. Subclasses are frozen dataclasses; they compare and hash by their parameters."""

    __slots__ = ()

    VECTORS: ClassVar[tuple[str, ...]] = ()
    """The fields that may run along the channels."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Bits of a code."""

    @property
    @abstractmethod
    def max(self) -> Number:
        """The largest value; an array where channels differ."""

    @property
    @abstractmethod
    def min(self) -> Number:
        """The smallest value; an array where channels differ."""

    @abstractmethod
    def to_plain(self) -> Any:
        """The format as a plan holds it: text, or a mapping of numbers and lists."""

    @abstractmethod
    def _quantized(self, x: Floats) -> Floats:
        """The values nearest to `x`, in the type of `x`. What NaN becomes does not matter."""

    @abstractmethod
    def _coded(self, values: Floats) -> tuple[Codes, NDArray[np.bool_]]:
        """The codes of `values`, and which of them are on the grid; only their codes count."""

    @abstractmethod
    def _valued(self, codes: Codes, dtype: np.dtype[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        """The values of `codes`, and which of them are codes; only their values count."""

    @abstractmethod
    def _limits(self) -> tuple[Number, Number]:
        """The numbers from which on, downwards and upwards, a number saturates: an end and half a step beyond it."""

    @property
    def channels(self) -> int | None:
        """How many channels the vectors have; None without vectors."""
        lengths = [len(value) for value in (getattr(self, name) for name in self.VECTORS) if isinstance(value, tuple)]
        return lengths[0] if lengths else None

    def select(self, index: ArrayLike) -> Self:
        """The format with `vector[index]` for each vector, an array of the shape of `index`; itself without vectors.

        A selected format rounds, and is not to be compared, hashed or printed. Raises FormatError for an index out of
        range.
        """
        if self.channels is None:
            return self
        where = np.asarray(index)
        if where.dtype.kind not in "iu" or (where.size and not 0 <= where.min() <= where.max() < self.channels):
            raise FormatError(f"expected indices of {self.channels} channels, got {short(index)}")
        twin = copy.copy(self)
        for name in self.VECTORS:
            value = getattr(self, name)
            if isinstance(value, tuple):
                object.__setattr__(twin, name, np.asarray(value)[where])
        return twin

    def quantize(
        self, x: ArrayLike, scheme: str = "deterministic", *, seed: int = 0, stream: int = 0, index: int = 0
    ) -> Floats:
        """The values of the format nearest to `x`, which saturates; NaN stays NaN, and no result is -0.0.

        `x` is float32 or float64, and so is the result, which has its shape (broadcast against the channels). Python
        numbers are read as float64. `scheme`, `seed`, `stream` and `index` are those of round_fp; formats other than
        Qm.f know the scheme "deterministic" alone. Raises FormatError for another, and where `check_dtype` does.
        """
        if scheme != "deterministic":
            raise FormatError(f"{type(self).__name__} formats round deterministically, got {scheme!r}")
        given = as_floats(x)
        self.check_dtype(given.dtype)
        with np.errstate(all="ignore"):  # NaN, infinities and tiny numbers are meant
            values = self._quantized(given)
            values += given.dtype.type(0)  # -0.0 becomes +0.0
        np.copyto(values, given, where=np.isnan(given))
        return values

    def holds(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Whether each number is one of this format's values, as the type of `x` has them. NaN is none."""
        with np.errstate(all="ignore"):
            return self._coded(as_floats(x))[1]

    def codes(self, values: ArrayLike) -> Codes:
        """The codes of values that are in the format already. Raises FormatError for others, naming the first."""
        given = as_floats(values)
        with np.errstate(all="ignore"):
            codes, held = self._coded(given)
        if not held.all():
            first = int(np.argmin(held.reshape(-1)))
            value = float(np.broadcast_to(given, held.shape).reshape(-1)[first])
            raise FormatError(f"{value!r} at index {first} is not a value of {self._name}", hint="quantize it first")
        return codes

    def encode(self, x: ArrayLike) -> Codes:
        """The codes of the values nearest to `x`, which `decode` gives back. Raises FormatError for NaN."""
        return self.codes(self.quantize(x))

    def decode(self, codes: ArrayLike, dtype: DTypeLike = np.float64) -> Floats:
        """The values of integer codes, as float32 or float64. Raises FormatError for an integer that is no code."""
        kind = np.dtype(dtype)
        self.check_dtype(kind)
        given = np.asarray(codes)
        if given.dtype.kind not in "iu":
            raise FormatError(f"expected integer codes, got {given.dtype}")
        values, known = self._valued(given.astype(np.int64), kind)
        if not known.all():
            first = int(np.argmin(known.reshape(-1)))
            code = int(np.broadcast_to(given, known.shape).reshape(-1)[first])
            raise FormatError(f"{code} at index {first} is not a code of {self._name}")
        return values

    def saturates(self, x: ArrayLike) -> NDArray[np.bool_]:
        """Which numbers lie beyond the largest or smallest value by half a step or more; NaN does not.

        The step is the distance of the two outermost values.
        """
        low, high = map(np.asarray, self._limits())
        given = as_floats(x)
        return np.asarray((given >= high) | (given <= low))

    def check_dtype(self, dtype: DTypeLike) -> None:
        """Raise FormatError, with the reason, when `dtype` is not float32 or float64, or cannot hold the values."""
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise FormatError(f"expected float32 or float64 data for {self._name}, got {kind}")

    @property
    def _name(self) -> str:
        """The format in an error message."""
        selected = any(isinstance(getattr(self, name), np.ndarray) for name in self.VECTORS)
        return f"the selected {type(self).__name__}" if selected else clipped(str(self))


def as_floats(x: ArrayLike) -> Floats:
    """`x` as round_fp takes it: float32 or float64; Python numbers become float64."""
    from lpcaffe.numbers.rounding import arrays

    return arrays.as_floats(x)


def short(value: Any) -> str:
    """A value in an error message. A few lines of YAML can stand for gigabytes of it."""
    return clipped(reprlib.repr(value))


def clipped(text: str, size: int = 80) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= size else f"{text[: size - 3]}..."


def whole(what: str, value: Any, low: int, high: int) -> int:
    """`value` as an int of low .. high. Raises FormatError."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not low <= number <= high:
        raise FormatError(f"{what}: expected an integer, {low} to {high}, got {short(value)}")
    return number


def real(what: str, value: Any) -> float:
    """`value`, rounded to float32, as a Python float. Raises FormatError unless it is a finite number."""
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        if abs(number) <= FLOAT32_MAX:
            return float(np.float32(number))
    raise FormatError(f"{what}: expected a finite float32 number, got {short(value)}")


def positive(what: str, value: Any) -> float:
    """`value` as `real` reads it, which must be above 0 as a float32."""
    number = real(what, value)
    if not number > 0:
        raise FormatError(f"{what}: expected a float32 number above 0, got {short(value)}")
    return number


def is_vector(value: Any) -> bool:
    """Whether `value` gives one number for each channel."""
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1)


def per_channel(what: str, value: Any, check: Any) -> Any:
    """`check(what, value)`, or the tuple of it for each value of a list, which must not be empty."""
    if not is_vector(value):
        return check(what, value)
    if not len(value):
        raise FormatError(f"{what}: expected one value or one a channel, got an empty list")
    return tuple(check(what, item) for item in value)


def check_lengths(**vectors: Any) -> None:
    """Raise FormatError unless all tuples among the values have the same length."""
    lengths = {name: len(value) for name, value in vectors.items() if isinstance(value, tuple)}
    if len(set(lengths.values())) > 1:
        got = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise FormatError(f"expected one value a channel in each vector, got {got}")


def plain_number(value: float) -> float | int:
    """A float32 value as the Python number with the shortest decimal: an int where it is a whole one below 2^24."""
    if value == int(value) and abs(value) < 1 << 24:
        return int(value)
    return float(str(np.float32(value)))


def plain(value: Any) -> Any:
    """A parameter as a plan holds it: a number, or the list of them."""
    return [plain_number(item) for item in value] if isinstance(value, tuple) else plain_number(value)


def shown(value: Any) -> str:
    """A parameter as text: `0.01`, `[0.01,0.02]`."""
    return f"[{','.join(map(shown, value))}]" if isinstance(value, tuple) else str(plain_number(value))


def scalar_or_array(value: NDArray[np.float64]) -> Number:
    """A Python float for 0-d arrays, so that a format without channels has plain figures."""
    return float(value) if value.ndim == 0 else value
