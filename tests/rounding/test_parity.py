"""Compiled code gives the reference's bits, for every scheme, type and trap."""

import numpy as np
import pytest

from lpcaffe.rounding import SCHEMES, round_fp


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def assert_same_bits(x: np.ndarray, ours: np.ndarray, reference: np.ndarray) -> None:
    differ = np.flatnonzero(bits(ours) != bits(reference))
    worst = [(x[k], ours[k], reference[k]) for k in differ[:3]]
    assert differ.size == 0, f"{differ.size} of {x.size} differ: (x, numba, numpy) = {worst}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_numba_gives_the_bits_of_numpy(scheme, fmt, dtype, traps, nans):
    x = np.concatenate([traps(*fmt, dtype), nans(dtype)])
    randomness = {"seed": 2**63 + 9, "stream": 2**33 + 1, "index": 2**34 - 7}
    reference = round_fp(x, *fmt, scheme, **randomness, backend="numpy")
    assert_same_bits(x, round_fp(x, *fmt, scheme, **randomness, backend="numba"), reference)
    in_place = x.copy()
    assert_same_bits(x, round_fp(in_place, *fmt, scheme, **randomness, out=in_place, backend="numba"), reference)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_float32_gives_the_values_of_float64(scheme, fmt, traps):
    """The same numbers in a wider type are rounded alike, even where float32 underflows or overflows on the way."""
    x = traps(*fmt)
    for backend in ("numpy", "numba"):
        narrow, wide = (round_fp(v, *fmt, scheme, seed=5, backend=backend) for v in (x, x.astype(np.float64)))
        np.testing.assert_array_equal(narrow.astype(np.float64), wide)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_keeps_its_bits(scheme, dtype, backend, nans):
    x = np.concatenate([np.array([0.7, -np.inf, np.inf], dtype), nans(dtype)])
    q = round_fp(x, 2, 3, scheme, backend=backend)
    assert bits(q[3:]).tolist() == bits(x[3:]).tolist()
    assert q[1:3].tolist() == [-1.875, 1.875]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("tiny", [1e-45, 1e-39])
def test_underflow_does_not_hide_a_tiny_number(tiny, backend):
    """x * 2^-20 is 0 in float32, yet floor sees its sign, and stochastic rounds it up where u is 0."""
    x = np.array([tiny, -tiny, 0.0, -0.0], np.float32)
    step = 2.0**20
    assert round_fp(x, 30, -20, "floor", backend=backend).tolist() == [0, -step, 0, 0]
    assert round_fp(x, 30, -20, backend=backend).tolist() == [0, 0, 0, 0]
    u_is_zero = 59535980  # seed 0, stream 0: the word there is 0x93
    q = [round_fp(v, 30, -20, "stochastic", index=u_is_zero, backend=backend).item() for v in x]
    assert q == [step, -step, 0, 0]


@pytest.mark.parametrize("bd", [1, -100])
@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_largest_ad_saturates_without_overflow(bd, backend):
    x = np.array([3e38, -3e38, np.inf, -np.inf, 2.0**-126], np.float32)
    ad = 24 if bd == 1 else 124
    top = 2.0 ** (bd - 1) - 2.0**-ad
    assert round_fp(x, bd, ad, backend=backend).tolist() == [top, -top, top, -top, 0.0 if bd == 1 else 2.0**-124 * 0]
