"""Shapes of 37 public networks, as real Caffe built them. Needs ../shared/corpus beside the checkout."""

import json
import warnings
from pathlib import Path

import pytest

from lpcaffe.engines import infer_shapes
from lpcaffe.net import load_net

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
RECORDED = sorted(CORPUS.glob("*.shapes.json"))
pytestmark = pytest.mark.skipif(not RECORDED, reason="../shared/corpus is not beside the checkout")


def test_there_are_37():
    assert len(RECORDED) == 37


@pytest.mark.parametrize(
    "path", RECORDED, ids=lambda path: path.name.split("__")[-1].removesuffix(".prototxt.shapes.json")
)
def test_shapes_of_a_public_network_are_those_of_caffe(path):
    expected = json.loads(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of forks
        net = load_net(path.with_name(path.name.removesuffix(".shapes.json")))
    shapes = infer_shapes(net)
    assert [[layer.name, layer.type] for layer in net.layers] == expected["layers"]
    assert list(net.inputs) == expected["inputs"]
    assert list(net.outputs) == expected["outputs"]
    assert shapes.blobs == {blob: tuple(shape) for blob, shape in expected["blobs"].items()}
    assert shapes.params == {name: [tuple(shape) for shape in own] for name, own in expected["params"].items()}
