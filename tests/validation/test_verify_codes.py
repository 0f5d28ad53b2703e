"""What a prototxt alone cannot show: codes narrower than the written format, and values that are rounded in place."""

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.numbers import ChannelQFormat, QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
"""
Q, TIGHT = QFormat(1, 4), QFormat(-1, 6)


def tight_plan(**policy) -> BitPlan:
    return BitPlan({"conv": LayerPlan("Convolution", TIGHT)}, policy=Policy(fold_bn=False, **policy))


@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
@pytest.mark.parametrize("round_bias", [False, True])
def test_formats_without_a_bit_before_the_point_hold_with_their_plan_and_without(pair_of, rounding, round_bias):
    own = tight_plan(rounding=rounding, seed=3, round_bias=round_bias)
    made = pair_of(SMALL, own)
    assert np.abs(made.blobs["conv"][1]).max() == TIGHT.max
    for given in (None, own):
        found = made.verify(plan=given)
        assert (found.failures, found.notes) == ([], [])
        (row,) = found.to_json()["layers"]
        assert (row["name"], row["format"], row["bits"]) == ("conv", "Q1.6", TIGHT.width)


def test_a_value_beyond_the_width_of_the_plan_is_found_though_the_prototxt_allows_it(pair_of):
    own = tight_plan()
    made = pair_of(SMALL, own)
    for index in (0, 1):
        made.blobs["conv"][index].flat[17] = TIGHT.max + TIGHT.step
    assert made.verify().to_json()["layers"][0]["bits"] == TIGHT.width + 1
    assert made.verify().holds
    (failure,) = made.verify(plan=own).failures
    assert failure == 'layer "conv" blob 1: 1 of 90 values are not round_fp of blob 0, the first at 17'


SLOPED = """name: "sloped"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 5 kernel_size: 2 } }
layer { name: "slope" type: "PReLU" bottom: "conv" top: "slope" }
layer { name: "up" type: "Deconvolution" bottom: "slope" top: "up"
        convolution_param { num_output: 7 kernel_h: 2 kernel_w: 3 } }
"""


def sloped_plan(up=Q) -> BitPlan:
    layers = {
        "conv": LayerPlan("Convolution", Q, bias=QFormat(2, 9)),
        "slope": LayerPlan("PReLU", QFormat(1, 3)),
        "up": LayerPlan("Deconvolution", up, bias=QFormat(1, 6)),
    }
    return BitPlan(layers, policy=Policy(fold_bn=False, coverage="all"))


IN_PLACE = [("conv", 2), ("slope", 0), ("up", 0), ("up", 1)]


@pytest.mark.parametrize(("layer", "blob"), IN_PLACE)
@pytest.mark.parametrize("up", [Q, ChannelQFormat(5, (4, 3, 2, 5, 4, 3, 2))])
def test_what_is_rounded_in_place_is_checked_with_the_plan(pair_of, layer, blob, up):
    own = sloped_plan(up)
    made = pair_of(SLOPED, own)
    assert made.verify(plan=own).failures == []
    size = made.blobs[layer][blob].size
    made.blobs[layer][blob].flat[2] += np.float32(2**-12)
    if layer == "conv":
        made.blobs[layer][blob + 1] = lp.round_fp(made.blobs[layer][blob], Q.bd, Q.ad)
    assert made.verify().failures == []
    fmt = {("conv", 2): "Q2.9", ("slope", 0): "Q1.3", ("up", 0): str(up), ("up", 1): "Q1.6"}[layer, blob]
    said = f'layer "{layer}" blob {blob}: 1 of {size} values are not in {fmt}, the first at 2'
    assert made.verify(plan=own).failures == [said]


@pytest.mark.parametrize(("layer", "blob"), IN_PLACE[1:])
@pytest.mark.parametrize("up", [Q, ChannelQFormat(5, (4, 3, 2, 5, 4, 3, 2))])
@pytest.mark.parametrize("spoil", ["missing", "size", "nan"])
def test_what_is_wrong_in_place_in_one_layer_hides_no_other(pair_of, layer, blob, up, spoil):
    own = sloped_plan(up)
    made = pair_of(SLOPED, own)
    blobs = made.blobs[layer]
    if spoil == "missing":
        del blobs[blob:]
    elif spoil == "size":
        blobs[blob] = np.concatenate([blobs[blob], blobs[blob]])
    else:
        blobs[blob].flat[2] = np.array(0x7F800001, np.uint32).view(np.float32)
    found = made.verify(plan=own)
    assert found.failures
    assert all(f'layer "{layer}"' in line for line in found.failures)
    made.blobs["conv"][2].flat[1] += 1
    made.blobs["conv"][2].flat[3] += np.float32(2**-12)
    said = 'layer "conv" blob 2: 1 of 5 values are not in Q2.9, the first at 3'
    assert said in made.verify(plan=own).failures
    del made.blobs["conv"][3]
    other = "slope" if layer == "up" else "up"
    made.blobs[other][0].flat[1] += np.float32(2**-12)
    failures = made.verify(plan=own).failures
    assert any(f'layer "{other}" blob 0: 1 of ' in line for line in failures)
    assert any('layer "conv": expected 4 blobs, got 3' in line for line in failures)


TWO = SMALL + 'layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }'


def derived_plan() -> BitPlan:
    """Rows of LP layers alone; the bias of `ip` lies on the grid of its sums, 2^-11."""
    layers = {"conv": LayerPlan("Convolution", TIGHT, QFormat(3, 5)), "ip": LayerPlan("InnerProduct", QFormat(1, 6))}
    return BitPlan(layers, policy=Policy(fold_bn=False, coverage="all"))


def test_a_bias_off_the_grid_that_follows_from_the_plan_is_found(pair_of):
    own = derived_plan()
    made = pair_of(TWO, own)
    assert made.verify(plan=own).failures == []
    made.blobs["ip"][2][3] += np.float32(2**-14)
    assert made.verify().failures == []
    (failure,) = made.verify(plan=own).failures
    assert failure == 'layer "ip" blob 2: 1 of 7 values are not in Q21.11, the first at 3'


def test_validate_lists_the_float_sites_of_the_report(make_net, tmp_path):
    net, own = make_net(TWO), derived_plan()
    done = lp.convert(net, own, tmp_path / "out")
    np.save(tmp_path / "x.npy", np.random.default_rng(1).normal(size=(3, 3, 9, 8)).astype(np.float32))
    proof = lp.validate(net, done, lp.images(tmp_path / "x.npy", net))
    assert proof.failures == []
    expected = ["data/output", "conv/bias", "ip/output"]
    assert [site.path for site in proof.comparison.float_sites] == expected
    assert done.report.to_json()["float_sites"] == expected
