"""From statistics to a plan: which tensors count, who gets an output format, and what a dialect cannot say."""

import dataclasses
import re
import warnings

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.allocation import METHODS, Tensor, allocate, method, method_named, site_tensors
from lpcaffe.calibration import Calibration, TensorStats
from lpcaffe.errors import DataError, LpcaffeWarning, PlanError, WeightsError
from lpcaffe.numbers.qformat import QFormat

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
    layers = {name: TensorStats.of(np.array([-abs(high) / 2, 0, high])) for name, high in extremes.items()}
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
    return make_net(SMALL, constants(conv=(-0.7, 0.9), ip=(3.0, 0.1)))


@pytest.fixture
def large_bias(make_net):
    return make_net(SMALL, constants(conv=(-0.7, 5.0), ip=(3.0, -4.0)))


def test_weights_decide_for_weights_and_statistics_for_outputs(small):
    plan = allocate(small, statistics(small, conv=6.0, ip=100.0), bits=8)
    assert formats(plan) == {"conv": ("Q1.7", "Q4.4"), "ip": ("Q3.5", None)}
    assert [line.type for line in plan.layers.values()] == ["Convolution", "InnerProduct"]
    assert (plan.network, plan.sha256, plan.policy.fold_bn) == ("small", small.sha256, True)
    plan.check(small)


def test_widths_of_weights_and_outputs_are_separate(small):
    plan = allocate(small, statistics(small, conv=6.0, ip=100.0), bits=lp.Widths(bits=8, weights=4, outputs=12))
    assert formats(plan) == {"conv": ("Q1.3", "Q4.8"), "ip": ("Q3.1", None)}


def test_the_bias_counts_where_it_is_rounded_only(large_bias):
    stats = statistics(large_bias, conv=6.0, ip=100.0)
    plan = allocate(large_bias, stats, bits=8, bias="none")
    assert formats(plan) == {"conv": ("Q1.7", "Q4.4"), "ip": ("Q3.5", None)}
    assert not plan.policy.round_bias
    rounded = lp.Policy(round_bias=True)
    for options in ({"policy": rounded}, {"bias": "own"}, {"policy": rounded, "bias": "own"}):
        plan = allocate(large_bias, stats, bits=8, **options)
        assert formats(plan) == {"conv": ("Q4.4", "Q4.4"), "ip": ("Q4.4", None)}
        assert plan.policy.round_bias
        assert "bias" not in "".join(plan.comments.values())


def test_biases_that_would_saturate_are_reported_in_comments(large_bias):
    plan = allocate(large_bias, None, bits=8)
    assert plan.comments == {
        "conv": "|weights| <= 0.7, 1 of 5 bias values beyond Q1.7",
        "ip": "|weights| <= 3, 1 of 4 bias values beyond Q3.5",
    }
    assert not plan.policy.round_bias
    assert "bias" not in "".join(allocate(large_bias, None, bits=8, bias="none").comments.values())


@pytest.mark.parametrize(("bias", "count"), [(127 / 128, 0), (127.49 / 128, 0), (127.5 / 128, 1), (-2.0, 1)])
def test_a_bias_saturates_where_the_conversion_counts_it(make_net, tmp_path, bias, count):
    net = make_net(SMALL, constants(conv=(0.9, bias), ip=(1.0, 0.1)))
    plan = allocate(net, None, bits=8)
    assert ("1 of 5 bias values" in plan.comments["conv"]) == bool(count)
    report = lp.convert(net, plan, tmp_path / "out").report.to_json()
    assert report["layers"][0]["bias"]["saturated"] == report["totals"]["bias_saturated"] == count


@pytest.mark.parametrize(
    "options",
    [{"bias": "keep"}, {"bias": "none", "policy": lp.Policy(round_bias=True)}],
    ids=["unknown", "contradiction"],
)
def test_other_ways_with_biases_are_refused(small, options):
    with pytest.raises(PlanError, match="bias: expected report, none or own, got"):
        allocate(small, None, **options)


def test_options_reach_the_plan(small):
    stats = dataclasses.replace(statistics(small, conv=1.0, ip=1.0), fold_bn=False, act_placement="after-relu")
    plan = allocate(small, stats, policy=lp.Policy(rounding="stochastic", seed=7, dialect="plain"))
    assert (plan.policy.rounding, plan.policy.seed, plan.policy.dialect) == ("stochastic", 7, "plain")
    assert (plan.policy.fold_bn, plan.policy.act_placement) == (False, "after-relu")


def test_without_statistics_no_output_is_rounded(small):
    assert formats(allocate(small, None, bits=8)) == {"conv": ("Q1.7", None), "ip": ("Q3.5", None)}


def test_layers_that_reach_no_other_learned_layer_keep_their_output(make_net):
    net = make_net(BRANCHES)
    stats = statistics(net, stem=1.0, head=1.0, mid=1.0, last=1.0)
    rounded = {name for name, line in allocate(net, stats).layers.items() if line.output}
    assert rounded == {"stem", "mid"}
    rounded = {
        name for name, line in allocate(net, stats, policy=lp.Policy(round_output=True)).layers.items() if line.output
    }
    assert rounded == {"stem", "head", "mid", "last"}


@pytest.mark.parametrize(
    ("magnitude", "adaption", "plain"),
    # 0.4 * 2^8 = 102.4 is within 127; 0.001 * 2^16 = 65.5 is, twice that is not.
    [
        (0.9, "Q1.7", "Q1.7"),
        (0.4, "Q0.8", "Q0.8"),
        (0.001, "Q-8.16", "Q-8.16"),
        (100.0, "Q8.0", "Q8.0"),
        (2.0**-30, "Q-16.24", "Q-28.36"),
        (1000.0, "Q8.0", "Q11.-3"),
    ],
)
def test_small_weights_keep_their_format_in_both_dialects(make_net, magnitude, adaption, plain):
    """Up to ad = 24 in ADaPTION's, which needs ad >= 0 too."""
    net = make_net(SMALL, constants(conv=(magnitude, 0), ip=(1, 0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        assert formats(allocate(net, None, bits=8))["conv"][0] == adaption
    assert formats(allocate(net, None, policy=lp.Policy(dialect="plain"), bits=8))["conv"][0] == plain


def test_formats_that_a_dialect_cannot_express_are_one_warning(small):
    stats = statistics(small, conv=300.0, ip=0.01)
    policy = lp.Policy(round_output=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        plan = allocate(small, stats, bits=8, policy=policy)
    assert [str(warning.message) for warning in caught] == [
        "the dialect adaption cannot express every format (--dialect plain expresses it, and more bits help): "
        "conv output (asks for Q10.-2; Q8.0 saturates), ip output (asks for Q-5.13; Q1.7 loses 6 of 8 bits)"
    ]
    assert formats(plan) == {"conv": ("Q1.7", "Q8.0"), "ip": ("Q3.5", "Q1.7")}
    plain = allocate(small, stats, policy=dataclasses.replace(policy, dialect="plain"), bits=8)
    assert formats(plain) == {"conv": ("Q1.7", "Q10.-2"), "ip": ("Q3.5", "Q-5.13")}


def test_weights_too_small_for_the_longest_fraction_lose_all_bits_with_a_warning(make_net):
    net = make_net(SMALL, constants(conv=(2.0**-30, 0), ip=(300.0, 0)))
    lost = "conv weights (asks for Q-28.36; Q-16.24 loses all 8 bits), ip weights (asks for Q10.-2; Q8.0 saturates)"
    with pytest.warns(LpcaffeWarning, match=re.escape(lost)):
        assert formats(allocate(net, None, bits=8)) == {"conv": ("Q-16.24", None), "ip": ("Q8.0", None)}


def test_keep_even_shortens_fractions_until_no_weight_saturates(make_net):
    """At 4 bits `mse` cuts the one large weight among many small ones."""

    def edit(weights):
        weights["conv"][0][:] = np.linspace(-0.05, 0.05, weights["conv"][0].size).reshape(weights["conv"][0].shape)
        weights["conv"][0].flat[0] = 0.2

    net = make_net(SMALL, edit)
    cut, kept = (
        allocate(net, None, bits=4, method="mse", keep_even=keep).layers["conv"].weights for keep in (False, True)
    )
    assert cut.max + cut.step / 2 <= 0.2 < kept.max + kept.step / 2
    assert (cut.width, kept.width) == (4, 4)
    assert kept == QFormat.holding(0.2, 4)


@pytest.mark.parametrize(("rounding", "taken"), [("deterministic", "Q-1.9"), ("stochastic", "Q0.8")])
def test_keep_even_leaves_no_weight_to_be_written_at_the_limit(make_net, tmp_path, monkeypatch, rounding, taken):
    # ends at 127/512. What is less than half a step beyond is rounded down to it, but not always at random.
    net = make_net(SMALL, constants(conv=(127.4 / 512, 0), ip=(0.1, 0.7)))
    monkeypatch.setitem(METHODS, "too small", lambda tensor, width: QFormat(-2, width + 2))
    policy = lp.Policy(rounding=rounding)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LpcaffeWarning)  # the dialect expresses all of these
        cut, kept = (
            allocate(net, None, bits=8, method="too small", keep_even=keep, policy=policy) for keep in (False, True)
        )
    assert formats(cut) == {"conv": ("Q-2.10", None), "ip": ("Q-2.10", None)}
    assert formats(kept) == {"conv": (taken, None), "ip": ("Q-2.10", None)}
    clipped = []
    for plan in (cut, kept):
        rows = lp.convert(net, plan, tmp_path / str(len(clipped))).report.to_json()["layers"]
        clipped.append([row["weights"].get("even_clipped", 0) for row in rows])
    assert clipped == [[1, 0], [0, 0]]


def test_keep_even_counts_a_bias_that_is_rounded(make_net, monkeypatch):
    net = make_net(SMALL, constants(conv=(0.1, 0.7), ip=(0.1, 0.1)))
    monkeypatch.setitem(METHODS, "too small", lambda tensor, width: QFormat(-2, width + 2))
    policy = lp.Policy(round_bias=True)
    plan = allocate(net, None, bits=8, method="too small", keep_even=True, policy=policy)
    assert formats(plan) == {"conv": ("Q1.7", None), "ip": ("Q-2.10", None)}


@pytest.mark.parametrize(("magnitude", "taken"), [(1e-40, "Q-118.126"), (1e30, "Q32.-24")])
def test_plain_formats_stay_within_what_float32_data_can_hold(make_net, magnitude, taken):
    net = make_net(SMALL, constants(conv=(magnitude, 0), ip=(1, 0)))
    with pytest.warns(LpcaffeWarning, match="the dialect plain cannot express every format: conv weights"):
        assert formats(allocate(net, None, policy=lp.Policy(dialect="plain"), bits=8))["conv"][0] == taken


def test_all_zeros_are_no_special_case(make_net):
    net = make_net(SMALL, constants(conv=(0, 0), ip=(0, 0)))
    assert formats(allocate(net, statistics(net, conv=0.0, ip=0.0), bits=8))["conv"] == ("Q1.7", "Q1.7")


@pytest.mark.parametrize("bits", [1, 0, -3, 26])
def test_widths_that_float32_cannot_hold_are_refused(small, bits):
    with pytest.raises(PlanError, match=f"^bits: expected 2 to 25 bits, .* got {bits}"):
        allocate(small, None, bits=bits)
    with pytest.raises(PlanError, match=f"^activation_bits: expected 2 to 25 bits, .* got {bits}"):
        allocate(small, None, bits=lp.Widths(outputs=bits))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"method": "best"}, "no allocation method 'best'; known are aciq-gauss, .*, max, "),
        ({"policy": {"seed": -1}}, "seed"),
        ({"policy": {"dialect": "x"}}, "dialect"),
        ({"policy": {"rounding": "x"}}, "rounding"),
        ({"policy": {"coverage": "x"}}, "coverage"),
    ],
)
def test_unknown_options_are_refused(small, options, problem):
    with pytest.raises(PlanError, match=problem):
        allocate(small, None, **{key: lp.Policy(**own) if key == "policy" else own for key, own in options.items()})


def test_a_new_method_is_one_function(small, monkeypatch):
    monkeypatch.setitem(METHODS, "always", None)

    @method("always")
    def always(tensor, width):
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
    assert plan.comments["ip"] == "|weights| <= 3, output -50 .. 100"


def test_comments_tell_of_tensors_in_which_nothing_varies(make_net):
    def edit(weights):
        weights["conv"][0][:] = 0
        weights["ip"][0][:] = 0.25

    net = make_net(SMALL, edit)
    same = Calibration(
        {"conv": TensorStats.of(np.full(5, -2.0)), "ip": TensorStats.of(np.zeros(3))}, net.name, net.sha256
    )
    comments = allocate(net, same, bias="none").comments
    assert comments["conv"] == "|weights| <= 0 (all zero), output -2 .. -2 (constant)"
    assert comments["ip"] == "|weights| <= 0.25 (constant), output 0 .. 0 (all zero)"


def test_methods_of_weights_and_outputs_are_separate(small):
    stats = statistics(small, conv=6.0, ip=100.0)

    def chosen(*methods):
        return formats(allocate(small, stats, bits=8, method=lp.Methods(*methods)))["conv"]

    assert formats(allocate(small, stats, bits=8, method="ristretto"))["conv"] == ("Q1.7", "Q3.5")
    assert chosen("max", "ristretto") == ("Q1.7", "Q3.5")
    assert chosen("adaption") == ("Q1.7", "Q4.4")
    assert chosen("ristretto", "max") == ("Q1.7", "Q4.4")
    assert chosen("max", "overflow:0.4") == ("Q1.7", "Q3.5")
    for methods in (("best",), ("max", "best")):
        with pytest.raises(PlanError, match="no allocation method 'best'"):
            chosen(*methods)


def test_methods_see_weights_bias_and_outputs_before_and_after_the_relu(small, monkeypatch):
    seen = []
    monkeypatch.setitem(METHODS, "look", lambda tensor, width: seen.append((tensor, width)) or QFormat(4, width - 4))
    output = TensorStats.of(np.array([-5.0, 0.0, 3.0]))
    stats = Calibration(
        {"conv": output, "ip": output}, small.name, small.sha256, rectified={"conv": output.rectified()}
    )
    allocate(small, stats, policy=lp.Policy(round_output=True), bits=lp.Widths(bits=8, outputs=7), method="look")
    seen = [(tensor, width) for tensor, width in seen if tensor.stats.count]  # without the trial of its option
    assert [(tensor.role, width) for tensor, width in seen] == [("weights", 8), ("output", 7)] * 2
    weights, conv, ip_weights, ip = (tensor for tensor, _ in seen)
    blobs = [np.array(blob.array()) for blob in small.weights["conv"]]
    assert weights == Tensor("weights", TensorStats.of(blobs[0]), bias=TensorStats.of(blobs[1]))
    assert conv == Tensor("output", output, rectified=output.rectified())
    assert ip == Tensor("output", output)
    assert (ip_weights.stats.abs_max, ip_weights.bias.max) == (3.0, np.float32(0.1))


def test_site_tensors_are_those_that_get_a_format(make_net):
    net = make_net(BRANCHES)
    stats = statistics(net, stem=1.0, head=1.0, mid=1.0, last=1.0)

    def keys(stats, **options):
        return [site.key for site in site_tensors(net, stats, lp.Policy(**options))[1] if site.role != "bias"]

    assert keys(stats) == [
        *[("stem", "weights"), ("stem", "output"), ("head", "weights")],
        *[("mid", "weights"), ("mid", "output"), ("last", "weights")],
    ]
    assert [key for key in keys(stats, round_output=True) if key[1] == "output"] == [
        (name, "output") for name in ("stem", "head", "mid", "last")
    ]
    assert {role for _, role in keys(None)} == {"weights"}
    counts = {
        round_bias: {site.key: tensor.stats.count for site, tensor in found.items()}["mid", "weights"]
        for round_bias in (False, True)
        if (found := site_tensors(net, None, lp.Policy(round_bias=round_bias))[1])
    }
    sizes = [blob.array().size for blob in net.weights["mid"]]
    assert counts == {False: sizes[0], True: sum(sizes)}


def test_rules_and_kinds_reach_the_plan(small):
    stats = statistics(small, conv=6.0, ip=100.0)

    def chosen(**options):
        return formats(allocate(small, stats, bits=lp.Widths(8, **options)))

    assert chosen(conv_weights=5) == {"conv": ("Q1.4", "Q4.4"), "ip": ("Q3.5", None)}
    assert chosen(inner_product_weights=5) == {"conv": ("Q1.7", "Q4.4"), "ip": ("Q3.2", None)}
    assert chosen(rules=["first:output=6", "i*:12"]) == {"conv": ("Q1.7", "Q4.2"), "ip": ("Q3.9", None)}
    plan = allocate(small, stats, bits=5)
    assert chosen(plan=plan) == formats(plan)
    assert chosen(plan=plan, rules=["conv:6"])["conv"] == ("Q1.5", "Q4.2")
    with pytest.raises(PlanError, match=r"the rule 'cov:8' matches nothing: .* near are conv"):
        chosen(rules=["cov:8"])


def test_widths_from_a_plan_of_another_network_are_refused(small, make_net, tmp_path):
    other = make_net(SMALL.replace("num_output: 4", "num_output: 8"), folder=tmp_path / "other")
    with pytest.raises(PlanError, match='the plan is for "small"'):
        allocate(small, None, bits=lp.Widths(plan=allocate(other, None, bias="none")))


def test_the_named_method_is_that_of_the_search(small):
    stats = statistics(small, conv=6.0, ip=100.0)
    plan = allocate(small, stats, bits=9, method="percentile:90")
    choose = method_named("percentile:90")
    for site, tensor in site_tensors(small, stats, lp.Policy())[1].items():
        if site.role == "weights":
            assert plan.format_of(*site.key) == choose(tensor, 9)


def test_folded_weights_decide_where_batch_norm_is_folded(make_net):
    def large_gain(weights):
        weights["scale"][0][:] = 64

    net = make_net(
        f"""{INPUT}
        layer {{ name: "conv" bottom: "data" top: "conv" {CONV} }}
        layer {{ name: "scale" type: "Scale" bottom: "conv" top: "conv" }}""",
        large_gain,
    )
    folded, kept = (
        allocate(net, None).layers["conv"].weights,
        allocate(net, None, policy=lp.Policy(fold_bn=False)).layers["conv"].weights,
    )
    assert folded == QFormat(kept.bd + 6, kept.ad - 6)
    assert lp.fold_batch_norm(net).by_name.keys() == {"data", "conv"}
