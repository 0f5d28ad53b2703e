"""How fast, and in how much memory, large files are read and written: a network of VGG-16's size, random weights.

    python tools/bench_files.py [--folder DIR] [--rounds N] [--times X]

Prints a Markdown table. DIR (default: the system's temporary folder) needs 4 GB for 138 million weights; --times makes
a larger network, by X times the outputs of fc6 and fc7: 1.807 makes 1.9 times the weights, and 3.92 five times, which
is read and written as HDF5 only. Every contender is a process of its own that begins with a warm page cache, nothing
left to write to the disk, and no output unless it says so; `cat in in > out` is the least that even and odd blobs take.

    python tools/bench_files.py --parse PROTOTXT

compares the text parser with protobuf's on one file, in one process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "models" / "vgg16" / "deploy.prototxt"
CHUNK = 1 << 20
OVER = "over the earlier file"


def make(folder: Path, times: float) -> None:
    """A prototxt, a caffemodel of random weights, and a plan."""
    import numpy as np  # not in the parent, whose memory a child would begin with

    import lpcaffe as lp
    from lpcaffe.formats.caffemodel import MAX_BYTES, BlobSource, write_caffemodel
    from lpcaffe.pipeline import write_prototxt

    net = lp.load_net(DEPLOY)
    for layer in net.message.layer:
        if layer.name in ("fc6", "fc7"):
            layer.inner_product_param.num_output = int(layer.inner_product_param.num_output * times)
    net = net.replace(net.message, None)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, CHUNK).astype(np.float32)

    def values(shape: Sequence[int]) -> Iterator[Any]:
        for start in range(0, int(np.prod(shape)), CHUNK):
            yield noise[: min(CHUNK, int(np.prod(shape)) - start)]

    blobs = {
        name: [BlobSource(shape, partial(values, shape)) for shape in shapes]
        for name, shapes in lp.infer_shapes(net).params.items()
    }
    count = sum(source.count for sources in blobs.values() for source in sources)
    prototxt, caffemodel = folder / "net.prototxt", folder / ("net.h5" if 4 * count > MAX_BYTES else "net.caffemodel")
    write_prototxt(net, prototxt, force=True)
    write_caffemodel(caffemodel, net.message, blobs, hdf5=caffemodel.suffix == ".h5", force=True)
    lp.allocate(lp.load(prototxt, caffemodel), None, bits=16).save(folder / "plan.yaml", force=True)


def timed(command: str) -> tuple[float, float]:
    """Seconds and peak resident MB, mapped pages counted, of a process. The disk has nothing else to write."""
    os.sync()
    start = time.perf_counter()
    child = subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, executable="/bin/bash")
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"{command}: failed")
    return seconds, usage.ru_maxrss * 1024 / 1e6


def parse(path: Path, rounds: int) -> None:
    """Milliseconds to parse a prototxt, of our parser and of protobuf's, turn by turn."""
    from google.protobuf import text_format

    from lpcaffe.formats import prototxt
    from lpcaffe.formats.schema import NetParameter

    text = path.read_text()
    if text_format.Parse(text, NetParameter()) != prototxt.parse(text):
        sys.exit("the two parsers do not agree")
    parsers = {
        "lpcaffe": prototxt.parse,
        "protobuf's text_format": lambda text: text_format.Parse(text, NetParameter()),
    }
    found: dict[str, list[float]] = {name: [] for name in parsers}
    for _ in range(rounds):
        for name, parser in parsers.items():
            start = time.perf_counter()
            parser(text)
            found[name].append(1e3 * (time.perf_counter() - start))
    print(f"{path.name}, {len(text)} characters, medians of {rounds}\n\n| | ms |\n|---|---|")
    for name, times in found.items():
        print(f"| {name} | {statistics.median(times):.1f} |")


def main() -> None:
    """Make the files and time the contenders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=float, default=1.0)
    parser.add_argument("--parse", type=Path, metavar="PROTOTXT")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        make(args.make, args.times)
        return
    if args.parse:
        parse(args.parse, args.rounds)
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        folder = Path(temporary)
        subprocess.run([sys.executable, __file__, "--make", folder, "--times", str(args.times)], check=True)
        prototxt, caffemodel = folder / "net.prototxt", next(path for path in folder.iterdir() if path.stem == "net")
        size = caffemodel.stat().st_size
        tool = f"exec {sys.executable} -m lpcaffe"
        copy = f"cat {caffemodel} {caffemodel} > {folder}/out"
        convert = f"{tool} weights {prototxt} {caffemodel} --plan {folder}/plan.yaml --force --out {folder}/out"
        contenders = {
            "cat in in > out": copy,
            f"cat, {OVER}": copy,
            "start-up (lpcaffe --version)": f"{tool} --version",
            "weights": convert,
            f"weights, {OVER}": convert,
            "weights, HDF5": f"{convert}.h5",
            "inspect": f"{tool} inspect {prototxt} {caffemodel}",
        }
        if caffemodel.suffix == ".h5":  # twice its weights are more than a binary caffemodel can hold
            contenders = {name: command for name, command in contenders.items() if command != convert}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(args.rounds):
            for name, command in contenders.items():
                if OVER not in name:
                    for path in folder.glob("out*"):
                        path.unlink()
                found[name].append(timed(command))
        print(f"{size / 1e6:.0f} MB, medians of {args.rounds}\n\n| | s | peak MB | x cat |\n|---|---|---|---|")
        cat = statistics.median(seconds for seconds, _ in found["cat in in > out"])
        for name, runs in found.items():
            seconds = statistics.median(seconds for seconds, _ in runs)
            print(f"| {name} | {seconds:.2f} | {max(peak for _, peak in runs):.0f} | {seconds / cat:.2f} |")


if __name__ == "__main__":
    main()
