"""ACIQ: the multipliers, the published tables, and the choice between two ranges."""

import math

import numpy as np
import pytest

from lpcaffe.allocation import Tensor, aciq_gauss, aciq_laplace, method_named
from lpcaffe.allocation.clipping import clip_value
from lpcaffe.calibration import TensorStats
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat

# Bits, exact alpha / b and alpha / std, their least errors; computed with 30 digits (mpmath).
EXACT = [
    (0, 1.049909, 0.765775, 1.06738, 0.443810),
    (1, 1.862817, 1.239905, 0.599643, 0.215010),
    (2, 2.830683, 1.710635, 0.284878, 0.0871485),
    (3, 3.897229, 2.151593, 0.119702, 0.0314294),
    (4, 5.028640, 2.559136, 0.0460215, 0.0104933),
    (5, 6.204766, 2.936201, 0.0165718, 0.00332259),
    (6, 7.413126, 3.286914, 0.00567877, 0.00101292),
    (7, 8.645620, 3.615114, 0.00187252, 0.000300215),
    (8, 9.896760, 3.924035, 0.000598853, 0.0000870779),
]
# Verbatim from the paper's code.
PAPER = {
    aciq_gauss: (
        [None, 1.24, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92],
        [None, 1.71, 2.15, 2.55, 2.93, 3.28, 3.61, 3.92, 4.2],
    ),
    aciq_laplace: (
        [1.05, 1.86, 2.83, 3.89, 5.03, 6.2, 7.41, 8.64, 9.89],
        [1.86, 2.83, 3.89, 5.02, 6.2, 7.41, 8.64, 9.89, 11.16],
    ),
}
METHODS = {aciq_laplace: "aciq-laplace", aciq_gauss: "aciq-gauss"}


def closed_form(module, alpha, bits):
    """The expected squared error for b = 1 or std = 1 as the paper states it."""
    rounding = alpha**2 / (3 * 4.0**bits)
    if module is aciq_laplace:
        return 2 * math.exp(-alpha) + rounding
    clipping = (1 + alpha**2) * math.erfc(alpha / math.sqrt(2))
    return clipping - math.sqrt(2 / math.pi) * alpha * math.exp(-(alpha**2) / 2) + rounding


def integrated_tail(module, t, scale):
    """The integral of (x - t)^2 over x > t, by the trapezoidal rule."""
    x = np.linspace(t, max(t, 0) + 45 * scale, 400_001)
    z = x / scale
    density = np.exp(-np.abs(z)) / 2 if module is aciq_laplace else np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return float(np.trapezoid((x - t) ** 2 * density / scale, x))


@pytest.mark.parametrize("row", EXACT)
def test_the_multipliers_and_their_errors_to_six_digits(row):
    bits, laplace, gauss, laplace_error, gauss_error = row
    for module, alpha, error in ((aciq_laplace, laplace, laplace_error), (aciq_gauss, gauss, gauss_error)):
        found = module.multiplier(bits)
        assert round(found, 6) == alpha
        assert float(f"{closed_form(module, found, bits):.6g}") == error
        assert float(f"{2 * module.tail(found, 1.0) + found**2 / (3 * 4.0**bits):.6g}") == error


@pytest.mark.parametrize("bits", range(27))
def test_the_multipliers_solve_their_equations(bits):
    alpha = aciq_laplace.multiplier(bits)
    assert alpha * math.exp(alpha) == pytest.approx(3 * 4.0**bits, rel=1e-13)
    assert 2 * alpha / (3 * 4.0**bits) == pytest.approx(2 * math.exp(-alpha), rel=1e-13)
    for module in METHODS:
        # The error is flat at its least and larger on both sides.
        alpha = module.multiplier(bits)
        sides = [closed_form(module, alpha * factor, bits) for factor in (0.999, 1, 1.001)]
        assert sides[1] < min(sides[0], sides[2])


@pytest.mark.parametrize("bits", range(25))
def test_the_half_range_has_the_multiplier_of_one_bit_more(bits):
    for module in METHODS:
        assert module.multiplier(bits, half_range=True) == module.multiplier(bits + 1)
    # Derived from its own error, b^2 e^(-alpha / b) + alpha^2 / (24 4^bits).
    alpha = aciq_laplace.multiplier(bits, half_range=True)
    assert math.exp(-alpha) == pytest.approx(alpha / (12 * 4.0**bits), rel=1e-13)


@pytest.mark.parametrize("module", METHODS)
def test_the_published_tables(module):
    for half, table in zip((False, True), PAPER[module], strict=True):
        for bits, value in enumerate(table):
            if value is None:
                with pytest.raises(PlanError, match="table of aciq-gauss has 1 to 8 bits, got 0"):
                    module.multiplier(bits, half, constants="paper")
            else:
                assert module.multiplier(bits, half, constants="paper") == value
                assert value == pytest.approx(module.multiplier(bits, half), abs=0.017)
        with pytest.raises(PlanError, match=r"to 8 bits, got 9; aciq-.* without :paper has every width"):
            module.multiplier(9, half, constants="paper")


@pytest.mark.parametrize("module", METHODS)
@pytest.mark.parametrize("t", [-7.0, -0.5, 0.0, 0.3, 4.0])
def test_the_tail_is_its_integral(module, t):
    assert module.tail(t, 1.7) == pytest.approx(integrated_tail(module, t, 1.7), rel=1e-6)
    assert module.tail(-1e30, 1e-3) == pytest.approx(1e60)
    assert module.tail(1e30, 1e-3) == 0


def laplace_quantiles(b, mean=0.0, n=4_000):
    u = (np.arange(n) + 0.5) / n
    return (mean + b * np.where(u < 0.5, np.log(2 * u), -np.log(2 * (1 - u)))).astype(np.float32)


def gauss_sample(std, mean=0.0):
    return np.random.default_rng(4).normal(mean, std, 20_000).astype(np.float32)


SAMPLES = {aciq_laplace: laplace_quantiles, aciq_gauss: gauss_sample}


@pytest.mark.parametrize("module", METHODS)
@pytest.mark.parametrize("width", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("scale", [0.3, 0.41, 0.55, 0.75])
def test_of_the_two_ranges_next_to_the_clip_the_one_of_smaller_expected_error(module, width, scale):
    values = SAMPLES[module](scale)
    stats = TensorStats.of(values)
    deviation = stats.mean_abs_dev if module is aciq_laplace else stats.std
    clip = min(abs(stats.mean) + deviation * module.multiplier(width), stats.abs_max)
    below = math.floor(math.log2(clip))
    assert 2.0**below < clip < 2.0 ** (below + 1)
    by_error = {bits: closed_form(module, 2.0**bits / deviation, width) for bits in (below, below + 1)}
    expected = min(by_error, key=by_error.get) + 1
    assert method_named(METHODS[module])(Tensor("output", stats), width) == QFormat(expected, width - expected)
    # Where a ReLU follows, the range is the same for values around 0.
    half = Tensor("output", stats, rectified=stats.rectified())
    assert method_named(METHODS[module])(half, width) == QFormat(expected, width - expected)


def test_both_neighbours_are_chosen_somewhere():
    b_to_bd = {}
    for b in (0.55, 0.6, 0.7, 0.8, 0.9):
        tensor = Tensor("weights", TensorStats.of(laplace_quantiles(b)))
        clip = clip_value(tensor, tensor.stats.mean_abs_dev * aciq_laplace.multiplier(4))
        b_to_bd[b] = method_named("aciq-laplace")(tensor, 4).bd - 1 - math.floor(math.log2(clip))
    assert set(b_to_bd.values()) == {0, 1}


def test_the_expected_error_is_that_of_rounding_such_values():
    values = laplace_quantiles(1.0, n=100_000)
    stats = TensorStats.of(values)
    for fmt in (QFormat(2, 7), QFormat(3, 6)):
        limit = 2.0 ** (fmt.bd - 1)
        assert stats.squared_error(fmt) / stats.count == pytest.approx(closed_form(aciq_laplace, limit, 9), rel=0.03)


def test_the_reach_is_from_the_mean_outwards_and_no_further_than_what_was_seen():
    for mean in (-2.0, 0.0, 2.0):
        stats = TensorStats.of(laplace_quantiles(0.25, mean))
        full, half = Tensor("output", stats), Tensor("output", stats, rectified=stats.rectified())
        assert clip_value(full, 1.0) == pytest.approx(abs(mean) + 1, abs=1e-4)
        assert clip_value(half, 0.2) == pytest.approx(min(max(mean, 0) + 0.2, stats.max), abs=1e-4)
        assert clip_value(full, 99.0) == stats.abs_max
        assert clip_value(half, 99.0) == stats.max
    leaky = Tensor("output", stats, rectified=TensorStats.of(np.array([-0.1, 2.0], np.float32)))
    assert clip_value(leaky, 99.0) == stats.abs_max


def test_a_light_tail_is_never_given_more_than_the_method_max():
    values = np.random.default_rng(2).uniform(-0.99, 0.99, 3_000).astype(np.float32)
    tensor = Tensor("weights", TensorStats.of(values))
    for name in METHODS.values():
        for width in (4, 8, 16):
            assert method_named(name)(tensor, width).bd <= method_named("max")(tensor, width).bd


def test_a_shifted_mean_counts_on_the_side_of_the_relu():
    stats = TensorStats.of(laplace_quantiles(0.25, -0.6))
    full, half = Tensor("output", stats), Tensor("output", stats, rectified=stats.rectified())
    # Below, |mean| + 9.9 b exceeds 2.6, the largest seen; above, 1.5 is the largest seen.
    assert method_named("aciq-laplace")(full, 8) == QFormat(3, 5)
    assert method_named("aciq-laplace")(half, 8) == QFormat(2, 6)


def test_what_the_relu_removes_whole_counts_as_zeros():
    stats = TensorStats.of(laplace_quantiles(0.25, -6.0))
    for name in (*METHODS.values(), "nstd"):
        assert method_named(name)(Tensor("output", stats, rectified=stats.rectified()), 8) == QFormat(1, 7)


def test_the_published_constants_end_at_8_bits_and_at_9_after_a_relu():
    stats = TensorStats.of(laplace_quantiles(1.0))
    full, half = Tensor("output", stats), Tensor("output", stats, rectified=stats.rectified())
    for name in METHODS.values():
        choose = method_named(f"{name}:paper")
        assert choose(full, 8) == method_named(name)(full, 8)
        assert choose(half, 9) == method_named(name)(half, 9)
        for tensor, width, bits in ((full, 9, 9), (half, 10, 9)):
            with pytest.raises(PlanError, match=f"the published table of {name} has . to 8 bits, got {bits}"):
                choose(tensor, width)
