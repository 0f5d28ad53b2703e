"""The table of allocation methods, and what a method gets to see.

A method is a function of a `Tensor` and a width in bits to a format. It may have one option, a keyword with a default,
which the name gives after a colon: `percentile:99.9` is `percentile(tensor, width, percent=99.9)`.

What every method keeps to: formats have exactly the width asked (`sqnr` with a target may take fewer bits); a tensor of
zeros gets Q1.(width - 1); nothing depends on anything but the tensor's statistics, so the same statistics give the same
format. Any bd may come out: the dialect fits it (`lpcaffe.dialects`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from lpcaffe.calibration import TensorStats
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@dataclass(frozen=True)
class Tensor:
    """A tensor that gets a format.

    role        "weights", "bias" or "output"
    stats       of the values that are rounded: the weights, or the output where the LPAct stands
    rectified   of an output after the ReLU that follows; None where none does
    bias        of the bias of a layer's weights; None without one
    """

    role: str
    stats: TensorStats
    rectified: TensorStats | None = None
    bias: TensorStats | None = None

    @property
    def read(self) -> TensorStats:
        """What the next layer reads: the values after the ReLU, where one follows."""
        return self.stats if self.rectified is None else self.rectified

    @property
    def half_range(self) -> bool:
        """Whether the ReLU that follows removes all negative values (a leaky one does not)."""
        return self.rectified is not None and self.rectified.min >= 0


Choice = Callable[[Tensor, int], QFormat]
Method = TypeVar("Method", bound=Callable[..., QFormat])

METHODS: dict[str, Callable[..., QFormat]] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Register a method under its name on the command line."""

    def register(function: Method) -> Method:
        METHODS[name] = function
        return function

    return register


def method_named(text: str) -> Choice:
    """The method that `text` names, with its option if it gives one. Raises PlanError for what no method knows."""
    name, colon, value = text.partition(":")
    if name not in METHODS:
        raise PlanError(f"there is no allocation method {name!r}", hint=f"known are {', '.join(sorted(METHODS))}")
    function = METHODS[name]
    if colon:
        found = option(function)
        if found is None:
            raise PlanError(f"the method {name} has no option, got {text!r}", hint=f"write {name}")
        key, default = found
        function = partial(function, **{key: _parsed(text, key, default, value)})
    # A wrong option is an error now, and not at the first layer.
    function(Tensor("weights", TensorStats(), bias=TensorStats()), 8)
    return function


def option(function: Callable[..., QFormat]) -> tuple[str, Any] | None:
    """The option of a method and its default: its one keyword-only argument; None where it has none."""
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY:
            return parameter.name, parameter.default
    return None


def _parsed(text: str, key: str, default: Any, value: str) -> Any:
    """The value of an option, by the type of its default; an option without default is a number."""
    if isinstance(default, str):
        return value
    try:
        return float(value)
    except ValueError:
        raise PlanError(f"{key}: expected a number after the colon, got {text!r}") from None
