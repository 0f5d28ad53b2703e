"""ROIPooling and PSROIPooling. Caffe finds the bins in float32, and where they end depends on it: so does this."""

import math
from typing import Any

import numpy as np

from caffe_layers.core import CASES, Case, Pair, indices, oracle

F = np.float32
ROIS = np.array(
    [
        [0, 0, 0, 95, 111],  # the whole image
        [1, 8, 24, 40, 72],  # corners that fall on halves: 0.5, 1.5, 2.5, 4.5
        [0, -24, -8, 56, 24],  # begins outside, at -1.5 and -0.5
        [1, 16, 16, 16, 16],  # a single pixel
        [0, 80, 100, 300, 400],  # ends outside
        [1, 60, 90, 20, 30],  # corners the wrong way round count as one pixel
        [1, 200, 300, 250, 350],  # wholly outside
        [0, 3, 5, 90, 100],
    ],
    np.float32,
)


def away(v: float) -> int:
    """C's round()."""
    return int(math.copysign(math.floor(abs(float(v)) + 0.5), v))


def clip(v: float, limit: int) -> int:
    return min(max(int(v), 0), limit)


@oracle("ROIPooling")
def roi_pooling(x: np.ndarray, rois: np.ndarray, *, pooled: Pair, scale: float = 1.0) -> list[np.ndarray]:
    rois = rois.reshape(len(rois), 5)
    y = np.zeros((len(rois), x.shape[1], *pooled))
    for r, c, *at in indices(y.shape):
        corners = [away(F(v) * F(scale)) for v in rois[r, 1:]]
        spans = []
        for a, first, last in ((0, corners[1], corners[3]), (1, corners[0], corners[2])):
            size = F(max(last - first + 1, 1)) / F(pooled[a])
            ends = math.floor(F(at[a]) * size) + first, math.ceil(F(at[a] + 1) * size) + first
            spans.append(range(*(clip(end, x.shape[a + 2]) for end in ends)))
        values = [float(x[int(rois[r, 0]), c, h, w]) for h in spans[0] for w in spans[1]]
        y[(r, c, *at)] = max(values, default=0.0)
    return [y]


def roi_case(text: str, rois: np.ndarray = ROIS, **meaning: Any) -> Case:
    return Case(f"roi_pooling_param {{ {text} }}", [(2, 3, 7, 6), rois], meaning, exact=True)


CASES["ROIPooling"] = [
    roi_case("pooled_h: 3 pooled_w: 2 spatial_scale: 0.0625", pooled=(3, 2), scale=0.0625),
    roi_case("pooled_h: 7 pooled_w: 5 spatial_scale: 0.0625", pooled=(7, 5), scale=0.0625),
    roi_case("pooled_h: 1 pooled_w: 1 spatial_scale: 0.0625", pooled=(1, 1), scale=0.0625),
    roi_case("pooled_h: 4 pooled_w: 3", ROIS / 17, pooled=(4, 3)),
    # The last of 21 bins in 3 pixels ends at 21 (3 / 21), in float32 just above 3: it takes a fourth pixel.
    roi_case("pooled_h: 21 pooled_w: 2", np.array([[1, 2, 2, 3, 4], [0, 1, 0, 5, 2]], F), pooled=(21, 2)),
    roi_case("pooled_h: 2 pooled_w: 3 spatial_scale: 0.0625", ROIS.reshape(8, 5, 1, 1), pooled=(2, 3), scale=0.0625),
]


@oracle("PSROIPooling")
def psroi_pooling(x: np.ndarray, rois: np.ndarray, *, group: int, scale: float) -> list[np.ndarray]:
    rois = rois.reshape(len(rois), 5)
    y = np.zeros((len(rois), x.shape[1] // group**2, group, group))
    for r, c, *at in indices(y.shape):
        spans = []
        for a in (0, 1):
            first, last = F(away(rois[r, 2 - a])) * F(scale), F(away(rois[r, 4 - a]) + 1) * F(scale)
            size = F(max(last - first, F(0.1))) / F(group)
            ends = math.floor(F(at[a]) * size + first), math.ceil(F(at[a] + 1) * size + first)
            spans.append(range(*(clip(end, x.shape[a + 2]) for end in ends)))
        channel = (c * group + at[0]) * group + at[1]
        values = [float(x[int(rois[r, 0]), channel, h, w]) for h in spans[0] for w in spans[1]]
        y[(r, c, *at)] = sum(values) / len(values) if values else 0.0
    return [y]


def ps_case(text: str, channels: int, rois: np.ndarray = ROIS, **meaning: Any) -> Case:
    return Case(f"psroi_pooling_param {{ {text} }}", [(2, channels, 7, 6), rois], meaning)


CASES["PSROIPooling"] = [
    ps_case("spatial_scale: 0.0625 output_dim: 4 group_size: 3", 36, group=3, scale=0.0625),
    ps_case("spatial_scale: 0.0625 output_dim: 3 group_size: 2", 12, ROIS + F(0.5) * (ROIS > 2), group=2, scale=0.0625),
    ps_case("spatial_scale: 0.07 output_dim: 5 group_size: 1", 5, ROIS.reshape(8, 5, 1, 1), group=1, scale=0.07),
]
