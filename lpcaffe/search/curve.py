"""Bits against quality: the trials of a search as a table or a plot."""

from __future__ import annotations

import csv
import io
from os import PathLike
from pathlib import Path
from typing import Any

from lpcaffe.errors import DataError, MissingExtraError
from lpcaffe.io.outputs import check_outputs, whole_file, write_file
from lpcaffe.search.search import SearchReport

SUFFIXES = (".csv", ".svg")
_QUALITIES = (("top1", "top-1 accuracy"), ("metric", "metric"), ("agreement", "agreement"), ("sqnr_db", "SQNR, dB"))


def check_curve(path: str | PathLike[str], *, force: bool = False) -> None:
    """Raise before a long search what `save_curve` would raise after it."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise DataError(f"expected a curve's file to end in {' or '.join(SUFFIXES)}", path=path)
    check_outputs([path], force=force)
    if Path(path).suffix.lower() == ".svg":
        _matplotlib()


def save_curve(report: SearchReport, path: str | PathLike[str], *, force: bool = False) -> None:
    """Write the curve: .csv with a row for each trial, or .svg with the quality over the bits (extra `plot`).

    The quality is the one of the target; top-1, the metric, agreement or SQNR, whichever there is, without a target.
    """
    rows = report.to_json()["curve"]
    if Path(path).suffix.lower() == ".csv":
        table = io.StringIO()
        writer = csv.DictWriter(table, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_file(path, table.getvalue().encode(), force=force)
        return
    _plot(report, rows, path, force)


def _plot(report: SearchReport, rows: list[dict[str, Any]], path: str | PathLike[str], force: bool) -> None:
    matplotlib = _matplotlib()
    from matplotlib.figure import Figure

    wanted = None if report.target is None else report.target.measure.removesuffix("_loss")
    known = [pair for pair in _QUALITIES if any(row[pair[0]] is not None for row in rows)]
    key, label = next((pair for pair in known if pair[0] == wanted), known[0])
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, (bits, name) in zip(
        figure.subplots(1, 2, sharey=True),
        (("weight_bits", "bits of a weight, average"), ("activation_bits", "bits of an output, average")),
        strict=True,
    ):
        for met, colour, meaning in ((False, "tab:red", "missed"), (True, "tab:blue", "kept"), (None, "tab:gray", "")):
            points = [row for row in rows if row["met"] is met and row[bits] is not None and row[key] is not None]
            if points:
                axes.plot([p[bits] for p in points], [p[key] for p in points], ".", color=colour, label=meaning or None)
        found = report.row(report.found)
        if found[bits] is not None and found[key] is not None:
            axes.plot(found[bits], found[key], "o", color="black", fillstyle="none", markersize=10, label="found")
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(label)
    figure.axes[0].legend()
    # Nothing of the day or of chance in the file.
    with matplotlib.rc_context({"svg.hashsalt": "lpcaffe"}), whole_file(path, force) as file:
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("a plot needs matplotlib", hint="pip install 'lpcaffe[plot]', or write .csv") from error
    return matplotlib
