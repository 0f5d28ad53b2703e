"""Properties of all networks, on random small ones."""

import dataclasses
import warnings

import numpy as np
import pytest
from random_graphs import random_graph

import lpcaffe as lp
from lpcaffe.calibration.one_thread import one_blas_thread
from lpcaffe.dialects import dialect_named
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers.low_precision import LPFP_SCHEMES
from lpcaffe.net import chain_after, quantizable_layers
from lpcaffe.quant.apply import apply_plan
from lpcaffe.quant.policy import COVERAGES, PLACEMENTS
from lpcaffe.search.trials import Trials

SEEDS = range(24)


@pytest.fixture
def graph(make_net):
    """The network of a seed, with random weights."""
    return lambda seed: make_net(random_graph(seed), seed=seed)


def plan_for(net, seed: int, *, fold_bn: bool) -> lp.BitPlan:
    """Random formats, and every setting of a plan that the way back must undo."""
    rng = np.random.default_rng(seed)
    base = lp.fold_batch_norm(net) if fold_bn else net
    formats = [lp.QFormat(*rng.integers(1, 5, 2).tolist()) for _ in quantizable_layers(base)]
    rows = {
        layer.name: lp.LayerPlan(layer.type, weights, output)
        for layer, weights, output in zip(quantizable_layers(base), formats, reversed(formats), strict=True)
    }
    rounding, placement = LPFP_SCHEMES[rng.integers(2)], PLACEMENTS[rng.integers(2)]
    policy = lp.Policy(
        rounding=rounding, round_bias=bool(rng.integers(2)), fold_bn=fold_bn, act_placement=placement, seed=seed
    )
    return lp.BitPlan(rows, policy=policy)


def blobs_of(net) -> dict[str, list[list[int]]]:
    """The bits of all weights."""
    return {name: [blob.array().view(np.uint32).tolist() for blob in blobs] for name, blobs in net.weights.items()}


def test_the_graphs_have_what_networks_have():
    """Every type of layer, chains of several layers, blobs that several layers read, in place and not."""
    nets = [lp.Net.of(parse(random_graph(seed))) for seed in SEEDS]
    types = {layer.type for net in nets for layer in net.layers}
    assert types == {
        *("Input", "Convolution", "InnerProduct", "BatchNorm", "Scale", "Bias", "ReLU", "PReLU", "Pooling"),
        *("Eltwise", "Concat", "Softmax"),
    }
    chains = [chain_after(net, layer).affine for net in nets for layer in quantizable_layers(net)]
    assert max(map(len, chains)) >= 3
    assert max(len(readers) for net in nets for readers in net.readers.values()) >= 3
    assert {layer.raw_tops == layer.raw_bottoms for net in nets for layer in net.layers if layer.type == "Scale"} == {
        True,
        False,
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_folding_preserves_every_output(graph, seed):
    """In float64, so that only the folded weights are rounded: once each, to float32."""
    net = graph(seed)
    folded = lp.fold_batch_norm(net)
    rng = np.random.default_rng(seed)
    feeds = {
        layer.raw_tops[0]: rng.normal(size=tuple(layer.message.input_param.shape[0].dim)).astype("f4")
        for layer in net.layers
        if layer.type == "Input"
    }
    before, after = lp.run(net, feeds, dtype="float64"), lp.run(folded, feeds, dtype="float64")
    assert set(after) <= set(before)
    for blob, values in after.items():
        np.testing.assert_allclose(values, before[blob], rtol=0, atol=1e-6 * np.abs(before[blob]).max(), err_msg=blob)


@pytest.mark.parametrize("seed", SEEDS)
def test_extract_undoes_a_conversion(graph, tmp_path, seed):
    """The message and every bit of the weights, through the files; where BatchNorm was folded, of the folded net."""
    net = graph(seed)
    fold_bn = bool(seed % 2)
    low = lp.convert(net, plan_for(net, seed, fold_bn=fold_bn), tmp_path / "out").net
    assert {"LPConvolution", "LPInnerProduct", "LPAct"} <= {layer.type for layer in low.layers}
    back, expected = lp.extract(low), lp.fold_batch_norm(net) if fold_bn else net
    assert back.message == expected.message
    assert blobs_of(back) == blobs_of(expected)


@pytest.mark.parametrize("coverage", COVERAGES)
@pytest.mark.parametrize("seed", SEEDS[::2])
def test_every_way_to_compute_a_plan_gives_the_same_bits(graph, tmp_path, seed, coverage):
    """In memory, the files of ADaPTION's dialect and of the plain one, `validate` and a trial of a search."""
    net, rng = graph(seed), np.random.default_rng(seed)
    policy = lp.Policy(
        rounding=LPFP_SCHEMES[seed // 2 % 2],
        seed=seed,
        round_bias=coverage == "learned" and bool(rng.integers(2)),
        fold_bn=bool(rng.integers(2)),
        act_placement=PLACEMENTS[rng.integers(2)],
        coverage=coverage,
    )
    feeds = {
        layer.raw_tops[0]: rng.normal(size=tuple(layer.message.input_param.shape[0].dim)).astype("f4")
        for layer in net.layers
        if layer.type == "Input"
    }
    np.savez(tmp_path / "data.npz", **feeds)
    data = lp.images(tmp_path / "data.npz", net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lp.LpcaffeWarning)  # of outputs that the dialect cannot express
        stats = lp.calibrate(net, data, policy=policy)
        plan = lp.allocate(net, stats, bits=int(rng.integers(5, 9)), method="mse", policy=policy)
    plain = dataclasses.replace(plan, policy=dataclasses.replace(policy, dialect="plain"))
    expected = lp.run(lp.quantize(net, plan), feeds, seed=seed)
    pair, other = lp.convert(net, plan, tmp_path / "pair"), lp.convert(net, plain, tmp_path / "plain")
    for name, found in (
        ("pair", lp.run(pair.net, feeds, seed=seed)),
        ("plain", lp.run(lp.quantize(net, plain), feeds, seed=seed)),
        ("plain files", lp.run(dialect_named("plain").read(other.net, plain).net, feeds, seed=seed)),
    ):
        assert found.keys() == expected.keys()
        for blob, values in expected.items():
            np.testing.assert_array_equal(found[blob], values, err_msg=f"{name}: {blob}")
    assert lp.verify(tmp_path / "pair/lp.prototxt", tmp_path / "pair/lp.caffemodel", plan=plan).failures == []
    proofs = [lp.validate(net, conversion, data, batch=2) for conversion in (pair, other)]
    assert [proof.failures for proof in proofs] == [[], []]
    applied = apply_plan(net, plan)
    given = {site: fmt for site, fmt in applied.formats.items() if plan.format_of(*site.key) is not None}
    with one_blas_thread():
        score = Trials(net, data, policy=policy, batch=2)(given)
    for proof in proofs:
        error = proof.classifier.error
        assert (error.signal, error.noise) == (score.signal, score.noise)
