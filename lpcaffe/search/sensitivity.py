"""Sensitivity: what each site costs by itself, at each width.

Every site (the weights of a layer, or its output) is rounded in isolation, with everything else in full precision, and
the error of the deciding output is measured. It shows where bits are needed before any search is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lpcaffe.calibration import Progress
from lpcaffe.errors import PlanError
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.decibels import rounded_db
from lpcaffe.quant.sites import Site
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import ROLES, FormatTable
from lpcaffe.search.trials import Trials

# The widths measured by default. Two bits are the fewest of a signed format.
WIDTHS = range(2, 9)


@dataclass(frozen=True)
class Row:
    """One site: its format and its score at each width."""

    site: Site
    values: int
    formats: Sequence[NumberFormat]
    scores: Sequence[Score]


@dataclass(frozen=True)
class Sensitivity:
    """A row for each site, in the order of the network, with a column for each width."""

    network: str
    source: str
    output: str
    engine: str
    widths: Sequence[int]
    baseline: Score
    rows: Sequence[Row]

    @property
    def worst(self) -> list[Site]:
        """For each width, the site with the most noise: the one to spare first."""
        columns = range(len(self.widths))
        return [max(self.rows, key=lambda row: row.scores[column].noise).site for column in columns]

    def to_json(self) -> dict[str, Any]:
        """Plain values. An sqnr_db of null means no error at all, or no signal."""
        return {
            "version": 1,
            "network": self.network,
            "data": {"images": self.baseline.images, "source": self.source},
            "output": self.output,
            "engine": self.engine,
            "widths": list(self.widths),
            "baseline": _figures(self.baseline),
            "parts": [
                {
                    "layer": row.site.layer,
                    "type": row.site.type,
                    "kind": row.site.role,
                    "values": row.values,
                    "formats": [str(fmt) for fmt in row.formats],
                    "scores": [_figures(score) for score in row.scores],
                }
                for row in self.rows
            ],
            "worst": [{"layer": site.layer, "kind": site.role} for site in self.worst],
        }


def _figures(score: Score) -> dict[str, Any]:
    return {
        "sqnr_db": rounded_db(score.sqnr_db),
        "agreement": score.agreement,
        "top1": score.top1,
        "top5": score.top5,
        "metric": score.metric,
    }


def sensitivity(
    trials: Trials,
    table: FormatTable,
    *,
    widths: Iterable[int] = WIDTHS,
    only: str | None = None,
    progress: Progress | None = None,
) -> Sensitivity:
    """Measure every site in isolation at each width, in the order of the network, so that nothing is computed twice.

    `only` is a kind of sites, "weights" or "output". `progress(done, total)` counts sites. Raises PlanError when there
    is nothing to measure.
    """
    widths = list(widths)
    if only not in (None, *ROLES):
        raise PlanError(f"expected only: weights or output, got {only!r}")
    sites = [site for site in table.sites if only in (None, site.role)]
    if not sites or not widths:
        raise PlanError(f"there is no {'site' if widths else 'width'} to measure")
    rows = []
    for site in sites:
        formats = [table(site, width) for width in widths]
        rows.append(Row(site, table.sizes[site], formats, trials.isolated(site, formats)))
        if progress:
            progress(len(rows), len(sites))
    return Sensitivity(trials.net.name, trials.source, trials.output, trials.engine, widths, trials.baseline, rows)
