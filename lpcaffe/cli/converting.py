"""The verbs that convert: all in one go, or step by step."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated

import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import about, hush, progress, show
from lpcaffe.errors import DataError, LpcaffeWarning, NetError, PlanError, WeightsError
from lpcaffe.formats.files import check_output

# The options of convert that say what a plan says.
_IN_THE_PLAN = (
    "bits",
    "weight_bits",
    "activation_bits",
    "method",
    "rounding",
    "seed",
    "round_bias",
    "round_output",
    "keep_step",
    "fold_bn",
    "act_placement",
    "dialect",
)


@app.command()
def convert(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    out: Annotated[Path, typer.Option("--out", help="Folder for the four files.", show_default=False)],
    data: o.MaybeData = None,
    limit: o.Limit = None,
    engine: o.EngineOption = o.Engine.auto,
    bits: o.Bits = 16,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    method: o.Method = "max",
    plan: Annotated[Path | None, typer.Option(help="Use these formats.", show_default=False)] = None,
    rounding: o.RoundingOption = o.Rounding.deterministic,
    seed: o.Seed = 0,
    round_bias: o.RoundBias = False,
    round_output: o.RoundOutput = False,
    keep_step: o.KeepStep = False,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
    dialect: o.DialectOption = o.Dialect.adaption,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    scale: o.Scale = None,
    channels: o.ChannelsOption = None,
    transpose: o.Transpose = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Convert a network: formats, prototxt, caffemodel and report in one go.

    Without --data no output is rounded; without --plan the formats are chosen from the weights and the data.
    """
    import lpcaffe as lp
    from lpcaffe.net import learned_layers
    from lpcaffe.pipeline import check_outputs

    hush(quiet)
    check_outputs(out, force=force)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    o.check_data_options(data, limit=limit, **prepared)
    with about({NetError: net, WeightsError: weights, PlanError: plan}):
        loaded = lp.load(net, weights)
        chosen = None if plan is None else lp.BitPlan.load(plan)
        source = None if data is None else lp.images(data, loaded, limit=limit, **prepared)
        if chosen is None:
            stats = None
            if source is not None:
                with progress("calibrating", quiet) as report:
                    stats = lp.calibrate(
                        loaded,
                        source,
                        fold_bn=fold_bn,
                        act_placement=act_placement.value,
                        engine=engine.value,
                        progress=report,
                    )
            chosen = lp.allocate(
                loaded,
                stats,
                bits=bits,
                weight_bits=weight_bits,
                activation_bits=activation_bits,
                method=method,
                dialect=dialect.value,
                rounding=rounding.value,
                seed=seed,
                round_bias=round_bias,
                round_output=round_output,
                keep_step=keep_step,
                fold_bn=fold_bn,
            )
        elif given := [name for name in _IN_THE_PLAN if o.was_given(context, name)]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            warnings.warn(f"{plan} says what {options} would; the plan is obeyed", LpcaffeWarning, stacklevel=1)
        if left := [layer.name for layer in learned_layers(loaded) if layer.name not in chosen.layers]:
            text = f"the plan has no line for {', '.join(left)}, which stay in full precision"
            warnings.warn(text, LpcaffeWarning, stacklevel=1)
        with progress("measuring", quiet) as report:
            done = lp.convert(loaded, chosen, out, data=source, force=force, progress=report)
    if not chosen.layers:
        warnings.warn(f"{net}: no layer got a format", LpcaffeWarning, stacklevel=1)
    show(done.report.to_json(), render.conversion, as_json, quiet)
    if not (as_json or quiet):
        print(f"written to {out}: lp.prototxt lp.caffemodel plan.yaml report.json")


@app.command()
def calibrate(
    net: o.NetFile,
    weights: o.WeightsFile,
    data: o.DataPath,
    out: Annotated[Path, typer.Option("--out", help="The statistics, .npz.", show_default=False)],
    limit: o.Limit = None,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
    engine: o.EngineOption = o.Engine.auto,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    scale: o.Scale = None,
    channels: o.ChannelsOption = None,
    transpose: o.Transpose = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Collect the statistics of every output that gets a format."""
    import lpcaffe as lp

    hush(quiet)
    check_output(out, force=force)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    with about({NetError: net, WeightsError: weights}):
        loaded = lp.load(net, weights)
        source = lp.images(data, loaded, limit=limit, **prepared)
        with progress("calibrating", quiet) as report:
            stats = lp.calibrate(
                loaded,
                source,
                fold_bn=fold_bn,
                act_placement=act_placement.value,
                engine=engine.value,
                progress=report,
            )
    stats.save(out, force=force)
    show(stats.to_json(), render.calibration, as_json, quiet)


@app.command()
def allocate(
    net: o.NetFile,
    weights: o.WeightsFile,
    stats: Annotated[Path, typer.Option(help="From lpcaffe calibrate.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The plan, YAML.", show_default=False)],
    bits: o.Bits = 16,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    method: o.Method = "max",
    rounding: o.RoundingOption = o.Rounding.deterministic,
    seed: o.Seed = 0,
    round_bias: o.RoundBias = False,
    round_output: o.RoundOutput = False,
    keep_step: o.KeepStep = False,
    dialect: o.DialectOption = o.Dialect.adaption,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Choose a format for the weights and the output of every layer."""
    import lpcaffe as lp

    hush(quiet)
    check_output(out, force=force)
    with progress("reading weights", quiet), about({NetError: net, WeightsError: weights, DataError: stats}):
        plan = lp.allocate(
            lp.load(net, weights),
            lp.Calibration.load(stats),
            bits=bits,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            method=method,
            dialect=dialect.value,
            rounding=rounding.value,
            seed=seed,
            round_bias=round_bias,
            round_output=round_output,
            keep_step=keep_step,
        )
    plan.save(out, force=force)
    show(plan.to_json(), render.plan, as_json, quiet)


@app.command()
def rewrite(
    net: o.NetFile,
    plan: Annotated[Path, typer.Option(help="The formats, YAML or JSON.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The low-precision prototxt.", show_default=False)],
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Write the low-precision prototxt of a plan."""
    import lpcaffe as lp
    from lpcaffe.pipeline import write_prototxt

    hush(quiet)
    check_output(out, force=force)
    with about({NetError: net, PlanError: plan}):
        low = lp.rewrite(lp.load_net(net), lp.BitPlan.load(plan))
    write_prototxt(low, out, force=force)


@app.command()
def weights(
    net: o.NetFile,
    weights: o.WeightsFile,
    plan: Annotated[Path, typer.Option(help="The formats, YAML or JSON.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The low-precision caffemodel.", show_default=False)],
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Write the caffemodel of a plan: even blobs full precision, odd blobs rounded."""
    import lpcaffe as lp

    hush(quiet)
    check_output(out, force=force)
    with progress("rounding weights", quiet), about({NetError: net, WeightsError: weights, PlanError: plan}):
        lp.write_weights(lp.load(net, weights), lp.BitPlan.load(plan), out, force=force)
