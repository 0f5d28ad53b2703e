"""What kind of file this is, by its first bytes; and what readers raise for one that is broken."""

from __future__ import annotations

import os
import stat
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path

from lpcaffe.errors import FileError, reason

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
