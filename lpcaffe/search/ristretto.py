"""Search as Ristretto does it: three groups of sites, by halving."""

from __future__ import annotations

from collections.abc import Sequence

from lpcaffe.quant.sites import Site
from lpcaffe.search.strategy import Point, Problem, Widths


def ristretto(problem: Problem) -> Widths:
    """One width for the weights of convolutions, one for those of inner products, one for all outputs.

    As `ristretto quantize` in mode dynamic_fixed_point (Gysel 2016): each group alone at 16, 8, 4, 2 bits, everything
    else in full precision, down to the last width that keeps the target. Then the combination is tried; Ristretto stops
    there. Here it is repaired when it misses the target: the group gets one more bit that brings it closest, until it
    holds. Raises TargetNotReached when it does not hold with all groups at `highest` bits.
    """
    by_group: dict[str, list[Site]] = {}
    for site in problem.sites:
        by_group.setdefault(site.type if site.role == "weights" else "output", []).append(site)
    groups = list(by_group.values())
    halved = [width for width in (16, 8, 4, 2) if problem.lowest <= width < problem.highest]
    chosen = []
    for group in groups:
        best = problem.highest
        for width in halved:
            if not problem.holds(dict.fromkeys(group, width)):
                break
            best = width
        chosen.append(best)
    point = problem.try_widths(_combined(groups, chosen))
    while not point.met:
        tried: list[tuple[Point, list[int]]] = []
        for i, width in enumerate(chosen):
            if width < problem.highest:
                raised = [*chosen[:i], width + 1, *chosen[i + 1 :]]
                tried.append((problem.try_widths(_combined(groups, raised)), raised))
        if not tried:
            raise problem.not_reached()
        point, chosen = min(tried, key=lambda pair: problem.shortfall(pair[0]))
    return _combined(groups, chosen)


def _combined(groups: Sequence[Sequence[Site]], widths: Sequence[int]) -> Widths:
    return {site: width for group, width in zip(groups, widths, strict=True) for site in group}
