"""Randomness as an argument: the counter-based generator Philox4x32-10, and the streams that name its counters.

J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).

    key      = seed low, seed high                              (32-bit words)
    counter  = block low, block high, stream low, stream high   with block = index div 4
    w        = word (index mod 4) of the output
    u        = (w >> 8) * 2^-24                                 exactly a float32, 0 <= u < 1

An element's number depends on (seed, stream, index) alone, so neither threads nor chunks nor devices change it.

`philox4x32` is written once for all: 32-bit words live in uint64 and are masked after every sum, because compiled
uint32 arithmetic widens where NumPy's wraps. So the same lines run on scalars in compiled code and on NumPy arrays.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.numbers.rounding.scalar import product

Words = Any  # np.uint64, or an array of them

MASK = np.uint64(0xFFFFFFFF)
SHIFT = np.uint64(32)
MULTIPLIER_0, MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL_0, WEYL_1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
UNIT = np.float32(2.0**-24)


def wide_product(a: Words, b: Words) -> Words:
    """All 64 bits of the product of two 32-bit words. CUDA has its own, an instruction for just that."""
    return a * b


def philox4x32(c0: Words, c1: Words, c2: Words, c3: Words, k0: Words, k1: Words) -> tuple[Words, Words, Words, Words]:
    """The four output words for a counter and a key, each a 32-bit number in a uint64; ten rounds."""
    for _ in range(10):
        p0 = wide_product(c0, MULTIPLIER_0)
        p1 = wide_product(c2, MULTIPLIER_1)
        c0, c1, c2, c3 = (p1 >> SHIFT) ^ c1 ^ k0, p1 & MASK, (p0 >> SHIFT) ^ c3 ^ k1, p0 & MASK
        k0 = (k0 + WEYL_0) & MASK
        k1 = (k1 + WEYL_1) & MASK
    return c0, c1, c2, c3


def block_words(seed: np.uint64, stream: np.uint64, block: Words) -> tuple[Words, Words, Words, Words]:
    """The words of the four elements of a block, or of many blocks."""
    return philox4x32(block & MASK, block >> SHIFT, stream & MASK, stream >> SHIFT, seed & MASK, seed >> SHIFT)


def unit(word: np.uint64) -> Any:
    """The random number of a word, for compiled code; by way of int32, from which CPUs convert directly."""
    return product(np.float32(np.int32(word >> np.uint64(8))), UNIT)


def choose(lane: np.uint64, w0: Words, w1: Words, w2: Words, w3: Words) -> Words:
    """The word of element `lane`, 0 to 3, of a block."""
    low = w1 if lane & np.uint64(1) else w0
    high = w3 if lane & np.uint64(1) else w2
    return high if lane & np.uint64(2) else low


def uniform(seed: np.uint64, stream: np.uint64, index: np.uint64) -> Any:
    """The random number of one element, for compiled code."""
    w0, w1, w2, w3 = block_words(seed, stream, index >> np.uint64(2))
    return unit(choose(index, w0, w1, w2, w3))


def words(seed: int, stream: int, index: int, count: int) -> NDArray[np.uint32]:
    """The words w of `count` elements, the first of which has the given index, as NumPy computes them."""
    first = index >> 2
    blocks = np.arange(((index + count + 3) >> 2) - first, dtype=np.uint64) + np.uint64(first)
    lanes = np.empty((blocks.size, 4), dtype=np.uint32)
    for lane, word in enumerate(block_words(np.uint64(seed), np.uint64(stream), blocks)):
        lanes[:, lane] = word
    start = index & 3
    return lanes.reshape(-1)[start : start + count]


def uniforms(seed: int, stream: int, index: int, count: int) -> NDArray[np.float32]:
    """The random numbers u of `count` elements, the first of which has the given index."""
    return (words(seed, stream, index, count) >> np.uint32(8)).astype(np.float32) * UNIT


def stream_of(name: str) -> int:
    """The stream that belongs to a name: the first 8 bytes, little-endian, of its SHA-256 in UTF-8.

    `LAYER/0` names the weights of a layer, `LAYER/2` its bias, `LAYER/top` its LPAct.
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
