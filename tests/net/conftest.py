"""Small networks from text, with weights."""

from collections.abc import Callable

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import ArrayBlob, Net

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }\n'


@pytest.fixture(scope="session")
def net_of() -> Callable[..., Net]:
    """The net of a prototxt's text, after an input 2 x 4 x 7 x 6 called "data"."""
    return lambda text, **how: Net.of(parse(DATA + text), **how)


@pytest.fixture(scope="session")
def random_net(net_of: Callable[..., Net]) -> Callable[..., Net]:
    """The same with random weights; what BatchNorm calls variance and factor is positive."""

    def make(text: str, seed: int = 0) -> Net:
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
