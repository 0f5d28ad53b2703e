"""lpcaffe calibrate: statistics of parts, added file by file."""

import json

import numpy as np
import pytest

from lpcaffe.calibration import Calibration
from lpcaffe.cli import run

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""


@pytest.fixture
def calibrate(make_net, tmp_path, monkeypatch, capfd):
    """A function that calibrates on images number `first` .. `last` - 1 of eleven; status, stdout and stderr."""
    make_net(NET)
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(1).normal(size=(11, 3, 9, 8)).astype(np.float32)

    def calibrated(first, last, out, *options):
        np.save("x.npy", images[first:last])
        capfd.readouterr()
        status = run(["calibrate", "net.prototxt", "net.caffemodel", "--data", "x.npy", "--out", out, *options])
        return status, *capfd.readouterr()

    return calibrated


@pytest.mark.parametrize("options", [(), ("--per-channel",), ("--act-placement", "after-relu")])
def test_parts_added_one_by_one_are_the_whole(calibrate, options):
    assert calibrate(0, 11, "whole.npz", *options)[0] == 0
    assert calibrate(6, 11, "parts.npz", *options)[0] == 0
    assert calibrate(0, 2, "parts.npz", "--add", *options)[0] == 0
    status, printed, _ = calibrate(2, 6, "parts.npz", "--add", "--json", *options)
    assert status == 0
    whole, parts = Calibration.load("whole.npz"), Calibration.load("parts.npz")
    assert (parts.layers, parts.rectified, parts.channels) == (whole.layers, whole.rectified, whole.channels)
    assert json.loads(printed)["images"] == parts.images == 11
    assert json.loads(printed)["layers"] == whole.to_json()["layers"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--per-channel",), "statistics of whole outputs and of each channel cannot be added"),
        (("--keep-bn",), "statistics with fold_bn True and with fold_bn False cannot be added"),
        (("--act-placement", "after-relu"), "statistics placed before-relu and placed after-relu cannot be added"),
    ],
)
def test_what_was_collected_otherwise_is_not_added_to(calibrate, options, problem, tmp_path):
    calibrate(0, 2, "s.npz")
    before = (tmp_path / "s.npz").read_bytes()
    assert calibrate(2, 3, "s.npz", "--add", *options) == (2, "", f"lpcaffe: s.npz: {problem}\n")
    assert (tmp_path / "s.npz").read_bytes() == before


def test_statistics_of_another_network_are_not_added_to(calibrate, make_net):
    calibrate(0, 2, "s.npz")
    make_net(NET.replace("num_output: 7", "num_output: 4"))
    status, _, error = calibrate(0, 2, "s.npz", "--add")
    assert status == 2
    assert error.startswith('lpcaffe: s.npz: the statistics are of "small" with sha256')


def test_there_must_be_something_to_add_to(calibrate, tmp_path):
    expected = "lpcaffe: gone.npz: there is nothing to add to; leave --add out the first time\n"
    assert calibrate(0, 2, "gone.npz", "--add") == (2, "", expected)
    assert not (tmp_path / "gone.npz").exists()


def test_the_table_shows_the_moments(calibrate):
    _, printed, _ = calibrate(0, 3, "s.npz")
    head, _, line = printed.splitlines()[1:4]
    assert head.split() == ["layer", "values", "min", "max", "mean", "std", "b", "kurtosis"]
    assert line.split()[:2] == ["conv", "735"]
    assert float(line.split()[5]) == pytest.approx(Calibration.load("s.npz").layers["conv"].std, rel=1e-3)
