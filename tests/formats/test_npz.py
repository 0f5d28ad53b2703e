"""Arrays in files: what is broken is refused by name, whatever the library underneath raises."""

import io
import zipfile

import numpy as np
import pytest

from lpcaffe.errors import DataError
from lpcaffe.formats.npz import read_arrays, write_npz


def header(text):
    """A .npy that ends with its header."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_what_is_written_is_read_under_any_name(tmp_path):
    arrays = {"file": np.arange(6).reshape(2, 3), "a/b@c": np.float32([1.5]), "text": np.array("x")}
    write_npz(tmp_path / "a.npz", arrays)
    found = read_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def compressed():
    file = io.BytesIO()
    np.savez_compressed(file, x=np.arange(999.0))
    return file.getvalue()


def with_flag(archive):
    """An archive whose entry says that it is encrypted."""
    data = bytearray(archive)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def with_a_byte_changed(archive):
    data = bytearray(archive)
    data[len(data) // 2 - 400] ^= 0xFF
    return bytes(data)


BROKEN = {
    "nothing": b"",
    "a header that ends in the middle": header(b"{'descr': '<f8', 'shape': ("),
    "a header that is no Python": header(b"{'descr': __im"),
    "negative dimensions": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-5,)}\n"),
    "a shape beyond every integer": header(
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (4611686018427387904, 8)}\n"
    ),
    "an unknown version": b"\x93NUMPY\x09\x00\x02\x00{}",
    "compressed data that break off": compressed()[:900],
    "compressed data that are changed": with_a_byte_changed(compressed()),
    "an encrypted archive": with_flag(compressed()),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused_by_name(tmp_path, data):
    (tmp_path / "a.npz").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.npz: is not a whole \.npy or \.npz of numbers"):
        read_arrays(tmp_path / "a.npz")


def test_every_truncation_is_refused(tmp_path):
    write_npz(tmp_path / "a.npz", {"x": np.arange(3)})
    data = (tmp_path / "a.npz").read_bytes()
    for size in range(len(data)):
        (tmp_path / "cut.npz").write_bytes(data[:size])
        with pytest.raises(DataError, match=r"cut\.npz: is not a whole"):
            read_arrays(tmp_path / "cut.npz")


def test_a_claim_beyond_the_memory_is_refused_by_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (281474976710656,)}\n"))
    with pytest.raises(DataError, match=r"a\.npz: claims more values than memory holds"):
        read_arrays(tmp_path / "a.npz")
