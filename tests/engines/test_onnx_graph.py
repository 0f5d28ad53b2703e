"""A network as an ONNX graph: names, constants, the batch, and what cannot be a graph."""

import inspect

import numpy as np
import onnx
import onnxruntime
import pytest

import lpcaffe as lp
from lpcaffe.engines import run
from lpcaffe.engines.onnx_engine import EMITTERS
from lpcaffe.engines.onnx_graph import emit
from lpcaffe.engines.onnx_model import build_model
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.layers import Primitives
from lpcaffe.numbers.rounding import stream_of

IN = 'layer {{ name: "in" type: "Input" top: "{top}" input_param {{ shape {{ {dims} }} }} }}\n'
IMAGE = IN.format(top="x", dims="dim: 2 dim: 3 dim: 7 dim: 5")


def session(graph):
    model = build_model(graph)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString())


def nodes(graph):
    return [node.operator for node in graph.nodes]


def test_blobs_keep_their_names_and_earlier_versions_get_the_layer_s(random_net):
    net = random_net(
        IMAGE
        + """layer { name: "c" type: "Convolution" bottom: "x" top: "a/b"
             convolution_param { num_output: 4 kernel_size: 3 } }
           layer { name: "r" type: "ReLU" bottom: "a/b" top: "a/b" }
           layer { name: "d" type: "Dropout" bottom: "a/b" top: "a/b" }
           layer { name: "s" type: "Softmax" bottom: "a/b" top: "p" }"""
    )
    everything = [top for layer in net.layers for top in layer.tops]
    found = {tensor: symbol.name for tensor, symbol in emit(net, taps=everything).outputs.items()}
    assert found.pop("x@in")  # an input that comes out needs a node of its own
    assert found == {"a/b@c": "a/b@c", "a/b@r": "a/b@r", "a/b@d": "a/b", "p@s": "p"}
    # What nobody asks for leaves no trace: Dropout is nothing at all.
    graph = emit(net)
    assert nodes(graph) == ["Conv", "Relu", "Softmax"]
    assert [node.outputs[0].name for node in graph.nodes] == ["a/b@c", "a/b", "p"]


CLASH = (
    IMAGE
    + """
layer { name: "c" type: "TanH" bottom: "x" top: "b" }
layer { name: "l" type: "Power" bottom: "b" top: "b" power_param { scale: 3 } }
layer { name: "m" type: "Power" bottom: "b" top: "b" power_param { shift: 1 } }
layer { name: "n" type: "Power" bottom: "b" top: "b@l" power_param { scale: -1 } }
layer { name: "o" type: "Power" bottom: "b@l" top: "b@l_2" power_param { scale: -2 } }
"""
)


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime", "auto"])
def test_a_blob_may_have_the_name_that_a_graph_gives_an_earlier_version(random_net, engine):
    net = random_net(CLASH)
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    b = 3 * np.tanh(x) + 1
    found = run(net, x, engine=engine)
    assert list(found) == ["x", "b", "b@l", "b@l_2"]
    for name, expected in {"x": x, "b": b, "b@l": -b, "b@l_2": 2 * b}.items():
        np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-6)


def test_every_value_of_a_graph_has_a_name_of_its_own_and_blobs_come_first(random_net):
    net = random_net(CLASH)
    names = {tensor: symbol.name for tensor, symbol in emit(net, taps=net.readers).outputs.items()}
    assert len(set(names.values())) == len(names) == 6
    assert {blob: names[net.last_versions[blob]] for blob in ("b", "b@l", "b@l_2")} == {
        blob: blob for blob in ("b", "b@l", "b@l_2")
    }
    assert (names["b@c"], names["b@l"]) == ("b@c", "b@l_3")
    session(emit(net))


def test_an_input_written_over_in_place_yields_its_name_to_a_blob(random_net):
    """The input must keep its own name, so the last version of its blob is BLOB@LAYER, which is another blob here."""
    net = random_net(
        IMAGE
        + """layer { name: "r" type: "ReLU" bottom: "x" top: "x" }
           layer { name: "n" type: "Power" bottom: "x" top: "x@r" power_param { scale: -1 } }"""
    )
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    found = run(net, x, engine="onnxruntime")
    np.testing.assert_array_equal(found["x"], np.maximum(x, 0))
    np.testing.assert_array_equal(found["x@r"], -np.maximum(x, 0))


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_versions_of_one_name_are_an_error_and_none_is_dropped(random_net, engine):
    net = random_net(CLASH)
    x = np.zeros((2, 3, 7, 5), np.float32)
    with pytest.raises(lp.DataError, match=r'^blob "b@l": what layer "l" wrote into blob "b" has this name too; '):
        run(net, x, engine=engine, versions=True)
    clear = random_net(CLASH.replace('"b@l"', '"b@k"'))
    assert len(run(clear, x, engine=engine, versions=True)) == len(clear.readers) == 6


def test_an_input_that_is_written_over_in_place_can_still_be_fed(random_net):
    net = random_net(IMAGE + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }')
    x = np.random.default_rng(0).normal(size=(2, 3, 7, 5)).astype(np.float32)
    np.testing.assert_array_equal(run(net, x, engine="onnxruntime")["x"], np.maximum(x, 0))


def test_what_depends_on_weights_alone_is_computed_when_the_graph_is_made(random_net):
    """BatchNorm's square root and divisions: what is left is what a value goes through."""
    net = random_net(IMAGE + 'layer { name: "n" type: "BatchNorm" bottom: "x" top: "y" }')
    assert nodes(emit(net)) == ["Sub", "Div"]


def test_a_constant_that_comes_out_has_a_node(random_net):
    net = random_net(
        IMAGE
        + """layer { name: "p" type: "Parameter" top: "w" parameter_param { shape { dim: 1 dim: 3 } } }
           layer { name: "s" type: "Split" bottom: "w" top: "v" }"""
    )
    found = run(net, np.zeros((2, 3, 7, 5), np.float32), engine="onnxruntime")
    np.testing.assert_array_equal(found["w"], net.weights["p"][0].array())
    np.testing.assert_array_equal(found["v"], net.weights["p"][0].array())


@pytest.mark.parametrize(
    ("layers", "dynamic"),
    [
        ('layer { name: "l" type: "Flatten" bottom: "x" top: "y" }', True),
        ('layer { name: "l" type: "Slice" bottom: "x" top: "y" top: "z" slice_param { slice_point: 1 } }', True),
        ('layer { name: "l" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 0 dim: -1 } } }', True),
        # 2 x 15 x 7 is for two images, and no number of images divides.
        (
            'layer { name: "l" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 2 dim: -1 } } }',
            False,
        ),
        ('layer { name: "l" type: "Slice" bottom: "x" top: "y" top: "z" slice_param { axis: 0 } }', False),
        (
            """layer { name: "l" type: "InnerProduct" bottom: "x" top: "y"
               inner_product_param { num_output: 2 axis: 0 } }""",
            False,
        ),
    ],
)
def test_the_batch_is_open_where_the_graph_does_not_depend_on_it(random_net, layers, dynamic):
    net = random_net(IMAGE + layers)
    graph = emit(net)
    assert graph.dynamic == dynamic
    assert graph.dims["x"] == (("N" if dynamic else 2), 3, 7, 5)
    runner = session(graph)
    x = np.random.default_rng(1).normal(size=(2, 3, 7, 5)).astype(np.float32)
    reference = run(net, x, engine="numpy")
    for output, value in zip(runner.get_outputs(), runner.run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(value, reference[output.name], rtol=0, atol=1e-5)
    if dynamic:
        five = np.concatenate([x, x, x[:1]])
        whole = runner.run(None, {"x": five})
        for output, value in zip(runner.get_outputs(), whole, strict=True):
            np.testing.assert_allclose(value, run(net, five, engine="numpy")[output.name], rtol=0, atol=1e-5)


def test_a_graph_of_a_fixed_batch_is_made_again_for_other_shapes(random_net):
    text = 'layer { name: "l" type: "Slice" bottom: "x" top: "y" top: "z" slice_param { axis: 0 } }'
    runtime = OnnxRuntime(random_net(IMAGE + text))
    for images in (2, 4, 6):
        x = np.random.default_rng(images).normal(size=(images, 3, 7, 5)).astype(np.float32)
        found = runtime.run({"x": x})
        np.testing.assert_array_equal(found["y@l"], x[: images // 2])
        np.testing.assert_array_equal(found["z@l"], x[images // 2 :])


def test_a_graph_with_an_open_batch_is_made_again_for_other_images_sizes(random_net):
    runtime = OnnxRuntime(random_net(IMAGE + 'layer { name: "l" type: "Flatten" bottom: "x" top: "y" }'))
    for shape in ((2, 3, 7, 5), (4, 3, 7, 5), (1, 3, 2, 6)):
        assert runtime.run({"x": np.zeros(shape, np.float32)})["y@l"].shape == (shape[0], int(np.prod(shape[1:])))


def test_equal_small_constants_are_one_initializer(random_net):
    net = random_net(
        IMAGE
        + "".join(
            f'layer {{ name: "f{i}" type: "Flatten" bottom: "x" top: "y{i}" flatten_param {{ axis: 2 }} }}\n'
            for i in range(3)
        )
    )
    assert len(build_model(emit(net)).graph.initializer) == 1


def test_a_layer_for_the_numpy_engine_only_is_refused_by_name(random_net):
    net = random_net(
        IMAGE + IN.format(top="s", dims="dim: 2").replace('"in"', '"in2"') + 'layer { name: "keep" type: "Filter" '
        'bottom: "x" bottom: "s" top: "y" }'
    )
    with pytest.raises(lp.LpcaffeError, match='layer "keep": Filter cannot be part of an ONNX graph'):
        emit(net)


STOCHASTIC = "lpfp_param { bd: 2 ad: 3 rounding_scheme: STOCHASTIC }"
LP = f"""layer {{ name: "c" type: "LPConvolution" bottom: "x" top: "y"
         convolution_param {{ num_output: 4 kernel_size: 2 bias_term: false }} {STOCHASTIC} }}"""


def test_stochastic_weights_are_those_of_the_numpy_engine(random_net):
    net = random_net(IMAGE + LP)
    weights = next(value for node in emit(net).nodes for value in node.inputs if isinstance(value, np.ndarray))
    even = net.weights["c"][0].array()
    np.testing.assert_array_equal(weights, lp.round_fp(even, 2, 3, "stochastic", seed=0, stream=stream_of("c/0")))


def test_stochastic_activations_are_refused(random_net):
    act = f'layer {{ name: "q" type: "LPAct" bottom: "y" top: "y" {STOCHASTIC} }}'
    with pytest.raises(lp.LpcaffeError, match='layer "q": an ONNX graph cannot round stochastic'):
        emit(random_net(IMAGE + LP + act))


def test_an_index_that_does_not_exist_is_an_error_on_both_engines(random_net):
    embed = 'layer { name: "e" type: "Embed" bottom: "i" top: "y" embed_param { num_output: 3 input_dim: 4 } }'
    net = random_net(IN.format(top="i", dims="dim: 2") + embed)
    for wrong in (-1, 4):
        for engine in ("numpy", "onnxruntime"):
            with pytest.raises(lp.DataError):
                run(net, np.float32([0, wrong]), engine=engine)


def test_nodes_have_names_of_their_own_which_errors_repeat(random_net):
    net = random_net(
        IMAGE.replace("dim: 2 dim: 3 dim: 7 dim: 5", "dim: 2 dim: 3")
        + """layer { name: "table" type: "Embed" bottom: "x" top: "rows" embed_param { num_output: 4 input_dim: 5 } }
           layer { name: "tanh" type: "TanH" bottom: "rows" top: "rows" }"""
    )
    names = [node.name for node in build_model(emit(net)).graph.node]
    assert len(set(names)) == len(names) > 3
    with pytest.raises(lp.DataError, match=r"table/Gather.*idx=5"):
        run(net, np.full((2, 3), 5.0), engine="onnxruntime")


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
@pytest.mark.parametrize("place", [-1, -2, 140])
def test_a_place_outside_the_image_is_refused(random_net, engine, place):
    """MaxPool gives -1 for a window without any value; ONNX itself would count it from the end."""
    net = random_net(
        IMAGE
        + IN.format(top="places", dims="dim: 2 dim: 3 dim: 7 dim: 5").replace('"in"', '"in2"')
        + 'layer { name: "up" type: "Upsample" bottom: "x" bottom: "places" top: "y" }'
    )
    feeds = {"x": np.ones((2, 3, 7, 5), np.float32), "places": np.zeros((2, 3, 7, 5), np.float32)}
    assert run(net, feeds, engine=engine)["y"].shape == (2, 3, 14, 10)
    feeds["places"][1, 2, 3, 4] = place
    with pytest.raises(lp.DataError):
        run(net, feeds, engine=engine)


def arguments(function, first: int) -> list[tuple[object, str]]:
    """Kind, and name where it counts, of the parameters from `first` on."""
    parameters = list(inspect.signature(function).parameters.values())[first:]
    return [(p.kind, p.name if p.kind is p.KEYWORD_ONLY else "") for p in parameters]


def test_every_emitter_takes_the_arguments_of_its_primitive():
    for name, emit_nodes in EMITTERS.items():
        found, expected = arguments(emit_nodes, 2), arguments(getattr(Primitives, name), 1)
        assert found in (expected, [(inspect.Parameter.VAR_POSITIONAL, "")]), name
