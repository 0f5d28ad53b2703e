"""The table of engines: the command line and the document have its engines, and what one cannot do is refused."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.cli import options
from lpcaffe.engines import ENGINES, EngineInfo, run
from lpcaffe.search.measure import Measure
from lpcaffe.search.trials import Trials

TEXT = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "r" type: "ReLU" bottom: "x" top: "y" }"""
DOCUMENT = Path(__file__).parents[2] / "docs" / "engines.md"


def test_the_command_line_has_every_engine():
    assert [engine.value for engine in options.Engine] == ["auto", *ENGINES]


def test_the_document_lists_what_each_engine_can_do():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    first = lines.index("| engine | float64 | random numbers | any tensor | gradients | integer codes |") + 2
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[first : first + len(ENGINES)]]
    abilities = [field.name for field in dataclasses.fields(EngineInfo)][1:]
    assert abilities == ["float64", "random", "any_tensor", "differentiable", "integer"]
    assert rows == [
        [f"`{name}`", *("yes" if getattr(info, ability) else "no" for ability in abilities)]
        for name, info in ENGINES.items()
    ]
    assert not lines[first + len(ENGINES)]


@pytest.fixture
def own(monkeypatch):
    """An engine that doubles what it is given, whatever the network."""
    opened = []

    def open_own(net, tensors, shapes, how):
        opened.append((shapes.tensors, how))
        return lambda inputs, first: dict.fromkeys(tensors, 2 * inputs["x"])

    monkeypatch.setitem(ENGINES, "own", EngineInfo(open_own))
    return opened


def test_a_line_in_the_table_is_an_engine(own, net_of):
    x = np.float32([[1, -2], [3, -4], [5, -6]])
    found = run(net_of(TEXT), x, engine="own")
    assert list(found) == ["x", "y"]
    np.testing.assert_array_equal(found["y"], 2 * x)
    ((shapes, how),) = own
    assert shapes == {"x@in": (3, 2), "y@r": (3, 2)}
    assert (how.dtype, how.seed, how.stochastic_as) == ("float32", 0, None)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"dtype": "float64"}, "own computes in float32 only; float64 is for numpy"),
        ({"seed": 1}, "seed and stochastic_as are for numpy, not own"),
        ({"stochastic_as": "floor"}, "seed and stochastic_as are for numpy, not own"),
    ],
)
def test_what_an_engine_cannot_do_is_refused_before_it_is_opened(own, net_of, given, problem):
    with pytest.raises(lp.LpcaffeError, match=problem):
        run(net_of(TEXT), np.ones((1, 2), np.float32), engine="own", **given)
    assert not own


def test_an_engine_without_every_tensor_neither_calibrates_nor_searches(own, random_net):
    net = random_net(
        TEXT + 'layer { name: "ip" type: "InnerProduct" bottom: "y" top: "z" inner_product_param { num_output: 3 } }'
    )
    data = lp.images(np.ones((4, 2), np.float32), net)
    with pytest.raises(lp.LpcaffeError, match="own does not calibrate; numpy and onnxruntime do"):
        lp.calibrate(net, data, engine="own")
    with pytest.raises(lp.LpcaffeError, match="own runs no trials; numpy and onnxruntime do"):
        Trials(net, data, measure=Measure(engine="own"))
    assert not own
