"""The shapes engine: layers run on dimensions instead of values, and multiply-accumulates are counted on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from lpcaffe.errors import LpcaffeError, NetError, located, shape_text
from lpcaffe.layers import DetectionRules, Geometry, Primitives, Window, layer_type
from lpcaffe.layers.registry import ANY, NEVER_RUN, Shape, canonical_axis, product, resolve_shape
from lpcaffe.net import Layer, Net
from lpcaffe.numbers import NumberFormat

# What Caffe's blobs can hold: a count is a signed 32-bit number.
MAX_COUNT = 2**31 - 1


class ShapesEngine:
    """Arrays are tuples of dimensions. `macs` counts the multiply-accumulates of conv and matmul."""

    def __init__(self) -> None:
        self.macs = 0

    def shape(self, x: Shape) -> Shape:
        """The dimensions themselves."""
        return x

    def conv(self, x: Shape, w: Shape, b: Shape | None, geometry: Geometry, group: int) -> Shape:
        """N x O x output sizes, rounded down."""
        spatial = _window_counts(x[2:], w[2:], geometry)
        self.macs += x[0] * product(w) * product(spatial)
        return (x[0], w[0], *spatial)

    def deconv(self, x: Shape, w: Shape, b: Shape | None, geometry: Geometry, group: int) -> Shape:
        """N x O x the sizes of which a convolution makes those of x."""
        _check_steps(geometry)
        sizes = zip(x[2:], w[2:], geometry.stride, geometry.pad, geometry.dilation, strict=True)
        spatial = tuple(s * (n - 1) + d * (k - 1) + 1 - 2 * q for n, k, s, q, d in sizes)
        if min(spatial) < 1:
            output = shape_text(spatial)
            raise NetError(f"padding {geometry.pad} leaves an output of {output}: every size must be at least 1")
        self.macs += x[0] * product(w) * product(x[2:])
        return (x[0], w[1] * group, *spatial)

    def im2col(self, x: Shape, kernel: Shape, geometry: Geometry) -> Shape:
        """N x (C kernel) x output sizes, rounded down."""
        return (x[0], x[1] * product(kernel), *_window_counts(x[2:], kernel, geometry))

    def max_pool(self, x: Shape, window: Window) -> Shape:
        """N x C x number of windows."""
        return (*x[:2], *window.out)

    def avg_pool(self, x: Shape, window: Window, divisor: Sequence[Sequence[int]]) -> Shape:
        """N x C x number of windows."""
        return (*x[:2], *window.out)

    def max_pool_with_argmax(self, x: Shape, window: Window) -> tuple[Shape, Shape]:
        """N x C x number of windows, twice."""
        return (*x[:2], *window.out), (*x[:2], *window.out)

    def unpool(self, x: Shape, argmax: Shape, size: Shape) -> Shape:
        """Images of another size."""
        return (*x[:2], *size)

    def interpolate(self, x: Shape, size: Shape) -> Shape:
        """Images of another size."""
        return (*x[:2], *size)

    def roi_max_pool(self, x: Shape, rois: Shape, pooled: Shape, scale: float) -> Shape:
        """Regions x channels x bins."""
        return (rois[0], x[1], *pooled)

    def roi_average(self, x: Shape, rois: Shape, group: int, scale: float) -> Shape:
        """Regions x channels for each bin x bins."""
        return (rois[0], x[1] // group**2, group, group)

    def matmul(self, a: Shape, b: Shape) -> Shape:
        """Last axis of a against the first of b."""
        if a[-1] != b[0]:
            raise NetError(f"expected {b[0]} inputs, got {a[-1]}")
        self.macs += product(a) * b[1]
        return (*a[:-1], b[1])

    def permute(self, x: Shape, order: Sequence[int]) -> Shape:
        """Dimensions in another order."""
        return tuple(x[axis] for axis in order)

    def reshape(self, x: Shape, shape: Sequence[int]) -> Shape:
        """0 copies, -1 is inferred."""
        return resolve_shape(x, shape)

    def broadcast_to_axis(self, v: Shape, x: Shape, axis: int) -> Shape:
        """v followed by ones up to the last axis of x."""
        if v != x[axis : axis + len(v)]:
            raise NetError(
                f"expected the shape {shape_text(x[axis : axis + len(v)])} from axis {axis} on, got {shape_text(v)}"
            )
        return v + (1,) * (len(x) - axis - len(v))

    def literal(self, values: np.ndarray) -> Shape:
        """The array's own."""
        return tuple(values.shape)

    def gather(self, x: Shape, indices: Shape) -> Shape:
        """Those of the indices, then x's others."""
        return indices + x[1:]

    def compress(self, x: Shape, selector: Shape) -> Shape:
        """All entries: how many are chosen is known when it runs."""
        return x

    def concat(self, xs: Sequence[Shape], axis: int) -> Shape:
        """Sizes along the axis add up."""
        return (*xs[0][:axis], sum(x[axis] for x in xs), *xs[0][axis + 1 :])

    def slice(self, x: Shape, axis: int, start: int, stop: int) -> Shape:
        """The axis gets the size of the part."""
        return (*x[:axis], stop - start, *x[axis + 1 :])

    def add(self, a: Shape, b: Shape | float) -> Shape:
        """Broadcast."""
        return _broadcast(a, b) if isinstance(b, tuple) else a

    sub = mul = div = maximum = minimum = greater = add

    def tanh(self, x: Shape) -> Shape:
        """Unchanged."""
        return x

    sigmoid = reciprocal_or_zero = absolute = exp = log = round_half_away = tanh

    def power(self, x: Shape, exponent: float) -> Shape:
        """Unchanged."""
        return x

    def softmax(self, x: Shape, axis: int) -> Shape:
        """Unchanged; the axis must exist."""
        canonical_axis(axis, len(x))
        return x

    def mean(self, x: Shape, axes: Sequence[int]) -> Shape:
        """Axes of size 1."""
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(x))

    sum = mean

    def top_k(self, x: Shape, k: int, axis: int) -> tuple[Shape, Shape]:
        """The axis gets the size k, twice."""
        shape = (*x[:axis], k, *x[axis + 1 :])
        return shape, shape

    def channel_window_sum(self, x: Shape, size: int) -> Shape:
        """Unchanged."""
        return x

    def detections(self, boxes: Shape, scores: Shape, rules: DetectionRules) -> Shape:
        """One row, as Caffe says before it has run."""
        return (1, 1, 1, 7)

    def quantize(self, x: Shape, fmt: NumberFormat, scheme: str, site: int | str) -> Shape:
        """Unchanged."""
        return x


if TYPE_CHECKING:
    _primitives: type[Primitives[Shape]] = ShapesEngine


def _broadcast(a: Shape, b: Shape) -> Shape:
    """The common shape, however large: NumPy's own function refuses what no array can hold."""
    pairs = list(zip_longest(reversed(a), reversed(b), fillvalue=1))
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        raise NetError(f"the shapes {shape_text(a)} and {shape_text(b)} do not fit together")
    return tuple(n if m == 1 else m for m, n in reversed(pairs))


def _check_steps(geometry: Geometry) -> None:
    if min(geometry.stride) < 1 or min(geometry.dilation) < 1:
        raise NetError(f"stride {geometry.stride} and dilation {geometry.dilation} must be at least 1")


def _window_counts(size: Shape, kernel: Shape, geometry: Geometry) -> Shape:
    """How many positions a kernel has along each axis of the padded image, rounded down; NetError for none."""
    _check_steps(geometry)
    counts = []
    for n, k, s, q, d in zip(size, kernel, geometry.stride, geometry.pad, geometry.dilation, strict=True):
        extent = d * (k - 1) + 1
        if n + 2 * q < extent:
            raise NetError(f"the kernel spans {extent} pixels, the padded input has {n + 2 * q}")
        counts.append((n + 2 * q - extent) // s + 1)
    return tuple(counts)


@dataclass(frozen=True)
class Shapes:
    """What is known of a network without running it.

    `tensors` has the shape of every tensor, `blobs` that of every blob of the file (its last version), `params` the
    shapes of the blobs that each layer owns. After a layer that cannot be resolved the entries are None, and
    `problems` says why. `macs` are the multiply-accumulates of one forward pass at the shapes of the inputs.
    """

    tensors: dict[str, Shape | None] = field(default_factory=dict)
    blobs: dict[str, Shape | None] = field(default_factory=dict)
    params: dict[str, list[Shape]] = field(default_factory=dict)
    macs: int = 0
    problems: tuple[LpcaffeError, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of learned values, the odd blobs of low-precision layers included."""
        return sum(product(shape) for shapes in self.params.values() for shape in shapes)


def input_shapes(net: Net) -> dict[str, Shape]:
    """The shapes that the file gives its inputs, one for each or one for all; those without one are left out."""
    shapes: dict[str, Shape] = {}
    for layer in net.layers:
        given = [tuple(shape.dim) for shape in layer.message.input_param.shape] if layer.type == "Input" else []
        shapes.update(zip(layer.raw_tops, given * len(layer.raw_tops) if len(given) == 1 else given, strict=False))
    return shapes


def infer_shapes(net: Net, inputs: Mapping[str, Shape] | None = None, *, strict: bool = True) -> Shapes:
    """Shapes of every tensor and every owned blob.

    `inputs` replaces the shapes of the file. With `strict`, a layer of unknown type, or whose shapes do not fit, raises
    NetError that names it (FormatError for a fixed-point format that does not exist); otherwise what depends on it is
    None.
    """
    shapes = {**input_shapes(net), **(inputs or {})}
    ops = ShapesEngine()
    tensors: dict[str, Shape | None] = {}
    params: dict[str, list[Shape]] = {}
    problems: list[LpcaffeError] = []
    for layer in net.layers:
        tops: list[Shape] = []
        try:
            with located(path=net.path, layer=layer.name):
                if layer.type == "Input":
                    tops = [_input_shape(shapes, layer, top) for top in layer.raw_tops]
                else:
                    tops = _layer_shapes(ops, layer, tensors, params)
                check_known(layer.raw_tops, tops)
        except LpcaffeError as error:
            if strict:
                raise
            problems.append(error)
        tensors.update(dict.fromkeys(layer.tops))
        tensors.update((top, shape) for top, shape in zip(layer.tops, tops, strict=False) if is_known(shape))
    blobs = {blob: tensors[tensor] for blob, tensor in net.last_versions.items()}
    return Shapes(tensors, blobs, params, ops.macs, tuple(problems))


def _input_shape(shapes: Mapping[str, Shape], layer: Layer, top: str) -> Shape:
    given = len(layer.message.input_param.shape)
    if given not in (0, 1, len(layer.tops)):
        raise NetError(f"{given} shapes for {len(layer.tops)} tops; expected one for all or one for each")
    if top not in shapes:
        raise NetError(f'input "{top}" has no shape', hint="add input_param { shape { dim: ... } }")
    if not shapes[top] or min(shapes[top]) < 1:
        raise NetError(f'input "{top}" has the shape {shape_text(shapes[top])}: every dimension must be at least 1')
    _check_count(shapes[top])
    return shapes[top]


def is_known(shape: Shape) -> bool:
    """Whether a shape has no dimension that only the data of a data layer tell, which is 0."""
    return min(shape, default=1) > 0


def check_known(blobs: Sequence[str], shapes: Sequence[Shape]) -> None:
    """Raise NetError that names the first blob whose shape is not known."""
    for blob, shape in zip(blobs, shapes, strict=False):
        if not is_known(shape):
            known = shape_text(dim if dim > 0 else "?" for dim in shape)
            raise NetError(f'the file does not say the whole shape of "{blob}": {known}')


def _check_count(shape: Shape) -> None:
    if product(shape) > MAX_COUNT:
        raise NetError(f"a blob of {shape_text(shape)} has more than the {MAX_COUNT} values that Caffe can hold")


def _layer_shapes(
    ops: ShapesEngine, layer: Layer, tensors: Mapping[str, Shape | None], params: dict[str, list[Shape]]
) -> list[Shape]:
    kind = NEVER_RUN.get(layer.type) or layer_type(layer.type, layer_name=layer.name)
    least, most = kind.bottoms
    if not least <= len(layer.bottoms) <= most:
        wanted = str(least) if least == most else f"at least {least}" if most == ANY else f"{least} to {most}"
        raise NetError(f"expected bottoms: {wanted}, got {len(layer.bottoms)}")
    bottoms = [tensors[bottom] for bottom in layer.bottoms]
    known = [bottom for bottom in bottoms if bottom is not None]
    if len(known) < len(bottoms):
        return []
    blobs = kind.blob_shapes(layer.message, known)
    tops = kind.tops(ops, layer.message, known, blobs)
    if len(tops) != len(layer.tops):
        raise NetError(f"expected tops: {len(tops)}, got {len(layer.tops)}")
    for shape in (*blobs, *tops):
        _check_count(shape)
    if blobs:
        params[layer.name] = blobs
    return tops
