"""Agreement with figures recorded from the original systems, as a table.

    python tools/check_references.py FOLDER

FOLDER holds `models/` and `golden/`: released networks, and blobs that real Caffe and ADaPTION computed on them. They
are not part of lpcaffe; docs/benchmarks/references.md has the table as it came out.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import lpcaffe as lp

SOURCES = {
    "lenet": ("lenet_mnist", "lenet.prototxt", "lenet_iter_10000.caffemodel"),
    "mtcnn_pnet": ("mtcnn_pnet", "det1.prototxt", "det1.caffemodel"),
    "mtcnn_rnet": ("mtcnn_rnet", "det2.prototxt", "det2.caffemodel"),
    "open_nsfw": ("open_nsfw", "deploy.prototxt", "resnet_50_1by2_nsfw.caffemodel"),
}


def load(models: Path, name: str) -> lp.Net:
    folder, prototxt, caffemodel = SOURCES[name]
    return lp.load(models / folder / prototxt, models / folder / caffemodel)


def blobs(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return {name.replace("__", "/"): file[name] for name in file.files if not name.startswith("__")}


def relative(got: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """The largest difference of a blob, relative to its largest magnitude."""
    return max(float(np.abs(got[b] - v).max() / (np.abs(v).max() or 1)) for b, v in wanted.items())


def float_nets(root: Path) -> None:
    print("released networks in full precision: largest difference of a blob / its largest magnitude")
    for name in SOURCES:
        stem = "lenet_mnist" if name == "lenet" else name
        wanted = blobs(root / "golden" / "float_nets" / f"{stem}.blobs.npz")
        count = len(next(iter(wanted.values())))
        x = blobs(root / "golden" / "float_nets" / f"{stem}.input_and_opencv.npz")["x"][:count]
        got = lp.run(load(root / "models", name), x)
        print(f"  {name:20} {len(wanted):3} blobs  {relative(got, wanted):.2g}")


def lp_layers(root: Path) -> None:
    print("LP layers: largest difference of a blob / its largest magnitude")
    worst, count = 0.0, 0
    for prototxt in sorted((root / "golden" / "lp_layers").glob("*.prototxt")):
        recorded = blobs(prototxt.with_suffix(".golden.npz"))
        wanted = {name: v for name, v in recorded.items() if "/" not in name and ":" not in name}
        net = lp.load(prototxt, prototxt.with_suffix(".caffemodel"))
        got = lp.run(net, np.load(prototxt.with_suffix(".input.npy")), stochastic_as="floor")
        worst = max(worst, relative(got, wanted))
        count += 1
    print(f"  {count} nets  {worst:.2g}")


def lp_nets(root: Path) -> None:
    print("LP networks: values that differ, in all and in the worst blob; the same from our own conversion")
    for folder in sorted(path for path in (root / "golden" / "lp_nets").iterdir() if path.is_dir()):
        name = folder.name.rsplit("_", 1)[0]
        x, wanted = np.load(folder.parent / f"{name}.input.npy"), blobs(folder / "blobs.npz")
        got = lp.run(lp.load(folder / "lp.prototxt", folder / "lp.caffemodel"), x)
        wrong = {b: int(np.count_nonzero(got[b] != v)) for b, v in wanted.items()}
        total = sum(v.size for v in wanted.values())
        worst = max(wrong[b] / v.size for b, v in wanted.items())
        source, plan = load(root / "models", name), lp.BitPlan.load(folder / "plan.json")
        ours = lp.rewrite(source, plan)
        same = [layer.type for layer in ours.layers] == [
            layer.type for layer in lp.load_net(folder / "lp.prototxt").layers
        ]
        print(f"  {folder.name:20} {sum(wrong.values()):4} of {total:,} ({worst:.2%})  same layers: {same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    root = parser.parse_args().folder
    warnings.simplefilter("ignore", lp.LpcaffeWarning)
    float_nets(root)
    lp_layers(root)
    lp_nets(root)


if __name__ == "__main__":
    main()
