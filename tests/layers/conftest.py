"""Every layer type in plain loops over indices, from Caffe's definition, with parameters as plain numbers.

Nothing here looks at a prototxt or at the package: a case in the tests says in words of the file what it says here in
numbers. All arithmetic is in Python floats.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise, product

import numpy as np
import pytest

ORACLES: dict[str, Callable[..., list[np.ndarray]]] = {}
LOWEST = -3.4028234663852886e38  # -FLT_MAX

Pair = tuple[int, ...]


def oracle(*types: str) -> Callable[[Callable[..., list[np.ndarray]]], Callable[..., list[np.ndarray]]]:
    def register(function: Callable[..., list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
        ORACLES.update(dict.fromkeys(types, function))
        return function

    return register


def indices(shape: Sequence[int]) -> product:
    return product(*map(range, shape))


def each(x: np.ndarray, f: Callable[..., float]) -> list[np.ndarray]:
    """f(index, value) for each element."""
    y = np.empty(x.shape)
    for i in indices(x.shape):
        y[i] = f(i, float(x[i]))
    return [y]


def rounded(x: np.ndarray, bd: int, ad: int) -> np.ndarray:
    """Nearest code, ties away from zero, clipped to +-(2^(width-1) - 1); exact for float32 values of moderate size."""
    limit = 2 ** (bd + ad - 1) - 1
    return each(x, lambda _, v: math.copysign(min(math.floor(abs(v) * 2**ad + 0.5), limit), v) / 2**ad + 0.0)[0]


@oracle("Convolution")
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


@oracle("LPConvolution", "LPInnerProduct")
def low_precision(
    x: np.ndarray, *blobs: np.ndarray, bd: int, ad: int, round_bias: bool = False, **own: object
) -> list[np.ndarray]:
    w = rounded(blobs[0], bd, ad)
    b = blobs[2] if len(blobs) == 4 else None
    if b is not None and round_bias:
        b = rounded(b, bd, ad)
    return (convolution if "stride" in own else inner_product)(x, w, b, **own)


@oracle("LPAct")
def lp_act(x: np.ndarray, *, bd: int, ad: int) -> list[np.ndarray]:
    return [rounded(x, bd, ad)]


@oracle("Pooling")
def pooling(
    x: np.ndarray, *, kernel: Pair, stride: Pair = (1, 1), pad: Pair = (0, 0), ave: bool = False, down: bool = False
) -> list[np.ndarray]:
    size = x.shape[2:]
    out = []
    for a in (0, 1):
        exact = (size[a] + 2 * pad[a] - kernel[a]) / stride[a]
        count = (math.floor(exact) if down else math.ceil(exact)) + 1
        if any(pad) and (count - 1) * stride[a] >= size[a] + pad[a]:
            count -= 1
        out.append(count)
    y = np.empty((*x.shape[:2], *out))
    for n, c, i, j in indices(y.shape):
        start = [at * stride[a] - pad[a] for a, at in enumerate((i, j))]
        end = [min(start[a] + kernel[a], size[a] + pad[a]) for a in (0, 1)]
        area = (end[0] - start[0]) * (end[1] - start[1])
        inside = [range(max(start[a], 0), min(end[a], size[a])) for a in (0, 1)]
        values = [float(x[n, c, h, w]) for h in inside[0] for w in inside[1]]
        if ave:
            y[n, c, i, j] = sum(values) / area if area else math.nan
        else:
            y[n, c, i, j] = max(values, default=LOWEST)
    return [y]


@oracle("ReLU")
def relu(x: np.ndarray, *, slope: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: v if v > 0 else slope * v)


@oracle("PReLU")
def prelu(x: np.ndarray, slopes: np.ndarray, *, shared: bool = False) -> list[np.ndarray]:
    return each(x, lambda i, v: v if v > 0 else v * float(slopes[() if shared else i[1]]))


@oracle("Sigmoid")
def sigmoid(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: 1 / (1 + math.exp(-v)) if v > -700 else 0.0)


@oracle("TanH")
def tanh(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: math.tanh(v))


@oracle("Power")
def power(x: np.ndarray, *, power: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: math.pow(shift if scale == 0 else shift + scale * v, power))


@oracle("Dropout")
def dropout(x: np.ndarray, *, factor: float = 1.0) -> list[np.ndarray]:
    return each(x, lambda _, v: factor * v)


@oracle("Softmax")
def softmax(x: np.ndarray, *, axis: int = 1) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        line = [float(x[(*i[:axis], k, *i[axis + 1 :])]) for k in range(x.shape[axis])]
        return 1 / sum(math.exp(other - v) for other in line)

    return each(x, one)


@oracle("BatchNorm")
def batch_norm(
    x: np.ndarray, mean: np.ndarray, variance: np.ndarray, factor: np.ndarray, *, eps: float = 1e-5, own: bool = False
) -> list[np.ndarray]:
    eps = float(np.float32(eps))  # a float field of the message
    scale = 0.0 if factor[0] == 0 else 1 / float(factor[0])

    def one(i: tuple[int, ...], v: float) -> float:
        if own:  # the batch's own statistics
            values = [float(x[j]) for j in indices(x.shape) if j[1] == i[1]]
            m = sum(values) / len(values)
            s = sum((u - m) ** 2 for u in values) / len(values)
        else:
            m, s = float(mean[i[1]]) * scale, float(variance[i[1]]) * scale
        return (v - m) / math.sqrt(s + eps)

    return each(x, one)


@oracle("Scale")
def scale(x: np.ndarray, factor: np.ndarray, bias: np.ndarray | None = None, *, axis: int = 1) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        at = i[axis : axis + factor.ndim]
        return v * float(factor[at]) + (0.0 if bias is None else float(bias[at]))

    return each(x, one)


@oracle("Bias")
def bias(x: np.ndarray, term: np.ndarray, *, axis: int = 1) -> list[np.ndarray]:
    return each(x, lambda i, v: v + float(term[i[axis : axis + term.ndim]]))


@oracle("LRN")
def lrn(
    x: np.ndarray, *, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0, within: bool = False
) -> list[np.ndarray]:
    half = size // 2

    def one(i: tuple[int, ...], v: float) -> float:
        n, c, h, w = i
        if within:
            near = [(n, c, a, b) for a in range(h - half, h + half + 1) for b in range(w - half, w + half + 1)]
        else:
            near = [(n, other, h, w) for other in range(c - half, c + half + 1)]
        inside = [j for j in near if all(0 <= a < limit for a, limit in zip(j, x.shape, strict=True))]
        total = sum(float(x[j]) ** 2 for j in inside)
        return v / (k + alpha * total / (size * size if within else size)) ** beta

    return each(x, one)


@oracle("Eltwise")
def eltwise(*xs: np.ndarray, op: str = "sum", coeff: Sequence[float] = ()) -> list[np.ndarray]:
    def one(i: tuple[int, ...], _: float) -> float:
        values = [float(x[i]) for x in xs]
        if op == "sum":
            return sum(c * v for c, v in zip(coeff or [1.0] * len(xs), values, strict=True))
        return max(values) if op == "max" else math.prod(values)

    return each(xs[0], one)


@oracle("Concat")
def concat(*xs: np.ndarray, axis: int = 1) -> list[np.ndarray]:
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    y = np.empty(shape)
    start = 0
    for x in xs:
        for i in indices(x.shape):
            y[(*i[:axis], start + i[axis], *i[axis + 1 :])] = x[i]
        start += x.shape[axis]
    return [y]


@oracle("Slice")
def slice_(x: np.ndarray, *, cuts: Sequence[int], axis: int = 1) -> list[np.ndarray]:
    tops = []
    for start, end in pairwise([0, *cuts, x.shape[axis]]):
        y = np.empty((*x.shape[:axis], end - start, *x.shape[axis + 1 :]))
        for i in indices(y.shape):
            y[i] = x[(*i[:axis], start + i[axis], *i[axis + 1 :])]
        tops.append(y)
    return tops


@oracle("Split")
def split(x: np.ndarray, *, tops: int) -> list[np.ndarray]:
    return [x] * tops


@oracle("Flatten", "Reshape")
def reshape(x: np.ndarray, *, shape: Sequence[int]) -> list[np.ndarray]:
    """The same values in C order: the case says the shape."""
    y = np.empty(shape)
    for i, v in zip(indices(shape), (x[j] for j in indices(x.shape)), strict=True):
        y[i] = v
    return [y]


@pytest.fixture(scope="session")
def oracles() -> dict[str, Callable[..., list[np.ndarray]]]:
    return ORACLES
