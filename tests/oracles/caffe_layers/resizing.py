"""Interp and Upsample."""

from typing import Any

import numpy as np

from caffe_layers.core import CASES, IMAGE, Case, Pair, indices, oracle


def interp_case(text: str, *others: tuple[int, ...], bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    block = f"interp_param {{ {text} }}" if text else ""
    return Case(block, [bottom, *others], meaning)


@oracle("Interp")
def interp(
    x: np.ndarray, other: np.ndarray | None = None, *, size: Pair | None = None, crop: Pair = (0, 0)
) -> list[np.ndarray]:
    x = x[:, :, crop[0] : x.shape[2] - crop[1], crop[0] : x.shape[3] - crop[1]]
    size = other.shape[2:] if size is None and other is not None else size
    y = np.empty((*x.shape[:2], *size))
    for n, c, *at in indices(y.shape):
        corners = []
        for a in (0, 1):
            # A whole number of steps of 1 / (size - 1) of the image's own.
            steps, parts = at[a] * (x.shape[a + 2] - 1), max(size[a] - 1, 1)
            before, share = steps // parts, steps % parts / parts
            corners.append([(before, 1 - share), (min(before + 1, x.shape[a + 2] - 1), share)])
        y[(n, c, *at)] = sum(p * q * float(x[n, c, h, w]) for h, p in corners[0] for w, q in corners[1])
    return [y]


CASES["Interp"] = [
    interp_case("height: 13 width: 9", size=(13, 9)),
    interp_case("height: 4 width: 3", size=(4, 3)),
    interp_case("height: 1 width: 11", size=(1, 11)),
    interp_case("height: 3 width: 7", bottom=(2, 3, 1, 4), size=(3, 7)),
    interp_case("zoom_factor: 3", size=(19, 16)),
    interp_case("shrink_factor: 2", size=(4, 3)),
    interp_case("shrink_factor: 3 zoom_factor: 2", size=(5, 3)),
    interp_case("zoom_factor: 2 height: 5 width: 9", size=(13, 11)),  # one factor goes before the size
    interp_case("shrink_factor: 2 height: 5 width: 9", size=(4, 3)),
    interp_case("shrink_factor: 2 zoom_factor: 3 height: 5 width: 9", size=(5, 9)),  # both come after it
    interp_case("height: 8 width: 10 pad_beg: -1 pad_end: -2", size=(8, 10), crop=(1, 2)),
    interp_case("zoom_factor: 2 pad_end: -1", size=(11, 9), crop=(0, 1)),
    interp_case("zoom_factor: 1 pad_beg: -2", size=(5, 4), crop=(2, 0)),  # a crop alone
    interp_case("", (1, 3, 9, 11)),
    interp_case("use_blob_size: true", (1, 3, 5, 11)),
    interp_case("height: 3 width: 8", (1, 2, 9, 11), size=(3, 8)),
]


@oracle("Upsample")
def upsample(
    x: np.ndarray, places: np.ndarray | None = None, *, size: Pair | None = None, scale: Pair = (2, 2)
) -> list[np.ndarray]:
    height, width = size or (x.shape[2] * scale[0], x.shape[3] * scale[1])
    y = np.zeros((*x.shape[:2], height, width))
    if places is None:
        for n, c, h, w in indices(y.shape):
            y[n, c, h, w] = x[n, c, h // scale[0], w // scale[1]]
    else:
        for n, c, h, w in indices(x.shape):
            y[(n, c, *divmod(int(places[n, c, h, w]), width))] = x[n, c, h, w]
    return [y]


SMALL = (2, 4, 5, 3)
# Each place is named more than once: the last value stays.
PLACES = (np.arange(2 * 4 * 5 * 3) * 13 % 37).reshape(SMALL).astype(np.float32)


def up(text: str, *places: np.ndarray, **meaning: Any) -> Case:
    return Case(f"upsample_param {{ {text} }}" if text else "", [SMALL, *places], meaning, exact=True)


CASES["Upsample"] = [
    up("scale: 3", scale=(3, 3)),
    up(""),
    up("scale_h: 1 scale_w: 3", scale=(1, 3)),
    up("scale: 2", PLACES),
    up("", PLACES),
    up("scale_h: 2 scale_w: 4", PLACES, scale=(2, 4)),
    up("scale: 2 pad_out_h: true", PLACES, size=(9, 6)),
    up("pad_out_w: true", PLACES, size=(10, 5)),
    up("upsample_h: 8 upsample_w: 7", PLACES, size=(8, 7)),
    up("upsample_h: 37 upsample_w: 1 scale: 9", PLACES, size=(37, 1)),
]
