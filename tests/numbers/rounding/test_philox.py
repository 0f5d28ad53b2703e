"""The generator: published answers, the table of the specification, and integer arithmetic in plain Python."""

import hashlib

import numpy as np
import pytest

from lpcaffe.numbers.rounding import stream_of
from lpcaffe.numbers.rounding.philox import philox4x32, uniform, uniforms, words

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [  # Random123's kat_vectors: counter, key, output
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
TABLE = [  # seed, stream, first index, words
    (7, 0, 0, "f4607a2d c009f9dc 1d3aba42 15edac82 682e8e9b cb97bc13 2bfaff6b f535eea6"),
    (0x0123456789ABCDEF, 0x100000002, 0, "20f4d595 e9627d16 7bbaeeb8 df7a77a7"),
    (0x0123456789ABCDEF, 0x100000002, 2**34 + 1, "5dcaf180"),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_generator_gives_the_known_answers(counter, key, expected):
    numbers = [np.uint64(word) for word in counter + key]
    assert [int(word) for word in philox4x32(*numbers)] == expected
    arrays = [np.full(3, word, np.uint64) for word in counter + key]
    assert [word.tolist() for word in philox4x32(*arrays)] == [[word] * 3 for word in expected]


@pytest.mark.parametrize(("seed", "stream", "index", "expected"), TABLE)
def test_words_of_elements_are_the_table_of_the_specification(seed, stream, index, expected, philox_word):
    expected = [int(word, 16) for word in expected.split()]
    assert words(seed, stream, index, len(expected)).tolist() == expected
    assert [philox_word(seed, stream, index + k) for k in range(len(expected))] == expected


@pytest.mark.parametrize("index", [0, 1, 2, 3, 4, 2**32 - 5, 2**34 - 3, 2**34, 2**64 - 11])
@pytest.mark.parametrize(("seed", "stream"), [(0, 0), (2**64 - 1, 2**63 + 5), (2**32, 1), (1, 2**32)])
def test_words_and_uniforms_equal_integer_arithmetic_at_every_carry(seed, stream, index, philox_word):
    expected = [philox_word(seed, stream, index + k) for k in range(11)]
    assert words(seed, stream, index, 11).tolist() == expected
    u = uniforms(seed, stream, index, 11)
    assert u.dtype == np.float32
    assert [float(v) for v in u] == [(word >> 8) / 2**24 for word in expected]
    one_by_one = [uniform(np.uint64(seed), np.uint64(stream), np.uint64(index + k)) for k in range(11)]
    assert [float(v) for v in one_by_one] == u.tolist()


def test_no_words_are_an_empty_array():
    assert words(3, 4, 5, 0).shape == (0,)


def test_stream_is_the_little_endian_head_of_a_sha256():
    digest = hashlib.sha256(b"conv1/0").hexdigest()
    assert stream_of("conv1/0") == int("".join(digest[k : k + 2] for k in range(14, -2, -2)), 16)
    assert stream_of("") == 0x141CFC9842C4B0E3  # e3b0c442 98fc1c14..., the best known digest of all
    assert stream_of("größe/top") != stream_of("grosse/top")
