"""Every implementation gives the reference's bits, for every scheme, type, format and trap."""

import functools

import numpy as np
import pytest

from lpcaffe.numbers.rounding import SCHEMES, numba_backend, round_fp

IN_C = {"deterministic": 0, "stochastic": 1, "half_even": 2, "floor": 3}
RANDOMNESS = {"seed": 2**63 + 9, "stream": 2**33 + 1, "index": 2**34 - 7}


def numba_serial(native, x, *format_and_scheme):
    return round_fp(x, *format_and_scheme, **RANDOMNESS, backend="numba", threads=1)


def numba_parallel(native, x, *format_and_scheme):
    return round_fp(x, *format_and_scheme, **RANDOMNESS, backend="numba", threads=2)


def numba_in_place(native, x, *format_and_scheme):
    q = x.copy()
    return round_fp(q, *format_and_scheme, **RANDOMNESS, backend="numba", threads=2, out=q)


def compiled_c(build):
    def implementation(native, x, bd, ad, scheme):
        q = np.empty_like(x)
        function = native(build).round_f32 if x.dtype == np.float32 else native(build).round_f64
        held = function(x.ctypes.data, q.ctypes.data, x.size, bd, ad, IN_C[scheme], *RANDOMNESS.values())
        assert held
        return q

    return implementation


def cuda_staged(native, x, *format_and_scheme):
    return round_fp(x, *format_and_scheme, **RANDOMNESS, device="cuda")


def cuda_resident(native, x, *format_and_scheme):
    from numba import cuda

    q = cuda.to_device(x)
    assert round_fp(q, *format_and_scheme, **RANDOMNESS, device="cuda", out=q) is q
    return q.copy_to_host()


ON_THE_CPU = {
    "numba-serial": numba_serial,
    "numba-parallel": numba_parallel,
    "numba-in-place": numba_in_place,
    "c-O0": compiled_c("c-O0"),
    "c-O3-fma": compiled_c("c-O3-fma"),
    "c++-O2": compiled_c("c++-O2"),
}
ON_CUDA = {"cuda-staged": cuda_staged, "cuda-resident": cuda_resident}


def bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"u{array.itemsize}")


def assert_same_bits(name: str, x: np.ndarray, ours: np.ndarray, reference: np.ndarray) -> None:
    differ = np.flatnonzero(bits(ours) != bits(reference))
    worst = [(x[k], ours[k], reference[k]) for k in differ[:3]]
    assert differ.size == 0, f"{name}: {differ.size} of {x.size} differ: (x, got, numpy) = {worst}"


@functools.cache
def noise(count: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Normal numbers, and floats of any bits, NaN among them."""
    rng = np.random.default_rng(count)
    any_bits = rng.integers(0, 256, count // 4 * np.dtype(dtype).itemsize, np.uint8).view(dtype)
    return rng.standard_normal(count - any_bits.size), any_bits


def case(traps, nans, fmt: tuple[int, int], scheme: str, dtype: type, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Traps and `count` random numbers, half of them a few steps wide, and what NumPy makes of all."""
    bd, ad = fmt
    normal, any_bits = noise(count, dtype)
    half = normal.size // 2
    wide, narrow = normal[:half] * 2.0 ** (bd - 2), normal[half:] * 2.0 ** (2 - ad)
    x = np.concatenate([traps(bd, ad, dtype), nans(dtype), wide.astype(dtype), narrow.astype(dtype), any_bits])
    return x, round_fp(x, bd, ad, scheme, **RANDOMNESS, backend="numpy")


EVERY_TYPE = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
EVERY_SCHEME = pytest.mark.parametrize("scheme", sorted(SCHEMES))


@EVERY_TYPE
@EVERY_SCHEME
def test_every_implementation_gives_the_bits_of_numpy(scheme, fmt, dtype, traps, nans, native, monkeypatch):
    monkeypatch.setattr(numba_backend, "PIECE", 1 << 13)
    x, reference = case(traps, nans, fmt, scheme, dtype, 20_000)
    assert x.size > 2 * numba_backend.PIECE
    for name, implementation in ON_THE_CPU.items():
        assert_same_bits(name, x, implementation(native, x, *fmt, scheme), reference)


@EVERY_SCHEME
def test_a_million_numbers_in_pieces_of_their_usual_size_have_the_bits_of_numpy(scheme, traps, nans, native):
    x, reference = case(traps, nans, (2, 14), scheme, np.float32, 1_000_000)
    assert x.size > 2 * numba_backend.PIECE
    for name in ("numba-parallel", "c-O3-fma"):
        assert_same_bits(name, x, ON_THE_CPU[name](native, x, 2, 14, scheme), reference)


@pytest.mark.cuda
@EVERY_TYPE
@EVERY_SCHEME
def test_cuda_gives_the_bits_of_numpy(scheme, fmt, dtype, traps, nans, simulated):
    x, reference = case(traps, nans, fmt, scheme, dtype, 200 if simulated else 200_000)
    for name, implementation in ON_CUDA.items():
        assert_same_bits(name, x, implementation(None, x, *fmt, scheme), reference)


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
