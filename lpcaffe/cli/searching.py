"""The verbs that try many formats: what each part costs alone, and the search for small widths."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lpcaffe.cli import options as o
from lpcaffe.cli import render
from lpcaffe.cli.app import app
from lpcaffe.cli.screen import attribute_errors, progress, show, silence_warnings
from lpcaffe.errors import FileError, NetError, PlanError, WeightsError, located
from lpcaffe.io.outputs import check_outputs
from lpcaffe.search.parts import ROLES
from lpcaffe.search.search import STRATEGIES

Kind: Any = o.choices("Kind", ROLES)
Strategy: Any = o.choices("Strategy", STRATEGIES)


def parse_widths(text: str) -> list[int]:
    """`2-8`, `4,6,16` or both as widths in rising order; PlanError when it is neither, or there is no such format."""
    widths: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,3})(?:\s*-\s*([0-9]{1,3}))?\s*", piece)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise PlanError(f"--widths: expected widths such as 2-8 or 4,6,16, got {text!r}")
        widths.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if min(widths) < 2 or max(widths) > 25:
        raise PlanError(f"--widths: expected 2 to 25 bits, which a float32 holds exactly, got {text!r}")
    return sorted(widths)


def _labelled(data: Any, labels: Path | None) -> Any:
    """The data with the labels of a file, if there is one."""
    from lpcaffe.data import read_labels

    if labels is None:
        return data
    with located(path=labels):
        return data.with_labels(read_labels(labels))


def _statistics(path: Path, net: Any) -> Any:
    """The statistics of a file, which must be those of the network."""
    import lpcaffe as lp

    with located(path=path):
        stats = lp.Calibration.load(path)
        stats.check(net)
    return stats


def _check_distinct(files: Mapping[str, Path | None]) -> None:
    """Raise FileError when two options name one file to write."""
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is not None and (other := seen.setdefault(path.resolve(), option)) != option:
            raise FileError(f"{other} and {option} name the same file", path=path)


@app.command()
def sensitivity(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    data: o.DataPath,
    stats: o.Statistics = None,
    widths: Annotated[str, typer.Option(metavar="LIST", help="Widths, the sign counted: 2-8, or 4,6,16.")] = "2-8",
    only: Annotated[Kind | None, typer.Option(help="One kind of parts.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="How formats are chosen (docs/methods).")] = "mse",
    labels: o.Labels = None,
    output: o.DecidingOutput = None,
    metric: o.MetricOption = None,
    trials: o.TrialsFile = None,
    limit: o.Limit = None,
    skip_bad: o.SkipBad = False,
    engine: o.EngineOption = o.AUTO,
    round_output: o.RoundOutput = False,
    fold_bn: o.FoldBn = True,
    coverage: o.CoverageOption = o.Coverage.learned,
    dialect: o.DialectOption = o.Dialect.adaption,
    resize: o.Resize = None,
    crop: o.Crop = None,
    mean: o.Mean = None,
    scale: o.Scale = None,
    channels: o.ChannelsOption = None,
    transpose: o.Transpose = False,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
) -> None:
    """Show what the weights and the output of each layer cost alone, at each width.

    With --stats, folding is that of the statistics.
    """
    import lpcaffe as lp
    from lpcaffe.allocation import site_tensors
    from lpcaffe.search.parts import FormatTable
    from lpcaffe.search.sensitivity import sensitivity as measure
    from lpcaffe.search.trials import Trials

    silence_warnings(quiet)
    columns, policy = parse_widths(widths), o.policy_of(context)
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    with attribute_errors({NetError: net, WeightsError: weights}):
        loaded = lp.load(net, weights)
        with progress("opening data", quiet):
            source = lp.images(data, loaded, limit=limit, skip_bad=skip_bad, **prepared)
        source = _labelled(source, labels)
        if stats is not None:
            found = _statistics(stats, loaded)
        else:
            with progress("calibrating", quiet) as report:
                found = lp.calibrate(loaded, source, policy=policy, progress=report)
        policy = dataclasses.replace(policy, fold_bn=found.fold_bn, act_placement=found.act_placement)
        _, tensors = site_tensors(loaded, found, policy)
        table = FormatTable(tensors, found.images, methods=lp.Methods(method, method), dialect=policy.dialect)
        with progress("measuring sites", quiet) as report:
            own = Trials(loaded, source, policy=policy, measure=lp.Measure(output, metric, trials, engine.value))
            kind = None if only is None else only.value
            rows = measure(own, table, widths=columns, only=kind, progress=report)
    show(rows.to_json(), render.sensitivity, as_json, quiet)


@app.command()
def search(
    context: typer.Context,
    net: o.NetFile,
    weights: o.WeightsFile,
    data: o.DataPath,
    out: Annotated[Path, typer.Option("--out", help="The plan, YAML.", show_default=False)],
    strategy: Annotated[Strategy, typer.Option(help="How to search (docs/search.md).")] = Strategy.greedy,
    max_loss: Annotated[
        float | None, typer.Option(metavar="POINTS", help="Keep: top-1 points lost at most.", show_default=False)
    ] = None,
    min_agreement: Annotated[
        float | None, typer.Option(metavar="FRACTION", help="Keep: agreement, 0 to 1.", show_default=False)
    ] = None,
    min_sqnr: Annotated[
        float | None, typer.Option(metavar="DB", help="Keep: SQNR of the deciding output.", show_default=False)
    ] = None,
    max_metric_loss: Annotated[
        float | None, typer.Option(metavar="LOSS", help="Keep: loss of --metric at most.", show_default=False)
    ] = None,
    weight_budget: Annotated[
        int | None, typer.Option(metavar="BITS", help="For strategy budget: all weights.", show_default=False)
    ] = None,
    activation_budget: Annotated[
        int | None,
        typer.Option(metavar="BITS", help="For strategy budget: all outputs of an image.", show_default=False),
    ] = None,
    lowest: Annotated[int, typer.Option(help="Smallest width.")] = 2,
    highest: Annotated[int, typer.Option(help="Largest width.")] = 16,
    only: Annotated[Kind | None, typer.Option(help="Search one kind of parts.", show_default=False)] = None,
    other_bits: Annotated[
        int | None, typer.Option(help="Width of the other kind.", show_default="full precision")
    ] = None,
    stats: o.Statistics = None,
    method: Annotated[str, typer.Option(help="How formats are chosen (docs/methods).")] = "mse",
    weight_method: o.WeightMethod = None,
    activation_method: o.ActivationMethod = None,
    labels: o.Labels = None,
    output: o.DecidingOutput = None,
    metric: o.MetricOption = None,
    trials: o.TrialsFile = None,
    curve: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bits against quality: .csv or .svg.", show_default=False)
    ] = None,
    limit: o.Limit = None,
    skip_bad: o.SkipBad = False,
    engine: o.EngineOption = o.AUTO,
    rounding: o.RoundingOption = o.Scheme.deterministic,
    seed: o.Seed = 0,
    round_bias: o.RoundBias = False,
    round_output: o.RoundOutput = False,
    fold_bn: o.FoldBn = True,
    act_placement: o.ActPlacement = o.Placement.before_relu,
    coverage: o.CoverageOption = o.Coverage.learned,
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
    """Find small widths for every layer that keep a target, or fit a budget, and write the plan.

    With --stats, folding and placement are those of the statistics. Exit status 1 when the target cannot be reached.
    """
    import lpcaffe as lp
    from lpcaffe.search.curve import check_curve, save_curve

    silence_warnings(quiet)
    check_outputs([out], force=force)
    if curve is not None:
        check_curve(curve, force=force)
    _check_distinct({"--out": out, "--curve": curve, "--trials": trials})
    bounds = {"top1_loss": max_loss, "agreement": min_agreement, "sqnr_db": min_sqnr, "metric_loss": max_metric_loss}
    targets = [lp.Target(measure, bound) for measure, bound in bounds.items() if bound is not None]
    if len(targets) > 1:
        raise PlanError("expected one of --max-loss, --min-agreement, --min-sqnr and --max-metric-loss")
    budgets = {"weights": weight_budget, "output": activation_budget}
    scope = lp.Scope(
        strategy.value,
        {role: bits for role, bits in budgets.items() if bits is not None},
        lowest,
        highest,
        None if only is None else only.value,
        other_bits,
    )
    prepared = o.preprocessing(resize, crop, mean, scale, channels, transpose)
    with attribute_errors({NetError: net, WeightsError: weights}):
        loaded = lp.load(net, weights)
        source = _labelled(lp.images(data, loaded, limit=limit, skip_bad=skip_bad, **prepared), labels)
        with progress("searching", quiet) as report:
            found = lp.search_widths(
                loaded,
                source,
                target=targets[0] if targets else None,
                scope=scope,
                stats=None if stats is None else _statistics(stats, loaded),
                methods=lp.Methods(weight_method or method, activation_method or method),
                policy=o.policy_of(context),
                measure=lp.Measure(output, metric, trials, engine.value),
                progress=report,
            )
    found.plan.save(out, force=force)
    if curve is not None:
        save_curve(found, curve, force=force)
    show(found.to_json(), render.search, as_json, quiet)
    if not (as_json or quiet):
        print(f"written to {out}")
