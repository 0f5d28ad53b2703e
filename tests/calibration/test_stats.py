"""TensorStats: merging is exact, whatever the order and the pieces; what is estimated stays within stated bounds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcaffe.calibration import TensorStats
from lpcaffe.calibration import bins as histogram
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(1, 30), elements=floats)
RNG = np.random.default_rng(3)
COUNT = 200_003

DISTRIBUTIONS = {
    "normal": RNG.normal(0.3, 1.7, COUNT),
    "laplace": RNG.laplace(-0.01, 0.02, COUNT),
    "uniform": RNG.uniform(-5, 11, COUNT),
    "heavy": RNG.standard_t(3, COUNT) * 40,
    "rectified": np.maximum(RNG.normal(-1, 2, COUNT), 0),
    "far from zero": RNG.normal(1000, 1, COUNT),
    "pixels": RNG.integers(0, 256, COUNT) - 104.0,
    "rounded": np.round(RNG.normal(0, 1, COUNT) * 64) / 64,
    "constant": np.full(COUNT, 0.1),
    "three values": RNG.choice([-0.37, 0.0, 0.37], COUNT),
}
DISTRIBUTIONS = {name: values.astype(np.float32) for name, values in DISTRIBUTIONS.items()}
each_distribution = pytest.mark.parametrize("values", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS.keys())


def bits_of(x):
    return np.asarray(x, np.float32).view(np.uint32)


def brute_force(values):
    """Every field, value by value."""
    held = {}
    for value in values.tolist():
        bits = int(bits_of(value + 0.0))
        low = bits % 2**18
        bin_ = held.setdefault(bits // 2**18, [0, 0, 0])
        for k, part in enumerate((1, low, ((low + 8) // 16) ** 2)):
            bin_[k] += part
    keys = sorted(held)
    above = [sum(value > 2.0**m - 1 for value in values.tolist()) for m in range(32)]
    columns = np.array([held[key] for key in keys], np.int64).T
    extremes = (min(values.tolist()) + 0.0, max(values.tolist()) + 0.0)
    return TensorStats(len(values), *extremes, np.array(above), np.array(keys, np.uint16), *columns)


@given(arrays)
@example(np.array([-0.0, 0.0, -0.0], np.float32))
@example(np.array([1e-45, -1e-45, 1.1754944e-38, -0.0, 3.4028235e38, -3.4028235e38], np.float32))
def test_every_field_is_that_of_counting_value_by_value(values):
    stats = TensorStats.of(values)
    assert stats == brute_force(values)
    assert stats.abs_max == max(abs(value) for value in values.tolist())
    assert (stats.keys.dtype, stats.counts.dtype, stats.sums.dtype) == (np.uint16, np.int64, np.int64)


@given(arrays, st.lists(st.integers(0, 30), max_size=4), st.randoms())
def test_pieces_in_any_order_add_up_to_the_whole(values, cuts, random):
    pieces = [TensorStats.of(piece) for piece in np.split(values, sorted(cut for cut in cuts if cut <= len(values)))]
    random.shuffle(pieces)
    while len(pieces) > 1:  # and in any nesting
        pieces.append(pieces.pop(random.randrange(len(pieces))) + pieces.pop(random.randrange(len(pieces))))
    assert pieces[0] == TensorStats.of(values)


@pytest.mark.parametrize("size", [histogram._SMALL + 1, histogram._SMALL + 4, histogram._PIECE + 3])
def test_the_compiled_loop_and_numpy_count_the_same(size):
    values = (RNG.standard_cauchy(size) * 5).astype(np.float32)
    values[:5] = -0.0, 3, 7.0000005, -1e-45, 1e-45
    values[-1] = -0.0
    small = sum((TensorStats.of(part) for part in np.array_split(values, size // 3999)), TensorStats())
    assert TensorStats.of(values) == small
    assert TensorStats.of(values.reshape(-1, 1)[::-1]) == small


@pytest.mark.parametrize("padding", [0, 20_000])
def test_counters_are_exact_around_every_power_less_one(padding):
    powers = 2.0 ** np.arange(33)
    edges = np.concatenate([powers - 1, powers, powers - 0.5, -powers]).astype(np.float32)
    values = np.concatenate([edges, np.nextafter(edges, np.float32(np.inf)), np.nextafter(edges, np.float32(-np.inf))])
    values = np.concatenate([values, np.zeros(padding, np.float32)])
    expected = [np.count_nonzero(values.astype(np.float64) > 2.0**m - 1) for m in range(32)]
    assert TensorStats.of(values).exceed_counts.tolist() == expected
    assert len(set(expected)) == 32


def test_nothing_is_neutral_and_does_not_pull_extremes_to_zero():
    stats = TensorStats.of(np.array([3.0, 5.0], np.float32))
    assert TensorStats.of(np.empty((0, 4), np.float32)) == TensorStats()
    assert stats + TensorStats() == TensorStats() + stats == stats
    assert stats.min == 3
    assert stats != TensorStats(2, 3.0, 5.0)
    empty = TensorStats()
    assert (empty.mean, empty.std, empty.mean_abs_dev, empty.kurtosis, empty.signal) == (0, 0, 0, 0, 0)
    assert (empty.quantile(0.5), empty.beyond(1.0), empty.squared_error(QFormat(2, 6))) == (0, 0, 0)
    assert empty.rectified() == empty
    assert empty.histogram(5).tolist() == [0] * 5


def test_nan_and_infinity_show_in_the_extremes_and_survive_merging():
    ones = TensorStats.of(np.ones(2, np.float32))
    stats = TensorStats.of(np.array([1, np.nan, 2], np.float32))
    assert stats.count == 3
    for merged in (stats, stats + ones, ones + stats):
        assert np.isnan([merged.min, merged.max]).all()
    stats = TensorStats.of(np.array([1, np.inf, -np.inf, 2], np.float32))
    assert (stats.min, stats.max) == (-np.inf, np.inf)
    assert stats.exceed_counts[:3].tolist() == [3, 2, 1]


def test_other_data_types_are_read_as_float32():
    values = RNG.normal(size=(7, 5))
    assert TensorStats.of(values) == TensorStats.of(values.astype(np.float32))
    assert TensorStats.of(np.arange(200, dtype=np.uint8)) == TensorStats.of(np.arange(200, dtype=np.float32))
    assert TensorStats.of(1e300 * np.ones(1)).max == np.inf


@given(arrays)
@example(np.array([-3.0, -0.25], np.float32))
@example(np.array([-3.0, 1e-45], np.float32))
def test_rectified_is_that_of_the_rectified_values(values):
    assert TensorStats.of(values).rectified() == TensorStats.of(np.maximum(values, 0))


@each_distribution
def test_moments_are_those_of_float64_but_for_a_hundred_thousandth(values):
    stats, x = TensorStats.of(values), values.astype(np.float64)
    std, mean = x.std(), x.mean()
    assert stats.mean == pytest.approx(mean, rel=1e-12, abs=1e-12 * np.abs(x).max())
    # Relative to the magnitudes: a bin is as wide as 1/32 of them, so far from zero little is known of a narrow spread.
    scale = np.sqrt((x**2).mean())
    assert stats.std == pytest.approx(std, rel=1e-6, abs=1e-4 * scale if std < scale / 100 else 0)
    assert stats.mean_abs_dev == pytest.approx(
        np.abs(x - mean).mean(), rel=1e-5, abs=2e-3 * scale if std < scale / 100 else 0
    )
    assert stats.signal == pytest.approx((x**2).sum(), rel=1e-6)
    if std > scale / 100:
        fourth = ((x - mean) ** 4).mean() / std**4
        assert stats.kurtosis + 3 == pytest.approx(fourth, rel=1e-5)


def test_nothing_varies_in_a_constant():
    for value in (0.0, 1.5, -0.1, 1e-30):
        stats = TensorStats.of(np.full(30, value, np.float32))
        assert stats.std == pytest.approx(0, abs=1e-16)
        assert stats.mean_abs_dev == pytest.approx(0, abs=1e-16)
        assert stats.quantile(0.3) == pytest.approx(abs(float(np.float32(value))), rel=1e-12)


@each_distribution
def test_quantiles_are_right_within_a_bin(values):
    stats, x = TensorStats.of(values), np.sort(np.abs(values.astype(np.float64)))
    found = [stats.quantile(p) for p in (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0)]
    assert found == sorted(found)
    assert found[-1] == stats.abs_max
    for p, got in zip((0.5, 0.9, 0.99, 0.999, 0.9999), found[4:-1], strict=True):
        true = x[int(p * len(x))]
        assert abs(got - true) <= true / 32
    if values is DISTRIBUTIONS["laplace"]:  # where the density is smooth, interpolation does better
        assert found[6] == pytest.approx(x[int(0.99 * len(x))], rel=3e-3)


@each_distribution
def test_what_lies_beyond_is_right_within_the_bin_that_the_limit_divides(values):
    stats, x = TensorStats.of(values), np.abs(values.astype(np.float64))
    for limit in [*(stats.abs_max * np.linspace(0, 1.1, 23)), 1.0, 0.1]:
        least, most = np.count_nonzero(x > limit * 33 / 32), np.count_nonzero(x > limit * 31 / 32)
        assert least - 1e-6 <= stats.beyond(limit) <= most + 1e-6
    assert stats.beyond(stats.abs_max) == 0
    for limit in stats.abs_max * 0.5 ** np.arange(5):  # at the edge of a bin it is exact
        edge = 2.0 ** np.ceil(np.log2(limit))
        assert np.count_nonzero(x > edge) <= stats.beyond(edge) <= np.count_nonzero(x >= edge)
    assert TensorStats.of(np.array([0.5, -1, 1, 4], np.float32)).beyond(1.0) == 1


@each_distribution
def test_the_histogram_holds_every_value_once(values):
    stats = TensorStats.of(values)
    for bins in (1, 7, 2048):
        found = stats.histogram(bins)
        assert found.shape == (bins,)
        assert found.min() >= -1e-6
        assert found.sum() == pytest.approx(stats.count, rel=1e-12)
    true, _ = np.histogram(np.abs(values), 8, range=(0, stats.abs_max))
    cumulated = np.abs(stats.histogram(8).cumsum() - true.cumsum())
    edges = stats.abs_max * np.arange(1, 9) / 8
    near = [np.count_nonzero(np.abs(np.abs(values) - edge) <= edge / 32) for edge in edges]
    assert (cumulated <= np.array(near) + 1e-6).all()


def true_error(values, fmt):
    rounded = round_fp(values.astype(np.float64), bd=fmt.bd, ad=fmt.ad)
    return float(((rounded - values.astype(np.float64)) ** 2).sum())


@each_distribution
def test_the_rounding_error_is_within_two_percent_and_the_best_format_costs_no_more(values):
    stats = TensorStats.of(values)
    for width in (2, 3, 4, 6, 8, 10, 12, 16):
        least = QFormat.holding(stats.abs_max, width).bd
        formats = [QFormat(bd, width - bd) for bd in range(least + 1, least - 8, -1)]
        true = [true_error(values, fmt) for fmt in formats]
        found = [stats.squared_error(fmt) for fmt in formats]
        bound = 0.2 if values is DISTRIBUTIONS["far from zero"] else 0.02  # those lie in one bin
        # A constant or three values have one place in a bin, known to 1 % of the bin's width.
        few = values is DISTRIBUTIONS["constant"] or values is DISTRIBUTIONS["three values"]
        np.testing.assert_allclose(found, true, rtol=bound, atol=len(values) * (3e-4 * stats.abs_max) ** 2 * few)
        if values is not DISTRIBUTIONS["constant"]:
            assert true[int(np.argmin(found))] <= min(true) * 1.001


def test_an_array_of_few_values_has_exact_errors():
    """One or two values in a bin are known, up to the rounding of the squares."""
    values = np.array([0.1, -2.3, 17.003, 1e-3, 0.7, 0.7049, -0.7], np.float32)
    for fmt in (QFormat(3, 5), QFormat(2, 14), QFormat(6, 2), QFormat(-2, 9), QFormat(9, 0)):
        assert TensorStats.of(values).squared_error(fmt) == pytest.approx(true_error(values, fmt), rel=1e-3)


def test_what_is_on_the_grid_already_has_no_error_but_saturation():
    values = DISTRIBUTIONS["rounded"]  # multiples of 1/64 below 8
    stats = TensorStats.of(values)
    assert stats.squared_error(QFormat(5, 6)) == 0
    assert stats.squared_error(QFormat(5, 11)) == 0
    assert stats.squared_error(QFormat(2, 6)) == pytest.approx(true_error(values, QFormat(2, 6)), rel=1e-3)
    # Every other value is a tie: a quarter of 2^-10 instead of a twelfth of it.
    assert stats.squared_error(QFormat(5, 5)) == pytest.approx(true_error(values, QFormat(5, 5)), rel=5e-3)


def test_saturation_of_every_value_is_the_distance_to_the_limit():
    values = DISTRIBUTIONS["far from zero"]
    assert TensorStats.of(values).squared_error(QFormat(4, 4)) == pytest.approx(
        true_error(values, QFormat(4, 4)), rel=1e-6
    )
