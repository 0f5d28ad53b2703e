"""The mean and n standard deviations."""

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat

RNG = np.random.default_rng(12)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (5.0, 0.3), (-5.0, 0.3), (-0.4, 17.0)])
def test_the_format_holds_the_mean_and_n_deviations(n, mean, std):
    values = RNG.normal(mean, std, 5_000).astype(np.float32)
    stats = TensorStats.of(values)
    exact = values.astype(np.float64)
    full = min(abs(exact.mean()) + n * exact.std(), np.abs(exact).max())
    half = min(max(exact.mean(), 0) + n * exact.std(), max(exact.max(), 0))
    choose = method_named(f"nstd:{n}")
    assert choose(Tensor("output", stats), 10) == QFormat.holding(full, 10)
    assert choose(Tensor("output", stats, rectified=stats.rectified()), 10) == QFormat.holding(half, 10)


def test_no_more_than_what_was_seen():
    tensor = Tensor("weights", TensorStats.of(np.array([-2.0, 2.0, 2.0, -2.0], np.float32)))
    assert METHODS["nstd"](tensor, 8) == QFormat(3, 5) == METHODS["max"](tensor, 8)
    assert method_named("nstd:0.4")(tensor, 8) == QFormat(1, 7)
