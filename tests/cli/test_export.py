"""`lpcaffe export` and `lpcaffe run --engine`, as a person uses them."""

import json
import re

import numpy as np
import onnx
import onnxruntime
import pytest


def test_export_writes_a_model_that_checks_and_says_what_is_in_it(lpcaffe, small):
    status, out, err = lpcaffe("export", *small, "--to", "onnx", "--out", "m.onnx")
    assert (status, err) == (0, "")
    assert "profile float" in out
    assert out.endswith("written to m.onnx\n")
    onnx.checker.check_model("m.onnx", full_check=True)


PLAIN = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "relu" type: "ReLU" bottom: "x" top: "y" }
"""


def test_the_weights_are_left_out_where_no_layer_has_any(lpcaffe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(PLAIN)
    assert lpcaffe("export", "net.prototxt", "--to", "onnx", "--out", "m.onnx", "--quiet") == (0, "", "")
    x = np.float32([[-1, 0, 2], [3, -4, 5]])
    (y,) = onnxruntime.InferenceSession("m.onnx").run(None, {"x": x})
    np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_a_layer_without_the_weights_that_it_needs_is_one_line(lpcaffe, small, tmp_path):
    status, out, err = lpcaffe("export", small[0], "--to", "onnx", "--out", "m.onnx")
    assert (status, out) == (2, "")
    assert re.fullmatch(r'lpcaffe: net\.prototxt:3:1: layer "conv/1": no weights were given, expected 2\n', err)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("profile", ["exact", "qdq", "qonnx"])
def test_a_low_precision_network_is_exported_in_its_profiles(lpcaffe, small, profile):
    assert lpcaffe("convert", *small, "--out", "lp", "--data", "x.npy", "--quiet")[0] == 0
    low = ("lp/lp.prototxt", "lp/lp.caffemodel")
    status, out, _ = lpcaffe("export", *low, "--profile", profile, "--out", "m.onnx", "--json")
    assert status == 0
    assert json.loads(out)["profile"] == profile
    onnx.checker.check_model("m.onnx")
    planned = lpcaffe("export", *small, "--plan", "lp/plan.yaml", "--profile", profile, "--out", "p.onnx", "--quiet")
    assert planned == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--profile", "exact", "--out", "m.onnx"], "nothing in the network rounds, which exact is for; give --plan"),
        (["--profile", "int8", "--out", "m.onnx"], "int8"),
        (["--to", "tflite", "--out", "m.onnx"], "tflite"),
        (["--out", "no/such/folder/m.onnx"], "does not exist; create it first"),
        (["--out", "x.npy"], "x.npy: the file exists; --force overwrites it"),
        (["--plan", "none.yaml", "--out", "m.onnx"], "none.yaml"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_no_file(lpcaffe, small, arguments, problem, tmp_path):
    status, out, err = lpcaffe("export", *small, *arguments)
    assert (status, out) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert not (tmp_path / "m.onnx").exists()


def test_an_engine_that_cannot_do_what_is_asked_is_one_line(lpcaffe, small):
    arguments = ("run", *small, "--input", "x.npy", "--out", "o.npz")
    status, _, err = lpcaffe(*arguments, "--engine", "onnxruntime", "--dtype", "float64")
    assert (status, err.count("\n")) == (2, 1)
    assert "onnxruntime computes in float32 only; float64 is for numpy" in err
    assert lpcaffe(*arguments, "--dtype", "float64") == (0, "", "lpcaffe: computed with numpy in float64\n")
