"""The command line: one program with verbs, each a few lines over a public function.

exit status 0   done          1   a check did not hold          2   the user's error: one line, no traceback
"""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

from lpcaffe.errors import LpcaffeError, LpcaffeWarning, TargetNotReached, one_line, reason


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and exit."""
    # A program may be started with these closed. What would be printed goes nowhere then.
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    # Garbage collections among what imports leave for good take a third of the time of a short verb: fewer of them,
    # and none at the end.
    gc.set_threshold(100_000)
    if threading.current_thread() is threading.main_thread():
        for number in _ENDING:
            # As after an interrupt, what is half done is taken away. Who started us may have had it ignored (nohup).
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, _end)
    try:
        status = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        status = 130
    except _EndedError as error:
        status = 128 + error.args[0]
    gc.freeze()
    sys.exit(status)


class _EndedError(BaseException):
    """A signal asked us to end: its number. Nobody on the way may take it for a fault."""


_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _end(number: int, _: FrameType | None) -> None:
    for other in (*_ENDING, signal.SIGINT):  # which would end the tidying up
        signal.signal(other, signal.SIG_IGN)
    raise _EndedError(number)


def run(arguments: list[str]) -> int:
    """Run one verb and return the exit status."""
    for before, argument in zip(["lpcaffe", *arguments], arguments, strict=False):
        if re.fullmatch("(--[a-z0-9-]+=)?", argument):
            return _fail(f"expected a value after {argument or before}, got none: a variable that is not set?")
    import typer

    # Importing them registers their verbs.
    from lpcaffe.cli import checking, converting, examining, exporting, fetching, searching  # noqa: F401
    from lpcaffe.cli.app import program
    from lpcaffe.cli.streams import silence_stdout
    from lpcaffe.formats.source_location import layer_location

    warnings.simplefilter("always", LpcaffeWarning)
    shown: set[str] = set()

    def show_warning(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
        # Each sentence once: calibrating and measuring look at the same data.
        if issubclass(category, LpcaffeWarning) and str(message) not in shown:
            shown.add(str(message))
            print(f"lpcaffe: warning: {one_line(str(message))}", file=sys.stderr)

    warnings.showwarning = show_warning
    try:
        status = int(program()(_spelled(arguments) or ["--help"], prog_name="lpcaffe", standalone_mode=False) or 0)
        sys.stdout.flush()
        return status
    except LpcaffeError as error:
        if error.path is not None and error.layer is not None and error.line is None:
            error.line, error.column = layer_location(error.path, error.layer) or (None, None)
        return _fail(str(error), 1 if isinstance(error, TargetNotReached) else 2)
    except MemoryError:
        return _fail("not enough memory")
    except (BrokenPipeError, SystemExit):
        # The reader of our output went away (`lpcaffe inspect ... | head`): nothing is wrong. Of all ends that typer
        # could choose, it exits for this one only.
        silence_stdout()
        return 0
    except typer.Abort:
        # What some versions make of an interrupt; others return 130 themselves.
        return 130
    except OSError as error:
        # Of files, whatever the verb does with them. A write without a file's name is one to stdout.
        where = f"{error.filename}: " if error.filename else ""
        if not where and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            silence_stdout()
            where = "<stdout>: cannot be written: "
        return _fail(f"{where}{reason(error)}")
    except Exception as error:
        # A wrong option is typer's own exception, which knows how to say it; anything else is our bug, and shows.
        if hasattr(error, "format_message"):
            context = getattr(error, "ctx", None)
            command = context.command_path if context else "lpcaffe"
            said = error.format_message().rstrip(".").replace("Value error, ", "")
            return _fail(f"{said}; see {command} --help")
        raise


def _spelled(arguments: list[str]) -> list[str]:
    """The arguments as typer knows to read them.

    `--bits-for conv1:8 fc*:6` becomes `--bits-for conv1:8 --bits-for fc*:6`: what follows a rule is one too when it
    looks like one and is no file. `./-`, which is a file and not a stream, is spelled out: pathlib makes `-` of it.
    """
    from lpcaffe.allocation.bits import RULE

    result: list[str] = []
    rules = False  # whether the last argument was a rule
    for index, argument in enumerate(arguments):
        after_option = index > 0 and arguments[index - 1] == "--bits-for"
        if rules and not after_option and RULE.fullmatch(argument) and not os.path.lexists(argument):
            result += ["--bits-for", argument]
            continue
        rules = after_option or argument.startswith("--bits-for=")
        option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        is_file = value not in ("", "-") and str(Path(value)) == "-"
        result.append(f"{option}{equals}{os.path.abspath(value)}" if is_file else argument)  # noqa: PTH100
    return result


def _fail(line: str, status: int = 2) -> int:
    print(f"lpcaffe: {one_line(line)}", file=sys.stderr)
    return status
