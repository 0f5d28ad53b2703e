"""Rounding errors: running figures over pieces are those of the whole."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcaffe.errors import DataError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.error_stats import ErrorStats

Q = QFormat(2, 2)  # -1.75 .. 1.75 in quarters
VALUES = np.array([0.0, -0.0, 0.1, -0.125, 1.874, 1.875, -2.5, 1.5], np.float32)
ROUNDED = np.array([0.0, 0.0, 0.0, -0.25, 1.75, 1.75, -1.75, 1.5], np.float32)


def test_the_figures_are_those_of_the_definition():
    error = ErrorStats()
    error.add(VALUES, ROUNDED, Q)
    # 1.874 rounds to 1.75 without clipping, 1.875 would round to 2.
    assert (error.count, error.saturated) == (8, 2)
    assert (error.zeros_before, error.zeros_after) == (2, 3)
    assert error.max_abs_error == 0.75
    difference = VALUES.astype(np.float64) - ROUNDED
    expected = 10 * np.log10(np.sum(VALUES.astype(np.float64) ** 2) / np.sum(difference**2))
    assert error.sqnr_db == pytest.approx(expected, rel=1e-12)
    assert (error.saturated_fraction, error.zero_fraction) == (0.25, 0.375)


def test_six_decibels_are_one_bit():
    found = []
    for noise in (2**-5, 2**-6):
        error = ErrorStats()
        error.add(np.array([1.0]), np.array([1.0 + noise]), None)
        found.append(error.sqnr_db)
    assert found[1] - found[0] == pytest.approx(6.0206, abs=1e-4)


@settings(deadline=None)
@given(st.lists(st.integers(0, 8), max_size=3))
def test_pieces_add_up(cuts):
    whole, pieces = ErrorStats(), ErrorStats()
    whole.add(VALUES, ROUNDED, Q)
    for part in np.split(np.arange(8), sorted(cuts)):
        pieces.add(VALUES[part], ROUNDED[part], Q)
    assert (pieces.count, pieces.saturated, pieces.max_abs_error) == (whole.count, whole.saturated, whole.max_abs_error)
    assert pieces.zero_fraction == whole.zero_fraction
    assert pieces.sqnr_db == pytest.approx(whole.sqnr_db, rel=1e-12)


def test_saturation_is_judged_on_what_was_rounded():
    error = ErrorStats()
    error.add(np.array([1.0]), np.array([1.75]), Q, np.array([5.0]))
    assert error.saturated == 1


def test_no_error_and_no_signal_have_no_decibels():
    exact, silent, nothing = ErrorStats(), ErrorStats(), ErrorStats()
    exact.add(np.ones(3), np.ones(3), Q)
    silent.add(np.zeros(3), np.ones(3), Q)
    assert exact.sqnr_db is silent.sqnr_db is nothing.sqnr_db is None
    assert nothing.saturated_fraction == nothing.zero_fraction == 0
    assert json.loads(json.dumps(exact.weights_json(Q)))["sqnr_db"] is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["true", "rounded", "both"])
def test_nan_and_infinity_are_refused(bad, place):
    true, rounded = np.ones(4, np.float32), np.ones(4, np.float32)
    if place != "rounded":
        true[2] = bad
    if place != "true":
        rounded[2] = bad
    with pytest.raises(DataError, match="NaN or infinite"):
        ErrorStats().add(true, rounded, Q)
