"""The Kullback-Leibler threshold is onnxruntime's."""

import numpy as np
import pytest

from lpcaffe.allocation import Tensor, method_named
from lpcaffe.allocation.kl import SIDE, best_half_width, divergences, kl, mirrored
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat

BINS = 2 * SIDE + 1
RNG = np.random.default_rng(5)
SAMPLES = {
    "normal": RNG.normal(0, 1, 60_000),
    "laplace": RNG.laplace(0, 2, 50_000),
    "relu": np.maximum(RNG.normal(-0.3, 1, 40_000), 0),
    "outliers": np.concatenate([RNG.normal(0, 1, 30_000), [40.0, -55.0]]),
    "few": RNG.laplace(0, 1, 75),
    "two peaks": np.concatenate([RNG.normal(4, 0.1, 5_000), RNG.normal(-9, 0.2, 7_000)]),
    "constant": np.full(33, 2.5),
}


def onnxruntimes(counts, largest, levels, monkeypatch):
    """The threshold of onnxruntime's calibrator for a histogram over -largest .. largest, and all its divergences."""
    from onnxruntime.quantization import calibrate

    seen, entropy = [], calibrate.entropy
    monkeypatch.setattr(calibrate, "entropy", lambda p, q: seen.append(entropy(p, q)) or seen[-1])
    collector = calibrate.HistogramCollector("entropy", True, BINS, levels, 99.99, None)
    edges = np.linspace(-largest, largest, counts.size + 1)
    found = collector.get_entropy_threshold((counts.astype(np.int64), edges, -largest, largest), levels)
    return float(found[1]), np.array(seen, np.float64)


@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_threshold_is_that_of_onnxruntime_on_the_same_histogram(name, width, monkeypatch):
    stats = TensorStats.of(SAMPLES[name].astype(np.float32))
    levels = 2**width - 1
    counts = mirrored(stats.histogram(2 * 300 + 1))
    threshold, expected = onnxruntimes(counts, stats.abs_max, levels, monkeypatch)
    found = divergences(counts, levels)
    # It calculates in float32, and leaves out candidates with nothing inside.
    np.testing.assert_allclose(found[np.isfinite(found)], expected, rtol=1e-5, atol=5e-6)
    ours = best_half_width(counts, levels)
    assert found[ours - levels // 2] == pytest.approx(expected.min(), abs=5e-6)
    if np.count_nonzero(expected < expected.min() + 1e-5) == 1:
        assert stats.abs_max * (2 * ours + 1) / counts.size == pytest.approx(threshold, rel=1e-9)
    else:
        # Its choice among equals is that of rounding errors; ours is the smallest.
        assert stats.abs_max * (2 * ours + 1) / counts.size <= threshold * (1 + 1e-9)


def test_that_comparison_has_cases_with_one_least_divergence():
    unique = 0
    for values in SAMPLES.values():
        stats = TensorStats.of(values.astype(np.float32))
        found = np.sort(divergences(mirrored(stats.histogram(601)), 15))
        unique += bool(found[1] - found[0] > 1e-5)
    assert unique >= 5


def test_the_format_holds_the_threshold_of_onnxruntime(monkeypatch):
    stats = TensorStats.of(SAMPLES["outliers"].astype(np.float32))
    threshold, _ = onnxruntimes(mirrored(stats.histogram(BINS)), stats.abs_max, 15, monkeypatch)
    assert threshold < 32
    assert method_named("kl")(Tensor("weights", stats), 4) == QFormat.holding(threshold, 4)
    assert method_named("max")(Tensor("weights", stats), 4).bd == 7


def test_the_histogram_is_mirrored_with_the_middle_bin_around_zero():
    counts = mirrored(np.array([4.0, 1, 2, 5, 0, 0, 3]))
    assert counts.size == 7
    sides = np.array([3.0, 5.0, 3.0]) / 2
    np.testing.assert_array_equal(counts, np.rint(np.concatenate([sides[::-1], [4.0], sides]) * 2**30 / 15))


@pytest.mark.parametrize("width", [11, 16, 25])
def test_more_levels_than_bins_quantize_nothing_and_the_range_is_the_largest_value(width):
    assert 2 ** (width - 1) > SIDE
    stats = TensorStats.of(SAMPLES["outliers"].astype(np.float32))
    tensor = Tensor("output", stats, rectified=stats.rectified())
    assert method_named("kl")(tensor, width) == QFormat.holding(stats.abs_max, width)


def test_a_tensor_of_fewer_values_than_bins_gets_what_max_gives():
    few = np.random.default_rng(3).laplace(size=2 * SIDE).astype(np.float32)
    enough = np.concatenate([few, few[:1]])
    for width in (3, 4, 6, 8):
        largest = QFormat.holding(float(np.abs(few).max()), width)
        assert kl(Tensor("weights", TensorStats.of(few)), width) == largest
    assert kl(Tensor("weights", TensorStats.of(enough)), 4) < QFormat.holding(float(np.abs(few).max()), 4)
