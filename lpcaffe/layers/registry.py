"""The table of layer types, and what a layer function may use.

A layer's meaning is written once, as a function of an engine:

    @layer("ReLU", "relu_param")
    def relu(ops, p, x): ...

`ops` is the engine (see `Ops`), then come the parameter messages named in the decorator, then the bottoms, then the
layer's blobs; all kinds of engine run the same lines. One value returned is one top; a list is several. `bottoms=` says
how many bottoms the type takes, if not one. `blobs=` declares the shapes of the blobs that the layer owns, from its
parameters and the shapes of its bottoms, so that shapes are known without weights, and weights are checked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lpcaffe.errors import NetError
from lpcaffe.qformat import QFormat

# Whatever the engine computes with: an ndarray, a shape, a node of a graph.
Array = Any
Shape = tuple[int, ...]

# The upper limit of `bottoms=` where there is none.
ANY = 1 << 31


@dataclass(frozen=True)
class Window:
    """A pooling window, one entry for each spatial axis.

    `out` is the number of windows: the layer decides it, no engine rounds. Window i of an axis begins at
    i * stride - pad; values in the padding, and beyond it, count as nothing for MAX and as 0 for AVE.
    """

    kernel: Shape
    stride: Shape
    pad: Shape
    out: Shape


class Ops(Protocol):
    """The primitives that an engine implements. None takes the batch size, so a graph stays dynamic in it."""

    def shape(self, x: Array) -> Shape:
        """Dimensions of x."""

    def conv(
        self, x: Array, w: Array, b: Array | None, *, stride: Shape, pad: Shape, dilation: Shape, group: int
    ) -> Array:
        """Cross-correlation. x: N x C x spatial, w: O x C/group x kernel, b: O or None. Rounds the output size down."""

    def max_pool(self, x: Array, window: Window) -> Array:
        """Largest value of each window; the lowest float32 for a window that lies wholly outside."""

    def avg_pool(self, x: Array, window: Window, divisor: Sequence[Sequence[int]]) -> Array:
        """Sum of each window, divided by the product over the axes of divisor[axis][i] for window i."""

    def matmul(self, a: Array, b: Array) -> Array:
        """Matrix product over the last axis of a and the first of the matrix b."""

    def transpose(self, x: Array) -> Array:
        """A matrix, transposed."""

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """New shape; 0 copies the dimension of the same axis, one -1 is inferred."""

    def align(self, v: Array, x: Array, axis: int) -> Array:
        """v reshaped so that it broadcasts against x with its first axis at `axis`."""

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        """Join along an axis."""

    def cut(self, x: Array, axis: int, start: int, stop: int) -> Array:
        """The part [start, stop) along an axis."""

    def add(self, a: Array, b: Array | float) -> Array:
        """Sum, broadcasting."""

    def sub(self, a: Array, b: Array | float) -> Array:
        """Difference, broadcasting."""

    def mul(self, a: Array, b: Array | float) -> Array:
        """Product, broadcasting."""

    def div(self, a: Array, b: Array | float) -> Array:
        """Quotient, broadcasting."""

    def maximum(self, a: Array, b: Array | float) -> Array:
        """Larger of two, broadcasting."""

    def minimum(self, a: Array, b: Array | float) -> Array:
        """Smaller of two, broadcasting."""

    def power(self, x: Array, exponent: float) -> Array:
        """x ^ exponent, element by element; 1 for the exponent 0, whatever x is."""

    def reciprocal_or_zero(self, x: Array) -> Array:
        """1 / x, and 0 where x is 0."""

    def sigmoid(self, x: Array) -> Array:
        """Logistic function."""

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""

    def softmax(self, x: Array, axis: int) -> Array:
        """exp(x) / sum exp(x) along an axis, with the largest value subtracted first."""

    def mean(self, x: Array, axes: Sequence[int]) -> Array:
        """Mean over axes, which stay with size 1."""

    def channel_window_sum(self, x: Array, size: int) -> Array:
        """At each channel the sum over the `size` channels around it, (size - 1) / 2 on each side."""

    def round_fp(self, x: Array, fmt: QFormat, scheme: str, slot: int | str) -> Array:
        """round_fp(x); `slot` is the blob's index, or "top", and names the stream of random numbers."""


@dataclass(frozen=True)
class LayerType:
    """One row of the table."""

    name: str
    function: Callable[..., Any]
    params: tuple[str, ...]
    blobs: Callable[..., list[Shape]] | None
    bottoms: tuple[int, int]

    def blob_shapes(self, message: Any, bottoms: Sequence[Shape]) -> list[Shape]:
        """The shapes of the blobs that a layer of this type owns, from its LayerParameter and its bottoms' shapes."""
        return self.blobs(*self._parameters(message), *bottoms) if self.blobs else []

    def tops(self, ops: Ops, message: Any, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Run a layer of this type: its tops, from its LayerParameter, its bottoms and its blobs."""
        value = self.function(ops, *self._parameters(message), *bottoms, *blobs)
        return value if isinstance(value, list) else [value]

    def _parameters(self, message: Any) -> list[Any]:
        return [getattr(message, name) for name in self.params]


LAYERS: dict[str, LayerType] = {}


def layer(
    name: str, *params: str, blobs: Callable[..., list[Shape]] | None = None, bottoms: tuple[int, int] = (1, 1)
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a layer type.

    `params` are fields of LayerParameter; `blobs(*params, *bottom_shapes)` gives shapes; `bottoms` is the least and the
    largest number of bottoms.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LAYERS[name] = LayerType(name, function, params, blobs, bottoms)
        return function

    return register


def layer_type(name: str, *, layer_name: str) -> LayerType:
    """The row of a type; NetError that lists the known types when there is none."""
    if name not in LAYERS:
        known = ", ".join(sorted([*LAYERS, "Input"]))
        raise NetError(f'layer type "{name}" is not known', layer=layer_name, hint=f"known are {known}")
    return LAYERS[name]


def canonical_axis(axis: int, rank: int) -> int:
    """A possibly negative axis as an index; NetError when there is no such axis."""
    if not -rank <= axis < rank:
        raise NetError(f"axis {axis} does not exist: the bottom has {rank} axes")
    return axis % rank


def product(shape: Sequence[int]) -> int:
    """Number of elements."""
    count = 1
    for dim in shape:
        count *= dim
    return count


def resolve_shape(shape: Shape, template: Sequence[int]) -> Shape:
    """The dimensions that a template with 0 (copy) and -1 (infer) means for an array of `shape`."""
    out = []
    for axis, dim in enumerate(template):
        if dim == 0 and axis >= len(shape):
            raise NetError(f"dimension 0 copies axis {axis}, but the bottom has {len(shape)} axes")
        if dim < -1:
            raise NetError(f"a dimension is -1, 0 or more (got {dim})")
        out.append(shape[axis] if dim == 0 else dim)
    if out.count(-1) > 1:
        raise NetError("at most one dimension can be -1")
    if -1 in out:
        rest = -product(out)
        out[out.index(-1)] = product(shape) // rest
    if product(out) != product(shape):
        raise NetError(f"cannot reshape {shape_text(shape)} to {shape_text(template)}")
    return tuple(out)


def shape_text(shape: Sequence[int]) -> str:
    """Dimensions for a message: "2 x 3", or "()" for a single value."""
    return " x ".join(map(str, shape)) or "()"
