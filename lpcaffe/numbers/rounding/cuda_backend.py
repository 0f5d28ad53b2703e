"""The rounding rule compiled by Numba for CUDA. This is the one module that imports `numba.cuda`.

Each thread of a grid-stride loop rounds four elements: those of one Philox block, so that no generator is kept and none
of its words is wasted. Where memory allows it, they are loaded and stored as one vector of 16 bytes. Memory is plain
device memory, never managed. Under NUMBA_ENABLE_CUDASIM=1 the same lines run in Numba's simulator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from lpcaffe.errors import LpcaffeError, MissingExtraError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding.arrays import FLOATS, check_numbers, checked, flattened
from lpcaffe.numbers.rounding.compiled import bound, constants, inlined
from lpcaffe.numbers.rounding.philox import block_words, choose, unit
from lpcaffe.numbers.rounding.scalar import ZERO, round_one
from lpcaffe.numbers.rounding.scheme import SCHEMES, Floats, Scheme

try:
    from numba import config, cuda
except ImportError as error:
    raise MissingExtraError(f"Numba cannot be imported: {error}") from error

SIMULATED = bool(config.ENABLE_CUDASIM)
if not SIMULATED and find_spec("numba_cuda") is None:
    raise MissingExtraError(
        'device "cuda" needs numba-cuda, which is not installed', hint="pip install 'lpcaffe[cuda]'"
    )

THREADS = 4 if SIMULATED else 256
"""Threads of a block. The simulator pays for each a thread of the CPU."""

BLOCKS_PER_SM = 8
"""2048 threads, as many as a multiprocessor runs at a time."""

CHUNK = 1 << 22
"""Elements of a host array that are on their way at a time, in each of SLOTS buffers: 16 MiB of float32."""

SLOTS = 3
"""One chunk goes in, one is rounded, one comes out."""


def round_arrays(
    x: Any, out: Any, scheme: Scheme, fmt: QFormat, seed: int, stream: int, index: int, cuda_stream: Any
) -> Any:
    """round_fp of arrays on the host or on the device; see `lpcaffe.numbers.rounding.round_fp` for the arguments."""
    require()
    if on_device(x) != on_device(x if out is None else out):
        raise LpcaffeError("x and out must both be on the host, or both on the CUDA device")
    words = seed, stream, index
    if on_device(x):
        return _round_on_device(x, out, scheme, fmt, words, stream_from(cuda_stream))
    if cuda_stream is not None:
        raise LpcaffeError("cuda_stream is for arrays on the device; those of the host are sent on streams of our own")
    source, target = checked(x, out, fmt, index)
    with flattened(source, target) as (flat, flat_out):
        _round_staged(flat, flat_out, scheme, fmt, words)
    return target


def require() -> None:
    """Raise LpcaffeError, with the reason, where there is no GPU."""
    if not cuda.is_available():
        reason = cuda.cuda_error() or "Numba finds no NVVM compiler; pip install 'lpcaffe[cuda]'"
        raise LpcaffeError(f'device "cuda": no GPU can be used: {" ".join(str(reason).split())}')


def on_device(x: Any) -> bool:
    """Whether an object is an array on a CUDA device, or one of the simulator's."""
    return hasattr(x, "__cuda_array_interface__") or hasattr(x, "__cuda_ndarray__")


def stream_from(given: Any) -> Any:
    """Numba's object for a stream: one of Numba's, one of another library, or an address."""
    if given is None:
        return 0  # CUDA's default stream
    if hasattr(given, "auto_synchronize"):  # Numba's
        return given
    address = given
    if hasattr(given, "__cuda_stream__"):
        address = given.__cuda_stream__()[1]
    else:
        for name in ("cuda_stream", "ptr"):  # PyTorch, CuPy
            address = getattr(given, name, address)
    if isinstance(address, bool) or not isinstance(address, int):
        raise LpcaffeError(f"cuda_stream must be a CUDA stream or its address, got {type(given).__name__}")
    return cuda.external_stream(address) if address else 0


def _round_on_device(x: Any, out: Any, scheme: Scheme, fmt: QFormat, words: tuple[int, int, int], stream: Any) -> Any:
    shape, dtype, address = _described("x", x)
    size = int(np.prod(shape, dtype=np.int64))
    if dtype not in FLOATS:
        raise LpcaffeError(f"expected an array of float32 or float64, got {dtype}")
    check_numbers(fmt, dtype, words[2], size)
    if out is None:
        out = cuda.device_array(shape, dtype, stream=stream)
    elif out is not x:
        if (shape, dtype) != _described("out", out)[:2]:
            raise LpcaffeError(f"out must be an array of {dtype} {shape} like x, got {_described('out', out)[:2]}")
        distance = abs(_described("out", out)[2] - address)
        if 0 < distance < size * dtype.itemsize:
            raise LpcaffeError("out overlaps x", hint="give x itself, or an array of its own memory")
    if _interface(out)["data"][1]:
        raise LpcaffeError("out is read-only")
    if size:
        _launch(_flat(x, size), _flat(out, size), scheme, fmt, words, stream)
    return out


def _interface(array: Any) -> dict[str, Any]:
    """What the array says of itself; the simulator's say it as NumPy's do."""
    interface: dict[str, Any] = getattr(array, "__cuda_array_interface__", None) or array.__array_interface__
    return interface


def _described(name: str, array: Any) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and address of an array on the device, which must be contiguous."""
    interface = _interface(array)
    shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
    strides, expected = interface.get("strides"), dtype.itemsize
    for length, stride in zip(reversed(shape), reversed(strides or ()), strict=False):
        if length > 1 and stride != expected and 0 not in shape:
            raise LpcaffeError(f"{name} is not contiguous on the device", hint="copy it there in C order first")
        expected *= length
    if interface.get("mask") is not None:
        raise LpcaffeError(f"{name} is a masked array; give the data itself")
    return shape, dtype, int(interface["data"][0])


def _flat(array: Any, size: int) -> Any:
    """A 1-D view of a contiguous array on the device. Waits for the stream that its owner names, if any."""
    if SIMULATED:
        return array.reshape(size)
    return cuda.from_cuda_array_interface({**_interface(array), "shape": (size,), "strides": None}, owner=array)


def _round_staged(x: Floats, out: Floats, scheme: Scheme, fmt: QFormat, words: tuple[int, int, int]) -> None:
    """Round a host array by way of pinned buffers; copies in, kernels and copies out overlap."""
    seed, stream, index = words
    length = min(CHUNK, x.size)
    slots = [
        (cuda.stream(), cuda.pinned_array(length, x.dtype), cuda.device_array(length, x.dtype))
        for _ in range(min(SLOTS, -(-x.size // max(length, 1))))
    ]
    under_way: dict[int, slice] = {}

    def finish(number: int) -> None:
        if number in under_way:
            part = under_way.pop(number)
            queue, host, _ = slots[number]
            queue.synchronize()
            out[part] = host[: out[part].size]

    for count, start in enumerate(range(0, x.size, max(length, 1))):
        number = count % len(slots)
        finish(number)
        part = slice(start, min(start + length, x.size))
        queue, host, device = slots[number]
        piece, device_piece = host[: part.stop - start], device[: part.stop - start]
        piece[:] = x[part]
        device_piece.copy_to_device(piece, stream=queue)
        _launch(device_piece, device_piece, scheme, fmt, (seed, stream, index + start), queue)
        device_piece.copy_to_host(piece, stream=queue)
        under_way[number] = part
    for number in list(under_way):
        finish(number)


def _launch(x: Any, out: Any, scheme: Scheme, fmt: QFormat, words: tuple[int, int, int], stream: Any) -> None:
    """Start the kernel on flat arrays of the device."""
    seed, stream_number, index = words
    itemsize = x.dtype.itemsize
    addresses = [_interface(array)["data"][0] for array in (x, out)]
    # Elements that block 0 of four has before the first. Without random numbers any cut will do: one that is aligned.
    shift = index % 4 if scheme.random else addresses[0] // itemsize % 4
    packed = all((address - shift * itemsize) % 16 == 0 for address in addresses)
    blocks = -(-(x.size + shift) // 4)
    grid = min(-(-blocks // THREADS), BLOCKS_PER_SM * multiprocessors())
    kernel(scheme.name)[grid, THREADS, stream](
        x, out, np.int64(shift), packed, *constants(fmt, x.dtype), np.uint64(seed), np.uint64(stream_number),
        np.uint64(index // 4),
    )  # fmt: skip


@functools.cache
def multiprocessors() -> int:
    """How many the device has."""
    return 1 if SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


@functools.cache
def kernel(name: str) -> Any:
    """The kernel of one scheme."""
    return cuda.jit(kernel_function(name), fastmath=False)


def kernel_function(name: str) -> Callable[..., None]:
    """The kernel of one scheme before it is compiled."""
    scheme = SCHEMES[name]
    names: dict[str, Any] = {"rule": inlined(scheme.rule), "random": scheme.random}
    if SIMULATED:
        return bound(round_blocks, **names, load4=load4, store4=store4)
    from lpcaffe.numbers.rounding import cuda_intrinsics as own

    names |= {"load4": own.load4, "store4": own.store4}
    return bound(round_blocks, **names, product=own.product, wide_product=own.wide_product)


def ptx(name: str, dtype: Any, capability: tuple[int, int]) -> str:
    """The PTX of a kernel, which needs the compiler but no GPU: for tests and for the curious."""
    from numba import types

    real = types.float32 if dtype == np.float32 else types.float64
    array = types.Array(real, 1, "C")
    signature = types.void(array, array, types.int64, types.boolean, real, real, real, real, *[types.uint64] * 3)
    code, _ = cuda.compile(
        kernel_function(name), signature, device=False, abi="numba", cc=capability, output="ptx", fastmath=False
    )
    return str(code)


random = True
"""Whether the scheme of a kernel uses random numbers. `bound` sets it for each kernel."""


def round_blocks(
    x: Any, out: Any, shift: Any, packed: Any, top: Any, scale: Any, step: Any, whole: Any, seed: Any, stream: Any,
    first_block: Any,
) -> None:  # fmt: skip
    """Round blocks of four. Block b holds the elements 4 b - shift to 4 b - shift + 3 as far as they exist.

    `packed`: their addresses are multiples of 16. `first_block`: the number of block 0 in the random sequence.
    """
    u0 = u1 = u2 = u3 = ZERO
    for b in range(cuda.grid(1), (x.size + shift + 3) // 4, cuda.gridsize(1)):
        if random:
            w0, w1, w2, w3 = block_words(seed, stream, first_block + np.uint64(b))
            u0, u1, u2, u3 = unit(w0), unit(w1), unit(w2), unit(w3)
        k = 4 * b - shift
        if packed and k >= 0 and k + 4 <= x.size:
            x0, x1, x2, x3 = load4(x, k)
            store4(
                out,
                k,
                round_one(x0, u0, top, scale, step, whole),
                round_one(x1, u1, top, scale, step, whole),
                round_one(x2, u2, top, scale, step, whole),
                round_one(x3, u3, top, scale, step, whole),
            )
        else:
            for lane in range(4):
                if 0 <= k + lane < x.size:
                    u = choose(np.uint64(lane), u0, u1, u2, u3)
                    out[k + lane] = round_one(x[k + lane], u, top, scale, step, whole)


def load4(x: Any, k: Any) -> Any:
    """Four elements from k on, as the simulator reads them."""
    return x[k], x[k + 1], x[k + 2], x[k + 3]


def store4(out: Any, k: Any, q0: Any, q1: Any, q2: Any, q3: Any) -> None:
    """Write four elements from k on, as the simulator does."""
    out[k], out[k + 1], out[k + 2], out[k + 3] = q0, q1, q2, q3
