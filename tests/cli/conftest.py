import numpy as np
import pytest

from lpcaffe.cli import run
from lpcaffe.engines import infer_shapes
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.net import load, load_net


@pytest.fixture
def make_net(tmp_path):
    """A function that writes a network with random weights to net.prototxt and net.caffemodel, and loads it.

    `edit` may change the weights first: a dictionary of lists of arrays, by layer name.
    """

    def make(text, edit=None, *, folder=tmp_path, seed=0):
        folder.mkdir(exist_ok=True)
        (folder / "net.prototxt").write_text(text)
        net = load_net(folder / "net.prototxt")
        rng = np.random.default_rng(seed)
        weights = {
            name: [rng.normal(0, 0.4, shape).astype(np.float32) for shape in shapes]
            for name, shapes in infer_shapes(net).params.items()
        }
        for layer in net.layers:
            if layer.type == "BatchNorm":
                mean, variance, _ = weights[layer.name]
                weights[layer.name] = [mean, np.abs(variance) + 0.5, np.array([2], np.float32)]
        if edit:
            edit(weights)
        blobs = {name: [BlobSource.of(blob) for blob in own] for name, own in weights.items()}
        write_caffemodel(folder / "net.caffemodel", net.message, blobs, force=True)
        return load(folder / "net.prototxt", folder / "net.caffemodel")

    return make


@pytest.fixture
def lpcaffe(capfd):
    """A function that runs the program and returns the exit status and what it printed to stdout and stderr."""

    def run_program(*arguments):
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return run_program


SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv/1" type: "Convolution" bottom: "data" top: "conv/1"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv/1" top: "conv/1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv/1" top: "file" inner_product_param { num_output: 7 } }
layer { name: "relu2" type: "ReLU" bottom: "file" top: "file" }
layer { name: "last" type: "InnerProduct" bottom: "file" top: "last" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "last" top: "prob" }
"""


@pytest.fixture
def small(make_net, tmp_path, monkeypatch):
    """The working directory holds net.prototxt, net.caffemodel and x.npy. Returns the arguments for the network."""
    make_net(SMALL)
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(5, 3, 9, 8)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return "net.prototxt", "net.caffemodel"
