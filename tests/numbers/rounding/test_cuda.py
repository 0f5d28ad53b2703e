"""device="cuda": arrays of the host and of the device, on a GPU where there is one and in Numba's simulator.

The simulator runs this file in a process of its own, see test_simulator.py.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from lpcaffe.errors import FormatError, LpcaffeError
from lpcaffe.numbers.rounding import SCHEMES, round_fp

pytestmark = pytest.mark.cuda

CALL = {"bd": 2, "ad": 6, "scheme": "stochastic", "seed": 9, "stream": 4}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(3, 5, 7, 11)).astype(np.float32)


@pytest.fixture
def backend():
    from lpcaffe.numbers.rounding import cuda_backend

    return cuda_backend


def test_seven_unequal_pieces_on_host_and_device_give_the_bits_of_the_whole_on_the_cpu(x, backend):
    flat = x.reshape(-1)
    for scheme in SCHEMES:
        call = CALL | {"scheme": scheme}
        whole = round_fp(flat, **call, index=2**40 + 3, backend="numpy")
        edges = [0, 1, 4, 6, 500, 503, 1001, flat.size]
        for put, get in (np.array, np.array), (backend.cuda.to_device, lambda d: d.copy_to_host()):
            parts = [
                get(round_fp(put(flat[a:b]), **call, index=2**40 + 3 + a, device="cuda"))
                for a, b in itertools.pairwise(edges)
            ]
            assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("chunk", [1, 7, 64, 1155, 5000])
def test_chunks_of_staged_arrays_do_not_show(chunk, x, backend, monkeypatch):
    x = x if chunk > 1 else x[:1, :1, :1]
    expected = round_fp(x, **CALL, index=3)
    monkeypatch.setattr(backend, "CHUNK", chunk)
    assert round_fp(x, **CALL, index=3, device="cuda").tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("index", range(5))
def test_any_alignment_of_memory_and_index_gives_the_same_bits(dtype, offset, index, x, backend):
    x = x.reshape(-1)[:203].astype(dtype)
    for scheme in "deterministic", "stochastic":
        call = CALL | {"scheme": scheme, "index": index}
        buffer, target = backend.cuda.to_device(x), backend.cuda.to_device(np.full(x.size + 1, 7, dtype))
        source, out = buffer[offset:], target[1 : x.size + 1 - offset]
        assert round_fp(source, **call, out=out, device="cuda") is out
        assert out.copy_to_host().tobytes() == round_fp(x[offset:], **call).tobytes()
        rest = target.copy_to_host()
        assert rest[0] == 7
        assert (rest[x.size + 1 - offset :] == 7).all(), "wrote beside out"
        assert round_fp(source, **call, out=source, device="cuda") is source
        assert buffer.copy_to_host()[offset:].tobytes() == round_fp(x[offset:], **call).tobytes()
        assert buffer.copy_to_host()[:offset].tobytes() == x[:offset].tobytes()


def test_host_arrays_of_any_layout_and_shape(x):
    for view in x.T, x[:, ::-1, 1:6, ::2], x[1, 2, 3, 4], x[:0], np.asfortranarray(x):
        expected = round_fp(view, **CALL)
        q = round_fp(view, **CALL, device="cuda")
        assert (type(q), q.shape, q.tobytes()) == (np.ndarray, view.shape, expected.tobytes())
        out = np.zeros((*view.shape, 2), np.float32)[..., 1]
        assert round_fp(view, **CALL, device="cuda", out=out) is out
        assert out.tobytes() == expected.tobytes()


def test_device_arrays_keep_shape_and_type_and_stay_there(x, backend):
    for host in x, x.astype(np.float64), x[:0]:
        q = round_fp(backend.cuda.to_device(host), **CALL, device="cuda")
        assert backend.on_device(q)
        assert (q.shape, q.dtype) == (host.shape, host.dtype)
        assert q.copy_to_host().tobytes() == round_fp(host, **CALL).tobytes()


def test_a_stream_of_numba_is_used(x, backend):
    stream = backend.cuda.stream()
    q = round_fp(backend.cuda.to_device(x, stream=stream), **CALL, device="cuda", cuda_stream=stream)
    found = q.copy_to_host(stream=stream)
    stream.synchronize()
    assert found.tobytes() == round_fp(x, **CALL).tobytes()


def test_streams_of_other_libraries_are_taken_by_their_address(backend, monkeypatch):
    monkeypatch.setattr(backend.cuda, "external_stream", lambda address: ("external", address), raising=False)
    for given, address in [
        (SimpleNamespace(__cuda_stream__=lambda: (0, 1234)), 1234),
        (SimpleNamespace(cuda_stream=77), 77),
        (SimpleNamespace(ptr=78), 78),
        (79, 79),
    ]:
        assert backend.stream_from(given) == ("external", address)
    assert backend.stream_from(None) == backend.stream_from(0) == 0
    for wrong in True, 1.5, "main", SimpleNamespace(ptr=None):
        with pytest.raises(LpcaffeError, match="a CUDA stream or its address, got"):
            backend.stream_from(wrong)


def test_wrong_arguments_are_errors_before_anything_is_written(x, backend):
    device = backend.cuda.to_device
    resident, flat = device(x), device(x.reshape(-1))
    for arguments, error, message in [
        ({"x": device(x.astype(np.int32))}, LpcaffeError, "float32 or float64, got int32"),
        ({"x": device(np.asfortranarray(x))}, LpcaffeError, "x is not contiguous on the device"),
        ({"x": resident, "ad": 24}, FormatError, "26 bits"),
        ({"x": resident, "index": 2**64 - 5}, LpcaffeError, "no 64-bit index"),
        ({"x": resident, "seed": -1}, LpcaffeError, "seed must be in"),
        ({"x": resident, "scheme": "nearest"}, LpcaffeError, "expected one of deterministic, floor"),
        ({"x": resident, "out": x}, LpcaffeError, "both be on the host, or both on the CUDA device"),
        ({"x": x, "out": resident}, LpcaffeError, "both be on the host, or both on the CUDA device"),
        ({"x": resident, "out": flat}, LpcaffeError, r"out must be an array of float32 \(3, 5, 7, 11\) like x"),
        ({"x": resident, "out": device(x.astype(np.float64))}, LpcaffeError, "out must be an array of float32"),
        ({"x": flat[3:], "out": flat[:-3]}, LpcaffeError, "out overlaps x"),
        ({"x": flat[:-3], "out": flat[3:]}, LpcaffeError, "out overlaps x"),
        ({"x": resident, "cuda_stream": "main"}, LpcaffeError, "a CUDA stream or its address, got str"),
        ({"x": x, "cuda_stream": 0}, LpcaffeError, "cuda_stream is for arrays on the device"),
        ({"x": x.astype(np.int32)}, LpcaffeError, "float32 or float64, got int32"),
        ({"x": x, "threads": 2}, LpcaffeError, 'for device="cpu"'),
    ]:
        with pytest.raises(error, match=message) as caught:
            round_fp(**{**CALL, "device": "cuda", **arguments})
        assert "\n" not in str(caught.value)
    assert resident.copy_to_host().tobytes() == x.tobytes()
    assert flat.copy_to_host().tobytes() == x.tobytes()
