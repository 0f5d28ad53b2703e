"""The table of layer types, and what a layer function may use.

A layer's meaning is written once, as a function of an engine:

    @layer("ReLU", "relu_param")
    def relu(ops, p, x): ...

`ops` is the engine (see `Primitives`), then come the parameter messages named in the decorator, then the bottoms, then
the layer's blobs; all kinds of engine run the same lines. One value returned is one top; a list is several. `bottoms=`
says how many bottoms the type takes, if not one. `blobs=` declares the shapes of the blobs that the layer owns, from
its parameters and the shapes of its bottoms, so that shapes are known without weights, and weights are checked.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from lpcaffe.errors import NetError, shape_text
from lpcaffe.numbers import NumberFormat

# Whatever the engine computes with: an ndarray, a shape, a node of a graph.
Array = Any
A = TypeVar("A")
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


@dataclass(frozen=True)
class Geometry:
    """How the kernel of a convolution moves, one entry for each spatial axis.

    Output i of an axis reads x at i * stride - pad + k * dilation, for element k of the kernel; 0 in the padding.
    """

    stride: Shape
    pad: Shape
    dilation: Shape


@dataclass(frozen=True)
class DetectionRules:
    """Which boxes stay (SSD's DetectionOutput).

    Of each class but `background`, the boxes with a score above `confidence`, at most the `top_k` best (negative: all),
    are taken in falling order of score; one whose overlap with one that stays is above `nms_threshold` goes. Overlap is
    intersection over union, 0 for a box inside out. With eta < 1 the threshold shrinks by eta after each box that
    stays, as long as it is above 0.5. Of all classes together the `keep_top_k` best of an image stay (negative: all).
    Of equal scores the lower class, then the lower prior, comes first.
    """

    background: int
    confidence: float
    nms_threshold: float
    top_k: int
    keep_top_k: int
    eta: float


class Primitives(Protocol[A]):
    """The primitives that an engine implements. None takes the batch size, so a graph stays dynamic in it."""

    def shape(self, x: A) -> Shape:
        """Dimensions of x."""

    def conv(self, x: A, w: A, b: A | None, geometry: Geometry, group: int) -> A:
        """Cross-correlation. x: N x C x spatial, w: O x C/group x kernel, b: O or None. Rounds the output size down."""

    def max_pool(self, x: A, window: Window) -> A:
        """Largest value of each window; the lowest float32 for a window that lies wholly outside."""

    def avg_pool(self, x: A, window: Window, divisor: Sequence[Sequence[int]]) -> A:
        """Sum of each window, divided by the product over the axes of divisor[axis][i] for window i."""

    def max_pool_with_argmax(self, x: A, window: Window) -> tuple[A, A]:
        """max_pool, and the index in its image (h W + w) of each largest value: of equals the first of the window."""

    def unpool(self, x: A, argmax: A, size: Shape) -> A:
        """The reverse of max_pool_with_argmax: images of `size`, each value of x at its index, zeros elsewhere."""

    def deconv(self, x: A, w: A, b: A | None, geometry: Geometry, group: int) -> A:
        """Transposed convolution. x: N x C x spatial, w: C x O/group x kernel, b: O or None."""

    def im2col(self, x: A, kernel: Shape, geometry: Geometry) -> A:
        """im2col: N x (C kernel) x out, the values under each kernel position for each output position."""

    def interpolate(self, x: A, size: Shape) -> A:
        """Bilinear, with the centres of the corner pixels in place: output i reads at i (in - 1) / (out - 1)."""

    def roi_max_pool(self, x: A, rois: A, pooled: Shape, scale: float) -> A:
        """Largest value in each of pooled bins of each region. rois: R x 5 (image, x1, y1, x2, y2), times `scale`.

        Girshick 2015, section 2.1: corners are rounded (half away from zero), both included; a bin spans from the floor
        to the ceiling of its share, clipped to the image; an empty one gives 0.
        """

    def roi_average(self, x: A, rois: A, group: int, scale: float) -> A:
        """Mean of each of group x group bins of each region, from channels of its own. rois: as for roi_max_pool.

        Dai et al. 2016 (R-FCN), equation 1: bin (i, j) of channel c averages channel (c group + i) group + j of x.
        Corners are rounded, then times `scale`, and not rounded again; an empty bin gives 0.
        """

    def matmul(self, a: A, b: A) -> A:
        """Matrix product over the last axis of a and the first of the matrix b."""

    def permute(self, x: A, order: Sequence[int]) -> A:
        """Axes in another order: axis i of the result is axis order[i] of x."""

    def reshape(self, x: A, shape: Sequence[int]) -> A:
        """New shape; 0 copies the dimension of the same axis, one -1 is inferred."""

    def broadcast_to_axis(self, v: A, x: A, axis: int) -> A:
        """v reshaped so that it broadcasts against x with its first axis at `axis`."""

    def literal(self, values: np.ndarray) -> A:
        """An array that the layer computed from shapes and parameters alone."""

    def concat(self, xs: Sequence[A], axis: int) -> A:
        """Join along an axis."""

    def gather(self, x: A, indices: A) -> A:
        """The entries of x along axis 0 that the whole numbers in `indices` name: indices' shape, then x's others."""

    def compress(self, x: A, selector: A) -> A:
        """The entries of x along axis 0 at which the vector `selector` is not 0: how many is known when it runs."""

    def slice(self, x: A, axis: int, start: int, stop: int) -> A:
        """The part [start, stop) along an axis."""

    def add(self, a: A, b: A | float) -> A:
        """Sum, broadcasting."""

    def sub(self, a: A, b: A | float) -> A:
        """Difference, broadcasting."""

    def mul(self, a: A, b: A | float) -> A:
        """Product, broadcasting."""

    def div(self, a: A, b: A | float) -> A:
        """Quotient, broadcasting."""

    def maximum(self, a: A, b: A | float) -> A:
        """Larger of two, broadcasting."""

    def minimum(self, a: A, b: A | float) -> A:
        """Smaller of two, broadcasting."""

    def greater(self, a: A, b: A | float) -> A:
        """1 where a > b, else 0, broadcasting."""

    def absolute(self, x: A) -> A:
        """|x|."""

    def exp(self, x: A) -> A:
        """e ^ x."""

    def log(self, x: A) -> A:
        """Natural logarithm."""

    def round_half_away(self, x: A) -> A:
        """Nearest whole number, halves away from zero: C's round()."""

    def power(self, x: A, exponent: float) -> A:
        """x ^ exponent, element by element; 1 for the exponent 0, whatever x is."""

    def reciprocal_or_zero(self, x: A) -> A:
        """1 / x, and 0 where x is 0."""

    def sigmoid(self, x: A) -> A:
        """Logistic function."""

    def tanh(self, x: A) -> A:
        """Hyperbolic tangent."""

    def softmax(self, x: A, axis: int) -> A:
        """exp(x) / sum exp(x) along an axis, with the largest value subtracted first."""

    def mean(self, x: A, axes: Sequence[int]) -> A:
        """Mean over axes, which stay with size 1."""

    def sum(self, x: A, axes: Sequence[int]) -> A:
        """Sum over axes, which stay with size 1."""

    def top_k(self, x: A, k: int, axis: int) -> tuple[A, A]:
        """The k largest values along an axis, in falling order, and their indices; of equals the larger index first."""

    def channel_window_sum(self, x: A, size: int) -> A:
        """At each channel the sum over the `size` channels around it, (size - 1) / 2 on each side."""

    def detections(self, boxes: A, scores: A, rules: DetectionRules) -> A:
        """Non-maximum suppression, image by image and class by class. boxes: N x L x P x 4, scores: N x C x P.

        L is C, or 1 for boxes that all classes share. The result is 1 x 1 x K x 7 with a row (image, class, score,
        xmin, ymin, xmax, ymax) for each detection, sorted by image, class and falling score; with none in any image, a
        row of -1 for each image, which holds its number. K is known when it runs; its shape says 1.
        """

    def quantize(self, x: A, fmt: NumberFormat, scheme: str, site: int | str) -> A:
        """x in a number format, by a rounding scheme.

        `site` is the index of a blob of weights, or "bottom" or "top". It names the stream of random numbers, and the
        axis along which the channels of a format run: 0 in weights, 1 elsewhere.
        """


# What a layer function is given: it holds for the arrays of any engine.
Ops = Primitives[Any]


@dataclass(frozen=True)
class LayerType:
    """One row of the table."""

    name: str
    function: Callable[..., Any]
    params: tuple[str, ...]
    blobs: Callable[..., list[Shape]] | None
    bottoms: tuple[int, int]
    numpy_only: bool = False
    rounds: bool = False
    role: str = ""

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
# Types that a file may hold and no engine runs: data, losses, evaluation, Python. Their functions give shapes only.
NEVER_RUN: dict[str, LayerType] = {}


def layer(
    name: str,
    *params: str,
    blobs: Callable[..., list[Shape]] | None = None,
    bottoms: tuple[int, int] = (1, 1),
    numpy_only: bool = False,
    rounds: bool = False,
    role: str = "",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a layer type.

    `params` are fields of LayerParameter; `blobs(*params, *bottom_shapes)` gives shapes; `bottoms` is the least and the
    largest number of bottoms; `numpy_only` says that no graph can hold the layer; `rounds` that its values land on a
    grid, so that the last bit of a sum can count. `role` says what a layer is that no engine runs, as "a loss
    layer": its function gets and gives shapes, in which a dimension of 0 is one that only the data tell.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        table = NEVER_RUN if role else LAYERS
        table[name] = LayerType(name, function, params, blobs, bottoms, numpy_only, rounds, role)
        return function

    return register


def layer_type(name: str, *, layer_name: str) -> LayerType:
    """The row of a type that engines run.

    Raises NetError, with the names most like it, when there is none, or with the reason why it is never run.
    """
    if name in NEVER_RUN:
        if name == "Python":
            raise NetError("a Python layer is code that lpcaffe never executes", layer=layer_name)
        problem = f"{NEVER_RUN[name].role} ({name}) is not part of a deploy network"
        raise NetError(problem, layer=layer_name, hint="lpcaffe upgrade --deploy makes one")
    if name not in LAYERS:
        raise NetError(f'layer type "{name}" is not known', layer=layer_name, hint=_suggestion(name))
    return LAYERS[name]


def _suggestion(name: str) -> str:
    """What to do about a type that is not known: the names that may be meant, and where all are described."""
    names = {known.lower(): known for known in (*LAYERS, *NEVER_RUN, "Input")}
    sought = name.lower()
    similar = [names[found] for found in ([sought] if sought in names else difflib.get_close_matches(sought, names))]
    return (f"did you mean {' or '.join(similar)}? " if similar else "") + "docs/layers.md has all types"


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
        # Without the copied dimensions, one of which is 0 where a Filter chose no image.
        copied = {axis for axis, dim in enumerate(template) if dim == 0}
        left = product([dim for axis, dim in enumerate(shape) if axis not in copied])
        out[out.index(-1)] = left // product([dim for dim in template if dim > 0])
    if product(out) != product(shape):
        raise NetError(f"cannot reshape {shape_text(shape)} to {shape_text(template)}")
    return tuple(out)
