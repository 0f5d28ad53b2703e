"""Where activations are rounded."""

import pytest
from lpcaffe.net.placement import last_of_output, output_layers

from lpcaffe.net import quantizable_layers


def layer(name: str, kind: str, bottoms: str, tops: str, text: str = "") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottoms.split()) + "".join(f'top: "{t}" ' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}" {names} {text} }}\n'


def conv(name: str, bottom: str, top: str, kind: str = "Convolution") -> str:
    return layer(name, kind, bottom, top, "convolution_param { num_output: 6 kernel_size: 1 }")


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (conv("l", "data", "x"), "l", "l"),
        (conv("l", "data", "x") + layer("r", "ReLU", "x", "x"), "l", "r"),
        (conv("l", "data", "x") + layer("r", "PReLU", "x", "y"), "l", "r"),
        (conv("l", "data", "x") + layer("r", "Sigmoid", "x", "x"), "l", "l"),
        (conv("l", "data", "x", "LPConvolution") + layer("r", "ReLU", "x", "x"), "l", "r"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "x") + layer("s", "Scale", "x", "x"), "s", "s"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "y") + layer("r", "ReLU", "y", "y"), "b", "r"),
        # A second reader of the value: it must be rounded for both, so before the ReLU.
        (conv("l", "data", "x") + layer("r", "ReLU", "x", "y") + layer("t", "TanH", "x", "z"), "l", "l"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "y") + layer("t", "TanH", "x", "z"), "l", "l"),
        (conv("l", "data", "x") + layer("p", "Pooling", "x", "y") + layer("r", "ReLU", "y", "y"), "l", "l"),
    ],
)
def test_the_lpact_follows_the_chain_or_the_relu_that_alone_reads_it(net_of, text, before, after):
    net = net_of(text)
    learned = net.by_name["l"]
    assert last_of_output(net, learned).name == before
    assert last_of_output(net, learned, "before-relu").name == before
    assert last_of_output(net, learned, "after-relu").name == after


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        (conv("a", "data", "a"), {"a"}),
        (conv("a", "data", "a") + layer("r", "ReLU", "a", "a") + conv("b", "a", "b"), {"b"}),
        (
            conv("a", "data", "a")
            + layer("r", "ReLU", "a", "a")
            + conv("b", "a", "b")
            + layer("p", "Softmax", "b", "p"),
            {"b"},
        ),
        # two heads, one of them deeper
        (conv("a", "data", "a") + conv("b", "a", "b") + conv("c", "b", "c") + conv("d", "b", "d"), {"c", "d"}),
        # a branch that is read by nobody, and one that joins
        (
            conv("a", "data", "a")
            + conv("b", "a", "b")
            + conv("c", "a", "c")
            + layer("sum", "Eltwise", "a b", "sum")
            + conv("d", "sum", "d"),
            {"c", "d"},
        ),
        # reached only through a second bottom
        (
            conv("a", "data", "a")
            + conv("b", "data", "b")
            + layer("s", "Scale", "a b", "s", "scale_param { axis: 0 }")
            + conv("c", "s", "c"),
            {"c"},
        ),
        (layer("r", "ReLU", "data", "r"), set()),
    ],
)
def test_layers_from_which_no_other_learned_layer_is_reached_are_outputs(net_of, text, outputs):
    net = net_of(text)
    assert output_layers(net) == outputs
    assert outputs <= {item.name for item in quantizable_layers(net)}
