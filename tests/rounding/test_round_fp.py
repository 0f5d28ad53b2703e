"""The function around the rules: indices, shapes, strides, `out`, backends, errors, and what importing it costs."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lpcaffe.rounding as rounding
from lpcaffe.errors import FormatError, LpcaffeError, MissingExtraError
from lpcaffe.rounding import SCHEMES, numpy_backend, round_fp

PACKAGE = Path(rounding.__file__).parents[1]
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
    from lpcaffe.rounding import numba_backend

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
def test_in_place_and_overlapping_outputs_give_the_same_bits(backend, x):
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
    for source, target in (slice(0, -3), slice(3, None)), (slice(3, None), slice(0, -3)):
        buffer = np.concatenate([x.reshape(-1), np.zeros(3, np.float32)])
        buffer[source] = x.reshape(-1)
        round_fp(buffer[source], 2, 6, "stochastic", seed=1, out=buffer[target], backend=backend)
        assert bits(buffer[target].copy()) == bits(expected.reshape(-1))


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


def test_last_index_of_all_is_usable():
    assert round_fp(np.zeros(5, np.float32), 2, 3, "stochastic", index=2**64 - 5).shape == (5,)


def test_auto_takes_numba_for_large_arrays_and_numpy_where_it_is_missing(x, monkeypatch):
    from lpcaffe.rounding import numba_backend

    used = []
    for module in (numpy_backend, numba_backend):
        name, real = module.__name__.rpartition(".")[2], module.round_piece
        monkeypatch.setattr(module, "round_piece", lambda *a, name=name, real=real: (used.append(name), real(*a)))
    monkeypatch.setattr(rounding, "NUMBA_FROM", x.size)
    small = round_fp(x[1:], 2, 6)
    large = round_fp(x, 2, 6)
    assert set(used) == {"numpy_backend", "numba_backend"}
    assert bits(large[1:].copy()) == bits(small)
    used.clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert bits(round_fp(x, 2, 6)) == bits(large)
    assert set(used) == {"numpy_backend"}
    with pytest.raises(MissingExtraError, match=r'Numba cannot be imported: .*; use backend="numpy"'):
        round_fp(x, 2, 6, backend="numba")


def run_python(code: str, cwd: Path, **environment: str) -> list:
    """What a fresh interpreter prints as JSON; `cwd` comes first on its path."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(cwd), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_and_small_arrays_do_not_load_numba():
    code = """
import json, sys, numpy as np, lpcaffe.rounding as r
r.round_fp(np.zeros(1000, np.float32), 2, 14, "stochastic")
print(json.dumps([m for m in ("numba", "llvmlite") if m in sys.modules]))
"""
    assert run_python(code, PACKAGE.parent) == []


KERNEL = """
import json, numpy as np, lpcaffe.rounding as r
from lpcaffe.rounding import numba_backend
q = r.round_fp(np.float32([0.3, -0.7]), 2, 2, backend="numba")
stats = numba_backend.kernel("deterministic").stats
print(json.dumps([q.tolist(), sum(stats.cache_hits.values()), stats.cache_path]))
"""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The modules that rounding needs, where their cache directories can be spoilt."""
    (tmp_path / "lpcaffe").mkdir()
    for name in ("__init__.py", "errors.py", "qformat.py"):
        shutil.copy(PACKAGE / name, tmp_path / "lpcaffe" / name)
    shutil.copytree(PACKAGE / "rounding", tmp_path / "lpcaffe/rounding", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "lpcaffe/__init__.py").write_text("")
    return tmp_path


def test_compiled_kernels_are_cached_and_an_edited_rule_is_not(copied):
    cache = {"NUMBA_CACHE_DIR": str(copied / "cache")}
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.75], 0]
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.75], 1]
    rule = copied / "lpcaffe/rounding/deterministic.py"
    rule.write_text(rule.read_text().replace("fraction >= HALF", "fraction > HALF + HALF"))
    assert run_python(KERNEL, copied, **cache)[:2] == [[0.25, -0.5], 0]


def test_kernels_compile_where_nothing_can_be_written(copied):
    (copied / "file").write_text("")
    (copied / "lpcaffe/rounding/__pycache__").write_text("")
    nowhere = str(copied / "file" / "below")
    places = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "NUMBA_CACHE_DIR": ""}
    assert run_python(KERNEL, copied, **places) == [[0.25, -0.75], 0, None]
