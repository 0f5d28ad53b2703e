"""Memory and time of calibration: open_nsfw over few and over many images.

    python tools/bench_calibration.py [--models DIR] [--images N ...]

Prints a Markdown table and changes nothing. DIR holds open_nsfw/ and crops/, as tools/fetch_models.py and
tools/cut_crops.py make them. The data is a list file that names the crops in turn, again and again: an image is decoded
when it is its turn and dropped after it, so of the data only the names grow with the number of images. Every row is a
process of its own, which says its own peak resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINES = ("onnxruntime", "numpy")


def measure(models: Path, listing: str, engine: str) -> None:
    """What the child process does: calibrate, and print the figures."""
    import lpcaffe as lp  # not in the parent, whose memory a child would begin with

    folder = models / "open_nsfw"
    net = lp.load(folder / "deploy.prototxt", folder / "resnet_50_1by2_nsfw.caffemodel")
    data = lp.images(listing, net)
    before = peak_mb()
    start, start_cpu = time.perf_counter(), time.process_time()
    stats = lp.calibrate(net, data, engine=engine)
    seconds = {"ms": time.perf_counter() - start, "cpu_ms": time.process_time() - start_cpu}
    each = {name: 1e3 * value / stats.images for name, value in seconds.items()}
    print(json.dumps({"images": stats.images, "before": before, "peak": peak_mb(), **each}))


def peak_mb() -> float:
    """The peak of this process's resident memory; the unit is KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cache = Path(os.environ.get("LPCAFFE_MODELS") or ROOT / ".cache" / "models")
    parser.add_argument("--models", type=Path, default=cache)
    parser.add_argument("--images", type=int, nargs="+", default=[10, 1000], metavar="N")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.models, *args.measure)
        return
    crops = sorted((args.models / "crops").resolve().glob("*.png"))
    if not crops:
        sys.exit(f"{args.models / 'crops'}: no crops; tools/cut_crops.py makes them")
    print("| engine | images | peak before | peak | ms an image | CPU ms an image |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        listing = Path(temporary) / "crops.txt"
        for engine in ENGINES:
            for count in args.images:
                listing.write_text("".join(f"{crop}\n" for crop in islice(cycle(crops), count)), encoding="utf-8")
                command = [sys.executable, __file__, "--models", str(args.models), "--measure", str(listing), engine]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                row = json.loads(done.stdout)
                figures = f"{row['before']:.0f} MB | {row['peak']:.0f} MB | {row['ms']:.0f} | {row['cpu_ms']:.0f}"
                print(f"| {engine} | {row['images']:,} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
