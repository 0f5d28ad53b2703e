"""Score: how close the outputs of a low-precision network are to those of the full-precision one.

The figures are those of the output that decides, as `validate` counts them (see `lpcaffe.validation.comparison`), and
the user's own metric, if there is one (`lpcaffe.validation.metric`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lpcaffe.numbers.decibels import sqnr_db
from lpcaffe.validation.comparison import OutputAgreement


@dataclass(frozen=True)
class Score:
    """The figures of one trial over all images.

    signal, noise    sums of squares of the full-precision values and of the errors, float64
    agreement        the fraction of decisions (largest value along axis 1) that are the same; None without classes
    top1, top5       the low-precision network's accuracy; None without labels (top5: of five classes or fewer)
    metric           the user's own figure, higher is better
    """

    images: int
    signal: float
    noise: float
    agreement: float | None = None
    top1: float | None = None
    top5: float | None = None
    metric: float | None = None

    @classmethod
    def of(cls, output: OutputAgreement, metric: float | None = None) -> Score:
        """The score that the counts of an output make."""
        top1, top5 = (None if (pair := output.accuracy(k)) is None else pair[1] for k in (1, 5))
        return cls(output.images, output.error.signal, output.error.noise, output.agreement, top1, top5, metric)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization-noise ratio in dB; None without noise, or without signal."""
        return sqnr_db(self.signal, self.noise)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` makes the same score of them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Score:
        """The score of `to_json`'s values. Raises TypeError for others."""
        return cls(**values)
