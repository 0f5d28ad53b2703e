"""The ResNet-10 SSD face detector against real Caffe. Needs ../shared beside the checkout."""

from pathlib import Path

import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.net import load

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN = SHARED / "golden" / "float_nets"
NAME = "face_ssd_res10"
pytestmark = pytest.mark.skipif(not GOLDEN.exists(), reason="../shared/golden is not beside the checkout")


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{NAME}.blobs.npz") as blobs:
        return {key.replace("__", "/"): blobs[key] for key in blobs.files}


@pytest.fixture(scope="module", params=[("numpy", "float32"), ("numpy", "float64"), ("onnxruntime", "float32")])
def found(request) -> dict[str, np.ndarray]:
    folder = SHARED / "models" / NAME
    net = load(folder / "deploy.prototxt", folder / "res10_300x300_ssd_iter_140000.caffemodel")
    with np.load(GOLDEN / f"{NAME}.input_and_opencv.npz") as inputs:
        x = inputs["x"]
    engine, dtype = request.param
    return run(net, x, engine=engine, dtype=dtype)


def test_every_blob_is_what_caffe_recorded(found, recorded):
    assert set(found) == set(recorded)
    for name, blob in recorded.items():
        assert found[name].shape == blob.shape, name
        np.testing.assert_allclose(found[name], blob, rtol=0, atol=1e-4 * np.abs(blob).max(), err_msg=name)


def test_priors_are_caffes_bit_for_bit(found, recorded):
    names = [name for name in recorded if name.endswith("_priorbox")]
    assert len(names) == 7
    for name in names:
        np.testing.assert_array_equal(found[name].astype(np.float32), recorded[name], err_msg=name)


def test_faces_are_those_of_caffe_in_its_order(found, recorded):
    ours, theirs = found["detection_out"][0, 0], recorded["detection_out"][0, 0]
    sure = theirs[:, 2] > 0.5
    assert sure.sum() > 10
    np.testing.assert_array_equal(ours[: sure.sum(), :2], theirs[sure, :2])
    np.testing.assert_allclose(ours[: sure.sum(), 2:], theirs[sure, 2:], rtol=0, atol=1e-4)
