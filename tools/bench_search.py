"""What the searches for small widths find, how long they take, and what sharing work between trials is worth.

    python tools/bench_search.py lenet DIGITS.npz [--net PROTOTXT CAFFEMODEL] [--scale S]
    python tools/bench_search.py open_nsfw [--sample N]

Prints Markdown tables. `lenet` runs every strategy in both dialects over labelled digits (x: uint8 images, y: labels).
`open_nsfw` runs the greedy search for 20 dB at fc_nsfw over 64 images, the crops of tools/cut_crops.py and their mirror
images, then N of its trials, evenly spaced, as full forward passes in three ways. The times of all trials are scaled up
from those.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import lpcaffe as lp
from lpcaffe.allocation import site_tensors
from lpcaffe.data import Data
from lpcaffe.data.image_files import folder_images, read_image
from lpcaffe.engines import NumpyEngine, bind_parameters, forward, infer_shapes
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.quant.apply import Formats, Quantized, in_memory
from lpcaffe.quant.sites import sites
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.search import SearchReport
from lpcaffe.search.target import Target
from lpcaffe.search.trials import Trials

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("LPCAFFE_MODELS") or ROOT / ".cache" / "models")
LENET = (ROOT / "models/lenet/deploy.prototxt", ROOT / "models/lenet/lenet.caffemodel")
OUTPUT = "fc_nsfw"


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_subparsers(dest="which", required=True)
    lenet_parser = which.add_parser("lenet")
    lenet_parser.add_argument("digits", type=Path)
    lenet_parser.add_argument("--net", type=Path, nargs=2, default=LENET)
    lenet_parser.add_argument("--scale", type=float)
    which.add_parser("open_nsfw").add_argument("--sample", type=int, default=16)
    given = parser.parse_args()
    if given.which == "lenet":
        lenet(given.digits, given.net, given.scale)
    else:
        open_nsfw(given.sample)


def lenet(digits: Path, files: list[Path], scale: float | None) -> None:
    """Every strategy, both dialects, a loss of at most 0.5 points and of less than 1 point."""
    net = lp.load(*files)
    data = lp.images(digits, net, **({} if scale is None else {"scale": scale}))
    stats = lp.calibrate(net, data)
    published_point(net, data, stats)
    print("| dialect | loss at most | strategy | weight bits | activation bits | top-1 | lost | trials | time |")
    print("|---|---|---|---|---|---|---|---|---|")
    for dialect in ("plain", "adaption"):
        for loss in (0.5, 0.99):
            found = {}
            for strategy in ("ristretto", "greedy"):
                start = time.perf_counter()
                found[strategy] = lp.search_widths(
                    net,
                    data,
                    policy=lp.Policy(dialect=dialect),
                    scope=lp.Scope(strategy=strategy),
                    target=Target("top1_loss", loss),
                    stats=stats,
                )
                row(dialect, f"{loss:g}", found[strategy], time.perf_counter() - start)
            # The budget that ristretto's answer uses: what does spreading it by sensitivity keep?
            used = dict.fromkeys(("weights", "output"), 0)
            for site, width in found["ristretto"].found.widths.items():
                used[site.role] += found["ristretto"].table.sizes[site] * width
            start = time.perf_counter()
            spread = lp.search_widths(
                net,
                data,
                policy=lp.Policy(dialect=dialect),
                scope=lp.Scope(strategy="budget", budgets=used),
                stats=stats,
            )
            row(dialect, "ristretto's bits", spread, time.perf_counter() - start)


def published_point(net: lp.Net, data: Data, stats: lp.Calibration) -> None:
    """Ristretto's answer for its LeNet at a margin of 1 %: convolutions 2 bits, inner products 4, outputs 8."""
    trials, (_, tensors) = Trials(net, data), site_tensors(net, stats, lp.Policy())
    table = FormatTable(tensors, stats.images, dialect="plain")
    widths = {site: 8 if site.role == "output" else 2 if site.type == "Convolution" else 4 for site in table.sites}
    full, low = trials.baseline.top1 or 0.0, trials(table.formats(widths)).top1 or 0.0
    print(f"Ristretto's point, plain dialect: top-1 {low:.2%}, {100 * (full - low):.2f} points lost of {full:.2%}\n")


def row(dialect: str, loss: str, report: SearchReport, seconds: float) -> None:
    """A line of the table, and the formats."""
    full, low = report.baseline.top1 or 0.0, report.found.score.top1 or 0.0
    print(
        f"| {dialect} | {loss} | {report.strategy} | {report.weight_bits:.2f} | {report.activation_bits:.2f} | "
        f"{low:.2%} | {100 * (full - low):.2f} | {report.run} | {seconds:.0f} s |"
    )
    formats = ", ".join(f"{name} {line.weights} / {line.output or '-'}" for name, line in report.plan.layers.items())
    print(f"<!-- {formats} -->", flush=True)


def open_nsfw(sample: int) -> None:
    """The greedy search, and its trials without sharing."""
    folder = MODELS / "open_nsfw"
    net = lp.load(next(folder.glob("*.prototxt")), next(folder.glob("*.caffemodel")))
    crops = np.stack([read_image(path) for path in folder_images(MODELS / "crops")])
    data = lp.images(np.concatenate([crops, crops[:, :, ::-1]]), net)
    stats = lp.calibrate(net, data)
    with tempfile.TemporaryDirectory() as scratch:
        record = Path(scratch) / "trials.jsonl"
        start = time.perf_counter()
        report = lp.search_widths(
            net,
            data,
            policy=lp.Policy(dialect="plain"),
            measure=lp.Measure(output=OUTPUT, record=record),
            target=Target("sqnr_db", 20.0),
            stats=stats,
        )
        took = time.perf_counter() - start
        rows = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    trials = [row["formats"] for row in rows if row["formats"]]
    print(
        f"{len(report.plan.layers)} layers, {data.count} crops, SQNR of fc_nsfw {report.found.score.sqnr_db:.2f} dB, "
    )
    print(f"weights {report.weight_bits:.2f} bits, outputs {report.activation_bits:.2f} bits, {took:.0f} s, ")
    print(f"{len(trials)} trials, of which {len(report.points)} of whole assignments\n")
    some = [trials[i] for i in np.linspace(0, len(trials) - 1, sample).astype(int)]
    by_name = {str(site): site for site in report.table.sites}
    named = [{by_name[name]: lp.QFormat.parse(fmt) for name, fmt in formats.items()} for formats in some]
    print(f"| all {len(trials)} trials | a trial | s | over the search |")
    print("|---|---|---|---|")
    print(f"| the whole search | {took / len(trials):.2f} | {took:.0f} | 1 |")
    for what, passes in PASSES.items():
        each = passes(net, data, named) / len(named)
        print(f"| {what} | {each:.2f} | {each * len(trials):.0f} | {each * len(trials) / took:.1f} |", flush=True)


def low_precision(net: lp.Net, formats: Formats) -> lp.Net:
    """The network of a trial: rounded weights, and the tensors to be rounded."""
    base, policy = lp.fold_batch_norm(net), lp.Policy()
    return in_memory(Quantized(base, policy, sites(base, policy), formats).net)


def numpy_passes(net: lp.Net, data: Data, trials: Sequence[Formats]) -> float:
    """Seconds for whole forward passes of the numpy engine, batches of 8 as in `validate`."""
    batches = list(data.batches(8))
    start = time.perf_counter()
    for formats in trials:
        low = low_precision(net, formats)
        parameters = bind_parameters(low, infer_shapes(low))
        for feeds in batches:
            forward(NumpyEngine(), low, feeds, parameters, keep=[low.last_versions[OUTPUT]])
    return time.perf_counter() - start


def unshared_trials(net: lp.Net, data: Data, trials: Sequence[Formats]) -> float:
    """Seconds for the same trials by `Trials`, which computes batches in parallel, with nothing kept between them."""
    alone = Trials(net, data, measure=lp.Measure(output=OUTPUT), memory=0)
    assert alone.baseline.images  # the full-precision outputs are not part of a trial
    start = time.perf_counter()
    for formats in trials:
        alone(formats)
    return time.perf_counter() - start


def onnx_passes(net: lp.Net, data: Data, trials: Sequence[Formats]) -> float:
    """Seconds for whole passes of onnxruntime: rounding in the graph, a session for each trial, image by image."""
    batches = list(data.batches(1))
    start = time.perf_counter()
    for formats in trials:
        low = low_precision(net, formats)
        runtime = OnnxRuntime(low, [low.last_versions[OUTPUT]])
        for feeds in batches:
            runtime.run(feeds)
    return time.perf_counter() - start


PASSES = {
    "full forward passes, numpy engine": numpy_passes,
    "the same, batches in parallel": unshared_trials,
    "full passes, onnxruntime (its sums decide ties)": onnx_passes,
}


if __name__ == "__main__":
    main()
