"""TensorStats: merging is exact, whatever the order and the pieces."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lpcaffe.calibration import TensorStats

floats = st.floats(width=32, allow_nan=False)
arrays = hnp.arrays(np.float32, st.integers(1, 30), elements=floats)


@settings(deadline=None)
@given(arrays)
def test_statistics_are_count_and_extremes(values):
    stats = TensorStats.of(values)
    assert stats == TensorStats(len(values), min(values.tolist()), max(values.tolist()))
    assert stats.abs_max == max(abs(value) for value in values.tolist())


@settings(deadline=None)
@given(arrays, st.lists(st.integers(0, 30), max_size=4), st.randoms())
def test_pieces_in_any_order_add_up_to_the_whole(values, cuts, random):
    pieces = [TensorStats.of(piece) for piece in np.split(values, sorted(cut for cut in cuts if cut <= len(values)))]
    random.shuffle(pieces)
    assert sum(pieces, TensorStats()) == TensorStats.of(values)


def test_nothing_is_neutral_and_does_not_pull_extremes_to_zero():
    stats = TensorStats.of(np.array([3.0, 5.0], np.float32))
    assert TensorStats.of(np.empty((0, 4), np.float32)) == TensorStats()
    assert stats + TensorStats() == TensorStats() + stats == stats
    assert stats.min == 3


def test_nan_shows_in_the_extremes():
    stats = TensorStats.of(np.array([1, np.nan, 2], np.float32))
    assert np.isnan(stats.min)
    assert np.isnan(stats.max)
