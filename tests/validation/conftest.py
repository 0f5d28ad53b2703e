from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel


class Pair:
    """A low-precision pair that can be spoilt."""

    def __init__(self, folder: Path) -> None:
        self.net, self.weights = folder / "lp.prototxt", folder / "lp.caffemodel"
        with open_caffemodel(self.weights) as model:
            self.message = model.net
            self.blobs = {layer.name: [np.array(b.array()) for b in layer.blobs] for layer in model.layers}

    def text(self, old: str, new: str) -> None:
        text = self.net.read_text()
        assert old in text
        self.net.write_text(text.replace(old, new, 1))

    def verify(self, *, rest=(), **options):
        for name in rest:
            self.message.layer.add(name=name, type="InnerProduct")
        blobs = {name: [BlobSource.of(blob) for blob in own] for name, own in self.blobs.items() if own}
        write_caffemodel(self.weights, self.message, blobs, force=True)
        return lp.verify(self.net, self.weights, **options)


@pytest.fixture
def pair_of(make_net, tmp_path):
    """A function that converts a network by a plan and gives the pair."""

    def make(text, plan):
        net = make_net(text, folder=tmp_path / "in")
        lp.convert(net, plan, tmp_path / "out", force=True)
        return Pair(tmp_path / "out")

    return make
