"""What must not change by itself: digests of the files that a conversion writes, and of what golden networks compute.

A rule that changes bytes on purpose changes pins.json in the same commit, which says why:

    python tests/test_pins.py > tests/golden/pins.json
"""

import hashlib
import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.cli import run as lpcaffe
from lpcaffe.engines import run
from lpcaffe.net import load

ROOT = Path(__file__).parents[1]
LENET = ROOT / "models" / "lenet"
GOLDEN = ROOT / "tests" / "golden"
NETWORKS = {"lenet": (LENET / "deploy.prototxt", LENET / "lenet.caffemodel")}
RECORDED = sorted((GOLDEN / "lp_layers").glob("*.prototxt"))
CONVERSIONS = [
    *(
        "-".join(parts)
        for parts in product(("16", "8", "4"), ("adaption", "plain"), ("deterministic", "stochastic"), ("fold-bn",))
    ),
    *(f"16-{dialect}-deterministic-keep-bn" for dialect in ("adaption", "plain")),
]

NORMALISED = """
name: "normalised" input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 7 }
layer { name: "c1" type: "Convolution" bottom: "data" top: "c1" convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "b1" type: "BatchNorm" bottom: "c1" top: "c1" }
layer { name: "s1" type: "Scale" bottom: "c1" top: "c1" scale_param { bias_term: true } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "f1" type: "InnerProduct" bottom: "c1" top: "f1" inner_product_param { num_output: 4 } }
layer { name: "f2" type: "InnerProduct" bottom: "f1" top: "f2" inner_product_param { num_output: 2 } }
"""


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def normalised(folder: Path) -> tuple[Path, Path]:
    """A network with BatchNorm, whose weights are exact in binary, so that no machine folds them otherwise."""
    from lpcaffe.engines import infer_shapes
    from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
    from lpcaffe.net import load_net

    files = folder / "net.prototxt", folder / "net.caffemodel"
    files[0].write_text(NORMALISED)
    net, rng = load_net(files[0]), np.random.default_rng(0)
    blobs = {
        name: [BlobSource.of((rng.integers(1, 64, shape) / 64).astype(np.float32)) for shape in shapes]
        for name, shapes in infer_shapes(net).params.items()
    }
    write_caffemodel(files[1], net.message, blobs, force=True)
    return files


def conversion(name: str, folder: Path) -> dict[str, str]:
    """Digests of what `convert` writes, without data, and of a plan that it makes with data."""
    bits, dialect, rounding, *bn = name.split("-")
    bn = "-".join(bn)
    found = {}
    for network, files in (NETWORKS | {"normalised": normalised(folder)}).items():
        out = folder / network
        options = ["--bits", bits, "--dialect", dialect, "--rounding", rounding, "--seed", "3", f"--{bn}", "--quiet"]
        command = ["convert", *map(str, files), "--out", str(out), "--force", *options]
        assert lpcaffe(command) == 0
        outputs = ("plan.yaml", "report.json", "lp.prototxt", "lp.caffemodel")
        found |= {f"{network}/{output}": sha((out / output).read_bytes()) for output in outputs}
        if network == "lenet":
            # What is measured over data may differ in the last digit between processors; formats may not.
            assert lpcaffe([*command, "--data", str(LENET / "digits.npz"), "--limit", "20"]) == 0
            plan = [line.partition("  #")[0] for line in (out / "plan.yaml").read_text().splitlines()]
            found |= {"lenet/plan.yaml of data": sha("\n".join(plan).encode())}
            found |= {f"lenet/{output} of data": sha((out / output).read_bytes()) for output in outputs[2:]}
    return found


def forward_pass(prototxt: Path) -> str:
    """A digest of all blobs to four digits, computed in float64, with stochastic layers as such."""
    net = load(prototxt, prototxt.with_suffix(".caffemodel"))
    blobs = run(net, np.load(prototxt.with_suffix(".input.npy")), dtype="float64", seed=5, versions=True)
    values = b"".join(name.encode() + (np.round(blobs[name], 4) + 0.0).tobytes() for name in sorted(blobs))
    return sha(values)


def pins() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, object] = {name: conversion(name, Path(folder)) for name in CONVERSIONS}
    return found | {path.stem: forward_pass(path) for path in RECORDED}


def pinned() -> dict[str, object]:
    return json.loads((GOLDEN / "pins.json").read_text())


@pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning")
@pytest.mark.parametrize("name", CONVERSIONS)
def test_conversions_write_the_bytes_they_wrote(name, tmp_path, monkeypatch):
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)
    assert conversion(name, tmp_path) == pinned()[name]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_golden_networks_compute_what_they_computed(path):
    assert forward_pass(path) == pinned()[path.stem]


if __name__ == "__main__":
    json.dump(pins(), sys.stdout, indent=1)
