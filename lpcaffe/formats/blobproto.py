"""One blob in a caffemodel: a BlobProto, read where it lies and written as it streams.

    shape = 7                               BlobShape: dim = 1, int64
    num, channels, height, width = 1 to 4   int32, before 2014: four dims always, instead of `shape`
    data = 5, double_data = 8               float, double
    raw_data = 12, raw_data_type = 10       NVCaffe: one buffer of float64 (0), float32 (1) or float16 (2)
    diff = 6, double_diff = 9, raw_diff = 13    gradients, passed over

A writer SHOULD give the dims and then all values in one packed `data`; ours does. A reader MUST NOT depend on it:
fields come in any order; values come packed, unpacked (a tag before every number) or in several packed pieces; dims
come packed or not.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from lpcaffe.errors import FileError, WeightsError, shape_text
from lpcaffe.formats import wire

# Values handled at a time: 1 MiB of float32, which stays in the cache.
CHUNK = 1 << 18

# Caffe's limit (kMaxBlobAxes).
MAX_AXES = 32

# The fields of one blob, a run of unpacked values counted once. What a writer writes has at most ten; one object is
# kept for each piece of values.
MAX_FIELDS = 256

# Caffe counts the values of a blob, zero dims aside, in an int; NumPy refuses some larger shapes even without values.
MAX_COUNT = 2**31 - 1

# When a page is read for the first time, Linux may map all that lies with it in one huge page of its cache: bytes from
# before those that were asked for, too.
HUGE_PAGE = 1 << 21

RAW_TYPES = {0: "<f8", 1: "<f4", 2: "<f2"}


class Span(NamedTuple):
    """Values that lie in the file at equal distances: packed (step 0), or each behind a tag of `step` bytes."""

    offset: int
    length: int
    step: int = 0


@dataclass(frozen=True)
class StoredBlob:
    """A blob in a caffemodel: its shape, and where its values are.

    `shape` is as stored; `legacy` says that it came as num, channels, height, width, which makes the weights of a fully
    connected layer 1 x 1 x N x K. `dtype` is float32, float64 or float16, little-endian.
    """

    shape: tuple[int, ...]
    legacy: bool
    dtype: np.dtype[Any]
    spans: tuple[Span, ...]
    mapping: mmap.mmap

    @property
    def count(self) -> int:
        """The number of values, which is the product of the shape."""
        return math.prod(self.shape)

    def chunks(self, max_elements: int = CHUNK) -> Iterator[NDArray[Any]]:
        """The values in order, as one-dimensional read-only pieces of `dtype`, none longer than `max_elements`.

        The pages behind a piece are given back when the next one is asked for, so that a pass over all blobs of a file
        takes the memory of one piece. (A piece that is kept stays valid: its pages are read again when it is used.)
        """
        for span in self.spans:
            size = self.dtype.itemsize + span.step
            for first in range(0, span.length, max_elements):
                count = min(max_elements, span.length - first)
                start = span.offset + first * size
                yield _view(self.mapping, Span(start, count, span.step), self.dtype)
                _release(self.mapping, start, start + count * size)

    def array(self, dtype: DTypeLike = np.float32) -> NDArray[Any]:
        """The values in `shape`: a read-only view of the file, perhaps unaligned, if they lie there so, else a copy.

        Raises WeightsError for a float64 value that float32 cannot hold.
        """
        wanted = np.dtype(dtype)
        if wanted == self.dtype and len(self.spans) == 1 and not self.spans[0].step:
            return _view(self.mapping, self.spans[0], self.dtype).reshape(self.shape)
        values = np.empty(self.count, wanted)
        at = 0
        for chunk in self.chunks():
            values[at : at + len(chunk)] = convert(chunk, wanted)
            at += len(chunk)
        return values.reshape(self.shape)


@dataclass(frozen=True)
class BlobSource:
    """A blob to be written: its shape, and a function that gives its values, in order, in pieces of any shape.

    The length of the blob in the file follows from `shape` alone, so the values are asked for only when it is their
    turn. `legacy` writes four dims as num, channels, height, width: a blob read with legacy dims 1 x 1 x N x K that was
    written with that `shape` would be refused by Caffe, which expects N x K.
    """

    shape: tuple[int, ...]
    chunks: Callable[[], Iterator[NDArray[Any]]]
    legacy: bool = False

    @property
    def count(self) -> int:
        """The number of values that `chunks` has to give."""
        return math.prod(self.shape)

    @staticmethod
    def of(array: ArrayLike) -> BlobSource:
        """The values of an array."""
        values = np.asarray(array)
        flat = values.reshape(-1)
        return BlobSource(values.shape, lambda: (flat[at : at + CHUNK] for at in range(0, flat.size, CHUNK)))

    @staticmethod
    def copy(blob: StoredBlob) -> BlobSource:
        """The values of a blob of another caffemodel, which has to stay open; legacy dims stay legacy."""
        return BlobSource(blob.shape, blob.chunks, blob.legacy)

    def head(self) -> bytes:
        """The BlobProto up to where the values begin; they are its last 4 * count bytes, as float32."""
        if self.legacy:
            if len(self.shape) != 4:
                raise ValueError(f"a legacy blob has four dims, not {self.shape}")
            dims = b"".join(
                wire.tag(number, wire.VARINT) + wire.varint(dim) for number, dim in enumerate(self.shape, 1)
            )
        else:
            packed = b"".join(map(wire.varint, self.shape))
            shape = wire.delimited(1, len(packed)) + packed if packed else b""
            dims = wire.delimited(7, len(shape)) + shape
        return dims + wire.delimited(5, 4 * self.count) if self.count else dims

    def values(self) -> Iterator[NDArray[np.float32]]:
        """The pieces as flat little-endian float32; WeightsError unless there are exactly as many as `shape` says."""
        got = 0
        for chunk in self.chunks():
            got += chunk.size
            if got > self.count:
                break
            yield convert(chunk, "<f4").reshape(-1)
        if got != self.count:
            more = " or more" if got > self.count else ""
            raise WeightsError(f"expected {self.count} values for shape {shape_text(self.shape)}, got {got}{more}")


def read_blob(mapping: mmap.mmap, blob: wire.Field) -> StoredBlob:
    """One BlobProto. As in Caffe, legacy dims go before `shape`, and double_data before data before raw_data."""
    dims: list[int] = []
    legacy: dict[int, int] = {}
    spans: dict[int, list[Span]] = {5: [], 6: [], 8: [], 9: []}
    raw: Span | None = None
    raw_type: int | None = None
    at = blob.payload
    fields = 0
    while at < blob.end:
        field = wire.read_field(mapping, at, blob.end)
        fields += 1
        if fields > MAX_FIELDS:
            raise FileError(f"byte {at}: expected at most {MAX_FIELDS} fields in a blob, got more")
        at = field.end
        number, wire_type = field.number, field.wire_type
        if number in spans and wire_type == wire.BYTES:
            size = 4 if number < 8 else 8
            length = field.end - field.payload
            if length % size:
                raise FileError(f"byte {field.payload}: expected packed values of {size} bytes, got {length} bytes")
            spans[number].append(Span(field.payload, length // size))
        elif number in spans and wire_type == (wire.FIXED32 if number < 8 else wire.FIXED64):
            count, at = _run(mapping, field, blob.end)
            spans[number].append(Span(field.payload, count, field.payload - field.start))
        elif number <= 4 and wire_type == wire.VARINT:
            legacy[number] = wire.signed(wire.read_varint(mapping, field.payload, field.end)[0], 32)
        elif number == 7 and wire_type == wire.BYTES:
            dims += _read_shape(mapping, field)
        elif number == 10 and wire_type == wire.VARINT:
            raw_type = wire.read_varint(mapping, field.payload, field.end)[0]
        elif number == 12 and wire_type == wire.BYTES:
            raw = Span(field.payload, field.end - field.payload)
    shape = tuple(legacy.get(number, 0) for number in (1, 2, 3, 4)) if legacy else tuple(dims)
    dtype, values = _values(spans, raw, raw_type)
    check_shape(shape, sum(span.length for span in values))
    return StoredBlob(shape, bool(legacy), dtype, tuple(values), mapping)


def _values(spans: dict[int, list[Span]], raw: Span | None, raw_type: int | None) -> tuple[np.dtype[Any], list[Span]]:
    for number, code in ((8, "<f8"), (5, "<f4")):
        found = [span for span in spans[number] if span.length]
        if found:
            return np.dtype(code), found
    if raw is None:
        return np.dtype("<f4"), []
    if raw_type not in RAW_TYPES:
        got = "none" if raw_type is None else raw_type
        raise FileError(f"expected raw_data_type 0 (DOUBLE), 1 (FLOAT) or 2 (FLOAT16) with raw_data, got {got}")
    dtype = np.dtype(RAW_TYPES[raw_type])
    if raw.length % dtype.itemsize:
        raise FileError(f"byte {raw.offset}: expected raw_data of {dtype.itemsize}-byte values, got {raw.length} bytes")
    return dtype, [Span(raw.offset, raw.length // dtype.itemsize)]


def _read_shape(mapping: mmap.mmap, shape: wire.Field) -> list[int]:
    dims: list[int] = []
    for field in wire.walk(mapping, shape.payload, shape.end):
        if field.number != 1 or field.wire_type not in (wire.VARINT, wire.BYTES):
            continue
        at = field.payload
        while at < field.end and len(dims) <= MAX_AXES:
            value, at = wire.read_varint(mapping, at, field.end)
            dims.append(wire.signed(value, 64))
    return dims


def check_shape(shape: tuple[int, ...], got: int) -> None:
    """Raise FileError unless `shape` is one that Caffe takes, and `got` the number of its values."""
    if len(shape) > MAX_AXES:
        raise FileError(f"expected a shape of at most {MAX_AXES} dims, got more")
    words = shape_text(shape)
    if any(dim < 0 for dim in shape):
        raise FileError(f"expected dims that are not negative, got {words}")
    if math.prod(shape) != got:
        raise FileError(f"expected {math.prod(shape)} values for shape {words}, got {got or 'none'}")
    if math.prod(dim for dim in shape if dim) > MAX_COUNT:
        raise FileError(f"expected a shape whose dims above 0 have a product of at most {MAX_COUNT}, got {words}")


def _run(mapping: mmap.mmap, first: wire.Field, end: int) -> tuple[int, int]:
    """How many fields with the tag of `first`, a fixed-size number, follow one another from it on, and where they end.

    Unpacked values are found by comparing all their tags at once: a loop over fields would take a minute for a network.
    """
    tag_size, size = first.payload - first.start, first.end - first.start
    tag = np.frombuffer(mapping, np.uint8, tag_size, first.start)
    count, window = 1, 16
    while True:
        here = first.start + count * size
        window = min(2 * window, CHUNK, (end - here) // size)
        tags = np.frombuffer(mapping, np.uint8, window * size, here).reshape(window, size)[:, :tag_size]
        other = np.flatnonzero((tags != tag).any(axis=1))
        count += int(other[0]) if len(other) else window
        _release(mapping, here, here + window * size)
        if len(other) or window == 0:
            return count, first.start + count * size


def _view(mapping: mmap.mmap, span: Span, dtype: np.dtype[Any]) -> NDArray[Any]:
    if not span.step:
        return np.frombuffer(mapping, dtype, span.length, span.offset)
    # frombuffer and not ndarray(buffer=...): only the former keeps the mapping from being closed under the view.
    item = np.dtype(
        {"names": ["value"], "formats": [dtype], "offsets": [span.step], "itemsize": dtype.itemsize + span.step}
    )
    return np.frombuffer(mapping, item, span.length, span.offset - span.step)["value"]


def _release(mapping: mmap.mmap, start: int, end: int) -> None:
    """Let go of mapped pages that were read; otherwise they count as memory until the kernel wants them back."""
    if hasattr(mmap, "MADV_DONTNEED") and end > start:
        first = max(0, start - HUGE_PAGE)
        first -= first % mmap.PAGESIZE
        mapping.madvise(mmap.MADV_DONTNEED, first, end - first)


def digest(mapping: mmap.mmap, algorithm: str) -> str:
    """The checksum of a whole mapped file, in hexadecimal; `algorithm` is one of hashlib's."""
    running = hashlib.new(algorithm)
    for start in range(0, len(mapping), 4 * CHUNK):
        end = min(start + 4 * CHUNK, len(mapping))
        running.update(mapping[start:end])
        _release(mapping, start, end)
    return running.hexdigest()


def convert(values: NDArray[Any], dtype: DTypeLike) -> NDArray[Any]:
    """`values` as contiguous `dtype`, without a copy where they are; WeightsError for a number that it cannot hold."""
    try:
        with np.errstate(over="raise", invalid="ignore"):  # signalling NaNs are invalid, and stay NaN
            return np.ascontiguousarray(values, dtype)
    except FloatingPointError:
        largest = np.abs(values[np.isfinite(values)]).max()
        raise WeightsError(f"expected values that {np.dtype(dtype).name} can hold, got {largest:g}") from None
