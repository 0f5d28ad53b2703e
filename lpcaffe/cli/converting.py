"""The verbs that convert: all in one go, or step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import attribute_errors, progress, show, silence_warnings
from lpcaffe.cli.streams import input_file, output_file
from lpcaffe.errors import DataError, NetError, PlanError, WeightsError, located, warn
from lpcaffe.io.outputs import check_outputs
from lpcaffe.net import Net
from lpcaffe.quant.policy import Policy

# The options of convert that say what a plan says.
_IN_THE_PLAN = (
    "bits",
    "weight_bits",
    "activation_bits",
    "conv_weight_bits",
    "inner_product_weight_bits",
    "bits_for",
    "bits_from",
    "method",
    "weight_method",
    "activation_method",
    "bias",
    "rounding",
    "seed",
    "round_bias",
    "round_output",
    "keep_even",
    "fold_bn",
    "act_placement",
    "coverage",
    "bias_bits",
    "dialect",
)


def _choices(net: Net, context: typer.Context, policy: Policy) -> dict[str, Any]:
    """Widths and methods as keywords of `lpcaffe.allocate`; what is wrong with them is an error before a long pass."""
    import lpcaffe as lp
    from lpcaffe.allocation.tensors import gets_format
    from lpcaffe.quant.sites import sites

    given = context.params
    bits_from, both = None, given["method"]
    if given["bits_from"] is not None:
        bits_from = lp.BitPlan.load(given["bits_from"])
        with located(path=given["bits_from"]):
            bits_from.check(net)
    widths = lp.Widths(
        given["bits"],
        given["weight_bits"],
        given["activation_bits"],
        given["conv_weight_bits"],
        given["inner_product_weight_bits"],
        given["bias_bits"],
        tuple(given["bits_for"] or ()),
        bits_from,
    )
    base = lp.fold_batch_norm(net) if policy.fold_bn else net
    found = widths.of([site for site in sites(base, policy) if gets_format(site)])
    if (policy.round_bias or given["bias"].value == "own") and any(site.role == "bias" for site in found):
        raise PlanError("--bias-bits: with --round-bias, and --bias own, biases have the format of their weights")
    methods = lp.Methods(given["weight_method"] or both, given["activation_method"] or both)
    methods.chosen()
    return {"bits": widths, "method": methods, "bias": given["bias"].value, "keep_even": given["keep_even"]}


@app.command()
def convert(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    out: Annotated[Path, typer.Option("--out", help="Folder for the four files.", show_default=False, readable=False)],
    data: o.MaybeData = None,
    limit: o.Limit = None,
    skip_bad: o.SkipBad = False,
    engine: o.EngineOption = o.AUTO,
    bits: o.Bits = 16,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    conv_weight_bits: o.ConvWeightBits = None,
    inner_product_weight_bits: o.InnerProductWeightBits = None,
    bits_for: o.BitsFor = None,
    bits_from: o.BitsFrom = None,
    method: o.Method = "max",
    weight_method: o.WeightMethod = None,
    activation_method: o.ActivationMethod = None,
    plan: Annotated[Path | None, typer.Option(help="Use these formats.", show_default=False)] = None,
    rounding: o.RoundingOption = o.Scheme.deterministic,
    seed: o.Seed = 0,
    bias: o.BiasOption = o.Bias.report,
    bias_bits: o.BiasBits = None,
    round_bias: o.RoundBias = False,
    round_output: o.RoundOutput = False,
    keep_even: o.KeepEven = False,
    keep_step: o.KeepStep = False,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
    coverage: o.CoverageOption = o.Coverage.learned,
    dialect: o.DialectOption = o.Dialect.adaption,
    hdf5: Annotated[
        bool, typer.Option("--hdf5", help="Write the weights as lp.caffemodel.h5, which may exceed 2 GiB.")
    ] = False,
    codes: Annotated[bool, typer.Option("--codes", help="Write codes.npz too: integer codes, packed.")] = False,
    huffman: Annotated[bool, typer.Option("--huffman", help="Write codes.npz with Huffman codes.")] = False,
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
    from lpcaffe.conversion import check_weights_size
    from lpcaffe.formats.hdf5 import require_h5py
    from lpcaffe.net import quantizable_layers
    from lpcaffe.pipeline import conversion_outputs, stage_conversion

    silence_warnings(quiet)
    o.note_keep_step(keep_step)
    if hdf5:
        require_h5py()
    inputs = (net, weights)  # a plan may be that of the folder: it is written again as it was obeyed
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    o.check_data_options(data, limit=limit, skip_bad=skip_bad or None, **prepared)
    # The folder is held from here on: of two conversions into it the second ends now, not after its calibration.
    with (
        conversion_outputs(out, force=force, inputs=inputs) as files,
        attribute_errors({NetError: net, WeightsError: weights, PlanError: plan}),
    ):
        loaded = lp.load(net, weights)
        chosen = None if plan is None else lp.BitPlan.load(plan)
        with progress("opening data", quiet):
            source = None if data is None else lp.images(data, loaded, limit=limit, skip_bad=skip_bad, **prepared)
        if chosen is None:
            policy = o.policy_of(context)
            choices = _choices(loaded, context, policy)
            stats = None
            if source is not None:
                if not hdf5:
                    check_weights_size(loaded, policy.dialect)
                with progress("calibrating", quiet) as report:
                    stats = lp.calibrate(loaded, source, policy=policy, engine=engine.value, progress=report)
            chosen = lp.allocate(loaded, stats, **choices, policy=policy)
        elif given := [
            name
            for name in _IN_THE_PLAN
            if o.was_given(context, name) and context.params[name] != getattr(chosen.policy, name, None)
        ]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            options = options if fold_bn else options.replace("--fold-bn", "--keep-bn")
            warn(f"{plan} decides what {options} would; the plan is obeyed", stacklevel=1)
        coding = "huffman" if huffman else "packed" if codes else None
        with progress("measuring", quiet) as report:
            made = stage_conversion(files, loaded, chosen, data=source, hdf5=hdf5, codes=coding, progress=report)
    if left := [layer.name for layer in quantizable_layers(loaded) if layer.name not in chosen.layers]:
        text = f"the plan has no line for {', '.join(left)}, which stay in full precision"
        warn(text, stacklevel=1)
    if not chosen.layers:
        warn(f"{net}: no layer got a format", stacklevel=1)
    show(made.to_json(), render.conversion, as_json, quiet)
    if not (as_json or quiet):
        print(f"written to {out}: {' '.join(made.files)} report.json")


@app.command()
def calibrate(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    data: o.DataPath,
    out: Annotated[Path, typer.Option("--out", help="The statistics, .npz.", show_default=False)],
    limit: o.Limit = None,
    skip_bad: o.SkipBad = False,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
    coverage: o.CoverageOption = o.Coverage.all,
    engine: o.EngineOption = o.AUTO,
    per_channel: o.PerChannel = False,
    add: o.Add = False,
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
    """Collect the statistics of every output that gets a format.

    With --add they are added to those that OUT holds, which must be of the same network and settings.
    """
    import lpcaffe as lp

    silence_warnings(quiet)
    if add and not out.exists():
        raise DataError("there is nothing to add to", path=out, hint="leave --add out the first time")
    before = lp.Calibration.load(out) if add else None
    check_outputs([out], force=force or add)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    with attribute_errors({NetError: net, WeightsError: weights}):
        loaded = lp.load(net, weights)
        if before is not None:
            with located(path=out):
                before.check(loaded)
                before.check_settings(o.policy_of(context), per_channel)
        with progress("opening data", quiet):
            source = lp.images(data, loaded, limit=limit, skip_bad=skip_bad, **prepared)
        with progress("calibrating", quiet) as report:
            stats = lp.calibrate(
                loaded,
                source,
                policy=o.policy_of(context),
                engine=engine.value,
                per_channel=per_channel,
                progress=report,
            )
    if before is not None:
        stats = before + stats
    stats.save(out, force=force or add)
    show(stats.to_json(), render.calibration, as_json, quiet)


@app.command()
def allocate(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    stats: Annotated[Path, typer.Option(help="From lpcaffe calibrate.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The plan, YAML.", show_default=False)],
    bits: o.Bits = 16,
    weight_bits: o.WeightBits = None,
    activation_bits: o.ActivationBits = None,
    conv_weight_bits: o.ConvWeightBits = None,
    inner_product_weight_bits: o.InnerProductWeightBits = None,
    bits_for: o.BitsFor = None,
    bits_from: o.BitsFrom = None,
    method: o.Method = "max",
    weight_method: o.WeightMethod = None,
    activation_method: o.ActivationMethod = None,
    rounding: o.RoundingOption = o.Scheme.deterministic,
    seed: o.Seed = 0,
    bias: o.BiasOption = o.Bias.report,
    bias_bits: o.BiasBits = None,
    round_bias: o.RoundBias = False,
    round_output: o.RoundOutput = False,
    keep_even: o.KeepEven = False,
    keep_step: o.KeepStep = False,
    coverage: o.CoverageOption = o.Coverage.learned,
    dialect: o.DialectOption = o.Dialect.adaption,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Choose a format for the weights and the output of every layer."""
    import lpcaffe as lp

    silence_warnings(quiet)
    o.note_keep_step(keep_step)
    check_outputs([out], force=force)
    with progress("reading weights", quiet), attribute_errors({NetError: net, WeightsError: weights, DataError: stats}):
        loaded = lp.load(net, weights)
        found = lp.Calibration.load(stats)
        policy = dataclasses.replace(o.policy_of(context), fold_bn=found.fold_bn, act_placement=found.act_placement)
        plan = lp.allocate(loaded, found, **_choices(loaded, context, policy), policy=policy)
    plan.save(out, force=force)
    show(plan.to_json(), render.plan, as_json, quiet)


@app.command()
def rewrite(
    net: o.NetOrStream,
    plan: Annotated[Path, typer.Option(help="The formats, YAML or JSON.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The low-precision prototxt; - for stdout.", show_default=False)],
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Write the low-precision prototxt of a plan."""
    import lpcaffe as lp
    from lpcaffe.pipeline import write_prototxt

    silence_warnings(quiet)
    with output_file(out, force=force) as file, input_file(net) as source:
        with attribute_errors({NetError: source, PlanError: plan}):
            low = lp.rewrite(lp.load_net(source), lp.BitPlan.load(plan))
        write_prototxt(low, file, force=force)


@app.command()
def weights(
    net: o.NetFile,
    weights: o.WeightsFile,
    plan: Annotated[Path, typer.Option(help="The formats, YAML or JSON.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="The low-precision caffemodel.", show_default=False)],
    quiet: o.Quiet = False,
    force: o.Force = False,
) -> None:
    """Write the caffemodel of a plan: even blobs full precision, odd blobs rounded. A name in .h5 makes it HDF5."""
    import lpcaffe as lp

    silence_warnings(quiet)
    check_outputs([out], force=force)
    with progress("rounding weights", quiet), attribute_errors({NetError: net, WeightsError: weights, PlanError: plan}):
        made = lp.BitPlan.load(plan)
        lp.write_weights(lp.load(net, weights), made, out, hdf5=o.in_hdf5(out), force=force)
