"""Small networks from text, with weights."""

from collections.abc import Callable

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import ArrayBlob, Net


@pytest.fixture(scope="session")
def net_of() -> Callable[..., Net]:
    """The net of a prototxt's text; `weights` are arrays by layer name."""

    def make(text: str, weights: dict[str, list[np.ndarray]] | None = None) -> Net:
        net = Net.of(parse(text))
        if weights is None:
            return net
        return net.replace(net.message, {name: [ArrayBlob(b) for b in blobs] for name, blobs in weights.items()})

    return make


@pytest.fixture(scope="session")
def random_net(net_of: Callable[..., Net]) -> Callable[..., Net]:
    """The net of a text with random weights; what BatchNorm calls variance and factor is positive."""

    def make(text: str, seed: int = 0) -> Net:
        rng = np.random.default_rng(seed)
        net = net_of(text)
        weights = {}
        for name, shapes in infer_shapes(net).params.items():
            blobs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
            if net.by_name[name].type == "BatchNorm":
                blobs[1:] = [rng.uniform(0.2, 2, size=shape).astype(np.float32) for shape in shapes[1:]]
            weights[name] = blobs
        return net_of(text, weights)

    return make
