"""Every layer type in plain loops over indices, from Caffe's definition, with parameters as plain numbers.

One file a family. Each type has an oracle, which looks neither at a prototxt nor at the package and computes in Python
floats, and cases, which say in words of the file what they say to the oracle in numbers.
"""

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np

ORACLES: dict[str, Callable[..., list[np.ndarray]]] = {}
LOWEST = -3.4028234663852886e38  # -FLT_MAX

Pair = tuple[int, ...]


class Case(NamedTuple):
    """A layer in the words of the file, and the same in plain numbers for the oracle.

    `bottoms` and `blobs` (those that the layer owns) are shapes, to be filled at random, or values. `exact`: the layer
    moves or picks values, so it has to give them back bit for bit. `dynamic`: the tops' shapes depend on values.
    """

    text: str
    bottoms: list[Any]
    meaning: dict[str, Any] = {}  # noqa: RUF012
    blobs: list[Any] = []  # noqa: RUF012
    tops: int = 1
    exact: bool = False
    dynamic: bool = False


CASES: dict[str, list[Case]] = {}
IMAGE = (2, 4, 7, 6)


def one(
    block: str, text: str = "", bottom: tuple[int, ...] = (2, 3, 5, 4), exact: bool = False, **meaning: Any
) -> Case:
    return Case(f"{block} {{ {text} }}", [bottom], meaning, exact=exact)


def oracle(*types: str) -> Callable[[Callable[..., list[np.ndarray]]], Callable[..., list[np.ndarray]]]:
    def register(function: Callable[..., list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
        ORACLES.update(dict.fromkeys(types, function))
        return function

    return register


def indices(shape: Sequence[int]) -> product:
    return product(*map(range, shape))


def each(x: np.ndarray, f: Callable[..., float]) -> list[np.ndarray]:
    """f(index, value) for each element."""
    y = np.empty(x.shape)
    for i in indices(x.shape):
        y[i] = f(i, float(x[i]))
    return [y]
