"""What several parts share: a network made in the test, written and loaded by our own reader and writer."""

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.net import load, load_net


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
