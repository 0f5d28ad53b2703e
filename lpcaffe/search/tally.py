"""The tally of a trial: what its outputs, batch by batch, add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lpcaffe.calibration import finite_weights
from lpcaffe.errors import DataError
from lpcaffe.net import Net
from lpcaffe.search.metrics import Score
from lpcaffe.validation.comparison import OutputAgreement, add_output, outputs_of
from lpcaffe.validation.metric import Metric, measure

Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Reference:
    """What trials are measured against.

    net       the network whose weights are at fault when a value is not finite
    blob      the output that decides
    full      the full-precision outputs, batch by batch
    firsts    where each batch begins, and the number of images
    labels    of all images, or None
    metric    the user's own figure, or None
    """

    net: Net
    blob: str
    full: Sequence[Outputs]
    firsts: Sequence[int]
    labels: np.ndarray | None
    metric: Metric | None


@dataclass
class Tally:
    """The figures of one trial so far."""

    reference: Reference
    output: OutputAgreement = field(init=False)
    found: list[Outputs] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.output = OutputAgreement(self.reference.blob, True)

    def add(self, index: int, outputs: Outputs) -> None:
        """Take the outputs of a batch."""
        whole, blob = self.reference, self.output.blob
        true = whole.full[index][blob]
        if outputs[blob].shape != true.shape:
            problem = f"its shape depends on the values: {true.shape} in full precision, {outputs[blob].shape} in low"
            raise DataError(problem, blob=blob, hint="let another output decide")
        labels = None if whole.labels is None else whole.labels[whole.firsts[index] : whole.firsts[index + 1]]
        with finite_weights(whole.net):
            add_output(self.output, true, outputs[blob], labels)
        if whole.metric is not None:
            self.found.append(outputs)

    def score(self) -> Score:
        """The figures of all batches."""
        whole = self.reference
        if whole.metric is None:
            return Score.of(self.output)
        full, low = (
            {blob: [outputs[blob] for outputs in batches] for blob in whole.full[0]}
            for batches in (whole.full, self.found)
        )
        return Score.of(self.output, measure(whole.metric, full, low, whole.labels))


def wanted_outputs(net: Net, output: str | None, all_outputs: bool) -> tuple[str, dict[str, str]]:
    """The blob that decides, and the tensors of the blobs that are needed: that one, or all outputs too."""
    outputs = outputs_of(net, net.last_versions)
    if output is None:
        output = next(one.blob for one in outputs if one.classifier)
    if output not in net.last_versions:
        raise DataError("the network has no such blob", blob=output, hint=f"its outputs are {', '.join(net.outputs)}")
    blobs = dict.fromkeys([*(one.blob for one in outputs if all_outputs), output])
    return output, {blob: net.last_versions[blob] for blob in blobs}
