"""Reports as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from lpcaffe.cli.screen import decibels, percent, table
from lpcaffe.errors import shape_text
from lpcaffe.numbers import parse_format
from lpcaffe.numbers.number_format import clipped


def conversion(report: dict[str, Any]) -> Iterator[Table | str]:
    """report.json for people."""
    rows = table(
        f"{report['network']}: formats and errors (SQNR in dB)",
        "layer",
        "type",
        "weights",
        ">SQNR",
        ">saturated",
        ">max error",
        "output",
        ">SQNR",
        ">saturated",
        ">zeros",
    )
    for row, line in zip(report["layers"], report["plan"]["layers"].values(), strict=True):
        weights, output = row["weights"], row["output"]
        cells = ["", "", "", ""]
        if weights:
            cells = [format_text(weights["format"]), decibels(weights["sqnr_db"]), str(weights["saturated"])]
            cells.append(f"{weights['max_abs_error']:.3g}")
        if output:
            cells += [output["format"], decibels(output["sqnr_db"]), percent(output["saturated_fraction"])]
            cells.append(percent(output["zero_fraction"]))
        else:
            cells += [format_text(line.get("output")) or "not rounded", "", "", ""]
        rows.add_row(Text(row["name"]), row["type"], *cells)
    yield rows
    yield from still_in_float(report["float_sites"])
    totals = report["totals"]
    bits, full = totals["weight_bits"], totals["weight_bits_float32"]
    if full:
        yield f"{totals['weights']:,} weights in {bits / 8e6:.3g} MB instead of {full / 8e6:.3g} MB"
    if totals["bias_saturated"]:
        yield f"{totals['bias_saturated']} bias values saturate in their layer's format (used only with --round-bias)"
    if clipped := sum((row["weights"] or {}).get("even_clipped", 0) for row in report["layers"]):
        yield f"{clipped} even values are at the limit of their format, which clips them (--keep-even keeps them)"
    if totals["worst_layer"]:
        yield f"layer {totals['worst_layer']} loses most over these {report['data']['images']} images"
    for left in report["unfolded"]:
        yield f"{left['type']} {left['layer']} was not folded: {left['reason']}"


# Places still in float that a table names; beyond, it counts them.
_NAMED = 8


def format_text(plain: Any) -> str:
    """A format of a plan or report, in a cell of a table."""
    return "" if plain is None else clipped(str(parse_format(plain)), 24)


def still_in_float(paths: list[str]) -> Iterator[str]:
    """One line with the places that no format covers: whole roles first, then at most eight names."""
    if not paths:
        return
    sites = [path.rsplit("/", 1) for path in paths]
    biases = [name for name, role in sites if role == "bias"]
    named = [name if role == "output" else f"{name}'s {role}" for name, role in sites if role != "bias"]
    shown = named[:_NAMED] + ([f"{len(named) - _NAMED} more"] if len(named) > _NAMED else [])
    shown += [f"{len(biases)} biases" if len(biases) > 1 else f"{biases[0]}'s bias"] if biases else []
    yield f"still in float: {', '.join(shown)}"


def validation(report: dict[str, Any]) -> Iterator[Table | str]:
    """A validation report for people."""
    checks = [check for check in report["rounding"] if check["counts"]]
    wrong = sum(check["differing"] for check in checks)
    total = sum(check["count"] for check in checks)
    yield f"rounding: {total:,} values in {len(checks)} blobs checked, {wrong:,} differ from round_fp"
    idle = sum(check["differing"] for check in report["rounding"] if not check["counts"])
    if idle:
        yield f"rounding: {idle:,} values of biases that no layer uses (round_bias is false) differ; they do not count"
    changed = sum(check["changed"] for check in report["rounding"])
    if changed:
        yield f"weights: {changed:,} full-precision values differ from the original network's (fine-tuned?)"
    if report["layers"]:
        rows = table(
            f"{report['network']}: {report['data']['images']} images (SQNR in dB)",
            "layer",
            "weights",
            "output",
            ">own SQNR",
            ">max error",
            ">saturated",
            ">zeros",
            ">SQNR so far",
            ">max error so far",
        )
        for row in report["layers"]:
            own, sofar = row["isolated"], row["accumulated"]
            rows.add_row(
                Text(row["name"]),
                row["weights"] or "",
                row["output"] or "",
                decibels(own["sqnr_db"]),
                f"{own['max_abs_error']:.3g}",
                percent(own["saturated_fraction"]),
                percent(own["zero_fraction"]),
                decibels(sofar["sqnr_db"]),
                f"{sofar['max_abs_error']:.3g}",
            )
        yield rows
        yield from still_in_float(report["float_sites"])
    if report["worst_layer"]:
        yield f"layer {report['worst_layer']} loses most"
    for output in report["outputs"]:
        agreement = "" if output["agreement"] is None else f", agreement {output['agreement']:.3%}"
        name, change = f"output {output['blob']}", f"largest change {output['max_abs_error']:.3g}"
        yield f"{name}: SQNR {decibels(output['sqnr_db'], ' dB')}, {change}{agreement}"
        for k in (1, 5):
            accuracy = output[f"top{k}"]
            if accuracy:
                yield f"{name}: top-{k} {accuracy['full']:.2%} in full precision, {accuracy['low']:.2%} in low"
    if report["metric"] is not None:
        yield f"metric {report['metric']:.6g}"
    for failure in report["failures"]:
        yield f"FAILED: {failure}"


# Rows of a difference that are shown. Nobody reads more, and to lay out a table takes longer than to compare files.
_ROWS = 1000


def _more(rows: list[Any]) -> Iterator[str]:
    if len(rows) > _ROWS:
        yield f"and {len(rows) - _ROWS:,} more; --json has all"


def difference(report: dict[str, Any]) -> Iterator[Table | str]:
    """What differs between two files, for people."""
    for key, path in (("only_a", report["a"]), ("only_b", report["b"])):
        if report[key]:
            yield f"only in {path}: {', '.join(report[key])}"
    if report["reordered"]:
        yield "the layers come in another order"
    if report["fields"]:
        rows = table("fields", "layer", "field", "A", "B")
        for row in report["fields"][:_ROWS]:
            rows.add_row(*(Text("-" if row[key] is None else row[key]) for key in ("layer", "field", "a", "b")))
        yield rows
        yield from _more(report["fields"])
    if report["blobs"]:
        columns = (">values", ">differ", ">in value", ">-0 and 0", ">NaN bits", ">largest", ">first")
        rows = table("blobs", "layer", ">blob", "shape", *columns)
        for row in report["blobs"][:_ROWS]:
            shapes = ["none" if shape is None else shape_text(shape) for shape in (row["shape_a"], row["shape_b"])]
            numbers = [f"{row[key]:,}" for key in ("count", "differing", "values", "zero_signs", "nan_payloads")]
            largest = [f"{row['max_abs_difference']:.3g}", "" if row["first"] is None else str(row["first"])]
            shape = shapes[0] if shapes[0] == shapes[1] else " | ".join(shapes)
            rows.add_row(Text(row["layer"]), str(row["blob"]), shape, *(numbers + largest if row["count"] else []))
        yield rows
        yield from _more(report["blobs"])
    if report["headers"]:
        some = ", ".join(report["headers"][:5]) + (", ..." if len(report["headers"]) > 5 else "")
        yield f"headers of {len(report['headers'])} layers differ, which Caffe does not read: {some}"
    compared = report["compared"]
    what = f"{compared['layers']} layers"
    if report["kind"] == "caffemodel":
        what += f", {compared['blobs']} blobs, {compared['values']:,} values"
    yield f"{'same' if report['same'] else 'different'}: {what} compared"


def verification(report: dict[str, Any]) -> Iterator[Table | str]:
    """What was verified of a low-precision network, for people."""
    wrong = {check["layer"]: 0 for check in report["rounding"]}
    for check in report["rounding"]:
        wrong[check["layer"]] += check["differing"] if check["counts"] else 0
    rows = table(report["network"], "layer", "type", "format", ">bits", "rounding", ">not round_fp")
    for row in report["layers"]:
        bits = "" if row["bits"] is None else str(row["bits"])
        cells = (row["type"], row["format"], bits, row["rounding"], str(wrong.get(row["name"], "")))
        rows.add_row(Text(row["name"]), *cells)
    yield rows
    checks = [check for check in report["rounding"] if check["counts"]]
    yield f"rounding: {sum(check['count'] for check in checks):,} values in {len(checks)} blobs checked"
    yield from report["notes"]
    for failure in report["failures"]:
        yield f"FAILED: {failure}"


def demo(report: dict[str, Any]) -> Iterator[Table | str]:
    """The demonstration for people."""
    yield from conversion(report["conversion"])
    yield from validation(report["validation"])
    (output,) = report["validation"]["outputs"]
    images = report["validation"]["data"]["images"]
    changed = round((1 - output["agreement"]) * images)
    yield f"{changed} of {images:,} digits are decided otherwise than in full precision; the files are"
    yield from report["files"]


def _with_bits(entry: dict[str, Any] | None) -> str:
    """A format with the bits of its codes where they are fewer than its width: Q1.10 (8 bits)."""
    if entry is None:
        return ""
    narrower = entry["bits"] < parse_format(entry["format"]).width
    return f"{entry['format']} ({entry['bits']} bits)" if narrower else str(entry["format"])


def inspection(report: dict[str, Any]) -> Iterator[Table | str]:
    """The inspection of a network for people."""
    rows = table(
        f"{report['network']} ({report['generation']})",
        *("layer", "type", "bottoms", "tops", "shape", "parameters"),
        *(["format"] if report["formats"] else []),
    )
    for layer in report["layers"]:
        shapes = [report["blobs"].get(top) for top in layer["tops"][:1]]
        rows.add_row(
            Text(layer["name"]),
            Text(layer["type"]),
            Text(", ".join(layer["bottoms"])),
            Text(", ".join(layer["tops"])),
            shape_text(shapes[0]) if shapes and shapes[0] else ("?" if shapes else ""),
            ", ".join("x".join(map(str, dims)) or "1" for dims in report["params"].get(layer["name"], [])),
            *([_with_bits(report["formats"].get(layer["name"]))] if report["formats"] else []),
        )
    yield rows
    yield f"inputs {', '.join(report['inputs'])}; outputs {', '.join(report['outputs'])}"
    yield f"{report['parameters']:,} parameters, {report['macs']:,} multiply-accumulates in one forward pass"
    yield from report["problems"]


def plan(values: dict[str, Any]) -> Iterator[Table | str]:
    """A plan for people."""
    rows = table(
        f"{values['network']}: {values['dialect']}, {values['rounding']}", "layer", "type", "weights", "output"
    )
    for name, line in values["layers"].items():
        output = format_text(line.get("output")) or "not rounded"
        rows.add_row(Text(name), line["type"], format_text(line.get("weights")), output)
    yield rows


def calibration(values: dict[str, Any]) -> Iterator[Table | str]:
    """Statistics for people."""
    numbers = ("min", "max", "mean", "std", "b", "kurtosis")
    title = f"{values['network']}: {values['images']} images, {values['source']}"
    rows = table(title, "layer", ">values", *(f">{name}" for name in numbers))
    for name, stats in values["layers"].items():
        rows.add_row(Text(name), f"{stats['count']:,}", *(f"{stats[number]:.4g}" for number in numbers))
    yield rows


def sensitivity(report: dict[str, Any]) -> Iterator[Table | str]:
    """What each part costs alone, for people: SQNR, and the figure nearest to what the network is for."""
    images = report["data"]["images"]
    title = f"{report['network']}: one part rounded, {images} images"
    baseline = report["baseline"]
    yield _part_table(report, f"{title}, SQNR of {report['output']} in dB", "sqnr_db", decibels)
    for key, name in (("metric", "metric"), ("top1", "top-1"), ("agreement", "agreement")):
        if baseline[key] is not None:
            full = f"{baseline[key]:.6g}" if key == "metric" else percent(baseline[key])
            said = name if key == "agreement" else f"{name} ({full} in full precision)"
            form = (lambda value: f"{value:.6g}") if key == "metric" else percent
            yield ""
            yield _part_table(report, f"{title}, {said}", key, form)
            break
    yield "* the part with the most noise at this width"


def search(report: dict[str, Any]) -> Iterator[Table | str]:
    """The widths that a search found, for people."""
    found, baseline, run = report["found"], report["baseline"], report["trials"]
    rows = table(f"{report['network']}: {report['strategy']}", "layer", "type", "weights", ">bits", "output", ">bits")
    for line in report["layers"]:
        cells = []
        for kind in ("weights", "output"):
            fmt = line[kind]
            cells += ["-", ""] if fmt is None else [fmt, str(parse_format(fmt).width)]
        rows.add_row(Text(line["name"]), line["type"], *cells)
    yield rows
    for key, what in (("weight_bits", "a weight"), ("activation_bits", "a rounded output")):
        if found[key] is not None:
            yield f"{what} has {found[key]:.2f} bits on average"
    for key, name in (("top1", "top-1"), ("top5", "top-5"), ("agreement", "agreement")):
        if found[key] is not None:
            full = "" if key == "agreement" else f", {percent(baseline[key])} in full precision"
            yield f"{name} {percent(found[key])}{full}"
    if found["metric"] is not None:
        yield f"metric {found['metric']:.6g}, {baseline['metric']:.6g} in full precision"
    yield f"SQNR {decibels(found['sqnr_db'], ' dB')} over {report['data']['images']} images"
    again = f", {run['reused']} were known" if run["reused"] else ""
    yield f"{run['run']} trials run{again}; {len(report['curve'])} of whole assignments"


def _part_table(report: dict[str, Any], title: str, key: str, form: Callable[[Any], str]) -> Table:
    """A row a part, a column a width."""
    rows = table(title, "layer", "part", ">values", *(f">{width} bits " for width in report["widths"]))
    for row in report["parts"]:
        worst = [row["layer"] == part["layer"] and row["kind"] == part["kind"] for part in report["worst"]]
        cells = [
            f"{form(score[key])}{'*' if marked else ' '}" for score, marked in zip(row["scores"], worst, strict=True)
        ]
        rows.add_row(Text(row["layer"]), row["kind"], f"{row['values']:,}", *cells)
    return rows
