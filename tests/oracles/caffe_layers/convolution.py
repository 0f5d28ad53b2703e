"""Convolution, its depthwise forms, its reverse, im2col; InnerProduct."""

from typing import Any

import numpy as np

from caffe_layers.core import CASES, IMAGE, Case, Pair, indices, oracle

PLAIN = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1)}


def conv(text: str, blobs: list[Any], *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    return Case(f"convolution_param {{ num_output: 6 {text} }}", [bottom], PLAIN | meaning, blobs)


def ip(text: str, blobs: list[Any], *, bottom: tuple[int, ...] = (3, 4, 2, 5), **meaning: Any) -> Case:
    return Case(f"inner_product_param {{ num_output: 7 {text} }}", [bottom], meaning, blobs)


def convolution(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    group: int = 1,
) -> list[np.ndarray]:
    image, kernel = x.shape[2:], w.shape[2:]
    axes = range(len(image))
    # An output exists where the whole (dilated) kernel lies inside the padded image.
    out = [
        sum(i * stride[a] + dilation[a] * (kernel[a] - 1) < image[a] + 2 * pad[a] for i in range(image[a] + 2 * pad[a]))
        for a in axes
    ]
    y = np.empty((x.shape[0], w.shape[0], *out))
    for n, o, *at in indices(y.shape):
        total = 0.0 if b is None else float(b[o])
        first = o // (w.shape[0] // group) * w.shape[1]
        for c, *k in indices(w.shape[1:]):
            source = [at[a] * stride[a] - pad[a] + k[a] * dilation[a] for a in axes]
            if all(0 <= source[a] < image[a] for a in axes):
                total += float(w[(o, c, *k)]) * float(x[(n, first + c, *source)])
        y[(n, o, *at)] = total
    return [y]


@oracle("Convolution", "DepthwiseConvolution")
def convolutions(*arrays: np.ndarray, bottoms: int = 1, **geometry: Any) -> list[np.ndarray]:
    return [y for x in arrays[:bottoms] for y in convolution(x, *arrays[bottoms:], **geometry)]


CASES["Convolution"] = [
    conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]),
    conv("kernel_size: 3 bias_term: false", [(6, 4, 3, 3)]),
    conv("kernel_size: 3 pad: 2 stride: 2", [(6, 4, 3, 3), (6,)], pad=(2, 2), stride=(2, 2)),
    conv("kernel_size: 3 pad: 1 group: 2", [(6, 2, 3, 3), (6,)], pad=(1, 1), group=2),
    conv("kernel_size: 3 group: 2 bias_term: false dilation: 2", [(6, 2, 3, 3)], group=2, dilation=(2, 2)),
    conv("kernel_size: 2 group: 3", [(6, 1, 2, 2), (6,)], bottom=(2, 3, 7, 5), group=3),  # depthwise, O = 2 C
    conv("kernel_size: 2 dilation: 3 pad: 1", [(6, 4, 2, 2), (6,)], dilation=(3, 3), pad=(1, 1)),
    conv(
        "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 0 pad_w: 2",
        [(6, 4, 3, 2), (6,)],
        stride=(1, 3),
        pad=(0, 2),
    ),
    conv("kernel_size: 2 pad_h: 1", [(6, 4, 2, 2), (6,)], pad=(1, 0)),
    conv(
        "kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 0 pad: 1 dilation: 1 dilation: 2",
        [(6, 4, 3, 2), (6,)],
        stride=(2, 1),
        pad=(0, 1),
        dilation=(1, 2),
    ),
    conv("kernel_size: 1", [(6, 4, 1, 1), (6,)]),
    conv("kernel_size: 1 stride: 2", [(6, 4, 1, 1), (6,)], stride=(2, 2)),
    conv("kernel_size: 1 pad: 1", [(6, 4, 1, 1), (6,)], pad=(1, 1)),
    conv("kernel_size: 2 stride: 3", [(6, 4, 2, 2), (6,)], stride=(3, 3)),
    conv("kernel_size: 3 axis: -3", [(6, 4, 3, 3), (6,)]),
    conv("kernel_h: 7 kernel_w: 6", [(6, 4, 7, 6), (6,)]),
    conv(
        "kernel_size: 3 stride: 2 pad: 1",
        [(6, 5, 3), (6,)],
        bottom=(2, 5, 9),
        stride=(2,),
        pad=(1,),
        dilation=(1,),
    ),
    conv(
        "kernel_size: 2 kernel_size: 1 kernel_size: 3",
        [(6, 2, 2, 1, 3), (6,)],
        bottom=(1, 2, 3, 4, 5),
        stride=(1, 1, 1),
        pad=(0, 0, 0),
        dilation=(1, 1, 1),
    ),
    conv(
        "kernel_size: 2 kernel_size: 3 kernel_size: 1 stride: 1 stride: 2 stride: 3 pad: 0 pad: 2 pad: 1 "
        "dilation: 1 dilation: 2 dilation: 3 group: 2 force_nd_im2col: true",
        [(6, 1, 2, 3, 1), (6,)],
        bottom=(1, 2, 3, 4, 5),
        stride=(1, 2, 3),
        pad=(0, 2, 1),
        dilation=(1, 2, 3),
        group=2,
    ),
    # Three bottoms share the weights.
    Case(
        "convolution_param { num_output: 6 kernel_size: 3 stride: 2 }",
        [IMAGE] * 3,
        PLAIN | {"stride": (2, 2), "bottoms": 3},
        [(6, 4, 3, 3), (6,)],
        tops=3,
    ),
    Case(
        "convolution_param { num_output: 6 kernel_size: 2 bias_term: false }",
        [IMAGE] * 2,
        PLAIN | {"bottoms": 2},
        [(6, 4, 2, 2)],
        tops=2,
    ),
]

CASES["DepthwiseConvolution"] = [
    conv("kernel_size: 3 pad: 1 group: 3", [(6, 1, 3, 3), (6,)], bottom=(2, 3, 7, 5), pad=(1, 1), group=3),
    conv(
        "kernel_size: 3 stride: 2 group: 6 bias_term: false",
        [(6, 1, 3, 3)],
        bottom=(2, 6, 8, 5),
        stride=(2, 2),
        group=6,
    ),
    conv("kernel_size: 2 group: 2", [(6, 2, 2, 2), (6,)], group=2),  # the group of the file, whatever it is
]


def depthwise(text: str, blobs: list[Any], *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    return Case(f"convolution_param {{ {text} }}", [bottom], PLAIN | meaning, blobs)


@oracle("ConvolutionDepthwise")
def convolution_depthwise(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, **geometry: Any
) -> list[np.ndarray]:
    one = [convolution(x[:, [c]], w[[c]], None if b is None else b[[c]], **geometry)[0] for c in range(x.shape[1])]
    return [np.concatenate(one, axis=1)]


CASES["ConvolutionDepthwise"] = [
    depthwise("kernel_size: 3 pad: 1 num_output: 4 group: 4", [(4, 1, 3, 3), (4,)], pad=(1, 1)),
    depthwise("kernel_size: 3 stride: 2 bias_term: false", [(4, 1, 3, 3)], stride=(2, 2)),
    depthwise("kernel_size: 2 dilation: 2 num_output: 9 group: 3", [(4, 1, 2, 2), (4,)], dilation=(2, 2)),
    depthwise(
        "kernel_h: 2 kernel_w: 3 stride_h: 2 stride_w: 1 pad_h: 0 pad_w: 1",
        [(4, 1, 2, 3), (4,)],
        stride=(2, 1),
        pad=(0, 1),
    ),
]


@oracle("Deconvolution")
def deconvolutions(*arrays: np.ndarray, bottoms: int = 1, **geometry: Any) -> list[np.ndarray]:
    return [deconvolution(x, *arrays[bottoms:], **geometry) for x in arrays[:bottoms]]


def deconvolution(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray | None = None,
    *,
    stride: Pair,
    pad: Pair,
    dilation: Pair,
    group: int = 1,
) -> np.ndarray:
    """Each input value adds its share to every output value under the kernel laid at its place."""
    image, kernel = x.shape[2:], w.shape[2:]
    axes = range(len(image))
    out = [stride[a] * (image[a] - 1) + dilation[a] * (kernel[a] - 1) + 1 - 2 * pad[a] for a in axes]
    y = np.zeros((x.shape[0], group * w.shape[1], *out))
    for n, c, *at in indices(x.shape):
        first = c // (x.shape[1] // group) * w.shape[1]
        for o, *k in indices(w.shape[1:]):
            target = [at[a] * stride[a] + k[a] * dilation[a] - pad[a] for a in axes]
            if all(0 <= target[a] < out[a] for a in axes):
                y[(n, first + o, *target)] += float(w[(c, o, *k)]) * float(x[(n, c, *at)])
    if b is not None:
        for n, o, *at in indices(y.shape):
            y[(n, o, *at)] += float(b[o])
    return y


CASES["Deconvolution"] = [
    conv("kernel_size: 3", [(4, 6, 3, 3), (6,)], bottom=(2, 4, 5, 3)),
    conv("kernel_size: 3 bias_term: false", [(4, 6, 3, 3)], bottom=(2, 4, 5, 3)),
    conv("kernel_size: 4 stride: 2 pad: 1", [(4, 6, 4, 4), (6,)], bottom=(2, 4, 5, 3), stride=(2, 2), pad=(1, 1)),
    # Bilinear enlarging as FCN does it: one kernel a channel, no bias.
    conv(
        "kernel_size: 4 stride: 2 pad: 1 group: 6 bias_term: false",
        [(6, 1, 4, 4)],
        bottom=(2, 6, 5, 3),
        stride=(2, 2),
        pad=(1, 1),
        group=6,
    ),
    conv("kernel_size: 2 stride: 3 group: 2", [(4, 3, 2, 2), (6,)], bottom=(2, 4, 5, 3), stride=(3, 3), group=2),
    conv("kernel_size: 3 dilation: 2", [(4, 6, 3, 3), (6,)], bottom=(2, 4, 5, 3), dilation=(2, 2)),
    conv(
        "kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 3 pad_h: 2 pad_w: 0 group: 2",
        [(4, 3, 3, 2), (6,)],
        bottom=(2, 4, 5, 3),
        stride=(2, 3),
        pad=(2, 0),
        group=2,
    ),
    conv("kernel_size: 1 axis: -3", [(4, 6, 1, 1), (6,)], bottom=(2, 4, 5, 3)),
    conv(
        "kernel_size: 3 stride: 2 pad: 1 dilation: 3",
        [(5, 6, 3), (6,)],
        bottom=(2, 5, 9),
        stride=(2,),
        pad=(1,),
        dilation=(3,),
    ),
    conv(
        "kernel_size: 2 kernel_size: 1 kernel_size: 3 stride: 1 stride: 3 stride: 2 pad: 1 pad: 0 pad: 2",
        [(2, 6, 2, 1, 3), (6,)],
        bottom=(1, 2, 3, 4, 5),
        stride=(1, 3, 2),
        pad=(1, 0, 2),
        dilation=(1, 1, 1),
    ),
    Case(
        "convolution_param { num_output: 6 kernel_size: 2 stride: 2 }",
        [(2, 4, 5, 3)] * 2,
        PLAIN | {"stride": (2, 2), "bottoms": 2},
        [(4, 6, 2, 2), (6,)],
        tops=2,
    ),
]


def columns(text: str, *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    return Case(f"convolution_param {{ {text} }}", [bottom], PLAIN | meaning, exact=True)


@oracle("Im2col")
def im2col(x: np.ndarray, *, kernel: Pair, stride: Pair, pad: Pair, dilation: Pair, axis: int = 1) -> list[np.ndarray]:
    image = x.shape[axis + 1 :]
    axes = range(len(image))
    out = [(image[a] + 2 * pad[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in axes]
    y = np.zeros((*x.shape[:axis], x.shape[axis], *kernel, *out))
    for index in indices(y.shape):
        before, k, at = index[: axis + 1], index[axis + 1 : axis + 1 + len(image)], index[axis + 1 + len(image) :]
        source = [at[a] * stride[a] - pad[a] + k[a] * dilation[a] for a in axes]
        if all(0 <= source[a] < image[a] for a in axes):
            y[index] = x[(*before, *source)]
    return [y.reshape(*x.shape[:axis], -1, *out)]


CASES["Im2col"] = [
    columns("kernel_size: 3", kernel=(3, 3)),
    columns("kernel_size: 2 stride: 2 pad: 1", kernel=(2, 2), stride=(2, 2), pad=(1, 1)),
    columns("kernel_h: 3 kernel_w: 2 dilation: 2 pad_h: 0 pad_w: 2", kernel=(3, 2), dilation=(2, 2), pad=(0, 2)),
    columns("kernel_size: 1", kernel=(1, 1)),
    columns("kernel_size: 3", bottom=(2, 5, 9), kernel=(3,), stride=(1,), pad=(0,), dilation=(1,)),
    columns("kernel_size: 2 axis: -3", bottom=(2, 4, 3, 5, 6), kernel=(2, 2), axis=2),
    columns("kernel_size: 2 axis: 0", bottom=(3, 5, 4), kernel=(2, 2), axis=0),
    columns(
        "kernel_size: 2 kernel_size: 1 kernel_size: 3",
        bottom=(1, 2, 3, 4, 5),
        kernel=(2, 1, 3),
        stride=(1, 1, 1),
        pad=(0, 0, 0),
        dilation=(1, 1, 1),
    ),
]


@oracle("InnerProduct")
def inner_product(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None, *, axis: int = 1, transpose: bool = False
) -> list[np.ndarray]:
    w = w.T if transpose else w
    y = np.empty((*x.shape[:axis], len(w)))
    for *lead, o in indices(y.shape):
        inputs = [float(v) for v in x[tuple(lead)].reshape(-1)]
        y[(*lead, o)] = sum(v * float(k) for v, k in zip(inputs, w[o], strict=True)) + (
            0.0 if b is None else float(b[o])
        )
    return [y]


CASES["InnerProduct"] = [
    ip("", [(7, 40), (7,)]),
    ip("bias_term: false", [(7, 40)]),
    ip("transpose: true", [(40, 7), (7,)], transpose=True),
    ip("axis: 2", [(7, 10), (7,)], axis=2),
    ip("axis: -1 transpose: true bias_term: false", [(5, 7)], axis=3, transpose=True),
    ip("axis: 0", [(7, 120), (7,)], axis=0),
    ip("", [(7, 4), (7,)], bottom=(3, 4)),
]
