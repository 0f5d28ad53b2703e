"""The verbs that look at a network, run it and prove it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import attribute_errors, note, progress, show, silence_warnings
from lpcaffe.cli.streams import input_file, output_file
from lpcaffe.errors import DataError, NetError, PlanError, WeightsError, located


@app.command()
def inspect(
    net: o.NetOrStream,
    weights: o.MaybeWeights = None,
    phase: Annotated[o.Phase, typer.Option(help="Which layers.")] = o.Phase.TEST,
    old_bd: o.OldBd = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show a network: layers, shapes, parameters, multiply-accumulates."""
    import lpcaffe as lp

    silence_warnings(quiet)
    with input_file(net) as source, attribute_errors({NetError: source, WeightsError: weights}):
        found = lp.inspect(source, weights, old_bd=old_bd, phase=phase.value)
    show(found, render.inspection, as_json, quiet)


@app.command()
def upgrade(
    source: Annotated[
        Path, typer.Argument(metavar="IN", show_default=False, help="A prototxt or a caffemodel; - for stdin.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", show_default=False, help="Where to write it; - for stdout.")],
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Turn a training prototxt into a deploy one: Input layers, no labels.")
    ] = False,
    input_shape: Annotated[
        str | None,
        typer.Option(metavar="N,C,H,W", help="With --deploy: the shape of the data.", show_default=False),
    ] = None,
    old_bd: o.OldBd = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Rewrite a V0 or V1 file as V2: text or binary, by content."""
    from lpcaffe.conversion import deploy_file
    from lpcaffe.formats.upgrade_file import upgrade_file

    silence_warnings(quiet)
    if input_shape is not None and not deploy:
        raise NetError("--input-shape needs --deploy")
    shape = None if input_shape is None else o.parse_shape(input_shape)
    with output_file(target, force=force) as new, input_file(source) as old:
        if deploy:
            deploy_file(old, new, input_shape=shape, old_bd=old_bd, force=force)
        else:
            upgrade_file(old, new, old_bd=old_bd, hdf5=o.in_hdf5(target), force=force)


@app.command()
def run(
    net: o.NetFile,
    data: Annotated[
        Path, typer.Option("--input", help="Arrays to feed as they are, .npy or .npz.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="Every blob, .npz.", show_default=False)],
    weights: o.MaybeWeights = None,
    engine: o.EngineOption = o.AUTO,
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
    from lpcaffe.engines import choose_engine
    from lpcaffe.formats.npz import read_arrays, write_npz
    from lpcaffe.io.outputs import check_outputs

    silence_warnings(quiet)
    check_outputs([out], force=force)
    with progress("running", quiet), attribute_errors({NetError: net, WeightsError: weights or net, DataError: data}):
        loaded = lp.load_net(net, old_bd=old_bd) if weights is None else lp.load(net, weights, old_bd=old_bd)
        chosen = choose_engine(loaded, engine.value, dtype=dtype.value, random=seed != 0 or stochastic_as is not None)
        blobs = lp.run(
            loaded,
            read_arrays(data),
            engine=chosen,
            dtype=dtype.value,
            seed=seed,
            stochastic_as=None if stochastic_as is None else stochastic_as.value,
            versions=versions,
        )
    write_npz(out, blobs, force=force)
    note(f"computed with {chosen} in {dtype.value}", quiet)


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
    skip_bad: o.SkipBad = False,
    labels: o.Labels = None,
    min_agreement: Annotated[
        float | None, typer.Option(help="Exit 1 below this fraction of equal decisions.", show_default=False)
    ] = None,
    metric: o.MetricOption = None,
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
    from lpcaffe.io.outputs import check_outputs, write_file
    from lpcaffe.validation.metric import load_metric

    silence_warnings(quiet)
    own = None if metric is None else load_metric(metric)
    report_file = None if json_file is None or str(json_file) == "-" else json_file
    if report_file is not None:
        check_outputs([report_file], force=force)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    o.check_data_options(data, limit=limit, skip_bad=skip_bad or None, **prepared)
    with attribute_errors({NetError: net, WeightsError: weights}):
        loaded = lp.load(net, weights)
        with progress("opening data", quiet):
            source = None if data is None else lp.images(data, loaded, limit=limit, skip_bad=skip_bad, **prepared)
    with attribute_errors({NetError: lp_net, WeightsError: lp_weights, PlanError: plan}):
        low = lp.load(lp_net, lp_weights, old_bd=old_bd)
        chosen = None if plan is None else lp.BitPlan.load(plan)
    if labels is not None:
        if source is None:
            raise DataError("labels need data", path=labels, hint="give --data")
        with located(path=labels):
            source = source.with_labels(read_labels(labels))
    with progress("validating", quiet) as report, attribute_errors({PlanError: plan}):
        proof = lp.validate(loaded, low, source, plan=chosen, min_agreement=min_agreement, metric=own, progress=report)
    values = proof.to_json()
    if report_file is not None:
        write_file(report_file, (json.dumps(values, indent=1) + "\n").encode(), force=force)
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

    silence_warnings(quiet)
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
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Convert the embedded LeNet at 16 bits and prove it on 1,000 MNIST digits."""
    from lpcaffe.demo import run_demo

    silence_warnings(quiet)
    with progress("running", quiet) as report:
        done = run_demo(out, force=force, progress=report)
    values = {
        "conversion": done.conversion.report.to_json(),
        "validation": done.validation.to_json(),
        "files": [str(out / name) for name in done.files],
    }
    show(values, render.demo, as_json, quiet)
    if not done.validation.holds:
        raise typer.Exit(1)
