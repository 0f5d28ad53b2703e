"""The shapes engine: what is known of a network without running it. Shapes of each layer are in tests/layers."""

import pytest

from lpcaffe.engines import infer_shapes, input_shapes
from lpcaffe.errors import NetError

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }\n'


def layer(kind: str, text: str, bottom: str = "data", name: str = "l") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {text} }}\n'


@pytest.mark.parametrize(
    ("kind", "text", "macs"),
    [
        # images x output channels x input channels of a group x kernel x output pixels
        ("Convolution", "convolution_param { num_output: 10 kernel_size: 3 }", 2 * 10 * 4 * 9 * (5 * 4)),
        ("Convolution", "convolution_param { num_output: 10 kernel_size: 3 group: 2 }", 2 * 10 * 2 * 9 * (5 * 4)),
        ("Convolution", "convolution_param { num_output: 4 kernel_size: 3 group: 4 }", 2 * 4 * 1 * 9 * (5 * 4)),
        (
            "Convolution",
            "convolution_param { num_output: 3 kernel_h: 1 kernel_w: 2 stride: 2 pad: 1 bias_term: false }",
            2 * 3 * 4 * 2 * (5 * 4),
        ),
        ("Convolution", "convolution_param { num_output: 3 kernel_size: 2 dilation: 3 }", 2 * 3 * 4 * 4 * (4 * 3)),
        (
            "LPConvolution",
            "convolution_param { num_output: 10 kernel_size: 3 } lpfp_param { bd: 2 ad: 3 }",
            2 * 10 * 4 * 9 * (5 * 4),
        ),
        ("InnerProduct", "inner_product_param { num_output: 5 }", 2 * 168 * 5),
        ("InnerProduct", "inner_product_param { num_output: 5 transpose: true }", 2 * 168 * 5),
        ("InnerProduct", "inner_product_param { num_output: 5 axis: 2 }", 2 * 4 * 42 * 5),
        ("InnerProduct", "inner_product_param { num_output: 5 axis: 0 }", 336 * 5),
        ("Pooling", "pooling_param { kernel_size: 3 }", 0),
        ("LRN", "", 0),
        ("ReLU", "", 0),
    ],
)
def test_multiply_accumulates_are_those_counted_by_hand(net_of, kind, text, macs):
    assert infer_shapes(net_of(INPUT + layer(kind, text))).macs == macs


def test_macs_and_parameters_add_up_over_layers(net_of):
    conv = "convolution_param { num_output: 3 kernel_size: 2 } lpfp_param { bd: 2 ad: 3 }"
    text = (
        INPUT + layer("LPConvolution", conv) + layer("InnerProduct", "inner_product_param { num_output: 5 }", "l", "ip")
    )
    shapes = infer_shapes(net_of(text))
    assert shapes.params == {"l": [(3, 4, 2, 2)] * 2 + [(3,)] * 2, "ip": [(5, 90), (5,)]}
    assert shapes.parameters == 2 * (48 + 3) + 450 + 5
    assert shapes.macs == 2 * 48 * 30 + 2 * 450


def test_given_inputs_replace_those_of_the_file(net_of):
    net = net_of(INPUT + layer("Pooling", "pooling_param { kernel_size: 2 stride: 2 }"))
    assert infer_shapes(net, {"data": (5, 3, 8, 10)}).blobs == {"data": (5, 3, 8, 10), "l": (5, 3, 4, 5)}
    assert input_shapes(net) == {"data": (2, 4, 7, 6)}


def test_every_version_of_a_blob_has_a_shape_and_the_blob_has_that_of_its_last(net_of):
    text = INPUT + layer("Flatten", "") + 'layer { name: "s" type: "ReLU" bottom: "l" top: "l" }'
    shapes = infer_shapes(net_of(text))
    assert shapes.tensors == {"data@data": (2, 4, 7, 6), "l@l": (2, 168), "l@s": (2, 168)}
    assert shapes.blobs == {"data": (2, 4, 7, 6), "l": (2, 168)}


def test_without_strict_only_what_depends_on_a_problem_is_unknown(net_of):
    text = (
        INPUT
        + layer("ROIPooling", "", name="roi")
        + layer("ReLU", "", "roi", "after")
        + layer("InnerProduct", "inner_product_param { num_output: 5 }", "after", "ip")
        + layer("Convolution", "convolution_param { num_output: 3 kernel_size: 2 }", "data", "conv")
        + layer("Pooling", "pooling_param { kernel_size: 9 }", "conv", "pool")
    )
    net = net_of(text)
    shapes = infer_shapes(net, strict=False)
    unknown = dict.fromkeys(["roi", "after", "ip", "pool"])
    assert shapes.blobs == {"data": (2, 4, 7, 6), "conv": (2, 3, 6, 5)} | unknown
    assert shapes.params == {"conv": [(3, 4, 2, 2), (3,)]}
    assert [problem.layer for problem in shapes.problems] == ["roi", "pool"]
    with pytest.raises(NetError, match='layer "roi"'):
        infer_shapes(net)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'input "a" has no shape; add input_param'),
        ("input_param { shape { dim: 2 } shape { dim: 3 } shape { dim: 4 } }", "3 shapes for 2 tops"),
        (
            "input_param { shape { dim: 2 dim: 0 } }",
            'input "a" has the shape 2 x 0: every dimension must be at least 1',
        ),
        ("input_param { shape { dim: -1 dim: 3 } }", 'input "a" has the shape -1 x 3'),
        ("input_param { shape { } }", r'input "a" has the shape \(\)'),
        ("input_param { shape { dim: 65536 dim: 65536 } }", "65536 x 65536 has more than the 2147483647 values"),
    ],
)
def test_inputs_without_a_usable_shape_are_refused_by_name(net_of, text, message):
    net = net_of(f'layer {{ name: "in" type: "Input" top: "a" top: "b" {text} }}')
    with pytest.raises(NetError, match=f'^layer "in": .*{message}'):
        infer_shapes(net)
    shapes = infer_shapes(net, strict=False)
    assert shapes.blobs == {"a": None, "b": None}
    assert [problem.layer for problem in shapes.problems] == ["in"]


def test_a_blob_larger_than_caffe_can_hold_is_refused(net_of):
    text = 'layer { name: "in" type: "Input" top: "a" input_param { shape { dim: 3 dim: 40000 dim: 1 dim: 1 } } }'
    net = net_of(text + layer("InnerProduct", "inner_product_param { num_output: 60000 }", "a"))
    with pytest.raises(NetError, match=r'^layer "l": a blob of 60000 x 40000 has more than the 2147483647 values'):
        infer_shapes(net)
