"""The plain dialect: ordinary files that hold rounded values once."""

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.dialects import dialect_named, dialect_of
from lpcaffe.errors import NetError, PlanError
from lpcaffe.numbers import QFormat
from lpcaffe.numbers.rounding import SCHEMES, stream_of
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site

NET = """name: "small"
input: "image" input_shape { dim: 2 dim: 3 dim: 5 dim: 4 }
layer { name: "conv" type: "Convolution" bottom: "image" top: "conv"
        convolution_param { num_output: 6 kernel_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""
FMT, OWN = QFormat(-1, 6), QFormat(2, 9)
WEIGHTS = Site("conv", "weights", "Convolution", blob=0)


def plan_of(rows, **policy) -> BitPlan:
    return BitPlan(rows, policy=Policy(dialect="plain", fold_bn=False, **policy))


def test_a_bias_of_its_own_is_no_even_blob(make_net, tmp_path):
    net, plan = make_net(NET), plan_of({"conv": LayerPlan("Convolution", FMT, bias=OWN)})
    done = lp.convert(net, plan, tmp_path / "out")
    weights, bias = (blob.array() for blob in done.net.weights["conv"])
    np.testing.assert_array_equal(weights, FMT.quantize(net.weights["conv"][0].array()))
    np.testing.assert_array_equal(bias, OWN.quantize(net.weights["conv"][1].array()))
    row = done.report.to_json()["layers"][0]
    assert (row["bias"]["format"], row["bias"]["count"]) == ("Q2.9", 6)
    assert {"even_rounded", "even_clipped"}.isdisjoint(row["bias"] | row["weights"])
    assert lp.validate(net, done).failures == []


@pytest.mark.parametrize(
    ("given", "expected"), [(QFormat(40, -30), QFormat(34, -24)), (QFormat(-120, 130), QFormat(-116, 126)), (FMT, FMT)]
)
def test_the_nearest_format_that_a_float32_holds(given, expected):
    fitted = dialect_named("plain").fit(given, WEIGHTS)
    assert fitted == expected
    assert fitted.width == given.width


def test_an_old_input_is_named_after_its_blob(make_net, tmp_path):
    """The written network has an Input layer, whose site has the blob's name in the plan."""
    net = make_net(NET)
    rows = {"image": LayerPlan("Input", output=QFormat(2, 3)), "conv": LayerPlan("Convolution", FMT)}
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    for dialect in ("plain", "adaption"):
        plan = BitPlan(rows, policy=Policy(dialect=dialect, fold_bn=False, coverage="all"))
        done = lp.convert(net, plan, tmp_path / dialect)
        found = lp.run(dialect_named(dialect).read(done.net, plan).net, x)
        for blob, values in lp.run(lp.quantize(net, plan), x).items():
            np.testing.assert_array_equal(found[blob], values)
        assert QFormat(2, 3).holds(found["image"]).all()
        assert lp.validate(net, done).failures == []


def test_nothing_shows_that_a_network_is_plain(make_net, tmp_path):
    net = make_net(NET)
    done = lp.convert(net, plan_of({"conv": LayerPlan("Convolution", FMT)}), tmp_path / "out")
    assert dialect_of(done.net).name == "plain"
    with pytest.raises(NetError, match="the network has no LP layers; give its plan with --plan"):
        dialect_named("plain").read(done.net, None)


def test_a_dialect_that_nobody_wrote_is_refused_by_name():
    with pytest.raises(PlanError, match="dialect: expected adaption or plain, got 'caffe2'"):
        dialect_named("caffe2")


@pytest.mark.parametrize("rounding", sorted(SCHEMES))
def test_every_rounding_scheme(make_net, tmp_path, rounding):
    """The files hold round_fp by the scheme of the plan, and the plan that is written has it."""
    net = make_net(NET)
    rows = {"conv": LayerPlan("Convolution", FMT, QFormat(3, 2)), "ip": LayerPlan("InnerProduct", FMT)}
    done = lp.convert(net, plan_of(rows, rounding=rounding), tmp_path / "out")
    values = net.weights["ip"][0].array()
    expected = lp.round_fp(values, FMT.bd, FMT.ad, rounding, stream=stream_of("ip/0"))
    np.testing.assert_array_equal(done.net.weights["ip"][0].array(), expected)
    assert lp.validate(net, done).failures == []
    assert BitPlan.load(tmp_path / "out/plan.yaml") == done.plan


def test_a_scheme_that_only_the_plain_dialect_expresses(make_net):
    policy = Policy(rounding="half_even")
    with pytest.raises(PlanError, match="dialect adaption expresses deterministic or stochastic, got half_even; "):
        lp.allocate(make_net(NET), None, bits=8, policy=policy)
