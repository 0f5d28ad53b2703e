"""inspect: what a network is, as plain values."""

import json
from pathlib import Path

import pytest

import lpcaffe as lp
from lpcaffe.errors import FileError, LpcaffeWarning

SHARED = Path(__file__).parents[3] / "shared"

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv/1x1" type: "Convolution" bottom: "data" top: "conv/1x1"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv/1x1" top: "conv/1x1" }
layer { name: "file" type: "InnerProduct" bottom: "conv/1x1" top: "file"
        inner_product_param { num_output: 7 bias_term: false } }
"""


@pytest.fixture
def small(make_net, tmp_path):
    make_net(SMALL)
    return tmp_path / "net.prototxt", tmp_path / "net.caffemodel"


def test_the_values_are_those_of_the_contract(small):
    found = lp.inspect(*small)
    assert json.loads(json.dumps(found)) == found
    assert {key: value for key, value in found.items() if key != "layers"} == {
        "network": "small",
        "generation": "V2",
        "inputs": ["data"],
        "outputs": ["file"],
        "blobs": {"data": [2, 3, 9, 8], "conv/1x1": [2, 5, 7, 7], "file": [2, 7]},
        "params": {"conv/1x1": [[5, 3, 3, 2], [5]], "file": [[7, 245]]},
        "parameters": 90 + 5 + 7 * 245,
        "macs": 2 * (5 * 7 * 7 * 18 + 7 * 245),
        "formats": {},
        "unknown_fields": [],
        "problems": [],
    }
    assert found["layers"] == [
        {"name": "data", "type": "Input", "bottoms": [], "tops": ["data"]},
        {"name": "conv/1x1", "type": "Convolution", "bottoms": ["data"], "tops": ["conv/1x1"]},
        {"name": "relu", "type": "ReLU", "bottoms": ["conv/1x1"], "tops": ["conv/1x1"]},
        {"name": "file", "type": "InnerProduct", "bottoms": ["conv/1x1"], "tops": ["file"]},
    ]


def test_fields_that_no_known_caffe_has_are_listed(small):
    small[0].write_text(SMALL.replace("num_output: 5", "num_output: 5 fork_mode: FAST"))
    with pytest.warns(LpcaffeWarning, match="fork_mode"):
        assert lp.inspect(*small)["unknown_fields"] == ["layer.convolution_param.fork_mode"]


def test_weights_are_not_needed(small):
    assert lp.inspect(small[0]) == lp.inspect(*small)


def test_after_a_layer_that_cannot_be_resolved_shapes_are_null(small):
    small[0].write_text(SMALL.replace('"ReLU"', '"ReLUX"'))
    found = lp.inspect(*small)
    assert found["blobs"] == {"data": [2, 3, 9, 8], "conv/1x1": None, "file": None}
    assert found["params"] == {"conv/1x1": [[5, 3, 3, 2], [5]]}
    (problem,) = found["problems"]
    assert "ReLUX" in problem
    assert 'layer "relu"' in problem


def test_weights_that_do_not_fit_are_a_problem_and_no_error(small):
    small[0].write_text(SMALL.replace("num_output: 7", "num_output: 6"))
    (problem,) = lp.inspect(*small)["problems"]
    assert 'layer "file" blob 0' in problem
    assert "6 x 245" in problem
    assert "7 x 245" in problem


def test_the_phase_chooses_the_layers(small):
    small[0].write_text(SMALL.replace('name: "relu"', 'name: "relu" include { phase: TRAIN }'))
    counts = {phase: len(lp.inspect(small[0], phase=phase)["layers"]) for phase in ("TEST", "TRAIN")}
    assert counts == {"TEST": 3, "TRAIN": 4}


@pytest.mark.parametrize(
    ("text", "generation"),
    [
        ('layers { layer { name: "relu" type: "relu" } bottom: "data" top: "relu" }', "V0"),
        ('layers { name: "relu" type: RELU bottom: "data" top: "relu" }', "V1"),
        ('layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }', "V2"),
    ],
)
def test_the_generation_is_that_of_the_file(tmp_path, text, generation):
    path = tmp_path / "net.prototxt"
    path.write_text(f'input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 4 {text}')
    found = lp.inspect(path)
    assert found["generation"] == generation
    assert found["blobs"] == {"data": [2, 3, 5, 4], "relu": [2, 3, 5, 4]}


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileError, match=r"gone\.prototxt"):
        lp.inspect(tmp_path / "gone.prototxt")


@pytest.mark.skipif(not (SHARED / "corpus").is_dir(), reason="shared/corpus is not beside the checkout")
def test_the_corpus_has_the_shapes_that_caffe_gave_it():
    """Names and dimensions of networks that real Caffe built, where we know all their layers."""
    resolved = 0
    for recorded in sorted((SHARED / "corpus").glob("*.shapes.json")):
        found = lp.inspect(recorded.with_name(recorded.name.removesuffix(".shapes.json")))
        values = json.loads(recorded.read_text())
        assert found["inputs"] == values["inputs"]
        if found["problems"]:
            continue
        assert found["outputs"] == values["outputs"]
        assert {blob: found["blobs"].get(blob) for blob in values["blobs"]} == values["blobs"]
        assert found["params"] == values["params"]
        resolved += 1
    assert resolved >= 10
