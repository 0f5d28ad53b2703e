"""The plan depends on the network, the images and the method: not on how the images come, nor on the machine's threads.

What is compared is the text of plan.yaml, its comments included.
"""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet"
DIGITS = 30
METHODS = ("max", "mse", "kl", "aciq-laplace", "adaption", "sqnr")
ENGINES = ("numpy", "onnxruntime")
# The products of conv are wide, those of ip long enough for OpenBLAS to cut them.
# The PReLU has statistics of its own behind it.
SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 33 dim: 37 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 37 kernel_h: 3 kernel_w: 2 stride: 2 } }
layer { name: "norm" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "slope" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 70 } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 9 } }
"""
NAMES = ("small", "LeNet")
# Arguments: the end of the names of files, and folders with net.prototxt, net.caffemodel and x.npy. The statistics of
# each engine are saved there.
PROGRAM = f"""
import sys
import lpcaffe as lp
for folder in sys.argv[2:]:
    net = lp.load(folder + "/net.prototxt", folder + "/net.caffemodel")
    for engine in {ENGINES}:
        stats = lp.calibrate(net, lp.images(folder + "/x.npy", net), engine=engine)
        stats.save(f"{{folder}}/{{engine}}_{{sys.argv[1]}}.npz")
"""


def plans(net, stats, methods=METHODS):
    """The plans by method and width, and the moments to the last bit, of which a plan shows four digits."""
    texts = [
        lp.allocate(net, stats, policy=lp.Policy(dialect="plain"), bits=bits, method=method).to_yaml()
        for method in methods
        for bits in (4, 8)
        if (method, bits) != ("kl", 4)  # which is slow
    ]
    return texts, stats.to_json()["layers"]


@pytest.fixture
def made(make_net, tmp_path):
    """A function that makes a network of NAMES in the folder of its name, and its images as an array."""

    def make(name):
        folder = tmp_path / name
        if name == "small":
            net = make_net(SMALL, folder=folder)
            return net, np.random.default_rng(5).normal(size=(19, 3, 33, 37)).astype(np.float32)
        folder.mkdir()
        for copy, file in (("net.prototxt", "deploy.prototxt"), ("net.caffemodel", "lenet.caffemodel")):
            (folder / copy).write_bytes((LENET / file).read_bytes())
        net = lp.load(folder / "net.prototxt", folder / "net.caffemodel")
        (images,) = lp.images(LENET / "digits.npz", net, limit=DIGITS).batches(DIGITS)
        return net, images["data"]

    return make


def statistics(net, x, engine):
    """The statistics without the name of their source, which counts the images of each part."""
    return replace(lp.calibrate(net, lp.images(x, net), engine=engine), source="images")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_order_and_splitting_of_the_images_change_nothing(made, name, engine):
    net, x = made(name)
    whole = statistics(net, x, engine)
    order = np.random.default_rng(2).permutation(len(x))
    assert statistics(net, x[order], engine) == whole
    pieces = [statistics(net, part, engine) for part in (x[order][:1], x[order][1:8], x[order][8:])]
    in_order = pieces[0] + pieces[1] + pieces[2]
    assert replace(pieces[2] + (pieces[1] + pieces[0]), source="images") == whole
    expected = plans(net, whole)
    assert len(set(expected[0])) > len(METHODS)
    assert plans(net, in_order) == expected
    assert plans(net, pieces[1], METHODS[:1])[0] != expected[0][:2]  # other images would show


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NAMES)
def test_the_batch_of_the_file_changes_nothing_but_the_networks_checksum(made, tmp_path, name, engine):
    net, x = made(name)
    text = Path(net.path).read_text()
    first = "dim: 4" if name == "small" else "dim: 1"
    assert first in text
    found = []
    for batch in (1, 7):
        (tmp_path / f"{batch}.prototxt").write_text(text.replace(first, f"dim: {batch}", 1))
        other = lp.load(tmp_path / f"{batch}.prototxt", net.weights_path)
        stats = lp.calibrate(other, lp.images(x, other), engine=engine)
        texts, moments = plans(other, stats, ("max", "mse"))
        found.append(([line for text in texts for line in text.splitlines() if "sha256" not in line], moments))
    assert found[0] == found[1]


def test_the_number_of_threads_changes_nothing(made, tmp_path):
    """What is compared are the bytes of the statistics file, of which the plan is a function."""
    cases, found = {tmp_path / name: made(name) for name in NAMES}, []
    for folder, (_, x) in cases.items():
        np.save(folder / "x.npy", x)
    for threads in ("1", "2"):
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        subprocess.run(
            [sys.executable, "-c", PROGRAM, threads, *cases],
            check=True,
            cwd=Path(lp.__file__).resolve().parent.parent,
            env={**os.environ, **limits},
            preexec_fn=one_processor if threads == "1" else None,
        )
        found.append([(folder / f"{engine}_{threads}.npz").read_bytes() for folder in cases for engine in ENGINES])
    assert found[0] == found[1]
    for folder, (net, x) in cases.items():
        for engine in ENGINES:
            loaded = lp.Calibration.load(folder / f"{engine}_2.npz")
            assert replace(loaded, source="images") == statistics(net, x, engine)


def one_processor():
    """onnxruntime takes as many threads as the process has processors, whatever the environment says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
