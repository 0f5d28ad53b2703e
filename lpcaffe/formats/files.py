"""Files as a whole: what the first bytes say, and output that is either whole or not there.

An output is written to a temporary file beside its target, synchronised to the disk, and takes the target's name only
when nothing went wrong. Then the folder is synchronised too. So an error, a full disk, a killed process or a power cut
leaves the earlier file, or none, or the whole new one, and never half of one.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import secrets
import shutil
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from lpcaffe.errors import FileError, reason

# Faults of the medium, not of the program: they become one line that names the output.
MEDIUM_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}

# What fsync says on file systems that have nothing to synchronise.
_NO_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}

# What the readers of arrays, archives and images raise for a file that is broken.
UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    LookupError,
    MemoryError,
    ArithmeticError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)

# Bytes of one write: for larger ones Linux looks for pages of megabytes, and that can take ten times as long.
WRITE_BYTES = 1 << 18

# Bytes after which a large output is sent to the disk, so that little is left to wait for at its end.
SYNC_BYTES = 1 << 26

# How many first bytes `content_kind` needs.
HEAD_BYTES = 4096

HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"

MAGIC = {
    HDF5_MAGIC: "an HDF5 file",
    b"version https://git-lfs": "a Git LFS pointer",
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"\x93NUMPY": "a NumPy array",
}


def content_kind(head: bytes) -> str:
    """What a file that begins with `head` is: "empty", "text", "binary", or words for something that is not Caffe's.

    A prototxt is "text", in whatever encoding its comments are (some use the control character ESC); a caffemodel is
    "binary", because the tag of a layer holds another one.
    """
    if not head:
        return "empty"
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    return "text" if all(byte >= 0x20 or byte in b"\t\n\v\f\r\x1b" for byte in head) else "binary"


def file_kind(path: str | os.PathLike[str]) -> str:
    """What a file is, in the words of `content_kind`.

    Raises FileError when it cannot be read, and for a pipe: to look into one takes away from it.
    """
    try:
        mode = Path(path).stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FileError("expected an ordinary file, got a pipe or a device", path=path)
        with Path(path).open("rb") as file:
            return content_kind(file.read(HEAD_BYTES))
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {reason(error)}", path=path) from error


@contextmanager
def whole_file(path: str | os.PathLike[str], force: bool = False, mode: Literal["wb", "w"] = "wb") -> Iterator[IO[Any]]:
    """Open an output that exists under `path` only once the block has ended without an error.

    `mode` is "wb" for bytes or "w" for text (UTF-8, line ends as written). The permissions are those of any new file.
    A link is followed, so that it goes on pointing at what was written.

    Raises FileError when `path` exists and `force` is false, when its directory does not exist, when it is no ordinary
    file, and when the disk is full or fails. Every other exception of the block passes through, interrupts included,
    after the temporary file is removed.
    """
    target = Path(os.path.realpath(path))
    check_output(path, force=force)
    part = target.with_name(f".lpcaffe-{secrets.token_hex(8)}.part")
    try:
        # "x" and not tempfile, whose files are readable by their owner only.
        with part.open("xb") if mode == "wb" else part.open("x", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            _sync(file.fileno())
        check_output(path, force=force)  # it may have come into being meanwhile
        with _held_open(target):
            part.replace(target)
            sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            part.unlink()
        if isinstance(error, OSError) and (error.errno in MEDIUM_ERRORS or str(error.filename) == str(part)):
            raise cannot_write(path, error) from error
        raise


@contextmanager
def hashed_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[HashedFile]:
    """A binary `whole_file` for outputs of hundreds of megabytes: see HashedFile. Raises what `whole_file` raises."""
    with (
        whole_file(path, force) as file,
        Path(file.name).open("rb", buffering=0) as again,
        ThreadPoolExecutor(1, "sha256") as hashing,
        ThreadPoolExecutor(1, "fsync") as syncing,
    ):
        hashed = HashedFile(file, again, hashing, syncing)
        yield hashed
        hashed.check()


class HashedFile:
    """A file that is hashed and sent to the disk while it is being written, each on a thread beside the writer's.

    What is hashed is what the file gives back, so the writer may reuse its memory at once. A writer only goes forward:
    what it passes over must be in the file by then, and is hashed as it is there.
    """

    def __init__(self, file: IO[bytes], again: io.FileIO, hashing: ThreadPoolExecutor, syncing: ThreadPoolExecutor):
        self._file, self._again = file, again
        self._hashing, self._syncing = hashing, syncing
        self._digest = hashlib.sha256()
        self._written = self._hashed = self._sent = 0
        self._sending: Future[None] | None = None

    @property
    def name(self) -> str:
        """Of the temporary file."""
        return self._file.name

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
            self._sending = self._syncing.submit(_sync, self._file.fileno())

    def check(self) -> None:
        """Wait until what was sent to the disk is there. Raises OSError: the system tells of a fault only once."""
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


def move_whole(file: Path, path: str | os.PathLike[str]) -> None:
    """Give a whole file, synchronised to the disk, the name `path`; what has that name is replaced.

    A link is followed. Where it leads to another file system, the file is copied as `whole_file` writes.
    """
    target = Path(os.path.realpath(path))
    with _held_open(target):
        try:
            file.replace(target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with file.open("rb") as source, whole_file(target, force=True) as copy:
                shutil.copyfileobj(source, copy)
        sync_folder(target.parent)


@contextmanager
def _held_open(target: Path) -> Iterator[None]:
    """Keep what a rename replaces until the folder is synchronised, which would wait until its blocks are free."""
    try:
        # Windows replaces no file that is open.
        descriptor = None if os.name == "nt" else os.open(target, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        descriptor = None
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder survive a power cut, as far as the system can."""
    if os.name == "nt":  # which opens no folders
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def check_output(path: str | os.PathLike[str], *, force: bool = False, makes_folder: bool = False) -> None:
    """Raise FileError when a file is in the way of an output; worth asking before a long computation.

    The folder must exist, unless the caller is going to make it.
    """
    target = Path(os.path.realpath(path))
    try:
        if not makes_folder and not target.parent.is_dir():
            raise FileError(f'the directory "{target.parent}" does not exist', path=path, hint="create it first")
        if target.exists() and not target.is_file():
            raise FileError("expected an ordinary file to write, got a directory or a device", path=path)
        if target.exists() and not force:
            raise FileError("the file exists", path=path, hint="--force overwrites it")
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: str | os.PathLike[str], error: OSError) -> FileError:
    """The one line of an error of the system, about an output."""
    return FileError(f"cannot be written: {reason(error)}", path=path)
