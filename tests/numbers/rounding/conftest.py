"""Inputs with every trap in them, and two oracles that share no line with the package: exact rounding and Philox."""

import ctypes
import functools
import math
import os
import shutil
import subprocess
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.errors import LpcaffeError

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"


def _traps(bd: int, ad: int, dtype: type = np.float32) -> np.ndarray:
    """Ties, grid points, both range ends +- half a step, subnormals, neighbours of a half, large odd integers, +-0."""
    step, top = 2.0**-ad, 2.0 ** (bd - 1) - 2.0**-ad
    codes = np.arange(13, dtype=np.float64)
    codes = np.concatenate([codes, top / step - codes[:5], 2.0 ** (bd + ad - 2) + codes[:5]])
    fractions = np.array([0, 0.25, 0.49999997, 0.5, 0.50000006, 0.75, 0.99999994])
    scaled = (codes[:, None] + fractions).reshape(-1) * step
    info = np.finfo(dtype)
    big = 2.0 ** np.arange(info.nmant - 2, info.nmant + 3)
    extremes = [0.0, info.smallest_subnormal, info.smallest_normal, 1e-40, 1e-45, float(info.max), math.inf]
    halves = [0.49999997, 0.49999999999999994, 0.5, 1.5, 2.5]
    ends = [top + step / 4, top + step / 2, top + step, top * 2]
    with np.errstate(over="ignore", under="ignore"):
        positive = np.concatenate([scaled, big, big + 1, big - 1, extremes, halves, ends]).astype(dtype)
        positive = np.concatenate([positive, np.nextafter(positive, dtype(0)), np.nextafter(positive, dtype(np.inf))])
    rng = np.random.default_rng([2000 + bd, 2000 + ad])
    noise = (rng.normal(size=211) * top / 2).astype(dtype), (rng.normal(size=97) * step).astype(dtype)
    every = np.concatenate([positive, -positive, *noise])
    return np.unique(every.view(f"u{every.itemsize}")).view(dtype)  # -0 and 0 are two


@pytest.fixture(scope="session")
def traps() -> Callable[..., np.ndarray]:
    return _traps


@pytest.fixture(scope="session")
def nans() -> Callable[[type], np.ndarray]:
    """Quiet and signalling NaNs of both signs, with payloads."""
    patterns = {
        np.float32: [0x7FC00000, 0x7FC12345, 0xFFC00001, 0x7F800001, 0xFF812345],
        np.float64: [
            0x7FF8 << 48,
            (0x7FF8 << 48) + 0x12345,
            (0xFFF8 << 48) + 1,
            (0x7FF0 << 48) + 1,
            (0xFFF0 << 48) + 77,
        ],
    }
    return lambda dtype: np.array(patterns[dtype], dtype=f"u{np.dtype(dtype).itemsize}").view(dtype)


@pytest.fixture(scope="session")
def oracle() -> Callable[..., Fraction]:
    """round_fp of one finite number in rational arithmetic, word for word: scale, round, and only then clip."""

    def exact(x: float, bd: int, ad: int, scheme: str, u: Fraction = Fraction(0)) -> Fraction:
        y = Fraction(x) * Fraction(2) ** ad
        sign, a = (-1 if y < 0 else 1), abs(y)
        n = {
            "deterministic": sign * math.floor(a + Fraction(1, 2)),
            "stochastic": sign * (math.floor(a) + (u < a - math.floor(a))),
            "half_even": round(y),
            "floor": math.floor(y),
        }[scheme]
        limit = 2 ** (bd + ad - 1) - 1
        return max(-limit, min(limit, n)) / Fraction(2) ** ad

    return exact


@pytest.fixture(scope="session")
def philox_word() -> Callable[[int, int, int], int]:
    """The 32-bit word of an element in Python's integers, from the paper: one round is two products and three xors."""

    def word(seed: int, stream: int, index: int) -> int:
        low = 0xFFFFFFFF
        block = index // 4
        counter = [block & low, block >> 32, stream & low, stream >> 32]
        key = [seed & low, seed >> 32]
        for _ in range(10):
            high0, low0 = divmod(0xD2511F53 * counter[0], 2**32)
            high1, low1 = divmod(0xCD9E8D57 * counter[2], 2**32)
            counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
            key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
        return counter[index % 4]

    return word


FORMATS = [(bd, width - bd) for width, bds in {
    1: (1, 0, 9), 2: (1, 2, -1), 3: (3, -2), 4: (2, 20, -10), 8: (8, 1, 2, 12, -3), 13: (5, 0),
    16: (2, 1, 3, 16, 20, -4, -110), 20: (7, 21), 23: (2, 23), 24: (1, 24, 30), 25: (2, 1, 25, 49, -101),
}.items() for bd in bds]  # fmt: skip
"""37 formats that a float32 holds, from the narrowest to the widest, at both ends of ad."""
if SIMULATED:
    FORMATS = FORMATS[::4]


SHIM = Path(__file__).with_name("shim.c")
HEADERS = Path(__file__).parents[3] / "native"
BUILDS = {  # the compilers' default and the most they may do, fused multiply-add included
    "c-O0": (["cc", "gcc", "clang"], ["-std=c99", "-O0"]),
    "c-O3-fma": (["cc", "gcc", "clang"], ["-std=gnu99", "-O3", "-march=native", "-ffp-contract=fast"]),
    "c++-O2": (["c++", "g++", "clang++"], ["-x", "c++", "-std=c++11", "-O2"]),
}


@pytest.fixture(scope="session")
def compiler() -> Callable[[list[str]], str]:
    def find(names: list[str]) -> str:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            pytest.skip(f"none of {', '.join(names)} is on this machine")
        return found

    return find


@pytest.fixture(scope="session")
def native(tmp_path_factory, compiler) -> Callable[[str], ctypes.CDLL]:
    """round_fp.h, compiled as BUILDS says; the test is skipped where there is no compiler."""

    @functools.cache
    def build(name: str) -> ctypes.CDLL:
        names, flags = BUILDS[name]
        library = tmp_path_factory.mktemp("native") / "round_fp.so"
        warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
        command = [compiler(names), *flags, *warnings, "-fPIC", "-shared", f"-I{HEADERS}", SHIM, "-o", library, "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(library))
        u64, pointer = ctypes.c_uint64, ctypes.c_void_p
        loaded.philox.argtypes = [u64, u64, u64, pointer]
        for function in (loaded.round_f32, loaded.round_f64):
            function.argtypes = [pointer, pointer, ctypes.c_size_t, *[ctypes.c_int] * 3, u64, u64, u64]
        loaded.one_f32.argtypes = [ctypes.c_float, *[ctypes.c_int] * 3, u64, u64, u64]
        loaded.one_f32.restype = ctypes.c_float
        return loaded

    return build


@functools.cache
def _cuda_missing() -> str:
    """Why nothing can run on CUDA; empty where it can."""
    try:
        from lpcaffe.numbers.rounding import cuda_backend

        cuda_backend.require()
    except LpcaffeError as error:
        return f"{error} (test_simulator.py runs this test in Numba's simulator)"
    return ""


@pytest.fixture(scope="session")
def simulated() -> bool:
    """Whether this process runs CUDA in Numba's simulator, where an element takes microseconds."""
    return SIMULATED


@pytest.fixture(autouse=True)
def _gpu_where_marked(request):
    if request.node.get_closest_marker("cuda") and _cuda_missing():
        pytest.skip(_cuda_missing())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fmt" in metafunc.fixturenames:
        metafunc.parametrize("fmt", FORMATS, ids=lambda f: f"Q{f[0]}.{f[1]}")
