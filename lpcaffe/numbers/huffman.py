"""How small integer codes can be: their entropy, and a canonical Huffman code.

The encoded bytes, in this order; a varint has 7 bits a byte, the lowest first, the top bit set in all bytes but the
last:

    varint              how many codes there are
    varint              how many symbols: different codes
    symbols times       varint: the symbol less the one before it (the first less 0), zigzag: 0, -1, 1 are 0, 1, 2
                        byte: how many bits its code word has
    code words          the first bit of each first, in bytes filled from their highest bit; the last one with zeros

Symbols are in rising order. Code words follow from their lengths (canonical: RFC 1951, section 3.2.2): shorter ones
come first, those of one length in the order of their symbols, each the one before plus 1. A lone symbol takes no bits.

The length of the encoded bytes follows from how often each code occurs: `huffman_size` needs no data.
"""

from __future__ import annotations

import functools
import heapq
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lpcaffe.errors import FormatError
from lpcaffe.numbers.number_format import Codes

Bytes = NDArray[np.uint8]

# The largest magnitude of a code: differences of two are far from the ends of an int64.
LARGEST = 1 << 61

# The longest code word: of n codes none has more than log2(n) / log2(1.618) bits (Katona and Nemetz 1976).
_LONGEST = 60

# Codes whose bits are in memory at a time, a byte each.
_PIECE = 1 << 18


@dataclass(frozen=True)
class CodeCounts:
    """How often each code occurs: `symbols` in rising order and their `counts`. `a + b` counts what both count."""

    symbols: Codes
    counts: Codes

    @classmethod
    def of(cls, codes: ArrayLike) -> CodeCounts:
        """The counts of an array of integers."""
        flat = np.asarray(codes).reshape(-1)
        if not flat.size:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int64))
        low, high = int(flat.min()), int(flat.max())
        if high - low < max(4 * flat.size, 1 << 16):
            counts = np.bincount(flat - low)
            symbols = np.flatnonzero(counts)
            return cls((symbols + low).astype(np.int64), counts[symbols].astype(np.int64))
        found, counts = np.unique(flat, return_counts=True)
        return cls(found.astype(np.int64), counts.astype(np.int64))

    def __add__(self, other: CodeCounts) -> CodeCounts:
        symbols, inverse = np.unique(np.concatenate([self.symbols, other.symbols]), return_inverse=True)
        counts = np.zeros(symbols.size, np.int64)
        np.add.at(counts, inverse, np.concatenate([self.counts, other.counts]))
        return CodeCounts(symbols, counts)

    @property
    def total(self) -> int:
        """How many codes were counted."""
        return int(self.counts.sum())

    @property
    def entropy_bits(self) -> int:
        """Their entropy, the sum of -log2 of the share of each code (Shannon 1948), in whole bits, rounded up."""
        total = self.total
        return math.ceil(math.fsum(times * count * math.log2(total / count) for count, times in self.occurrences))

    @property
    def occurrences(self) -> list[tuple[int, int]]:
        """The different counts, in rising order, and how many symbols have each."""
        counts, times = np.unique(self.counts, return_counts=True)
        return list(zip(counts.tolist(), times.tolist(), strict=True))


def huffman_size(counts: CodeCounts) -> int:
    """The bytes that `huffman_encode` makes of codes that occur so often."""
    steps = _steps(counts.symbols)
    table = 2 * steps.size + sum(int(np.count_nonzero(steps >> (7 * more))) for more in range(1, 10))
    return len(_varint(counts.total)) + len(_varint(counts.symbols.size)) + table + -(-_code_bits(counts) // 8)


def _code_bits(counts: CodeCounts) -> int:
    """The bits of all code words: the sum of the weights of the inner nodes of the tree (Huffman 1952).

    Equal weights are joined in one go: all pairs of the smallest weight come before anything heavier.
    """
    waiting = dict(counts.occurrences)
    heap = list(waiting)  # in rising order, so a heap already
    bits = 0

    def add(size: int, multiple: int) -> None:
        if size not in waiting:
            heapq.heappush(heap, size)
        waiting[size] = waiting.get(size, 0) + multiple

    while heap:
        size = heapq.heappop(heap)
        pairs, left = divmod(waiting.pop(size), 2)
        if pairs:
            bits += 2 * size * pairs
            add(2 * size, pairs)
        if left and heap:
            other = heap[0]
            waiting[other] -= 1
            if not waiting[other]:
                del waiting[heapq.heappop(heap)]
            bits += size + other
            add(size + other, 1)
    return bits


def code_lengths(counts: CodeCounts) -> list[int]:
    """The bits of the code word of each symbol."""
    size = counts.symbols.size
    heap = [(count, index) for index, count in enumerate(counts.counts.tolist())]
    heapq.heapify(heap)
    parents: list[int] = [0] * size
    while len(heap) > 1:
        (one, first), (two, second) = heapq.heappop(heap), heapq.heappop(heap)
        parents[first] = parents[second] = len(parents)
        heapq.heappush(heap, (one + two, len(parents)))
        parents.append(0)
    depths = [0] * len(parents)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    return depths[:size]


def huffman_encode(codes: ArrayLike) -> Bytes:
    """The bytes of an array of integers, in C order; see the module. Raises FormatError for other numbers."""
    given = np.asarray(codes)
    if given.dtype.kind not in "iu":
        raise FormatError(f"expected integer codes, got {given.dtype}")
    flat = given.reshape(-1)
    counts = CodeCounts.of(flat)
    if counts.symbols.size and max(-int(counts.symbols[0]), int(counts.symbols[-1])) > LARGEST:
        raise FormatError("expected codes of at most 62 bits")
    lengths = code_lengths(counts)
    head = bytearray(_varint(flat.size) + _varint(counts.symbols.size))
    for step, length in zip(_steps(counts.symbols).tolist(), lengths, strict=True):
        head += _varint(step)
        head.append(length)
    parts = [np.frombuffer(bytes(head), np.uint8)]
    rest = np.zeros(0, np.uint8)
    for bits in _bits(flat, counts.symbols, np.array(lengths, np.int64)):
        bits = np.concatenate([rest, bits])
        full = bits.size // 8 * 8
        parts.append(np.packbits(bits[:full]))
        rest = bits[full:]
    return np.concatenate([*parts, np.packbits(rest)])


def _bits(flat: Codes, symbols: Codes, lengths: Codes) -> Iterator[Bytes]:
    """The code words of codes, bit by bit."""
    words = _canonical(lengths)
    for start in range(0, flat.size, _PIECE):
        which = np.searchsorted(symbols, flat[start : start + _PIECE])
        sizes = lengths[which]
        ends = np.cumsum(sizes)
        place = np.repeat(ends, sizes) - 1 - np.arange(ends[-1])  # of each bit in its word, the last being 0
        yield (np.repeat(words[which], sizes) >> place & 1).astype(np.uint8)


def _canonical(lengths: Codes) -> Codes:
    """The code words of such lengths, as integers."""
    words = np.zeros(lengths.size, np.int64)
    word = previous = 0
    for index in np.argsort(lengths, kind="stable").tolist():
        length = int(lengths[index])
        word <<= length - previous
        words[index] = word
        word, previous = word + 1, length
    return words


def huffman_decode(data: Bytes, count: int) -> Codes:
    """The codes of such bytes, int64. Raises FormatError for bytes that are cut, or that are not of `count` codes."""
    reader = _Reader(data.tobytes())
    total, size = reader.varint(), reader.varint()
    if total != count:
        raise FormatError(f"expected {count} codes, got {total}")
    if size > len(reader.data) or (total > 0) != (size > 0):
        raise FormatError(f"expected a table of symbols, got {size} symbols for {total} codes")
    symbols, lengths, symbol = [], [], 0
    for _ in range(size):
        step = reader.varint()
        symbol += -(step + 1) // 2 if step & 1 else step // 2
        symbols.append(symbol)
        lengths.append(reader.byte())
    if any(b <= a for a, b in pairwise(symbols)) or max(map(abs, symbols), default=0) > LARGEST:
        raise FormatError("expected symbols in rising order")
    share = sum(1 << (_LONGEST - length) for length in lengths if 0 < length <= _LONGEST)
    if size > 1 and (share != 1 << _LONGEST or not 0 < min(lengths) <= max(lengths) <= _LONGEST):
        raise FormatError("expected the code words of a Huffman code: their lengths do not fit together")
    if size == 1 and lengths != [0]:
        raise FormatError(f"expected a lone symbol to take no bits, got {lengths[0]}")
    if size <= 1:
        reader.end()
        return np.full(total, symbols[0] if symbols else 0, np.int64)
    return _decoded(reader, total, np.array(symbols, np.int64), np.array(lengths, np.int64))


def _decoded(reader: _Reader, total: int, symbols: Codes, lengths: Codes) -> Codes:
    """The codes of the code words that are left."""
    data = np.frombuffer(reader.data, np.uint8)[reader.position :]
    if total > 8 * data.size:
        raise FormatError(f"expected {total} code words, got {8 * data.size} bits")
    out = np.empty(total, np.int64)
    sorted_symbols = symbols[np.lexsort((symbols, lengths))]
    done, position = _compiled()(data, np.bincount(lengths, minlength=_LONGEST + 1), sorted_symbols, out)
    if done < total:
        raise FormatError(f"expected {total} code words, got {done} and a part of one")
    rest = np.unpackbits(data[position // 8 :])[position % 8 :]
    if rest.size >= 8 or rest.any():
        raise FormatError("expected nothing but zeros to fill the last byte after the code words")
    return out


@functools.cache
def _compiled() -> Callable[..., tuple[int, int]]:
    import numba

    return numba.njit(_read_words, nogil=True)  # type: ignore[no-any-return]


def _read_words(data: Any, counts: Any, symbols: Any, out: Any) -> Any:
    """Fill `out` from code words. `counts` are those of each length. Returns how many codes and bits were read."""
    position = 0
    for index in range(out.size):
        word = first = begin = length = 0  # the first word of this length, and the place of its symbol
        start = position
        while True:
            length += 1
            if position >= 8 * data.size:
                return index, start
            word = 2 * word + (data[position >> 3] >> (7 - (position & 7)) & 1)
            position += 1
            first *= 2
            if word - first < counts[length]:
                out[index] = symbols[begin + word - first]
                break
            first += counts[length]
            begin += counts[length]
    return out.size, position


class _Reader:
    """Bytes read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def byte(self) -> int:
        """The next byte."""
        if self.position >= len(self.data):
            raise FormatError(f"expected more than {len(self.data)} bytes")
        self.position += 1
        return self.data[self.position - 1]

    def varint(self) -> int:
        """The next varint."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
            if shift > 70:
                raise FormatError("expected a varint of at most 10 bytes")

    def end(self) -> None:
        """Raise FormatError if anything is left."""
        if self.position != len(self.data):
            raise FormatError(f"expected {self.position} bytes, got {len(self.data)}")


def _steps(symbols: Codes) -> NDArray[np.uint64]:
    """The differences of symbols, zigzag."""
    steps = np.diff(symbols, prepend=0)
    return (steps << 1 ^ steps >> 63).astype(np.uint64)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
