"""The numpy engine: layers run on ndarrays, in float32 (BLAS) or float64.

In float64 it is the bit-accurate simulator of a fixed-point network: a product of two codes of at most 16 bits, summed
over any real layer, stays below 2^53, so a float64 matrix product is exact whatever its order. That holds when the
input lies on a fixed-point grid, biases are rounded, and only exact operations (ReLU, MAX, sums) stand between LPActs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lpcaffe.engines import numpy_boxes, numpy_windows
from lpcaffe.engines.channels import aligned, is_selected
from lpcaffe.engines.parameters import Parameters
from lpcaffe.errors import DataError
from lpcaffe.layers import DetectionRules, Geometry, Primitives, Window
from lpcaffe.layers.registry import Shape, product, resolve_shape
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.rounding import stream_of

# Any: what NumPy returns from arithmetic on arrays of a dtype known at run time is not typed more closely.
Array = Any


@dataclass(frozen=True)
class NumpyEngine:
    """The primitives of the layers on ndarrays of `dtype`, for one layer of one pass.

    `seed` feeds stochastic rounding; `schemes` replaces rounding schemes by name ({"stochastic": "floor"} computes what
    ADaPTION's CPU code did). `first_image` is the position of the batch in the whole input: random numbers are counted
    over that, so that the batch size does not matter. `layer` names their stream. `parameters` keep what is computed
    from weights alone; without them it is computed at each call.
    """

    dtype: npt.DTypeLike = np.float32
    seed: int = 0
    schemes: Mapping[str, str] = field(default_factory=dict)
    first_image: int = 0
    layer: str = ""
    parameters: Parameters | None = None

    def for_layer(self, layer: str, parameters: Parameters | None = None) -> NumpyEngine:
        """The engine for a layer, or for what has random numbers of that name."""
        return dataclasses.replace(self, layer=layer, parameters=parameters)

    def constant(self, index: int, values: Array) -> Array:
        """A blob of weights of the layer as the engine computes with it: of its dtype, aligned, contiguous."""
        return self._once(("constant", index), values, lambda: self.value(values))

    def value(self, x: Array) -> Array:
        """An input as the engine computes with it."""
        return np.require(x, self.dtype, ["A", "C"])

    def shape(self, x: Array) -> Shape:
        """Dimensions of x."""
        return tuple(x.shape)

    def conv(self, x: Array, w: Array, b: Array | None, geometry: Geometry, group: int) -> Array:
        """Cross-correlation."""
        return numpy_windows.conv(x, w, b, geometry, group)

    def deconv(self, x: Array, w: Array, b: Array | None, geometry: Geometry, group: int) -> Array:
        """Transposed convolution."""
        return numpy_windows.deconv(x, w, b, geometry, group)

    def im2col(self, x: Array, kernel: Shape, geometry: Geometry) -> Array:
        """im2col."""
        return numpy_windows.im2col(x, kernel, geometry)

    def max_pool(self, x: Array, window: Window) -> Array:
        """Largest value of each window."""
        return numpy_windows.max_pool(x, window)

    def max_pool_with_argmax(self, x: Array, window: Window) -> tuple[Array, Array]:
        """Largest value of each window, and its index in the image."""
        return numpy_windows.max_pool_with_argmax(x, window)

    def avg_pool(self, x: Array, window: Window, divisor: Sequence[Sequence[int]]) -> Array:
        """Sum of each window over its divisor."""
        return numpy_windows.avg_pool(x, window, divisor)

    def unpool(self, x: Array, argmax: Array, size: Shape) -> Array:
        """Values at their indices."""
        return numpy_windows.unpool(x, argmax, size)

    def interpolate(self, x: Array, size: Shape) -> Array:
        """Bilinear."""
        return numpy_windows.interpolate(x, size)

    def roi_max_pool(self, x: Array, rois: Array, pooled: Shape, scale: float) -> Array:
        """Largest value of each bin of each region."""
        return numpy_windows.roi_max_pool(x, rois, pooled, scale)

    def roi_average(self, x: Array, rois: Array, group: int, scale: float) -> Array:
        """Mean of each bin of each region, from channels of its own."""
        return numpy_windows.roi_average(x, rois, group, scale)

    def matmul(self, a: Array, b: Array) -> Array:
        """Matrix product."""
        return np.matmul(a, b)

    def permute(self, x: Array, order: Sequence[int]) -> Array:
        """A view with the axes in another order."""
        return x.transpose(order)

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """0 copies, -1 is inferred."""
        return x.reshape(resolve_shape(x.shape, shape))

    def broadcast_to_axis(self, v: Array, x: Array, axis: int) -> Array:
        """v with ones after it, to broadcast against x."""
        return v.reshape(v.shape + (1,) * (x.ndim - axis - v.ndim))

    def literal(self, values: np.ndarray) -> Array:
        """The values as the engine computes with them."""
        return values.astype(self.dtype)

    def gather(self, x: Array, indices: Array) -> Array:
        """Entries along axis 0; DataError where there is none of that number. Fractions are cut off, as by C."""
        rows = indices.astype(np.int64)
        wrong = (rows < 0) | (rows >= len(x))
        if wrong.any():
            raise DataError(f"expected indices from 0 to {len(x) - 1}, got {indices[wrong][0]:g}")
        return x[rows]

    def compress(self, x: Array, selector: Array) -> Array:
        """Entries along axis 0."""
        return x[selector != 0]

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        """Joined."""
        return np.concatenate(xs, axis)

    def slice(self, x: Array, axis: int, start: int, stop: int) -> Array:
        """A view of the part."""
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def add(self, a: Array, b: Array | float) -> Array:
        """Sum."""
        return np.add(a, b, dtype=self.dtype)

    def sub(self, a: Array, b: Array | float) -> Array:
        """Difference."""
        return np.subtract(a, b, dtype=self.dtype)

    def mul(self, a: Array, b: Array | float) -> Array:
        """Product."""
        return np.multiply(a, b, dtype=self.dtype)

    def div(self, a: Array, b: Array | float) -> Array:
        """Quotient."""
        return np.divide(a, b, dtype=self.dtype)

    def maximum(self, a: Array, b: Array | float) -> Array:
        """Larger of two."""
        return np.maximum(a, b, dtype=self.dtype)

    def minimum(self, a: Array, b: Array | float) -> Array:
        """Smaller of two."""
        return np.minimum(a, b, dtype=self.dtype)

    def greater(self, a: Array, b: Array | float) -> Array:
        """1 or 0."""
        return np.greater(a, b).astype(self.dtype)

    def absolute(self, x: Array) -> Array:
        """Magnitude."""
        return np.abs(x)

    def exp(self, x: Array) -> Array:
        """Exponential."""
        return np.exp(x)

    def log(self, x: Array) -> Array:
        """Natural logarithm."""
        return np.log(x)

    def round_half_away(self, x: Array) -> Array:
        """By the fraction, as |x| + 0.5 would round up the float below one half."""
        whole = np.trunc(x)
        return whole + np.copysign(np.abs(x - whole) >= 0.5, x)

    def power(self, x: Array, exponent: float) -> Array:
        """Element by element."""
        if exponent == 0.5:
            return np.sqrt(x)
        return np.power(x, np.asarray(exponent, self.dtype))

    def reciprocal_or_zero(self, x: Array) -> Array:
        """1 / x, and 0 where x is 0."""
        return np.divide(1.0, x, out=np.zeros_like(x), where=x != 0)

    def sigmoid(self, x: Array) -> Array:
        """By tanh, which cannot overflow, as current Caffe does."""
        return self.add(self.mul(np.tanh(self.mul(x, 0.5)), 0.5), 0.5)

    def tanh(self, x: Array) -> Array:
        """Hyperbolic tangent."""
        return np.tanh(x)

    def softmax(self, x: Array, axis: int) -> Array:
        """Largest value subtracted first.

        Two choices give the bits that Caffe was recorded with. exp in float64: NumPy's float32 exp is an ulp off in a
        third of the values, the C library's in almost none. And the sum as OpenBLAS's gemv takes it, four at a time.
        """
        y = np.exp(x - x.max(axis, keepdims=True), dtype=np.float64).astype(self.dtype)
        terms = np.moveaxis(y, axis, 0)
        fours = len(terms) // 4 * 4
        total = np.zeros_like(terms[0])
        for i in range(0, fours, 4):
            total += terms[i] + terms[i + 1] + terms[i + 2] + terms[i + 3]
        for term in terms[fours:]:
            total += term
        terms /= total
        return y

    def mean(self, x: Array, axes: Sequence[int]) -> Array:
        """Mean, axes kept."""
        return x.mean(tuple(axes), keepdims=True)

    def sum(self, x: Array, axes: Sequence[int]) -> Array:
        """Sum, axes kept."""
        return x.sum(tuple(axes), keepdims=True)

    def top_k(self, x: Array, k: int, axis: int) -> tuple[Array, Array]:
        """A stable sort of the reversed line: of equals the later comes first."""
        size = x.shape[axis]
        order = size - 1 - np.argsort(np.flip(-x, axis), axis, kind="stable").take(range(k), axis)
        return np.take_along_axis(x, order, axis), order.astype(self.dtype)

    def channel_window_sum(self, x: Array, size: int) -> Array:
        """Sum over the neighbouring channels."""
        half, channels = size // 2, x.shape[1]
        y = x.copy()
        for shift in range(1, min(half, channels - 1) + 1):
            y[:, shift:] += x[:, :-shift]
            y[:, :-shift] += x[:, shift:]
        return y

    def detections(self, boxes: Array, scores: Array, rules: DetectionRules) -> Array:
        """Image by image."""
        return numpy_boxes.detections(boxes, scores, rules)

    def quantize(self, x: Array, fmt: NumberFormat, scheme: str, site: int | str) -> Array:
        """By the format itself; weights once for all passes with the same parameters."""
        scheme = self.schemes.get(scheme, scheme)
        stream = stream_of(f"{self.layer}/{site}")
        index = 0 if isinstance(site, int) else self.first_image * product(x.shape[1:])

        def quantized() -> Array:
            return aligned(fmt, x.shape, site).quantize(x, scheme, seed=self.seed, stream=stream, index=index)

        if isinstance(site, int) and not is_selected(fmt):
            return self._once((site, fmt, scheme, self.seed), x, quantized)
        return quantized()

    def _once(self, key: tuple[Hashable, ...], blob: Array, compute: Callable[[], Array]) -> Array:
        """What is computed from a blob of the layer alone: once for all passes with the same parameters."""
        if self.parameters is None:
            return compute()
        return self.parameters.derived((self.layer, np.dtype(self.dtype), *key), blob, compute)


if TYPE_CHECKING:
    _primitives: type[Primitives[np.ndarray]] = NumpyEngine
