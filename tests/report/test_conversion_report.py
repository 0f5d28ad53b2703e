"""report.json: the keys and meanings of the contract, and nothing that would differ the next time."""

import hashlib
import json

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 7 bias_term: false } }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 4 } }
"""
PLAN = BitPlan(
    {
        "conv": LayerPlan("Convolution", QFormat(1, 4), QFormat(3, 5)),
        "ip": LayerPlan("InnerProduct", None, QFormat(3, 5)),
        "last": LayerPlan("InnerProduct", QFormat(1, 7)),
    },
    network="small",
)


def triple(weights):
    weights["conv"][0] *= 3  # so that some saturate


def convert(make_net, tmp_path, name="out", **options):
    net = make_net(SMALL, triple)
    x = np.random.default_rng(4).normal(size=(5, 3, 9, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    if options.pop("data", True):
        options["data"] = lp.images(tmp_path / "x.npy", net)
    lp.convert(net, PLAN, tmp_path / name, **options)
    return json.loads((tmp_path / name / "report.json").read_text())


def test_the_keys_are_those_of_the_contract(make_net, tmp_path):
    report = convert(make_net, tmp_path)
    assert set(report) >= {"version", "network", "plan", "data", "layers", "totals", "float_sites", "files"}
    assert (report["version"], report["network"]) == (1, "small")
    assert report["plan"] == PLAN.to_json()
    assert report["data"] == {"images": 5, "source": "array x.npy, 5 prepared blobs", "preprocessing": None}
    conv, ip, last = report["layers"]
    assert [set(row) for row in report["layers"]] == [{"name", "type", "weights", "bias", "output", "sizes"}] * 3
    figures = {"format", "count", "saturated", "max_abs_error", "sqnr_db", "zeros_before", "zeros_after"}
    assert set(conv["weights"]) == set(conv["bias"]) == figures
    assert set(conv["output"]) == {"format", "saturated_fraction", "zero_fraction", "sqnr_db"}
    assert (conv["name"], conv["type"]) == ("conv", "Convolution")
    assert (conv["weights"]["format"], conv["weights"]["count"], conv["bias"]["count"]) == ("Q1.4", 90, 5)
    assert ip["weights"] is ip["bias"] is None
    assert ip["output"]["format"] == "Q3.5"
    assert last["output"] is None
    assert report["float_sites"] == ["data/output", "conv/bias", "ip/weights", "last/bias", "last/output"]


def test_figures_of_weights_are_those_of_the_file(make_net, tmp_path):
    row = convert(make_net, tmp_path)["layers"][0]
    blobs = lp.load(tmp_path / "out" / "lp.prototxt", tmp_path / "out" / "lp.caffemodel").weights["conv"]
    arrays = [blob.array().astype(np.float64) for blob in blobs]
    for found, even, odd in ((row["weights"], *arrays[:2]), (row["bias"], *arrays[2:])):
        assert found["max_abs_error"] == np.abs(even - odd).max()
        assert found["saturated"] == np.count_nonzero(np.abs(even) >= 1 - 1 / 32)
        assert found["zeros_before"] == 0
        assert found["zeros_after"] == np.count_nonzero(odd == 0)
        sqnr = 10 * np.log10(np.sum(even**2) / np.sum((even - odd) ** 2))
        assert found["sqnr_db"] == pytest.approx(sqnr, abs=6e-4)
    assert row["weights"]["saturated"] > 0


def test_what_the_dialect_does_to_even_blobs_is_counted(make_net, tmp_path):
    net = make_net(SMALL, triple)
    layers = {
        "conv": LayerPlan("Convolution", QFormat(-1, 6)),
        "last": LayerPlan("InnerProduct", QFormat(1, 7), bias=QFormat(2, 9)),
    }
    done = lp.convert(net, BitPlan(layers), tmp_path / "out")
    conv, last = done.report.to_json()["layers"]
    limit = 0.25 - 2**-6
    given, even = net.weights["conv"][0].array(), done.net.weights["conv"][0].array()
    clipped = np.abs(given) >= limit + 2**-7
    np.testing.assert_array_equal(even, np.where(clipped, np.copysign(np.float32(limit), given), given))
    assert conv["weights"]["even_clipped"] == conv["weights"]["saturated"] == np.count_nonzero(clipped) > 0
    assert "even_clipped" not in last["weights"]
    assert last["bias"]["even_rounded"] is True
    assert "even_rounded" not in conv["bias"]


def test_totals_add_the_layers_up(make_net, tmp_path):
    report = convert(make_net, tmp_path)
    conv, ip, last = report["layers"]
    totals = report["totals"]
    assert (totals["layers"], totals["weights"]) == (3, 90 + 28)
    assert totals["weight_bits"] == 90 * 5 + 28 * 8
    assert totals["weight_bits_float32"] == 32 * (90 + 28)
    assert totals["saturated"] == conv["weights"]["saturated"] + last["weights"]["saturated"]
    assert totals["bias_saturated"] == conv["bias"]["saturated"] + last["bias"]["saturated"]
    assert totals["max_abs_error"] == max(row["weights"]["max_abs_error"] for row in (conv, last))
    assert totals["worst_layer"] == min((conv, ip), key=lambda row: row["output"]["sqnr_db"])["name"]


def test_without_data_outputs_are_null(make_net, tmp_path):
    report = convert(make_net, tmp_path, data=False)
    assert report["data"] is None
    assert [row["output"] for row in report["layers"]] == [None] * 3
    assert report["totals"]["worst_layer"] is None


def test_the_sums_of_the_other_files_are_right(make_net, tmp_path):
    report = convert(make_net, tmp_path)
    assert report["files"] == {
        name: hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
        for name in ("lp.prototxt", "lp.caffemodel", "plan.yaml")
    }


def test_no_path_is_in_it_and_the_same_conversion_gives_the_same_bytes(make_net, tmp_path):
    convert(make_net, tmp_path, "a")
    convert(make_net, tmp_path, "b")
    for name in ("report.json", "lp.prototxt", "lp.caffemodel", "plan.yaml"):
        data = (tmp_path / "a" / name).read_bytes()
        assert data == (tmp_path / "b" / name).read_bytes()
        assert str(tmp_path).encode() not in data
        assert tmp_path.name.encode() not in data


def test_batch_norm_that_stays_is_listed_with_the_reason(make_net, tmp_path):
    net = make_net(
        """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
        layer { name: "bn" type: "BatchNorm" bottom: "data" top: "bn" }
        layer { name: "conv" type: "Convolution" bottom: "bn" top: "conv"
                convolution_param { num_output: 6 kernel_size: 3 } }"""
    )
    for fold in (True, False):
        plan = BitPlan({"conv": LayerPlan("Convolution", QFormat(1, 7))}, policy=lp.Policy(fold_bn=fold))
        report = lp.convert(net, plan, tmp_path / str(fold)).report.to_json()
        assert report["unfolded"] == (
            [{"layer": "bn", "type": "BatchNorm", "reason": 'the layer before it, "data", is a Input'}] if fold else []
        )
