"""The least squared error over every range."""

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor
from lpcaffe.allocation.mse import candidates
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp

mse = METHODS["mse"]
RNG = np.random.default_rng(10)
SAMPLES = {
    "normal": RNG.normal(0, 1, 9_000),
    "laplace": RNG.laplace(0.5, 7, 9_001),
    "cauchy": RNG.standard_cauchy(5_000),
    "outlier": np.concatenate([RNG.uniform(-1, 1, 20_000), [20.0]]),
    "relu": np.maximum(RNG.normal(0, 3, 8_000), 0),
    "two scales": np.concatenate([RNG.normal(0, 1e-3, 5_000), RNG.normal(0, 1, 50)]),
}


def true_errors(values, width):
    x = values.astype(np.float32)
    errors = {}
    for bd in range(-28, 26):
        rounded = round_fp(x, bd, width - bd).astype(np.float64)
        errors[QFormat(bd, width - bd)] = float(np.sum((rounded - x) ** 2))
    return errors


@pytest.mark.parametrize("width", [2, 4, 8, 12])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_format_has_an_error_that_is_notably_smaller(name, width):
    errors = true_errors(SAMPLES[name], width)
    fmt = mse(Tensor("weights", TensorStats.of(SAMPLES[name].astype(np.float32))), width)
    assert errors[fmt] <= 1.01 * min(errors.values())


def test_it_gives_up_outliers_only_where_that_pays():
    stats = TensorStats.of(SAMPLES["outlier"].astype(np.float32))
    found = [mse(Tensor("output", stats), width).bd for width in (3, 8, 16)]
    assert found == sorted(found)
    assert found[-1] == 6 == METHODS["max"](Tensor("output", stats), 16).bd
    assert found[0] < 6


def test_of_equal_errors_the_larger_range_wins():
    # 1 and 0 are values of Q2.2, Q3.1 and (0.75 in) no narrower one.
    assert mse(Tensor("weights", TensorStats.of(np.array([1.0, 0.0, 0.0], np.float32))), 4) == QFormat(2, 2)


def test_formats_that_are_not_looked_at_are_worse():
    for name, values in SAMPLES.items():
        errors = true_errors(values, 3)
        seen = set(candidates(TensorStats.of(values.astype(np.float32)), 3))
        assert min(errors[fmt] for fmt in seen & errors.keys()) == min(errors.values()), name
