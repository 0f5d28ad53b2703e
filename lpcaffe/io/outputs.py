"""Outputs that are whole or not there: one transaction for one file or several.

    with outputs(["lp.prototxt", "lp.caffemodel", "report.json"], folder="out", witness="report.json") as out:
        with out.open("lp.caffemodel") as file:
            file.write(...)
        out.write("lp.prototxt", text.encode())
        out.write("report.json", report.encode())

The steps, in this order:

    1  check         nothing is in the way of an output, none is an input, no two are one file
    2  hold          with `folder`: make it, lock it, and remove what killed holders left behind
    3  stage         each file is written beside its target, as .lpcaffe-*.part, and synchronised to the disk
    4  check again   something may have come into being meanwhile
    5  witness       with `witness`, the file that describes the others: its old version is removed, synchronised
    6  rename        each file takes its name, in the order in which they were staged; their folders are synchronised
    7  witness       takes its name, synchronised

An error, an interrupt or a full disk before step 5 leaves what was there before, and nothing else; the error names the
output as the user does. A fault of the disk from step 5 on also removes outputs that were not there before; an earlier
file that was replaced by then stays replaced. A killed process or a power cut leaves each file whole, the earlier one
or the new one, and perhaps .part files. A single output is therefore old or new. Of several, some may be old and some
new, but where there is a witness it describes the files beside it.

Links are followed, to other file systems too: a file is staged where the link leads, and the link stays.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from lpcaffe.errors import FileError, LpcaffeError
from lpcaffe.io.disk import MEDIUM_ERRORS, cannot_write, held_open, sync, sync_folder
from lpcaffe.io.locks import held_folder

FilePath = str | os.PathLike[str]

# Of a holder of a folder, and in that folder only, so that the next holder knows whose they were.
_HELD_PART = ".lpcaffe-held-{}.part"
_PART = ".lpcaffe-{}.part"


@contextmanager
def outputs(
    paths: Iterable[FilePath],
    *,
    force: bool = False,
    inputs: Iterable[FilePath | None] = (),
    folder: FilePath | None = None,
    witness: FilePath | None = None,
) -> Iterator[Outputs]:
    """A transaction, see the module. What the block opened appears when it ends without an error.

    `paths` are those to check at once; others may be opened. `force` overwrites files, but never one of `inputs`. With
    `folder`, paths are relative to it; it is made if need be, held against other processes, and removed again if it
    stays empty. `witness` is one of the paths.

    Raises FileError, at once, for what `check_outputs` finds and when another process holds the folder; and when
    something cannot be written. Every other exception of the block passes through.
    """
    home, inputs = Path(folder or ""), tuple(inputs)
    check_outputs(paths, force=force, inputs=inputs, folder=folder)
    check = partial(_check, force=force, inputs=inputs, makes_folder=folder is not None)
    with nullcontext(False) if folder is None else held_folder(home) as held:
        if held:
            _remove_stale(home)
        out = Outputs(home, check, held)
        try:
            yield out
            out.finish(None if witness is None else out.path(witness))
        except LpcaffeError as error:
            error.path = out.known_as(error.path)
            raise
        finally:
            out.discard()


class _File(NamedTuple):
    """An output: its path as the user knows it, where its links lead, and the staged file."""

    path: Path
    target: Path
    part: Path


class Outputs:
    """The files of one transaction, which `outputs` begins and ends."""

    def __init__(self, folder: Path, check: Callable[[Iterable[Path]], None], held: bool) -> None:
        self._folder, self._check = folder, check
        self._held = Path(os.path.realpath(folder)) if held else None
        self._files: dict[Path, _File] = {}
        self._gone: list[Path] = []
        self._begun: list[_File] = []

    def path(self, path: FilePath) -> Path:
        """An output as the user knows it, with its folder."""
        return self._folder / path

    @contextmanager
    def open(self, path: FilePath) -> Iterator[IO[bytes]]:
        """Stage an output: a new binary file, with the permissions of any new file, synchronised at the end."""
        user = self.path(path)
        self._check([*self._files, user])
        target = Path(os.path.realpath(user))
        name = _HELD_PART if target.parent == self._held else _PART
        part = target.with_name(name.format(secrets.token_hex(8)))
        staged = _File(user, target, part)
        self._begun.append(staged)
        try:
            with part.open("xb") as file:  # not tempfile, whose files are readable by their owner only
                yield file
                file.flush()
                sync(file.fileno())
        except OSError as error:
            if error.errno in MEDIUM_ERRORS or str(error.filename) == str(part):
                raise cannot_write(user, error) from error
            raise
        self._files[user] = staged

    def write(self, path: FilePath, data: bytes) -> str:
        """Stage an output of these bytes. Returns their SHA-256, in hexadecimal."""
        with self.open(path) as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def adopt(self, path: FilePath, part: Path) -> None:
        """Stage a file that is whole and synchronised, on the file system of the output. An error leaves it."""
        user = self.path(path)
        self._check([*self._files, user])
        self._files[user] = _File(user, Path(os.path.realpath(user)), part)

    def remove(self, path: FilePath) -> None:
        """Remove a file at the end, if there is one; a link, and not what it leads to."""
        self._gone.append(self.path(path))

    def staged(self, path: FilePath) -> Path:
        """Where a staged output is until the end, to be read."""
        return self._files[self.path(path)].part

    def finish(self, witness: Path | None) -> None:
        """Steps 4 to 7."""
        self._check([*self._files, *self._gone])
        last = [self._files.pop(witness)] if witness in self._files else []
        files = list(self._files.values())
        fresh = [file for file in (*files, *last) if not file.target.exists()]
        try:
            if files or self._gone:
                for file in last:
                    _remove(file.path, file.target)
            _rename(files)
            for path in self._gone:
                _remove(path, path)
            _rename(last)
        except BaseException:
            for file in reversed(fresh):
                if not file.part.exists():
                    with suppress(OSError):
                        file.target.unlink()
            raise

    def known_as(self, path: str | None) -> str | None:
        """The path of an output in place of its staged file's; any other as it is."""
        return next((str(file.path) for file in self._begun if str(file.part) == path), path)

    def discard(self) -> None:
        """Remove staged files that have not got their names."""
        for file in self._begun:
            with suppress(OSError):
                file.part.unlink()


def _rename(files: Sequence[_File]) -> None:
    with held_open(file.target for file in files):
        for file in files:
            with _faults_of(file.path):
                file.part.replace(file.target)
        for folder, path in {file.target.parent: file.path for file in files}.items():
            with _faults_of(path):
                sync_folder(folder)


def _remove(path: Path, target: Path) -> None:
    with _faults_of(path):
        if os.path.lexists(target):
            target.unlink()
            sync_folder(target.parent)


@contextmanager
def _faults_of(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def _remove_stale(folder: Path) -> None:
    """What holders left that were killed. Files without "held" in their names may be those of a living process."""
    for stale in folder.glob(_HELD_PART.format("*")):
        if stale.is_file() and not stale.is_symlink():
            with suppress(OSError):
                stale.unlink()


@contextmanager
def whole_file(path: FilePath, force: bool = False) -> Iterator[IO[bytes]]:
    """A transaction of one file."""
    with outputs([path], force=force) as out, out.open(path) as file:
        yield file


def write_file(path: FilePath, data: bytes, *, force: bool = False) -> str:
    """A transaction of one file with these bytes. Returns their SHA-256, in hexadecimal."""
    with outputs([path], force=force) as out:
        return out.write(path, data)


def check_outputs(
    paths: Iterable[FilePath],
    *,
    force: bool = False,
    inputs: Iterable[FilePath | None] = (),
    folder: FilePath | None = None,
) -> None:
    """Raise FileError when a file is in the way of an output; worth asking before a long computation.

    Not even `force` overwrites one of the `inputs`, or lets two outputs be one file, through links. With `folder`,
    which need not exist, paths are relative to it. Without it the folder of an output must exist.
    """
    home = Path(folder or "")
    if folder is not None:
        _check_folder(home)
    _check((home / path for path in paths), force=force, inputs=inputs, makes_folder=folder is not None)


def _check(paths: Iterable[Path], *, force: bool, inputs: Iterable[FilePath | None], makes_folder: bool) -> None:
    taken = {os.path.realpath(path): f"the input {path}" for path in inputs if path is not None}
    for path in paths:
        _check_output(path, force, makes_folder)
        place = os.path.realpath(path)
        if place in taken:
            raise FileError(f"expected a file of its own for this output, got {taken[place]}", path=path)
        taken[place] = f"the same file as {path}"


def _check_output(path: Path, force: bool, makes_folder: bool) -> None:
    target = Path(os.path.realpath(path))
    with _faults_of(path):
        if not makes_folder and not target.parent.is_dir():
            raise FileError(f'the directory "{target.parent}" does not exist', path=path, hint="create it first")
        if target.exists() and not target.is_file():
            raise FileError("expected an ordinary file to write, got a directory or a device", path=path)
        if target.exists() and not force:
            raise FileError("the file exists", path=path, hint="--force overwrites it")


def _check_folder(folder: Path) -> None:
    with _faults_of(folder):
        there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
        if not there.is_dir():
            raise FileError("expected a folder for the output, got a file", path=there)
