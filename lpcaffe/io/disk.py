"""What the system offers to make files and their names survive a power cut, and its faults as one line."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lpcaffe.errors import FileError, reason

# Faults of the medium, not of the program: they become one line that names the output.
MEDIUM_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

# What fsync reports on file systems that have nothing to synchronise.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}


def sync(descriptor: int) -> None:
    """Wait until an open file or folder is on the disk. Raises OSError; the system reports a fault only once."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power cut, as far as the system can."""
    if os.name == "nt":  # which opens no folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def held_open(paths: Iterable[Path]) -> Iterator[None]:
    """Keep the files that renames replace until the block ends.

    Without it, the sync of their folder waits until their blocks are free.
    """
    descriptors = []
    try:
        for path in paths if os.name != "nt" else ():  # Windows replaces no file that is open
            try:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
            except OSError:
                continue
        yield
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> FileError:
    """The one line of an error of the system, about an output."""
    return FileError(f"cannot be written: {reason(error)}", path=path)
