"""SSD's layers: PriorBox and DetectionOutput (Liu et al. 2016; its fork of Caffe).

Boxes are (xmin, ymin, xmax, ymax) in parts of the image's width and height. A prior blob is 1 x 2 x (P 4): the corners
of P default boxes, then the four variances of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import Array, DetectionRules, Ops, Shape, layer, product

_CORNER, _CENTER_SIZE = (enum_number("PriorBoxParameter.CodeType", name) for name in ("CORNER", "CENTER_SIZE"))
# Ratios closer than this are the same to SSD.
_SAME = 1e-6

# Default boxes of a layer, and of one pixel: computed even where only the shape is asked for. SSD512: 24,564 and 6.
MAX_BOXES = 1 << 20
MAX_SIZES = 1000


@layer("PriorBox", "prior_box_param", bottoms=(2, 2))
def prior_box(ops: Ops, p: Message, x: Array, image: Array) -> Array:
    """Default boxes around the pixels of a feature map, in parts of the image, and their variances.

    Only the shapes of the bottoms count. At each pixel there are, for each `min_size` in turn: a square of that size,
    one of sqrt(min_size max_size) if there is a `max_size`, and a box of the first one's area for each other aspect
    ratio, with `flip` (the default) followed by its reciprocal. Sizes are cut to whole pixels, as SSD keeps them in
    integers. `clip` clips to the image. Without `step`, the image's size over the map's is one.
    """
    height, width = _height_width(ops.shape(x))
    if min(height, width) < 1:
        raise NetError(f"PriorBox needs a feature map of at least 1 x 1, got {height} x {width}")
    if not (p.HasField("img_size") or p.HasField("img_h") or p.HasField("img_w")):
        image_height, image_width = _height_width(ops.shape(image))
    else:
        image_height, image_width = (int(size) for size in _pair(p, "img_size", "img"))
    step_y, step_x = image_height / height, image_width / width
    if p.HasField("step") or p.HasField("step_h") or p.HasField("step_w"):
        step_y, step_x = _pair(p, "step", "step")
    sizes = np.array(_box_sizes(p), np.float64)  # of float32 values
    if height * width * len(sizes) > MAX_BOXES:
        raise NetError(f"expected at most {MAX_BOXES} default boxes, got {height} x {width} x {len(sizes)}")
    corners = np.empty((height, width, len(sizes), 4))
    for axis, (count, step, extent) in enumerate([(width, step_x, image_width), (height, step_y, image_height)]):
        # SSD has centres in float32 and the rest in double.
        centres = (np.arange(count, dtype=np.float32) + np.float32(p.offset)) * np.float32(step)
        centres = centres.astype(np.float64).reshape((1, -1, 1) if axis == 0 else (-1, 1, 1))
        corners[..., axis] = (centres - sizes[:, axis] / 2) / extent
        corners[..., axis + 2] = (centres + sizes[:, axis] / 2) / extent
    if p.clip:
        corners = corners.clip(0, 1)
    variances = np.empty_like(corners)
    variances[...] = _variances(p)
    return ops.literal(np.stack([corners.reshape(-1), variances.reshape(-1)])[np.newaxis])


def _height_width(shape: Shape) -> tuple[int, int]:
    if len(shape) != 4:
        raise NetError(f"PriorBox needs bottoms of N x C x H x W, got {len(shape)} axes")
    return shape[2], shape[3]


def _pair(p: Message, both: str, each: str) -> tuple[float, float]:
    """The field `both`, or each_h and each_w; positive."""
    names = (f"{each}_h", f"{each}_w")
    if any(map(p.HasField, names)):
        if p.HasField(both) or not all(map(p.HasField, names)):
            raise NetError(f"prior_box_param needs {both}, or {names[0]} and {names[1]}")
        values = [getattr(p, name) for name in names]
    else:
        values = [getattr(p, both)] * 2
    _positive(both, values)
    return values[0], values[1]


def _positive(name: str, values: Sequence[float]) -> None:
    for value in values:
        if not 0 < value < math.inf:
            raise NetError(f"prior_box_param needs a positive {name} (got {value:g})")


def _box_sizes(p: Message) -> list[tuple[np.float32, np.float32]]:
    """Width and height of the boxes at a pixel, in pixels of the image."""
    if not p.min_size:
        raise NetError("prior_box_param needs min_size")
    if len(p.min_size) * (2 + 2 * len(p.aspect_ratio)) > MAX_SIZES:
        got = f"{len(p.min_size)} min_size and {len(p.aspect_ratio)} aspect_ratio"
        raise NetError(f"expected at most {MAX_SIZES} default boxes a pixel, got {got}")
    for name in ("min_size", "max_size", "aspect_ratio"):
        _positive(name, getattr(p, name))
    if p.max_size and len(p.max_size) != len(p.min_size):
        raise NetError(f"expected as many max_size as min_size, got {len(p.max_size)} and {len(p.min_size)}")
    boxes = []
    for i, least in enumerate(map(int, p.min_size)):
        boxes.append((np.float32(least), np.float32(least)))
        if p.max_size:
            if p.max_size[i] <= p.min_size[i]:
                raise NetError(f"max_size {p.max_size[i]:g} must be larger than min_size {p.min_size[i]:g}")
            side = np.float32(math.sqrt(least * int(p.max_size[i])))
            boxes.append((side, side))
        for ratio in _ratios(p):
            root = np.sqrt(ratio)
            boxes.append((np.float32(least) * root, np.float32(least) / root))
    return boxes


def _ratios(p: Message) -> list[np.float32]:
    """The aspect ratios other than 1: each that no earlier one, or its reciprocal, is equal to."""
    ratios = [np.float32(1)]
    for ratio in map(np.float32, p.aspect_ratio):
        if all(abs(ratio - other) >= _SAME for other in ratios):
            ratios += [ratio, np.float32(1 / float(ratio))] if p.flip else [ratio]
    return ratios[1:]


def _variances(p: Message) -> Sequence[float]:
    """One number, or one for each coordinate."""
    if len(p.variance) not in (0, 1, 4):
        raise NetError(f"prior_box_param needs 1 or 4 values of variance (got {len(p.variance)})")
    _positive("variance", p.variance)
    return list(p.variance) or [float(np.float32(0.1))]


@layer("DetectionOutput", "detection_output_param", bottoms=(3, 3))
def detection_output(ops: Ops, p: Message, loc: Array, conf: Array, prior: Array) -> Array:
    """Boxes decoded from locations and priors, suppressed where they overlap: rows of (image, class, score, box).

    Bottoms: locations N x (P L 4), scores N x (P C) as they are (the network has its own Softmax), priors
    1 x 2 x (P 4); L is 1 with `share_location`, else C. Which boxes stay is said in `DetectionRules`. The top is
    1 x 1 x K x 7: K depends on the data, and is 1 where only shapes are known, as in Caffe before the first forward
    pass. Where nothing at all is found, there is a row of -1 for each image. What SSD saves and shows
    (`save_output_param`, `visualize`) is not read.
    """
    if not p.num_classes:
        raise NetError("detection_output_param needs num_classes of at least 1")
    shared = 1 if p.share_location else p.num_classes
    shapes = [ops.shape(bottom) for bottom in (loc, conf, prior)]
    if len(shapes[2]) < 3 or shapes[2][:2] != (1, 2) or product(shapes[2]) % 8:
        raise NetError(f"expected priors of 1 x 2 x (4 P), got {shape_text(shapes[2])}")
    priors = product(shapes[2]) // 8
    for name, shape, size in (("locations", shapes[0], 4 * shared), ("scores", shapes[1], p.num_classes)):
        if shape[0] != shapes[0][0] or product(shape[1:]) != priors * size:
            raise NetError(f"expected {name} of {shapes[0][0]} x {priors * size}, got {shape_text(shape)}")
    boxes = _decoded(ops, p, ops.permute(ops.reshape(loc, (0, priors, shared, 4)), (0, 2, 1, 3)), prior, priors)
    scores = ops.permute(ops.reshape(conf, (0, priors, p.num_classes)), (0, 2, 1))
    return ops.detections(boxes, scores, detection_rules(p))


def detection_rules(p: Message) -> DetectionRules:
    """What a DetectionOutputParameter says of the boxes that stay."""
    nms = p.nms_param
    if not nms.nms_threshold >= 0:
        raise NetError(f"nms_param needs an nms_threshold of at least 0 (got {nms.nms_threshold:g})")
    if not 0 < nms.eta <= 1:
        raise NetError(f"nms_param needs an eta above 0 and up to 1 (got {nms.eta:g})")
    confidence = p.confidence_threshold if p.HasField("confidence_threshold") else float(np.finfo(np.float32).min)
    top_k = nms.top_k if nms.HasField("top_k") else -1
    return DetectionRules(p.background_label_id, confidence, nms.nms_threshold, top_k, p.keep_top_k, nms.eta)


def _decoded(ops: Ops, p: Message, loc: Array, prior: Array, priors: int) -> Array:
    """The boxes, N x L x P x 4, that locations mean beside their priors (SSD's DecodeBBox).

    CORNER: corner + v loc. CORNER_SIZE: corner + v loc size. CENTER_SIZE: centre + v loc size and size e^(v loc). The
    variance v is 1 with `variance_encoded_in_target`.
    """
    corners, variances = (ops.reshape(ops.slice(prior, 1, i, i + 1), (1, 1, priors, 4)) for i in range(2))
    moves = loc if p.variance_encoded_in_target else ops.mul(loc, variances)
    if p.code_type == _CORNER:
        return ops.add(corners, moves)
    low, high = ops.slice(corners, 3, 0, 2), ops.slice(corners, 3, 2, 4)
    size = ops.sub(high, low)
    if p.code_type != _CENTER_SIZE:
        return ops.add(corners, ops.mul(moves, ops.concat([size, size], 3)))
    shift, growth = ops.slice(moves, 3, 0, 2), ops.slice(moves, 3, 2, 4)
    centre = ops.add(ops.mul(shift, size), ops.mul(ops.add(low, high), 0.5))
    half = ops.mul(ops.mul(ops.exp(growth), size), 0.5)
    return ops.concat([ops.sub(centre, half), ops.add(centre, half)], 3)
