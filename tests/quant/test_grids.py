"""With coverage `all`, everything that a multiplication reads lies on the grid of its format, value by value."""

from pathlib import Path

import numpy as np
import pytest
from random_graphs import random_graph

import lpcaffe as lp
from lpcaffe.quant.apply import Quantized, apply_plan
from lpcaffe.quant.sites import grids

SHARED = Path(__file__).parents[3] / "shared"
MTCNN = ("mtcnn_pnet", "mtcnn_rnet")


def values_of(net: lp.Net, feeds) -> dict[str, np.ndarray]:
    """Every tensor of a pass in float64, which is exact for fixed-point numbers."""
    found = lp.run(net, feeds, dtype="float64", versions=True)
    last = {tensor: blob for blob, tensor in net.last_versions.items()}
    return {tensor: found[last.get(tensor, tensor)] for layer in net.layers for tensor in layer.tops}


def check_grids(applied: Quantized, net: lp.Net, feeds) -> int:
    """Check values and parameters; returns how many arrays there were."""
    values, checked = values_of(net, feeds), 0
    formats = {site.tensor: fmt for site, fmt in applied.formats.items() if site.role == "output"}
    lies_on = grids(applied.base, applied.sites, formats)
    for layer in net.layers:
        if layer.type in ("Convolution", "InnerProduct"):
            for bottom in layer.bottoms:
                on = {formats[site.tensor] for site in lies_on[bottom]}
                assert len(on) == 1
                assert on.pop().holds(values[bottom]).all(), f"{layer.name} reads {bottom}"
                checked += 1
    for name, sites in applied.parameters.items():
        for index, site in sites.items():
            assert applied.formats[site].holds(net.weights[name][index].array()).all(), site
            checked += 1
    # What is left are the answers, and biases inside a chain behind a BatchNorm that nothing could fold.
    inside = {site.type for site in applied.float_sites if site.role != "output"}
    assert inside <= {"Scale", "Bias"}
    return checked


@pytest.mark.parametrize("seed", range(6))
def test_random_graphs(make_net, tmp_path, seed):
    net, rng = make_net(random_graph(seed), seed=seed), np.random.default_rng(seed)
    feeds = {
        layer.raw_tops[0]: rng.normal(size=tuple(layer.message.input_param.shape[0].dim)).astype("f4")
        for layer in net.layers
        if layer.type == "Input"
    }
    np.savez(tmp_path / "data.npz", **feeds)
    policy = lp.Policy(coverage="all", dialect="plain")
    data = lp.images(tmp_path / "data.npz", net)
    plan = lp.allocate(net, lp.calibrate(net, data, policy=policy), bits=8, policy=policy)
    assert check_grids(apply_plan(net, plan), lp.quantize(net, plan), feeds) > 5


CUT = """name: "cut"
layer { name: "in" type: "Input" top: "data" top: "more"
        input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a" convolution_param { num_output: 5 kernel_size: 2 } }
layer { name: "crop" type: "Crop" bottom: "a" bottom: "more" top: "crop" crop_param { axis: 2 offset: 1 offset: 0 } }
layer { name: "b" type: "Convolution" bottom: "crop" top: "b" convolution_param { num_output: 2 kernel_size: 1 } }
layer { name: "join" type: "Concat" bottom: "crop" bottom: "more" top: "join" }
layer { name: "c" type: "Convolution" bottom: "join" top: "c" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 7 } }
"""


def test_what_is_cut_to_the_shape_of_another_blob_or_joined_with_float_values(make_net, tmp_path):
    net, rng = make_net(CUT), np.random.default_rng(5)
    shapes = {"data": (2, 3, 9, 8), "more": (2, 4, 7, 6)}
    feeds = {blob: rng.normal(size=shape).astype("f4") for blob, shape in shapes.items()}
    np.savez(tmp_path / "data.npz", **feeds)
    policy = lp.Policy(coverage="all", dialect="plain")
    data = lp.images(tmp_path / "data.npz", net)
    plan = lp.allocate(net, lp.calibrate(net, data, policy=policy), bits=8, policy=policy)
    assert "join" in plan.layers
    assert check_grids(apply_plan(net, plan), lp.quantize(net, plan), feeds) > 8


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/ with the released networks is not beside the checkout")
@pytest.mark.filterwarnings("ignore:.*left out the weights of 1 layer")
@pytest.mark.parametrize("name", MTCNN)
def test_mtcnn_at_8_bits(tmp_path, name):
    """And `run` of the ADaPTION pair in float64 equals the network in memory at every blob."""
    folder = SHARED / "models" / name
    net = lp.load(next(folder.glob("*.prototxt")), next(folder.glob("*.caffemodel")))
    x = np.load(SHARED / "golden" / "lp_nets" / f"{name}.input.npy")
    np.save(tmp_path / "x.npy", x)
    policy = lp.Policy(coverage="all")
    stats = lp.calibrate(net, lp.images(tmp_path / "x.npy", net), policy=policy)
    plan = lp.allocate(net, stats, bits=8, policy=policy)
    quantized = lp.quantize(net, plan)
    assert check_grids(apply_plan(net, plan), quantized, x) > 10
    pair = lp.convert(net, plan, tmp_path / "out").net
    assert lp.verify(tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel", plan=plan).failures == []
    expected, found = (lp.run(one, x, dtype="float64") for one in (quantized, pair))
    assert found.keys() == expected.keys()
    for blob, values in expected.items():
        np.testing.assert_array_equal(found[blob], values, err_msg=blob)
