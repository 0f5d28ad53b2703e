"""The verb that writes a network for other tools."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lpcaffe.cli import options as o
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import attribute_errors, progress, show, silence_warnings
from lpcaffe.errors import NetError, PlanError, WeightsError
from lpcaffe.export import PROFILES


class Target(StrEnum):
    """What can be written."""

    onnx = "onnx"


# What becomes of rounding: every profile of the table.
Profile = StrEnum("Profile", {name: name for name in PROFILES})  # type: ignore[misc]


@app.command()
def export(
    net: o.NetFile,
    out: Annotated[Path, typer.Option("--out", help="The model to write.", show_default=False)],
    weights: o.MaybeWeights = None,
    to: Annotated[Target, typer.Option("--to", help="The format of the file.")] = Target.onnx,
    profile: Annotated[
        Profile | None,
        typer.Option(help="How rounding is said.", show_default="exact for a network that rounds, else float"),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="Round a full-precision or plain network by a plan.", show_default=False)
    ] = None,
    old_bd: o.OldBd = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Write a network as ONNX."""
    import lpcaffe as lp

    silence_warnings(quiet)
    with progress("exporting", quiet), attribute_errors({NetError: net, WeightsError: weights or net, PlanError: plan}):
        done = lp.export_onnx(
            lp.load_net(net, old_bd=old_bd) if weights is None else lp.load(net, weights, old_bd=old_bd),
            out,
            profile=None if profile is None else profile.value,
            plan=None if plan is None else lp.BitPlan.load(plan),
            force=force,
        )
    show(done.to_json(), _exported, as_json, quiet)


def _exported(report: dict[str, Any]) -> Iterator[str]:
    for what in ("inputs", "outputs"):
        for name, dims in report[what].items():
            yield f"{what[:-1]} {name}: {' x '.join(map(str, dims)) or 'a single value'}"
    yield f"profile {report['profile']}, {report['nodes']} nodes, written to {' and '.join(report['files'])}"
