"""The one family of errors, the one warning, and what their texts have in common.

Whatever goes wrong because of a file, a network, a plan or an argument is a `LpcaffeError`: a sentence with the place
where it happened. `str()` of it is the one line that the command line prints:

    deploy.prototxt:41:5: layer "conv2": lpfp_param needs bd >= 1 (got 0); write bd: 1 or more

A function raises the problem bare; a caller adds the place with `located`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

# Characters of a path, a place in the network, or a problem that are shown: names in hostile files have no end.
MAX_PART = 1000


class LpcaffeError(Exception):
    """Something that the user can mend.

    Parameters: `problem` is what is wrong, with what was expected and what was got; the keywords are where, and `hint`
    is what to do about it. Every part but the problem is optional.
    """

    def __init__(
        self,
        problem: str,
        *,
        path: str | os.PathLike[str] | None = None,
        line: int | None = None,
        column: int | None = None,
        layer: str | None = None,
        blob: str | int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = None if path is None else os.fspath(path)
        self.line = line
        self.column = column
        self.layer = layer
        self.blob = blob
        self.hint = hint

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.path, self.line, self.column) if part is not None)
        owner = " ".join(
            [f'layer "{self.layer}"'] * (self.layer is not None)
            + [f"blob {self.blob}" if isinstance(self.blob, int) else f'blob "{self.blob}"'] * (self.blob is not None)
        )
        parts = (part if len(part) <= MAX_PART else f"{part[:MAX_PART]}..." for part in (place, owner, self.problem))
        text = ": ".join(part for part in parts if part)
        text = f"{text}; {self.hint}" if self.hint else text
        return one_line(text)


def reason(error: BaseException) -> str:
    """The text of an exception of the system or of another library, on one line, to follow a colon."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__


def shape_text(shape: Iterable[int | str]) -> str:
    """A shape as messages write it: `3 x 5 x 7`, and `()` without an axis."""
    return " x ".join(map(str, shape)) or "()"


def counted(number: int, what: str) -> str:
    """A number of things: `1 layer`, `3 layers`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def one_line(text: str) -> str:
    """A path or a name, which may hold line feeds and what no terminal should get, so that it can be shown."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


class FileError(LpcaffeError):
    """A file cannot be read or written, or is not what it should be: missing, truncated, malformed, in the way."""


class NetError(LpcaffeError):
    """A network cannot be resolved or executed: an unknown layer type, shapes that do not fit, a missing parameter."""


class WeightsError(LpcaffeError):
    """Weights do not belong to the network, or hold NaN or infinity."""


class FormatError(LpcaffeError):
    """A fixed-point format that does not exist, or that the data type or the dialect cannot hold."""


class PlanError(LpcaffeError):
    """A plan is malformed, or belongs to another network."""


class TargetNotReached(PlanError):  # noqa: N818  (it is a result, not a mistake)
    """A search ended without a plan that keeps its target; the message has how close it came."""


class DataError(LpcaffeError):
    """Calibration or validation data cannot be read, or does not fit the network."""


class MissingExtraError(LpcaffeError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class LpcaffeWarning(UserWarning):
    """Something that was done, but that the user should know about."""


def warn(text: str, stacklevel: int = 2) -> None:
    """Issue an LpcaffeWarning. `stacklevel` is that of warnings.warn: 2 is the caller of the function that warns."""
    warnings.warn(text, LpcaffeWarning, stacklevel + 1)


@contextmanager
def located(
    *,
    path: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    blob: str | int | None = None,
) -> Iterator[None]:
    """Add the place to every LpcaffeError raised inside; what the error has already is kept."""
    try:
        yield
    except LpcaffeError as error:
        if error.path is None and path is not None:
            error.path = os.fspath(path)
        if error.layer is None:
            error.layer = layer
        if error.blob is None:
            error.blob = blob
        raise
