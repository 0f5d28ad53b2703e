"""What the primitives on windows become in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from lpcaffe.engines.onnx_elementwise import as_floats, as_indices
from lpcaffe.engines.onnx_engine import Array, OnnxEngine, Symbol, emitter, integers
from lpcaffe.layers import Geometry, Window
from lpcaffe.layers.registry import Shape

_LOWEST = float(np.finfo(np.float32).min)


@emitter
def conv(graph: OnnxEngine, shape: Shape, x: Symbol, w: Array, b: Array | None, geometry: Geometry, group: int) -> Any:
    """Conv."""
    return graph.node("Conv", [x, w, b], shape, **_convolution_attributes(w, geometry, group))


def _convolution_attributes(w: Array, geometry: Geometry, group: int) -> dict[str, Any]:
    return {
        "kernel_shape": list(w.shape[2:]),
        "strides": list(geometry.stride),
        "pads": [*geometry.pad, *geometry.pad],
        "dilations": list(geometry.dilation),
        "group": group,
    }


@emitter
def max_pool(graph: OnnxEngine, shape: Shape, x: Symbol, window: Window) -> Any:
    """MaxPool."""
    inside = windows_inside(x.shape[2:], window)
    y = graph.node("MaxPool", [x], (*shape[:2], *inside), **pooling_attributes(x.shape[2:], window, inside))
    return with_outside(graph, shape, y, _LOWEST)


@emitter
def avg_pool(graph: OnnxEngine, shape: Shape, x: Symbol, window: Window, divisor: Sequence[Sequence[int]]) -> Any:
    """AveragePool divides by the kernel's area; where Caffe's divisor differs, a factor puts it right."""
    inside = windows_inside(x.shape[2:], window)
    attributes = pooling_attributes(x.shape[2:], window, inside)
    y = graph.node("AveragePool", [x], (*shape[:2], *inside), count_include_pad=1, **attributes)
    y = with_outside(graph, shape, y, 0.0)
    with np.errstate(divide="ignore"):  # a window wholly outside has the mean 0 / 0, as in Caffe
        factor = np.float32(np.prod(window.kernel)) / reduce(
            np.multiply.outer, [np.array(s, np.float32) for s in divisor]
        )
    return y if np.all(factor == 1) else graph.node("Mul", [y, factor], shape)


def windows_inside(size: Shape, window: Window) -> Shape:
    """How many windows of each axis reach into the image. Rounded up, the last may begin beyond it."""
    spans = zip(size, window.pad, window.stride, window.out, strict=True)
    return tuple(min(out, -(-(n + p) // s)) for n, p, s, out in spans)


def pooling_attributes(size: Shape, window: Window, out: Shape) -> dict[str, Any]:
    """ONNX's pooling rounds down; padding at the end makes it give `out` windows, as Caffe's rounding up does."""
    spans = zip(out, window.stride, window.kernel, size, window.pad, strict=True)
    end = [max(0, (count - 1) * s + k - n - p) for count, s, k, n, p in spans]
    return {"kernel_shape": list(window.kernel), "strides": list(window.stride), "pads": [*window.pad, *end]}


def with_outside(graph: OnnxEngine, shape: Shape, y: Symbol, value: float) -> Any:
    """The result of pooling with the value of the windows that lie wholly outside, up to its full shape."""
    missing = [full - got for full, got in zip(shape, y.shape, strict=True)]
    if not any(missing):
        return y
    return graph.node("Pad", [y, integers(*[0] * len(shape), *missing), value], shape, mode="constant")


@emitter
def max_pool_with_argmax(graph: OnnxEngine, shapes: tuple[Shape, Shape], x: Symbol, window: Window) -> Any:
    """MaxPool's indices count through the whole input, images and channels before this one included."""
    height, width = x.shape[2:]
    inside = windows_inside((height, width), window)
    shape = (*x.shape[:2], *inside)
    y, at = graph.node("MaxPool", [x], [shape, shape], **pooling_attributes((height, width), window, inside))
    argmax = as_floats(graph, graph.node("Mod", [at, integers(height * width)], shape))
    argmax = graph.node("Where", [graph.node("Greater", [y, _LOWEST], shape), argmax, -1.0], shape)
    return with_outside(graph, shapes[0], y, _LOWEST), with_outside(graph, shapes[1], argmax, -1.0)


@emitter
def unpool(graph: OnnxEngine, shape: Shape, x: Symbol, argmax: Array, size: Shape) -> Any:
    """ScatterElements along flat images of zeros."""
    area = int(np.prod(size))
    flat, zeros = (*x.shape[:2], int(np.prod(x.shape[2:]))), (*x.shape[:2], area)
    planes = graph.node("Concat", [graph.node("Shape", [x], (2,), start=0, end=2), integers(area)], (3,), axis=0)
    data = graph.node("Expand", [0.0, planes], zeros)
    at = graph.node("Reshape", [as_indices(graph, argmax), integers(0, 0, -1)], flat)
    values = graph.node("Reshape", [x, integers(0, 0, -1)], flat)
    image = graph.node("ScatterElements", [data, at, values], zeros, axis=2)
    return graph.node("Reshape", [image, integers(0, 0, *size)], shape)


@emitter
def deconv(
    graph: OnnxEngine, shape: Shape, x: Symbol, w: Array, b: Array | None, geometry: Geometry, group: int
) -> Any:
    """ConvTranspose."""
    return graph.node("ConvTranspose", [x, w, b], shape, **_convolution_attributes(w, geometry, group))


@emitter
def im2col(graph: OnnxEngine, shape: Shape, x: Symbol, kernel: Shape, geometry: Geometry) -> Any:
    """Conv with weights of 1 at one position of the kernel each, for each channel."""
    channels, count = x.shape[1], int(np.prod(kernel))
    one_each = np.tile(np.eye(count, dtype=np.float32), (channels, 1)).reshape(channels * count, 1, *kernel)
    return conv(graph, shape, x, one_each, None, geometry, channels)


@emitter
def interpolate(graph: OnnxEngine, shape: Shape, x: Symbol, size: Shape) -> Any:
    """Resize with its corners aligned."""
    return graph.node(
        "Resize",
        [x, None, None, integers(*size)],
        shape,
        mode="linear",
        coordinate_transformation_mode="align_corners",
        axes=[2, 3],
    )


@emitter
def roi_max_pool(graph: OnnxEngine, shape: Shape, x: Array, rois: Array, pooled: Shape, scale: float) -> Any:
    """MaxRoiPool follows Girshick's code, as Caffe's layer does."""
    return graph.node("MaxRoiPool", [x, rois], shape, pooled_shape=list(pooled), spatial_scale=float(scale))
