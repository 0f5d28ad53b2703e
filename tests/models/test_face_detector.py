"""The ResNet-10 SSD face detector: layers of the SSD fork."""

from __future__ import annotations

import warnings

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest

import lpcaffe as lp
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.prototxt import dump, parse, read
from lpcaffe.formats.schema import NetParameter

pytestmark = pytest.mark.released


def files(folder):
    return folder / "deploy.prototxt", folder / "res10_300x300_ssd_iter_140000.caffemodel"


def test_the_prototxt_survives_parse_and_print(face_detector):
    net = read(files(face_detector)[0])
    assert parse(dump(net)) == net


def test_inspect_gives_every_shape(face_detector):
    report = lp.inspect(*files(face_detector))
    shapes = report["blobs"]
    assert None not in shapes.values()
    assert report["problems"] == []
    # As real Caffe builds them.
    assert shapes["layer_64_1_sum"] == [1, 32, 75, 75]
    assert shapes["conv9_2_h"] == [1, 128, 5, 5]
    assert shapes["mbox_priorbox"] == [1, 2, 35568]


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_detections_are_those_of_opencv(face_detector, crops, engine):
    net = lp.load(*files(face_detector))
    images = lp.images(crops, net, resize=(300, 300), mean=(104.0, 177.0, 123.0), limit=6)
    opencv = cv2.dnn.readNetFromCaffe(*map(str, files(face_detector)))
    faces = 0
    for feeds in images.batches(1):
        opencv.setInput(feeds["data"])
        theirs, ours = opencv.forward()[0, 0], lp.run(net, feeds, engine=engine)["detection_out"][0, 0]
        sure = theirs[:, 2] > 0.5
        faces += sure.sum()
        np.testing.assert_allclose(ours[: sure.sum(), 1:], theirs[sure, 1:], rtol=0, atol=1e-4)
        assert (ours[:, 2] > 0.5).sum() == sure.sum()
    assert faces > 0


@pytest.mark.parametrize("profile", ["float", "exact", "qdq"])
def test_the_detector_leaves_as_onnx_and_runs(face_detector, tmp_path, profile):
    net = lp.load(*files(face_detector))
    if profile != "float":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lp.LpcaffeWarning)
            plan = lp.allocate(net, lp.calibrate(net, lp.images("random", net, limit=1)), bits=16)
            net = lp.convert(net, plan, tmp_path / "lp").net
    path = lp.export_onnx(net, tmp_path / "m.onnx", profile=profile).files[0]
    onnx.checker.check_model(str(path))
    x = np.random.default_rng(0).normal(0, 50, (2, 3, 300, 300)).astype(np.float32)
    rows = onnxruntime.InferenceSession(str(path)).run(None, {"data": x})[0]
    assert rows.shape[:2] == (1, 1)
    assert rows.shape[3] == 7


def test_a_copy_of_the_caffemodel_holds_the_same_values(face_detector, tmp_path):
    with open_caffemodel(files(face_detector)[1]) as model:
        blobs = {layer.name: [BlobSource.copy(blob) for blob in layer.blobs] for layer in model.layers if layer.blobs}
        write_caffemodel(tmp_path / "copy.caffemodel", model.net, blobs)
        theirs = NetParameter.FromString(files(face_detector)[1].read_bytes())
    ours = NetParameter.FromString((tmp_path / "copy.caffemodel").read_bytes())
    wanted = {layer.name: [list(blob.data) for blob in layer.blobs] for layer in theirs.layer}
    assert sum(map(len, wanted.values())) > 50
    assert {layer.name: [list(blob.data) for blob in layer.blobs] for layer in ours.layer} == wanted
