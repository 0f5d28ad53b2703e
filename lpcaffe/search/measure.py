"""What trials measure, and what they keep."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from lpcaffe.validation.metric import Metric


@dataclass(frozen=True)
class Measure:
    """What trials measure, and what they keep.

    output    the blob that decides; by default the first Softmax, or else the last output, as in `validate`
    metric    the user's own figure, or its `module:function` (see `lpcaffe.validation.metric`)
    record    a file to which every trial is written, and from which those of an interrupted run are taken
    engine    what computes the float rest in `isolated`: numpy, onnxruntime, or auto, which takes onnxruntime
    """

    output: str | None = None
    metric: Metric | str | None = None
    record: str | PathLike[str] | None = None
    engine: str = "auto"
