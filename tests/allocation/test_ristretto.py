"""Ristretto's integer lengths."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcaffe.allocation import Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.numbers.qformat import QFormat


def chosen(kind, values, width=8, relu=False):
    stats = TensorStats.of(np.asarray(values, np.float32))
    return method_named("ristretto")(Tensor(kind, stats, rectified=stats.rectified() if relu else None), width)


@pytest.mark.parametrize(("largest", "il", "top"), [(100.0, 7, 63.5), (1.0, 0, 127 / 256), (64.0, 6, 31.75)])
def test_outputs_have_one_bit_less_than_they_need(largest, il, top):
    fmt = chosen("output", [-largest, largest / 3])
    assert (fmt, fmt.max) == (QFormat(il, 8 - il), top)


@pytest.mark.parametrize(("largest", "il"), [(1.0, 1), (0.7, 1), (0.5, 0), (0.3, 0), (1.1, 2), (100.0, 8)])
def test_weights_have_the_sign_bit(largest, il):
    assert chosen("weights", [largest / 2, -largest]) == QFormat(il, 8 - il)


def test_outputs_are_looked_at_after_the_relu():
    assert chosen("output", [-100.0, 3.0], relu=True) == QFormat(2, 6)
    assert chosen("output", [-100.0, -3.0], relu=True) == QFormat(1, 7)


@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(2, 25))
def test_the_length_is_the_ceiling_of_the_logarithm(largest, width):
    exact = next(e for e in range(math.floor(math.log2(largest)) - 1, 200) if Fraction(2) ** e >= Fraction(largest))
    assert chosen("output", [largest], width) == QFormat(exact, width - exact)
    assert chosen("weights", [largest], width) == QFormat(exact + 1, width - exact - 1)
