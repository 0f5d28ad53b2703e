"""Loss and evaluation layers: the shapes they give. No engine runs them, because they need labels.

A loss is a single value, of shape (). A layer may leave out its tops: Caffe then names the loss itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Ops, Shape, canonical_axis, layer

_loss = partial(layer, role="a loss layer")
_evaluation = partial(layer, role="an evaluation layer")


@_loss("SoftmaxWithLoss", "top", bottoms=(2, 3))
def softmax_with_loss(ops: Ops, tops: Sequence[str], x: Shape, *labels: Shape) -> list[Shape]:
    """The loss, and the probabilities if there is a second top. A third bottom weighs the labels."""
    return [(), x][: len(tops)]


@_loss("ContrastiveLoss", "top", bottoms=(3, 3))
@_loss("EuclideanLoss", "top", bottoms=(2, 2))
@_loss("HingeLoss", "top", bottoms=(2, 2))
@_loss("InfogainLoss", "top", bottoms=(2, 3))
@_loss("L1Loss", "top", bottoms=(2, 2))
@_loss("MultiBoxLoss", "top", bottoms=(4, 4))
@_loss("MultinomialLogisticLoss", "top", bottoms=(2, 2))
@_loss("SigmoidCrossEntropyLoss", "top", bottoms=(2, 2))
@_loss("SmoothL1Loss", "top", bottoms=(2, 4))
def loss(ops: Ops, tops: Sequence[str], *bottoms: Shape) -> list[Shape]:
    """The loss alone."""
    shapes: list[Shape] = [()]
    return shapes[: len(tops)]


@_evaluation("Accuracy", "accuracy_param", "top", bottoms=(2, 2))
def accuracy(ops: Ops, p: Message, tops: Sequence[str], x: Shape, labels: Shape) -> list[Shape]:
    """The share of right answers; a second top has it for each class."""
    return [(), (x[canonical_axis(p.axis, len(x))],)][: len(tops)]


@_evaluation("DetectionEvaluate", bottoms=(2, 2))
def detection_evaluate(ops: Ops, detections: Shape, boxes: Shape) -> list[Shape]:
    """A row for each class and each detection that is one (SSD); how many is known when it runs."""
    shape: Shape = (1, 1, 0, 5)
    return [shape]


@_evaluation("SegAccuracy", "top", bottoms=(2, 2))
def seg_accuracy(ops: Ops, tops: Sequence[str], x: Shape, labels: Shape) -> list[Shape]:
    """Accuracy of pixels, recall of classes, intersection over union (DeepLab)."""
    shapes: list[Shape] = [(1, 1, 1, 3)]
    return shapes[: len(tops)]
