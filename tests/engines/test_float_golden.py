"""Released networks, every blob, against what real Caffe and OpenCV computed. Needs ../shared beside the checkout."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.net import load

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden" / "float_nets"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not beside the checkout")
NAMES = ["lenet_mnist", "mtcnn_pnet", "mtcnn_rnet", "open_nsfw"]


def network(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the caffemodel of det2 has a layer that its prototxt lacks
        return load(*files(name))


def files(name):
    folder = SHARED / "models" / name
    return next(folder.glob("*.prototxt")), next(folder.glob("*.caffemodel"))


def arrays(path):
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
@pytest.mark.parametrize("name", NAMES)
def test_every_blob_is_what_caffe_computed(name, engine):
    recorded = {key.replace("__", "/"): blob for key, blob in arrays(GOLDEN / f"{name}.blobs.npz").items()}
    x = arrays(GOLDEN / f"{name}.input_and_opencv.npz")["x"]
    images = len(next(iter(recorded.values())))  # of lenet the first four
    found = run(network(name), x[:images], engine=engine)
    assert set(found) == set(recorded)
    for blob, values in recorded.items():
        np.testing.assert_allclose(found[blob], values, rtol=0, atol=1e-4 * np.abs(values).max(), err_msg=blob)


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_what_opencv_computes_now(name, engine):
    net = network(name)
    x = arrays(GOLDEN / f"{name}.input_and_opencv.npz")["x"][:3]
    opencv = cv2.dnn.readNetFromCaffe(*map(str, files(name)))
    opencv.setInput(x)
    found = run(net, x, engine=engine)
    writers = {blob: next(layer.name for layer in net.layers if tensor in layer.tops)
               for blob, tensor in net.last_versions.items() if blob in net.outputs}  # fmt: skip
    for (blob, _), values in zip(writers.items(), opencv.forward(list(writers.values())), strict=True):
        np.testing.assert_allclose(found[blob], values, rtol=0, atol=1e-4 * np.abs(values).max(), err_msg=blob)
