"""What the search strategies share: the problem, and its trials of assignments.

A strategy is a function of a `Problem` to the widths that it found. `Problem.try_widths` is the only way it runs the
network on an assignment, and keeps every trial; `Problem.isolated` measures single sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lpcaffe.errors import TargetNotReached, counted
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.sites import Site
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.target import Target

Widths = dict[Site, int]


class Evaluator(Protocol):
    """What a strategy needs of `Trials`."""

    @property
    def baseline(self) -> Score:
        """The full-precision network."""

    def __call__(self, formats: Mapping[Site, NumberFormat]) -> Score:
        """A whole assignment."""

    def isolated(self, site: Site, formats: Sequence[NumberFormat]) -> list[Score]:
        """One site at several formats, everything else in full precision."""


@dataclass(frozen=True)
class Point:
    """A trial of an assignment. `met` is None where there was no target."""

    widths: Widths
    score: Score
    met: bool | None


@dataclass
class Problem:
    """Which sites get a width, between `lowest` and `highest`, and what must be kept.

    `fixed` are sites with a given width, in every trial of an assignment. `budgets` are bits in all by kind.
    `points` are the trials, in order.
    """

    trials: Evaluator
    table: FormatTable
    sites: Sequence[Site]
    lowest: int
    highest: int
    target: Target | None = None
    fixed: Mapping[Site, int] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)

    def try_widths(self, widths: Mapping[Site, int]) -> Point:
        """Run the network with these widths; sites without one stay in full precision."""
        every = {**self.fixed, **widths}
        score = self.trials(self.table.formats(every))
        met = None if self.target is None else self.target.met(score, self.trials.baseline)
        point = Point(every, score, met)
        self.points.append(point)
        return point

    @property
    def whole(self) -> list[Point]:
        """The trials in which every site had a width."""
        return [point for point in self.points if all(site in point.widths for site in self.sites)]

    def holds(self, widths: Mapping[Site, int]) -> bool:
        """Whether the target holds with these widths."""
        return bool(self.try_widths(widths).met)

    def isolated(self, site: Site, width: int) -> Score:
        """The score of one site at a width, everything else in full precision."""
        return self.trials.isolated(site, [self.table(site, width)])[0]

    def shortfall(self, point: Point) -> float:
        """By how much a trial misses the target."""
        assert self.target is not None
        return self.target.shortfall(point.score, self.trials.baseline)

    def not_reached(self) -> TargetNotReached:
        """The error with how close the search came."""
        points = self.whole
        best = min(points, key=self.shortfall)
        assert self.target is not None
        came = self.target.value(best.score, self.trials.baseline)
        limit = "within the budget" if self.budgets else f"with at most {self.highest} bits"
        best_of = f"the best of {counted(len(points), 'trial')} has {came:.4g}"
        problem = f"the target, {self.target}, cannot be reached {limit}: {best_of}"
        return TargetNotReached(problem, hint="relax the target, or allow more bits")
