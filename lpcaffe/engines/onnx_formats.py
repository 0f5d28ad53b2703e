"""Number formats in standard operators of ONNX: the bits that `NumberFormat.quantize` gives for float32.

Each function adds the nodes that put a Symbol on the grid of one kind of format; `FORMATS` is the table of them. Halves
away from zero and -0.0 are dealt with as in RoundFP (see `onnx_rounding`). A grid that is a table of levels is searched
by halves: the index of a number among 2^n levels takes n comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from lpcaffe.engines.onnx_elementwise import BELOW_HALF, as_floats
from lpcaffe.engines.onnx_engine import OnnxEngine, Symbol
from lpcaffe.numbers import Affine, ChannelQFormat, Codebook, Minifloat, OcpFloat, PowerOfTwo
from lpcaffe.numbers.levels import TableFormat

_INT32 = 6  # TensorProto.DataType
_SMALLEST = float(np.finfo(np.float32).tiny)


def single(value: Any) -> np.ndarray:
    """A parameter of a format as float32: what a float type cannot hold is an infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32)


def bounded(graph: OnnxEngine, x: Symbol, low: np.ndarray, high: np.ndarray) -> Any:
    """x within limits, single values or arrays that broadcast against it."""
    if low.ndim == high.ndim == 0:
        return graph.node("Clip", [x, low, high], x.shape)
    return graph.node("Min", [graph.node("Max", [x, low], x.shape), high], x.shape)


def _whole(graph: OnnxEngine, x: Symbol) -> Any:
    """The part before the point, and +0.0 for -0.0."""
    return as_floats(graph, graph.node("Cast", [x], x.shape, to=_INT32))


def _away(graph: OnnxEngine, v: Symbol) -> Any:
    """The nearest whole number, halves away from zero: RoundFP's rule."""
    half = graph.node("Clip", [v, -BELOW_HALF, BELOW_HALF], v.shape)
    return _whole(graph, graph.node("Add", [v, half], v.shape))


def _even(graph: OnnxEngine, v: Symbol) -> Any:
    """The nearest whole number, halves to the even one."""
    return _whole(graph, graph.node("Round", [v], v.shape))


def _upwards(comparison: str) -> Callable[[OnnxEngine, Symbol], Any]:
    """The whole number below v, or the next one where v compares so with what lies half way."""

    def rounded(graph: OnnxEngine, v: Symbol) -> Any:
        below = graph.node("Floor", [v], v.shape)
        up = graph.node(comparison, [v, graph.node("Add", [below, 0.5], v.shape)], v.shape)
        return graph.node("Add", [below, as_floats(graph, up)], v.shape)

    return rounded


_TIES: dict[str, Callable[[OnnxEngine, Symbol], Any]] = {
    "even": _even,
    "away": _away,
    "up": _upwards("GreaterOrEqual"),
    "down": _upwards("Greater"),
}


def affine(graph: OnnxEngine, x: Symbol, fmt: Affine) -> Any:
    """(R(clip(x / scale + zero)) - zero) scale, each operation rounded by itself."""
    scale, zero, low, high = map(single, (fmt.scale, fmt.zero, fmt.code_min, fmt.code_max))
    v = graph.node("Add", [graph.node("Div", [x, scale], x.shape), zero], x.shape)
    codes = _TIES[fmt.ties](graph, bounded(graph, v, low, high))
    return graph.node("Mul", [graph.node("Sub", [codes, zero], x.shape), scale], x.shape)


def channels(graph: OnnxEngine, x: Symbol, fmt: ChannelQFormat) -> Any:
    """RoundFP with a scale for each channel."""
    scale, limit = np.ldexp(np.float32(1), np.asarray(fmt.ad, np.intc)), single(fmt.code_max)
    codes = _away(graph, bounded(graph, graph.node("Mul", [x, scale], x.shape), -limit, limit))
    return graph.node("Mul", [codes, 1 / scale], x.shape)


def level(graph: OnnxEngine, x: Symbol, starts: np.ndarray, values: np.ndarray) -> Any:
    """The value of the level in which each number lies: level i + 1 begins at starts[i], which ascend."""
    steps = max(1, (len(values) - 1).bit_length())
    starts = np.concatenate([single(starts), np.full(2**steps - len(values), np.inf, np.float32)])
    index: Any = None
    for step in (1 << n for n in reversed(range(steps))):
        begins = starts[step - 1 :]
        # At first the index is 0 everywhere.
        begin = begins[:1] if index is None else graph.node("Gather", [begins, index], x.shape)
        above = graph.node("GreaterOrEqual", [x, begin], x.shape)
        further = graph.node("Mul", [graph.node("Cast", [above], x.shape, to=_INT32), np.int32(step)], x.shape)
        index = further if index is None else graph.node("Add", [index, further], x.shape)
    padded = np.concatenate([single(values), np.full(2**steps - len(values), values[-1], np.float32)])
    return graph.node("Gather", [padded, index], x.shape)


def table(graph: OnnxEngine, x: Symbol, fmt: TableFormat) -> Any:
    """The level of x / scale, times the scale."""
    scale, levels = single(fmt.factor), fmt.table
    scaled = bool(scale.ndim or scale != 1)
    v = graph.node("Div", [x, scale], x.shape) if scaled else x
    y = level(graph, v, levels.starts[np.dtype(np.float32)], levels.values)
    return graph.node("Mul", [y, scale], x.shape) if scaled else y


def minifloat(graph: OnnxEngine, x: Symbol, fmt: Minifloat) -> Any:
    """The significand rounded in units of its binade, halves up, which float32 does exactly."""

    def node(operator: str, *inputs: Any) -> Any:
        return graph.node(operator, list(inputs), x.shape)

    smallest = max(fmt.smallest, _SMALLEST) if fmt.rule else fmt.smallest
    first, last = round(math.log2(smallest)), min(fmt.bias + 1, np.finfo(np.float32).maxexp - 1)
    powers = np.ldexp(np.float32(1), np.arange(first, last + 1))
    size = node("Abs", x)
    binade = level(graph, size, powers[1:], powers)
    units = node("Mul", node("Div", size, binade), 2.0**fmt.mantissa)
    significand = node("Mul", node("Floor", node("Add", units, BELOW_HALF)), 2.0**-fmt.mantissa)
    y = node("Mul", significand, binade)
    if fmt.rule:
        y = node("Where", node("GreaterOrEqual", size, single(fmt.carry)), single(fmt.largest), y)
    else:
        y = node("Clip", y, single(smallest), single(fmt.largest))
    none = node("Less", size, smallest if fmt.rule else smallest / 2)
    y = node("Where", none, 0.0, y)
    return node("Where", node("Less", x, 0.0), node("Sub", 0.0, y), y)


# Any: each function takes formats of its own kind.
FORMATS: dict[type, Callable[[OnnxEngine, Symbol, Any], Any]] = {
    Affine: affine,
    ChannelQFormat: channels,
    Codebook: table,
    Minifloat: minifloat,
    OcpFloat: table,
    PowerOfTwo: table,
}
