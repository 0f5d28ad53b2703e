"""SSD's PriorBox and DetectionOutput."""

import math
from typing import Any

import numpy as np

from caffe_layers.core import CASES, Case, oracle

Box = tuple[float, float, float, float]


def single(v: float) -> float:
    """Rounded to float32."""
    return float(np.float32(v))


@oracle("PriorBox")
def prior_box(
    x: np.ndarray,
    image: np.ndarray,
    *,
    least: list[float],
    most: list[float] | None = None,
    ratios: list[float] = (),
    variance: list[float] = (0.1,) * 4,
    size: tuple[int, int] | None = None,
    step: tuple[float, float] | None = None,
    offset: float = 0.5,
    clip: bool = False,
) -> list[np.ndarray]:
    """`ratios` are all but 1, reciprocals written out. Centres and sizes are float32 in SSD, the rest is double."""
    rows, columns = x.shape[2:]
    high, wide = size or image.shape[2:]
    down, right = step or (single(high / rows), single(wide / columns))
    boxes, variances = [], []
    for row in range(rows):
        for column in range(columns):
            cx = single(single(column + offset) * right)
            cy = single(single(row + offset) * down)
            for i, small in enumerate(least):
                shapes = [(small, small)]
                if most:
                    shapes.append((single(math.sqrt(small * most[i])),) * 2)
                for ratio in ratios:
                    root = single(math.sqrt(single(ratio)))
                    shapes.append((single(small * root), single(small / root)))
                for w, h in shapes:
                    box = [(cx - w / 2) / wide, (cy - h / 2) / high, (cx + w / 2) / wide, (cy + h / 2) / high]
                    boxes += [min(max(v, 0.0), 1.0) for v in box] if clip else box
                    variances += [single(v) for v in variance]
    return [np.array([[boxes, variances]])]


def prior(
    text: str, x: tuple[int, ...] = (2, 5, 3, 4), image: tuple[int, ...] = (2, 3, 30, 50), **meaning: Any
) -> Case:
    return Case(f"prior_box_param {{ {text} }}", [x, image], meaning)


CASES["PriorBox"] = [
    prior("min_size: 7", least=[7]),
    prior("min_size: 7.9 max_size: 20.9 aspect_ratio: 2", least=[7], most=[20], ratios=[2, 1 / 2]),  # whole pixels
    prior(
        "min_size: 7 min_size: 9 max_size: 11 max_size: 30 aspect_ratio: 3 aspect_ratio: 1.5 flip: false clip: true",
        least=[7, 9],
        most=[11, 30],
        ratios=[3, 1.5],
        clip=True,
    ),
    # 1 is always there, 0.5 is 2 flipped, 2 is there
    prior(
        "min_size: 4 aspect_ratio: [1, 2, 0.5, 2, 3]",
        least=[4],
        ratios=[2, 1 / 2, 3, 1 / 3],
    ),
    prior(
        "min_size: 4 aspect_ratio: [2, 0.5] flip: false variance: 0.3", least=[4], ratios=[2, 0.5], variance=[0.3] * 4
    ),
    prior(
        "min_size: 4 img_size: 37 variance: [0.1, 0.2, 0.3, 0.4]",
        least=[4],
        size=(37, 37),
        variance=[0.1, 0.2, 0.3, 0.4],
    ),
    prior("min_size: 6 img_h: 41 img_w: 23 step: 8.5", least=[6], size=(41, 23), step=(8.5, 8.5)),
    prior("min_size: 6 step_h: 7 step_w: 11 offset: 0.1", least=[6], step=(7, 11), offset=single(0.1)),
    prior("min_size: 6 offset: 0 clip: true", least=[6], offset=0, clip=True),
    prior("min_size: 60 clip: true", (1, 2, 1, 3), (4, 2, 17, 7), least=[60], clip=True),
]


def decoded(prior: list[float], v: list[float], t: list[float], code: str, encoded: bool) -> Box:
    """The box that the four numbers t mean beside a prior."""
    if encoded:
        v = [1.0] * 4
    w, h = prior[2] - prior[0], prior[3] - prior[1]
    if code == "CENTER_SIZE":
        cx = (prior[0] + prior[2]) / 2 + v[0] * t[0] * w
        cy = (prior[1] + prior[3]) / 2 + v[1] * t[1] * h
        w, h = w * math.exp(v[2] * t[2]), h * math.exp(v[3] * t[3])
        return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2
    scale = [w, h, w, h] if code == "CORNER_SIZE" else [1.0] * 4
    return tuple(prior[i] + v[i] * t[i] * scale[i] for i in range(4))


def overlap(a: Box, b: Box) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    return w * h / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h)


@oracle("DetectionOutput")
def detection_output(
    loc: np.ndarray,
    conf: np.ndarray,
    priors: np.ndarray,
    *,
    classes: int,
    shared: bool = True,
    background: int = 0,
    confidence: float = -3.4028234663852886e38,
    threshold: float = 0.3,
    top_k: int = -1,
    keep: int = -1,
    eta: float = 1.0,
    code: str = "CORNER",
    encoded: bool = False,
) -> list[np.ndarray]:
    """Priority lists as SSD keeps them: every candidate is compared with every box that stays."""
    count = priors.size // 8
    corner, variance = (priors.reshape(2, count, 4)[i].astype(float).tolist() for i in range(2))
    rows: list[list[float]] = []
    for n in range(len(loc)):
        moves = loc[n].reshape(count, 1 if shared else classes, 4).astype(float).tolist()
        scores = conf[n].reshape(count, classes).astype(float).tolist()
        found = []
        for c in range(classes):
            if c == background:
                continue
            own = [(scores[p][c], p) for p in range(count) if scores[p][c] > single(confidence)]
            own.sort(key=lambda pair: -pair[0])
            stay: list[tuple[float, Box]] = []
            limit = single(threshold)
            for score, p in own[: top_k if top_k >= 0 else None]:
                box = decoded(corner[p], variance[p], moves[p][0 if shared else c], code, encoded)
                if all(overlap(box, other) <= limit for _, other in stay):
                    stay.append((score, box))
                    if eta < 1 and limit > 0.5:
                        limit *= single(eta)
            found += [[n, c, score, *box] for score, box in stay]
        if keep >= 0:
            found = sorted(found, key=lambda row: -row[2])[:keep]
            found.sort(key=lambda row: (row[1], -row[2]))
        rows += found
    return [np.array([[rows or [[n, *[-1.0] * 6] for n in range(len(loc))]]])]


def detect(text: str, shapes: tuple[int, int, int] = (2, 23, 3), *, seed: int = 0, **meaning: Any) -> Case:
    """Random boxes that overlap, and scores with ties: N images, P priors, C classes."""
    images, count, classes = shapes
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 0.6, (count, 2))
    priors = np.concatenate([corners, corners + rng.uniform(0.2, 0.4, (count, 2))], 1)
    variances = rng.uniform(0.1, 0.3, (count, 4))
    owners = 1 if meaning.get("shared", True) else classes
    loc = rng.normal(0, 0.3, (images, count * owners * 4))
    conf = rng.integers(0, 33, (images, count * classes)) / 32
    bottoms = [loc, conf, np.stack([priors.reshape(-1), variances.reshape(-1)])[np.newaxis]]
    return Case(
        f"detection_output_param {{ num_classes: {classes} {text} }}",
        [bottom.astype(np.float32) for bottom in bottoms],
        {"classes": classes} | meaning,
        dynamic=True,
    )


CASES["DetectionOutput"] = [
    detect("code_type: CENTER_SIZE confidence_threshold: 0.25", code="CENTER_SIZE", confidence=0.25),
    detect("nms_param { nms_threshold: 0.45 }", threshold=0.45),  # CORNER; no threshold: every score counts
    detect(
        "code_type: CORNER_SIZE nms_param { nms_threshold: 0.2 top_k: 5 } keep_top_k: 4 confidence_threshold: 0.1",
        code="CORNER_SIZE",
        threshold=0.2,
        top_k=5,
        keep=4,
        confidence=0.1,
    ),
    detect(
        "share_location: false code_type: CENTER_SIZE background_label_id: 2 keep_top_k: 7 nms_param { top_k: 9 }",
        (3, 17, 4),
        shared=False,
        code="CENTER_SIZE",
        background=2,
        keep=7,
        top_k=9,
    ),
    detect("background_label_id: -1 variance_encoded_in_target: true", background=-1, encoded=True),
    detect(
        "variance_encoded_in_target: true code_type: CENTER_SIZE keep_top_k: 3 "
        "nms_param { nms_threshold: 0.7 top_k: 400 }",
        (1, 29, 2),
        encoded=True,
        code="CENTER_SIZE",
        keep=3,
        threshold=0.7,
        top_k=400,
    ),
    detect("variance_encoded_in_target: true code_type: CORNER_SIZE", (1, 13, 5), encoded=True, code="CORNER_SIZE"),
    detect("nms_param { nms_threshold: 0 } keep_top_k: -1", threshold=0),
    detect("nms_param { nms_threshold: 2 } keep_top_k: 1000", threshold=2, keep=1000),
    detect("confidence_threshold: 0.995 code_type: CENTER_SIZE", confidence=0.995, code="CENTER_SIZE", seed=3),
    detect("confidence_threshold: 1", (3, 5, 2), confidence=1),  # nothing is above it: a row of -1 for each image
    detect("keep_top_k: 0", keep=0),
    detect("nms_param { top_k: 0 }", top_k=0),
    detect("", (2, 7, 1)),  # background alone
]
