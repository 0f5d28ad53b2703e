"""CUDA without a GPU: tests marked `cuda` in Numba's simulator, the PTX of the kernels, and what users are told."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from lpcaffe.numbers.rounding import SCHEMES

HERE = Path(__file__).parent
ROOT = HERE.parents[2]


def run(arguments: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A process of its own: Numba decides when it is first imported whether CUDA is simulated."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    env.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )


def test_everything_marked_cuda_holds_in_the_simulator():
    """In plain Python, not compiled: some microseconds an element, and it tests the arithmetic once more."""
    plugins = ["-p", "no:cacheprovider", "-p", "no:randomly"]
    quiet = ["-W", "ignore::RuntimeWarning"]  # NumPy's scalars report NaN and underflow
    done = run(
        ["-m", "pytest", str(HERE), "-m", "cuda", *plugins, *quiet],
        NUMBA_ENABLE_CUDASIM="1",
        NUMBA_DISABLE_JIT="1",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    progress = "".join(re.findall(r"^([.sxFE]+) +\[ *\d+%\]$", done.stdout, re.MULTILINE))
    assert set(progress) == {"."}, "a test was skipped"
    assert len(progress) > 2 * 4 * 10 + 50


PTX = """
import gc, json, sys, numpy as np
from lpcaffe.numbers.rounding import cuda_backend
gc.disable()  # a fifth of the time of a compiler in Python
dtype, capability = np.dtype(sys.argv[1]), tuple(json.loads(sys.argv[2]))
print(json.dumps({scheme: cuda_backend.ptx(scheme, dtype, capability) for scheme in sys.argv[3:]}))
"""


@pytest.mark.parametrize(
    ("dtype", "capability", "schemes"),
    [("float32", (8, 0), sorted(SCHEMES)), ("float64", (9, 0), ["half_even", "stochastic"])],
    ids=["f32-sm80", "f64-sm90"],
)
def test_ptx_is_what_it_should_be(dtype, capability, schemes):
    """In float64 of one scheme with random numbers and one without: the rules themselves are those of float32."""
    missing = [name for name in ("numba_cuda", "nvidia.cu13") if not _found(name)]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'lpcaffe[cuda-check]'")
    done = run(["-W", "error", "-c", PTX, dtype, json.dumps(capability), *schemes])
    assert done.returncode == 0, done.stderr
    kernels = json.loads(done.stdout)
    assert list(kernels) == schemes
    for scheme, ptx in kernels.items():
        code = [line.strip() for line in ptx.splitlines() if line.strip()[:2] not in ("", "//")]
        instructions = {re.sub(r"^@!?%\w+ ", "", line).split()[0].rstrip(";") for line in code if line.endswith(";")}
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        assert not {name for name in instructions if ".local" in name or name.startswith("call")}, scheme
        assert ".local" not in ptx
        assert not {name for name in instructions if name.startswith("fma")}
        products = {name for name in instructions if name.startswith("mul.") and re.search(r"\.f(32|64)$", name)}
        assert all(".rn." in name for name in products), "a plain product may be fused with an addition"
        assert products
        if dtype == "float32":
            assert not {name for name in instructions if ".f64" in name}, scheme
            assert {"ld.global.v4.f32", "st.global.v4.f32"} <= instructions
        else:
            assert {"ld.global.v2.f64", "st.global.v2.f64"} <= instructions
        assert ("mul.wide.u32" in instructions) == (scheme == "stochastic")


def _found(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


ASK = """
import sys, numpy as np
for name in sys.argv[1:]:
    sys.modules[name] = None
from lpcaffe.errors import LpcaffeError, MissingExtraError
from lpcaffe.numbers.rounding import round_fp
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in sys.argv[1:] else real(name, package)
out = np.full(3, 7, np.float32)
try:
    round_fp(np.ones(3, np.float32), 2, 6, out=out, device="cuda")
except LpcaffeError as error:
    assert (out == 7).all()
    print(type(error).__name__, error)
"""


def test_without_the_extra_the_error_names_it():
    assert run(["-c", ASK, "numba_cuda"]).stdout.splitlines() == [
        "MissingExtraError device \"cuda\" needs numba-cuda, which is not installed; pip install 'lpcaffe[cuda]'"
    ]
    assert run(["-c", ASK, "numba"]).stdout.startswith("MissingExtraError Numba cannot be imported")


def test_without_a_gpu_the_error_says_so():
    if not _found("numba_cuda"):
        pytest.skip("numba_cuda not installed: pip install 'lpcaffe[cuda-check]'")
    done = run(["-W", "error", "-c", ASK], CUDA_VISIBLE_DEVICES="", NUMBA_CUDA_DRIVER=str(HERE / "nothing"))
    assert done.stdout.startswith('LpcaffeError device "cuda": no GPU can be used: '), done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert not done.stderr


def test_one_module_imports_cuda():
    """numba-cuda has a successor, so that there will be something to replace."""
    imports = re.compile(
        r"^\s*(from numba\.cuda|import numba\.cuda|import numba_cuda|from numba import.*\bcuda\b)", re.M
    )
    files = [path for path in (ROOT / "lpcaffe").rglob("*.py") if imports.search(path.read_text(encoding="utf-8"))]
    assert [path.name for path in files] == ["cuda_backend.py"]
