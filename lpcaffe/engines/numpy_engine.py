"""The numpy engine: layers run on ndarrays, in float32 (BLAS) or float64.

In float64 it is the bit-accurate simulator of a fixed-point network: a product of two codes of at most 16 bits, summed
over any real layer, stays below 2^53, so a float64 matrix product is exact whatever its order. That holds when the
input lies on a fixed-point grid, biases are rounded, and only exact operations (ReLU, MAX, sums) stand between LPActs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import as_strided

from lpcaffe.layers import Window
from lpcaffe.layers.registry import Shape, product, resolve_shape
from lpcaffe.qformat import QFormat
from lpcaffe.rounding import round_fp, stream_of

# Any: what NumPy returns from arithmetic on arrays of a dtype known at run time is not typed more closely.
Array = Any

# Column matrices of a convolution are built for as many images at a time as fit in this many values.
_COLUMNS = 1 << 23
_LOWEST = float(np.finfo(np.float32).min)


class NumpyEngine:
    """The primitives of layers.Ops on ndarrays of `dtype`.

    `seed` feeds stochastic rounding; `schemes` replaces rounding schemes by name ({"stochastic": "floor"} computes what
    ADaPTION's CPU code did). `layer` and `first_image` are set by `forward`: random numbers are counted over the whole
    input, so that the batch size does not matter.
    """

    def __init__(
        self, dtype: npt.DTypeLike = np.float32, *, seed: int = 0, schemes: dict[str, str] | None = None
    ) -> None:
        self.dtype = np.dtype(dtype)
        self.seed = seed
        self.schemes = schemes or {}
        self.layer = ""
        self.first_image = 0
        self._constants: dict[tuple[str, int | str], Array] = {}
        self._rounded: dict[tuple[str, int | str], Array] = {}

    def constant(self, layer: str, index: int, values: Array) -> Array:
        """A blob of weights as the engine computes with it: of its dtype, aligned, contiguous. Made once."""
        key = (layer, index)
        if key not in self._constants:
            self._constants[key] = np.require(values, self.dtype, ["A", "C"])
        return self._constants[key]

    def value(self, x: Array) -> Array:
        """An input as the engine computes with it."""
        return np.require(x, self.dtype, ["A", "C"])

    def shape(self, x: Array) -> Shape:
        """Dimensions of x."""
        return tuple(x.shape)

    def conv(
        self, x: Array, w: Array, b: Array | None, *, stride: Shape, pad: Shape, dilation: Shape, group: int
    ) -> Array:
        """Cross-correlation as a matrix product with the columns of the image (im2col)."""
        kernel = w.shape[2:]
        out = tuple(
            (n + 2 * q - d * (k - 1) - 1) // s + 1
            for n, q, d, k, s in zip(x.shape[2:], pad, dilation, kernel, stride, strict=True)
        )
        y = np.empty((len(x), len(w), *out), self.dtype)
        matrix = w.reshape(group, len(w) // group, -1)
        step = max(1, _COLUMNS // (matrix.shape[2] * group * product(out)))
        for start in range(0, len(x), step):
            images = _padded(x[start : start + step], pad, 0.0)
            columns = _columns(images, kernel, out, stride, dilation).reshape(len(images), group, -1, product(out))
            np.matmul(matrix, columns, out=y[start : start + step].reshape(len(images), group, -1, product(out)))
        if b is not None:
            y += b.reshape(-1, *(1,) * len(out))
        return y

    def max_pool(self, x: Array, window: Window) -> Array:
        """Largest value of each window."""
        views = _shifted(x, window, _LOWEST)
        y = next(views).copy()
        for view in views:
            np.maximum(y, view, out=y)
        return y

    def avg_pool(self, x: Array, window: Window, divisor: Sequence[Sequence[int]]) -> Array:
        """Sum of each window over its divisor."""
        if window.kernel == x.shape[2:] and not any(window.pad) and product(window.out) == 1:
            y = x.sum(axis=(2, 3), keepdims=True)
        else:
            views = _shifted(x, window, 0.0)
            y = next(views).copy()
            for view in views:
                y += view
        y /= np.multiply.outer(*(np.array(sizes, self.dtype) for sizes in divisor))
        return y

    def matmul(self, a: Array, b: Array) -> Array:
        """Matrix product."""
        return np.matmul(a, b)

    def transpose(self, x: Array) -> Array:
        """Both axes swapped."""
        return x.T

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """0 copies, -1 is inferred."""
        return x.reshape(resolve_shape(x.shape, shape))

    def align(self, v: Array, x: Array, axis: int) -> Array:
        """v with ones after it, to broadcast against x."""
        return v.reshape(v.shape + (1,) * (x.ndim - axis - v.ndim))

    def concat(self, xs: Sequence[Array], axis: int) -> Array:
        """Joined."""
        return np.concatenate(xs, axis)

    def cut(self, x: Array, axis: int, start: int, stop: int) -> Array:
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

    def channel_window_sum(self, x: Array, size: int) -> Array:
        """Sum over the neighbouring channels."""
        half, channels = size // 2, x.shape[1]
        y = x.copy()
        for shift in range(1, min(half, channels - 1) + 1):
            y[:, shift:] += x[:, :-shift]
            y[:, :-shift] += x[:, shift:]
        return y

    def round_fp(self, x: Array, fmt: QFormat, scheme: str, slot: int | str) -> Array:
        """round_fp; weights are rounded once."""
        key = (self.layer, slot)
        if slot != "top" and key in self._rounded:
            return self._rounded[key]
        index = self.first_image * product(x.shape[1:]) if slot == "top" else 0
        scheme = self.schemes.get(scheme, scheme)
        stream = stream_of(f"{self.layer}/{slot}")
        y = round_fp(x, fmt.bd, fmt.ad, scheme, seed=self.seed, stream=stream, index=index)
        if slot != "top":
            self._rounded[key] = y
        return y


def _padded(x: Array, pad: Shape, fill: float, end: Shape | None = None) -> Array:
    """x with `pad` values of `fill` before each spatial axis, and `end` (or as many) after it."""
    end = pad if end is None else end
    if not any(pad) and not any(end):
        return x
    size = tuple(n + p + q for n, p, q in zip(x.shape[2:], pad, end, strict=True))
    y = np.full((*x.shape[:2], *size), fill, x.dtype)
    inside: Any = (..., *(slice(p, p + n) for p, n in zip(pad, x.shape[2:], strict=True)))
    y[inside] = x
    return y


def _columns(x: Array, kernel: Shape, out: Shape, stride: Shape, dilation: Shape) -> Array:
    """For each image the values under each kernel position, for each output position: N x C x kernel x out."""
    if product(kernel) == 1 and all(s == 1 for s in stride):
        return x
    n, c, *steps = x.strides
    windows = as_strided(
        x,
        (*x.shape[:2], *kernel, *out),
        (
            n,
            c,
            *(step * d for step, d in zip(steps, dilation, strict=True)),
            *(step * s for step, s in zip(steps, stride, strict=True)),
        ),
        writeable=False,
    )
    return np.ascontiguousarray(windows)


def _shifted(x: Array, window: Window, fill: float) -> Iterator[Array]:
    """For each position in the pooling kernel, the values at that position of every window: N x C x out."""
    need = [(out - 1) * s + k for out, s, k in zip(window.out, window.stride, window.kernel, strict=True)]
    sizes = zip(need, x.shape[2:], window.pad, strict=True)
    padded = _padded(x, window.pad, fill, tuple(max(0, total - n - pad) for total, n, pad in sizes))
    for position in np.ndindex(*window.kernel):
        spans = zip(position, window.out, window.stride, strict=True)
        yield padded[(..., *(slice(i, i + (out - 1) * s + 1, s) for i, out, s in spans))]
