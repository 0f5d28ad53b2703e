"""The strategies against a network whose noise is known: that of a site falls by 4 for each bit, and noises add up."""

import itertools
from dataclasses import dataclass, field

import pytest

from lpcaffe.errors import PlanError, TargetNotReached
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.sites import Site
from lpcaffe.search.budget import budget, spend
from lpcaffe.search.greedy import greedy
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.ristretto import ristretto
from lpcaffe.search.strategy import Problem
from lpcaffe.search.target import Target

SIZES = {
    Site("conv1", "weights", "Convolution"): 50,
    Site("conv1", "output", "Convolution"): 700,
    Site("conv2", "weights", "Convolution"): 900,
    Site("conv2", "output", "Convolution"): 110,
    Site("ip1", "weights", "InnerProduct"): 4000,
}
SITES = tuple(SIZES)
WEIGHTS = [site for site in SITES if site.role == "weights"]
LOUDNESS = dict(zip(SITES, (30.0, 2.0, 5.0, 7.0, 0.5), strict=True))


class Table(FormatTable):
    """The table of the made-up network: sizes that are given, and Q1.f at every width."""

    def __init__(self):
        self.sites, self.sizes = SITES, SIZES

    def __call__(self, site, width):
        return QFormat(1, width - 1)


average_bits = Table().average_bits


@dataclass
class Additive:
    """Trials of the made-up network; the calls are counted."""

    loudness: dict = field(default_factory=lambda: dict(LOUDNESS))
    calls: list = field(default_factory=list)

    baseline = Score(images=10, signal=1000.0, noise=0.0, agreement=1.0, top1=0.9)

    def __call__(self, formats):
        self.calls.append(dict(formats))
        noise = sum(self.loudness[site] * 4.0**-fmt.width for site, fmt in formats.items())
        return Score(images=10, signal=1000.0, noise=noise, agreement=1 - noise, top1=0.9 - noise)

    def isolated(self, site, formats):
        scores = [self({site: fmt}) for fmt in formats]
        del self.calls[-len(scores) :]
        return scores


def problem(target, *, sites=SITES, lowest=2, highest=12, **more):
    return Problem(Additive(), Table(), sites, lowest, highest, target, **more)


def predicted(widths):
    return sum(LOUDNESS[site] * 4.0**-width for site, width in widths.items())


@pytest.mark.parametrize("loss", [3.0, 0.7, 0.11])
def test_greedy_keeps_the_target_and_has_no_bit_to_spare(loss):
    asked = problem(Target("top1_loss", loss))
    widths = greedy(asked)
    assert 100 * predicted(widths) <= loss
    for site, width in widths.items():
        if width > 2:
            assert 100 * predicted({**widths, site: width - 1}) > loss, site


def test_greedy_is_at_most_a_tenth_of_a_bit_over_the_best_of_all_assignments():
    sites = SITES[:4]
    loss = 1.3

    def cost(widths):
        return average_bits(widths, "weights") + average_bits(widths, "output")

    every = (dict(zip(sites, each, strict=True)) for each in itertools.product(range(2, 10), repeat=4))
    best = min((widths for widths in every if 100 * predicted(widths) <= loss), key=cost)
    found = greedy(problem(Target("top1_loss", loss), sites=sites))
    assert cost(best) <= cost(found) <= cost(best) + 0.1


def test_greedy_finds_fewer_bits_than_one_width_for_all():
    found = greedy(problem(Target("sqnr_db", 50.0)))
    uniform = next(w for w in range(2, 13) if predicted(dict.fromkeys(SITES, w)) <= 1000 * 10**-5.0)
    assert average_bits(found, "weights") < uniform
    assert average_bits(found, "output") <= uniform


def test_every_trial_of_a_whole_assignment_is_on_the_curve():
    asked = problem(Target("agreement", 0.99))
    greedy(asked)
    assert len(asked.points) == len(asked.trials.calls) > 3
    assert all(point.met == (point.score.agreement >= 0.99) for point in asked.points)


def test_fixed_sites_have_their_width_in_every_trial():
    fixed = {SITES[1]: 8, SITES[3]: 8}
    asked = problem(Target("top1_loss", 1.0), sites=WEIGHTS, fixed=fixed)
    greedy(asked)
    assert all(call[site].width == 8 for call in asked.trials.calls for site in fixed)


def test_ristretto_halves_each_group_alone_and_repairs_the_combination():
    # Alone each group holds at its width; together they miss, and the group that helps most gets bits.
    asked = problem(Target("top1_loss", 100 * 35.0 * 4.0**-4), highest=16)
    widths = ristretto(asked)
    conv, ip, out = widths[SITES[0]], widths[SITES[4]], widths[SITES[1]]
    assert widths == {SITES[0]: conv, SITES[2]: conv, SITES[4]: ip, SITES[1]: out, SITES[3]: out}
    alone = [point for point in asked.points if len(point.widths) < len(SITES)]
    assert {site: point.widths[site] for point in alone for site in point.widths if point.met} == {
        SITES[0]: 4,
        SITES[2]: 4,
        SITES[4]: 2,
        SITES[1]: 4,
        SITES[3]: 4,
    }
    assert predicted({SITES[0]: 4, SITES[2]: 4, SITES[4]: 2, SITES[1]: 4, SITES[3]: 4}) > 35.0 * 4.0**-4
    assert asked.points[-1].met or any(point.met and point.widths == widths for point in asked.points)
    assert predicted(widths) <= 35.0 * 4.0**-4


@pytest.mark.parametrize("strategy", [greedy, ristretto])
def test_a_target_out_of_reach_says_how_close_it_came(strategy):
    with pytest.raises(TargetNotReached, match=r"top-1 lost, points <= 0, cannot be reached .* has 0\.0002"):
        strategy(problem(Target("top1_loss", 0.0), highest=12))


@pytest.mark.parametrize("bits", [5 * 4950 + 13, 3 * 4950, 2 * 4950, 9 * 4950])
def test_budget_is_kept_and_close_to_the_best_of_all_assignments(bits):
    asked = problem(None, sites=WEIGHTS, budgets={"weights": bits}, highest=14)
    widths = budget(asked)

    def used(widths):
        return sum(SIZES[site] * width for site, width in widths.items())

    every = (dict(zip(WEIGHTS, each, strict=True)) for each in itertools.product(range(2, 15), repeat=3))
    best = min(predicted(each) for each in every if used(each) <= bits)
    assert used(widths) <= bits
    assert best <= predicted(widths) <= 1.2 * best
    for site, width in widths.items():  # nothing is left over that a site could use
        assert width == min(14, bits // 4950 + 4) or used(widths) + SIZES[site] > bits


def test_spending_skips_a_width_that_is_worse_than_a_smaller_one():
    site = SITES[0]
    assert spend(SIZES, {site: {2: 1.0, 3: 0.5, 4: 0.6}}, 50 * 4) == {site: 3}


def test_a_budget_below_the_lowest_width_is_an_error():
    asked = problem(None, sites=[SITES[4]], budgets={"weights": 7999})
    with pytest.raises(PlanError, match=r"7,999 bits are less than 2 for each of the 4,000 values"):
        budget(asked)


def test_a_budget_with_a_target_that_it_misses():
    asked = problem(Target("top1_loss", 0.001), sites=[SITES[0]], budgets={"weights": 150})
    with pytest.raises(TargetNotReached):
        budget(asked)
