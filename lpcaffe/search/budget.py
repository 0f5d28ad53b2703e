"""Search for the least noise with a given number of bits."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

from lpcaffe.errors import PlanError
from lpcaffe.search.parts import Part
from lpcaffe.search.strategy import Problem, Widths

# How far above the average of the budget a part is measured.
ABOVE = 4


def budget(problem: Problem) -> Widths:
    """HistogramDensity a number of bits over the parts of a kind so that the sum of their noises is least.

    The error curve of a part is the noise at the output when it alone has w bits, w from `lowest` to ABOVE bits over
    the budget's average. For a multiplier L each part takes the w that minimises noise + L * size * w; L is the
    smallest with which the budget is kept (Shoham and Gersho 1988). That reaches the corners of the convex
    hull only, so what is left of the budget then goes, bit by bit, where it takes away most noise for its size.

    Weights and outputs have budgets of their own. Raises PlanError for a budget below `lowest` bits for every value,
    TargetNotReached when a target was given too and is missed.
    """
    widths: Widths = {}
    for kind, bits in problem.budgets.items():
        parts = [part for part in problem.parts if part.kind == kind]
        values = sum(part.size for part in parts)
        if bits < problem.lowest * values:
            raise PlanError(
                f"{bits:,} bits are less than {problem.lowest} for each of the {values:,} values of {kind}, which are "
                f"{problem.lowest * values:,}"
            )
        top = min(problem.highest, bits // max(values, 1) + ABOVE)
        curves = {part: _curve(problem, part, top) for part in parts}
        widths |= spend(parts, curves, bits)
    if problem.try_widths(widths).met is False:
        raise problem.not_reached()
    return widths


def _curve(problem: Problem, part: Part, top: int) -> dict[int, float]:
    return {width: problem.alone(part, width).noise for width in range(top, problem.lowest - 1, -1)}


def spend(parts: Sequence[Part], curves: Mapping[Part, Mapping[int, float]], bits: int) -> Widths:
    """Widths whose bits in all do not exceed `bits`, with the least sum of noise that the method finds."""

    def least(price: float) -> Widths:
        return {
            part: min(sorted(curves[part]), key=lambda width: curves[part][width] + price * part.size * width)
            for part in parts
        }

    def used(widths: Widths) -> int:
        return sum(part.size * width for part, width in widths.items())

    # Only at these prices does a part change its mind.
    slopes = {
        (curve[few] - curve[many]) / (part.size * (many - few))
        for part, curve in curves.items()
        for few in curve
        for many in curve
        if few < many
    }
    prices = [0.0, *(math.nextafter(slope, math.inf) for slope in sorted(slopes) if slope > 0)]
    widths = least(prices[bisect_left(prices, True, key=lambda price: used(least(price)) <= bits)])
    while True:
        gains = {
            (part, width): (curves[part][widths[part]] - curves[part][width]) / (part.size * (width - widths[part]))
            for part in parts
            for width in curves[part]
            if width > widths[part] and used(widths) + part.size * (width - widths[part]) <= bits
        }
        part, width = max(gains, key=lambda key: gains[key], default=(None, 0))
        if part is None or gains[part, width] <= 0:
            return widths
        widths[part] = width
