"""Small networks from text, with weights."""

from collections.abc import Callable

import pytest

from lpcaffe.formats.prototxt import parse
from lpcaffe.net import Net

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }\n'


@pytest.fixture(scope="session")
def net_of() -> Callable[..., Net]:
    """The net of a prototxt's text, after an input 2 x 4 x 7 x 6 called "data"."""
    return lambda text, **how: Net.of(parse(DATA + text), **how)
