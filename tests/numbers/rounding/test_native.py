"""native/round_fp.h: its generator, its formats, what it refuses, and that every language takes it.

Its bits are compared in test_parity.py.
"""

import ctypes
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.errors import FormatError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp
from lpcaffe.numbers.rounding.philox import words

NATIVE = Path(__file__).parents[3] / "native"


@pytest.mark.parametrize("build", ["c-O0", "c-O3-fma", "c++-O2"])
def test_generator_gives_the_known_answers(build, native):
    """Random123's, as far as a seed, a stream and a block can say their keys and counters."""
    found = (ctypes.c_uint32 * 4)()
    ones = 2**64 - 1
    for arguments, expected in [
        ((0, 0, 0), [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((ones, ones, ones), [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            (0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88),
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
        ((7, 0, 1), words(7, 0, 4, 4).tolist()),
    ]:
        native(build).philox(*arguments, found)
        assert list(found) == expected


def test_one_number_at_a_time_gives_the_bits_of_the_array(native):
    x = np.random.default_rng(3).normal(size=203).astype(np.float32)
    expected = round_fp(x, 2, 5, "stochastic", seed=5, stream=6, index=2**40 + 1)
    q = [native("c-O0").one_f32(v, 2, 5, 1, 5, 6, 2**40 + 1 + k) for k, v in enumerate(x.tolist())]
    assert np.array(q, np.float32).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_formats_are_held_or_refused_as_in_python(dtype, native):
    function = native("c-O0").round_f32 if dtype == np.float32 else native("c-O0").round_f64
    x = np.zeros(1, dtype)
    answers = set()
    for ad in [-60, -54, -53, -52, -25, -24, -23, 0, 1, 14, 125, 126, 127, 1021, 1022, 1023]:
        for width in [-3, 0, 1, 2, 24, 25, 26, 53, 54, 55]:
            try:
                QFormat(width - ad, ad).check_dtype(dtype)
                held = 1
            except FormatError:
                held = 0
            assert function(x.ctypes.data, x.ctypes.data, 1, width - ad, ad, 0, 0, 0, 0) == held, (width - ad, ad)
            answers.add(held)
    assert answers == {0, 1}


def test_fast_math_is_refused(compiler, tmp_path):
    cc = compiler(["cc", "gcc", "clang"])
    command = [cc, "-ffast-math", "-fsyntax-only", "-x", "c", str(NATIVE / "round_fp.h")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode != 0
    assert "cannot be compiled with fast-math" in done.stderr


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvcc_compiles_the_readmes_kernel_without_double_arithmetic_or_local_memory(architecture, compiler, tmp_path):
    nvcc = compiler(["nvcc"])
    readme = (NATIVE / "README.md").read_text(encoding="utf-8")
    source, ptx = tmp_path / "kernel.cu", tmp_path / "kernel.ptx"
    source.write_text(re.search(r"```c\+\+\n(.*?)```", readme, re.DOTALL)[1])
    flags = ["-O2", f"-arch={architecture}", "-Werror", "all-warnings", f"-I{NATIVE}"]
    done = subprocess.run([nvcc, *flags, "-ptx", source, "-o", ptx], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    code = ptx.read_text()
    assert ".visible .entry" in code
    assert ".f64" not in code
    assert ".local" not in code
