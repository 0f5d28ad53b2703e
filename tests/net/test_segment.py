"""Stretches of a network: the two halves of any cut compute what the whole does, under the same names."""

import dataclasses

import numpy as np
import pytest

from lpcaffe.engines import NumpyEngine, bind_parameters, check_executable, forward, infer_shapes, input_shapes
from lpcaffe.formats.schema import TRAIN
from lpcaffe.net import Rounding
from lpcaffe.net.segment import leading_to, live, segment
from lpcaffe.numbers.qformat import QFormat

TEXT = """name: "whole" state { stage: "own" }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" include { stage: "own" } }
layer { name: "train" type: "Dropout" bottom: "a" top: "a" include { phase: TRAIN } }
layer { name: "cut" type: "Slice" bottom: "a" top: "left" top: "right" slice_param { slice_point: 2 } }
layer { name: "b" type: "Convolution" bottom: "right" top: "b" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "left" bottom: "b" top: "sum" }
layer { name: "scaled" type: "Power" bottom: "sum" top: "sum" power_param { scale: 2 } }
layer { name: "late" type: "Input" top: "y" input_param { shape { dim: 2 dim: 7 } } }
layer { name: "ip" type: "InnerProduct" bottom: "sum" top: "ip" inner_product_param { num_output: 8 } }
layer { name: "join" type: "Concat" bottom: "ip" bottom: "y" top: "join" }
layer { name: "early" type: "InnerProduct" bottom: "data" top: "early" inner_product_param { num_output: 9 } }
"""


@pytest.fixture
def whole(random_net):
    return random_net(TEXT)


def values_of(net, feeds):
    """Every tensor of a network."""
    keep = [top for layer in net.layers for top in layer.tops]
    shapes = check_executable(net, {blob: x.shape for blob, x in feeds.items()})
    return forward(NumpyEngine(), net, feeds, bind_parameters(net, shapes), keep=keep)


def fed(net, values):
    """What the Input layers of a segment take, from the values of the whole."""
    inputs = [layer for layer in net.layers if layer.type == "Input"]
    return {blob: values[tensor] for layer in inputs for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True)}


ROUNDINGS = {
    tensor: Rounding(QFormat(bd, 2), "deterministic", f"{tensor}_lpact")
    for tensor, bd in {"a@a": 2, "b@b": 1, "sum@scaled": 3, "ip@ip": 4}.items()
}


@pytest.mark.parametrize("stop", [None, -2])
@pytest.mark.parametrize("roundings", [{}, ROUNDINGS])
def test_every_stretch_computes_what_the_whole_does(whole, stop, roundings):
    whole = dataclasses.replace(whole, roundings=roundings)
    rng = np.random.default_rng(0)
    feeds = {blob: rng.normal(size=shape).astype(np.float32) for blob, shape in input_shapes(whole).items()}
    true = values_of(whole, feeds)
    last = len(whole.layers) if stop is None else len(whole.layers) + stop
    for start in range(last):
        part = segment(whole, start, None if stop is None else last)
        found = values_of(part, fed(part, true))
        own = {top for layer in whole.layers[start:last] for top in layer.tops}
        assert own <= found.keys() <= true.keys()
        assert all(np.array_equal(found[tensor], true[tensor]) for tensor in found)
        assert [layer.name for layer in part.layers][-(last - start) :] == [
            layer.name for layer in whole.layers[start:last]
        ]


def test_live_tensors_are_those_made_before_and_read_behind(whole):
    names = [layer.name for layer in whole.layers]
    assert names == ["data", "a", "relu", "cut", "b", "sum", "scaled", "late", "ip", "join", "early"]
    expected = [
        (),
        ("data@data",),
        ("data@data", "a@a"),
        ("data@data", "a@relu"),
        ("data@data", "left@cut", "right@cut"),
        ("data@data", "left@cut", "b@b"),
        ("data@data", "sum@sum"),
        ("data@data", "sum@scaled"),
        ("data@data", "sum@scaled", "y@late"),
        ("data@data", "y@late", "ip@ip"),
        ("data@data",),
        (),
    ]
    assert [live(whole, index) for index in range(len(names) + 1)] == expected
    assert live(whole, 11, wanted=["join@join", "a@a"]) == ("a@a", "join@join")


def test_shapes_and_weights_are_those_of_the_whole(whole):
    shapes = infer_shapes(whole)
    part = segment(whole, 4, 6, shapes=shapes.tensors)
    assert [(layer.name, layer.type, layer.raw_tops) for layer in part.layers[:1]] == [
        ("cut", "Input", ("left", "right"))
    ]
    assert input_shapes(part) == {"left": (2, 2, 5, 4), "right": (2, 4, 5, 4)}
    assert infer_shapes(part).tensors["sum@sum"] == shapes.tensors["sum@sum"]
    assert list(part.weights) == ["b"]
    assert part.weights["b"] is whole.weights["b"]
    assert segment(whole.replace(whole.message, None), 4).weights is None
    # A tensor of unknown shape leaves its layer without shapes, or one shape would count for all tops.
    unknown = segment(whole, 4, 6, shapes={**shapes.tensors, "left@cut": None})
    assert input_shapes(unknown) == {}


def test_the_net_itself_stays_as_it_is(whole):
    before = whole.message.SerializeToString(deterministic=True)
    segment(whole, 3, 7)
    leading_to(whole, ["early@early"])
    assert whole.message.SerializeToString(deterministic=True) == before


def test_a_stretch_is_of_the_same_phase(net_of):
    net = net_of(TEXT, phase=TRAIN)
    part = segment(net, 3)
    assert [layer.name for layer in part.layers][:3] == ["data", "relu", "train"]
    assert part.phase == TRAIN


def test_only_layers_that_lead_to_what_is_wanted_stay(whole):
    pruned = leading_to(whole, ["early@early"])
    assert [layer.name for layer in pruned.layers] == ["data", "early"]
    assert list(pruned.weights) == ["early"]
    assert [layer.name for layer in leading_to(whole, ["a@a", "b@b"]).layers] == ["data", "a", "relu", "cut", "b"]
    assert [layer.name for layer in leading_to(whole, ["a@a"]).layers] == ["data", "a"]


def test_a_stretch_rounds_what_its_own_layers_write(whole):
    whole = dataclasses.replace(whole, roundings=ROUNDINGS)
    names = [layer.name for layer in whole.layers]
    assert list(segment(whole, names.index("b"), names.index("late")).roundings) == ["b@b", "sum@scaled"]
    assert list(leading_to(whole, ["sum@sum"]).roundings) == ["a@a", "b@b"]
    assert whole.replace(whole.message, None).roundings == ROUNDINGS
