"""codes.npz: the integer codes of a conversion, which give the quantized parameters back bit for bit."""

import json

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import DataError, FormatError
from lpcaffe.formats.npz import npz_bytes, read_arrays
from lpcaffe.numbers import parse_format
from lpcaffe.numbers.huffman import huffman_encode
from lpcaffe.quant.plan import BitPlan, LayerPlan

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 3 kernel_size: 2 } }
layer { name: "up" type: "Deconvolution" bottom: "data" top: "up"
        convolution_param { num_output: 4 group: 2 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 transpose: true } }
"""
SEVEN = [0.01 * (index + 1) for index in range(7)]
ROWS = {
    "conv": {"weights": {"bits": 6, "ad": [7, 5, 6]}, "bias": "Q2.20"},
    "up": {"weights": {"bits": 5, "scale": [0.01, 0.02, 0.03, 0.04], "zero": [15, 14, 16, 3]}, "bias": "e4m3fn"},
    "ip": {"weights": {"codebook": [-0.5, 0, 0.4], "scale": SEVEN}},
}


def plan_of(rows, **policy) -> BitPlan:
    types = {"conv": "Convolution", "up": "Deconvolution", "ip": "InnerProduct"}
    layers = {
        name: LayerPlan(types[name], **{role: parse_format(fmt) for role, fmt in row.items()})
        for name, row in rows.items()
    }
    return BitPlan(layers, policy=lp.Policy(dialect="plain", fold_bn=False, coverage="all", **policy))


def check(net, plan, path) -> None:
    """What the file holds is what the plan makes of the network."""
    low, found = lp.quantize(net, plan), lp.unpack(path)
    index = {"weights": 0, "bias": 1}
    assert found.keys() == {f"{name}/{role}" for name, row in plan.layers.items() for role in row.formats()}
    codes = lp.unpack(path, codes=True)
    for key, values in found.items():
        name, role = key.split("/")
        expected = low.weights[name][index[role]].array()
        np.testing.assert_array_equal(values.view(np.uint32), expected.view(np.uint32))
        assert codes[key].shape == expected.shape


@pytest.mark.parametrize("coding", ["packed", "huffman"])
def test_formats_of_channels(make_net, tmp_path, coding):
    net, plan = make_net(NET), plan_of(ROWS)
    lp.write_codes(net, plan, tmp_path / "codes.npz", coding=coding)
    check(net, plan, tmp_path / "codes.npz")


@pytest.mark.parametrize(
    "fmt", ["Q1.3", "Q-1.26", "minifloat(4,3)", "minifloat(3,2)/ristretto", "pow2z(-4,-1)", "pow2(-4,-1)"]
)
@pytest.mark.parametrize("coding", ["packed", "huffman"])
def test_one_format_for_all(make_net, tmp_path, fmt, coding):
    net, plan = make_net(NET), plan_of({name: {"weights": fmt} for name in ROWS})
    lp.write_codes(net, plan, tmp_path / "codes.npz", coding=coding)
    check(net, plan, tmp_path / "codes.npz")


def test_stochastic_rounding(make_net, tmp_path):
    net, plan = make_net(NET), plan_of({name: {"weights": "Q2.4"} for name in ROWS}, rounding="stochastic", seed=3)
    lp.write_codes(net, plan, tmp_path / "codes.npz")
    check(net, plan, tmp_path / "codes.npz")


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
@pytest.mark.parametrize("coding", ["packed", "huffman"])
def test_sizes_of_the_report_are_those_of_the_file(make_net, tmp_path, dialect, coding):
    """Of a layer: the entries of its blobs, and four bytes for each value of a blob without a format."""
    net = make_net(NET)
    rows = {
        name: LayerPlan(kind, parse_format("Q0.4")) for name, kind in (("conv", "Convolution"), ("ip", "InnerProduct"))
    }
    plan = BitPlan(rows, policy=lp.Policy(dialect=dialect, fold_bn=False))
    done = lp.convert(net, plan, tmp_path / "out", codes=coding)
    report, arrays = done.report.to_json(), read_arrays(tmp_path / "out/codes.npz")
    biases = {"conv": 3, "ip": 7}
    for row in report["layers"]:
        count, entry = row["weights"]["count"], arrays[f"{row['name']}/weights"]
        sizes, bias = row["sizes"], biases[row["name"]]
        assert sizes["float_bytes"] == 4 * (count + bias)
        assert sizes["nominal_bits"] == 4 * count + 32 * bias
        key = "packed_bytes" if coding == "packed" else "huffman_bits"
        assert sizes[key] == (1 if coding == "packed" else 8) * (entry.size + 4 * bias)
        codes = lp.unpack(tmp_path / "out/codes.npz", codes=True)[f"{row['name']}/weights"]
        shares = np.unique(codes, return_counts=True)[1] / count
        assert sizes["entropy_bits"] == np.ceil(-count * np.sum(shares * np.log2(shares))) + 32 * bias
    assert report["totals"]["sizes"] == {
        key: sum(row["sizes"][key] for row in report["layers"]) for key in report["totals"]["sizes"]
    }
    assert "codes.npz" in report["files"]
    check(net, plan, tmp_path / "out/codes.npz")


def test_no_codes_of_an_earlier_conversion_are_left(make_net, tmp_path):
    net, plan = make_net(NET), plan_of(ROWS)
    lp.convert(net, plan, tmp_path / "out", codes="packed")
    lp.convert(net, plan, tmp_path / "out", force=True)
    assert not (tmp_path / "out/codes.npz").exists()
    with pytest.raises(FormatError, match="coding: expected packed or huffman, got 'zip'"):
        lp.convert(net, plan, tmp_path / "other", codes="zip")
    assert not (tmp_path / "other").exists()


WRONG = {
    "no meta": (lambda arrays, meta: arrays.pop("__meta__"), "expected packed codes with the entry __meta__"),
    "no JSON": (lambda arrays, meta: arrays.update({"__meta__": np.zeros(3, np.uint8)}), "another file"),
    "version": (lambda arrays, meta: meta.update(version=2), "__meta__: expected version 1, got 2"),
    "coding": (lambda arrays, meta: meta.update(coding="zip"), "expected coding: packed or huffman"),
    "no bytes": (lambda arrays, meta: arrays.pop("ip/weights"), "'ip/weights': expected an array of bytes"),
    "floats": (lambda arrays, meta: arrays.update({"ip/weights": np.zeros(9)}), "expected an array of bytes"),
    "cut": (lambda arrays, meta: arrays.update({"ip/weights": arrays["ip/weights"][:-1]}), "codes of 2 bits, got"),
    "shape": (lambda arrays, meta: meta["blobs"]["ip/weights"].update(shape=[-1, 7]), "expected a shape and a format"),
    "format": (lambda arrays, meta: meta["blobs"]["ip/weights"].update(format="Q2"), "expected a format such as Q2.14"),
    "bits": (lambda arrays, meta: meta["blobs"]["ip/weights"].update(bits="2"), "bits: expected an integer, 1 to 64"),
    "channel": (lambda arrays, meta: arrays.pop("ip/weights/channel"), "expected the channel of each value"),
    "axes": (lambda arrays, meta: arrays.update({"ip/weights/channel": np.arange(5)}), "broadcasts against the blob"),
    "index": (lambda arrays, meta: arrays["ip/weights/channel"].__iadd__(1), "expected indices of 7 channels"),
    "code": (
        lambda arrays, meta: arrays["ip/weights"].fill(255),
        "3 at index 0 is not a code of the selected Codebook",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_do_not_fit_together(make_net, tmp_path, name):
    path = tmp_path / "codes.npz"
    lp.write_codes(make_net(NET), plan_of(ROWS), path)
    arrays = {key: np.array(array) for key, array in read_arrays(path).items()}
    meta = json.loads(arrays["__meta__"].tobytes())
    change, message = WRONG[name]
    change(arrays, meta)
    if name not in ("no meta", "no JSON"):
        arrays["__meta__"] = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    path.write_bytes(npz_bytes(arrays))
    with pytest.raises(DataError, match=message) as caught:
        lp.unpack(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_huffman_code_of_another_count(make_net, tmp_path):
    path = tmp_path / "codes.npz"
    lp.write_codes(make_net(NET), plan_of(ROWS), path, coding="huffman")
    arrays = dict(read_arrays(path))
    arrays["conv/bias"] = huffman_encode([1, 2])
    path.write_bytes(npz_bytes(arrays))
    with pytest.raises(DataError, match="'conv/bias': expected 3 codes, got 2"):
        lp.unpack(path)


def test_another_kind_of_file(tmp_path):
    (tmp_path / "plan.yaml").write_text("version: 1")
    with pytest.raises(DataError, match=r"is not a whole \.npy or"):
        lp.unpack(tmp_path / "plan.yaml")
