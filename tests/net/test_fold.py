"""Folding BatchNorm, Scale and Bias: the same function, fewer layers; what cannot be folded stays, with its reason."""

import dataclasses

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes, run
from lpcaffe.errors import NetError, WeightsError
from lpcaffe.formats.prototxt import dump
from lpcaffe.formats.schema import TRAIN
from lpcaffe.net import ArrayBlob, Rounding, chain_after, fold_batch_norm, quantizable_layers, unfolded
from lpcaffe.numbers.qformat import QFormat

CONV = "convolution_param { num_output: 6 kernel_size: 3 "
IP = "inner_product_param { num_output: 5 "
LEARNED = {
    "conv": ("Convolution", CONV + "}"),
    "conv without bias": ("Convolution", CONV + "bias_term: false }"),
    "grouped conv": ("Convolution", CONV + "group: 2 pad: 1 }"),
    "dilated conv": ("Convolution", CONV + "dilation: 2 stride: 2 bias_term: false }"),
    "depthwise conv": ("Convolution", "convolution_param { num_output: 4 kernel_size: 2 group: 4 }"),
    "inner product": ("InnerProduct", IP + "}"),
    "inner product without bias": ("InnerProduct", IP + "bias_term: false }"),
    "transposed inner product": ("InnerProduct", IP + "transpose: true }"),
}
FOLLOWERS = {
    "BatchNorm": [("BatchNorm", "")],
    "Scale": [("Scale", "")],
    "Scale with bias": [("Scale", "scale_param { bias_term: true }")],
    "Bias": [("Bias", "")],
    "BatchNorm, Scale": [("BatchNorm", "batch_norm_param { eps: 0.01 }"), ("Scale", "")],
    "BatchNorm, Scale with bias": [("BatchNorm", ""), ("Scale", "scale_param { bias_term: true }")],
    "BatchNorm, Scale, Bias": [("BatchNorm", ""), ("Scale", ""), ("Bias", "")],
    "Bias, Scale, BatchNorm": [
        ("Bias", ""),
        ("Scale", ""),
        ("BatchNorm", "batch_norm_param { use_global_stats: true }"),
    ],
}


def layer(name: str, kind: str, bottoms: str, tops: str, text: str = "") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottoms.split()) + "".join(f'top: "{t}" ' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}" {names} {text} }}\n'


def chain(learned: str, followers: str, *, in_place: bool = False, end: str = "ReLU") -> str:
    """A learned layer "l", its followers "f0", "f1", ..., with tops of their own or in place, and a last layer."""
    kind, text = LEARNED[learned]
    net, bottom = layer("l", kind, "data", "l", text), "l"
    for i, (kind, text) in enumerate(FOLLOWERS[followers]):
        top = bottom if in_place else f"f{i}"
        net += layer(f"f{i}", kind, bottom, top, text)
        bottom = top
    return net + layer("end", end, bottom, "end")


def values(blobs) -> list[np.ndarray]:
    return [blob.array() for blob in blobs]


@pytest.mark.parametrize("followers", FOLLOWERS)
@pytest.mark.parametrize("learned", LEARNED)
def test_a_folded_chain_computes_what_the_chain_did(random_net, learned, followers):
    """In float64 all that is left between both are the folded weights' and biases' own roundings to float32.

    Each is off by at most 2^-24 of itself, so an output by at most 2^-24 of the sum of |W'| |x| + |b'|, which is what
    the folded network computes from absolute weights and inputs.
    """
    net = random_net(chain(learned, followers, end="Split"))
    folded = fold_batch_norm(net)
    assert [item.name for item in folded.layers] == ["data", "l", "end"]
    x = np.random.default_rng(1).normal(size=(2, 4, 7, 6)).astype(np.float32)
    expected, got = run(net, x, dtype="float64")["end"], run(folded, x, dtype="float64")["end"]
    positive = {"l": [ArrayBlob(np.abs(blob)) for blob in values(folded.weights["l"])]}
    size = run(folded.replace(folded.message, positive), np.abs(x), dtype="float64")["end"]
    assert (np.abs(got - expected) <= size * 2.0**-24 * (1 + 1e-6)).all()
    assert not np.array_equal(expected, run(net, x, dtype="float64")["l"])  # the followers do something
    in_float32 = run(folded, x)["end"]
    np.testing.assert_allclose(in_float32, run(net, x)["end"], rtol=0, atol=1e-5 * np.abs(expected).max())


def test_folded_weights_are_the_float64_product_rounded_once(random_net):
    net = random_net(chain("conv", "BatchNorm, Scale with bias"))
    (w, b), (mean, variance, factor), (gamma, beta) = (
        [blob.astype(np.float64) for blob in values(net.weights[name])] for name in ("l", "f0", "f1")
    )
    gain = gamma * (1 / np.sqrt(variance * (1 / factor) + float(np.float32(1e-5))))
    folded_w, folded_b = values(fold_batch_norm(net).weights["l"])
    assert (folded_w.dtype, folded_w.shape, folded_b.dtype) == (np.float32, (6, 4, 3, 3), np.float32)
    np.testing.assert_allclose(folded_w, w * gain[:, None, None, None], rtol=2.0**-24 * 1.001, atol=0)
    offset = beta - mean / factor * gain
    np.testing.assert_allclose(folded_b, gain * b + offset, rtol=0, atol=2.0**-23 * np.abs(offset).max())


def test_a_scale_factor_of_zero_means_mean_and_variance_zero(random_net):
    net = random_net(chain("conv", "BatchNorm"))
    net.weights["f0"][2] = ArrayBlob(np.zeros(1, np.float32))
    w, b = values(net.weights["l"])
    gain = 1 / np.sqrt(float(np.float32(1e-5)))
    folded_w, folded_b = values(fold_batch_norm(net).weights["l"])
    np.testing.assert_array_equal(folded_w, (w.astype(np.float64) * gain).astype(np.float32))
    np.testing.assert_array_equal(folded_b, (b.astype(np.float64) * gain).astype(np.float32))


@pytest.mark.parametrize("learned", ["inner product", "transposed inner product", "conv"])
def test_legacy_blobs_fold_like_any_others(random_net, learned):
    net = random_net(chain(learned, "BatchNorm, Scale with bias"))
    legacy = {
        name: [ArrayBlob(b.array().reshape((1,) * (4 - len(b.shape)) + b.shape), legacy=True) for b in blobs]
        for name, blobs in net.weights.items()
    }
    old = fold_batch_norm(net.replace(net.message, legacy))
    for blob, other in zip(old.weights["l"], fold_batch_norm(net).weights["l"], strict=True):
        np.testing.assert_array_equal(blob.array().ravel(), other.array().ravel())
    assert old.weights["l"][0].legacy
    x = np.ones((2, 4, 7, 6), np.float32)
    np.testing.assert_array_equal(run(old, x)["end"], run(fold_batch_norm(net), x)["end"])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_folded_layer_takes_the_last_top_of_its_chain_and_gains_a_bias(random_net, in_place):
    net = random_net(chain("conv without bias", "BatchNorm, Scale, Bias", in_place=in_place))
    folded = fold_batch_norm(net)
    kept = folded.by_name["l"]
    assert kept.raw_tops == (("l",) if in_place else ("f2",))
    assert folded.by_name["end"].raw_bottoms == kept.raw_tops
    assert kept.message.convolution_param.bias_term
    assert infer_shapes(folded).params == {"l": [(6, 4, 3, 3), (6,)]}
    assert list(folded.weights) == ["l"]
    assert folded.outputs == net.outputs


def test_folding_leaves_the_net_itself_and_all_else_in_the_message_alone(random_net):
    text = chain("conv", "BatchNorm, Scale").replace('name: "l"', 'name: "l" my_field { a: 1 } param { lr_mult: 3 }')
    net = random_net(text)
    before, weights = dump(net.message), {name: values(blobs) for name, blobs in net.weights.items()}
    folded = fold_batch_norm(net)
    assert dump(net.message) == before
    assert {name: len(blobs) for name, blobs in net.weights.items()} == {n: len(blobs) for n, blobs in weights.items()}
    for removed in ("f0", "f1"):
        start = before.index(f'layer {{\n  name: "{removed}"')
        before = before[:start] + before[before.index("\n}\n", start) + 3 :]
    assert dump(folded.message) == before.replace('top: "l"', 'top: "f1"')
    assert fold_batch_norm(folded) is folded


def test_without_weights_the_message_is_folded_alone(net_of):
    folded = fold_batch_norm(net_of(chain("conv", "BatchNorm, Scale")))
    assert [item.name for item in folded.layers] == ["data", "l", "end"]
    assert folded.weights is None


def test_several_chains_fold_each_into_its_own_layer(random_net):
    text = (
        layer("a", "Convolution", "data", "a", CONV + "}")
        + layer("an", "BatchNorm", "a", "a")
        + layer("relu", "ReLU", "a", "a")
        + layer("b", "Convolution", "a", "b", CONV + "bias_term: false }")
        + layer("c", "Convolution", "a", "c", CONV + "}")
        + layer("bn", "BatchNorm", "b", "b")
        + layer("cs", "Scale", "c", "c")
        + layer("sum", "Eltwise", "b c", "sum")
    )
    net = random_net(text)
    folded = fold_batch_norm(net)
    assert [item.name for item in folded.layers] == ["data", "a", "relu", "b", "c", "sum"]
    assert unfolded(net) == ()
    assert [chain_after(net, item).last.name for item in quantizable_layers(net)] == ["an", "bn", "cs"]
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 6)).astype(np.float32)
    expected = run(net, x, dtype="float64")["sum"]
    got = run(folded, x, dtype="float64")["sum"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# ---------------------------------------------------------------------------------------------------- what stays

NAMED = 'param { name: "w" } '
STAYS = {
    "no learned layer before": (
        layer("bn", "BatchNorm", "data", "data") + layer("l", "Convolution", "data", "l", CONV + "}"),
        {"bn": 'the layer before it, "data", is a Input'},
    ),
    "after a ReLU": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("relu", "ReLU", "l", "l")
        + layer("bn", "BatchNorm", "l", "l")
        + layer("s", "Scale", "l", "l"),
        {"bn": 'the layer before it, "relu", is a ReLU', "s": 'layer "bn" before it stays'},
    ),
    "a branch in between": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "bn")
        + layer("sum", "Eltwise", "l bn", "sum"),
        {"bn": 'its input is read by layer "sum" too'},
    ),
    "a branch after the first of two": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "bn")
        + layer("s", "Scale", "bn", "s")
        + layer("sum", "Eltwise", "bn s", "sum"),
        {"s": 'its input is read by layer "sum" too'},
    ),
    "a branch for training only": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "bn")
        + layer("aux", "Power", "l", "aux", "include { phase: TRAIN }")
        + layer("end", "ReLU", "bn", "end"),
        {"bn": 'its input is read by layer "aux" of the other phase too'},
    ),
    "a BatchNorm of its own for training": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "bn", "include { phase: TEST }")
        + layer("bn", "BatchNorm", "l", "bnT", "include { phase: TRAIN }")
        + layer("end", "ReLU", "bn", "end", "include { phase: TEST }")
        + layer("endT", "ReLU", "bnT", "endT", "include { phase: TRAIN }"),
        {"bn": 'its input is read by layer "bn" of the other phase too'},
    ),
    "another convolution for training": (
        layer("l", "Convolution", "data", "l", CONV + "} include { phase: TEST }")
        + layer("l", "Convolution", "data", "m", CONV + "} include { phase: TRAIN }")
        + layer("bn", "BatchNorm", "l", "bn", "include { phase: TEST }")
        + layer("endT", "ReLU", "m", "endT", "include { phase: TRAIN }"),
        {"bn": 'the other phase has another layer "l"'},
    ),
    "two bottoms": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("f", "Split", "data", "f")
        + layer("g", "Convolution", "f", "g", CONV + "}")
        + layer("s", "Scale", "l g", "s", "scale_param { axis: 0 }"),
        {"s": "its factors come from a second bottom"},
    ),
    "the batch's own statistics": (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "l", "batch_norm_param { use_global_stats: false }")
        + layer("s", "Scale", "l", "l"),
        {"bn": "use_global_stats is false", "s": 'layer "bn" before it stays'},
    ),
    "another axis": (
        layer("l", "Convolution", "data", "l", CONV + "}") + layer("s", "Scale", "l", "l", "scale_param { axis: 2 }"),
        {"s": "its factors are not one a channel (axis 1, num_axes 1)"},
    ),
    "several axes": (
        layer("l", "Convolution", "data", "l", CONV + "}") + layer("b", "Bias", "l", "l", "bias_param { num_axes: 2 }"),
        {"b": "its factors are not one a channel (axis 1, num_axes 1)"},
    ),
    "an inner product along another axis": (
        layer("l", "InnerProduct", "data", "l", IP + "axis: 2 }") + layer("s", "Scale", "l", "l"),
        {"s": 'the outputs of layer "l" are not axis 1'},
    ),
    "shared weights": (
        layer("l", "Convolution", "data", "l", NAMED + CONV + "}")
        + layer("m", "Convolution", "data", "m", NAMED + CONV + "}")
        + layer("bn", "BatchNorm", "l", "l")
        + layer("s", "Scale", "m", "m"),
        {"bn": 'layer "l" shares its weights', "s": 'layer "m" shares its weights'},
    ),
}


def test_a_chain_that_both_phases_have_is_folded_in_both(random_net):
    """Of the BatchNorms of one name each phase has its own."""
    text = (
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("bn", "BatchNorm", "l", "bn", "include { phase: TEST }")
        + layer("bn", "BatchNorm", "l", "bn", "include { phase: TRAIN } batch_norm_param { use_global_stats: false }")
        + layer("end", "ReLU", "bn", "end")
        + layer("loss", "Power", "end", "loss", "include { phase: TRAIN }")
    )
    net = random_net(text)
    assert unfolded(net) == ()
    folded = fold_batch_norm(net)
    assert [item.name for item in folded.layers] == ["data", "l", "end"]
    trained = dataclasses.replace(folded, phase=TRAIN)
    assert [item.name for item in trained.layers] == ["data", "l", "end", "loss"]


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_folded_stays_with_its_reason(random_net, name):
    text, reasons = STAYS[name]
    net = random_net(text)
    assert {left.layer: left.reason for left in unfolded(net)} == reasons
    assert all(left.type == net.by_name[left.layer].type for left in unfolded(net))
    folded = fold_batch_norm(net)
    gone = set(net.by_name) - set(folded.by_name)
    assert gone == ({"bn"} if "first of two" in name else set())
    x = np.random.default_rng(0).normal(size=(2, 4, 7, 6)).astype(np.float32)
    for blob in folded.outputs:
        expected = run(net, x, dtype="float64")[blob]
        np.testing.assert_allclose(
            run(folded, x, dtype="float64")[blob], expected, rtol=0, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("in_place", [True, False])
def test_a_rounded_value_ends_a_chain_and_that_of_its_end_stays_rounded(random_net, in_place):
    net = random_net(chain("conv", "BatchNorm, Scale, Bias", in_place=in_place))
    names = {name: net.by_name[name].tops[0] for name in ("f0", "f2")}
    rounding = Rounding(QFormat(3, 2), "deterministic", "l_lpact")
    low = dataclasses.replace(net, roundings={names["f0"]: rounding, names["f2"]: rounding})
    assert {left.layer: left.reason for left in unfolded(low)} == {
        "f1": 'the output of the layer before it, "f0", is rounded',
        "f2": 'layer "f1" before it stays',
    }
    folded = fold_batch_norm(low)
    assert [layer.name for layer in folded.layers] == ["data", "l", "f1", "f2", "end"]
    assert folded.roundings == {folded.by_name["l"].tops[0]: rounding, names["f2"]: rounding}


def test_a_name_that_no_other_layer_has_shares_nothing(random_net):
    text = chain("conv", "BatchNorm").replace('name: "l"', f'name: "l" {NAMED}')
    net = random_net(text)
    assert unfolded(net) == ()
    assert "f0" not in fold_batch_norm(net).by_name


def test_a_malformed_layer_after_a_convolution_is_left_for_the_engine_to_refuse(net_of):
    net = net_of(
        layer("l", "Convolution", "data", "l", CONV + "}")
        + layer("many", "BatchNorm", "l", "a b")
        + layer("none", "BatchNorm", "", "c")
    )
    assert [left.reason for left in unfolded(net)] == ["it has not one bottom and one top"] * 2
    assert fold_batch_norm(net) is net


@pytest.mark.parametrize(("bottoms", "tops"), [("data", ""), ("data data", "l"), ("data data", "l m"), ("", "l")])
def test_a_learned_layer_has_one_bottom_and_one_top(net_of, bottoms, tops):
    got = f"{len(bottoms.split())} and {len(tops.split())}"
    with pytest.raises(NetError, match=f'^layer "l": Convolution takes one bottom and one top, the file names {got}$'):
        fold_batch_norm(net_of(layer("l", "Convolution", bottoms, tops, CONV + "}")))


# ---------------------------------------------------------------------------------------------------- weights

A, V = np.ones(6, np.float32), np.ones((6, 4, 3, 3), np.float32)
ONE = np.ones(1, np.float32)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"f0": [A, A, ONE], "f1": [A]}, '^layer "l": Convolution has 2 blobs, the weights hold 0$'),
        ({"l": [V], "f0": [A, A, ONE], "f1": [A]}, '^layer "l": Convolution has 2 blobs, the weights hold 1$'),
        ({"l": [V, A], "f0": [A, A], "f1": [A]}, '^layer "f0": BatchNorm has 3 blobs, the weights hold 2$'),
        ({"l": [V, A], "f0": [A, A, ONE]}, '^layer "f1": Scale has 1 blobs, the weights hold 0$'),
        ({"l": [V, A], "f0": [A[:5], A, ONE], "f1": [A]}, '^layer "f0" blob 0: expected 6 values, got 5$'),
        ({"l": [V, A], "f0": [A, A, A], "f1": [A]}, '^layer "f0" blob 2: expected 1 values, got 6$'),
        ({"l": [V, A], "f0": [A, A, ONE], "f1": [ONE]}, '^layer "f1" blob 0: expected 6 values, got 1$'),
        ({"l": [V, ONE], "f0": [A, A, ONE], "f1": [A]}, '^layer "l" blob 1: expected 6 values, got 1$'),
        (
            {"l": [V[:5], A], "f0": [A, A, ONE], "f1": [A]},
            '^layer "l" blob 0: expected weights for 6 outputs, got 5 x 4',
        ),
        ({"l": [A.sum(), A], "f0": [A, A, ONE], "f1": [A]}, r'^layer "l" blob 0: .* for 6 outputs, got \(\)$'),
    ],
)
def test_blobs_that_do_not_make_a_chain_name_layer_and_blob(net_of, weights, message):
    net = net_of(chain("conv", "BatchNorm, Scale"))
    net = net.replace(net.message, {n: [ArrayBlob(np.asarray(b)) for b in blobs] for n, blobs in weights.items()})
    with pytest.raises(WeightsError, match=message):
        fold_batch_norm(net)


def test_weights_that_cannot_be_folded_into_finite_numbers_become_nan_quietly(random_net):
    """A negative variance has no root. Who uses the folded blobs finds it with its place (net.blobs.finite_chunks)."""
    net = random_net(chain("conv", "BatchNorm"))
    net.weights["f0"][1] = ArrayBlob(np.full(6, -1, np.float32))
    w, b = values(fold_batch_norm(net).weights["l"])
    assert np.isnan(w).all()
    assert np.isnan(b).all()
    net.weights["f0"][1] = ArrayBlob(np.full(6, 0, np.float32))
    net.weights["l"][0] = ArrayBlob(np.full((6, 4, 3, 3), 3e38, np.float32))
    assert np.isinf(fold_batch_norm(net).weights["l"][0].array()).all()
