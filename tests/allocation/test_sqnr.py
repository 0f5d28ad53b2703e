"""Signal to noise of what the next layer reads."""

import math

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp

RNG = np.random.default_rng(11)
SAMPLES = {
    "normal": RNG.normal(0, 1, 9_000).astype(np.float32),
    "shifted": RNG.normal(-5, 3, 9_001).astype(np.float32),
    "mixed": np.concatenate([-RNG.exponential(40, 6_000), RNG.exponential(1, 3_000)]).astype(np.float32),
}


def tensor(x, slope=None):
    rectified = None if slope is None else TensorStats.of(np.where(x > 0, x, np.float32(slope) * x))
    return Tensor("output", TensorStats.of(x), rectified=rectified)


def true_ratio(x, fmt, slope=None):
    """In dB, by rounding and rectifying the values."""
    rectify = (lambda y: y) if slope is None else (lambda y: np.where(y > 0, y, slope * y))
    y, low = rectify(x.astype(np.float64)), rectify(round_fp(x, fmt.bd, fmt.ad).astype(np.float64))
    noise = np.sum((low - y) ** 2)
    return 10 * math.log10(np.sum(y**2) / noise) if noise else math.inf


@pytest.mark.parametrize("slope", [None, 0.0, 0.1, 0.5])
@pytest.mark.parametrize("width", [2, 4, 8, 12])
@pytest.mark.parametrize("name", SAMPLES)
def test_no_format_has_a_ratio_that_is_notably_larger(name, width, slope):
    x = SAMPLES[name]
    fmt = METHODS["sqnr"](tensor(x, slope), width)
    best = max(true_ratio(x, QFormat(bd, width - bd), slope) for bd in range(-12, 14))
    assert true_ratio(x, fmt, slope) >= best - 0.1


def test_errors_of_values_that_a_relu_removes_do_not_count():
    x = SAMPLES["mixed"]
    assert METHODS["sqnr"](tensor(x, 0.0), 8).bd < METHODS["mse"](tensor(x, 0.0), 8).bd
    for width in (3, 8):
        assert METHODS["sqnr"](tensor(x), width) == METHODS["mse"](tensor(x), width)


@pytest.mark.parametrize("slope", [None, 0.0, 0.25])
@pytest.mark.parametrize("target", [5.0, 20.0, 33.0, 50.0])
def test_a_target_is_reached_with_the_fewest_bits(target, slope):
    x = SAMPLES["normal"]
    fmt = method_named(f"sqnr:{target}")(tensor(x, slope), 16)
    best = {width: max(true_ratio(x, QFormat(bd, width - bd), slope) for bd in range(-4, 8)) for width in range(2, 17)}
    assert fmt.width == min(width for width, ratio in best.items() if ratio >= target)
    assert true_ratio(x, fmt, slope) >= target


def test_the_width_is_the_limit_where_no_format_reaches_the_target():
    x = SAMPLES["normal"]
    assert method_named("sqnr:90")(tensor(x), 6) == METHODS["sqnr"](tensor(x), 6)


def test_an_output_that_the_relu_removes_whole_takes_no_bits_to_hold():
    nothing = tensor(np.array([-5.0, -7.0, -0.1], np.float32), 0.0)
    assert METHODS["sqnr"](nothing, 8) == QFormat(1, 7)
    assert method_named("sqnr:30")(nothing, 8) == QFormat(1, 1)
