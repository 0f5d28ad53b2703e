"""From statistics to a plan: which tensors count, who gets an output format, and what a dialect cannot say."""

import dataclasses
import warnings

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.allocation import METHODS, allocate, method
from lpcaffe.calibration import Calibration, TensorStats
from lpcaffe.errors import DataError, LpcaffeWarning, PlanError, WeightsError
from lpcaffe.qformat import QFormat

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }\n'
CONV = 'type: "Convolution" convolution_param { num_output: 5 kernel_size: 3 }'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" bottom: "data" top: "conv" {CONV} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {{ num_output: 4 }} }}
"""
# One head ends in a convolution, the other goes on to two inner products.
BRANCHES = f"""name: "branches"
{INPUT}
layer {{ name: "stem" bottom: "data" top: "stem" {CONV} }}
layer {{ name: "pool" type: "Pooling" bottom: "stem" top: "pool" pooling_param {{ kernel_size: 2 }} }}
layer {{ name: "head" bottom: "stem" top: "head" {CONV} }}
layer {{ name: "sigmoid" type: "Sigmoid" bottom: "head" top: "sigmoid" }}
layer {{ name: "mid" type: "InnerProduct" bottom: "pool" top: "mid" inner_product_param {{ num_output: 8 }} }}
layer {{ name: "last" type: "InnerProduct" bottom: "mid" top: "last" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "prob" type: "Softmax" bottom: "last" top: "prob" }}
"""


def statistics(net, **extremes):
    layers = {name: TensorStats(9, -abs(high) / 2, high) for name, high in extremes.items()}
    return Calibration(layers, net.name, net.sha256)


def constants(**values):
    """Weights and bias of each layer: all zero, but one value each."""

    def edit(weights):
        for name, (weight, bias) in values.items():
            for blob, value in zip(weights[name], (weight, bias), strict=True):
                blob[:] = 0
                blob.flat[-1] = value

    return edit


def formats(plan):
    return {name: (str(line.weights), line.output and str(line.output)) for name, line in plan.layers.items()}


@pytest.fixture
def small(make_net):
    return make_net(SMALL, constants(conv=(-0.7, 5.0), ip=(3.0, 0.1)))


def test_weights_decide_for_weights_and_statistics_for_outputs(small):
    plan = allocate(small, statistics(small, conv=6.0, ip=100.0), bits=8)
    assert formats(plan) == {"conv": ("Q1.7", "Q4.4"), "ip": ("Q3.5", None)}
    assert [line.type for line in plan.layers.values()] == ["Convolution", "InnerProduct"]
    assert (plan.network, plan.sha256, plan.fold_bn) == ("small", small.sha256, True)
    plan.check(small)


def test_widths_of_weights_and_outputs_are_separate(small):
    plan = allocate(small, statistics(small, conv=6.0, ip=100.0), bits=8, weight_bits=4, activation_bits=12)
    assert formats(plan) == {"conv": ("Q1.3", "Q4.8"), "ip": ("Q3.1", None)}


def test_the_bias_counts_with_round_bias_only(small):
    stats = statistics(small, conv=6.0, ip=100.0)
    assert formats(allocate(small, stats, bits=8))["conv"][0] == "Q1.7"
    plan = allocate(small, stats, bits=8, round_bias=True)
    assert formats(plan) == {"conv": ("Q4.4", "Q4.4"), "ip": ("Q3.5", None)}
    assert plan.round_bias


def test_options_reach_the_plan(small):
    stats = dataclasses.replace(statistics(small, conv=1.0, ip=1.0), fold_bn=False, act_placement="after-relu")
    plan = allocate(small, stats, rounding="stochastic", seed=7, dialect="plain")
    assert (plan.rounding, plan.seed, plan.dialect) == ("stochastic", 7, "plain")
    assert (plan.fold_bn, plan.act_placement) == (False, "after-relu")


def test_without_statistics_no_output_is_rounded(small):
    assert formats(allocate(small, None, bits=8)) == {"conv": ("Q1.7", None), "ip": ("Q3.5", None)}


def test_layers_that_reach_no_other_learned_layer_keep_their_output(make_net):
    net = make_net(BRANCHES)
    stats = statistics(net, stem=1.0, head=1.0, mid=1.0, last=1.0)
    rounded = {name for name, line in allocate(net, stats).layers.items() if line.output}
    assert rounded == {"stem", "mid"}
    rounded = {name for name, line in allocate(net, stats, round_output=True).layers.items() if line.output}
    assert rounded == {"stem", "head", "mid", "last"}


@pytest.mark.parametrize(
    ("magnitude", "adaption", "plain"),
    # 0.4 * 2^8 = 102.4 is within 127; 0.001 * 2^16 = 65.5 is, twice that is not.
    [(0.9, "Q1.7", "Q1.7"), (0.4, "Q1.7", "Q0.8"), (0.001, "Q1.7", "Q-8.16"), (100.0, "Q8.0", "Q8.0")],
)
def test_small_weights_get_bd_1_in_adaption_and_their_own_in_plain(make_net, magnitude, adaption, plain):
    net = make_net(SMALL, constants(conv=(magnitude, 0), ip=(1, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        assert formats(allocate(net, None, bits=8))["conv"][0] == adaption
    assert formats(allocate(net, None, bits=8, dialect="plain"))["conv"][0] == plain


def test_a_range_that_adaption_cannot_say_saturates_with_a_warning(small):
    stats = statistics(small, conv=300.0, ip=1.0)
    with pytest.warns(LpcaffeWarning, match=r'layer "conv": outputs -150 \.\. 300 ask for Q10\.-2.*Q8\.0 saturates'):
        plan = allocate(small, stats, bits=8)
    assert formats(plan)["conv"][1] == "Q8.0"
    assert formats(allocate(small, stats, bits=8, dialect="plain"))["conv"][1] == "Q10.-2"


def test_many_unused_bits_are_a_warning_and_keep_step_spends_width_instead(make_net):
    net = make_net(SMALL, constants(conv=(2.0**-7, 0), ip=(1, 0)))
    with pytest.warns(LpcaffeWarning, match=r"weights up to 0\.007812 ask for Q-5\.21.*Q1\.15 leaves 6 of"):
        assert formats(allocate(net, None))["conv"][0] == "Q1.15"
    assert formats(allocate(net, None, keep_step=True))["conv"][0] == "Q1.21"
    tiny = make_net(SMALL, constants(conv=(2.0**-30, 0), ip=(1, 0)))
    assert formats(allocate(tiny, None, keep_step=True))["conv"][0] == "Q1.24"


@pytest.mark.parametrize(("magnitude", "taken"), [(1e-40, "Q-118.126"), (1e30, "Q32.-24")])
def test_plain_formats_stay_within_what_float32_data_can_hold(make_net, magnitude, taken):
    net = make_net(SMALL, constants(conv=(magnitude, 0), ip=(1, 0)))
    with pytest.warns(LpcaffeWarning, match="which float32 data cannot hold"):
        assert formats(allocate(net, None, bits=8, dialect="plain"))["conv"][0] == taken


def test_all_zeros_are_no_special_case(make_net):
    net = make_net(SMALL, constants(conv=(0, 0), ip=(0, 0)))
    assert formats(allocate(net, statistics(net, conv=0.0, ip=0.0), bits=8))["conv"] == ("Q1.7", "Q1.7")


@pytest.mark.parametrize("bits", [1, 0, -3, 26])
def test_widths_that_float32_cannot_hold_are_refused(small, bits):
    with pytest.raises(PlanError, match=f"weights: expected 2 to 25 bits, .* got {bits}"):
        allocate(small, None, bits=bits)
    with pytest.raises(PlanError, match=f"output: expected 2 to 25 bits, .* got {bits}"):
        allocate(small, None, activation_bits=bits)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "best"}, "no allocation method 'best'; known are max"),
        ({"seed": -1}, "seed"),
        ({"dialect": "x"}, "dialect"),
        ({"rounding": "x"}, "rounding"),
    ],
)
def test_unknown_options_are_refused(small, options, problem):
    with pytest.raises(PlanError, match=problem):
        allocate(small, None, **options)


def test_a_new_method_is_one_function(small, monkeypatch):
    monkeypatch.setitem(METHODS, "always", None)

    @method("always")
    def always(stats, width):
        return QFormat(3, width - 3)

    assert formats(allocate(small, None, method="always")) == {"conv": ("Q3.13", None), "ip": ("Q3.13", None)}


def test_nan_in_the_weights_is_named_with_its_index(make_net):
    def broken(weights):
        weights["ip"][0][3, 2] = -np.inf

    with pytest.raises(WeightsError, match=r'layer "ip" blob 0: the value at \[3, 2\] is -inf'):
        allocate(make_net(SMALL, broken), None)


def test_statistics_of_another_network_are_refused(small, make_net, tmp_path):
    other = make_net(SMALL.replace("num_output: 4", "num_output: 8"), folder=tmp_path / "other")
    with pytest.raises(DataError, match="the statistics are of"):
        allocate(other, statistics(small, conv=1.0, ip=1.0))


def test_comments_tell_what_the_choice_was_made_from(small):
    plan = allocate(small, statistics(small, conv=6.0, ip=100.0))
    assert plan.comments["conv"] == "|weights| <= 0.7, output -3 .. 6"


def test_folded_weights_decide_where_batch_norm_is_folded(make_net):
    def large_gain(weights):
        weights["scale"][0][:] = 64

    net = make_net(
        f"""{INPUT}
        layer {{ name: "conv" bottom: "data" top: "conv" {CONV} }}
        layer {{ name: "scale" type: "Scale" bottom: "conv" top: "conv" }}""",
        large_gain,
    )
    folded, kept = allocate(net, None).layers["conv"].weights, allocate(net, None, fold_bn=False).layers["conv"].weights
    assert folded == QFormat(kept.bd + 6, kept.ad - 6)
    assert lp.fold_batch_norm(net).by_name.keys() == {"data", "conv"}
