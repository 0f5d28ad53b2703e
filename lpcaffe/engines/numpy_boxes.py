"""Non-maximum suppression on ndarrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from lpcaffe.layers import DetectionRules

Array = Any


def detections(boxes: Array, scores: Array, rules: DetectionRules) -> Array:
    """Ops.detections. Of equal scores the lower class, then the lower prior, comes first."""
    images = [_of_image(image, boxes[image], scores[image], rules) for image in range(len(scores))]
    rows = np.concatenate(images)
    if not len(rows):
        rows = np.full((len(scores), 7), -1, scores.dtype)
        rows[:, 0] = np.arange(len(scores))
    return rows[np.newaxis, np.newaxis]


def _of_image(image: int, boxes: Array, scores: Array, rules: DetectionRules) -> Array:
    """The rows of one image, by class and falling score."""
    rows = [np.empty((0, 7), scores.dtype)]
    for label, own in enumerate(scores):
        if label == rules.background:
            continue
        candidates = np.flatnonzero(own > rules.confidence)
        candidates = candidates[np.argsort(-own[candidates], kind="stable")]
        if rules.top_k >= 0:
            candidates = candidates[: rules.top_k]
        of_class = boxes[label if len(boxes) > 1 else 0]
        kept = candidates[_kept(of_class[candidates], rules)]
        heads = np.broadcast_to(np.array([image, label], scores.dtype), (len(kept), 2))
        rows.append(np.concatenate([heads, own[kept, np.newaxis], of_class[kept]], 1))
    found = np.concatenate(rows)
    if 0 <= rules.keep_top_k < len(found):
        found = found[np.sort(np.argsort(-found[:, 2], kind="stable")[: rules.keep_top_k])]
    return found


def _kept(boxes: Array, rules: DetectionRules) -> list[int]:
    """Which of the boxes, in falling order of score, overlap with none that stays before them."""
    threshold = rules.nms_threshold
    indices = np.arange(len(boxes))
    worst = np.zeros(len(boxes), boxes.dtype)  # the largest overlap with a box that stays
    kept = []
    while indices.size:
        kept.append(int(indices[0]))
        worst = np.maximum(worst[1:], _overlap(boxes[0], boxes[1:]))
        if threshold > 0.5:
            threshold *= rules.eta
        free = worst <= threshold  # NaN is not, as in SSD
        boxes, indices, worst = boxes[1:][free], indices[1:][free], worst[free]
    return kept


def _overlap(box: Array, others: Array) -> Array:
    """Intersection over union of one box with each of several; 0 where they do not meet, or one is inside out."""
    inner = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = inner[:, 0] * inner[:, 1]
    areas = (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1])
    own = (box[2] - box[0]) * (box[3] - box[1])
    return np.where((inner > 0).all(1), common / (own + areas - common), 0)
