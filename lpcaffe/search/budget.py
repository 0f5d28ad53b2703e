"""Search for the least noise with a given number of bits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from lpcaffe.errors import PlanError
from lpcaffe.quant.sites import Site
from lpcaffe.search.strategy import Problem, Widths

# How far above the average of the budget a site is measured.
ABOVE = 4


def budget(problem: Problem) -> Widths:
    """Spread a number of bits over the sites of a kind so that the sum of their noises is least.

    The error curve of a site is the noise at the output when it alone has w bits, w from `lowest` to ABOVE bits over
    the budget's average. For a multiplier L each site takes the w that minimises noise + L * size * w; L is the
    smallest with which the budget is kept (Shoham and Gersho 1988). That reaches the corners of the convex
    hull only, so what is left of the budget then goes, bit by bit, where it takes away most noise for its size.

    Weights and outputs have budgets of their own. Raises PlanError for a budget below `lowest` bits for every value,
    TargetNotReached when a target was given too and is missed.
    """
    widths: Widths = {}
    for kind, bits in problem.budgets.items():
        sites = [site for site in problem.sites if site.role == kind]
        values = sum(problem.table.sizes[site] for site in sites)
        if bits < problem.lowest * values:
            raise PlanError(
                f"{bits:,} bits are less than {problem.lowest} for each of the {values:,} values of {kind}, which are "
                f"{problem.lowest * values:,}"
            )
        top = min(problem.highest, bits // max(values, 1) + ABOVE)
        curves = {site: _curve(problem, site, top) for site in sites}
        widths |= spend(problem.table.sizes, curves, bits)
    if problem.try_widths(widths).met is False:
        raise problem.not_reached()
    return widths


def _curve(problem: Problem, site: Site, top: int) -> dict[int, float]:
    return {width: problem.isolated(site, width).noise for width in range(top, problem.lowest - 1, -1)}


def spend(sizes: Mapping[Site, int], curves: Mapping[Site, Mapping[int, float]], bits: int) -> Widths:
    """Widths whose bits in all do not exceed `bits`, with the least sum of noise that the method finds.

    `sizes` are numbers of values, `curves` the noise of each site by width.
    """

    def least(price: float) -> Widths:
        return {
            site: min(sorted(curves[site]), key=lambda width: curves[site][width] + price * sizes[site] * width)
            for site in curves
        }

    def used(widths: Widths) -> int:
        return sum(sizes[site] * width for site, width in widths.items())

    # Only at these prices does a site change its mind.
    slopes = {
        (curve[few] - curve[many]) / (sizes[site] * (many - few))
        for site, curve in curves.items()
        for few in curve
        for many in curve
        if few < many
    }
    prices = [0.0, *(math.nextafter(slope, math.inf) for slope in sorted(slopes) if slope > 0)]
    widths = least(prices[bisect_left(prices, True, key=lambda price: used(least(price)) <= bits)])
    while True:
        gains = {
            (site, width): (curves[site][widths[site]] - curves[site][width]) / (sizes[site] * (width - widths[site]))
            for site in curves
            for width in curves[site]
            if width > widths[site] and used(widths) + sizes[site] * (width - widths[site]) <= bits
        }
        site, width = max(gains, key=lambda key: gains[key], default=(None, 0))
        if site is None or gains[site, width] <= 0:
            return widths
        widths[site] = width
