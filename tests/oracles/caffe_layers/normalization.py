"""BatchNorm, Scale, Bias, LRN, MVN and Normalize."""

import math

import numpy as np

from caffe_layers.core import CASES, Case, each, indices, one, oracle

VARIANCE = np.array([0.5, 2.0, 0.03], np.float32)
STATISTICS = [(3,), VARIANCE, np.array([2.5], np.float32)]
STATISTICS_0 = [(3,), VARIANCE, np.array([0], np.float32)]


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


CASES["BatchNorm"] = [
    one("batch_norm_param")._replace(blobs=STATISTICS),
    one("batch_norm_param", bottom=(4, 3))._replace(blobs=STATISTICS),
    one("batch_norm_param", "eps: 0.5", eps=0.5)._replace(blobs=STATISTICS_0),
    one("batch_norm_param", "use_global_stats: true eps: 0.01", eps=0.01)._replace(blobs=STATISTICS),
    one("batch_norm_param", "use_global_stats: false", own=True)._replace(blobs=STATISTICS),
    one("batch_norm_param", "use_global_stats: false", bottom=(5, 3), own=True)._replace(blobs=STATISTICS),
]


@oracle("Scale")
def scale(x: np.ndarray, factor: np.ndarray, bias: np.ndarray | None = None, *, axis: int = 1) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        at = i[axis : axis + factor.ndim]
        return v * float(factor[at]) + (0.0 if bias is None else float(bias[at]))

    return each(x, one)


CASES["Scale"] = [
    one("scale_param")._replace(blobs=[(3,)]),
    one("scale_param", "bias_term: true")._replace(blobs=[(3,), (3,)]),
    one("scale_param", "axis: 0 num_axes: 2 bias_term: true", axis=0)._replace(blobs=[(2, 3), (2, 3)]),
    one("scale_param", "axis: 2 num_axes: -1", axis=2)._replace(blobs=[(5, 4)]),
    one("scale_param", "num_axes: 0 bias_term: true")._replace(blobs=[(), ()]),
    one("scale_param", "axis: -1 bias_term: true", axis=3)._replace(blobs=[(4,), (4,)]),
    Case("scale_param { axis: 0 }", [(2, 3, 5, 4), (2, 3)], {"axis": 0}),
    Case("scale_param { axis: 1 }", [(2, 3, 5, 4), (3, 5, 4)]),
    Case("scale_param { axis: 2 bias_term: true }", [(2, 3, 5, 4), (5,)], {"axis": 2}, [(5,)]),
]


@oracle("Bias")
def bias(x: np.ndarray, term: np.ndarray, *, axis: int = 1) -> list[np.ndarray]:
    return each(x, lambda i, v: v + float(term[i[axis : axis + term.ndim]]))


CASES["Bias"] = [
    one("bias_param")._replace(blobs=[(3,)]),
    one("bias_param", "axis: 2 num_axes: 2", axis=2)._replace(blobs=[(5, 4)]),
    one("bias_param", "num_axes: 0")._replace(blobs=[()]),
    one("bias_param", "axis: -3 num_axes: -1")._replace(blobs=[(3, 5, 4)]),
    Case("bias_param { axis: 0 }", [(2, 3, 5, 4), (2,)], {"axis": 0}),
]


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


CASES["LRN"] = [
    one("lrn_param", bottom=(2, 7, 3, 4)),
    one("lrn_param", "local_size: 3 alpha: 0.5 beta: 1.25 k: 2", size=3, alpha=0.5, beta=1.25, k=2),
    one("lrn_param", "local_size: 11 alpha: 2", size=11, alpha=2),  # more neighbours than channels
    one("lrn_param", "local_size: 1 k: 0.5", size=1, k=0.5),
    one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5", size=3, alpha=0.5, within=True),
    # k is not read within a channel
    one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 5 beta: 0.5 k: 9", beta=0.5, within=True),
    one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 9", size=9, within=True),
]


@oracle("MVN")
def mvn(x: np.ndarray, *, across: bool = False, variance: bool = True, eps: float = 1e-9) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        own = i[:1] if across else i[:2]
        values = [float(x[j]) for j in indices(x.shape) if j[: len(own)] == own]
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((u - mean) ** 2 for u in values) / len(values)) + eps
        return (v - mean) / deviation if variance else v - mean

    return each(x, one)


CASES["MVN"] = [
    one("mvn_param"),
    one("mvn_param", "across_channels: true", across=True),
    one("mvn_param", "normalize_variance: false", variance=False),
    one("mvn_param", "across_channels: true normalize_variance: false", across=True, variance=False),
    one("mvn_param", "eps: 0.5", eps=0.5),
    one("mvn_param", "eps: 2 across_channels: true", bottom=(3, 7), eps=2, across=True),
    one("mvn_param", bottom=(2, 3, 5)),
    one("mvn_param", bottom=(3, 7)),  # each value by itself: 0 / (0 + eps)
]


@oracle("Normalize")
def normalize(
    x: np.ndarray, factor: np.ndarray, *, spatial: bool = True, shared: bool = True, eps: float = 1e-10
) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        near = [j for j in indices(x.shape) if j[0] == i[0] and (spatial or j[2:] == i[2:])]
        norm = math.sqrt(math.fsum(float(x[j]) ** 2 for j in near) + eps)
        return v / norm * float(factor[() if shared else i[1]])

    return each(x, one)


CASES["Normalize"] = [
    one("norm_param")._replace(blobs=[()]),
    one("norm_param", "across_spatial: false", spatial=False)._replace(blobs=[()]),
    one("norm_param", "channel_shared: false", shared=False)._replace(blobs=[(3,)]),
    one("norm_param", "across_spatial: false channel_shared: false", spatial=False, shared=False)._replace(
        blobs=[(3,)]
    ),
    one("norm_param", "eps: 3", eps=3)._replace(blobs=[()]),
    one("norm_param", "eps: 3 across_spatial: false", eps=3, spatial=False)._replace(blobs=[()]),
    one("norm_param", "channel_shared: false", bottom=(2, 5), shared=False)._replace(blobs=[(5,)]),
]
