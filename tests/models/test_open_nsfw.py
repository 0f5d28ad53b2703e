"""open_nsfw, a ResNet-50 with BatchNorm after every convolution, from the file to the proof."""

from __future__ import annotations

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.formats.upgrade_file import upgrade_file
from lpcaffe.net import unfolded

pytestmark = pytest.mark.released

PREPARE = {"resize": (256, 256), "crop": 224, "mean": (104.0, 117.0, 123.0)}
OPTIONS = ["--resize", "256x256", "--crop", "224", "--mean", "104,117,123"]
UNKNOWN = b"com.yahoo.ml.caffe.ImageDataFrame"


@pytest.fixture(scope="module")
def net(open_nsfw):
    return lp.load(open_nsfw / "deploy.prototxt", open_nsfw / "resnet_50_1by2_nsfw.caffemodel")


@pytest.fixture(scope="module")
def images(net, crops):
    return lp.images(crops, net, **PREPARE)


def test_every_blob_agrees_with_opencv(net, images, open_nsfw):
    batch = next(images.batches(2))["data"]
    ours = lp.run(net, batch)
    opencv = cv2.dnn.readNetFromCaffe(
        str(open_nsfw / "deploy.prototxt"), str(open_nsfw / "resnet_50_1by2_nsfw.caffemodel")
    )
    opencv.enableFusion(False)  # fused layers would leave intermediate blobs out
    opencv.setInput(batch)
    # In OpenCV a blob belongs to the layer that wrote it last.
    writers = {layer.raw_tops[0]: layer.name for layer in net.layers if layer.bottoms}
    names = [name for blob, name in writers.items()]
    theirs = dict(zip(writers, opencv.forward(names), strict=True))
    assert len(theirs) == 73
    for blob, values in theirs.items():
        np.testing.assert_allclose(ours[blob].reshape(values.shape), values, rtol=0, atol=1e-4 * np.abs(values).max())


def test_folding_batch_norm_changes_no_output_beyond_float32(net, images):
    batch = next(images.batches(2))["data"]
    folded = lp.fold_batch_norm(net)
    assert not [layer.name for layer in folded.layers if layer.type in ("BatchNorm", "Scale")]
    assert unfolded(net) == ()
    kept, merged = lp.run(net, batch), lp.run(folded, batch)
    for blob, values in merged.items():
        np.testing.assert_allclose(values, kept[blob], rtol=0, atol=2e-5 * np.abs(kept[blob]).max())


def test_an_unknown_field_of_the_caffemodel_survives_conversion_and_upgrade(net, tmp_path, open_nsfw):
    source = open_nsfw / "resnet_50_1by2_nsfw.caffemodel"
    assert UNKNOWN in source.read_bytes()
    low = lp.convert(net, lp.allocate(net, None, policy=lp.Policy(dialect="plain")), tmp_path / "out")
    assert UNKNOWN in (low.folder / "lp.caffemodel").read_bytes()
    upgrade_file(source, tmp_path / "upgraded.caffemodel")
    data = (tmp_path / "upgraded.caffemodel").read_bytes()
    assert data.count(UNKNOWN) == source.read_bytes().count(UNKNOWN)


CONVERT = """
import resource, sys
from lpcaffe.cli import run
status = run(sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_folded_weights_below_0_006_keep_all_16_bits(net, dialect):
    plan = lp.allocate(net, None, policy=lp.Policy(dialect=dialect))
    assert str(plan.layers["conv_1"].weights) == "Q-6.22"


def convert(open_nsfw, crops, out, *options) -> float:
    """Convert in a process of its own; its peak of memory in MB."""
    files = [open_nsfw / "deploy.prototxt", open_nsfw / "resnet_50_1by2_nsfw.caffemodel"]
    arguments = ["convert", *files, "--data", crops]
    command = [sys.executable, "-c", CONVERT, *map(str, arguments), *OPTIONS, "--out", str(out), "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, peak = done.stdout.split()
    assert status == "0"
    return float(peak) / (1e6 if sys.platform == "darwin" else 1e3)


@pytest.mark.parametrize(
    ("options", "sqnr"),
    [
        # Measured: 65.4 dB in both dialects.
        ([], 65.0),
        (["--dialect", "plain"], 65.0),
        (["--keep-bn"], 40.0),
    ],
    ids=["adaption", "plain", "keep-bn"],
)
def test_16_bits_keep_the_answer(net, images, open_nsfw, crops, tmp_path, options, sqnr):
    out = tmp_path / "out"
    assert convert(open_nsfw, crops, out, *options) < 1000
    low = lp.load(out / "lp.prototxt", out / "lp.caffemodel")
    proof = lp.validate(net, low, images, plan=lp.BitPlan.load(out / "plan.yaml"), min_agreement=1.0)
    assert proof.failures == []
    assert proof.comparison.accumulated["fc_nsfw"].sqnr_db >= sqnr
    assert proof.comparison.outputs[0].blob == "prob"
    assert proof.comparison.outputs[0].error.max_abs_error < 1e-3


def test_converting_twice_gives_identical_bytes(open_nsfw, crops, tmp_path):
    for name in ("a", "b"):
        convert(open_nsfw, crops, tmp_path / name, "--limit", "3")
    for name in ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["data"]["images"] == 3
