"""The low-precision layers against ADaPTION itself: recorded networks, blob by blob (tests/golden/lp_layers)."""

from pathlib import Path

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes, run
from lpcaffe.layers.low_precision import format_of
from lpcaffe.net import load
from lpcaffe.numbers.rounding import round_fp

GOLDEN = Path(__file__).parents[1] / "golden" / "lp_layers"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.prototxt"))
LEARNED = ("LPConvolution", "LPInnerProduct")


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.golden.npz") as archive:
        return {key: archive[key] for key in archive.files}


def scheme(name: str) -> str:
    """Only one network says STOCHASTIC, which ADaPTION's CPU code computes as floor."""
    return "floor" if name == "tiny_stoch" else "deterministic"


def test_all_28_networks_are_here():
    assert len(NAMES) == 28


@pytest.mark.parametrize("name", NAMES)
def test_every_blob_is_what_adaption_computed(name):
    golden = recorded(name)
    net = load(GOLDEN / f"{name}.prototxt", GOLDEN / f"{name}.caffemodel")
    found = run(net, np.load(GOLDEN / f"{name}.input.npy"), versions=True, stochastic_as="floor")
    blobs = {key for key in golden if ":" not in key and "/" not in key and key != "__meta__"}
    assert {blob for blob in found if "@" not in blob} == blobs
    for blob in blobs:
        np.testing.assert_allclose(found[blob], golden[blob], rtol=0, atol=1e-6 * np.abs(golden[blob]).max())
    for layer in net.layers:
        if layer.type == "LPAct":
            # Of the recorded inputs of this layer none is nearer to a tie than the sums of two programs can differ.
            assert net.last_versions["act1"] != layer.tops[0]
            np.testing.assert_array_equal(found[layer.tops[0]], golden[f"top:{layer.name}:{layer.raw_tops[0]}"])


@pytest.mark.parametrize("name", NAMES)
def test_recorded_shapes_of_blobs_and_parameters_are_inferred(name):
    golden = recorded(name)
    net = load(GOLDEN / f"{name}.prototxt", GOLDEN / f"{name}.caffemodel")
    shapes = infer_shapes(net)
    assert shapes.blobs == {blob: golden[blob].shape for blob in shapes.blobs}
    parameters = {f"{layer}/{i}": shape for layer, own in shapes.params.items() for i, shape in enumerate(own)}
    assert parameters == {key: golden[key].shape for key in golden if "/" in key and ":" not in key}


@pytest.mark.parametrize("name", NAMES)
def test_recorded_odd_parameters_are_round_fp_of_the_even_ones(name):
    golden = recorded(name)
    compared = 0
    for layer in load(GOLDEN / f"{name}.prototxt", GOLDEN / f"{name}.caffemodel").layers:
        if layer.type in LEARNED:
            fmt = format_of(layer.message.lpfp_param)
            pairs = [0, 2] if f"{layer.name}/2" in golden and layer.message.lpfp_param.round_bias else [0]
            for even in pairs:
                rounded = round_fp(golden[f"{layer.name}/{even}"], fmt.bd, fmt.ad, scheme(name))
                np.testing.assert_array_equal(rounded, golden[f"{layer.name}/{even + 1}"])
                compared += 1
    assert compared >= 1


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tiny")])
def test_recorded_activations_are_round_fp_of_their_bottoms(name):
    golden = recorded(name)
    rounded = round_fp(golden["top:conv1:conv1"], 4, 4, scheme(name))
    np.testing.assert_array_equal(rounded, golden["top:act1:act1"])
    np.testing.assert_array_equal(np.maximum(rounded, 0), golden["top:relu1:act1"])


def test_stochastic_without_the_replacement_is_not_floor():
    """Or the test above would say nothing about `stochastic_as`."""
    net = load(GOLDEN / "tiny_stoch.prototxt", GOLDEN / "tiny_stoch.caffemodel")
    found = run(net, np.load(GOLDEN / "tiny_stoch.input.npy"), seed=1, versions=True)
    golden = recorded("tiny_stoch")["top:act1:act1"]
    # One step of weights moves a sum by more than one step of the output, so only most of the values differ by little.
    assert np.mean(found["act1@act1"] != golden) > 0.2
