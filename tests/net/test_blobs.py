"""Blobs of weights in memory: their pieces are the whole, and what is not finite is found."""

import numpy as np
import pytest

from lpcaffe.errors import WeightsError
from lpcaffe.net import ArrayBlob
from lpcaffe.net import blobs as blobs_module
from lpcaffe.net.blobs import ScaledBlob, finite_chunks

X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_chunks_joined_are_the_array_in_c_order(size):
    chunks = list(ArrayBlob(X.transpose(2, 0, 1)).chunks(size))
    assert max(len(chunk) for chunk in chunks) <= size
    np.testing.assert_array_equal(np.concatenate(chunks), X.transpose(2, 0, 1).reshape(-1))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_scaled_blob_is_multiplied_along_its_axis_however_it_is_cut(axis, size):
    gain = np.array([0.1, -3, 1e-5, 7, 11])[: X.shape[axis]]
    blob = ScaledBlob(ArrayBlob(X, legacy=True), gain, axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    expected = (X.astype(np.float64) * gain.reshape(shape)).astype(np.float32)
    assert (blob.shape, blob.legacy) == ((3, 4, 5), True)
    np.testing.assert_array_equal(blob.array(), expected)
    np.testing.assert_array_equal(np.concatenate(list(blob.chunks(size))), expected.reshape(-1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [(0, 0, 0), (1, 2, 3), (2, 3, 4)])
def test_the_first_value_that_is_not_finite_is_named_with_its_place(monkeypatch, value, at):
    monkeypatch.setattr(blobs_module, "CHUNK", 7)
    x = X.copy()
    x[at] = value
    x[2, 3, 4] = value
    with pytest.raises(
        WeightsError, match=rf"^blob 3: the value at \[{at[0]}, {at[1]}, {at[2]}\] is -?(nan|inf), expected"
    ):
        list(finite_chunks(ArrayBlob(x), 3))


def test_large_finite_values_whose_sum_is_not_are_let_through():
    x = np.full(5, 3e38, np.float32)
    np.testing.assert_array_equal(np.concatenate(list(finite_chunks(ArrayBlob(x), 0))), x)


def test_a_float64_value_beyond_float32_is_refused_and_others_are_converted():
    with pytest.raises(WeightsError, match=r"^blob 1: expected values that float32 can hold, got 1e\+39"):
        list(finite_chunks(ArrayBlob(np.array([1.0, 1e39])), 1))
    (chunk,) = finite_chunks(ArrayBlob(np.array([0.1, 2.0])), 1)
    assert chunk.dtype == np.float32
    np.testing.assert_array_equal(chunk, np.array([0.1, 2.0], np.float32))
