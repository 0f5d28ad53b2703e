"""Rounding errors: the figures of the definition, whatever the batches and their order."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcaffe.errors import DataError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp_stats
from lpcaffe.quant import ErrorStats

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


FORMAT = QFormat(2, 5)


def merged(parts):
    """The statistics of parts, added pairwise as far as possible."""
    while len(parts) > 1:
        parts = [sum(parts[i + 1 : i + 2], parts[i]) for i in range(0, len(parts), 2)]
    return parts[0]


@given(st.data(), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_batches_merge_in_any_order_to_the_same_bits(data, images, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(images, 3, 7)).astype(np.float32) * np.exp2(rng.integers(-40, 40, (images, 1, 1)))
    rounded = FORMAT.quantize(values)
    whole = ErrorStats()
    whole.add(values, rounded, FORMAT)

    parts = []
    order = np.array(data.draw(st.permutations(range(images))))
    for batch in np.split(order, sorted(data.draw(st.lists(st.integers(0, images), max_size=4)))):
        part = ErrorStats()
        for index in np.split(batch, sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=2)))):
            part.add(values[index], rounded[index], FORMAT)
        parts.append(part)
    found = merged(parts)

    assert found == whole
    assert (found.signal.hex(), found.noise.hex()) == (whole.signal.hex(), whole.noise.hex())
    assert whole.signal == pytest.approx(np.sum(np.square(values, dtype=np.float64)), rel=1e-14)
    assert whole.noise == pytest.approx(np.sum(np.square(rounded - values.astype(np.float64))), rel=1e-14)
    assert (whole.min, whole.max) == (values.min(), values.max())


def test_the_memory_layout_of_a_batch_does_not_matter():
    values = np.random.default_rng(0).normal(size=(3, 50, 70)).astype(np.float32)
    rounded, found = FORMAT.quantize(values), []
    for order in "CF":
        found.append(ErrorStats())
        found[-1].add(np.asarray(values, order=order), np.asarray(rounded, order=order), FORMAT)
    assert found[0] == found[1]


def test_pieces_of_round_fp_merge_in_any_order():
    values = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    parts = []
    for piece in np.split(values, (130, 131, 700)):
        parts.append(ErrorStats())
        parts[-1].add_stats(piece, round_fp_stats(piece, FORMAT.bd, FORMAT.ad)[1])
    assert merged(parts) == merged(parts[::-1]) == sum(parts, ErrorStats())
    assert merged(parts).signal == pytest.approx(np.sum(np.square(values, dtype=np.float64)), rel=1e-14)


def test_squares_beyond_float64_are_infinite():
    error = ErrorStats()
    error.add(np.array([1e200, 1.0]), np.array([0.0, 1.0]), None)
    assert error.signal == error.noise == (error + error).noise == math.inf


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
