"""Packed codes: the bits are where the module describes them, and every width is read back."""

import numpy as np
import pytest

from lpcaffe.errors import FormatError
from lpcaffe.numbers import packing
from lpcaffe.numbers.packing import pack, packed_size, unpack


def bytes_of(codes, bits) -> bytes:
    """The stream as one Python integer."""
    stream = sum((int(code) & ((1 << bits) - 1)) << (index * bits) for index, code in enumerate(codes))
    return stream.to_bytes(-(-len(codes) * bits // 8), "little")


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7, 8, 11, 16, 17, 25, 32, 63, 64])
@pytest.mark.parametrize("signed", [True, False])
def test_every_code_is_at_its_bits(bits, signed, monkeypatch):
    monkeypatch.setattr(packing, "_PIECE", 8)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, min((1 << bits), 1 << 63) - 1)
    rng = np.random.default_rng(bits)
    for count in (0, 1, 7, 8, 9, 61):
        codes = rng.integers(low, high, count, np.int64, endpoint=True)
        codes[:2] = [low, high][:count]
        packed = pack(codes, bits)
        assert packed.tobytes() == bytes_of(codes.tolist(), bits)
        assert packed.size == packed_size(count, bits)
        np.testing.assert_array_equal(unpack(packed, bits, count, signed=signed), codes)


def test_bytes_of_well_known_widths():
    codes = np.array([[-3, 100], [7, -128]])
    assert pack(codes, 8).tobytes() == codes.astype("<i1").tobytes()
    assert pack(codes, 16).tobytes() == codes.astype("<i2").tobytes()
    assert pack(np.array([0x1, 0xE, 0x5]), 4).tobytes() == bytes([0xE1, 0x05])


@pytest.mark.parametrize(
    ("codes", "bits", "message"),
    [
        ([8, 1], 3, "expected codes of 3 bits, got 1 to 8"),
        ([-5, 0], 3, "expected codes of 3 bits, got -5 to 0"),
        ([0.5], 3, "expected integer codes, got float64"),
        ([1], 0, "bits: expected an integer, 1 to 64, got 0"),
        ([1], 65, "bits: expected an integer, 1 to 64, got 65"),
    ],
)
def test_codes_that_do_not_fit(codes, bits, message):
    with pytest.raises(FormatError, match=message):
        pack(codes, bits)


@pytest.mark.parametrize("change", [-1, 1])
def test_bytes_of_another_length(change):
    packed = pack([1, 2, 3], 5)
    with pytest.raises(FormatError, match=f"expected 2 bytes for 3 codes of 5 bits, got {2 + change}"):
        unpack(np.resize(packed, 2 + change), 5, 3, signed=False)
