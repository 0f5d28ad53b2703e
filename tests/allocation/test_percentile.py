"""The range that holds a percentile of the magnitudes."""

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat

RNG = np.random.default_rng(9)
SAMPLES = {
    "laplace": RNG.laplace(0, 3, 30_000).astype(np.float32),
    "negative": -RNG.exponential(2, 30_000).astype(np.float32),
    "shifted": RNG.normal(5, 9, 30_000).astype(np.float32),
}


@pytest.mark.parametrize("percent", [20, 90, 99, 99.9, 99.99])
@pytest.mark.parametrize("name", SAMPLES)
def test_the_format_holds_the_percentile_of_the_magnitudes(name, percent):
    values = SAMPLES[name]
    tensor = Tensor("output", TensorStats.of(values))
    expected = QFormat.holding(float(np.percentile(np.abs(values), percent)), 12)
    assert method_named(f"percentile:{percent}")(tensor, 12) == expected


def test_an_outlier_in_a_hundred_thousand_is_left_out():
    values = np.concatenate([RNG.uniform(-0.9, 0.9, 99_999), [1000.0]]).astype(np.float32)
    tensor = Tensor("weights", TensorStats.of(values))
    assert method_named("percentile")(tensor, 8) == QFormat(1, 7)
    assert method_named("percentile:100")(tensor, 8) == METHODS["max"](tensor, 8) == QFormat(11, -3)
