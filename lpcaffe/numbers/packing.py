"""Integer codes packed to their width, without gaps.

Code i of `bits` bits takes the bits i * bits to (i + 1) * bits - 1 of the stream, its lowest bit first. Bit k of the
stream is bit k % 8 of byte k // 8, counted from the lowest. The last byte is filled with zeros. Negative codes are in
two's complement.

With 8, 16, 32 or 64 bits these are the bytes of a little-endian array of integers; with 4 bits the first code of each
byte is its lower half.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import Codes, whole

Bytes = NDArray[np.uint8]

MAX_BITS = 64

# Codes that are taken apart at a time: a whole number of bytes whatever their width is.
_PIECE = 1 << 16


def packed_size(count: int, bits: int) -> int:
    """The bytes of `count` codes."""
    return -(-count * bits // 8)


def pack(codes: ArrayLike, bits: int) -> Bytes:
    """The bytes of integer codes, in C order. Raises FormatError for codes that `bits` bits do not hold."""
    bits = whole("bits", bits, 1, MAX_BITS)
    given = np.asarray(codes)
    if given.dtype.kind not in "iu":
        raise FormatError(f"expected integer codes, got {given.dtype}")
    flat = given.reshape(-1)
    if flat.size and not (-(1 << (bits - 1)) <= int(flat.min()) and int(flat.max()) < 1 << bits):
        raise FormatError(f"expected codes of {bits} bits, got {int(flat.min())} to {int(flat.max())}")
    out = np.empty(packed_size(flat.size, bits), np.uint8)
    places = np.arange(bits)
    for start in range(0, flat.size, _PIECE):
        piece = flat[start : start + _PIECE, None].astype(np.int64)
        first = start * bits // 8
        packed = np.packbits((piece >> places & 1).astype(np.uint8), bitorder="little")
        out[first : first + packed.size] = packed
    return out


def unpack(data: Bytes, bits: int, count: int, *, signed: bool) -> Codes:
    """The first `count` codes of `data`. Raises FormatError for data that are too short or too long."""
    bits, count = whole("bits", bits, 1, MAX_BITS), whole("count", count, 0, 1 << 62)
    if data.size != packed_size(count, bits):
        raise FormatError(
            f"expected {packed_size(count, bits)} bytes for {count} codes of {bits} bits, got {data.size}"
        )
    out = np.empty(count, np.int64)
    for start in range(0, count, _PIECE):
        stop = min(start + _PIECE, count)
        found = np.unpackbits(data[start * bits // 8 :], bitorder="little", count=(stop - start) * bits)
        wide = np.zeros((stop - start, MAX_BITS), np.uint8)
        wide[:, :bits] = found.reshape(-1, bits)
        if signed:
            wide[:, bits:] = wide[:, bits - 1 : bits]
        out[start:stop] = np.packbits(wide, axis=1, bitorder="little").view("<i8")[:, 0]
    return out
