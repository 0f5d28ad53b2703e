"""The record of trials: a file of JSON lines, so that an interrupted search continues where it was.

    {"lpcaffe": "trials", "version": 1, "network": ..., "sha256": ..., ...}            what the trials are of
    {"engine": "numpy", "formats": {"conv1 weights": "Q1.3"}, "score": {...}}          a trial, and so on

A line is written, and flushed, as its trial is done. A last line without its end was cut off and is dropped. Trials of
other work (another network, other weights, data, output, metric or rounding) are refused, not mixed. One process at a
time writes a record: its lock on the file ends with the last `Record` of it, or with the process.
"""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from lpcaffe.errors import DataError, FileError, reason
from lpcaffe.io.disk import cannot_write
from lpcaffe.io.locks import try_lock
from lpcaffe.search.metrics import Score

# engine, and the format of each site that has one; both as text.
Key = tuple[str, frozenset[tuple[str, str]]]

# The records of this process that are in use.
_open: weakref.WeakSet[Record] = weakref.WeakSet()


class Record:
    """Scores by trial, in memory and, with a `path`, in a file.

    DataError for a file that is not of this work, FileError for one that another process uses.
    """

    def __init__(self, path: str | PathLike[str] | None, work: Mapping[str, Any]) -> None:
        self._scores: dict[Key, Score] = {}
        self._path = None if path is None else Path(path)
        if self._path is None:
            return
        header = {"lpcaffe": "trials", "version": 1, **work}
        try:
            self._hold(self._path)
            stored = self._path.read_bytes()
            whole = stored[: stored.rfind(b"\n") + 1]
            if whole:
                self._read(whole.decode(), header)
            elif not json.dumps(header).encode().startswith(stored):  # a header cut off is ours, anything else is not
                raise _not_a_record(self._path)
            with self._path.open("ab") as file:
                file.truncate(len(whole))
                if not whole:
                    file.write(json.dumps(header).encode() + b"\n")
        except OSError as error:
            raise FileError(f"cannot be used: {reason(error)}", path=path) from error
        except UnicodeDecodeError as error:
            raise _not_a_record(self._path) from error

    def __contains__(self, key: Key) -> bool:
        return key in self._scores

    def __getitem__(self, key: Key) -> Score:
        return self._scores[key]

    def __len__(self) -> int:
        return len(self._scores)

    def add(self, key: Key, score: Score) -> None:
        """Keep a score, and write its line."""
        self._scores[key] = score
        if self._path is not None:
            line = {"engine": key[0], "formats": dict(sorted(key[1])), "score": score.to_json()}
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            except OSError as error:
                raise cannot_write(self._path, error) from error

    def _hold(self, path: Path) -> None:
        """Lock the file for as long as this record lives."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if try_lock(self._descriptor) is False:
            # A lock of this very process is shared: duplicates of a descriptor hold it together.
            here = os.fstat(self._descriptor)
            os.close(self._descriptor)
            ours = [other for other in _open if os.path.samestat(here, os.fstat(other._descriptor))]
            if not ours:
                raise FileError("another lpcaffe is writing this record", path=path, hint="give each search its own")
            self._descriptor = os.dup(ours[0]._descriptor)
        weakref.finalize(self, os.close, self._descriptor)
        _open.add(self)

    def _read(self, text: str, header: Mapping[str, Any]) -> None:
        # Not splitlines: JSON escapes line feeds and nothing else that Python takes for the end of a line.
        first, *lines = text.rstrip("\n").split("\n")
        _check_header(self._path, first, header)
        for number, line in enumerate(lines, 2):
            try:
                entry = json.loads(line)
                key = (str(entry["engine"]), frozenset((str(a), str(b)) for a, b in entry["formats"].items()))
                self._scores[key] = Score.from_json(entry["score"])
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DataError("expected the line of a trial", path=f"{self._path}:{number}") from error


def _check_header(path: Path | None, line: str, header: Mapping[str, Any]) -> None:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or found.get("lpcaffe") != "trials":
        raise _not_a_record(path)
    differing = [key for key in {**header, **found} if found.get(key) != header.get(key)]
    if differing:
        key = differing[0]
        problem = f"the trials in it are of other work: its {key} is {found.get(key)!r}, here it is {header.get(key)!r}"
        raise DataError(problem, path=path, hint="give another file, or remove this one")


def _not_a_record(path: Path | None) -> DataError:
    return DataError("is not a record of trials", path=path, hint="give a file that does not exist yet")
