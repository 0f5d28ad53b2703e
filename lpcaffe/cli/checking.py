"""The verbs that compare files, verify low-precision ones, and take them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import attribute_errors, progress, show, silence_warnings
from lpcaffe.cli.streams import input_file
from lpcaffe.errors import FileError, NetError, PlanError, WeightsError, warn

LowNet = Annotated[Path, typer.Argument(metavar="LP_NET", show_default=False, help="The low-precision prototxt.")]
LowWeights = Annotated[
    Path, typer.Argument(metavar="LP_WEIGHTS", show_default=False, help="The low-precision caffemodel.")
]


@app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", show_default=False, help="A caffemodel, or a prototxt.")],
    b: Annotated[Path, typer.Argument(metavar="B", show_default=False, help="Another one.")],
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Compare two caffemodels, bit by bit, or two prototxts, field by field. Exit status 1 when they differ.

    One of the two may be -, standard input.
    """
    import lpcaffe as lp

    silence_warnings(quiet)
    if str(a) == str(b) == "-":
        raise FileError("expected one file on standard input, got two")
    with progress("comparing", quiet), input_file(a) as file_a, input_file(b) as file_b:
        found = replace(lp.diff(file_a, file_b), a=str(a), b=str(b))
    show(found.to_json(), render.difference, as_json, quiet)
    if not found.same:
        raise typer.Exit(1)


@app.command()
def verify(
    lp_net: LowNet,
    lp_weights: LowWeights,
    plan: Annotated[Path | None, typer.Option(help="The plan it was made with.", show_default=False)] = None,
    old_bd: o.OldBd = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a low-precision network by itself: formats, blobs, shapes, rounding, finite weights.

    Exit status 1 when a check does not hold.
    """
    import lpcaffe as lp

    silence_warnings(quiet)
    with progress("verifying", quiet), attribute_errors({NetError: lp_net, WeightsError: lp_weights, PlanError: plan}):
        chosen = None if plan is None else lp.BitPlan.load(plan)
        found = lp.verify(lp_net, lp_weights, plan=chosen, old_bd=old_bd)
    show(found.to_json(), render.verification, as_json, quiet)
    if not found.holds:
        raise typer.Exit(1)


@app.command()
def extract(
    lp_net: LowNet,
    lp_weights: LowWeights,
    out_net: Annotated[Path, typer.Option(metavar="PROTOTXT", help="The network.", show_default=False)],
    out_weights: Annotated[Path, typer.Option(metavar="CAFFEMODEL", help="Its weights.", show_default=False)],
    rounded: Annotated[bool, typer.Option("--rounded", help="Take the rounded weights.")] = False,
    old_bd: o.OldBd = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Take the full-precision network out of a low-precision one: Convolution, InnerProduct, even blobs, no LPAct.

    What was folded stays folded.
    """
    import lpcaffe as lp
    from lpcaffe.io.outputs import check_outputs
    from lpcaffe.report.conversion_report import replaced_values

    silence_warnings(quiet)
    check_outputs([out_net, out_weights], force=force)
    with progress("extracting", quiet), attribute_errors({NetError: lp_net, WeightsError: lp_weights}):
        full = lp.extract(lp.load(lp_net, lp_weights, old_bd=old_bd), rounded=rounded)
        if not rounded and (replaced := replaced_values(lp_weights)):
            warn(f"not all of full precision is in the pair: {' and '.join(replaced)}")
        lp.write_net(full, out_net, out_weights, hdf5=o.in_hdf5(out_weights), force=force)
