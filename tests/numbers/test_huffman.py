"""Huffman codes: shortest, prefix-free, read back, and as long as the counts foretell."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcaffe.errors import FormatError
from lpcaffe.numbers import huffman
from lpcaffe.numbers.huffman import LARGEST, CodeCounts, code_lengths, huffman_decode, huffman_encode, huffman_size

LAPLACE = np.round(np.random.default_rng(0).laplace(size=5003) * 40).astype(np.int64)
DRAWN = st.lists(st.integers(-300, 300) | st.sampled_from([0, 1, -LARGEST, LARGEST]), max_size=60)


def shortest(counts: list[int]) -> int:
    """The bits of the shortest prefix code, by joining the two rarest trees again and again."""
    trees, bits = sorted(counts), 0
    while len(trees) > 1:
        joined = trees[0] + trees[1]
        bits += joined
        trees = sorted([*trees[2:], joined])
    return bits


@settings(deadline=None, max_examples=200)
@given(DRAWN)
def test_codes_are_read_back_and_none_is_shorter(codes):
    array = np.array(codes, np.int64)
    counts, encoded = CodeCounts.of(array), huffman_encode(array)
    np.testing.assert_array_equal(huffman_decode(encoded, len(codes)), array)
    assert huffman_size(counts) == encoded.size
    tally = Counter(codes)
    assert dict(zip(counts.symbols.tolist(), counts.counts.tolist(), strict=True)) == tally
    lengths = code_lengths(counts)
    bits = sum(length * tally[symbol] for symbol, length in zip(sorted(tally), lengths, strict=True))
    assert bits == shortest(list(tally.values()))
    if len(tally) > 1:  # Kraft's sum of a complete code
        assert sum(Fraction(1, 1 << length) for length in lengths) == 1
    assert counts.entropy_bits <= bits + 1
    assert bits < counts.entropy_bits + max(len(codes), 1)


def test_counts_merge():
    parts = np.array_split(LAPLACE, [7, 7, 901])
    merged = sum(map(CodeCounts.of, parts[1:]), CodeCounts.of(parts[0]))
    whole = CodeCounts.of(LAPLACE)
    np.testing.assert_array_equal(merged.symbols, whole.symbols)
    np.testing.assert_array_equal(merged.counts, whole.counts)
    sparse = CodeCounts.of(LAPLACE << 40)  # too far apart for a table
    np.testing.assert_array_equal(sparse.counts, whole.counts)


def test_entropy():
    assert CodeCounts.of([3] * 9).entropy_bits == 0
    assert CodeCounts.of([1, 2, 3, 4, 4, 4, 4, 4]).entropy_bits == math.ceil(3 * 3 + 5 * math.log2(8 / 5))
    assert CodeCounts.of(np.arange(256)).entropy_bits == 2048


def test_the_bytes_are_those_of_the_module(monkeypatch):
    """5, 5, 5, 5, -1, -1, 7: lengths 1 for 5, 2 for -1 and 7; the words 0, 10 and 11, shorter ones first."""
    monkeypatch.setattr(huffman, "_PIECE", 2)
    codes = [5, -1, 5, 7, 5, 5, -1]
    table = [7, 3, 1, 2, 12, 1, 4, 2]  # 7 codes, 3 symbols: -1, 6 more, 2 more
    words = "0" + "10" + "0" + "11" + "0" + "0" + "10"
    expected = bytes(table) + int(words.ljust(16, "0"), 2).to_bytes(2, "big")
    assert huffman_encode(codes).tobytes() == expected


def test_every_cut_is_an_error():
    encoded = huffman_encode(LAPLACE[:100])
    for size in range(encoded.size):
        with pytest.raises(FormatError, match="expected"):
            huffman_decode(encoded[:size], 100)


@pytest.mark.parametrize(
    ("data", "count", "message"),
    [
        ([7, 3, 1, 2, 12, 1, 4, 2, 0, 0], 6, "expected 6 codes, got 7"),
        ([3, 0, 0], 3, "0 symbols for 3 codes"),
        ([1, 9, 0], 1, "9 symbols for 1 codes"),
        ([3, 2, 2, 1, 0, 1, 0], 3, "symbols in rising order"),
        ([3, 2, 2, 1, 2, 2, 0], 3, "lengths do not fit"),
        ([3, 2, 2, 0, 2, 0, 0], 3, "lengths do not fit"),
        ([3, 1, 2, 1, 0], 3, "lone symbol to take no bits, got 1"),
        ([3, 1, 2, 0, 0], 3, "expected 4 bytes, got 5"),
        ([3, 2, 2, 1, 2, 1, 0, 0], 3, "nothing but zeros"),
        ([3, 2, 2, 1, 2, 1, 1], 3, "nothing but zeros"),
        ([0xFF] * 12, 3, "varint of at most 10 bytes"),
        ([3, 2, 2, 1, *[0x80] * 9, 0x02, 1, 0], 3, "symbols in rising order"),
    ],
)
def test_bytes_that_no_encoder_writes(data, count, message):
    with pytest.raises(FormatError, match=message):
        huffman_decode(np.array(data, np.uint8), count)


def test_numbers_that_are_no_codes():
    with pytest.raises(FormatError, match="expected integer codes, got float32"):
        huffman_encode(np.ones(3, np.float32))
    with pytest.raises(FormatError, match="expected codes of at most 62 bits"):
        huffman_encode([LARGEST + 1])
