"""What the primitives on boxes become in ONNX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from lpcaffe.engines.onnx_elementwise import as_floats
from lpcaffe.engines.onnx_engine import Array, OnnxEngine, Symbol, emitter, integers
from lpcaffe.layers import DetectionRules
from lpcaffe.layers.registry import Shape

_BOOL = 9  # TensorProto.DataType
_ZERO, _ONE = np.array(0, np.int64), np.array(1, np.int64)


@emitter
def detections(graph: OnnxEngine, shape: Shape, boxes: Array, scores: Symbol, rules: DetectionRules) -> Any:
    """NonMaxSuppression of the best boxes of each class, all images and classes side by side.

    TopK and NonMaxSuppression take the lower index of equal scores first, as SSD's stable sort does. What stays is
    marked in an array N x C x K of candidates, so that NonZero lists it by image, class and falling score. Sizes that
    only the data decide are given as 1. `check_graph` refuses a threshold that shrinks (eta < 1).
    """
    if 0 in (rules.top_k, rules.keep_top_k):  # nothing stays; an array without elements is trouble
        rules = replace(rules, confidence=np.inf, top_k=1, keep_top_k=1)
    images, classes, priors = scores.shape
    if 0 <= rules.background < classes:
        silent = np.zeros((1, classes, 1), np.float32)
        silent[0, rules.background] = -np.inf
        scores = graph.node("Add", [scores, silent], scores.shape)
    best = min(rules.top_k, priors) if rules.top_k >= 0 else priors
    dims = (images, classes, best)
    score, prior = graph.node("TopK", [scores, integers(best)], [dims, dims], axis=2)
    corners = _of_candidates(graph, boxes, prior, dims)
    kept = _suppressed(graph, corners, score, rules, dims)
    if rules.keep_top_k >= 0:
        kept = _best_of_image(graph, score, kept, min(rules.keep_top_k, classes * best), dims)
    return _rows(graph, shape, score, corners, kept)


def _of_candidates(graph: OnnxEngine, boxes: Array, prior: Symbol, dims: Shape) -> Any:
    """N x C x K x 4: the boxes of the candidates, from those of all priors, N x L x P x 4."""
    images, classes, best = dims
    owners, priors = boxes.shape[1:3]
    flat = graph.node("Reshape", [boxes, integers(-1, priors, 4)], (images * owners, priors, 4))
    each = classes // owners * best
    rows = graph.node("Reshape", [prior, integers(-1, each, 1)], (images * owners, each, 1))
    found = graph.node("GatherND", [flat, rows], (images * owners, each, 4), batch_dims=1)
    return graph.node("Reshape", [found, integers(-1, classes, best, 4)], (*dims, 4))


def _suppressed(graph: OnnxEngine, corners: Symbol, score: Symbol, rules: DetectionRules, dims: Shape) -> Any:
    """1 for each candidate that stays, else 0: N x C x K.

    A box inside out meets no other for SSD, while NonMaxSuppression would turn it round: it is made empty here.
    """
    images, classes, best = dims
    lines = images * classes
    low = graph.node("Slice", [corners, integers(0), integers(2), integers(3)], (*dims, 2))
    high = graph.node("Slice", [corners, integers(2), integers(4), integers(3)], (*dims, 2))
    proper = graph.node("Concat", [low, graph.node("Max", [low, high], (*dims, 2))], (*dims, 4), axis=3)
    candidates = graph.node("Reshape", [proper, integers(-1, best, 4)], (lines, best, 4))
    ordered = graph.node("Reshape", [score, integers(-1, 1, best)], (lines, 1, best))
    limits = [integers(best), np.float32(min(rules.nms_threshold, 1.0)), np.float32(rules.confidence)]
    chosen = graph.node("NonMaxSuppression", [candidates, ordered, *limits], (1, 3))  # line, 0, index
    at = graph.node("Gather", [chosen, integers(0, 2)], (1, 2), axis=1)
    none = graph.node("Reshape", [_filled(graph, score, 0.0), integers(-1, best)], (lines, best))
    marked = graph.node("ScatterND", [none, at, _filled(graph, at, 1.0, axes=1)], (lines, best))
    return graph.node("Reshape", [marked, integers(-1, classes, best)], dims)


def _best_of_image(graph: OnnxEngine, score: Symbol, kept: Symbol, count: int, dims: Shape) -> Any:
    """`kept` with no more than the `count` best of each image."""
    images, classes, best = dims
    staying = graph.node("Where", [graph.node("Cast", [kept], dims, to=_BOOL), score, -np.inf], dims)
    flat = graph.node("Reshape", [staying, integers(-1, classes * best)], (images, classes * best))
    first = [(images, count)] * 2
    _, index = graph.node("TopK", [flat, integers(count)], first, axis=1)
    marks = [_filled(graph, flat, 0.0), index, _filled(graph, index, 1.0)]
    marked = graph.node("ScatterElements", marks, flat.shape, axis=1)
    return graph.node("Mul", [kept, graph.node("Reshape", [marked, integers(-1, classes, best)], dims)], dims)


def _rows(graph: OnnxEngine, shape: Shape, score: Symbol, corners: Symbol, kept: Symbol) -> Any:
    """1 x 1 x rows x 7: what is marked in `kept`; without any, a row of -1 for each image, which holds its number."""
    at = graph.node("Transpose", [graph.node("NonZero", [kept], (3, 1))], (1, 3), perm=[1, 0])  # image, class, index
    heads = as_floats(graph, graph.node("Slice", [at, integers(0), integers(2), integers(1)], (1, 2)))
    scores = graph.node("Unsqueeze", [graph.node("GatherND", [score, at], (1,)), integers(1)], (1, 1))
    found = graph.node("Concat", [heads, scores, graph.node("GatherND", [corners, at], (1, 4))], (1, 7), axis=1)
    images = graph.node("Gather", [graph.node("Shape", [score], (3,)), _ZERO], ())
    nothing = graph.node("Equal", [graph.node("Size", [at], ()), _ZERO], ())
    fakes = graph.node("Where", [nothing, images, _ZERO], ())
    numbers = as_floats(graph, graph.node("Range", [_ZERO, fakes, _ONE], (1,)))
    column = graph.node("Unsqueeze", [numbers, integers(1)], (1, 1))
    fake = graph.node("Pad", [column, integers(0, 0, 0, 6), -1.0], (1, 7))
    rows = graph.node("Concat", [found, fake], (1, 7), axis=0)
    found = graph.node("Reshape", [rows, integers(1, 1, -1, 7)], shape)
    found.open_axes = (2,)
    return found


def _filled(graph: OnnxEngine, like: Symbol, value: float, *, axes: int | None = None) -> Any:
    """`value` in an array of the dimensions of `like`; of its first `axes` axes, if that is given."""
    shape = like.shape[:axes]
    return graph.node("Expand", [value, graph.node("Shape", [like], (len(shape),), end=len(shape))], shape)
