"""The smallest range with no more than a fraction of the values beyond it."""

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat

RNG = np.random.default_rng(8)
SAMPLES = {
    "laplace": RNG.laplace(0, 3, 20_000).astype(np.float32),
    "negative": -RNG.exponential(2, 20_000).astype(np.float32),
    "normal": RNG.normal(5, 9, 20_000).astype(np.float32),
}


def counted(values, width, fraction):
    """By counting the values that saturate in every format, from the widest range on."""
    for bd in range(40, -40, -1):
        fmt = QFormat(bd, width - bd)
        if np.mean(np.abs(values.astype(np.float64)) >= fmt.max + fmt.step / 2) > fraction:
            return QFormat(bd + 1, width - bd - 1)
    raise AssertionError


@pytest.mark.parametrize("width", [3, 8, 16])
@pytest.mark.parametrize("fraction", [0.0, 0.0002, 0.01, 0.1, 0.6])
@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_the_smallest_range_by_counting(name, fraction, width):
    tensor = Tensor("weights", TensorStats.of(SAMPLES[name]))
    assert method_named(f"overflow:{fraction}")(tensor, width) == counted(SAMPLES[name], width, fraction)


def test_without_a_fraction_it_is_the_method_max():
    for values in SAMPLES.values():
        tensor = Tensor("output", TensorStats.of(values))
        assert method_named("overflow")(tensor, 7) == METHODS["max"](tensor, 7)


def test_exactly_the_fraction_is_allowed():
    tensor = Tensor("weights", TensorStats.of(np.array([0.3] * 9 + [5.0], np.float32)))
    assert method_named("overflow:0.1")(tensor, 8) == QFormat(0, 8)
    assert method_named("overflow:0.0999")(tensor, 8) == QFormat(4, 4)


def test_where_everything_but_the_zeros_may_saturate_the_format_is_that_of_zeros():
    values = np.concatenate([np.zeros(90), np.linspace(-7, 3, 10)]).astype(np.float32)
    tensor = Tensor("weights", TensorStats.of(values))
    assert method_named("overflow:0.1")(tensor, 8) == QFormat(1, 7)
    assert method_named("overflow:0.09")(tensor, 8) == counted(values, 8, 0.09) != QFormat(1, 7)


def test_a_value_half_a_step_beyond_the_largest_saturates():
    # Q3.0 ends at 3: 3.5 rounds to 4.
    values = np.array([3.5] * 5 + [1.0] * 5 + [9.0], np.float32)
    tensor = Tensor("weights", TensorStats.of(values))
    assert method_named("overflow:0.2")(tensor, 3) == counted(values, 3, 0.2) == QFormat(4, -1)
    assert method_named("overflow:0.6")(tensor, 3) == counted(values, 3, 0.6) == QFormat(2, 1)
    below = Tensor("weights", TensorStats.of(np.where(values == 3.5, np.float32(3.49), values)))
    assert method_named("overflow:0.2")(below, 3) == QFormat(3, 0)
