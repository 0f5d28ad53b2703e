"""Every invariant of a low-precision pair is checked, each by a pair in which that alone is wrong."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import NetError, PlanError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param { num_output: 7 bias_term: false } }
layer { name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param { num_output: 4 } }
"""
Q = QFormat(1, 4)
GOLDEN = Path(__file__).parents[1] / "golden" / "lp_layers"


def plan(**policy) -> BitPlan:
    layers = {
        "conv": LayerPlan("Convolution", Q, QFormat(3, 5)),
        "ip": LayerPlan("InnerProduct", QFormat(2, 7)),
        "last": LayerPlan("InnerProduct", None, QFormat(6, 2)),
    }
    return BitPlan(layers, policy=Policy(**({"fold_bn": False} | policy)))


@pytest.fixture
def pair(pair_of):
    """A function that converts the network and gives the pair."""

    def make(text=NET, own=None, **options):
        return pair_of(text, own or plan(**options))

    return make


@pytest.mark.parametrize(
    "options",
    [{}, {"round_bias": True}, {"rounding": "stochastic", "seed": 3}, {"act_placement": "after-relu"}],
)
def test_what_convert_writes_holds_with_its_plan_and_without(pair, options):
    made = pair(**options)
    for given in (None, plan(**options), dataclasses.replace(plan(**options), sha256="0" * 64)):
        found = made.verify(plan=given)
        assert (found.holds, found.failures, found.notes) == (True, [], [])
        assert [(check.layer, check.blob, check.count, check.differing) for check in found.rounding] == [
            ("conv", 1, 90, 0),
            ("conv", 3, 5, 0),
            ("ip", 1, 7 * 5 * 7 * 7, 0),
        ]
    rows = {row["name"]: (row["type"], row["format"]) for row in found.to_json()["layers"]}
    assert rows == {
        "conv": ("LPConvolution", "Q1.4"),
        "conv_lpact": ("LPAct", "Q3.5"),
        "ip": ("LPInnerProduct", "Q2.7"),
        "last_lpact": ("LPAct", "Q6.2"),
    }


@pytest.mark.parametrize("net", sorted(GOLDEN.glob("*.prototxt")), ids=lambda path: path.stem)
def test_what_adaption_wrote_holds(net):
    """Rounded biases that no layer uses are filler there, and its LPActs are not in place."""
    found = lp.verify(net, net.with_suffix(".caffemodel"))
    assert found.failures == []
    assert found.rounding
    for note in found.notes:
        assert re.search(r"blob 3: .* no layer uses them|this LPAct is not in place", note)


def test_kept_and_folded_batch_norm_hold(pair):
    normed = NET.replace(
        'layer { name: "relu"', 'layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }\nlayer { name: "relu"'
    ).replace('type: "ReLU" bottom: "conv" top: "conv"', 'type: "ReLU" bottom: "bn" top: "conv_"')
    normed = normed.replace('bottom: "conv" top: "ip"', 'bottom: "conv_" top: "ip"')
    for fold in (True, False):
        found = pair(normed, plan(fold_bn=fold)).verify(plan=plan(fold_bn=fold))
        assert (found.failures, found.notes) == ([], [])


def test_one_wrong_bit_is_found(pair):
    made = pair()
    made.blobs["ip"][1].flat[100] += np.float32(2**-7)
    found = made.verify()
    assert found.failures == ['layer "ip" blob 1: 1 of 1715 values are not round_fp of blob 0, the first at 100']
    assert [check.differing for check in found.rounding] == [0, 0, 1]


def test_an_unused_rounded_bias_is_noted_and_a_used_one_counts(pair):
    for round_bias in (False, True):
        made = pair(round_bias=round_bias)
        made.blobs["conv"][3][:] = 0.7
        found = made.verify()
        said = 'layer "conv" blob 3: 5 of 5 values are not round_fp of blob 2'
        if round_bias:
            assert (found.failures, found.notes) == ([f"{said}, the first at 0"], [])
        else:
            assert (found.failures, found.notes) == ([], [f"{said}; no layer uses them (round_bias is false)"])
        made.blobs["conv"][3][2] = np.nan
        assert any("nan, expected a finite number" in line for line in made.verify().failures) is round_bias


def test_stochastic_values_are_neighbours_without_a_plan_and_exact_with_it(pair):
    own = plan(rounding="stochastic", seed=3)
    made = pair(own=own)
    even, odd = made.blobs["conv"][:2]
    other = np.where(odd > even, odd - Q.step, odd + Q.step)
    moved = (odd != even) & (np.abs(other) <= Q.max)
    made.blobs["conv"][1] = np.where(moved, other, odd).astype(np.float32)
    assert made.verify().holds
    (failure,) = made.verify(plan=own).failures
    assert re.match(rf'layer "conv" blob 1: {np.count_nonzero(moved)} of 90 values are not round_fp', failure)
    assert not made.verify(plan=plan(rounding="stochastic", seed=4)).holds
    made.blobs["conv"][1] = odd + np.float32(3 * Q.step)
    assert made.verify().rounding[0].differing > 60


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bd: 1", "bd: 0", 'layer "conv": lpfp_param needs bd >= 1 (got 0); bd counts the sign bit'),
        ("    bd: 1\n", "", 'layer "conv": lpfp_param lacks bd; neither bd nor ad has a default'),
        ("    ad: 4\n", "", 'layer "conv": lpfp_param lacks ad; neither bd nor ad has a default'),
        ("ad: 4", "ad: 25", 'layer "conv": Q1.25 has 26 bits; a float32 holds every value of a format only up to'),
        ("ad: 2\n", "ad: 4000000000\n", 'layer "last_lpact": Q6.4000000000: step and range must be float64 numbers'),
        ("bd: 6", "bd: 0", 'layer "last_lpact": lpfp_param needs bd >= 1 (got 0); bd counts the sign bit'),
    ],
)
def test_a_format_that_cannot_be_is_a_failure_and_hides_no_other(pair, old, new, said):
    made = pair()
    made.text(old, new)
    made.blobs["ip"][1].flat[7] += 1
    made.blobs["last"] = made.blobs["last"][:1]
    found = made.verify(plan=plan())
    assert found.failures[0].startswith(said)
    assert [line.split(":")[0] for line in found.failures[1:]] == ['layer "last"', 'layer "ip" blob 1']
    assert ("conv" in {check.layer for check in found.rounding}) is ("last_lpact" in said)


def test_lpfp_param_must_be_there(pair):
    made = pair()
    text = made.net.read_text()
    made.net.write_text(re.sub(r"  lpfp_param \{[^}]*\}\n", "", text, count=1))
    assert made.verify().failures == ['layer "conv": lpfp_param lacks bd and ad; neither bd nor ad has a default']


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conv": slice(0, 2)}, ['layer "conv": expected 4 blobs, got 2']),
        ({"ip": slice(0, 1)}, ['layer "ip": expected 2 blobs, got 1']),
        ({"ip": slice(0, 0)}, ['layer "ip": the weights have no blobs for this layer, expected 2']),
        ({"last": slice(0, 0)}, ['layer "last": the weights have no blobs for this layer, expected 2']),
    ],
)
def test_missing_blobs(pair, change, said):
    made = pair()
    for name, part in change.items():
        made.blobs[name] = made.blobs[name][part]
    assert made.verify().failures[: len(said)] == said


def test_every_shape_is_checked(pair):
    made = pair()
    made.blobs["conv"][1] = made.blobs["conv"][1].reshape(5, 3, 2, 3)
    made.blobs["last"][0] = made.blobs["last"][0].T
    assert made.verify().failures == [
        'layer "conv" blob 1: expected the shape 5 x 3 x 3 x 2, got 5 x 3 x 2 x 3',
        'layer "last" blob 0: expected the shape 4 x 7, got 7 x 4',
    ]


def test_values_must_be_finite_in_every_layer(pair):
    made = pair()
    made.blobs["conv"][2][4] = np.inf
    made.blobs["last"][0][3, 2] = np.array(0x7F800001, np.uint32).view(np.float32)
    found = made.verify()
    assert 'layer "conv" blob 2: the value at [4] is inf, expected a finite number' in found.failures
    assert 'layer "last" blob 0: the value at [3, 2] is nan, expected a finite number' in found.failures
    made.blobs["conv"][1].flat[0] = np.array(0x7F800001, np.uint32).view(np.float32)
    assert 'layer "conv" blob 1: the value at [0, 0, 0, 0] is nan, expected a finite number' in made.verify().failures


def test_two_layers_of_which_one_overwrites_the_other_s_blob_are_checked_apart(pair):
    """In place, so that a layer alone writes the blob that it reads."""
    made = pair()
    text = made.net.read_text()
    ip = text[text.index('layer {\n  name: "ip"') :].partition("\n}\n")[0]
    made.net.write_text(
        text.replace(ip, ip.replace('top: "ip"', 'top: "conv"')).replace('bottom: "ip"', 'bottom: "conv"')
    )
    assert made.verify().holds
    made.blobs["ip"][1].flat[7] += 1
    assert made.verify().failures == ['layer "ip" blob 1: 1 of 1715 values are not round_fp of blob 0, the first at 7']


def test_a_layer_that_a_stage_brings_is_checked(pair):
    made = pair()
    made.text('name: "ip"\n', 'name: "ip"\n  include { stage: "low" }\n')
    made.net.write_text(made.net.read_text() + 'state { stage: "low" }\n')
    found = made.verify()
    assert (found.failures, found.notes) == ([], [])
    assert [check.layer for check in found.rounding].count("ip") == 1


def test_layers_that_only_one_file_has(pair):
    made = pair()
    made.blobs["old"] = [np.ones(3, np.float32)]
    made.blobs["relu"] = [np.ones(3, np.float32), np.ones(2, np.float32)]
    assert made.verify(rest=["old"]).failures == [
        'layer "old": the weights have 1 blob, the prototxt has no such layer',
        'layer "relu": the weights have 2 blobs for a layer without',
    ]


def test_a_layer_behind_one_without_shapes_is_checked_too(pair):
    made = pair()
    made.text('type: "ReLU"', 'type: "Odd"')
    made.blobs["ip"][1].flat[3] += 1
    found = made.verify()
    assert 'layer "relu": layer type "Odd" is not known' in found.failures[0]
    assert found.failures[1:] == [
        'layer "ip" blob 1: 1 of 1715 values are not round_fp of blob 0, the first at 3',
    ]
    made.blobs["ip"] = []
    assert 'layer "ip": the weights have no blobs for this layer' in made.verify().failures


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weights": QFormat(2, 3)}, ['layer "conv": weights: the low-precision network has Q1.4, the plan has Q2.3']),
        ({"output": QFormat(3, 4)}, ['layer "conv": output: the low-precision network has Q3.5, the plan has Q3.4']),
        ({"output": None}, ['layer "conv": output: the low-precision network has Q3.5, the plan has none']),
        ({"type": "InnerProduct"}, ['layer "conv": the plan has InnerProduct, the network Convolution']),
    ],
)
def test_a_plan_that_disagrees_is_a_failure(pair, change, said):
    own = dict(plan().layers)
    own["conv"] = dataclasses.replace(own["conv"], **change)
    assert pair().verify(plan=dataclasses.replace(plan(), layers=own)).failures == said


def test_layers_of_the_plan_and_its_options(pair):
    made = pair()
    gone = dataclasses.replace(plan(), layers={**plan().layers, "gone": LayerPlan("Convolution", Q)})
    assert made.verify(plan=gone).failures == [
        'layer "gone": the plan has Convolution, the network "small" has no such layer'
    ]
    failures = made.verify(plan=plan(rounding="stochastic")).failures
    says = "rounding: the low-precision network has deterministic, the plan has stochastic"
    assert failures == [f'layer "{name}": {says}' for name in ("conv", "ip", "conv_lpact", "last_lpact")]
    failures = made.verify(plan=plan(round_bias=True)).failures
    says = "round_bias: the low-precision network has False, the plan has True"
    assert failures == [f'layer "{name}": {says}' for name in ("conv", "ip")]
    made.blobs["ip"][1].flat[5] += 1
    wrong = 'layer "ip" blob 1: 1 of 1715 values are not round_fp of blob 0, the first at 5'
    assert wrong in made.verify(plan=plan(round_bias=True)).failures
    with pytest.raises(PlanError, match="expected a plan of the dialect adaption, got plain"):
        made.verify(plan=plan(dialect="plain"))


ACT = 'layer {{ name: "more" type: "LPAct" bottom: "{0}" top: "{1}" lpfp_param {{ bd: 3 ad: {2} }} }}\n'


def test_an_lpact_on_the_input_is_for_a_plan_to_judge(pair):
    made = pair()
    made.text('layer {\n  name: "conv"', ACT.format("data", "data", 3) + 'layer {\n  name: "conv"')
    found = made.verify()
    assert (found.failures, found.notes) == ([], [])
    assert made.verify(plan=plan()).failures == [
        'layer "data": output: the low-precision network has Q3.3, the plan has none'
    ]


def test_an_lpact_elsewhere_is_noted(pair):
    made = pair()
    made.text('layer {\n  name: "ip"', ACT.format("conv", "conv", 5) + 'layer {\n  name: "ip"')
    for given in (None, plan()):
        found = made.verify(plan=given)
        said = 'layer "more": this LPAct rounds conv@relu, where a conversion puts none'
        assert (found.failures, found.notes) == ([], [said])
    text = made.net.read_text()
    made.net.write_text(text.partition('layer {\n  name: "last_lpact"')[0])
    made.text(ACT.format("conv", "conv", 5), "")
    made.net.write_text(made.net.read_text() + ACT.format("last", "rounded", 3))
    found = made.verify()
    assert (found.failures, found.notes) == ([], ['layer "more": this LPAct is not in place'])


@pytest.mark.parametrize("spoilt", ["conv_lpact", "more"])
def test_a_second_lpact_hides_no_wrong_format(pair, spoilt):
    made = pair()
    made.text('layer {\n  name: "ip"', ACT.format("conv", "conv", 5) + 'layer {\n  name: "ip"')
    text = made.net.read_text()
    at = text.index(f'"{spoilt}"')
    made.net.write_text(text[:at] + text[at:].replace("ad: 5", "ad: 4", 1))
    said = "output: the low-precision network has Q3.4, the plan has"
    assert any(said in line for line in made.verify(plan=plan()).failures)


def test_an_lpact_at_another_place_than_the_plan_s_is_noted(pair):
    made = pair(own=plan(act_placement="after-relu"))
    assert made.verify().notes == []
    found = made.verify(plan=plan())
    assert found.holds
    assert found.notes == ['layer "conv_lpact": this LPAct rounds conv@relu, a conversion rounds conv@conv']


def test_an_lpact_inside_a_kept_chain_is_noted(pair):
    normed = NET.replace(
        'layer { name: "relu"',
        """layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu\"""",
    )
    made = pair(normed)
    text = made.net.read_text()
    act = re.search(r'layer \{\n  name: "conv_lpact".*?\n\}\n', text, re.DOTALL)[0]
    bn = re.search(r'layer \{\n  name: "bn".*?\n\}\n', text, re.DOTALL)[0]
    assert bn + act in text
    made.net.write_text(text.replace(bn + act, act + bn))
    found = made.verify()
    assert (found.failures, found.notes) == (
        [],
        ['layer "conv_lpact": this LPAct rounds conv@conv, a conversion rounds conv@bn'],
    )


def test_old_bd_is_counted(pair):
    made = pair()
    made.net.write_text(re.sub(r"bd: (\d+)", lambda match: f"bd: {int(match[1]) - 1}", made.net.read_text()))
    assert not made.verify().holds
    assert made.verify(old_bd=True, plan=plan()).holds


def test_a_network_without_lp_layers_is_refused(make_net, tmp_path):
    make_net(NET)
    with pytest.raises(NetError, match=r"net\.prototxt: expected a low-precision network, got one without LP layers"):
        lp.verify(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
