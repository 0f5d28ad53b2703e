"""Released networks as ADaPTION converted and ran them: shared/golden/lp_nets, which is not part of the checkout."""

import functools
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

import lpcaffe as lp
from lpcaffe.engines import NumpyEngine, bind_parameters, infer_shapes, run_layers
from lpcaffe.formats.caffemodel import open_caffemodel

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden" / "lp_nets"
SOURCES = {"lenet": "lenet_mnist", "mtcnn_pnet": "mtcnn_pnet", "mtcnn_rnet": "mtcnn_rnet"}
NETS = [
    *("lenet_w16a16", "lenet_w8a8", "lenet_w4a6", "mtcnn_pnet_w16a16", "mtcnn_pnet_w8a10"),
    *("mtcnn_rnet_w16a16", "mtcnn_rnet_w8a10"),
]
EXACT = ("lenet_w8a8", "lenet_w4a6", "mtcnn_pnet_w16a16", "mtcnn_pnet_w8a10")

pytestmark = [
    pytest.mark.skipif(not GOLDEN.is_dir(), reason="shared/golden is not beside the checkout"),
    pytest.mark.parametrize("name", NETS),
    # The caffemodel of mtcnn_rnet has a layer that its prototxt lacks.
    pytest.mark.filterwarnings("ignore:.*left out the weights of 1 layer that the prototxt lacks. conv5-3"),
]


@functools.cache
def source(name):
    folder = SHARED / "models" / SOURCES[name.rsplit("_", 1)[0]]
    return lp.load(next(folder.glob("*.prototxt")), next(folder.glob("*.caffemodel")))


@functools.cache
def golden(name):
    return lp.load(GOLDEN / name / "lp.prototxt", GOLDEN / name / "lp.caffemodel")


@functools.cache
def recorded(name):
    with np.load(GOLDEN / name / "blobs.npz") as blobs:
        return dict(blobs)


def plan(name):
    return lp.BitPlan.load(GOLDEN / name / "plan.json")


def test_rewrite_gives_the_same_layers(name):
    def layers(net):
        for layer in net.layers:
            own = layer.message.lpfp_param
            lpfp = (own.bd, own.ad, own.round_bias, own.rounding_scheme)
            called = None if layer.type == "LPAct" else layer.name
            yield called, layer.type, layer.raw_bottoms, layer.raw_tops, lpfp

    low = lp.rewrite(source(name), plan(name))
    assert list(layers(low)) == list(layers(golden(name)))
    for layer in low.layers:
        if layer.type != "LPAct":
            theirs = golden(name).by_name[layer.name].message
            assert layer.message.convolution_param == theirs.convolution_param
            assert layer.message.inner_product_param == theirs.inner_product_param


def test_write_weights_gives_the_same_blobs(name, tmp_path):
    lp.write_weights(source(name), plan(name), tmp_path / "lp.caffemodel")
    ours = open_caffemodel(tmp_path / "lp.caffemodel").by_name
    checked = 0
    for layer in open_caffemodel(GOLDEN / name / "lp.caffemodel").layers:
        found = ours[layer.name].blobs if layer.name in ours else []
        assert len(found) == len(layer.blobs)
        for index, (our, their) in enumerate(zip(found, layer.blobs, strict=True)):
            assert our.array().size == their.array().size
            if index % 2 == 0:
                assert our.array().tobytes() == their.array().tobytes()
            elif index == 1 or plan(name).policy.round_bias:
                np.testing.assert_array_equal(our.array().ravel(), their.array().ravel())
            checked += 1
    assert checked >= 15


def test_validate_finds_nothing_wrong_with_their_files(name):
    proof = lp.validate(source(name), golden(name), plan=plan(name))
    assert proof.holds
    assert len(proof.rounding) == 2 * len(plan(name).layers)
    assert not any(check.differing for check in proof.rounding if check.counts)
    assert not any(check.changed for check in proof.rounding)
    # Without round_bias blob 3 holds a copy of blob 2: reported, no failure.
    idle = [check for check in proof.rounding if not check.counts]
    assert all(check.blob == 3 and check.differing for check in idle)
    assert bool(idle) is not plan(name).policy.round_bias


def test_whole_networks_agree(name):
    found = lp.run(golden(name), np.load(GOLDEN / f"{name.rsplit('_', 1)[0]}.input.npy"))
    assert found.keys() == recorded(name).keys()
    floats = {layer.raw_tops[0] for layer in golden(name).layers if layer.type == "Softmax"}
    differing = total = 0
    for blob, values in recorded(name).items():
        assert found[blob].shape == values.shape
        if blob in floats:
            np.testing.assert_allclose(found[blob], values, rtol=0, atol=1e-6 if name in EXACT else 1e-3)
            continue
        wrong = np.count_nonzero(found[blob] != values)
        assert wrong <= (0 if name in EXACT else 0.05 * values.size), blob
        differing, total = differing + wrong, total + values.size
    assert differing <= 0.005 * total


def exact_sums(layer, w, b, x):
    """The layer's sums in float64, and the sums of the magnitudes of all terms."""
    w, b, x = w.astype(np.float64), b.astype(np.float64), x.astype(np.float64)
    if layer.type == "LPInnerProduct":
        x = x.reshape(len(x), -1)
        return x @ w.T + b, np.abs(x) @ np.abs(w.T) + np.abs(b)
    own = layer.message.convolution_param
    pad = own.pad[0] if own.pad else 0
    stride = own.stride[0] if own.stride else 1
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    # N x C x H x W x kernel against O x C x kernel
    sums, magnitudes = (
        np.tensordot(fold(windows), fold(w), ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)
        for fold in (np.array, np.abs)
    )
    return sums + b[:, None, None], magnitudes + np.abs(b)[:, None, None]


def test_each_layer_alone_differs_by_one_step_and_only_at_ties(name):
    net, values = golden(name), recorded(name)
    ops, parameters = NumpyEngine(), bind_parameters(net, infer_shapes(net))
    checked = 0
    for layer in net.layers:
        if not layer.type.startswith("LP") or layer.type == "LPAct":
            continue
        stage = [layer]
        while (
            stage[-1].index + 1 < len(net.layers)
            and (after := net.layers[stage[-1].index + 1]).raw_tops == layer.raw_tops
        ):
            stage.append(after)
        assert stage[1].type == "LPAct"
        x = values[layer.raw_bottoms[0]]
        tensors = {layer.bottoms[0]: x}
        run_layers(ops, stage, tensors, parameters)
        found, expected = tensors[stage[-1].tops[0]], values[layer.raw_tops[0]]
        wrong = found != expected
        own, act = layer.message.lpfp_param, stage[1].message.lpfp_param
        w = lp.round_fp(parameters[layer.name][0], own.bd, own.ad)
        b = parameters[layer.name][2]
        sums, magnitudes = exact_sums(layer, w, lp.round_fp(b, own.bd, own.ad) if own.round_bias else b, x)
        assert sums.shape == found.shape
        step = 2.0**-act.ad
        to_tie = np.abs(np.abs(sums / step) % 1 - 0.5) * step
        may_differ = to_tie <= 4 * 2.0**-24 * magnitudes
        assert not np.any(wrong & ~may_differ), layer.name
        assert np.abs(found - expected).max() <= step
        checked += 1
    assert checked == len(plan(name).layers)
