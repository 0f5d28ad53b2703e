"""The engine `pycaffe`, with a stand-in for Caffe's Python package: what it is given, and what comes back."""

import dataclasses
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.engines import run
from lpcaffe.net import Rounding

TEXT = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "y" inner_product_param { num_output: 3 } }
layer { name: "r" type: "ReLU" bottom: "y" top: "y" }"""


class Blob:
    """As pycaffe's: reshape allocates, data is written in place."""

    def __init__(self):
        self.data = np.zeros(0, np.float32)

    def reshape(self, *shape):
        self.data = np.zeros(shape, np.float32)


@pytest.fixture
def caffe(monkeypatch):
    """A module `caffe` whose Net reads the two files with our own reader and computes with the numpy engine."""

    class StandIn:
        def __init__(self, prototxt, weights, phase):
            assert phase == "test phase"
            self.net = lp.load(prototxt, weights)
            self.blobs = {"x": Blob(), "y": Blob()}

        def forward(self):
            found = run(self.net, self.blobs["x"].data, engine="numpy")
            self.blobs["y"].data = found["y"]

    module = ModuleType("caffe")
    module.Net, module.TEST = StandIn, "test phase"
    monkeypatch.setitem(sys.modules, "caffe", module)
    return SimpleNamespace(net=StandIn)


def test_caffe_gets_the_network_its_weights_and_the_input_and_its_blobs_come_back(caffe, random_net):
    net = random_net(TEXT)
    x = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    found, expected = run(net, x, engine="pycaffe"), run(net, x, engine="numpy")
    assert list(found) == ["x", "y"]
    for blob, values in expected.items():
        np.testing.assert_array_equal(found[blob], values)


def test_roundings_are_what_caffe_cannot_apply(caffe, random_net):
    rounding = Rounding(lp.QFormat(2, 3), "deterministic", "fc_lpact")
    net = dataclasses.replace(random_net(TEXT), roundings={"y@fc": rounding})
    with pytest.raises(lp.LpcaffeError, match="Caffe rounds no value but by a layer"):
        run(net, np.ones((1, 2), np.float32), engine="pycaffe")


def test_earlier_versions_are_what_caffe_cannot_give(caffe, random_net):
    with pytest.raises(lp.LpcaffeError, match='Caffe does not keep "y@fc": a later layer writes over it in place'):
        run(random_net(TEXT), np.ones((1, 2), np.float32), engine="pycaffe", versions=True)


def test_without_the_package_the_error_says_so(random_net, monkeypatch):
    monkeypatch.setitem(sys.modules, "caffe", None)
    with pytest.raises(lp.LpcaffeError, match="the package caffe cannot be imported; build Caffe with its Python"):
        run(random_net(TEXT), np.ones((1, 2), np.float32), engine="pycaffe")
