import numpy as np
import pytest

from lpcaffe.cli import run


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
