"""One writer at a time: locks that the system takes back when their process ends, however it ends.

A folder is held by a lock on the file `.lpcaffe.lock` in it. Its holder removes the file before the lock goes. So
whoever gets a lock looks whether the file still has that name; if not, the lock guards nothing, and a new file is made.
What a killed process leaves behind is a file without a lock, which the next one takes.

Windows has no such locks here, and not every network file system does: there nothing is held.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lpcaffe.errors import FileError
from lpcaffe.io.disk import cannot_write, sync_folder

LOCK = ".lpcaffe.lock"

# A folder or a lock file that vanishes between two steps is made again; not for ever, /proc has no files to make.
_TRIES = 100


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file. False: another has the lock. None: there are no locks here.

    The lock is that of the open file: it goes when every duplicate of the descriptor is closed.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None


@contextmanager
def held_folder(folder: Path) -> Iterator[bool]:
    """Hold a folder, which is made if need be, until the block ends; gives whether there is a lock.

    At the end the lock file is removed, and so are the folders that were made and stay empty. Raises FileError, at
    once, when another process or another thread holds the folder, and when nothing can be written there.
    """
    real = Path(os.path.realpath(folder))
    new = [place for place in (real, *real.parents) if not place.exists()]
    try:
        try:
            descriptor, locked = _hold(folder)
        except OSError as error:
            raise cannot_write(folder, error) from error
        try:
            try:
                for place in new:
                    sync_folder(place.parent)
            except OSError as error:
                raise cannot_write(folder, error) from error
            yield locked
        finally:
            with suppress(OSError):
                (folder / LOCK).unlink()
            os.close(descriptor)
    finally:
        with suppress(OSError):  # not empty, most often
            for place in new:
                place.rmdir()


def _hold(folder: Path) -> tuple[int, bool]:
    for tries in range(_TRIES, 0, -1):
        try:
            Path(os.path.realpath(folder)).mkdir(parents=True, exist_ok=True)
            descriptor = _open(folder / LOCK)
        except FileNotFoundError:
            if tries > 1:
                continue
            raise
        locked = try_lock(descriptor)
        if locked and _is_at(descriptor, folder / LOCK):
            return descriptor, True
        if locked is None:
            return descriptor, False
        os.close(descriptor)
        if not locked:
            hint = "wait until it is done, or take another folder"
            raise FileError("another lpcaffe is writing into this folder", path=folder, hint=hint)
    raise FileNotFoundError(f"{LOCK} vanishes again and again")


def _open(path: Path) -> int:
    """The lock file, made if need be. One that another user left can perhaps be read only, which is enough."""
    follow = getattr(os, "O_NOFOLLOW", 0)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | follow, 0o666)
    except PermissionError:
        try:
            return os.open(path, os.O_RDONLY | follow)
        except FileNotFoundError:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
