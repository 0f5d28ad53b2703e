"""The method `max` against a search: the smallest bd whose largest code holds the rounded maximum."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lpcaffe.allocation import METHODS, Tensor
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat


def max_abs(values, width):
    return METHODS["max"](Tensor("weights", TensorStats.of(np.array(values, np.float32))), width)


def smallest(magnitude: float, width: int) -> QFormat:
    """By trial: bd from far below on, codes as exact integers, ties away from zero."""
    for bd in range(-160, 160):
        code = math.floor(Fraction(magnitude) * Fraction(2) ** (width - bd) + Fraction(1, 2))
        if code <= 2 ** (width - 1) - 1:
            return QFormat(bd, width - bd)
    raise AssertionError


@given(st.floats(2.0**-126, 2.0**126, width=32), st.integers(2, 25), st.booleans())
@example(0.5, 8, False)
@example(1.0, 8, True)
@example(float(np.float32(0.99999)), 16, False)
def test_it_is_the_smallest_bd_that_does_not_saturate(magnitude, width, negative):
    low, high = (-magnitude, magnitude / 3) if negative else (-magnitude / 3, magnitude)
    assert max_abs([low, high], width) == smallest(magnitude, width)


@pytest.mark.parametrize("width", [2, 8, 16, 25])
@pytest.mark.parametrize("bd", [-3, 0, 1, 4])
def test_the_step_to_the_next_bd_is_half_a_step_beyond_the_largest_value(bd, width):
    fmt = QFormat(bd, width - bd)
    tie = fmt.max + fmt.step / 2
    for magnitude, expected in [
        (fmt.max, bd),
        (np.nextafter(np.float32(tie), 0, dtype=np.float32), bd),
        (np.float32(tie), bd + 1),
        (np.nextafter(np.float32(tie), 99, dtype=np.float32), bd + 1),
    ]:
        assert max_abs([magnitude], width).bd == expected == smallest(float(magnitude), width).bd


@pytest.mark.parametrize("width", [2, 16])
def test_nothing_but_zeros_gets_one_bit_before_the_point(width):
    assert max_abs(np.zeros(5), width) == QFormat(1, width - 1)
