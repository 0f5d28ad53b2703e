"""What several parts share: a network made in the test, written and loaded by our own reader and writer."""

import os
import sys

import numpy as np
import pytest
from hypothesis import settings

from lpcaffe.engines import infer_shapes
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.net import ArrayBlob, load, load_net

# No example fails because the machine is busy, and fifty are enough where a test does not ask for more.
settings.register_profile("lpcaffe", deadline=None, max_examples=50)
settings.load_profile("lpcaffe")
# The package and the tests are compiled once, not by every process that a test starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture
def make_net(tmp_path):
    """A function that writes a network with random weights to net.prototxt and net.caffemodel, and loads it.

    `edit` may change the weights first: a dictionary of lists of arrays, by layer name.
    """

    def make(text, edit=None, *, folder=tmp_path, seed=0):
        folder.mkdir(exist_ok=True)
        (folder / "net.prototxt").write_text(text)
        net = load_net(folder / "net.prototxt")
        rng = np.random.default_rng(seed)
        weights = {
            name: [rng.normal(0, 0.4, shape).astype(np.float32) for shape in shapes]
            for name, shapes in infer_shapes(net).params.items()
        }
        for layer in net.layers:
            if layer.type == "BatchNorm":
                mean, variance, _ = weights[layer.name]
                weights[layer.name] = [mean, np.abs(variance) + 0.5, np.array([2], np.float32)]
        if edit:
            edit(weights)
        blobs = {name: [BlobSource.of(blob) for blob in own] for name, own in weights.items()}
        write_caffemodel(folder / "net.caffemodel", net.message, blobs, force=True)
        return load(folder / "net.prototxt", folder / "net.caffemodel")

    return make


@pytest.fixture
def random_net(net_of):
    """The net of a text, as the folder's `net_of` makes it, with random weights.

    What BatchNorm calls variance and factor is positive.
    """

    def make(text, seed=0):
        rng = np.random.default_rng(seed)
        net = net_of(text)
        weights = {}
        for name, shapes in infer_shapes(net).params.items():
            blobs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
            if net.by_name[name].type == "BatchNorm":
                blobs[1:] = [rng.uniform(0.2, 2, size=shape).astype(np.float32) for shape in shapes[1:]]
            weights[name] = [ArrayBlob(blob) for blob in blobs]
        return net.replace(net.message, weights)

    return make
