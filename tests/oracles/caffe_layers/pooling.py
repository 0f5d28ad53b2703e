"""Pooling, and its pyramid."""

import math
from typing import Any

import numpy as np

from caffe_layers.core import CASES, IMAGE, LOWEST, Case, Pair, indices, oracle


def pool(text: str, *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    exact = not meaning.get("ave") and not meaning.get("stochastic")
    return Case(f"pooling_param {{ {text} }}", [bottom], meaning, exact=exact)


@oracle("Pooling")
def pooling(
    x: np.ndarray,
    *,
    kernel: Pair,
    stride: Pair = (1, 1),
    pad: Pair = (0, 0),
    ave: bool = False,
    stochastic: bool = False,
    places: bool = False,
    down: bool = False,
) -> list[np.ndarray]:
    size = x.shape[2:]
    out = []
    for a in (0, 1):
        exact = (size[a] + 2 * pad[a] - kernel[a]) / stride[a]
        count = (math.floor(exact) if down else math.ceil(exact)) + 1
        if any(pad) and (count - 1) * stride[a] >= size[a] + pad[a]:
            count -= 1
        out.append(count)
    y, where = np.empty((*x.shape[:2], *out)), np.empty((*x.shape[:2], *out))
    for n, c, i, j in indices(y.shape):
        start = [at * stride[a] - pad[a] for a, at in enumerate((i, j))]
        end = [min(start[a] + kernel[a], size[a] + pad[a]) for a in (0, 1)]
        area = (end[0] - start[0]) * (end[1] - start[1])
        inside = [range(max(start[a], 0), min(end[a], size[a])) for a in (0, 1)]
        values = [float(x[n, c, h, w]) for h in inside[0] for w in inside[1]]
        if ave:
            y[n, c, i, j] = sum(values) / area if area else math.nan
        elif stochastic:
            y[n, c, i, j] = sum(v * v for v in values) / sum(values) if sum(values) > 0 else 0.0
        else:
            y[n, c, i, j] = max(values, default=LOWEST)
            spots = [h * size[1] + w for h in inside[0] for w in inside[1] if x[n, c, h, w] == y[n, c, i, j]]
            where[n, c, i, j] = spots[0] if spots else -1
    return [y, where] if places else [y]


CASES["Pooling"] = [
    pool("kernel_size: 2", kernel=(2, 2)),
    pool("kernel_size: 3 stride: 2", kernel=(3, 3), stride=(2, 2)),
    pool("pool: AVE kernel_size: 3 stride: 2", kernel=(3, 3), stride=(2, 2), ave=True),
    pool("kernel_size: 3 stride: 2 pad: 1", kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    pool("pool: AVE kernel_size: 3 stride: 2 pad: 1", kernel=(3, 3), stride=(2, 2), pad=(1, 1), ave=True),
    pool("pool: AVE kernel_size: 4 stride: 3 pad: 2", kernel=(4, 4), stride=(3, 3), pad=(2, 2), ave=True),
    # 5 + 2 - 2 = 5, halved and rounded up 3, so 4 windows; the last would begin at 6 - 1 = 5, in the padding.
    pool("kernel_size: 2 stride: 2 pad: 1", bottom=(1, 2, 5, 3), kernel=(2, 2), stride=(2, 2), pad=(1, 1)),
    pool(
        "pool: AVE kernel_size: 2 stride: 2 pad: 1",
        bottom=(1, 2, 5, 3),
        kernel=(2, 2),
        stride=(2, 2),
        pad=(1, 1),
        ave=True,
    ),
    pool("kernel_size: 3 stride: 2 round_mode: FLOOR", kernel=(3, 3), stride=(2, 2), down=True),
    pool("kernel_size: 3 stride: 2 ceil_mode: false", kernel=(3, 3), stride=(2, 2), down=True),
    pool("kernel_size: 3 stride: 2 ceil_mode: true", kernel=(3, 3), stride=(2, 2)),
    pool(
        "pool: AVE kernel_size: 3 stride: 2 pad: 1 ceil_mode: false",
        kernel=(3, 3),
        stride=(2, 2),
        pad=(1, 1),
        ave=True,
        down=True,
    ),
    pool("global_pooling: true", kernel=(7, 6)),
    pool("pool: AVE global_pooling: true", kernel=(7, 6), ave=True),
    pool("pool: AVE kernel_h: 7 kernel_w: 6", kernel=(7, 6), ave=True),
    pool("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1", kernel=(3, 2), stride=(2, 1)),
    pool(
        "pool: AVE kernel_h: 3 kernel_w: 4 stride: 2 pad_h: 0 pad_w: 3",
        kernel=(3, 4),
        stride=(2, 2),
        pad=(0, 3),
        ave=True,
    ),
    pool("kernel_size: 1 stride: 3", kernel=(1, 1), stride=(3, 3)),
    pool("pool: AVE kernel_size: 2 stride: 3", bottom=(2, 3, 8, 5), kernel=(2, 2), stride=(3, 3), ave=True),
    # A kernel larger than the image: (4 - 5) / 2 rounds up to 0, so there is one window.
    pool("kernel_size: 5 stride: 2", bottom=(2, 3, 4, 6), kernel=(5, 5), stride=(2, 2)),
    pool("pool: AVE kernel_size: 5 stride: 2", bottom=(2, 3, 4, 6), kernel=(5, 5), stride=(2, 2), ave=True),
    # What STOCHASTIC samples from in training it averages in TEST.
    pool("pool: STOCHASTIC kernel_size: 3 stride: 2", kernel=(3, 3), stride=(2, 2), stochastic=True),
    pool(
        "pool: STOCHASTIC kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 1",
        kernel=(2, 5),
        stride=(3, 1),
        stochastic=True,
    ),
    pool(
        "pool: STOCHASTIC kernel_size: 1 stride: 2", bottom=(1, 2, 4, 3), kernel=(1, 1), stride=(2, 2), stochastic=True
    ),
    pool("pool: STOCHASTIC global_pooling: true", kernel=(7, 6), stochastic=True),
]


def masked(text: str, bottom: Any = IMAGE, **meaning: Any) -> Case:
    return Case(f"pooling_param {{ {text} }}", [bottom], meaning | {"places": True}, tops=2, exact=True)


# Four values only: most windows hold their largest value more than once.
TIES = (np.arange(2 * 3 * 7 * 5) * 7 % 11 % 4).reshape(2, 3, 7, 5).astype(np.float32) - 2
CASES["Pooling"] += [
    masked("kernel_size: 2 stride: 2", kernel=(2, 2), stride=(2, 2)),
    masked("kernel_size: 3 stride: 2", TIES, kernel=(3, 3), stride=(2, 2)),
    masked("kernel_size: 3 stride: 2 pad: 1", TIES, kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
    masked("kernel_size: 3 stride: 1", TIES, kernel=(3, 3)),
    masked("kernel_h: 3 kernel_w: 2 stride: 2 pad_h: 2 pad_w: 0", TIES, kernel=(3, 2), stride=(2, 2), pad=(2, 0)),
    masked("global_pooling: true", TIES, kernel=(7, 5)),
    # The last row of windows lies wholly outside: it has no place.
    masked("kernel_size: 1 stride: 2", (1, 2, 4, 3), kernel=(1, 1), stride=(2, 2)),
    masked("kernel_size: 2 stride: 3", (2, 3, 8, 5), kernel=(2, 2), stride=(3, 3)),
]


def pyramid(text: str, bottom: tuple[int, ...], **meaning: Any) -> Case:
    return Case(
        f"spp_param {{ {text} }}", [bottom], meaning, exact=not (meaning.get("ave") or meaning.get("stochastic"))
    )


@oracle("SPP")
def spp(x: np.ndarray, *, levels: int, **method: bool) -> list[np.ndarray]:
    tops = []
    for bins in (1, 2, 4, 8)[:levels]:
        kernel = [math.ceil(x.shape[a] / bins) for a in (2, 3)]
        pad = [math.ceil((kernel[a] * bins - x.shape[a + 2]) / 2) for a in (0, 1)]
        tops += pooling(x, kernel=tuple(kernel), stride=tuple(kernel), pad=tuple(pad), **method)
    return tops if levels == 1 else [np.concatenate([top.reshape(len(x), -1) for top in tops], axis=1)]


CASES["SPP"] = [
    pyramid("pyramid_height: 3", (2, 3, 7, 10), levels=3),
    pyramid("pyramid_height: 3 pool: AVE", (2, 3, 7, 10), levels=3, ave=True),
    pyramid("pyramid_height: 1", (2, 3, 7, 6), levels=1),
    pyramid("pyramid_height: 1 pool: AVE", (2, 3, 7, 6), levels=1, ave=True),
    pyramid("pyramid_height: 2 pool: MAX", (1, 4, 9, 5), levels=2),
    pyramid("pyramid_height: 4", (1, 2, 16, 15), levels=4),
    pyramid("pyramid_height: 2 pool: STOCHASTIC", (1, 3, 8, 6), levels=2, stochastic=True),
]
