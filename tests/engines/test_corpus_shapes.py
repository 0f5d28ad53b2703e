"""Shapes of 37 public networks, as real Caffe built them. Needs ../shared/corpus beside the checkout."""

import json
import warnings
from pathlib import Path

import pytest

from lpcaffe.engines import infer_shapes
from lpcaffe.layers import LAYERS
from lpcaffe.net import load_net

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
RECORDED = sorted(CORPUS.glob("*.shapes.json"))
pytestmark = pytest.mark.skipif(not RECORDED, reason="../shared/corpus is not beside the checkout")


@pytest.mark.parametrize(
    "path", RECORDED, ids=lambda path: path.name.split("__")[-1].removesuffix(".prototxt.shapes.json")
)
def test_shapes_of_a_public_network_are_those_of_caffe(path):
    expected = json.loads(path.read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of forks
        net = load_net(path.with_name(path.name.removesuffix(".shapes.json")))
    shapes = infer_shapes(net, strict=False)
    assert [[layer.name, layer.type] for layer in net.layers] == expected["layers"]
    assert list(net.inputs) == expected["inputs"]
    assert list(net.outputs) == expected["outputs"]
    # What depends on a layer of a type that is not known has no shape; all else has Caffe's.
    dark: set[str] = set()
    for layer in net.layers:
        if (layer.type != "Input" and layer.type not in LAYERS) or dark.intersection(layer.bottoms):
            dark.update(layer.tops)
    unknown = {blob for blob, tensor in net.last_versions.items() if tensor in dark}
    assert shapes.blobs == {
        blob: None if blob in unknown else tuple(shape) for blob, shape in expected["blobs"].items()
    }
    without = {layer.name for layer in net.layers if dark.intersection(layer.tops)}
    assert shapes.params == {
        name: [tuple(shape) for shape in own] for name, own in expected["params"].items() if name not in without
    }
    assert {problem.layer for problem in shapes.problems} <= without
    assert bool(shapes.problems) == bool(without)
