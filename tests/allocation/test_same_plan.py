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
DIGITS = 60
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
# Arguments: a folder with net.prototxt, net.caffemodel and x.npy, and another, for the statistics of each engine.
PROGRAM = f"""
import sys
import lpcaffe as lp
net = lp.load(sys.argv[1] + "/net.prototxt", sys.argv[1] + "/net.caffemodel")
for engine in {ENGINES}:
    lp.calibrate(net, lp.images(sys.argv[1] + "/x.npy", net), engine=engine).save(f"{{sys.argv[2]}}/{{engine}}.npz")
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


@pytest.fixture(params=["small", "LeNet"])
def case(request, make_net, tmp_path):
    """A network in the folder, and its images as an array."""
    if request.param == "small":
        net = make_net(SMALL)
        return net, np.random.default_rng(5).normal(size=(19, 3, 33, 37)).astype(np.float32)
    for name, file in (("net.prototxt", "deploy.prototxt"), ("net.caffemodel", "lenet.caffemodel")):
        (tmp_path / name).write_bytes((LENET / file).read_bytes())
    net = lp.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    (images,) = lp.images(LENET / "digits.npz", net, limit=DIGITS).batches(DIGITS)
    return net, images["data"]


def statistics(net, x, engine):
    """The statistics without the name of their source, which counts the images of each part."""
    return replace(lp.calibrate(net, lp.images(x, net), engine=engine), source="images")


@pytest.mark.parametrize("engine", ENGINES)
def test_order_and_splitting_of_the_images_change_nothing(case, engine):
    net, x = case
    whole = statistics(net, x, engine)
    order = np.random.default_rng(2).permutation(len(x))
    assert statistics(net, x[order], engine) == whole
    pieces = [statistics(net, part, engine) for part in (x[order][:1], x[order][1:8], x[order][8:])]
    in_order = pieces[0] + pieces[1] + pieces[2]
    assert replace(pieces[2] + (pieces[1] + pieces[0]), source="") == replace(in_order, source="")
    expected = plans(net, whole)
    assert len(set(expected[0])) > len(METHODS)
    assert plans(net, in_order) == expected
    assert plans(net, pieces[1])[0] != expected[0]  # other images would show


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
        texts, moments = plans(other, stats, ("max", "mse"))
        found.append(([line for text in texts for line in text.splitlines() if "sha256" not in line], moments))
    assert found[0] == found[1]


def test_the_number_of_threads_changes_nothing(case, tmp_path):
    """What is compared are the bytes of the statistics file, of which the plan is a function."""
    net, x = case
    np.save(tmp_path / "x.npy", x)
    found = []
    for threads in ("1", "2"):
        out = tmp_path / threads
        out.mkdir()
        limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), threads)
        subprocess.run(
            [sys.executable, "-c", PROGRAM, tmp_path, out],
            check=True,
            cwd=Path(lp.__file__).resolve().parent.parent,
            env={**os.environ, **limits},
            preexec_fn=one_processor if threads == "1" else None,
        )
        found.append([(out / f"{engine}.npz").read_bytes() for engine in ENGINES])
    assert found[0] == found[1]
    for engine in ENGINES:
        loaded = lp.Calibration.load(out / f"{engine}.npz")
        assert replace(loaded, source="images") == statistics(net, x, engine)


def one_processor():
    """onnxruntime takes as many threads as the process has processors, whatever the environment says."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
