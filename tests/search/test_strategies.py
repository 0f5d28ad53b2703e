"""The strategies against a network whose noise is known: that of a part falls by 4 for each bit, and noises add up."""

import itertools
from dataclasses import dataclass, field

import pytest

from lpcaffe.errors import PlanError, TargetNotReached
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.search.budget import budget, spend
from lpcaffe.search.greedy import greedy
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import Part, average_bits
from lpcaffe.search.ristretto import ristretto
from lpcaffe.search.strategy import Problem
from lpcaffe.search.target import Target

PARTS = (
    Part("conv1", "weights", 50, "Convolution"),
    Part("conv1", "output", 700, "Convolution"),
    Part("conv2", "weights", 900, "Convolution"),
    Part("conv2", "output", 110, "Convolution"),
    Part("ip1", "weights", 4000, "InnerProduct"),
)
LOUDNESS = dict(zip(PARTS, (30.0, 2.0, 5.0, 7.0, 0.5), strict=True))


def table(part, width):
    return QFormat(1, width - 1)


table.formats = lambda widths: {part: table(part, width) for part, width in widths.items()}


@dataclass
class Additive:
    """Trials of the made-up network; the calls are counted."""

    loudness: dict = field(default_factory=lambda: dict(LOUDNESS))
    calls: list = field(default_factory=list)

    baseline = Score(images=10, signal=1000.0, noise=0.0, agreement=1.0, top1=0.9)

    def __call__(self, formats):
        self.calls.append(dict(formats))
        noise = sum(self.loudness[part] * 4.0**-fmt.width for part, fmt in formats.items())
        return Score(images=10, signal=1000.0, noise=noise, agreement=1 - noise, top1=0.9 - noise)

    def alone(self, part, formats):
        scores = [self({part: fmt}) for fmt in formats]
        del self.calls[-len(scores) :]
        return scores


def problem(target, *, parts=PARTS, lowest=2, highest=12, **more):
    return Problem(Additive(), table, parts, lowest, highest, target, **more)


def predicted(widths):
    return sum(LOUDNESS[part] * 4.0**-width for part, width in widths.items())


@pytest.mark.parametrize("loss", [3.0, 0.7, 0.11])
def test_greedy_keeps_the_target_and_has_no_bit_to_spare(loss):
    asked = problem(Target("top1_loss", loss))
    widths = greedy(asked)
    assert 100 * predicted(widths) <= loss
    for part, width in widths.items():
        if width > 2:
            assert 100 * predicted({**widths, part: width - 1}) > loss, part


def test_greedy_is_at_most_a_tenth_of_a_bit_over_the_best_of_all_assignments():
    parts = PARTS[:4]
    loss = 1.3

    def cost(widths):
        return average_bits(widths, "weights") + average_bits(widths, "output")

    every = (dict(zip(parts, each, strict=True)) for each in itertools.product(range(2, 10), repeat=4))
    best = min((widths for widths in every if 100 * predicted(widths) <= loss), key=cost)
    found = greedy(problem(Target("top1_loss", loss), parts=parts))
    assert cost(best) <= cost(found) <= cost(best) + 0.1


def test_greedy_finds_fewer_bits_than_one_width_for_all():
    found = greedy(problem(Target("sqnr_db", 50.0)))
    uniform = next(w for w in range(2, 13) if predicted(dict.fromkeys(PARTS, w)) <= 1000 * 10**-5.0)
    assert average_bits(found, "weights") < uniform
    assert average_bits(found, "output") <= uniform


def test_every_trial_of_a_whole_assignment_is_on_the_curve():
    asked = problem(Target("agreement", 0.99))
    greedy(asked)
    assert len(asked.points) == len(asked.trials.calls) > 3
    assert all(point.met == (point.score.agreement >= 0.99) for point in asked.points)


def test_fixed_parts_have_their_width_in_every_trial():
    fixed = {PARTS[1]: 8, PARTS[3]: 8}
    weights = [part for part in PARTS if part.kind == "weights"]
    asked = problem(Target("top1_loss", 1.0), parts=weights, fixed=fixed)
    greedy(asked)
    assert all(call[part].width == 8 for call in asked.trials.calls for part in fixed)


def test_ristretto_halves_each_group_alone_and_repairs_the_combination():
    # Alone each group holds at its width; together they miss, and the group that helps most gets bits.
    asked = problem(Target("top1_loss", 100 * 35.0 * 4.0**-4), highest=16)
    widths = ristretto(asked)
    conv, ip, out = widths[PARTS[0]], widths[PARTS[4]], widths[PARTS[1]]
    assert widths == {PARTS[0]: conv, PARTS[2]: conv, PARTS[4]: ip, PARTS[1]: out, PARTS[3]: out}
    alone = [point for point in asked.points if len(point.widths) < len(PARTS)]
    assert {part: point.widths[part] for point in alone for part in point.widths if point.met} == {
        PARTS[0]: 4,
        PARTS[2]: 4,
        PARTS[4]: 2,
        PARTS[1]: 4,
        PARTS[3]: 4,
    }
    assert predicted({PARTS[0]: 4, PARTS[2]: 4, PARTS[4]: 2, PARTS[1]: 4, PARTS[3]: 4}) > 35.0 * 4.0**-4
    assert asked.points[-1].met or any(point.met and point.widths == widths for point in asked.points)
    assert predicted(widths) <= 35.0 * 4.0**-4


@pytest.mark.parametrize("strategy", [greedy, ristretto])
def test_a_target_out_of_reach_says_how_close_it_came(strategy):
    with pytest.raises(TargetNotReached, match=r"top-1 lost, points <= 0, cannot be reached .* has 0\.0002"):
        strategy(problem(Target("top1_loss", 0.0), highest=12))


@pytest.mark.parametrize("bits", [5 * 4950 + 13, 3 * 4950, 2 * 4950, 9 * 4950])
def test_budget_is_kept_and_close_to_the_best_of_all_assignments(bits):
    weights = [part for part in PARTS if part.kind == "weights"]
    asked = problem(None, parts=weights, budgets={"weights": bits}, highest=14)
    widths = budget(asked)

    def used(widths):
        return sum(part.size * width for part, width in widths.items())

    every = (dict(zip(weights, each, strict=True)) for each in itertools.product(range(2, 15), repeat=3))
    best = min(predicted(each) for each in every if used(each) <= bits)
    assert used(widths) <= bits
    assert best <= predicted(widths) <= 1.2 * best
    for part, width in widths.items():  # nothing is left over that a part could use
        assert width == min(14, bits // 4950 + 4) or used(widths) + part.size > bits


def test_spending_skips_a_width_that_is_worse_than_a_smaller_one():
    part = PARTS[0]
    assert spend([part], {part: {2: 1.0, 3: 0.5, 4: 0.6}}, 50 * 4) == {part: 3}


def test_a_budget_below_the_lowest_width_is_an_error():
    asked = problem(None, parts=[PARTS[4]], budgets={"weights": 7999})
    with pytest.raises(PlanError, match=r"7,999 bits are less than 2 for each of the 4,000 values"):
        budget(asked)


def test_a_budget_with_a_target_that_it_misses():
    asked = problem(Target("top1_loss", 0.001), parts=[PARTS[0]], budgets={"weights": 150})
    with pytest.raises(TargetNotReached):
        budget(asked)
