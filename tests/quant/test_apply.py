"""A plan applied: what is computed in memory is what the written pair computes, and what does not fit is refused."""

from dataclasses import replace

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.dialects import dialect_named
from lpcaffe.errors import PlanError
from lpcaffe.numbers import ChannelQFormat, QFormat, parse_format
from lpcaffe.quant.apply import BIAS_BITS, apply_plan
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

NET = """name: "every"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 7 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2 } }
layer { name: "leaky" type: "ReLU" bottom: "conv" top: "leaky" relu_param { negative_slope: 0.3 } }
layer { name: "slopes" type: "PReLU" bottom: "conv" top: "slopes" }
layer { name: "sum" type: "Eltwise" bottom: "leaky" bottom: "slopes" top: "sum"
        eltwise_param { operation: SUM coeff: 0.3 coeff: -0.7 } }
layer { name: "up" type: "Deconvolution" bottom: "sum" top: "up"
        convolution_param { num_output: 6 group: 2 kernel_h: 2 kernel_w: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "up" top: "ip" inner_product_param { num_output: 5 } }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 9 } }
"""
TIGHT, Q = QFormat(-1, 6), QFormat(1, 6)
ROWS = {
    "data": LayerPlan("Input", output=QFormat(3, 4)),
    "conv": LayerPlan("Convolution", TIGHT, QFormat(3, 5)),
    "leaky": LayerPlan("ReLU", QFormat(1, 4), QFormat(3, 3)),
    "slopes": LayerPlan("PReLU", QFormat(1, 3), QFormat(2, 4)),
    "sum": LayerPlan("Eltwise", QFormat(1, 5), QFormat(4, 4)),
    "up": LayerPlan("Deconvolution", QFormat(1, 5), QFormat(4, 3), bias=QFormat(2, 9)),
    "ip": LayerPlan("InnerProduct", QFormat(0, 6), QFormat(4, 2)),
    "last": LayerPlan("InnerProduct", Q),
}
ALL = Policy(fold_bn=False, coverage="all", seed=5)


def plan_of(rows=ROWS, policy=ALL, **changes) -> BitPlan:
    return BitPlan(rows, policy=replace(policy, **changes))


def values_of(net):
    return np.random.default_rng(8).normal(size=(2, 3, 8, 7)).astype(np.float32)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for blob, values in expected.items():
        np.testing.assert_array_equal(found[blob], values, err_msg=blob)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
@pytest.mark.parametrize("dialect", ["adaption", "plain"])
@pytest.mark.parametrize("coverage", ["learned", "all"])
def test_in_memory_as_in_the_written_pair(make_net, tmp_path, dialect, coverage, rounding, dtype):
    """At every blob, with clipped weights, biases of their own, slopes and coefficients."""
    net = make_net(NET)
    plan = plan_of(dialect=dialect, coverage=coverage, rounding=rounding)
    done = lp.convert(net, plan, tmp_path / "out")
    low = done.net if dialect == "adaption" else dialect_named("plain").read(done.net, plan).net
    x = values_of(net)
    found = lp.run(low, x, dtype=dtype, seed=plan.policy.seed)
    assert_same(found, lp.run(lp.quantize(net, plan), x, dtype=dtype, seed=plan.policy.seed))
    rounded = done.net.weights["conv"][1 if dialect == "adaption" else 0].array()
    assert np.abs(rounded).max() == TIGHT.max
    assert (np.abs(net.weights["conv"][0].array()) > TIGHT.max + TIGHT.step).any()


@pytest.mark.parametrize("round_bias", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_dialects_compute_the_same(make_net, tmp_path, dtype, round_bias):
    """Weights with bd < 1 included, and biases that are rounded like them."""
    net = make_net(NET)
    rows = {name: replace(row, bias=None) for name, row in ROWS.items()}
    plan = plan_of(rows, coverage="learned", round_bias=round_bias)
    pair = lp.convert(net, plan, tmp_path / "pair").net
    plain = replace(plan, policy=replace(plan.policy, dialect="plain"))
    files = lp.convert(net, plain, tmp_path / "plain").net
    low, x = dialect_named("plain").read(files, plain).net, values_of(net)
    assert_same(lp.run(low, x, dtype=dtype), lp.run(pair, x, dtype=dtype))


PER_CHANNEL = {
    "a fraction for each channel": ({"bits": 6, "ad": [5, 4, 6, 5]}, {"bits": 6, "ad": [5, 4, 6, 5, 3, 7]}),
    "affine": ({"bits": 4, "scale": [0.1, 0.2, 0.3, 0.05]}, {"bits": 4, "scale": 0.1, "zero": [7, 8, 7, 6, 5, 4]}),
    "codebook": ({"codebook": [-0.5, 0, 0.5]}, {"codebook": [-1, 1], "scale": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}),
    "other floats": ("minifloat(4,3)", "e4m3fn"),
    "powers of two": ("pow2(-8,-1)", {"pow2z": [-8, -1], "scale": [1, 2, 3, 4, 5, 6]}),
}


@pytest.mark.parametrize(("conv", "up"), PER_CHANNEL.values(), ids=PER_CHANNEL)
def test_formats_of_every_kind_in_the_plain_dialect(make_net, tmp_path, conv, up):
    """Each output channel has the values of its own format: on axis 0, of a Deconvolution by groups on axis 1."""
    net = make_net(NET)
    formats = {"conv": parse_format(conv), "up": parse_format(up)}
    plan = plan_of({name: LayerPlan(net.by_name[name].type, fmt) for name, fmt in formats.items()}, dialect="plain")
    done = lp.convert(net, plan, tmp_path / "out")
    written = {name: done.net.weights[name][0].array() for name in formats}
    given = {name: net.weights[name][0].array() for name in formats}
    conv_channels = np.arange(4).reshape(4, 1, 1, 1)
    up_channels = np.array([[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]).reshape(4, 3, 1, 1)
    for name, channels in (("conv", conv_channels), ("up", up_channels)):
        np.testing.assert_array_equal(written[name], formats[name].select(channels).quantize(given[name]))
        np.testing.assert_array_equal(lp.quantize(net, plan).weights[name][0].array(), written[name])


def test_slopes_and_coefficients_are_rounded_where_they_are(make_net):
    low = lp.quantize(make_net(NET), plan_of())
    message = {layer.name: layer for layer in low.message.layer}
    assert message["leaky"].relu_param.negative_slope == 0.3125
    assert list(message["sum"].eltwise_param.coeff) == [0.3125, -0.6875]
    assert ROWS["slopes"].weights.holds(low.weights["slopes"][0].array()).all()


def test_biases_without_a_format_lie_on_the_grid_of_their_sums(make_net):
    """ad_in + ad_w, 32 bits, rounded in float64."""
    net = make_net(NET)
    applied = apply_plan(net, plan_of())
    formats = {site.key: fmt for site, fmt in applied.formats.items() if site.role == "bias"}
    expected = {name: QFormat(BIAS_BITS - ad, ad) for name, ad in (("conv", 4 + 6), ("ip", 3 + 6), ("last", 2 + 6))}
    assert formats == {(name, "bias"): fmt for name, fmt in expected.items()} | {("up", "bias"): ROWS["up"].bias}
    low = lp.quantize(net, plan_of())
    for name, fmt in expected.items():
        given, found = (each.weights[name][1].array() for each in (net, low))
        np.testing.assert_array_equal(found, fmt.quantize(given.astype(np.float64)))


def test_a_derived_bias_has_a_grid_for_each_channel(make_net):
    rows = ROWS | {"conv": replace(ROWS["conv"], weights=ChannelQFormat(6, (5, 4, 7, 6)))}
    applied = apply_plan(make_net(NET), plan_of(rows, dialect="plain"))
    assert applied.formats[applied.site("conv", "bias")] == ChannelQFormat(BIAS_BITS, (9, 8, 11, 10))


def test_a_derived_bias_that_does_not_fit_is_refused(make_net, tmp_path):
    """2^17 has no 32-bit code with 14 bits after the point; with one format of its own it has."""

    def large(weights):
        weights["conv"][1][2] = 2**17

    net = make_net(NET, large)
    rows = {
        "data": LayerPlan("Input", output=QFormat(2, 7)),
        "conv": LayerPlan("Convolution", QFormat(1, 7)),
    }
    message = (
        "bias: 131072 does not fit Q18.14, the grid of the sums that it is added to; give the bias a format of its own"
    )
    for attempt in (lambda: lp.quantize(net, plan_of(rows)), lambda: lp.convert(net, plan_of(rows), tmp_path / "out")):
        with pytest.raises(PlanError) as caught:
            attempt()
        assert 'layer "conv"' in str(caught.value)
        assert str(caught.value).endswith(f": {message}")
    assert not list(tmp_path.glob("out/*"))
    own = rows | {"conv": replace(rows["conv"], bias=QFormat(20, 3))}
    assert lp.quantize(net, plan_of(own)).weights["conv"][1].array()[2] == 2**17


def test_a_float_input_has_no_grid_for_a_bias(make_net):
    applied = apply_plan(make_net(NET), plan_of({"conv": ROWS["conv"], "last": ROWS["last"]}))
    assert {site.key for site in applied.formats if site.role == "bias"} == set()
    assert [site.path for site in applied.float_sites if site.role == "bias"] == [
        "conv/bias",
        "up/bias",
        "ip/bias",
        "last/bias",
    ]


SHARED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" param { name: "w" } param { name: "b" }
        convolution_param { num_output: 3 kernel_size: 1 } }
"""


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            {"sum": LayerPlan("Eltwise", bias=Q)},
            'layer "sum": bias: the layer has no such site, only weights and output',
        ),
        ({"conv": LayerPlan("Convolution", ChannelQFormat(6, (5, 4)))}, "parameters for 4 channels, got 2"),
        ({"up": LayerPlan("Deconvolution", ChannelQFormat(6, (5, 4, 3)))}, "parameters for 6 channels, got 3"),
        ({"ip": LayerPlan("InnerProduct", bias=ChannelQFormat(6, (5, 4)))}, "parameters for 5 channels, got 2"),
        ({"conv": LayerPlan("Convolution", output=ChannelQFormat(6, (5,) * 7))}, "parameters for 4 channels, got 7"),
        ({"leaky": LayerPlan("ReLU", ChannelQFormat(6, (5,)))}, "expected one format for all slopes or coefficients"),
        (
            {"sum": LayerPlan("Eltwise", ChannelQFormat(6, (5, 4)))},
            "expected one format for all slopes or coefficients",
        ),
        ({"nowhere": LayerPlan("Convolution", Q)}, 'the network "every" has no such layer'),
        ({"ip": LayerPlan("Convolution", Q)}, "the plan has Convolution, the network InnerProduct"),
    ],
)
def test_a_plan_that_does_not_fit_the_network_is_refused_with_the_layer(make_net, rows, problem):
    (name,) = rows
    with pytest.raises(PlanError) as caught:
        lp.quantize(make_net(NET), plan_of(rows, dialect="plain"))
    message = str(caught.value)
    assert f'layer "{name}": ' in message
    assert problem in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        (
            LayerPlan("Convolution", Q),
            LayerPlan("Convolution", TIGHT),
            'weights: Q-1.6, but layer "a" shares the blob "w"',
        ),
        (
            LayerPlan("Convolution", Q, bias=QFormat(2, 5)),
            LayerPlan("Convolution", Q, bias=QFormat(2, 6)),
            'bias: Q2.6, but layer "a" shares the blob "b" and has Q2.5',
        ),
    ],
)
def test_two_formats_for_one_shared_blob_are_refused(make_net, first, second, problem):
    net = make_net(SHARED)
    with pytest.raises(PlanError) as caught:
        lp.quantize(net, plan_of({"a": first, "b": second}, coverage="learned"))
    assert str(caught.value).startswith(f'layer "b": {problem}')
    lp.quantize(net, plan_of({"a": first, "b": first}, coverage="learned"))


def test_nothing_is_written_for_a_plan_that_is_refused(make_net, tmp_path):
    net = make_net(NET)
    rows = {"conv": LayerPlan("Convolution", ChannelQFormat(6, (5, 4)))}
    with pytest.raises(PlanError):
        lp.convert(net, plan_of(rows, dialect="plain"), tmp_path / "out")
    assert not list(tmp_path.glob("out/*"))
