"""What the search strategies share: the problem, and its trials of whole assignments.

A strategy is a function of a `Problem` to the widths that it found. `Problem.try_widths` is the only way it runs the
network on a whole assignment, so every trial is on the curve; `Problem.alone` measures single parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lpcaffe.errors import TargetNotReached
from lpcaffe.qformat import QFormat
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import FormatTable, Part
from lpcaffe.search.target import Target

Widths = dict[Part, int]


class Evaluator(Protocol):
    """What `Trials` answers."""

    @property
    def baseline(self) -> Score:
        """The full-precision network."""

    def __call__(self, formats: Mapping[Part, QFormat]) -> Score:
        """A whole assignment."""

    def alone(self, part: Part, formats: Sequence[QFormat]) -> list[Score]:
        """One part at several formats, everything else in full precision."""


@dataclass(frozen=True)
class Point:
    """A trial of a whole assignment. `met` is None where there was no target."""

    widths: Widths
    score: Score
    met: bool | None


@dataclass
class Problem:
    """Which parts get a width, between `lowest` and `highest`, and what must be kept.

    `fixed` are parts with a given width, in every trial of a whole assignment. `budgets` are bits in all by kind.
    """

    trials: Evaluator
    table: FormatTable
    parts: Sequence[Part]
    lowest: int
    highest: int
    target: Target | None = None
    fixed: Mapping[Part, int] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def try_widths(self, widths: Mapping[Part, int]) -> Point:
        """Run the network with these widths; parts without one stay in full precision."""
        every = {**self.fixed, **widths}
        score = self.trials(self.table.formats(every))
        met = None if self.target is None else self.target.met(score, self.trials.baseline)
        point = Point(every, score, met)
        self.points.append(point)
        return point

    def holds(self, widths: Mapping[Part, int]) -> bool:
        """Whether the target holds with these widths."""
        return bool(self.try_widths(widths).met)

    def alone(self, part: Part, width: int) -> Score:
        """The score of one part at a width, everything else in full precision."""
        return self.trials.alone(part, [self.table(part, width)])[0]

    def shortfall(self, point: Point) -> float:
        """By how much a trial misses the target."""
        assert self.target is not None
        return self.target.shortfall(point.score, self.trials.baseline)

    def not_reached(self) -> TargetNotReached:
        """The error that says how close the search came."""
        best = min(self.points, key=self.shortfall)
        assert self.target is not None
        came = self.target.value(best.score, self.trials.baseline)
        count = f"{len(self.points)} trials" if len(self.points) > 1 else "1 trial"
        return TargetNotReached(
            f"the target, {self.target}, cannot be reached with at most {self.highest} bits: the best of {count} has "
            f"{came:.4g}",
            hint="relax the target, or allow more bits",
        )
