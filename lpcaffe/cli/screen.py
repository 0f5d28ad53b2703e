"""What a person sees: tables, and progress bars for what takes longer than a second."""

from __future__ import annotations

import json
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lpcaffe.errors import FormatError, LpcaffeError, LpcaffeWarning, NetError, one_line


def silence_warnings(quiet: bool) -> None:
    """Without warnings when the user asked for quiet."""
    if quiet:
        warnings.simplefilter("ignore", LpcaffeWarning)


def note(sentence: str, quiet: bool) -> None:
    """Say on stderr what was chosen for the user."""
    if not quiet:
        print(f"lpcaffe: {sentence}", file=sys.stderr)


@contextmanager
def attribute_errors(files: dict[type[LpcaffeError], Path | None]) -> Iterator[None]:
    """Name the file in errors that do not say where: an error of each kind is about one of the files."""
    try:
        yield
    except LpcaffeError as error:
        # A format that the network names is the network's.
        path = files.get(NetError if isinstance(error, FormatError) else type(error))
        if error.path is None and path is not None:
            error.path = str(path)
        raise


def show(
    value: dict[str, Any], render: Callable[[dict[str, Any]], Iterator[Table | str]], as_json: bool, quiet: bool
) -> None:
    """Print a report: as JSON, or as the tables and lines that `render` makes of it."""
    if as_json:
        print(json.dumps(value, indent=1))
    elif not quiet:
        # Tables are as wide as they need to be where no terminal says how wide it is.
        console = Console(width=None if sys.stdout.isatty() else 160, highlight=False, soft_wrap=True)
        for part in render(_shown(value)):
            console.print(part, markup=False) if isinstance(part, str) else console.print(part)


def _shown(value: Any) -> Any:
    """The value with every string on one line: names in files must not draw lines of their own."""
    if isinstance(value, dict):
        return {_shown(key): _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(item) for item in value]
    return one_line(value) if isinstance(value, str) else value


@contextmanager
def progress(what: str, quiet: bool, *, in_bytes: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """A function to report progress to; on a terminal it draws a bar once a second has passed, reported to or not.

    The function takes what is done and what there is in all, 0 where that is not known.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task(what, total=None)
    late = threading.Timer(1, bar.start)
    late.daemon = True
    late.start()
    try:
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
    finally:
        late.cancel()
        late.join()
        bar.stop()


def table(title: str, *columns: str) -> Table:
    """A table; columns whose name begins with > are aligned to the right."""
    # Text, because the name of a network may hold what rich takes for markup.
    made = Table(
        title=Text(title), title_justify="left", title_style="bold", header_style="bold", box=None, pad_edge=False
    )
    for column in columns:
        made.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    return made


def decibels(value: float | None, unit: str = "") -> str:
    """An SQNR; "exact" where there is no error."""
    return "exact" if value is None else f"{value:.1f}{unit}"


def percent(value: float | None) -> str:
    """A fraction as a percentage."""
    return "" if value is None else f"{value:.3%}"
