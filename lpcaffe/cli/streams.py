"""`-` in place of a file: all of standard input is read first, and standard output is written at the end.

What a verb says of such a file it says of <stdin> or <stdout>. A file that is called - is ./- for us. A named pipe, and
with it `<(command)` of a shell, is read first as standard input is.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from lpcaffe.errors import FileError, LpcaffeError, reason
from lpcaffe.formats.caffemodel import MAX_BYTES
from lpcaffe.io.disk import cannot_write
from lpcaffe.io.outputs import check_outputs

_PIECE = 1 << 20


@contextmanager
def input_file(path: Path) -> Iterator[Path]:
    """The path itself, or for `-` and for a pipe that of a file which has all that came out of it."""
    if str(path) != "-" and not path.is_fifo():
        yield path
        return
    name = "<stdin>" if str(path) == "-" else str(path)
    with _stand_in(name) as file:
        try:
            with ExitStack() as stack, file.open("xb") as copy:
                piped = _bytes_of(sys.stdin, name) if name == "<stdin>" else stack.enter_context(path.open("rb"))
                _copy(piped, copy, name)
        except OSError as error:
            raise FileError(f"cannot be read: {reason(error)}", path=name) from error
        yield file


@contextmanager
def output_file(path: Path, *, force: bool) -> Iterator[Path]:
    """The path itself, if nothing is in the way, or for `-` that of a file which then goes to standard output."""
    if str(path) != "-":
        check_outputs([path], force=force)
        yield path
        return
    stdout = _bytes_of(sys.stdout, "<stdout>")
    with _stand_in("<stdout>") as file:
        yield file
        try:
            with file.open("rb") as made:
                shutil.copyfileobj(made, stdout)
            stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            silence_stdout()
            raise cannot_write("<stdout>", error) from error


def silence_stdout() -> None:
    """Let what is still buffered go nowhere: it could not be written, and would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _stand_in(name: str) -> Iterator[Path]:
    """A path in a temporary folder, which errors and warnings of the block know by `name`."""
    with TemporaryDirectory(prefix="lpcaffe-") as folder, warnings.catch_warnings():
        file = Path(folder) / "file"
        show = warnings.showwarning

        def show_renamed(message: Any, *rest: Any, **more: Any) -> None:
            show(str(message).replace(str(file), name), *rest, **more)

        warnings.showwarning = show_renamed
        try:
            yield file
        except LpcaffeError as error:
            if error.path is not None:
                error.path = error.path.replace(str(file), name)
            raise


def _bytes_of(stream: Any, name: str) -> IO[bytes]:
    # The program was started without it: Python has None, and `main` what goes nowhere.
    if stream is None or getattr(stream, "name", None) == os.devnull:
        raise FileError("is closed", path=name)
    buffer: IO[bytes] = stream.buffer
    return buffer


def _copy(source: IO[bytes], target: IO[bytes], name: str) -> None:
    """Copy no more than the largest file that Caffe reads: streams may be endless."""
    done = 0
    while piece := source.read(_PIECE):
        done += len(piece)
        if done > MAX_BYTES:
            raise FileError(f"expected at most {MAX_BYTES} bytes, which is all that Caffe reads", path=name)
        target.write(piece)
