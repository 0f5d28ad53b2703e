"""Files that are hashed and sent to the disk while they are written."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from lpcaffe.errors import FileError
from lpcaffe.io.hashed import SYNC_BYTES, WRITE_BYTES, hashed
from lpcaffe.io.outputs import whole_file


@pytest.fixture
def target(tmp_path):
    return tmp_path / "net.caffemodel"


SIZES = [0, 1, 4095, WRITE_BYTES - 1, WRITE_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES + 7]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [0], [], [5] * 100])
def test_the_hash_is_that_of_the_bytes_whatever_the_pieces(target, sizes):
    pieces = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    with whole_file(target) as stream, hashed(stream) as file:
        for piece in pieces:
            file.write(piece)
            file.write(memoryview(bytearray(piece)))
        digest = file.sha256()
    whole = b"".join(piece * 2 for piece in pieces)
    assert target.read_bytes() == whole
    assert digest == hashlib.sha256(whole).hexdigest()


def test_what_a_hashed_file_passes_over_is_hashed_as_it_stands(target):
    with whole_file(target) as stream, hashed(stream) as file:
        Path(stream.name).write_bytes(b"x" * 2 * WRITE_BYTES)
        for offset in (3, WRITE_BYTES):
            file.skip_to(offset)
            file.write(b"y" * (WRITE_BYTES - 5))
        digest = file.sha256()
    written = b"y" * (WRITE_BYTES - 5)
    assert target.read_bytes() == b"xxx" + written + b"xx" + written + b"x" * 5
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()


def test_a_fault_that_the_disk_tells_of_while_writing_leaves_no_file(target, monkeypatch):
    """The system tells of it once: the fsync at the end may well succeed."""
    faults = [OSError(errno.EIO, "Input/output error")]

    def fsync(descriptor):
        if faults:
            raise faults.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    piece = bytes(SYNC_BYTES)
    fault = pytest.raises(FileError, match="cannot be written: input/output error")
    with fault, whole_file(target) as stream, hashed(stream) as file:
        file.write(piece)
        file.sha256()
    assert not faults
    assert list(target.parent.iterdir()) == []
