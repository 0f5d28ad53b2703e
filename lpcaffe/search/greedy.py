"""Search site by site: the bit that costs least goes first."""

from __future__ import annotations

from collections.abc import Mapping

from lpcaffe.quant.sites import Site
from lpcaffe.search.strategy import Problem, Widths

# How far above the smallest uniform width that holds the target the search starts.
HEADROOM = 2


def greedy(problem: Problem) -> Widths:
    """Take bits away where it costs least by measured sensitivity, as far as the target holds.

    1. The smallest width that holds the target for all sites alike, by bisection. The search starts HEADROOM above.
    2. The noise that each site, isolated, brings to the output at each width below; a site is not measured further down
       than where it misses the target on its own.
    3. A path: the bit that adds the least noise for its share of all values goes first, noise of several sites taken
       as the sum. On it the last step that holds the target, by bisection with real trials.
    4. From there, real trials of one bit less for each site, cheapest first; a site that fails keeps its width.
    5. Exchanges: one bit less for a site, and more for small ones until the sum of noises is below that of every trial
       that failed, where it saves bits and a real trial holds.

    Raises TargetNotReached.
    """
    uniform = _smallest_uniform(problem)
    start = min(uniform + HEADROOM, problem.highest)
    noise = {site: _isolated_noise(problem, site, start) for site in problem.sites}
    path = _path(problem, noise, start)
    if not problem.holds(path[0]):
        path[0] = dict.fromkeys(problem.sites, uniform)
    holds, misses = 0, len(path)
    while misses - holds > 1:
        middle = (holds + misses) // 2
        if problem.holds(path[middle]):
            holds = middle
        else:
            misses = middle
    return _exchange(problem, noise, _descend(problem, noise, path[holds]))


def _smallest_uniform(problem: Problem) -> int:
    if not problem.holds(dict.fromkeys(problem.sites, problem.highest)):
        raise problem.not_reached()
    misses, holds = problem.lowest - 1, problem.highest
    while holds - misses > 1:
        middle = (holds + misses) // 2
        if problem.holds(dict.fromkeys(problem.sites, middle)):
            holds = middle
        else:
            misses = middle
    return holds


def _isolated_noise(problem: Problem, site: Site, start: int) -> dict[int, float]:
    """The noise of one site by width, from `start` down to the last width that holds the target."""
    assert problem.target is not None
    noise: dict[int, float] = {}
    for width in range(start, problem.lowest - 1, -1):
        score = problem.isolated(site, width)
        if noise and not problem.target.met(score, problem.trials.baseline):
            break
        noise[width] = score.noise
    # Not measured above: there one bit more is assumed to leave a quarter, as rounding without saturation does.
    return noise | {width: noise[start] * 4.0 ** (start - width) for width in range(start + 1, problem.highest + 1)}


Noise = Mapping[Site, Mapping[int, float]]


def _share(problem: Problem, site: Site) -> float:
    """What one bit of a site is of the average width of its kind."""
    sizes = problem.table.sizes
    return sizes[site] / sum(sizes[other] for other in problem.sites if other.role == site.role)


def _price(problem: Problem, noise: Noise, site: Site, width: int) -> float:
    """Noise that one bit less than `width` adds, for each bit of average width that it saves."""
    return (noise[site][width - 1] - noise[site][width]) / _share(problem, site)


def _path(problem: Problem, noise: Noise, start: int) -> list[Widths]:
    """Assignments, each one bit less than the one before, from `start` bits everywhere to the smallest measured."""
    widths = dict.fromkeys(problem.sites, start)
    path = [dict(widths)]
    while left := [site for site in problem.sites if widths[site] - 1 in noise[site]]:
        cheapest = min(left, key=lambda site: _price(problem, noise, site, widths[site]))
        widths[cheapest] -= 1
        path.append(dict(widths))
    return path


def _descend(problem: Problem, noise: Noise, widths: Widths) -> Widths:
    """One bit less where the target still holds, until no site has one to give."""
    widths, open_ = dict(widths), set(problem.sites)
    while left := [site for site in problem.sites if site in open_ and widths[site] - 1 in noise[site]]:
        cheapest = min(left, key=lambda site: _price(problem, noise, site, widths[site]))
        if problem.holds({**widths, cheapest: widths[cheapest] - 1}):
            widths[cheapest] -= 1
        else:
            open_.remove(cheapest)
    return widths


def _exchange(problem: Problem, noise: Noise, widths: Widths) -> Widths:
    """Step 5, the site that saves most first; as many trials may fail as there are sites."""
    failures = 0
    for site in sorted(problem.sites, key=lambda site: _share(problem, site), reverse=True):
        while failures < len(problem.sites) and (other := _without_a_bit(problem, noise, widths, site)):
            if problem.holds(other):
                widths = other
            else:
                failures += 1
    return widths


def _without_a_bit(problem: Problem, noise: Noise, widths: Widths, site: Site) -> Widths | None:
    """One bit less for a site, and more where a bit takes away most noise for its share; None if that saves nothing."""
    failed = [point.widths for point in problem.points if not point.met]
    known = [each for each in failed if all(each[p] in noise[p] for p in problem.sites)]
    allowed = min((_sum(noise, each) for each in known), default=0.0)
    changed = {**widths, site: widths[site] - 1}
    saved = _share(problem, site)
    if changed[site] not in noise[site]:
        return None
    while _sum(noise, changed) >= allowed:
        raisable = [
            each
            for each in problem.sites
            if each != site and changed[each] + 1 in noise[each] and _share(problem, each) < saved
        ]
        if not raisable:
            return None
        best = max(raisable, key=lambda each: _price(problem, noise, each, changed[each] + 1))
        changed[best] += 1
        saved -= _share(problem, best)
    return changed


def _sum(noise: Noise, widths: Widths) -> float:
    return sum(noise[site][width] for site, width in widths.items() if site in noise)
