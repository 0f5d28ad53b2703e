"""What a layer refuses: one line that names the layer, says what was expected and what was got. Never a traceback."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcaffe.engines import check_executable, infer_shapes, run
from lpcaffe.errors import FormatError, LpcaffeError, NetError
from lpcaffe.formats.prototxt import parse
from lpcaffe.formats.schema import LayerParameter, NetParameter
from lpcaffe.layers import LAYERS
from lpcaffe.net import ArrayBlob, Net

IMAGE = (2, 4, 7, 6)
PAIR = [(2, 3, 5), (2, 3, 5)]

# type, parameters, bottoms, number of tops, and what the message says
REFUSED = [
    ("Convolution", "", [IMAGE], 1, "num_output of at least 1"),
    ("Convolution", "convolution_param { num_output: 6 }", [IMAGE], 1, "kernel_size, or kernel_h and kernel_w"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 0 }", [IMAGE], 1, r"at least 1 \(got \(0, 0\)\)"),
    ("Convolution", "convolution_param { num_output: 6 kernel_h: 3 }", [IMAGE], 1, r"at least 1 \(got \(3, 0\)\)"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 4 }", [IMAGE], 1, "group 4 must divide"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 3 }", [IMAGE], 1, "divide 4 input and 6"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 group: 0 }", [IMAGE], 1, "group 0 must divide"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 8 }", [IMAGE], 1, "spans 8 pixels, .* input has 7"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 dilation: 4 pad: 1 }",
        [IMAGE],
        1,
        "spans 9 pixels, the padded input has 8",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 0 }", [IMAGE], 1, "must be at least 1"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 stride_w: 2 }", [IMAGE], 1, "must be at least 1"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 3 dilation: 0 }", [IMAGE], 1, "must be at least 1"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 kernel_h: 3 kernel_w: 3 }",
        [IMAGE],
        1,
        "kernel_h and kernel_w need two spatial axes and no kernel beside them",
    ),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 3 pad: 1 pad: 1 pad: 1 }",
        [IMAGE],
        1,
        "pad is given 3 times, for 2 spatial axes",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_h: 1 kernel_w: 1 }", [(2, 4, 7)], 1, "two spatial axes"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [(2, 4)], 1, "got 2 axes"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 axis: 2 }", [IMAGE], 1, "only axis 1 is"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 axis: 4 }", [IMAGE], 1, "axis 4 does not exist"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE] * 2, 1, "expected bottoms: 1, got 2"),
    (
        "Convolution",
        "convolution_param { num_output: 6 kernel_size: 1 bias_term: false }",
        [IMAGE, (6, 4, 1, 1)],  # shapes that fit the weights
        1,
        "expected bottoms: 1, got 2",
    ),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("Convolution", "convolution_param { num_output: 6 kernel_size: 1 }", [IMAGE], 0, "expected tops: 1, got 0"),
    ("Convolution", "convolution_param { num_output: 4294967295 kernel_size: 1 }", [IMAGE], 1, "than the 2147483647"),
    ("InnerProduct", "", [IMAGE], 1, "num_output of at least 1"),
    ("InnerProduct", "inner_product_param { num_output: 3 axis: 4 }", [IMAGE], 1, "axis 4 does not exist: .* 4 axes"),
    ("InnerProduct", "inner_product_param { num_output: 3 axis: -5 }", [IMAGE], 1, "axis -5 does not exist"),
    ("InnerProduct", "inner_product_param { num_output: 3 }", [IMAGE, (3, 168)], 1, "expected bottoms: 1, got 2"),
    ("Pooling", "", [IMAGE], 1, "kernel size and a stride of at least 1"),
    ("Pooling", "pooling_param { kernel_size: 2 stride: 0 }", [IMAGE], 1, "kernel size and a stride of at least 1"),
    ("Pooling", "pooling_param { kernel_h: 2 }", [IMAGE], 1, "kernel_size, or kernel_h and kernel_w"),
    ("Pooling", "pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 2 }", [IMAGE], 1, "kernel_size, or kernel_h"),
    ("Pooling", "pooling_param { kernel_size: 2 pad_w: 1 }", [IMAGE], 1, "needs pad, or pad_h and pad_w"),
    ("Pooling", "pooling_param { kernel_size: 2 pad: 2 }", [IMAGE], 1, "padding .* must be smaller than the kernel"),
    ("Pooling", "pooling_param { kernel_size: 8 }", [IMAGE], 1, "kernel 8 is larger than the padded image, 7"),
    ("Pooling", "pooling_param { kernel_size: 8 stride: 2 ceil_mode: false }", [IMAGE], 1, "kernel 8 is larger"),
    ("Pooling", "pooling_param { kernel_size: 9 stride: 2 }", [IMAGE], 1, "kernel 9 is larger than the padded image"),
    ("Pooling", "pooling_param { global_pooling: true kernel_size: 7 }", [IMAGE], 1, "both global_pooling and"),
    ("Pooling", "pooling_param { global_pooling: true stride: 2 }", [IMAGE], 1, "only stride 1"),
    ("Pooling", "pooling_param { global_pooling: true pad: 1 }", [IMAGE], 1, "no padding"),
    ("Pooling", "pooling_param { pool: STOCHASTIC kernel_size: 2 }", [IMAGE], 1, "STOCHASTIC is not supported; MAX"),
    ("Pooling", "pooling_param { kernel_size: 2 }", [(2, 4, 7)], 1, "needs N x C x H x W, got 3 axes"),
    ("Pooling", "pooling_param { kernel_size: 2 }", [IMAGE], 2, "expected tops: 1, got 2"),
    ("ReLU", "", [], 1, "expected bottoms: 1, got 0"),
    ("ReLU", "", PAIR, 1, "expected bottoms: 1, got 2"),
    ("ReLU", "", [IMAGE], 2, "expected tops: 1, got 2"),
    ("PReLU", "", [(5,)], 1, "needs at least two axes, got 1"),
    ("Softmax", "softmax_param { axis: 2 }", [(2, 3)], 1, "axis 2 does not exist: the bottom has 2 axes"),
    ("BatchNorm", "", [(5,)], 1, "needs at least N x C, got 1 axes"),
    ("Scale", "scale_param { axis: 3 }", [(2, 3, 5)], 1, "axis 3 does not exist"),
    ("Scale", "scale_param { axis: 1 num_axes: 3 }", [(2, 3, 5)], 1, "num_axes 3 from axis 1 on: .* 3 axes"),
    ("Scale", "scale_param { num_axes: -2 }", [(2, 3, 5)], 1, "num_axes -2"),
    ("Scale", "scale_param { axis: 1 }", [(2, 3, 5), (2, 3)], 1, "expected the shape 3 x 5 from axis 1 on, got 2 x 3"),
    ("Scale", "scale_param { axis: 2 }", [(2, 3, 5), (5, 4)], 1, "expected the shape 5 from axis 2 on, got 5 x 4"),
    ("Scale", "", [(2, 3), (3,), (3,)], 1, "expected bottoms: 1 to 2, got 3"),
    ("Bias", "bias_param { axis: 0 }", [(2, 3), (3,)], 1, "expected the shape 2 from axis 0 on, got 3"),
    ("LRN", "lrn_param { local_size: 4 }", [IMAGE], 1, r"local_size must be odd \(got 4\)"),
    ("LRN", "lrn_param { local_size: 0 }", [IMAGE], 1, r"local_size must be odd \(got 0\)"),
    ("LRN", "", [(2, 4)], 1, "needs N x C x H x W, got 2 axes"),
    ("Eltwise", "", [(2, 3)], 1, "expected bottoms: at least 2, got 1"),
    ("Eltwise", "", [(2, 3), (2, 4)], 1, "bottoms differ in shape: 2 x 3, 2 x 4"),
    ("Eltwise", "", [(1, 3), (2, 3)], 1, "bottoms differ in shape: 1 x 3, 2 x 3"),
    ("Eltwise", "", [(2, 3), (2, 3, 1)], 1, "bottoms differ in shape"),
    ("Eltwise", "eltwise_param { coeff: 2 }", PAIR, 1, r"one for each of 2 bottoms \(got 1\)"),
    ("Eltwise", "eltwise_param { operation: PROD coeff: 2 coeff: 3 }", PAIR, 1, "coeff needs operation SUM"),
    ("Concat", "", [], 1, "expected bottoms: at least 1, got 0"),
    ("Concat", "", [(2, 3, 5), (2, 3, 4)], 1, "bottoms differ outside axis 1: 2 x 3 x 5, 2 x 3 x 4"),
    ("Concat", "", [(2, 3), (2, 3, 4)], 1, "bottoms differ outside axis 1"),
    ("Concat", "", [(2, 3), (2,)], 1, "bottoms differ outside axis 1: 2 x 3, 2"),
    ("Concat", "concat_param { axis: 2 }", [(2, 3)], 1, "axis 2 does not exist"),
    ("Concat", "concat_param { axis: 1 concat_dim: 1 }", PAIR, 1, "axis and concat_dim are both given"),
    ("Slice", "", [(2, 5)], 2, "cannot cut axis 1 of size 5 into 2 equal parts"),
    ("Slice", "", [(2, 5)], 0, "at least one top"),
    ("Slice", "slice_param { slice_point: 2 }", [(2, 5)], 3, "slice points .2. do not cut .* into 3 parts"),
    ("Slice", "slice_param { slice_point: 3 slice_point: 3 }", [(2, 5)], 3, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_point: 5 }", [(2, 5)], 2, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_point: 0 }", [(2, 5)], 2, "do not cut axis 1 of size 5"),
    ("Slice", "slice_param { slice_dim: 1 axis: 1 }", [(2, 6)], 2, "axis and slice_dim are both given"),
    ("Flatten", "flatten_param { axis: 2 end_axis: 1 }", [IMAGE], 1, "axis 2 comes after end_axis 1"),
    ("Flatten", "flatten_param { end_axis: 4 }", [IMAGE], 1, "axis 4 does not exist"),
    ("Reshape", "reshape_param { shape { dim: 5 } }", [(2, 3)], 1, "cannot reshape 2 x 3 to 5"),
    ("Reshape", "reshape_param { shape { dim: 4 dim: -1 } }", [(2, 3)], 1, "cannot reshape 2 x 3 to 4 x -1"),
    ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", [(2, 3)], 1, "at most one dimension can be -1"),
    ("Reshape", "reshape_param { shape { dim: -2 dim: -3 } }", [(2, 3)], 1, r"-1, 0 or more \(got -2\)"),
    ("Reshape", "reshape_param { shape { dim: 2 dim: 3 dim: 0 } }", [(2, 3)], 1, "copies axis 2, but .* has 2 axes"),
    ("Reshape", "reshape_param { axis: 3 }", [(2, 3)], 1, "axis 3 and num_axes -1 do not fit"),
    ("Reshape", "reshape_param { axis: 1 num_axes: 2 }", [(2, 3)], 1, "axis 1 and num_axes 2 do not fit"),
    ("Reshape", "reshape_param { num_axes: -2 }", [(2, 3)], 1, "axis 0 and num_axes -2 do not fit"),
    ("LPConvolution", "convolution_param { num_output: 6 kernel_size: 3 }", [IMAGE], 1, r"needs bd >= 1 \(got 0\)"),
    ("LPInnerProduct", "inner_product_param { num_output: 6 }", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "lpfp_param { ad: 4 }", [IMAGE], 1, r"lpfp_param needs bd >= 1 \(got 0\)"),
    ("LPAct", "lpfp_param { bd: 2000 ad: 4 }", [IMAGE], 1, "expected bd <= 1024"),
    (
        "LPConvolution",
        "lpfp_param { bd: 2 ad: 2 } convolution_param { num_output: 6 kernel_size: 1 bias_term: false }",
        [IMAGE, (6, 4, 1, 1)],
        1,
        "expected bottoms: 1, got 2",
    ),
]  # fmt: skip


def build(kind: str, text: str, bottoms: list[tuple[int, ...]], tops: int) -> Net:
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "x{i}" '
        f"input_param {{ shape {{ {' '.join(f'dim: {dim}' for dim in shape)} }} }} }}\n"
        for i, shape in enumerate(bottoms)
    )
    names = "".join(f'bottom: "x{i}" ' for i in range(len(bottoms))) + "".join(f'top: "y{i}" ' for i in range(tops))
    return Net.of(parse(f'{inputs}layer {{ name: "l" type: "{kind}" {names} {text} }}'))


@pytest.mark.parametrize(("kind", "text", "bottoms", "tops", "message"), REFUSED)
def test_parameters_that_make_no_layer_are_one_line_that_names_it(kind, text, bottoms, tops, message):
    with pytest.raises(LpcaffeError, match=message) as caught:
        infer_shapes(build(kind, text, bottoms, tops))
    line = str(caught.value)
    assert line.startswith('layer "l": ')
    assert "\n" not in line


def test_every_type_that_can_be_refused_is_tried():
    refused = {row[0] for row in REFUSED}
    assert set(LAYERS) - refused == {"Sigmoid", "TanH", "Power", "Dropout", "Split"}  # nothing of their own to refuse


def test_without_strict_a_refused_layer_is_a_problem_and_its_tops_are_unknown():
    net = build("LPAct", "lpfp_param { bd: 2000 ad: 4 }", [IMAGE], 1)
    shapes = infer_shapes(net, strict=False)
    assert shapes.blobs == {"x0": IMAGE, "y0": None}
    assert [problem.layer for problem in shapes.problems] == ["l"]


def test_a_format_wider_than_the_arithmetic_names_the_layer_when_it_runs():
    net = build("LPAct", "lpfp_param { bd: 4 ad: 22 }", [(2, 3)], 1)
    x = np.ones((2, 3), np.float32)
    with pytest.raises(FormatError, match=r'^layer "l": Q4\.22 has 26 bits'):
        run(net, x)
    np.testing.assert_array_equal(run(net, x, dtype="float64")["y0"], x)


def test_an_unknown_type_is_named_with_the_layer_and_the_known_types():
    with pytest.raises(NetError, match=r'^layer "l": layer type "Convolutoin" is not known; known are ') as caught:
        infer_shapes(build("Convolutoin", "", [IMAGE], 1))
    listed = str(caught.value).partition("known are ")[2].split(", ")
    assert listed == sorted([*LAYERS, "Input"])


@pytest.mark.parametrize(
    ("kind", "text", "shown"),
    [
        ("Pooling", "pooling_param { pool: AVG kernel_size: 2 }", "pooling_param.pool=AVG"),
        ("LPAct", "lpfp_param { bd: 2 ad: 2 rounding_scheme: NEAREST }", "lpfp_param.rounding_scheme=NEAREST"),
        ("Eltwise", "eltwise_param { operation: MUL }", "eltwise_param.operation=MUL"),
    ],
)
def test_a_mistyped_enum_is_refused_where_the_layer_is_executed(kind, text, shown):
    net = build(kind, text, [IMAGE] * (2 if kind == "Eltwise" else 1), 1)
    infer_shapes(net)  # the file may be looked at
    with pytest.raises(NetError, match=f'^layer "l": {shown} is not a value that Caffe knows$'):
        check_executable(net)


# ---------------------------------------------------------------------------------------------------- anything goes

LEFT_OUT = ("weight_filler", "bias_filler", "filler", "other", "engine")
LIKELY = ("num_output", "kernel_size", "bd", "shape")
SIZES = st.sampled_from([1, 2, 3, 4, 6, 6])
SHAPES = st.sampled_from([4, 4, 4, 4, 3, 2, 1, 5]).flatmap(lambda rank: st.lists(SIZES, min_size=rank, max_size=rank))
PARTICULAR = ("Convolution", "LPConvolution", "Pooling")  # types that most parameters do not suit
NUMBERS = st.sampled_from([1, 1, 1, 2, 2, 3, 0, -1, -2, 5])
FLOATS = st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, float("inf"), float("nan")])


def _fill(draw: st.DrawFn, message: LayerParameter) -> None:
    """Any small numbers in some of the fields, in those without which there is no layer more often than not."""
    for field in message.DESCRIPTOR.fields:
        if field.name in LEFT_OUT or draw(st.integers(0, 15)) > (14 if field.name in LIKELY else 0):
            continue
        if field.message_type is not None:
            _fill(draw, getattr(message, field.name))
            continue
        if field.enum_type is not None:
            numbers = st.sampled_from([value.number for value in field.enum_type.values])
        elif field.cpp_type == field.CPPTYPE_BOOL:
            numbers = st.booleans()
        elif field.cpp_type == field.CPPTYPE_FLOAT:
            numbers = FLOATS
        else:
            numbers = NUMBERS.map(abs) if field.cpp_type == field.CPPTYPE_UINT32 else NUMBERS
        if field.has_presence:
            setattr(message, field.name, draw(numbers))
        else:
            getattr(message, field.name).extend(
                draw(st.lists(numbers, min_size=1, max_size=draw(st.sampled_from([1, 1, 3]))))
            )


@st.composite
def networks(draw: st.DrawFn, kind: str) -> NetParameter:
    """A layer of this type with any parameters, on inputs of any small shapes."""
    layer = LayerParameter(name="l", type=kind)
    for block in LAYERS[kind].params:
        if block != "top":
            _fill(draw, getattr(layer, block))
    least, most = LAYERS[kind].bottoms
    shape = draw(SHAPES)
    net = NetParameter()
    for i in range(draw(st.sampled_from([least] * 6 + [min(most, 2)] * 2 + [0, 3]))):
        source = net.layer.add(name=f"in{i}", type="Input", top=[f"x{i}"])
        source.input_param.shape.add(dim=draw(st.sampled_from([shape] * 3 + [shape[1:], shape[:2], shape[1:2]])) or [1])
        layer.bottom.append(f"x{i}")
    tops = st.integers(0, 3) if kind in ("Slice", "Split") else st.sampled_from([1] * 8 + [0, 2])
    layer.top.extend(f"y{i}" for i in range(draw(tops)))
    net.layer.append(layer)
    return net


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_any_parameters_are_refused_or_run_to_the_shapes_that_were_said(kind):
    """The shapes engine decides: what it lets pass, the numpy engine computes, in those shapes and that dtype."""
    ran = []

    @settings(
        max_examples=300 if kind in PARTICULAR else 100,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(networks(kind), st.sampled_from(["f4", "f8"]))
    def one(message: NetParameter, dtype: str) -> None:
        net = Net.of(message)
        refused, shapes = None, None
        try:
            shapes = check_executable(net)
        except LpcaffeError as error:
            refused = error
        if refused is not None:
            assert refused.layer == "l"
            assert "\n" not in str(refused)
            return
        rng = np.random.default_rng(3)
        own = {
            name: [ArrayBlob(rng.normal(size=shape).astype(np.float32)) for shape in blobs]
            for name, blobs in shapes.params.items()
        }
        feeds = {blob: rng.normal(size=shapes.blobs[blob]).astype(dtype) for blob in net.inputs}
        found = run(net.replace(net.message, own), feeds, dtype=np.dtype(dtype).name)
        assert {blob: value.shape for blob, value in found.items()} == shapes.blobs
        assert all(value.dtype == dtype for value in found.values())
        ran.append(message)

    one()
    assert len(ran) > 3, "too few layers that can run to tell anything"
