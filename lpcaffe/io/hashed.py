"""Large outputs: hashed and sent to the disk while they are written, each on a thread beside the writer's.

What is hashed is what the file gives back, so the writer may reuse its memory at once. docs/decisions/0014 has the
measurements behind the sizes and the threads.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lpcaffe.io.disk import sync

# Bytes of one write: for larger ones Linux looks for pages of megabytes, and that can take ten times as long.
WRITE_BYTES = 1 << 18

# Bytes after which a large output is sent to the disk, so that little is left to wait for at its end.
SYNC_BYTES = 1 << 26


@contextmanager
def hashed(file: IO[bytes]) -> Iterator[HashedFile]:
    """Hash an output of `lpcaffe.io.outputs` while the block writes it. Raises OSError for a fault of the disk."""
    with (
        Path(file.name).open("rb", buffering=0) as again,
        ThreadPoolExecutor(1, "sha256") as hashing,
        ThreadPoolExecutor(1, "fsync") as syncing,
    ):
        result = HashedFile(file, again, hashing, syncing)
        yield result
        result.check()


class HashedFile:
    """A file that `hashed` opened.

    A writer only goes forward: what it passes over must be in the file by then, and is hashed as it is there.
    """

    def __init__(self, file: IO[bytes], again: io.FileIO, hashing: ThreadPoolExecutor, syncing: ThreadPoolExecutor):
        self._file, self._again = file, again
        self._hashing, self._syncing = hashing, syncing
        self._digest = hashlib.sha256()
        self._written = self._hashed = self._sent = 0
        self._sending: Future[None] | None = None

    def skip_to(self, offset: int) -> None:
        """Go on at a byte further on."""
        self._written = self._file.seek(offset)

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes, and be behind them."""
        view = memoryview(data)
        if not view.nbytes:
            return
        view = view.cast("B")
        for start in range(0, len(view), WRITE_BYTES):
            self._file.write(view[start : start + WRITE_BYTES])
        self._written += len(view)
        if len(view) >= WRITE_BYTES:
            self._file.flush()
            self._hashing.submit(self._hash, self._written)
        if self._written - self._sent >= SYNC_BYTES and (self._sending is None or self._sending.done()):
            self.check()
            self._sent = self._written
            self._sending = self._syncing.submit(sync, self._file.fileno())

    def check(self) -> None:
        """Wait until what was sent to the disk is there. Raises OSError: the system reports a fault only once."""
        if self._sending is not None:
            self._sending.result()

    def sha256(self) -> str:
        """Of the whole file as it is now, in hexadecimal."""
        self._file.flush()
        self._hashing.submit(self._hash, os.fstat(self._file.fileno()).st_size).result()
        return self._digest.hexdigest()

    def _hash(self, end: int) -> None:
        part = memoryview(bytearray(min(WRITE_BYTES, end - self._hashed)))
        while self._hashed < end:
            count = self._again.readinto(part[: end - self._hashed])
            if not count:
                raise OSError(errno.EIO, "the file is shorter than what was written")
            self._digest.update(part[:count])
            self._hashed += count
