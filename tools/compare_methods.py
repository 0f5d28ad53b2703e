"""Compare the allocation methods on LeNet and open_nsfw: the figures, tables and plot of docs/methods/comparison.md.

    python tools/compare_methods.py [--lenet-digits FILE] [--models DIR] [--out DIR] [--methods NAME ...]

FILE is an .npz of digits as `x` and labels as `y`, by default the 1,000 in the repository. DIR holds open_nsfw/ and
crops/, as tools/fetch_models.py and tools/cut_crops.py make them. Every method gets the same statistics and the same
images. OUT gets comparison.json and comparison.svg, and in its comparison.md the lines between the two marks are
replaced. Needs the extra `plot`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fetch_models import cache_folder

import lpcaffe as lp
from lpcaffe.allocation import METHODS, layer_tensors
from lpcaffe.data.image_files import folder_images, read_image
from lpcaffe.errors import LpcaffeError
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.trials import Trials

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (16, 8, 6, 5, 4)
# The constants of the papers' code end at 8 bits.
VARIANTS = ("aciq-gauss:paper", "aciq-laplace:paper")
MEASURES = {"sqnr_db": "SQNR, dB", "agreement": "Agreement, %", "top1": "Top-1, %"}
BEGIN, END = "<!-- tools/compare_methods.py: begin -->", "<!-- tools/compare_methods.py: end -->"


def compare(net: lp.Net, seen: Any, images: Any, output: str, methods: list[str]) -> dict[str, Any]:
    """The figures of a network: by method and width, or the error that a method ends with."""
    stats = lp.calibrate(net, lp.images(seen, net))
    tensors = layer_tensors(net, stats)
    trials = Trials(net, lp.images(images, net), measure=lp.Measure(output=output))
    results: dict[str, Any] = {}
    for name in methods:
        results[name] = {}
        for width in WIDTHS:
            try:
                table = FormatTable(
                    tensors, stats.images, methods=lp.Methods(weights=name, outputs=name), dialect="plain"
                )
                score = trials(table.formats(dict.fromkeys(table.parts, width)))
            except LpcaffeError as error:
                results[name][width] = {"error": str(error)}
                continue
            figures = {"sqnr_db": score.sqnr_db, "agreement": score.agreement, "top1": score.top1}
            results[name][width] = {key: value for key, value in figures.items() if value is not None}
            print(f"{net.name} {name} {width} {results[name][width]}", file=sys.stderr)
    return {
        "output": output,
        "images": trials.baseline.images,
        "calibrated_on": stats.images,
        "top1": trials.baseline.top1,
        "results": results,
    }


def lenet(digits: Path, methods: list[str]) -> dict[str, Any]:
    folder = ROOT / "models" / "lenet"
    net = lp.load(folder / "deploy.prototxt", folder / "lenet.caffemodel")
    return compare(net, folder / "digits.npz", digits, "ip2", methods)


def open_nsfw(models: Path, methods: list[str]) -> dict[str, Any]:
    """Calibrated on the crops, measured on the crops and their mirror images."""
    folder = models / "open_nsfw"
    net = lp.load(folder / "deploy.prototxt", folder / "resnet_50_1by2_nsfw.caffemodel")
    crops = np.stack([read_image(path) for path in folder_images(models / "crops")])
    return compare(net, crops, np.concatenate([crops, crops[:, :, ::-1]]), "fc_nsfw", methods)


def markdown(networks: dict[str, Any]) -> str:
    """A table for each network and measure; the best of each width is bold, and notes say what methods end with."""
    text, notes = "", {}
    for network, found in networks.items():
        text += f"## {network}, {found['images']:,} images, calibrated on {found['calibrated_on']:,}\n\n"
        for measure, title in MEASURES.items():
            factor = 1 if measure == "sqnr_db" else 100
            digits = 1 if measure == "sqnr_db" or found["images"] < 1000 else 2
            columns = {
                width: {
                    name: round(factor * row[width][measure], digits)
                    for name, row in found["results"].items()
                    if measure in row[width]
                }
                for width in WIDTHS
            }
            if not any(columns.values()):
                continue
            full = f"; full precision: {factor * found['top1']:.{digits}f}" if measure == "top1" else ""
            text += f"{title} ({found['output']}{full})\n\n| method | {' | '.join(f'{w} bits' for w in WIDTHS)} |\n"
            text += f"|---|{'---|' * len(WIDTHS)}\n"
            for name, row in found["results"].items():
                cells = []
                for width in WIDTHS:
                    if "error" in row[width]:
                        notes[row[width]["error"]] = None
                        cells.append("fails")
                    elif name in columns[width]:
                        value = columns[width][name]
                        bold = "**" if value == max(columns[width].values()) else ""
                        cells.append(f"{bold}{value:.{digits}f}{bold}")
                    else:
                        cells.append("exact")
                text += f"| {name} | {' | '.join(cells)} |\n"
            text += "\n"
    for note in notes:
        text += f"- fails: {note}\n"
    return text


def plot(networks: dict[str, Any], path: Path) -> None:
    """SQNR by width, a line for each method."""
    import matplotlib as mpl

    mpl.use("svg")
    # The same figures give the same bytes: no random names, no date, no outlines of whatever font is there.
    mpl.rcParams.update({"svg.hashsalt": "lpcaffe", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(networks), figsize=(5.5 * len(networks), 5), layout="constrained")
    positions = range(len(WIDTHS))
    for axis, (network, found) in zip(np.atleast_1d(axes), networks.items(), strict=True):
        for number, (name, row) in enumerate(found["results"].items()):
            values = [row[width].get("sqnr_db", np.nan) for width in reversed(WIDTHS)]
            marker, dashes = "os^vD<>pP*Xhd"[number % 13], "-" if number < 10 else "--"
            axis.plot(positions, values, label=name, color=f"C{number % 10}", marker=marker, ls=dashes, lw=1, ms=5)
        axis.set(title=network, xlabel="bits of weights and outputs", ylabel=f"SQNR of {found['output']}, dB")
        axis.set_xticks(positions, [str(width) for width in reversed(WIDTHS)])
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lenet-digits", type=Path, default=ROOT / "models" / "lenet" / "digits.npz")
    parser.add_argument("--models", type=Path, default=cache_folder())
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "methods")
    parser.add_argument("--methods", nargs="+", default=[*sorted(METHODS), *VARIANTS], metavar="NAME")
    args = parser.parse_args()
    page = (args.out / "comparison.md").read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{args.out / 'comparison.md'}: expected the two lines {BEGIN} and {END}")
    networks = {
        "LeNet": lenet(args.lenet_digits, args.methods),
        "open_nsfw": open_nsfw(args.models, args.methods),
    }
    (args.out / "comparison.json").write_text(json.dumps(networks, indent=1) + "\n", encoding="utf-8")
    plot(networks, args.out / "comparison.svg")
    (args.out / "comparison.md").write_text(f"{before}{BEGIN}\n{markdown(networks)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
