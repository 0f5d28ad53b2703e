"""The plan depends on the network, the images and the method: not on how the images come, nor on the machine's threads.

What is compared is the text of plan.yaml, its comments included.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet"
DIGITS = 60
METHODS = ("max", "mse", "kl", "aciq-laplace", "adaption", "sqnr")
ENGINES = ("numpy", "onnxruntime")
# The products of ip are long enough for OpenBLAS to cut them; the PReLU has statistics of its own behind it.
SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 33 dim: 37 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 11 kernel_h: 3 kernel_w: 2 } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "slope" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 70 } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 9 } }
"""
# Arguments: folder, images, engine, methods. Prints what `plans` gives.
PROGRAM = """
import json, sys
import lpcaffe as lp
folder, images, engine, *methods = sys.argv[1:]
net = lp.load(f"{folder}/net.prototxt", f"{folder}/net.caffemodel")
stats = lp.calibrate(net, lp.images(images, net), engine=engine)
plans = [
    lp.allocate(net, stats, bits=bits, method=method, dialect="plain").to_yaml()
    for method in methods
    for bits in (4, 8)
]
print(json.dumps([plans, stats.to_json()["layers"]]))
"""


def plans(net, stats):
    """The plans by method and width, and the moments to the last bit, of which a plan shows four digits."""
    texts = [
        lp.allocate(net, stats, policy=lp.Policy(dialect="plain"), bits=bits, method=method).to_yaml()
        for method in METHODS
        for bits in (4, 8)
    ]
    return texts, stats.to_json()["layers"]


@pytest.fixture(params=["small", "LeNet"])
def case(request, make_net, tmp_path):
    """A network in the folder, its images as an array, and what they are multiplied with."""
    if request.param == "small":
        net = make_net(SMALL)
        return net, np.random.default_rng(5).normal(size=(19, 3, 33, 37)).astype(np.float32)
    for name, file in (("net.prototxt", "deploy.prototxt"), ("net.caffemodel", "lenet.caffemodel")):
        (tmp_path / name).write_bytes((LENET / file).read_bytes())
    net = lp.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    (images,) = lp.images(LENET / "digits.npz", net, limit=DIGITS).batches(DIGITS)
    return net, images["data"]


@pytest.mark.parametrize("engine", ENGINES)
def test_order_and_splitting_of_the_images_change_nothing(case, engine):
    net, x = case

    def calibrated(images):
        return lp.calibrate(net, lp.images(images, net), engine=engine)

    expected = plans(net, calibrated(x))
    assert len(set(expected[0])) > len(METHODS)
    assert plans(net, calibrated(x[:5]))[0] != expected[0]  # other images would show
    order = np.random.default_rng(2).permutation(len(x))
    assert plans(net, calibrated(x[order])) == expected
    pieces = [calibrated(part) for part in (x[order][:1], x[order][1:8], x[order][8:])]
    assert plans(net, pieces[0] + pieces[1] + pieces[2]) == expected
    assert plans(net, pieces[2] + (pieces[1] + pieces[0])) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_the_batch_of_the_file_changes_nothing_but_the_networks_checksum(case, tmp_path, engine):
    _, x = case
    text = (tmp_path / "net.prototxt").read_text()
    first = "dim: 4" if "dim: 4" in text else "dim: 1"
    found = []
    for batch in (1, 7):
        folder = tmp_path / f"batch{batch}"
        folder.mkdir()
        (folder / "net.prototxt").write_text(text.replace(first, f"dim: {batch}", 1))
        other = lp.load(folder / "net.prototxt", tmp_path / "net.caffemodel")
        stats = lp.calibrate(other, lp.images(x, other), engine=engine)
        texts, moments = plans(other, stats)
        found.append(([line for text in texts for line in text.splitlines() if "sha256" not in line], moments))
    assert found[0] == found[1]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_number_of_threads_changes_nothing(case, tmp_path, engine):
    net, x = case
    np.save(tmp_path / "x.npy", x)
    found = []
    for threads in ("1", "2"):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        arguments = [sys.executable, "-c", PROGRAM, tmp_path, tmp_path / "x.npy", engine, *METHODS]
        done = subprocess.run(
            arguments,
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(lp.__file__).resolve().parent.parent,
            env={**os.environ, **limits},
            preexec_fn=one_processor if threads == "1" else None,
        )
        found.append(json.loads(done.stdout))
    stats = lp.calibrate(net, lp.images(x, net), engine=engine)
    assert found[0] == found[1] == list(plans(net, stats))


def one_processor():
    """onnxruntime takes as many threads as the process has processors, whatever the environment says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
