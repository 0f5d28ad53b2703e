"""What the primitives on elements and axes become in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lpcaffe.engines.onnx_engine import EMITTERS, Array, OnnxEngine, Symbol, emitter, integers
from lpcaffe.layers.registry import Shape

# The largest float32 below one half. floor(|x| + this) is |x| rounded with halves up for every float32: one half itself
# would carry the float just below one half up to 1, as the sum is rounded.
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1


# Primitives that are an operator of the same arguments.
_OPERATORS = {
    "matmul": "MatMul",
    "minimum": "Min",
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "absolute": "Abs",
    "exp": "Exp",
    "log": "Log",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
}


def _operator(name: str) -> Callable[..., Any]:
    return lambda graph, shape, *arrays: graph.node(name, list(arrays), shape)


EMITTERS.update({primitive: _operator(name) for primitive, name in _OPERATORS.items()})


@emitter
def reshape(graph: OnnxEngine, shape: Shape, x: Symbol, template: Sequence[int]) -> Any:
    """Reshape reads 0 and -1 as Caffe does."""
    return graph.node("Reshape", [x, integers(*template)], shape)


@emitter
def broadcast_to_axis(graph: OnnxEngine, shape: Shape, v: Array, x: Array, axis: int) -> Any:
    """Ones after v's axes, which keep their sizes."""
    if not isinstance(v, Symbol):
        return v.reshape(shape)
    if len(shape) == len(v.shape):
        return v
    return graph.node("Reshape", [v, integers(*[0] * len(v.shape), *shape[len(v.shape) :])], shape)


@emitter
def permute(graph: OnnxEngine, shape: Shape, x: Symbol, order: Sequence[int]) -> Any:
    """Transpose."""
    return graph.node("Transpose", [x], shape, perm=list(order))


@emitter
def concat(graph: OnnxEngine, shape: Shape, xs: Sequence[Array], axis: int) -> Any:
    """Concat."""
    return graph.node("Concat", list(xs), shape, axis=axis)


@emitter
def slice_(graph: OnnxEngine, shape: Shape, x: Symbol, axis: int, start: int, stop: int) -> Any:
    """Slice."""
    return graph.node("Slice", [x, integers(start), integers(stop), integers(axis)], shape)


@emitter
def gather(graph: OnnxEngine, shape: Shape, x: Array, indices: Array) -> Any:
    """Gather."""
    return graph.node("Gather", [x, as_indices(graph, indices)], shape, axis=0)


def as_indices(graph: OnnxEngine, x: Array) -> Any:
    """Indices that Caffe keeps as floats, as int64. ONNX would count negative ones from the end: they are too large."""
    if not isinstance(x, Symbol):
        whole = x.astype(np.int64)
        return np.where(whole < 0, _INT64_MAX, whole)
    whole = graph.node("Cast", [x], x.shape, to=_INT64)
    negative = graph.node("Less", [whole, integers(0)], x.shape)
    return graph.node("Where", [negative, integers(_INT64_MAX), whole], x.shape)


# TensorProto.DataType
_FLOAT, _INT64 = 1, 7


def as_floats(graph: OnnxEngine, x: Symbol) -> Any:
    """Indices and truth values as Caffe keeps them."""
    return graph.node("Cast", [x], x.shape, to=_FLOAT)


@emitter
def maximum(graph: OnnxEngine, shape: Shape, a: Array, b: Array | float) -> Any:
    """Relu where it is one."""
    if isinstance(b, float) and b == 0:
        return graph.node("Relu", [a], shape)
    return graph.node("Max", [a, b], shape)


@emitter
def greater(graph: OnnxEngine, shape: Shape, a: Array, b: Array | float) -> Any:
    """Greater, as numbers."""
    return as_floats(graph, graph.node("Greater", [a, b], shape))


@emitter
def power(graph: OnnxEngine, shape: Shape, x: Symbol, exponent: float) -> Any:
    """Sqrt where it is one, else Pow."""
    if exponent == 0.5:
        return graph.node("Sqrt", [x], shape)
    return graph.node("Pow", [x, float(exponent)], shape)


@emitter
def reciprocal_or_zero(graph: OnnxEngine, shape: Shape, x: Symbol) -> Any:
    """Where x is 0 the reciprocal is not taken."""
    zero = graph.node("Equal", [x, 0.0], shape)
    return graph.node("Where", [zero, 0.0, graph.node("Reciprocal", [x], shape)], shape)


@emitter
def round_half_away(graph: OnnxEngine, shape: Shape, x: Symbol) -> Any:
    """Round halves up on the magnitude (ONNX's Round takes halves to even)."""
    raised = graph.node("Add", [graph.node("Abs", [x], shape), BELOW_HALF], shape)
    return graph.node("Mul", [graph.node("Floor", [raised], shape), graph.node("Sign", [x], shape)], shape)


@emitter
def softmax(graph: OnnxEngine, shape: Shape, x: Symbol, axis: int) -> Any:
    """Softmax."""
    return graph.node("Softmax", [x], shape, axis=axis)


@emitter
def mean(graph: OnnxEngine, shape: Shape, x: Symbol, axes: Sequence[int]) -> Any:
    """ReduceMean."""
    return graph.node("ReduceMean", [x, integers(*axes)], shape, keepdims=1)


@emitter
def sum_(graph: OnnxEngine, shape: Shape, x: Symbol, axes: Sequence[int]) -> Any:
    """ReduceSum; of no axes it would be the sum of all."""
    return graph.node("ReduceSum", [x, integers(*axes)], shape, keepdims=1) if axes else x


@emitter
def top_k(graph: OnnxEngine, shapes: tuple[Shape, Shape], x: Symbol, k: int, axis: int) -> Any:
    """TopK prefers the lower index among equals, so it reads the line backwards."""
    last = x.shape[axis] - 1
    backwards = [x, integers(-1), integers(_INT64_MIN), integers(axis), integers(-1)]
    reversed_ = graph.node("Slice", backwards, x.shape)
    values, indices = graph.node("TopK", [reversed_, integers(k)], list(shapes), axis=axis)
    return values, graph.node("Sub", [float(last), as_floats(graph, indices)], shapes[1])


@emitter
def channel_window_sum(graph: OnnxEngine, shape: Shape, x: Symbol, size: int) -> Any:
    """A mean over windows of an image whose rows are channels, times the size."""
    channels = shape[1]
    rows = graph.node("Reshape", [x, integers(0, 1, channels, -1)], (shape[0], 1, channels, int(np.prod(shape[2:]))))
    half = size // 2
    pads = [half, 0, half, 0]
    means = graph.node("AveragePool", [rows], rows.shape, kernel_shape=[size, 1], pads=pads, count_include_pad=1)
    return graph.node("Reshape", [graph.node("Mul", [means, float(size)], rows.shape), integers(0, *shape[1:])], shape)
