"""The prototxts of the zoo are the published networks: inputs, outputs, parameters, names, and those of the weights."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from lpcaffe.data import Preprocessing
from lpcaffe.engines import infer_shapes
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.prototxt import dump, read
from lpcaffe.net import load_net
from lpcaffe.zoo import zoo

SHARED = Path(__file__).parents[3] / "shared"

# name: side of the input, output, its shape, and the number of parameters. Those of AlexNet, CaffeNet, GoogLeNet,
# VGG-16 and SqueezeNet are published; the others follow from them, or from the size of the published caffemodel.
NETWORKS = {
    "bvlc_alexnet": (227, "prob", (1, 1000), 60_965_224),
    "bvlc_reference_caffenet": (227, "prob", (1, 1000), 60_965_224),
    "bvlc_googlenet": (224, "prob", (1, 1000), 6_998_552),
    "bvlc_reference_rcnn_ilsvrc13": (227, "fc-rcnn", (1, 200), 60_965_224 - 800 * 4097),
    "finetune_flickr_style": (227, "prob", (1, 20), 60_965_224 - 980 * 4097),
    "vgg16": (224, "prob", (1, 1000), 138_357_544),
    "squeezenet_v1.1": (227, "prob", (1, 1000, 1, 1), 1_235_496),
    "mobilenet_v1": (224, "prob", (1, 1000, 1, 1), 4_253_891),
    "mobilenet_v2": (224, "prob", (1, 1000, 1, 1), 3_540_189),
    "open_nsfw": (224, "prob", (1, 2), 5_944_567),
    "res10_ssd": (300, "detection_out", None, 2_662_666),
}

# The two classifiers in the middle of GoogLeNet, which only training uses, are in its caffemodel.
AUXILIARY = 2 * (2048 * 1024 + 1024 + 1024 * 1000 + 1000) + (512 * 128 + 128) + (528 * 128 + 128)


def test_every_network_is_here():
    assert list(zoo()) == list(NETWORKS)


@pytest.fixture(params=NETWORKS)
def entry(request):
    return zoo()[request.param]


def test_inputs_outputs_and_parameters_are_the_published_ones(entry):
    side, output, shape, parameters = NETWORKS[entry.name]
    net = load_net(entry.prototxt)
    shapes = infer_shapes(net)
    assert net.inputs == ("data",)
    assert shapes.blobs["data"] == (1, 3, side, side)
    assert net.outputs == (output,)
    assert shape is None or shapes.blobs[output] == shape
    assert shapes.parameters == parameters


@pytest.mark.parametrize("name", [name for name, entry in zoo().items() if entry.size])
def test_the_file_is_the_parameters_and_a_little_more(name):
    entry = zoo()[name]
    values = NETWORKS[entry.name][3] + (AUXILIARY if entry.name == "bvlc_googlenet" else 0)
    headers = entry.size - 4 * values
    assert 0 < headers < 250 * len(load_net(entry.prototxt).layers)


def test_the_prototxt_is_as_we_print_it_and_names_are_unique(entry):
    message = read(entry.prototxt)
    assert dump(message) == entry.prototxt.read_text()
    layers = [layer.name for layer in message.layer]
    assert len(set(layers)) == len(layers)


def test_preprocessing_gives_the_size_of_the_input(entry):
    done = Preprocessing(**entry.preprocessing)
    side = NETWORKS[entry.name][0]
    assert done.channels == "bgr"
    assert len(done.mean) == 3
    assert done.crop == side or (done.crop is None and done.resize == (side, side))
    assert done.resize >= (side, side)


def test_every_network_can_be_checked_by_a_whole_checksum(entry):
    assert entry.checksums
    assert entry.licence


PUBLISHED = {
    "bvlc_googlenet": "BVLC+caffe__models__bvlc_googlenet__deploy.prototxt",
    "bvlc_reference_rcnn_ilsvrc13": "BVLC+caffe__models__bvlc_reference_rcnn_ilsvrc13__deploy.prototxt",
    "finetune_flickr_style": "BVLC+caffe__models__finetune_flickr_style__deploy.prototxt",
    "squeezenet_v1.1": "forresti+SqueezeNet__SqueezeNet_v1.1__deploy.prototxt",
    "mobilenet_v1": "shicai+MobileNet-Caffe__mobilenet_deploy.prototxt",
    "vgg16": "NeuromorphicProcessorProject+ADaPTION__examples__low_precision__imagenet__models__VGG16_deploy.prototxt",
    "bvlc_alexnet": "NVIDIA+caffe__models__bvlc_alexnet__deploy_fp16.prototxt",
    "bvlc_reference_caffenet": "cwlacewe+netscope__presets__caffenet.prototxt",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_layers_and_parameters_are_those_of_the_published_prototxt(name):
    path = SHARED / "corpus" / PUBLISHED[name]
    if not path.exists():
        pytest.skip("../shared/corpus is not beside the checkout")
    ours, theirs = load_net(zoo()[name].prototxt), quiet_net(path)
    # Where the published file is one for training, its data layers, its loss and its accuracies are left out.
    others = {"Input", "Data", "SoftmaxWithLoss", "Accuracy", "Softmax"}

    def rows(net):
        layers = [layer for layer in net.layers if layer.type not in others]
        return [(layer.name, layer.type, layer.raw_bottoms, layer.raw_tops) for layer in layers]

    assert rows(ours) == rows(theirs)
    recorded = path.with_name(path.name + ".shapes.json")
    if recorded.exists():
        params = json.loads(recorded.read_text())["params"]
        assert infer_shapes(ours).params == {key: [tuple(dims) for dims in own] for key, own in params.items()}


@pytest.mark.parametrize(("name", "folder"), [("open_nsfw", "open_nsfw"), ("res10_ssd", "face_ssd_res10")])
def test_layers_and_blobs_are_those_of_the_published_caffemodel(name, folder):
    entry = zoo()[name]
    path = SHARED / "models" / folder / entry.file
    if not path.exists():
        pytest.skip("../shared/models is not beside the checkout")
    net = load_net(entry.prototxt)
    with open_caffemodel(path) as model:
        stored = {layer.name: [blob.shape for blob in layer.blobs] for layer in model.layers if layer.blobs}
    assert infer_shapes(net).params == stored
    theirs = quiet_net(path.with_name("deploy.prototxt"))
    assert [layer.name for layer in net.layers][1:] == [layer.name for layer in theirs.layers][1:]
    assert infer_shapes(net).blobs == infer_shapes(theirs).blobs


def quiet_net(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of forks
        return load_net(path)
