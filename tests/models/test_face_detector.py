"""The ResNet-10 SSD face detector: layers of the SSD fork that nothing here runs yet."""

from __future__ import annotations

import pytest

import lpcaffe as lp
from lpcaffe.errors import NetError
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.prototxt import dump, parse, read
from lpcaffe.formats.schema import NetParameter

pytestmark = pytest.mark.released


def files(folder):
    return folder / "deploy.prototxt", folder / "res10_300x300_ssd_iter_140000.caffemodel"


def test_the_prototxt_survives_parse_and_print(face_detector):
    net = read(files(face_detector)[0])
    assert parse(dump(net)) == net


def test_inspect_gives_shapes_up_to_the_first_unknown_layer_and_names_it(face_detector):
    report = lp.inspect(*files(face_detector))
    shapes = report["blobs"]
    assert shapes["data"] == [1, 3, 300, 300]
    # As real Caffe builds them.
    assert shapes["layer_64_1_sum"] == [1, 32, 75, 75]
    assert shapes["layer_256_1_sum"] == [1, 256, 19, 19]
    assert shapes["conv9_2_h"] == [1, 128, 5, 5]
    assert sum(shape is None for shape in shapes.values()) == 40
    assert shapes["conv4_3_norm"] is None
    assert shapes["detection_out"] is None
    assert report["problems"][0] == 'layer "conv4_3_norm": layer type "Normalize" is not known'


def test_running_is_refused_with_the_layer_and_the_type(face_detector):
    net = lp.load(*files(face_detector))
    with pytest.raises(NetError, match=r'layer ".+": layer type ".+" is not known; known are .*Convolution'):
        lp.allocate(net, None)


def test_a_copy_of_the_caffemodel_holds_the_same_values(face_detector, tmp_path):
    with open_caffemodel(files(face_detector)[1]) as model:
        blobs = {layer.name: [BlobSource.copy(blob) for blob in layer.blobs] for layer in model.layers if layer.blobs}
        write_caffemodel(tmp_path / "copy.caffemodel", model.net, blobs)
        theirs = NetParameter.FromString(files(face_detector)[1].read_bytes())
    ours = NetParameter.FromString((tmp_path / "copy.caffemodel").read_bytes())
    wanted = {layer.name: [list(blob.data) for blob in layer.blobs] for layer in theirs.layer}
    assert sum(map(len, wanted.values())) > 50
    assert {layer.name: [list(blob.data) for blob in layer.blobs] for layer in ours.layer} == wanted
