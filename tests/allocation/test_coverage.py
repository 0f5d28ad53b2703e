"""Coverage `all` from statistics to plan: every kind of site gets the width that its options give it."""

import dataclasses

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.allocation import site_tensors
from lpcaffe.errors import DataError, PlanError
from lpcaffe.quant.sites import sites
from lpcaffe.search.trials import Trials

# Every kind of site: an input, learned layers, slopes in a blob and in a field, coefficients, a kept chain, a function
# in float that a multiplication reads, and two layers that only move values.
NET = """name: "kinds"
layer { name: "data" type: "Input" top: "pixels" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "pixels" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "slope" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "one" type: "Convolution" bottom: "conv" top: "one" convolution_param { num_output: 5 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "one" top: "sum" eltwise_param { coeff: 0.75 coeff: 1 } }
layer { name: "leaky" type: "ReLU" bottom: "sum" top: "sum" relu_param { negative_slope: 0.3 } }
layer { name: "pool" type: "Pooling" bottom: "sum" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "up" type: "Deconvolution" bottom: "pool" top: "up" convolution_param { num_output: 4 kernel_size: 2 } }
layer { name: "gate" type: "Sigmoid" bottom: "up" top: "gate" }
layer { name: "flat" type: "Flatten" bottom: "gate" top: "flat" }
layer { name: "ip" type: "InnerProduct" bottom: "flat" top: "ip" inner_product_param { num_output: 7 } }
layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }
"""
KEPT = {
    "data": ("output",),
    "conv": ("weights", "bias", "output"),
    "scale": ("weights", "bias"),
    "slope": ("weights", "output"),
    "one": ("weights", "bias", "output"),
    "sum": ("weights", "output"),
    "leaky": ("weights", "output"),
    "up": ("weights", "bias", "output"),
    "gate": ("output",),
    "ip": ("weights", "bias"),
}
FOLDED = {name: roles for name, roles in KEPT.items() if name != "scale"}
POLICY = lp.Policy(coverage="all", dialect="plain")


@pytest.fixture
def kinds(make_net):
    return make_net(NET)


@pytest.fixture
def data(kinds):
    return lp.images(np.random.default_rng(6).normal(size=(3, 3, 9, 8)).astype(np.float32), kinds)


def widths(plan):
    return {(name, role): fmt.width for name, row in plan.layers.items() for role, fmt in row.formats().items()}


def sites_of(table, roles=("weights", "output")):
    return {(name, role) for name, own in table.items() for role in own if role in roles}


@pytest.mark.parametrize("placement", ["before-relu", "after-relu"])
@pytest.mark.parametrize(("fold", "table"), [(True, FOLDED), (False, KEPT)], ids=["folded", "kept"])
def test_every_covered_site_has_a_row_in_source_order(kinds, data, fold, table, placement):
    policy = dataclasses.replace(POLICY, fold_bn=fold, act_placement=placement)
    plan = lp.allocate(kinds, lp.calibrate(kinds, data, policy=policy), bits=8, policy=policy)
    expected = sites_of(table)
    if placement == "after-relu":  # one output with the activation behind it, named after that
        expected -= {("conv", "output"), ("sum", "output")}
    assert widths(plan) == dict.fromkeys(expected, 8)
    order = [layer.name for layer in kinds.layers]
    assert list(plan.layers) == sorted(plan.layers, key=order.index)
    assert lp.BitPlan.from_json(plan.to_json()).layers == plan.layers


def test_widths_reach_every_kind_of_site(kinds, data):
    policy = dataclasses.replace(POLICY, fold_bn=False)
    stats = lp.calibrate(kinds, data, policy=policy)
    rules = ("data:output=9", "type=Eltwise:weights=5", "conv:bias=12", "leaky:6", "gate:output=10", "last:bias=11")
    plan = lp.allocate(kinds, stats, bits=lp.Widths(8, outputs=7, bias=20, rules=rules), policy=policy)
    found = {key: 7 if key[1] == "output" else 8 for key in sites_of(KEPT)}
    found |= dict.fromkeys(sites_of(KEPT, ("bias",)), 20)
    found |= {("data", "output"): 9, ("sum", "weights"): 5, ("conv", "bias"): 12, ("ip", "bias"): 11}
    found |= {("leaky", "weights"): 6, ("leaky", "output"): 6, ("gate", "output"): 10}
    assert widths(plan) == found
    same = lp.allocate(kinds, stats, bits=lp.Widths(3, bias=5, plan=plan), policy=policy)
    assert widths(same) == found


def test_what_a_rule_names_must_get_a_format(kinds, data):
    stats = lp.calibrate(kinds, data, policy=POLICY)
    for rule in ("pool:8", "scale:bias=8", "type=Pooling:output=8"):
        with pytest.raises(PlanError, match="matches nothing"):
            lp.allocate(kinds, stats, bits=lp.Widths(rules=(rule,)), policy=POLICY)
    for rule, lacks in (("data:weights=8", "data has no weights"), ("type=PReLU:bias=8", "type=PReLU has no bias")):
        with pytest.raises(PlanError, match=f"the rule '{rule}' matches nothing: {lacks}"):
            lp.allocate(kinds, stats, bits=lp.Widths(rules=(rule,)), policy=POLICY)


def test_coverage_learned_gives_a_width_to_the_biases_of_its_own_layers_alone(kinds, data):
    policy = lp.Policy(dialect="plain", fold_bn=False)
    plan = lp.allocate(kinds, lp.calibrate(kinds, data, policy=policy), bits=lp.Widths(8, bias=12), policy=policy)
    learned = {"conv", "one", "ip"}
    assert plan.layers.keys() == learned
    assert {key for key, width in widths(plan).items() if width == 12} == {(name, "bias") for name in learned}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("placement", ["before-relu", "after-relu"])
def test_statistics_of_coverage_all_serve_learned(kinds, data, placement, fold):
    learned = lp.Policy(dialect="plain", act_placement=placement, fold_bn=fold)
    everything = dataclasses.replace(learned, coverage="all")
    wide, narrow = (lp.calibrate(kinds, data, policy=policy) for policy in (everything, learned))
    for method in ("max", "sqnr"):
        plans = [lp.allocate(kinds, stats, bits=8, method=method, policy=learned) for stats in (wide, narrow)]
        assert plans[0].to_yaml() == plans[1].to_yaml()
        assert {name for name, row in plans[0].layers.items() if row.output} == {"conv", "one"}
    with pytest.raises(DataError, match="the statistics, of coverage learned, do not have its output; calibrate with"):
        lp.allocate(kinds, narrow, bits=8, policy=everything)


def test_weights_share_a_format_with_the_biases_that_round_bias_rounds_in_it(kinds):
    """Those of convolutions and inner products. Others have the grid of their sums."""
    tensors = {}
    for round_bias in (False, True):
        policy = dataclasses.replace(POLICY, fold_bn=False, round_bias=round_bias)
        _, found = site_tensors(kinds, None, policy)
        tensors[round_bias] = {site.key: tensor.stats for site, tensor in found.items()}
    for name in ("conv", "one", "ip"):
        assert tensors[True][name, "weights"] == tensors[False][name, "weights"] + tensors[False][name, "bias"]
    for name in ("scale", "up"):
        assert tensors[True][name, "weights"] == tensors[False][name, "weights"]


def test_what_the_methods_see_of_fields_are_their_values(kinds):
    _, tensors = site_tensors(kinds, None, POLICY)
    seen = {site.layer: tensor.stats for site, tensor in tensors.items() if site.role == "weights"}
    assert (seen["leaky"].count, seen["leaky"].max) == (1, np.float32(0.3))
    assert (seen["sum"].count, seen["sum"].min, seen["sum"].max) == (2, 0.75, 1)
    assert seen["slope"].count == 5


@pytest.mark.filterwarnings("ignore:the dialect adaption cannot express every format")
@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
@pytest.mark.parametrize("how", ["on the grid of the sums", "own width", "round_bias"])
def test_every_kind_of_site_is_verified_and_computed_alike(kinds, data, tmp_path, how, rounding):
    policy = lp.Policy(coverage="all", fold_bn=False, rounding=rounding, seed=5, round_bias=how == "round_bias")
    stats = lp.calibrate(kinds, data, policy=policy)
    bits = lp.Widths(8, bias=20 if how == "own width" else None)
    plan = lp.allocate(kinds, stats, bits=bits, policy=policy)
    pair = lp.convert(kinds, plan, tmp_path / "out").net
    files = (tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel")
    assert lp.verify(*files, plan=plan).failures == []
    (x,) = data.batches(3)
    x = x["pixels"]
    expected = lp.run(pair, x, seed=5)["prob"]
    np.testing.assert_array_equal(lp.run(lp.quantize(kinds, plan), x, seed=5)["prob"], expected)
    explicit = {site: fmt for site in sites(kinds, policy) if (fmt := plan.format_of(*site.key)) is not None}
    noise = Trials(kinds, data, policy=policy)(explicit).noise
    assert noise == lp.validate(kinds, pair, data, plan=plan).classifier.error.noise > 0
