"""The program: what all verbs share."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer
import typer.main

app = typer.Typer(
    help="Turns released Caffe networks into fixed-point ones, without Caffe, and proves every bit.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@functools.cache
def program() -> Any:
    """What typer builds of `app`, once: it takes longer than a short verb does."""
    return typer.main.get_command(app)


def _version(wanted: bool) -> None:
    if wanted:
        from lpcaffe import __version__

        print(f"lpcaffe {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Turns released Caffe networks into fixed-point ones, without Caffe, and proves every bit."""
