"""Number formats in the profiles qdq and qonnx: what the operators compute, how codes are stored, what is refused."""

import dataclasses

import numpy as np
import onnxruntime
import pytest

from lpcaffe.engines.onnx_graph import emit
from lpcaffe.engines.onnx_model import build_model
from lpcaffe.errors import NetError
from lpcaffe.export.profiles import qdq, qonnx
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import ArrayBlob, Net, Rounding
from lpcaffe.numbers import QFormat, parse_format

INTEGERS = ["Q2.6", "Q-1.3", "q8[7,5,-2]", "q16[11,9,10]"]
AFFINE = [
    *("affine(4,0.01,7)", "affine(8,0.3,255)", "affine(16,0.02,32768)", "affine(8,0.1,-128,signed)"),
    *("affine(5,0.25,0)", "affine(3,2,-3,signed)", "affine(8,0.1,0,signed,ties=away)"),
    *("affine(8,[0.01,0.02,5],[7,8,0])", "affine(4,0.5,[0,15,3])", "affine([2,8,5],[0.1,0.2,0.3],0,signed)"),
]
WEIGHTS = np.random.default_rng(1).normal(0, 1.5, (3, 4)).astype(np.float32)
IMAGES = np.random.default_rng(2).normal(0, 2, (5, 3)).astype(np.float32)


def activation(fmt, scheme: str = "deterministic") -> Net:
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 5 dim: 3 } } }
        layer { name: "s" type: "Split" bottom: "x" top: "y" }"""
    return dataclasses.replace(Net.of(parse(text)), roundings={"y@s": Rounding(fmt, scheme, "s_lpact")})


def weighted(fmt, scheme: str = "deterministic") -> tuple[Net, dict]:
    """A network whose weights a plan rounds; the identity as its input gives them."""
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 5 dim: 4 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
          inner_product_param { num_output: 3 bias_term: false } }"""
    net = Net.of(parse(text), weights={"ip": [ArrayBlob(WEIGHTS)]})
    return net, {("ip", 0): (fmt, scheme)}


def computed(graph, x: np.ndarray) -> np.ndarray:
    """The nodes as they are: onnxruntime would multiply with the integers where it finds a DequantizeLinear."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    model = build_model(graph).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def broadcast(fmt, axis: int):
    return fmt if fmt.channels is None else fmt.select(np.arange(3).reshape(-1, *[1] * (1 - axis)))


def to_even(x: np.ndarray, fmt) -> np.ndarray:
    """QuantizeLinear and DequantizeLinear of what was clipped to the format's range."""
    if hasattr(fmt, "ad"):
        scale, zero, low, high = 2.0 ** -np.asarray(fmt.ad), 0, -fmt.code_max, fmt.code_max
    else:
        scale, zero, low, high = map(np.asarray, (fmt.scale, fmt.zero, fmt.code_min, fmt.code_max))
    codes = np.clip(np.rint(x / scale.astype(np.float32)) + zero, low, high)
    return ((codes - zero).astype(np.float32) * scale).astype(np.float32)


@pytest.mark.parametrize("text", INTEGERS + AFFINE)
def test_activations_of_qdq_are_those_of_quantize_linear(text):
    fmt = parse_format(text)
    graph = emit(activation(fmt), profile=qdq)
    assert [node.operator for node in graph.nodes][-2:] == ["QuantizeLinear", "DequantizeLinear"]
    found = computed(graph, IMAGES)
    np.testing.assert_array_equal(found, to_even(IMAGES, broadcast(fmt, 1)))
    np.testing.assert_array_equal(found, broadcast(fmt, 1).quantize(IMAGES))  # no ties among these


@pytest.mark.parametrize("text", [*INTEGERS, *AFFINE, "affine(4,0.25,0,ties=down)", "e4m3fn", "e5m2"])
def test_weights_of_qdq_are_codes_that_dequantize_to_the_values_of_the_format(text):
    fmt = parse_format(text)
    net, formats = weighted(fmt)
    graph = emit(net, profile=qdq, constant_formats=formats)
    assert graph.nodes[0].operator == "DequantizeLinear"
    assert graph.nodes[0].inputs[0].shape == WEIGHTS.shape
    identity = np.eye(5, 4, dtype=np.float32)
    expected = np.concatenate([broadcast(fmt, 0).quantize(WEIGHTS).T, np.zeros((1, 3), np.float32)])
    np.testing.assert_array_equal(computed(graph, identity), expected)


STORED = {
    "Q1.3": "int4",
    "Q2.3": "int8",
    "Q2.7": "int16",
    "Q2.15": "int32",
    "q4[3,2,1]": "int4",
    "affine(4,0.01,7)": "uint4",
    "affine(5,0.01,7)": "uint8",
    "affine(9,0.01,7)": "uint16",
    "affine(17,0.01,0)": "int32",
    "affine(4,0.01,7,signed)": "int4",
    "affine(8,0.01,7,signed)": "int8",
    "affine(16,0.01,7,signed)": "int16",
    "e4m3fn": "float8_e4m3fn",
    "e5m2": "float8_e5m2",
}


@pytest.mark.parametrize("text", STORED)
def test_codes_of_weights_are_stored_in_the_smallest_type(text):
    net, formats = weighted(parse_format(text))
    graph = emit(net, profile=qdq, constant_formats=formats)
    assert graph.nodes[0].inputs[0].dtype.name == STORED[text]


@pytest.mark.parametrize("text", ["e4m3fn", "e5m2"])
def test_float8_is_a_type_of_quantize_linear(text):
    fmt = parse_format(text)
    x = np.concatenate([IMAGES, 1e3 * IMAGES, 1e6 * IMAGES, IMAGES / 1e3])
    ties = np.float32([[17, 19, -17], [2**-10, 3 * 2**-10, 465]])
    x = np.concatenate([x, ties])
    np.testing.assert_array_equal(computed(emit(activation(fmt), profile=qdq), x), fmt.quantize(x))


def int_quant(x: np.ndarray, scale, zero, width, *, signed: int, narrow: int, rounding_mode: str) -> np.ndarray:
    """QONNX's IntQuant, from its definition."""
    low = -(2 ** (width - 1)) + narrow if signed else 0
    high = 2 ** (width - 1) - 1 if signed else 2**width - 1 - narrow
    v = np.clip((x / scale + zero).astype(np.float32), low, high)
    rounds = {"ROUND": np.rint, "HALF_UP": lambda v: np.trunc(v + np.copysign(np.float32(0.49999997), v))}
    return (rounds[rounding_mode](v) - zero) * scale


@pytest.mark.parametrize(
    "text", [*INTEGERS, *AFFINE[:-1], "affine(4,0.1,2.5)", "affine(7,0.3,0,ties=up)", "affine(4,0.01,7,signed)"]
)
def test_int_quant_gives_the_values_of_the_format(text):
    fmt = parse_format(text)
    (node,) = (node for node in emit(activation(fmt), profile=qonnx).nodes if node.domain)
    x = np.concatenate([IMAGES, np.arange(-20, 20)[:, np.newaxis] * np.ones((1, 3), np.float32) * np.float32(0.5)])
    x = x.astype(np.float32)
    own = broadcast(fmt, 1)
    x = np.concatenate([x, x * np.asarray(getattr(own, "scale", 1), np.float32)])
    _, scale, zero, width = node.inputs
    assert all(value.ndim in (0, x.ndim) for value in (scale, zero))
    found = int_quant(x, scale, zero, float(width), **node.attributes)
    np.testing.assert_array_equal(found, own.quantize(x))


def test_weights_of_qonnx_are_on_the_grid_already():
    for text in ("q8[7,5,6]", "affine(4,[0.1,0.2,0.3],[7,8,9])"):
        fmt = parse_format(text)
        net, formats = weighted(fmt)
        node = emit(net, profile=qonnx, constant_formats=formats).nodes[0]
        np.testing.assert_array_equal(node.inputs[0], broadcast(fmt, 0).quantize(WEIGHTS))
        assert node.inputs[1].shape == (3, 1)


TABLES = ("minifloat(4,3)", "pow2z(-8,-1)", "codebook(0,1)")
REFUSED = [
    (qdq, "affine(4,0.1,2.5)", "QuantizeLinear needs a zero point of uint8, affine(4,0.1,2.5) has another"),
    (qdq, "affine(4,0.1,300)", "QuantizeLinear needs a zero point of uint8, affine(4,0.1,300) has another"),
    (qdq, "affine(4,0.1,[1,2,-1])", "QuantizeLinear needs a zero point of uint8, affine(4,0.1,[1,2,-1]) has another"),
    (qdq, "affine(4,0.1,0,signed,ties=up)", "QuantizeLinear takes ties to even, affine(4,0.1,0,signed,ties=up) takes"),
    (qdq, "affine(17,0.1,0)", "QuantizeLinear has at most 16 bits, affine(17,0.1,0) has 17"),
    (qdq, "q17[1,2,3]", "QuantizeLinear has at most 16 bits, q17[1,2,3] has 17"),
    *[(qdq, text, f"QuantizeLinear has no {text}") for text in (*TABLES, "e3m2fn")],
    *[(qonnx, text, f"IntQuant has no {text}") for text in (*TABLES, "e4m3fn")],
    (qonnx, "affine([2,4,8],0.1)", "IntQuant has one width for all channels, affine([2,4,8],0.1,0) has several"),
    (qonnx, "affine(1,0.1,0)", "QONNX takes one bit for +-1, affine(1,0.1,0) has other values"),
    (qonnx, "affine(4,0.1,0,ties=down)", "IntQuant takes ties to even or from zero, affine(4,0.1,0,ties=down) takes"),
]


@pytest.mark.parametrize(("profile", "text", "problem"), REFUSED)
def test_a_format_that_operators_cannot_express_is_refused_by_name_with_a_way_out(profile, text, problem):
    with pytest.raises(NetError) as caught:
        emit(activation(parse_format(text)), profile=profile)
    assert problem in str(caught.value)
    assert 'layer "s": ' in str(caught.value)
    assert str(caught.value).endswith("use the profile exact")


def test_a_zero_point_beside_int32_and_scales_along_two_axes_are_refused():
    net, formats = weighted(parse_format("affine(17,0.1,3)"))
    with pytest.raises(NetError, match=r"DequantizeLinear has no zero point for int32, affine\(17,0.1,3\) has one"):
        emit(net, profile=qdq, constant_formats=formats)
    each = parse_format(f"q8[{','.join('6' * 12)}]").select(np.arange(12).reshape(3, 4))
    net, formats = weighted(each)
    with pytest.raises(NetError, match="scales along one axis, the selected ChannelQFormat along 2; use the"):
        emit(net, profile=qdq, constant_formats=formats)


def test_weights_whose_channels_lie_along_another_axis_take_a_selected_format():
    fmt = parse_format("q8[7,6,5,4]")
    net, formats = weighted(fmt.select(np.arange(4)))
    node = emit(net, profile=qdq, constant_formats=formats).nodes[0]
    assert node.attributes == {"axis": 1}
    np.testing.assert_array_equal(node.inputs[1], np.float32([2**-7, 2**-6, 2**-5, 2**-4]))
    np.testing.assert_array_equal(node.inputs[0] * node.inputs[1], fmt.select(np.arange(4)).quantize(WEIGHTS))


def test_a_stochastic_scheme_rounds_weights_of_qm_f_but_no_activations():
    for profile in (qdq, qonnx):
        net, formats = weighted(QFormat(2, 3), "stochastic")
        emit(net, profile=profile, constant_formats=formats)
        with pytest.raises(NetError, match="an ONNX graph cannot round stochastic"):
            emit(activation(QFormat(2, 3), "stochastic"), profile=profile)
