"""The search for small widths: strategy, target and trials put together, and what came of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

from lpcaffe.allocation.allocate import layer_tensors
from lpcaffe.allocation.bits import WIDEST
from lpcaffe.allocation.registry import method_named
from lpcaffe.calibration import Calibration, Progress, calibrate
from lpcaffe.quant.error_stats import rounded_db
from lpcaffe.data import Data
from lpcaffe.errors import DataError, LpcaffeWarning, PlanError
from lpcaffe.net import Net
from lpcaffe.quant.plan import BitPlan
from lpcaffe.search.budget import budget
from lpcaffe.search.greedy import greedy
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import KINDS, FormatTable, average_bits, layer_plans
from lpcaffe.search.ristretto import ristretto
from lpcaffe.search.strategy import Point, Problem, Widths
from lpcaffe.search.target import Target
from lpcaffe.search.trials import Trials
from lpcaffe.validation.metric import Metric

STRATEGIES = {"greedy": greedy, "ristretto": ristretto, "budget": budget}


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

    @property
    def weight_bits(self) -> float | None:
        """Average bits of a weight."""
        return average_bits(self.found.widths, "weights")

    @property
    def activation_bits(self) -> float | None:
        """Average bits of an output that is rounded."""
        return average_bits(self.found.widths, "output")

    def to_json(self) -> dict[str, Any]:
        """The report as plain values. `curve` has a row for every trial of a whole assignment, in order."""
        sizes = {(part.layer, part.kind): part.size for part in self.found.widths}
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
            "weight_bits": average_bits(point.widths, "weights"),
            "activation_bits": average_bits(point.widths, "output"),
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
    strategy: str = "greedy",
    target: Target | None = None,
    budgets: Mapping[str, int] | None = None,
    stats: Calibration | None = None,
    lowest: int = 2,
    highest: int = 16,
    only: str | None = None,
    other_bits: int | None = None,
    weight_method: str = "mse",
    activation_method: str = "mse",
    dialect: str = "adaption",
    rounding: str = "deterministic",
    seed: int = 0,
    round_bias: bool = False,
    round_output: bool = False,
    fold_bn: bool = True,
    act_placement: str = "before-relu",
    output: str | None = None,
    metric: Metric | str | None = None,
    record: str | PathLike[str] | None = None,
    engine: str = "auto",
    progress: Progress | None = None,
) -> SearchReport:
    """Find small widths for the weights and outputs of each layer that keep `target`, or fit `budgets`.

    `strategy` is ristretto, greedy or budget; `budgets` are bits in all by kind, `{"weights": 400_000}`, `output` being
    all outputs of one image. Widths are from `lowest` to `highest` bits; formats come from the methods. `only` searches
    one kind ("weights" or "output"), while the other has `other_bits` or stays in full precision. `stats` are taken
    from the same data when they are not given; folding and placement are those of the statistics. `output` names the
    deciding output; `metric` is a function of the user's, or its `module:function`. Trials are recorded in the file
    `record`, and a search with the same record goes on where it stopped. `engine` does the float work of single parts.
    `progress(done, 0)` is called after each trial.

    Raises TargetNotReached, which says how close it came; PlanError for a strategy, target or budget that makes no
    sense; DataError for data without what the target needs.
    """
    kinds = _kinds(strategy, target, budgets or {}, only)
    for name in (weight_method, activation_method):
        method_named(name)  # raises for one that is not there, before any work
    if not 2 <= lowest <= highest <= WIDEST:
        raise PlanError(f"expected widths with 2 <= lowest <= highest <= {WIDEST}, got {lowest} and {highest}")
    if other_bits is not None and not 2 <= other_bits <= WIDEST:
        raise PlanError(f"other_bits: expected 2 to {WIDEST} bits, got {other_bits}")
    if other_bits is not None and len(kinds) == len(KINDS):
        raise PlanError("other_bits: weights and outputs are both searched, so there is no other kind")
    if target is not None and target.measure in ("top1_loss", "top5_loss") and data.labels is None:
        raise DataError("the target needs labels, and the data has none", hint="--labels")
    if target is not None and target.measure == "metric_loss" and metric is None:
        raise DataError("the target needs a metric", hint="--metric")
    if stats is not None:
        stats.check(net)
        fold_bn, act_placement = stats.fold_bn, stats.act_placement
    trials = Trials(
        net,
        data,
        fold_bn=fold_bn,
        act_placement=act_placement,
        round_bias=round_bias,
        rounding=rounding,
        seed=seed,
        output=output,
        metric=metric,
        record=record,
        engine=engine,
        progress=progress,
    )
    if target is not None:
        target.met(trials.baseline, trials.baseline)  # what it needs and is not there is said before any work
    if stats is None:
        stats = calibrate(net, data, fold_bn=fold_bn, act_placement=act_placement)
    tensors = layer_tensors(net, stats, round_bias=round_bias, round_output=round_output)
    table = FormatTable(
        tensors, stats.images, weight_method=weight_method, activation_method=activation_method, dialect=dialect
    )
    asked = [part for part in table.parts if part.kind in kinds]
    parts = [part for part in asked if trials.matters(part)]
    if len(parts) < len(asked):
        left = ", ".join(dict.fromkeys(part.layer for part in asked if part not in parts))
        text = f"{trials.output} does not depend on {left}, which the search leaves in full precision"
        warnings.warn(text, LpcaffeWarning, stacklevel=2)
    fixed = {} if other_bits is None else {part: other_bits for part in table.parts if part.kind not in kinds}
    if not parts:
        raise PlanError("no layer has anything to give a width to")
    problem = Problem(trials, table, parts, lowest, highest, target, fixed, budgets or {})
    widths: Widths = {**fixed, **STRATEGIES[strategy](problem)}
    found = next(point for point in reversed(problem.points) if point.widths == widths)
    layers = layer_plans({name: layer.type for name, layer in tensors.items()}, table.formats(widths))
    plan = BitPlan(
        layers,
        network=net.name,
        sha256=net.sha256,
        dialect=dialect,
        rounding=rounding,
        seed=seed,
        round_bias=round_bias,
        fold_bn=fold_bn,
        act_placement=act_placement,
    )
    return SearchReport(
        plan, strategy, target, trials.baseline, found, problem.whole, trials.run, trials.reused, data.source
    )


def _kinds(strategy: str, target: Target | None, budgets: Mapping[str, int], only: str | None) -> tuple[str, ...]:
    """The kinds of parts that are searched. PlanError when strategy, target, budgets and `only` do not go together."""
    if strategy not in STRATEGIES:
        raise PlanError(f"there is no search strategy {strategy!r}", hint=f"known are {', '.join(sorted(STRATEGIES))}")
    if only not in (None, *KINDS):
        raise PlanError(f"expected only: weights or output, got {only!r}")
    if unknown := [kind for kind in budgets if kind not in KINDS]:
        raise PlanError(f"expected budgets for weights or output, got {unknown[0]!r}")
    if (strategy == "budget") != bool(budgets):
        got = f"strategy {strategy} and {'a' if budgets else 'no'} budget"
        raise PlanError(f"budgets and strategy budget need each other, got {got}")
    if strategy != "budget" and target is None:
        raise PlanError(
            f"strategy {strategy} needs a target", hint="--max-loss, --min-agreement, --min-sqnr or --max-metric-loss"
        )
    if budgets and only is not None and set(budgets) != {only}:
        raise PlanError(f"only {only} is searched, and there is a budget for {' and '.join(budgets)}")
    return tuple(budgets) if budgets else KINDS if only is None else (only,)
