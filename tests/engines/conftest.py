"""Small networks from text, with weights."""

from collections.abc import Callable

import numpy as np
import pytest

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
