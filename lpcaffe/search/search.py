"""The search for small widths: strategy, target and trials put together, and what came of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lpcaffe.allocation.allocate import Methods, layer_plans
from lpcaffe.allocation.bits import WIDEST
from lpcaffe.allocation.tensors import site_tensors
from lpcaffe.calibration import Calibration, Progress, calibrate
from lpcaffe.data import Data
from lpcaffe.errors import DataError, PlanError, warn
from lpcaffe.net import Net
from lpcaffe.numbers.decibels import rounded_db
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site
from lpcaffe.search.budget import budget
from lpcaffe.search.greedy import greedy
from lpcaffe.search.measure import Measure
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import ROLES, FormatTable
from lpcaffe.search.ristretto import ristretto
from lpcaffe.search.strategy import Point, Problem, Widths
from lpcaffe.search.target import Target
from lpcaffe.search.trials import Trials

STRATEGIES = {"greedy": greedy, "ristretto": ristretto, "budget": budget}

_MSE = Methods("mse", "mse")
_POLICY, _MEASURE = Policy(), Measure()


@dataclass(frozen=True)
class Scope:
    """How a search goes about, and over what.

    strategy    greedy, ristretto or budget
    budgets     for the strategy budget: bits in all by role, {"weights": 400_000}; output is all outputs of one image
    lowest, highest    the widths of a site
    only        searches one role ("weights" or "output"), while the other has `other_bits` or stays in full precision

    Raises PlanError.
    """

    strategy: str = "greedy"
    budgets: Mapping[str, int] = field(default_factory=dict)
    lowest: int = 2
    highest: int = 16
    only: str | None = None
    other_bits: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            known = ", ".join(sorted(STRATEGIES))
            raise PlanError(f"there is no search strategy {self.strategy!r}", hint=f"known are {known}")
        if self.only not in (None, *ROLES):
            raise PlanError(f"expected only: weights or output, got {self.only!r}")
        if unknown := [role for role in self.budgets if role not in ROLES]:
            raise PlanError(f"expected budgets for weights or output, got {unknown[0]!r}")
        if (self.strategy == "budget") != bool(self.budgets):
            got = f"strategy {self.strategy} and {'a' if self.budgets else 'no'} budget"
            raise PlanError(f"budgets and strategy budget need each other, got {got}")
        if self.budgets and self.only is not None and set(self.budgets) != {self.only}:
            raise PlanError(f"only {self.only} is searched, and there is a budget for {' and '.join(self.budgets)}")
        if not 2 <= self.lowest <= self.highest <= WIDEST:
            got = f"{self.lowest} and {self.highest}"
            raise PlanError(f"expected widths with 2 <= lowest <= highest <= {WIDEST}, got {got}")
        if self.other_bits is not None and not 2 <= self.other_bits <= WIDEST:
            raise PlanError(f"other_bits: expected 2 to {WIDEST} bits, got {self.other_bits}")
        if self.other_bits is not None and len(self.roles) == len(ROLES):
            raise PlanError("other_bits: weights and outputs are both searched, so there is no other kind")

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that are searched."""
        return tuple(self.budgets) if self.budgets else ROLES if self.only is None else (self.only,)


_SCOPE = Scope()


@dataclass(frozen=True)
class SearchReport:
    """The plan found, its score beside that of full precision, and every trial of a whole assignment on the way."""

    plan: BitPlan
    strategy: str
    target: Target | None
    baseline: Score
    found: Point
    points: Sequence[Point]
    run: int
    reused: int
    source: str
    table: FormatTable

    @property
    def weight_bits(self) -> float | None:
        """Average bits of a weight."""
        return self.table.average_bits(self.found.widths, "weights")

    @property
    def activation_bits(self) -> float | None:
        """Average bits of an output that is rounded."""
        return self.table.average_bits(self.found.widths, "output")

    def to_json(self) -> dict[str, Any]:
        """The report as plain values. `curve` has a row for every trial of a whole assignment, in order."""
        sizes = {site.key: self.table.sizes[site] for site in self.found.widths}
        return {
            "version": 1,
            "network": self.plan.network,
            "strategy": self.strategy,
            "target": None if self.target is None else {"measure": self.target.measure, "bound": self.target.bound},
            "data": {"images": self.baseline.images, "source": self.source},
            "baseline": self.baseline.to_json(),
            "found": self.row(self.found),
            "layers": [
                {
                    "name": name,
                    "type": line.type,
                    "weights": None if line.weights is None else str(line.weights),
                    "weight_values": sizes.get((name, "weights")),
                    "output": None if line.output is None else str(line.output),
                    "output_values": sizes.get((name, "output")),
                }
                for name, line in self.plan.layers.items()
            ],
            "curve": [self.row(point) for point in self.points],
            "trials": {"run": self.run, "reused": self.reused},
        }

    def row(self, point: Point) -> dict[str, Any]:
        """A trial as plain values: average bits, and the figures of its score."""
        return {
            "weight_bits": self.table.average_bits(point.widths, "weights"),
            "activation_bits": self.table.average_bits(point.widths, "output"),
            "met": point.met,
            "sqnr_db": rounded_db(point.score.sqnr_db),
            "agreement": point.score.agreement,
            "top1": point.score.top1,
            "top5": point.score.top5,
            "metric": point.score.metric,
        }


def search_widths(
    net: Net,
    data: Data,
    *,
    target: Target | None = None,
    scope: Scope = _SCOPE,
    stats: Calibration | None = None,
    methods: Methods = _MSE,
    policy: Policy = _POLICY,
    measure: Measure = _MEASURE,
    progress: Progress | None = None,
) -> SearchReport:
    """Find small widths for the sites that the policy covers which keep `target`, or fit the budgets of `scope`.

    Formats come from the methods. `stats` are taken from the same data when they are not given; folding and placement
    are those of the statistics. Trials are recorded in the file that `measure` names, and a search with the same record
    continues where it stopped. `progress(done, 0)` is called after each trial.

    Raises TargetNotReached, with how close it came; PlanError for a target or budget that makes no sense; DataError for
    data without what the target needs.
    """
    _check_target(target, scope, data, measure)
    methods.chosen()  # raises for one that is not there, before any work
    if stats is not None:
        stats.check(net)
        policy = dataclasses.replace(policy, fold_bn=stats.fold_bn, act_placement=stats.act_placement)
    trials = Trials(net, data, policy=policy, measure=measure, progress=progress)
    if target is not None:
        target.met(trials.baseline, trials.baseline)  # what it needs and is not there is an error before any work
    if stats is None:
        stats = calibrate(net, data, policy=policy)
    _, tensors = site_tensors(net, stats, policy)
    table = FormatTable(tensors, stats.images, methods=methods, dialect=policy.dialect)
    searched = _searched(trials, table, scope.roles)
    fixed = {} if scope.other_bits is None else {s: scope.other_bits for s in table.sites if s.role not in scope.roles}
    problem = Problem(trials, table, searched, scope.lowest, scope.highest, target, fixed, scope.budgets)
    widths: Widths = {**fixed, **STRATEGIES[scope.strategy](problem)}
    found = next(point for point in reversed(problem.points) if point.widths == widths)
    plan = BitPlan(layer_plans(tensors, table.formats(widths)), policy, net.name, net.sha256)
    counts = (trials.run, trials.reused, data.source)
    return SearchReport(plan, scope.strategy, target, trials.baseline, found, problem.whole, *counts, table)


def _check_target(target: Target | None, scope: Scope, data: Data, measure: Measure) -> None:
    """Raise PlanError and DataError for a target that nothing can be held against."""
    if scope.strategy != "budget" and target is None:
        hint = "--max-loss, --min-agreement, --min-sqnr or --max-metric-loss"
        raise PlanError(f"strategy {scope.strategy} needs a target", hint=hint)
    if target is not None and target.measure in ("top1_loss", "top5_loss") and data.labels is None:
        raise DataError("the target needs labels, and the data has none", hint="--labels")
    if target is not None and target.measure == "metric_loss" and measure.metric is None:
        raise DataError("the target needs a metric", hint="--metric")


def _searched(trials: Trials, table: FormatTable, roles: Sequence[str]) -> list[Site]:
    """The sites that get a width, with a warning of those that the deciding output does not depend on."""
    asked = [site for site in table.sites if site.role in roles]
    searched = [site for site in asked if trials.affects_output(site)]
    if len(searched) < len(asked):
        left = ", ".join(dict.fromkeys(site.layer for site in asked if site not in searched))
        text = f"{trials.output} does not depend on {left}, which the search leaves in full precision"
        warn(text, stacklevel=3)
    if not searched:
        raise PlanError("no layer has anything to give a width to")
    return searched
