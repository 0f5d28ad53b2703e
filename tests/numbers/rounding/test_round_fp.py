"""The function around the rules: indices, shapes, strides, `out`, backends, errors, and what importing it costs."""

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import lpcaffe.numbers.rounding as rounding
from lpcaffe.errors import FormatError, LpcaffeError, MissingExtraError
from lpcaffe.numbers.rounding import SCHEMES, numpy_backend, round_fp

PACKAGE = Path(rounding.__file__).parents[2]
BACKENDS = ["numpy", "numba"]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(3, 5, 7, 211)).astype(np.float32)


def bits(array: np.ndarray) -> list[int]:
    return array.view(f"u{array.itemsize}").tolist()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_seven_unequal_pieces_give_the_bits_of_the_whole(scheme, backend, x):
    flat = x.reshape(-1)
    whole = round_fp(flat, 2, 6, scheme, seed=9, stream=4, index=2**40 + 3, backend="numpy")
    edges = [0, 1, 4, 6, 5000, 5003, 17001, flat.size]
    parts = [
        round_fp(flat[a:b], 2, 6, scheme, seed=9, stream=4, index=2**40 + 3 + a, backend=backend)
        for a, b in itertools.pairwise(edges)
    ]
    assert len(parts) == 7
    assert bits(np.concatenate(parts)) == bits(whole)


@pytest.mark.parametrize("backend", BACKENDS)
def test_pieces_inside_the_backends_change_nothing(backend, x, monkeypatch):
    """A prime piece size, not a multiple of a Philox block."""
    from lpcaffe.numbers.rounding import numba_backend

    whole = round_fp(x, 2, 6, "stochastic", seed=9, backend=backend)
    for module in (numpy_backend, numba_backend):
        monkeypatch.setattr(module, "PIECE", 1013)
    assert bits(round_fp(x, 2, 6, "stochastic", seed=9, backend=backend)) == bits(whole)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:, 1:4, ::-1, 3:200:2],
        lambda a: a.T,
        lambda a: np.asfortranarray(a),
        lambda a: np.broadcast_to(a[0, 0, 0], (2, 3, 211)),
        lambda a: a[1, 2, 3, 4],
        lambda a: a[:0],
        lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32),
    ],
    ids=["strided", "transposed", "fortran", "broadcast", "scalar", "empty", "unaligned"],
)
def test_any_memory_layout_is_counted_in_c_order(view, backend, x, monkeypatch):
    v = view(x)
    expected = round_fp(np.array(v, order="C").reshape(-1), 3, 4, "stochastic", seed=2).reshape(v.shape)
    monkeypatch.setattr(numpy_backend, "PIECE", 101)
    q = round_fp(v, 3, 4, "stochastic", seed=2, backend=backend)
    assert (type(q), q.shape, q.dtype) == (np.ndarray, v.shape, np.float32)
    assert bits(q) == bits(expected)
    out = np.full(tuple(2 * n + 1 for n in v.shape), 7, np.float32)
    window = out[(..., *(slice(1, None, 2) for _ in v.shape))]
    assert round_fp(v, 3, 4, "stochastic", seed=2, out=window, backend=backend) is window
    assert window.tolist() == expected.tolist()
    if v.ndim:
        assert (out[::2] == 7).all(), "wrote beside the window"


@pytest.mark.parametrize("backend", BACKENDS)
def test_in_place_gives_the_same_bits_in_any_layout(backend, x):
    expected = round_fp(x, 2, 6, "stochastic", seed=1)
    same = x.copy()
    assert round_fp(same, 2, 6, "stochastic", seed=1, out=same, backend=backend) is same
    assert bits(same) == bits(expected)
    strided = np.repeat(x, 2, axis=-1)[..., ::2]
    round_fp(strided, 2, 6, "stochastic", seed=1, out=strided, backend=backend)
    assert bits(strided.copy()) == bits(expected)
    turned = x.copy().T  # both operands alike: their memory order must not become the order of the index
    round_fp(turned, 2, 6, "stochastic", seed=1, out=turned, backend=backend)
    assert turned.tolist() == round_fp(np.ascontiguousarray(x.T), 2, 6, "stochastic", seed=1).tolist()


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_out_that_overlaps_is_refused_before_anything_is_written(backend, x):
    flat = x.reshape(-1)
    before = flat.copy()
    square = flat[:144].reshape(12, 12)
    for source, target in [(flat[:-3], flat[3:]), (flat[3:], flat[:-3]), (flat[::-1], flat), (square, square.T)]:
        with pytest.raises(LpcaffeError, match="out overlaps x; give x itself"):
            round_fp(source, 2, 6, out=target, backend=backend)
    with pytest.raises(LpcaffeError, match="one element several times"):
        round_fp(x[0, 0, 0], 2, 6, out=np.lib.stride_tricks.as_strided(flat, (211,), (0,)), backend=backend)
    assert bits(flat) == bits(before)
    even, odd = flat[:-1:2], flat[1::2]  # interleaved: no element is shared
    round_fp(even, 2, 6, out=odd, backend=backend)
    assert bits(even.copy()) == bits(before[:-1:2].copy())
    assert bits(odd.copy()) == bits(round_fp(before[:-1:2], 2, 6))


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_threads_change_nothing(scheme, monkeypatch):
    from lpcaffe.numbers.rounding import numba_backend

    x = np.random.default_rng(6).standard_normal(100_003, dtype=np.float32)
    monkeypatch.setattr(numba_backend, "PIECE", 1013)
    ran = set()
    kernel = numba_backend.kernel(scheme)
    monkeypatch.setattr(
        numba_backend, "kernel", lambda name: lambda *a: (ran.add(threading.get_ident()), time.sleep(1e-4), kernel(*a))
    )
    results = {}
    for threads in (1, 2, 5):
        ran.clear()
        results[threads] = round_fp(x, 2, 6, scheme, seed=9, index=3, backend="numba", threads=threads)
        assert len(ran) <= threads
        assert threads == 1 or len(ran) > 1 or numba_backend.processors() == 1
    assert len({q.tobytes() for q in results.values()}) == 1
    assert bits(results[1]) == bits(round_fp(x, 2, 6, scheme, seed=9, index=3, backend="numpy"))


def test_callers_may_be_many_threads(x):
    expected = round_fp(x, 2, 6, "stochastic", seed=1)
    with ThreadPoolExecutor(4) as callers:
        runs = [callers.submit(round_fp, x, 2, 6, "stochastic", seed=1, backend="numba") for _ in range(20)]
    assert {run.result().tobytes() for run in runs} == {expected.tobytes()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    code = """
import json, os, sys, numpy as np
from lpcaffe.numbers.rounding import numba_backend, round_fp
numba_backend.PIECE = 1000
x = np.linspace(-3, 3, 50_001, dtype=np.float32)
whole = round_fp(x, 2, 6, backend="numba", threads=2)
child = os.fork()
if child == 0:
    os._exit(int(round_fp(x, 2, 6, backend="numba", threads=2).tobytes() != whole.tobytes()))
print(json.dumps(os.waitpid(child, 0)[1]))
"""
    assert run_python(code, PACKAGE.parent, PYTHONWARNINGS="ignore") == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_input_is_left_alone(backend, x):
    before = x.copy()
    x.setflags(write=False)
    round_fp(x, 2, 6, backend=backend)
    assert bits(x) == bits(before)


def test_seed_stream_and_index_each_matter_to_stochastic_only(x):
    calls = [
        {"seed": 0},
        {"seed": 1},
        {"seed": 2**32},
        {"stream": 1},
        {"stream": 2**32},
        {"index": 4},
        {"index": 2**34},
    ]
    for scheme in SCHEMES:
        results = {round_fp(x, 2, 6, scheme, **call).tobytes() for call in calls}
        assert len(results) == (len(calls) if scheme == "stochastic" else 1)


def test_python_numbers_are_float64_and_numpy_types_stay(x):
    assert round_fp(0.3, 2, 2).dtype == np.float64
    assert round_fp(0.3, 2, 2).shape == ()
    assert round_fp([1, -3, 2**20], 3, 2).tolist() == [1.0, -3.0, 3.75]
    assert round_fp([[0.3], [0.4]], 2, 2).tolist() == [[0.25], [0.5]]
    assert round_fp(np.float32(0.3), 2, 2).dtype == np.float32
    assert round_fp(x.astype(np.float64), 2, 30).dtype == np.float64


class OnTheDevice:
    __cuda_array_interface__: ClassVar[dict] = {"shape": (3,), "typestr": "<f4", "data": (64, False), "version": 3}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ad": 24}, FormatError, r"Q2\.24 has 26 bits; a float32 holds .* up to bd \+ ad = 25; use float64 data"),
        ({"bd": -110, "ad": 127}, FormatError, r"float32 data needs -24 <= ad <= 126 \(got 127\)"),
        ({"bd": 30, "ad": -25}, FormatError, r"float32 data needs -24 <= ad <= 126 \(got -25\)"),
        ({"bd": -2, "ad": 2}, FormatError, r"Q-2\.2 has 0 bits; expected bd \+ ad >= 1"),
        ({"bd": 2.5}, FormatError, "two integers"),
        ({"scheme": "nearest"}, LpcaffeError, "'nearest'; expected one of deterministic, floor, half_even, stochastic"),
        ({"backend": "opencl"}, LpcaffeError, "'opencl'; expected one of auto, numpy, numba"),
        ({"device": "gpu"}, LpcaffeError, "unknown device 'gpu'; expected one of cpu, cuda"),
        ({"device": "cuda", "backend": "numpy"}, LpcaffeError, 'backend and threads are for device="cpu"'),
        ({"cuda_stream": 0}, LpcaffeError, 'cuda_stream is for device="cuda"'),
        ({"threads": 0}, LpcaffeError, "threads must be a positive integer, got 0"),
        ({"x": np.zeros(3, np.complex64)}, LpcaffeError, "got complex64"),
        ({"x": OnTheDevice()}, LpcaffeError, 'x is on a CUDA device; give device="cuda"'),
        ({"seed": -1}, LpcaffeError, r"seed must be in 0 \.\. 2\^64 - 1, got -1"),
        ({"stream": 2**64}, LpcaffeError, "stream must be in"),
        ({"index": 0.5}, LpcaffeError, "index must be an integer, got 0.5"),
        ({"index": 2**64 - 5}, LpcaffeError, "no 64-bit index for all 6 elements"),
        ({"x": np.zeros(3, np.int32)}, LpcaffeError, r"float32 or float64, got int32; convert it with \.astype"),
        ({"x": np.zeros(3, np.float16)}, LpcaffeError, "got float16"),
        ({"x": np.zeros(3, ">f4")}, LpcaffeError, "got >f4"),
        ({"x": "text"}, LpcaffeError, "got <U4"),
        ({"x": [[1.0], [2.0, 3.0]]}, LpcaffeError, "got list"),
        ({"x": None}, LpcaffeError, "got object"),
        ({"out": np.zeros(6, np.float32)}, LpcaffeError, r"float32 \(2, 3\) like x, got float32 \(6,\)"),
        ({"out": np.zeros((2, 3))}, LpcaffeError, "got float64"),
        ({"out": [0.0]}, LpcaffeError, "got list"),
        ({"out": np.broadcast_to(np.float32(0), (2, 3))}, LpcaffeError, "read-only"),
    ],
)
def test_wrong_arguments_are_one_line_errors(arguments, error, message):
    call = {"x": np.zeros((2, 3), np.float32), "bd": 2, "ad": 14, **arguments}
    with pytest.raises(error, match=message) as caught:
        round_fp(**call)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [{"threads": 0}, {"backend": "opencl"}, {"scheme": "nearest"}, {"seed": -1}, {"ad": 24}, {"index": 2**64 - 1}],
    ids=str,
)
def test_nothing_is_written_before_an_error(arguments, x):
    """Also where `x` would be copied to `out` first."""
    for source in x, x[..., ::2]:
        out = np.full(source.shape, 7, np.float32)
        with pytest.raises(LpcaffeError):
            round_fp(source, **{"bd": 2, "ad": 6, "out": out, **arguments})
        assert (out == 7).all()


def test_last_index_of_all_is_usable():
    assert round_fp(np.zeros(5, np.float32), 2, 3, "stochastic", index=2**64 - 5).shape == (5,)


def test_auto_takes_numba_for_large_arrays_and_numpy_where_it_is_missing(x, monkeypatch):
    from lpcaffe.numbers.rounding import numba_backend

    used = []
    for module in (numpy_backend, numba_backend):
        name, real = module.__name__.rpartition(".")[2], module.round_flat
        monkeypatch.setattr(
            module, "round_flat", lambda *a, name=name, real=real, **k: (used.append(name), real(*a, **k))
        )
    monkeypatch.setattr(rounding, "NUMBA_FROM", 2 * x.size)
    monkeypatch.setattr(rounding, "_earlier", 0)
    results = [round_fp(x, 2, 6) for _ in range(3)]
    assert used == ["numpy_backend", "numba_backend", "numba_backend"], "work adds up over calls"
    assert len({q.tobytes() for q in results}) == 1
    used.clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert bits(round_fp(x, 2, 6)) == bits(results[0])
    assert used == ["numpy_backend"]
    with pytest.raises(MissingExtraError, match=r'Numba cannot be imported: .*; use backend="numpy"'):
        round_fp(x, 2, 6, backend="numba")


def run_python(code: str, cwd: Path, **environment: str) -> list:
    """What a fresh interpreter prints as JSON; `cwd` comes first on its path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), "NUMBA_NUM_THREADS": "2", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_and_small_arrays_do_not_load_numba():
    code = """
import json, sys, numpy as np, lpcaffe.numbers.rounding as r
r.round_fp(np.zeros(1000, np.float32), 2, 14, "stochastic")
print(json.dumps([m for m in ("numba", "llvmlite") if m in sys.modules]))
"""
    assert run_python(code, PACKAGE.parent) == []


KERNEL = """
import json, numpy as np, lpcaffe.numbers.rounding as r
from lpcaffe.numbers.rounding import numba_backend
q = r.round_fp(np.float32([0.3, -0.7]), 2, 2, backend="numba")
stats = numba_backend.kernel("deterministic").stats
print(json.dumps([q.tolist(), sum(stats.cache_hits.values()), stats.cache_path]))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The modules that rounding needs, where their cache directories can be spoilt."""
    (tmp_path / "lpcaffe/numbers").mkdir(parents=True)
    for name in (
        "__init__.py",
        "errors.py",
        "numbers/__init__.py",
        "numbers/number_format.py",
        "numbers/decibels.py",
        "numbers/qformat.py",
    ):
        shutil.copy(PACKAGE / name, tmp_path / "lpcaffe" / name)
    rounding = "numbers/rounding"
    shutil.copytree(PACKAGE / rounding, tmp_path / "lpcaffe" / rounding, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lpcaffe/__init__.py").write_text("")
    return tmp_path


def test_compiled_kernels_are_cached_and_an_edited_rule_is_not(copied):
    cache = {"NUMBA_CACHE_DIR": str(copied / "cache")}
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.75], 0]
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.75], 1]
    rule = copied / "lpcaffe/numbers/rounding/deterministic.py"
    rule.write_text(rule.read_text().replace("fraction >= HALF", "fraction > HALF + HALF"))
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.5], 0]


def test_kernels_compile_where_nothing_can_be_written(copied):
    (copied / "file").write_text("")
    (copied / "lpcaffe/numbers/rounding/__pycache__").write_text("")
    nowhere = str(copied / "file" / "below")
    places = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "NUMBA_CACHE_DIR": ""}
    assert run_python(KERNEL, copied, **places) == [[0.25, -0.75], 0, None]
