"""What a search must keep: a bound on what the low-precision network may lose."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lpcaffe.errors import DataError, PlanError
from lpcaffe.search.metrics import Score

_WORDS = {
    "top1_loss": "top-1 lost, points",
    "top5_loss": "top-5 lost, points",
    "agreement": "agreement",
    "sqnr_db": "SQNR, dB",
    "metric_loss": "metric lost",
}


@dataclass(frozen=True)
class Target:
    """A bound on one measure of a `Score`.

    top1_loss, top5_loss    at most so many points of accuracy lost against full precision, a point being 1 %
    agreement               at least this fraction of the decisions of the full-precision network, 0 to 1
    sqnr_db                 at least this signal-to-noise ratio of the deciding output, dB
    metric_loss             at most this much of the user's metric lost
    """

    measure: str
    bound: float

    def __post_init__(self) -> None:
        if self.measure not in _WORDS:
            raise PlanError(f"there is no measure {self.measure!r}", hint=f"known are {', '.join(_WORDS)}")
        if not math.isfinite(self.bound):
            raise PlanError(f"{self.measure}: expected a finite number, got {self.bound}")
        if self.measure.endswith("_loss") and self.bound < 0:
            raise PlanError(f"{self.measure}: expected a loss of 0 or more, got {self.bound}")
        if self.measure == "agreement" and not 0 <= self.bound <= 1:
            raise PlanError(f"expected an agreement between 0 and 1, got {self.bound}")

    @property
    def _upward(self) -> bool:
        return self.measure in ("agreement", "sqnr_db")

    def value(self, score: Score, baseline: Score) -> float:
        """The measure of a score; infinite dB for an output without any error. DataError where there is none."""
        if self.measure == "sqnr_db":
            if score.noise == 0:
                return float("inf")
            return float("-inf") if score.sqnr_db is None else score.sqnr_db
        name = self.measure.removesuffix("_loss")
        got, full = getattr(score, name), getattr(baseline, name)
        if got is None or full is None:
            why = {"agreement": "the output has no classes", "metric": "no metric was given"}
            raise DataError(f"the target needs {name}: {why.get(name, 'the data has no labels, or too few classes')}")
        if name == "agreement":
            return float(got)
        # Ten digits: 50 of 10,000 images are 0.5 points, whatever the last bit of their quotient is.
        return round(float(full - got) * (1.0 if name == "metric" else 100.0), 10)

    def met(self, score: Score, baseline: Score) -> bool:
        """Whether a score keeps the bound."""
        return self.shortfall(score, baseline) <= 0

    def shortfall(self, score: Score, baseline: Score) -> float:
        """By how much the bound is missed, in its own unit; not positive when it is kept."""
        value = self.value(score, baseline)
        return self.bound - value if self._upward else value - self.bound

    def __str__(self) -> str:
        return f"{_WORDS[self.measure]} {'>=' if self._upward else '<='} {self.bound:g}"
