"""Layers that only move values."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from caffe_layers.core import CASES, Case, each, indices, one, oracle


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


CASES["Concat"] = [
    Case("", [(2, 3, 5), (2, 1, 5), (2, 4, 5)], exact=True),
    Case("concat_param { axis: 0 }", [(2, 3), (4, 3)], {"axis": 0}, exact=True),
    Case("concat_param { axis: -1 }", [(2, 3, 5), (2, 3, 4)], {"axis": 2}, exact=True),
    Case("concat_param { concat_dim: 2 }", [(2, 3, 5), (2, 3, 4)], {"axis": 2}, exact=True),
    Case("", [(2, 3, 5)], exact=True),
]


@oracle("Slice")
def slice_(x: np.ndarray, *, cuts: Sequence[int], axis: int = 1) -> list[np.ndarray]:
    tops = []
    for start, end in pairwise([0, *cuts, x.shape[axis]]):
        y = np.empty((*x.shape[:axis], end - start, *x.shape[axis + 1 :]))
        for i in indices(y.shape):
            y[i] = x[(*i[:axis], start + i[axis], *i[axis + 1 :])]
        tops.append(y)
    return tops


CASES["Slice"] = [
    Case("", [(2, 6, 5)], {"cuts": (2, 4)}, tops=3, exact=True),
    Case("slice_param { slice_point: 1 slice_point: 4 }", [(2, 6, 5)], {"cuts": (1, 4)}, tops=3, exact=True),
    Case("slice_param { axis: -1 slice_point: 3 }", [(2, 6, 5)], {"cuts": (3,), "axis": 2}, tops=2, exact=True),
    Case("slice_param { slice_dim: 0 }", [(4, 6, 5)], {"cuts": (2,), "axis": 0}, tops=2, exact=True),
    Case("", [(2, 6, 5)], {"cuts": ()}, exact=True),
]


@oracle("Split")
def split(x: np.ndarray, *, tops: int) -> list[np.ndarray]:
    return [x] * tops


CASES["Split"] = [Case("", [(2, 3)], {"tops": 3}, tops=3, exact=True), Case("", [(2, 3)], {"tops": 1}, exact=True)]


@oracle("Flatten", "Reshape")
def reshape(x: np.ndarray, *, shape: Sequence[int]) -> list[np.ndarray]:
    """The same values in C order: the case says the shape."""
    y = np.empty(shape)
    for i, v in zip(indices(shape), (x[j] for j in indices(x.shape)), strict=True):
        y[i] = v
    return [y]


CASES["Flatten"] = [
    one("flatten_param", exact=True, shape=(2, 60)),
    one("flatten_param", "axis: 2", exact=True, shape=(2, 3, 20)),
    one("flatten_param", "axis: 0 end_axis: 1", exact=True, shape=(6, 5, 4)),
    one("flatten_param", "axis: -3 end_axis: -2", exact=True, shape=(2, 15, 4)),
    one("flatten_param", "axis: 1 end_axis: 1", exact=True, shape=(2, 3, 5, 4)),
]


CASES["Reshape"] = [
    one("reshape_param", "shape { dim: 0 dim: -1 }", exact=True, shape=(2, 60)),
    one("reshape_param", "shape { dim: 0 dim: 0 dim: 10 dim: 2 }", exact=True, shape=(2, 3, 10, 2)),
    one("reshape_param", "shape { dim: 5 dim: 4 dim: 6 }", exact=True, shape=(5, 4, 6)),
    one("reshape_param", "axis: 1 num_axes: 2 shape { dim: -1 }", exact=True, shape=(2, 15, 4)),
    one("reshape_param", "axis: 1 num_axes: 0 shape { dim: 1 dim: 1 }", exact=True, shape=(2, 1, 1, 3, 5, 4)),
    one("reshape_param", "axis: -1 num_axes: 0 shape { dim: 1 }", exact=True, shape=(2, 3, 5, 4, 1)),
    one("reshape_param", "axis: -3 shape { dim: 10 dim: -1 }", exact=True, shape=(2, 3, 10, 2)),
    one("reshape_param", "axis: 2 shape { dim: 2 dim: -1 }", exact=True, shape=(2, 3, 2, 10)),
]


@oracle("Crop")
def crop(x: np.ndarray, like: np.ndarray, *, offsets: Sequence[int]) -> list[np.ndarray]:
    """`offsets` are those of the last axes, which take the size of the second bottom."""
    first = x.ndim - len(offsets)
    y = np.empty((*x.shape[:first], *like.shape[first:]))
    for i in indices(y.shape):
        y[i] = x[(*i[:first], *(a + b for a, b in zip(i[first:], offsets, strict=True)))]
    return [y]


def cropped(text: str, like: tuple[int, ...], *offsets: int) -> Case:
    return Case(f"crop_param {{ {text} }}", [(2, 4, 7, 6), like], {"offsets": offsets}, exact=True)


CASES["Crop"] = [
    cropped("", (1, 2, 5, 3), 0, 0),
    cropped("offset: 2", (1, 2, 5, 3), 2, 2),
    cropped("offset: 2 offset: 1", (3, 9, 4, 5), 2, 1),
    cropped("axis: 1 offset: 1 offset: 0 offset: 3", (1, 2, 7, 3), 1, 0, 3),
    cropped("axis: 0 offset: 1 offset: 0 offset: 3 offset: 2", (1, 2, 4, 3), 1, 0, 3, 2),
    cropped("axis: -1 offset: 4", (1, 1, 1, 2), 4),
    cropped("axis: 1", (5, 4, 7, 6), 0, 0, 0),  # as it is
]


@oracle("Permute")
def permute(x: np.ndarray, *, order: Sequence[int]) -> list[np.ndarray]:
    y = np.empty([x.shape[axis] for axis in order])
    for i in indices(y.shape):
        y[i] = x[tuple(i[order.index(axis)] for axis in range(x.ndim))]
    return [y]


CASES["Permute"] = [
    one("permute_param", "order: 0 order: 2 order: 3 order: 1", exact=True, order=(0, 2, 3, 1)),
    one("permute_param", "order: 3 order: 0 order: 1 order: 2", exact=True, order=(3, 0, 1, 2)),
    one("permute_param", "order: 2", exact=True, order=(2, 0, 1, 3)),
    one("permute_param", "order: 1 order: 3", exact=True, order=(1, 3, 0, 2)),
    one("permute_param", exact=True, order=(0, 1, 2, 3)),
    one("permute_param", "order: 1", bottom=(2, 3), exact=True, order=(1, 0)),
]


@oracle("Tile")
def tile(x: np.ndarray, *, tiles: int, axis: int = 1) -> list[np.ndarray]:
    size = x.shape[axis]
    y = np.empty((*x.shape[:axis], size * tiles, *x.shape[axis + 1 :]))
    for i in indices(y.shape):
        y[i] = x[(*i[:axis], i[axis] % size, *i[axis + 1 :])]
    return [y]


CASES["Tile"] = [
    one("tile_param", "tiles: 3", exact=True, tiles=3),
    one("tile_param", "axis: 0 tiles: 2", exact=True, tiles=2, axis=0),
    one("tile_param", "axis: -1 tiles: 7", exact=True, tiles=7, axis=3),
    one("tile_param", "tiles: 1", exact=True, tiles=1),
]


@oracle("ShuffleChannel")
def shuffle_channel(x: np.ndarray, *, group: int = 1) -> list[np.ndarray]:
    size = x.shape[1] // group
    return each(x, lambda i, _: float(x[(i[0], i[1] % group * size + i[1] // group, *i[2:])]))


CASES["ShuffleChannel"] = [
    one("shuffle_channel_param", "group: 3", (2, 12, 5, 4), exact=True, group=3),
    one("shuffle_channel_param", "group: 4", (2, 12, 5), exact=True, group=4),
    one("shuffle_channel_param", "group: 2", (3, 10), exact=True, group=2),
    one("shuffle_channel_param", exact=True),
]


@oracle("Silence")
def silence(*xs: np.ndarray) -> list[np.ndarray]:
    return []


CASES["Silence"] = [Case("", [(2, 3, 5)], tops=0, exact=True), Case("", [(2, 3), (5,)], tops=0, exact=True)]


@oracle("Parameter")
def parameter(blob: np.ndarray) -> list[np.ndarray]:
    return [blob]


CASES["Parameter"] = [
    Case("parameter_param { shape { dim: 3 dim: 5 dim: 2 } }", [], blobs=[(3, 5, 2)], exact=True),
    Case("parameter_param { shape { dim: 4 } }", [], blobs=[(4,)], exact=True),
    Case("", [], blobs=[()], exact=True),
]
