"""The profile `exact` of recorded LP networks, layer by layer, against the numpy engine. Needs ../shared.

Each stage from one LPAct to the next is a graph of its own that is fed the numpy engine's values, so that one layer's
difference is not the next one's. A float32 sum may land on the other side of a tie than the numpy engine's, and then
the rounded value is one step off; nothing else may differ. How far a float32 sum of n products can be from the exact
one, in any order, is n u sum |w| |x| with u = 2^-24 (Higham, Accuracy and Stability of Numerical Algorithms, 4.2); that
it is hardly ever more than 4 u sum |w| |x| is measured too.
"""

from pathlib import Path

import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers.low_precision import format_of
from lpcaffe.net import Net, load

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "lp_nets"
FOLDERS = sorted(path for path in GOLDEN.glob("*") if path.is_dir())
pytestmark = pytest.mark.skipif(not FOLDERS, reason="../shared/golden is not beside the checkout")
LEARNED = ("LPConvolution", "LPInnerProduct")
EPSILON = 2.0**-24


def part(net, layers, blob, shape):
    """The network of some layers alone, fed at their first bottom."""
    dims = " ".join(f"dim: {dim}" for dim in shape)
    head = f'layer {{ name: "feed" type: "Input" top: "{blob}" input_param {{ shape {{ {dims} }} }} }}'
    message = parse(head)
    for layer in layers:
        message.layer.add().CopyFrom(layer.message)
    weights = {layer.name: net.weights[layer.name] for layer in layers if layer.name in net.weights}
    return Net.of(message, weights=weights)


def magnitudes(net, x, blob):
    """sum |w| |x| + |b| of a learned layer: its own float64 run on magnitudes."""
    positive = {name: [_Magnitude(b, net, name, i) for i, b in enumerate(blobs)] for name, blobs in net.weights.items()}
    return run(net.replace(net.message, positive), np.abs(x), engine="numpy", dtype="float64", versions=True)[blob]


class _Magnitude:
    """A blob's magnitudes, rounded as the layer rounds it (rounding is odd, so the order does not matter)."""

    def __init__(self, blob, net, name, index):
        self.blob, self.shape, self.legacy = blob, blob.shape, blob.legacy

    def array(self):
        return np.abs(self.blob.array())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_layer_of_the_graph_differs_from_numpy_s_only_beside_a_tie(folder):
    net = load(folder / "lp.prototxt", folder / "lp.caffemodel")
    x = np.load(GOLDEN / f"{folder.name.rsplit('_', 1)[0]}.input.npy")
    values = run(net, x, engine="numpy", versions=True)
    tensors = {tensor: blob for blob, tensor in net.last_versions.items()}
    rounded = differing = far = 0
    for layer in net.layers:
        if layer.type not in LEARNED:
            continue
        act = next((reader for reader in net.readers[layer.tops[0]] if reader.type == "LPAct"), None)
        if act is None:
            continue
        bottom = layer.bottoms[0]
        fed = values[tensors.get(bottom, bottom)]
        stage = part(net, [layer, act], layer.raw_bottoms[0], fed.shape)
        expected = run(stage, fed, engine="numpy", versions=True)
        found = OnnxRuntime(stage, list(stage.last_versions.values())).run({layer.raw_bottoms[0]: fed})
        ours = found[stage.last_versions[act.raw_tops[0]]]
        theirs = expected[act.raw_tops[0]]
        assert not np.any(np.signbit(ours) & (ours == 0))
        fmt = format_of(act.message.lpfp_param)
        off = ours != theirs
        assert np.all(np.abs(ours - theirs)[off] == fmt.step)
        # The float64 sum, how far it is from a tie, and how far a float32 sum may be from it.
        exact = run(stage, fed, engine="numpy", dtype="float64", versions=True)[layer.tops[0]]
        codes = exact * 2.0**fmt.ad
        distance = np.abs(codes - np.floor(codes) - 0.5) * fmt.step
        unit = EPSILON * magnitudes(part(net, [layer], layer.raw_bottoms[0], fed.shape), fed, layer.raw_tops[0])
        terms = int(np.prod(net.weights[layer.name][0].shape[1:])) + 1
        assert np.all(distance[off] <= terms * unit[off])
        rounded += ours.size
        differing += np.count_nonzero(off)
        far += np.count_nonzero(distance[off] > 4 * unit[off])
    assert rounded > 100
    assert far <= 0.02 * differing


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_whole_graph_decides_as_the_numpy_engine(folder):
    net = load(folder / "lp.prototxt", folder / "lp.caffemodel")
    x = np.load(GOLDEN / f"{folder.name.rsplit('_', 1)[0]}.input.npy")
    found, expected = (run(net, x, engine=engine) for engine in ("onnxruntime", "numpy"))
    for blob in net.outputs:
        assert found[blob].shape == expected[blob].shape
        if blob.startswith("prob"):
            np.testing.assert_array_equal(found[blob].argmax(1), expected[blob].argmax(1))
