"""Windows over images in NumPy: convolution and its reverse, pooling and its reverse, interpolation, regions.

Images are N x C x spatial. A window operation looks at the image once for each position in the kernel: as a strided
view (pooling), as a block of columns (convolution), or adding to one (deconvolution). No loop is over pixels. Results
have the dtype of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from lpcaffe.errors import DataError, shape_text
from lpcaffe.layers import Geometry, Window
from lpcaffe.layers.registry import Shape, product

# Any: what NumPy returns from arithmetic on arrays of a dtype known at run time is not typed more closely.
Array = Any

# Column matrices of a convolution are built for as many images at a time as fit in this many values: in a cache.
_COLUMNS = 1 << 20
_LOWEST = float(np.finfo(np.float32).min)


def conv(x: Array, w: Array, b: Array | None, geometry: Geometry, group: int) -> Array:
    """Cross-correlation as a matrix product with the columns of the image (im2col)."""
    kernel = w.shape[2:]
    out = _out_sizes(x.shape[2:], kernel, geometry)
    y = np.empty((len(x), len(w), *out), x.dtype)
    matrix = w.reshape(group, len(w) // group, -1)
    step = max(1, _COLUMNS // (matrix.shape[2] * group * product(out)))
    for start in range(0, len(x), step):
        images = padded(x[start : start + step], geometry.pad, 0.0)
        block = _columns(images, kernel, out, geometry).reshape(len(images), group, -1, product(out))
        np.matmul(matrix, block, out=y[start : start + step].reshape(len(images), group, -1, product(out)))
    if b is not None:
        y += b.reshape(-1, *(1,) * len(out))
    return y


def deconv(x: Array, w: Array, b: Array | None, geometry: Geometry, group: int) -> Array:
    """The columns of the result as a matrix product, added up where they overlap (col2im)."""
    kernel, size = w.shape[2:], x.shape[2:]
    stride, dilation = geometry.stride, geometry.dilation
    full = [s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)]
    y = np.zeros((len(x), group * w.shape[1], *full), x.dtype)
    matrix = w.reshape(group, len(w) // group, -1).swapaxes(1, 2)
    step = max(1, _COLUMNS // (matrix.shape[1] * group * product(size)))
    for start in range(0, len(x), step):
        images, target = x[start : start + step], y[start : start + step]
        block = np.matmul(matrix, images.reshape(len(images), group, -1, product(size)))
        block = block.reshape(*target.shape[:2], *kernel, *size)
        for position in np.ndindex(*kernel):
            spans = zip(position, size, stride, dilation, strict=True)
            under: Any = (..., *(slice(i * d, i * d + (n - 1) * s + 1, s) for i, n, s, d in spans))
            target[under] += block[(slice(None), slice(None), *position)]
    inside: Any = (..., *(slice(p, n - p) for p, n in zip(geometry.pad, full, strict=True)))
    y = y[inside]
    return y if b is None else y + b.reshape(-1, *(1,) * len(size))


def im2col(x: Array, kernel: Shape, geometry: Geometry) -> Array:
    """im2col."""
    out = _out_sizes(x.shape[2:], kernel, geometry)
    block = _columns(padded(x, geometry.pad, 0.0), kernel, out, geometry)
    return block.reshape(len(x), x.shape[1] * product(kernel), *out)


def max_pool(x: Array, window: Window) -> Array:
    """Largest value of each window."""
    views = _shifted(x, window, _LOWEST)
    y = next(views).copy()
    for view in views:
        np.maximum(y, view, out=y)
    return y


def max_pool_with_argmax(x: Array, window: Window) -> tuple[Array, Array]:
    """Largest value of each window, and its index; of equals the first, and -1 where none is above the lowest."""
    y = np.full((*x.shape[:2], *window.out), _LOWEST, x.dtype)
    argmax = np.full_like(y, -1)
    rows, cols = (np.arange(n) * s - p for n, s, p in zip(window.out, window.stride, window.pad, strict=True))
    for position, view in zip(np.ndindex(*window.kernel), _shifted(x, window, _LOWEST), strict=True):
        larger = view > y
        np.copyto(y, view, where=larger)
        here = np.add.outer((rows + position[0]) * x.shape[3], cols + position[1]).astype(x.dtype)
        np.copyto(argmax, here, where=larger)
    return y, argmax


def avg_pool(x: Array, window: Window, divisor: Sequence[Sequence[int]]) -> Array:
    """Sum of each window over its divisor."""
    if window.kernel == x.shape[2:] and not any(window.pad) and product(window.out) == 1:
        y = x.sum(axis=(2, 3), keepdims=True)
    else:
        views = _shifted(x, window, 0.0)
        y = next(views).copy()
        for view in views:
            y += view
    y /= np.multiply.outer(*(np.array(sizes, x.dtype) for sizes in divisor))
    return y


def unpool(x: Array, argmax: Array, size: Shape) -> Array:
    """Values at their indices in images of zeros; of several for one index the last stays, as in SegNet's loop."""
    area = product(size)
    inside = (argmax > -1) & (argmax < area)
    if not inside.all():
        raise DataError(f"there is no index {argmax[~inside][0]:g} in an image of {shape_text(size)}")
    y = np.zeros((*x.shape[:2], *size), x.dtype)
    first = np.arange(0, y.size, area).reshape(*x.shape[:2], 1, 1)
    y.reshape(-1)[(argmax.astype(np.int64) + first).reshape(-1)] = x.reshape(-1)
    return y


def interpolate(x: Array, size: Shape) -> Array:
    """Bilinear: first along the rows, then along the columns, as Caffe adds."""
    return _interpolate_axis(_interpolate_axis(x, 3, size[1]), 2, size[0])


def _interpolate_axis(x: Array, axis: int, count: int) -> Array:
    size = x.shape[axis]
    if count == size:
        return x
    at = np.arange(count) * (size - 1) / max(1, count - 1)
    before = at.astype(np.int64)
    share = (at - before).astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1 - axis))
    y = x.take(before, axis)
    y *= 1 - share
    y += x.take(np.minimum(before + 1, size - 1), axis) * share
    return y


def roi_max_pool(x: Array, rois: Array, pooled: Shape, scale: float) -> Array:
    """Region by region, the rows of bins first. Bins are found in float32 whatever the dtype, as Caffe finds them."""
    images = _images(rois, len(x))
    corners = _rounded(rois[:, 1:].astype(np.float32) * np.float32(scale))
    rows, cols = (
        _bins(corners[:, [first]], corners[:, [first + 2]], count, limit)
        for first, count, limit in zip((1, 0), pooled, x.shape[2:], strict=True)
    )
    pixels = np.ascontiguousarray(np.moveaxis(x, 1, -1))  # channels last: NumPy reduces the other axes fast
    y = np.zeros((len(rois), *pooled, x.shape[1]), x.dtype)
    for image, region, row_bins, col_bins in zip(images, y, rows, cols, strict=True):
        begin, end = col_bins[0, 0], col_bins[-1, 1]
        for i, (top, bottom) in enumerate(row_bins):
            if top < bottom:
                line = pixels[image, top:bottom, begin:end].max(0)
                for j, (left, right) in enumerate(col_bins - begin):
                    if left < right:
                        line[left:right].max(0, out=region[i, j])
    return np.ascontiguousarray(np.moveaxis(y, -1, 1))


def _bins(first: Array, last: Array, count: int, limit: int) -> Array:
    """Where the bins between two rounded corners (both included) begin and end, clipped: R x count x 2."""
    size = np.maximum(last - first + 1, 1).astype(np.float32) / np.float32(count)
    edge = np.arange(count + 1, dtype=np.float32) * size
    return _clipped(np.floor(edge[:, :-1]) + first, np.ceil(edge[:, 1:]) + first, limit)


def roi_average(x: Array, rois: Array, group: int, scale: float) -> Array:
    """Region by region, bin by bin. Bins are found in float32 whatever the dtype, as Caffe finds them."""
    images = _images(rois, len(x))
    corners = _rounded(rois[:, 1:].astype(np.float32))
    corners[:, 2:] += 1
    edges = corners.astype(np.float32) * np.float32(scale)
    rows, cols = (
        _fractional_bins(edges[:, [first]], edges[:, [first + 2]], group, limit)
        for first, limit in zip((1, 0), x.shape[2:], strict=True)
    )
    banks = x.reshape(len(x), -1, group, group, *x.shape[2:])
    banks = np.ascontiguousarray(np.moveaxis(banks, 1, -1))  # as for roi_max_pool
    y = np.zeros((len(rois), group, group, banks.shape[-1]), x.dtype)
    for image, region, row_bins, col_bins in zip(images, y, rows, cols, strict=True):
        for i, (top, bottom) in enumerate(row_bins):
            for j, (left, right) in enumerate(col_bins):
                if top < bottom and left < right:
                    region[i, j] = banks[image, i, j, top:bottom, left:right].mean((0, 1))
    return np.ascontiguousarray(np.moveaxis(y, -1, 1))


def _fractional_bins(first: Array, last: Array, count: int, limit: int) -> Array:
    """Where the bins between two fractional edges begin and end, clipped: R x count x 2."""
    size = np.maximum(last - first, np.float32(0.1)) / np.float32(count)
    edge = np.arange(count + 1, dtype=np.float32) * size + first
    return _clipped(np.floor(edge[:, :-1]), np.ceil(edge[:, 1:]), limit)


def _clipped(start: Array, end: Array, limit: int) -> Array:
    """Both clipped to the image, as whole numbers; what is no number is 0."""
    return np.nan_to_num(np.stack([start, end], -1)).clip(0, limit).astype(np.int64)


def _rounded(x: Array) -> Array:
    """Nearest whole numbers, halves away from zero; the addition is exact in float64."""
    return np.trunc(x.astype(np.float64) + np.copysign(0.5, x))


def _images(rois: Array, count: int) -> Array:
    """Which image each region is of; DataError when there is no such image."""
    inside = (rois[:, 0] > -1) & (rois[:, 0] < count)
    if not inside.all():
        raise DataError(f"a region names image {rois[~inside, 0][0]:g} of {count}")
    return rois[:, 0].astype(np.int64)


def _out_sizes(size: Shape, kernel: Shape, geometry: Geometry) -> Shape:
    spans = zip(size, kernel, geometry.stride, geometry.pad, geometry.dilation, strict=True)
    return tuple((n + 2 * q - d * (k - 1) - 1) // s + 1 for n, k, s, q, d in spans)


def padded(x: Array, pad: Shape, fill: float, end: Shape | None = None) -> Array:
    """x with `pad` values of `fill` before each spatial axis, and `end` (or as many) after it."""
    end = pad if end is None else end
    if not any(pad) and not any(end):
        return x
    size = tuple(n + p + q for n, p, q in zip(x.shape[2:], pad, end, strict=True))
    y = np.full((*x.shape[:2], *size), fill, x.dtype)
    inside: Any = (..., *(slice(p, p + n) for p, n in zip(pad, x.shape[2:], strict=True)))
    y[inside] = x
    return y


def _columns(x: Array, kernel: Shape, out: Shape, geometry: Geometry) -> Array:
    """For each image the values under each kernel position, for each output position: N x C x kernel x out."""
    if product(kernel) == 1 and all(s == 1 for s in geometry.stride):
        return x
    n, c, *steps = x.strides
    windows = as_strided(
        x,
        (*x.shape[:2], *kernel, *out),
        (
            n,
            c,
            *(step * d for step, d in zip(steps, geometry.dilation, strict=True)),
            *(step * s for step, s in zip(steps, geometry.stride, strict=True)),
        ),
        writeable=False,
    )
    return np.ascontiguousarray(windows)


def _shifted(x: Array, window: Window, fill: float) -> Iterator[Array]:
    """For each position in the pooling kernel, the values at that position of every window: N x C x out."""
    # With a stride beyond the image, all windows but the first lie outside, however far.
    stride = [min(s, n + p) for s, n, p in zip(window.stride, x.shape[2:], window.pad, strict=True)]
    need = [(out - 1) * s + k for out, s, k in zip(window.out, stride, window.kernel, strict=True)]
    sizes = zip(need, x.shape[2:], window.pad, strict=True)
    image = padded(x, window.pad, fill, tuple(max(0, total - n - pad) for total, n, pad in sizes))
    for position in np.ndindex(*window.kernel):
        spans = zip(position, window.out, stride, strict=True)
        yield image[(..., *(slice(i, i + (out - 1) * s + 1, s) for i, out, s in spans))]
