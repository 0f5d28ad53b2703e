"""The rewritten prototxt: which layers change, where LPActs stand, and that everything else stays as it was."""

import dataclasses

import pytest

import lpcaffe as lp
from lpcaffe.errors import NetError, PlanError
from lpcaffe.formats import prototxt
from lpcaffe.formats.schema import TEST, TRAIN
from lpcaffe.net import Net
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }\n'
CONV = 'type: "Convolution" convolution_param { num_output: 5 kernel_size: 3 %s}'
IP = 'type: "InnerProduct" inner_product_param { num_output: 7 %s}'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" bottom: "data" top: "conv" {CONV % ""} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" bottom: "conv" top: "ip" {IP % ""} }}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
"""
NORMED = f"""name: "normed"
{INPUT}
layer {{ name: "conv" bottom: "data" top: "conv" {CONV % "bias_term: false"} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "scaled" scale_param {{ bias_term: true }} }}
layer {{ name: "relu" type: "ReLU" bottom: "scaled" top: "relu" }}
layer {{ name: "ip" bottom: "relu" top: "ip" {IP % ""} }}
"""
W, A = QFormat(1, 15), QFormat(4, 12)


def net(text: str, phase: int = TEST) -> Net:
    return Net.of(prototxt.parse(text), phase=phase)


def plan(**options) -> BitPlan:
    rows = {"conv": LayerPlan("Convolution", W, A), "ip": LayerPlan("InnerProduct", QFormat(2, 6))}
    return BitPlan(rows, policy=lp.Policy(**{"fold_bn": False} | options))


def flow(result: Net) -> list[str]:
    """Each layer as `name Type bottoms>tops`."""
    return [f"{m.name} {m.type} {','.join(m.bottom)}>{','.join(m.top)}" for m in result.message.layer]


def lpfp(result: Net, name: str) -> tuple[int, int, bool, int]:
    own = result.by_name[name].message.lpfp_param
    return own.bd, own.ad, own.round_bias, own.rounding_scheme


def test_planned_layers_become_lp_layers_with_an_lpact_in_place_before_the_relu():
    low = lp.rewrite(net(SMALL), plan())
    assert flow(low) == [
        "data Input >data",
        "conv LPConvolution data>conv",
        "conv_lpact LPAct conv>conv",
        "relu ReLU conv>conv",
        "ip LPInnerProduct conv>ip",
        "prob Softmax ip>prob",
    ]
    assert lpfp(low, "conv") == (1, 15, False, 0)
    assert lpfp(low, "conv_lpact") == (4, 12, False, 0)
    assert lpfp(low, "ip") == (2, 6, False, 0)


def test_the_source_and_other_layers_are_left_alone():
    source = net(SMALL)
    before = source.message.SerializeToString(deterministic=True)
    low = lp.rewrite(source, plan())
    assert source.message.SerializeToString(deterministic=True) == before
    for name in ("data", "relu", "prob"):
        assert low.by_name[name].message == source.by_name[name].message
    assert low.by_name["conv"].message.convolution_param == source.by_name["conv"].message.convolution_param
    assert low.name == "small"


def test_after_relu_the_lpact_follows_the_relu_and_only_then():
    low = lp.rewrite(net(SMALL), plan(act_placement="after-relu"))
    assert flow(low)[1:4] == ["conv LPConvolution data>conv", "relu ReLU conv>conv", "conv_lpact LPAct conv>conv"]
    two_readers = SMALL.replace('"ReLU" bottom: "conv" top: "conv"', '"ReLU" bottom: "conv" top: "relu"')
    low = lp.rewrite(net(two_readers), plan(act_placement="after-relu"))
    assert flow(low)[1:3] == ["conv LPConvolution data>conv", "conv_lpact LPAct conv>conv"]


@pytest.mark.parametrize(
    ("fold", "placement", "expected"),
    [
        (
            True,
            "before-relu",
            ["conv LPConvolution data>scaled", "conv_lpact LPAct scaled>scaled", "relu ReLU scaled>relu"],
        ),
        (
            True,
            "after-relu",
            ["conv LPConvolution data>scaled", "relu ReLU scaled>relu", "conv_lpact LPAct relu>relu"],
        ),
        (
            False,
            "before-relu",
            [
                "conv LPConvolution data>conv",
                "bn BatchNorm conv>bn",
                "scale Scale bn>scaled",
                "conv_lpact LPAct scaled>scaled",
                "relu ReLU scaled>relu",
            ],
        ),
        (
            False,
            "after-relu",
            [
                "conv LPConvolution data>conv",
                "bn BatchNorm conv>bn",
                "scale Scale bn>scaled",
                "relu ReLU scaled>relu",
                "conv_lpact LPAct relu>relu",
            ],
        ),
    ],
)
def test_batch_norm_is_folded_or_belongs_to_the_output(fold, placement, expected):
    low = lp.rewrite(net(NORMED), plan(fold_bn=fold, act_placement=placement))
    assert flow(low) == ["data Input >data", *expected, "ip LPInnerProduct relu>ip"]
    assert low.by_name["conv"].message.convolution_param.bias_term is fold


def test_null_weights_or_outputs_leave_that_side_in_full_precision():
    layers = {"conv": LayerPlan("Convolution", None, A), "ip": LayerPlan("InnerProduct", W, None)}
    low = lp.rewrite(net(SMALL), BitPlan(layers))
    assert flow(low)[1:5] == [
        "conv Convolution data>conv",
        "conv_lpact LPAct conv>conv",
        "relu ReLU conv>conv",
        "ip LPInnerProduct conv>ip",
    ]
    assert low.by_name["conv"].message == net(SMALL).by_name["conv"].message
    assert lp.rewrite(net(SMALL), BitPlan({})).message == net(SMALL).message


def test_round_bias_and_the_rounding_scheme_are_written():
    low = lp.rewrite(net(SMALL), plan(round_bias=True, rounding="stochastic"))
    assert lpfp(low, "conv") == (1, 15, True, 1)
    assert lpfp(low, "conv_lpact")[3] == 1
    text = prototxt.dump(low.message)
    assert text.count("rounding_scheme: STOCHASTIC") == 3
    assert text.count("round_bias: true") == 2


def test_the_plain_dialect_changes_no_layer_but_folds():
    low = lp.rewrite(net(SMALL), plan(dialect="plain"))
    assert low.message == net(SMALL).message
    low = lp.rewrite(net(NORMED), plan(dialect="plain", fold_bn=True))
    assert flow(low)[1:3] == ["conv Convolution data>scaled", "relu ReLU scaled>relu"]


def blocks(result: Net, name: str) -> list[tuple[float | None, float | None]]:
    """lr_mult and decay_mult of each `param` block, None where it is not written."""
    return [
        tuple(getattr(block, field) if block.HasField(field) else None for field in ("lr_mult", "decay_mult"))
        for block in result.by_name[name].message.param
    ]


PARAM = "param { lr_mult: 3 decay_mult: 4 } "
PARAMS = PARAM + "param { lr_mult: 2 decay_mult: 0.5 } "


@pytest.mark.parametrize(
    ("source", "bias", "expected"),
    [
        ("", True, []),
        ("", False, []),
        (PARAMS, True, [(3, 4), (2, 0), (2, 0.5), (0, 0)]),
        (PARAM + "param { }", True, [(3, 4), (1, 0), (None, None), (0, 0)]),
        (PARAM + "param { lr_mult: 0 }", True, [(3, 4), (0, 0), (0, None), (0, 0)]),
        (PARAM, True, [(3, 4), (1, 0), (None, None), (0, 0)]),
        (PARAM, False, [(3, 4), (0, 0)]),
        (PARAMS, False, [(3, 4), (0, 0)]),
    ],
)
@pytest.mark.parametrize(("kind", "own"), [("Convolution", CONV), ("InnerProduct", IP)])
def test_param_blocks_follow_the_blobs(kind, own, source, bias, expected):
    own %= "" if bias else "bias_term: false"
    text = f'{INPUT} layer {{ name: "a" bottom: "data" top: "a" {source} {own} }}'
    assert blocks(lp.rewrite(net(text), BitPlan({"a": LayerPlan(kind, W)})), "a") == expected


def test_the_bias_gained_by_folding_has_its_blocks():
    text = NORMED.replace('top: "conv" type', f'top: "conv" {PARAM} type')
    assert blocks(lp.rewrite(net(text), plan(fold_bn=True)), "conv") == [(3, 4), (1, 0), (None, None), (0, 0)]
    assert blocks(lp.rewrite(net(text), plan(fold_bn=False)), "conv") == [(3, 4), (0, 0)]


def test_names_of_shared_parameters_stay_with_their_blobs():
    text = SMALL.replace('top: "conv" type', 'top: "conv" param { name: "w" } param { name: "b" } type')
    assert [b.name for b in lp.rewrite(net(text), plan()).by_name["conv"].message.param] == ["w", "", "b", ""]


def test_what_forks_added_survives():
    text = SMALL.replace("kernel_size: 3", "kernel_size: 3 fancy_mode: TURBO").replace(
        'layer { name: "ip"', 'layer { fork_param { a: 1 b { c: "x" } } name: "ip"'
    )
    low = lp.rewrite(net(text), plan())
    out = prototxt.dump(low.message)
    assert "fancy_mode: TURBO" in out
    assert prototxt.parse(out) == low.message
    assert prototxt.unknown_fields(low.message) == prototxt.unknown_fields(net(text).message)
    assert len(prototxt.unknown_fields(low.message)) == 2


def test_a_name_that_is_taken_gets_underscores():
    text = SMALL.replace('name: "relu"', 'name: "conv_lpact"').replace('name: "prob"', 'name: "conv_lpact_"')
    names = [layer.name for layer in lp.rewrite(net(text), plan()).layers]
    assert names == ["data", "conv", "conv_lpact__", "conv_lpact", "ip", "conv_lpact_"]


def test_include_and_exclude_rules_of_the_layer_are_the_lpacts_too():
    rules = 'include { phase: TEST not_stage: "small" } include { min_level: 2 }'
    text = SMALL.replace('name: "conv" bottom', f'name: "conv" {rules} bottom')
    low = lp.rewrite(net(text), plan())
    assert low.by_name["conv_lpact"].message.include == low.by_name["conv"].message.include
    assert len(low.by_name["conv_lpact"].message.include) == 2
    text = SMALL.replace('name: "conv" bottom', 'name: "conv" exclude { stage: "x" } bottom')
    assert lp.rewrite(net(text), plan()).by_name["conv_lpact"].message.exclude[0].stage == ["x"]


def test_layers_of_the_other_phase_stay_and_twins_are_converted_alike():
    text = f"""{INPUT}
    layer {{ name: "conv" include {{ phase: TRAIN }} bottom: "data" top: "conv" {CONV % ""} }}
    layer {{ name: "conv" include {{ phase: TEST }} bottom: "data" top: "conv" {CONV % "pad: 1"} }}
    layer {{ name: "ip" include {{ phase: TRAIN }} type: "Dropout" bottom: "conv" top: "ip" }}
    layer {{ name: "ip" include {{ phase: TEST }} bottom: "conv" top: "ip" {IP % ""} }}
    layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}"""
    low = lp.rewrite(net(text), plan())
    assert [(m.name, m.type, [rule.phase for rule in m.include]) for m in low.message.layer] == [
        ("data", "Input", []),
        ("conv", "LPConvolution", [TRAIN]),
        ("conv_lpact", "LPAct", [TRAIN]),
        ("conv", "LPConvolution", [TEST]),
        ("conv_lpact", "LPAct", [TEST]),
        ("ip", "Dropout", [TRAIN]),
        ("ip", "LPInnerProduct", [TEST]),
        ("prob", "Softmax", []),
    ]
    for phase in (TRAIN, TEST):
        assert "conv_lpact" in net(prototxt.dump(low.message), phase).by_name


def test_a_plan_for_another_network_is_refused():
    with pytest.raises(PlanError, match='layer "conv": the plan has Convolution, the network "" has no such layer'):
        lp.rewrite(net(INPUT), plan())
    with pytest.raises(PlanError, match="sha256"):
        lp.rewrite(net(SMALL), dataclasses.replace(plan(), sha256="0" * 64))


def test_a_low_precision_network_is_not_converted_again():
    low = lp.rewrite(net(SMALL), plan())
    with pytest.raises(NetError, match='layer "conv": expected a full-precision network, got LPConvolution'):
        lp.rewrite(low, BitPlan({}))


def test_the_text_reads_back_as_the_same_network():
    low = lp.rewrite(net(NORMED), plan(fold_bn=True))
    again = net(prototxt.dump(low.message))
    assert flow(again) == flow(low)
    assert again.sha256 == low.sha256


def test_v1_sources_give_v2_networks():
    v1 = """name: "old" input: "data" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 8
    layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 3 blobs_lr: 2 weight_decay: 4
             weight_decay: 0.5 convolution_param { num_output: 5 kernel_size: 3 } }
    layers { name: "ip" type: INNER_PRODUCT bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }"""
    low = lp.rewrite(net(v1), plan())
    assert [layer.type for layer in low.layers] == ["Input", "LPConvolution", "LPAct", "LPInnerProduct"]
    assert blocks(low, "conv") == [(3, 4), (2, 0), (2, 0.5), (0, 0)]
    assert not low.message.layers
