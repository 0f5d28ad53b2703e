"""The verbs. What each does is in the function it calls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.screen import hush, progress, show
from lpcaffe.errors import located

app = typer.Typer(
    help="Turns released Caffe networks into fixed-point ones, without Caffe, and proves every bit.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


@app.command()
def convert(
    net: o.NetFile,
    weights: o.WeightsFile,
    out: Annotated[Path, typer.Option("--out", help="Folder for the four files.", show_default=False)],
    data: o.MaybeData = None,
    limit: o.Limit = None,
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
    from lpcaffe.pipeline import check_outputs

    hush(quiet)
    check_outputs(out, force=force)
    loaded = lp.load(net, weights)
    chosen = None if plan is None else lp.BitPlan.load(plan)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    source = None if data is None else lp.images(data, loaded, limit=limit, **prepared)
    if chosen is None:
        stats = None
        if source is not None:
            with progress("calibrating", quiet) as report:
                stats = lp.calibrate(
                    loaded, source, fold_bn=fold_bn, act_placement=act_placement.value, progress=report
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
    with progress("measuring", quiet) as report:
        done = lp.convert(loaded, chosen, out, data=source, force=force, progress=report)
    show(done.report.to_json(), render.conversion, as_json, quiet)
    if not (as_json or quiet):
        print(f"written to {out}: lp.prototxt lp.caffemodel plan.yaml report.json")


@app.command()
def inspect(
    net: o.NetFile,
    weights: o.MaybeWeights = None,
    phase: Annotated[o.Phase, typer.Option(help="Which layers.")] = o.Phase.TEST,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show a network: layers, shapes, parameters, multiply-accumulates."""
    import lpcaffe as lp

    hush(quiet)
    show(lp.inspect(net, weights, phase=phase.value), render.inspection, as_json, quiet)


@app.command()
def upgrade(
    source: Annotated[Path, typer.Argument(metavar="IN", show_default=False, help="A prototxt or a caffemodel.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", show_default=False, help="Where to write it.")],
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Rewrite a V0 or V1 file as V2: text or binary, by content."""
    from lpcaffe.formats.upgrade_file import upgrade_file

    hush(quiet)
    upgrade_file(source, target, force=force)


@app.command()
def calibrate(
    net: o.NetFile,
    weights: o.WeightsFile,
    data: o.DataPath,
    out: Annotated[Path, typer.Option("--out", help="The statistics, .npz.", show_default=False)],
    limit: o.Limit = None,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
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
    loaded = lp.load(net, weights)
    source = lp.images(data, loaded, limit=limit, **o.preprocessing(resize, crop, mean, scale, channels, transpose))
    with progress("calibrating", quiet) as report:
        stats = lp.calibrate(loaded, source, fold_bn=fold_bn, act_placement=act_placement.value, progress=report)
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
    write_prototxt(lp.rewrite(lp.load_net(net), lp.BitPlan.load(plan)), out, force=force)


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
    lp.write_weights(lp.load(net, weights), lp.BitPlan.load(plan), out, force=force)


@app.command()
def run(
    net: o.NetFile,
    data: Annotated[
        Path, typer.Option("--input", help="Arrays to feed as they are, .npy or .npz.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Every blob, .npz.", show_default=False)],
    weights: o.MaybeWeights = None,
    engine: Annotated[o.Engine, typer.Option(help="What computes.")] = o.Engine.auto,
    dtype: Annotated[o.Dtype, typer.Option(help="The arithmetic.")] = o.Dtype.float32,
    seed: o.Seed = 0,
    stochastic_as: Annotated[
        o.StochasticAs | None, typer.Option(help="floor: what ADaPTION's CPU code does.", show_default=False)
    ] = None,
    versions: Annotated[bool, typer.Option("--versions", help="Earlier versions of in-place blobs too.")] = False,
    old_bd: o.OldBd = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Run a network and write every blob."""
    import lpcaffe as lp
    from lpcaffe.formats.npz import read_arrays, write_npz

    hush(quiet)
    loaded = lp.load_net(net, old_bd=old_bd) if weights is None else lp.load(net, weights, old_bd=old_bd)
    blobs = lp.run(
        loaded,
        read_arrays(data),
        engine=engine.value,
        dtype=dtype.value,
        seed=seed,
        stochastic_as=None if stochastic_as is None else stochastic_as.value,
        versions=versions,
    )
    write_npz(out, blobs, force=force)


@app.command()
def validate(
    net: o.NetFile,
    weights: o.WeightsFile,
    lp_net: Annotated[Path, typer.Argument(metavar="LP_NET", show_default=False, help="The low-precision prototxt.")],
    lp_weights: Annotated[
        Path, typer.Argument(metavar="LP_WEIGHTS", show_default=False, help="The low-precision caffemodel.")
    ],
    plan: Annotated[Path | None, typer.Option(help="The plan it was made with.", show_default=False)] = None,
    data: o.MaybeData = None,
    limit: o.Limit = None,
    labels: Annotated[Path | None, typer.Option(help="One integer a line, or .npy.", show_default=False)] = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Exit 1 below this fraction of equal decisions.", show_default=False)
    ] = None,
    old_bd: o.OldBd = False,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    scale: o.Scale = None,
    channels: o.ChannelsOption = None,
    transpose: o.Transpose = False,
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the report as JSON; - prints it.", show_default=False),
    ] = None,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Prove a conversion: every rounded weight, the error of every layer, the agreement of the outputs.

    Exit status 1 when a check does not hold.
    """
    import json

    import lpcaffe as lp
    from lpcaffe.data import read_labels
    from lpcaffe.formats.files import whole_file

    hush(quiet)
    loaded, low = lp.load(net, weights), lp.load(lp_net, lp_weights, old_bd=old_bd)
    prepared: dict[str, Any] = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    source = None if data is None else lp.images(data, loaded, limit=limit, **prepared)
    if labels is not None and source is not None:
        source = source.with_labels(read_labels(labels))
    with progress("validating", quiet) as report:
        proof = lp.validate(
            loaded,
            low,
            source,
            plan=None if plan is None else lp.BitPlan.load(plan),
            min_agreement=min_agreement,
            progress=report,
        )
    values = proof.to_json()
    if json_file is not None and str(json_file) != "-":
        with whole_file(json_file, force, "w") as file:
            file.write(json.dumps(values, indent=1) + "\n")
    show(values, render.validation, str(json_file) == "-", quiet)
    if not proof.holds:
        raise typer.Exit(1)


@app.command("round")
def round_(
    source: Annotated[Path, typer.Argument(metavar="IN.npy", show_default=False)],
    target: Annotated[Path, typer.Argument(metavar="OUT.npy", show_default=False)],
    fmt: Annotated[str, typer.Option("--format", help="For example Q2.14.", show_default=False)],
    scheme: Annotated[o.Scheme, typer.Option(help="How to round.")] = o.Scheme.deterministic,
    seed: o.Seed = 0,
    stream: Annotated[int, typer.Option(help="Stream of random numbers.")] = 0,
    device: Annotated[o.Device, typer.Option(help="Where to round.")] = o.Device.cpu,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Round an array of float32 or float64 to a format."""
    import lpcaffe as lp
    from lpcaffe.formats.npz import read_arrays, write_npy

    hush(quiet)
    q = lp.QFormat.parse(fmt)
    x = read_arrays(source)
    if not isinstance(x, np.ndarray):
        raise lp.DataError("expected an .npy with one array, got an .npz", path=source)
    with located(path=source):
        y = lp.round_fp(x, q.bd, q.ad, scheme.value, seed=seed, stream=stream, device=device.value)
    write_npy(target, y, force=force)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")] = Path("lpcaffe-demo"),
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Convert the embedded LeNet at 16 bits and prove it on 1,000 MNIST digits."""
    from lpcaffe.demo import run_demo

    hush(quiet)
    with progress("running", quiet) as report:
        done = run_demo(out, force=force, progress=report)
    show(done.conversion.report.to_json(), render.conversion, False, quiet)
    show(done.validation.to_json(), render.validation, False, quiet)
    if not quiet:
        for name in done.files:
            print(out / name)
    if not done.validation.holds:
        raise typer.Exit(1)
