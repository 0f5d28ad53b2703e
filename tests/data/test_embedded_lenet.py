"""The embedded LeNet and its digits, by a forward pass that shares no code with lpcaffe's engines."""

from pathlib import Path

import numpy as np

from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.sources import open_data
from lpcaffe.formats import prototxt
from lpcaffe.formats.schema import NetParameter

LENET = Path(__file__).resolve().parents[2] / "models" / "lenet"


def convolved(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(x, weights.shape[2:], (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weights, optimize=True) + bias[:, None, None]


def pooled(x: np.ndarray) -> np.ndarray:
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))


def scores(blobs: dict[str, list[np.ndarray]], x: np.ndarray) -> np.ndarray:
    x = pooled(convolved(x, *blobs["conv1"]))
    x = pooled(convolved(x, *blobs["conv2"])).reshape(len(x), -1)
    x = np.maximum(x @ blobs["ip1"][0].T + blobs["ip1"][1], 0)
    return x @ blobs["ip2"][0].T + blobs["ip2"][1]


def test_the_demo_digits_are_recognised_as_often_as_the_readme_says():
    preprocessing = Preprocessing.from_net(prototxt.read(LENET / "deploy.prototxt"), 1)
    data = open_data(LENET / "digits.npz", {"data": (1, 1, 28, 28)}, preprocessing)
    net = NetParameter.FromString((LENET / "lenet.caffemodel").read_bytes())
    blobs = {
        layer.name: [np.array(blob.data, np.float32).reshape(blob.shape.dim) for blob in layer.blobs]
        for layer in net.layer
    }
    answers = np.concatenate([scores(blobs, batch["data"]).argmax(1) for batch in data.batches(250)])
    assert (answers == data.labels).sum() == 992
    assert np.bincount(data.labels, minlength=10).min() >= 80
    assert "992" in (LENET / "README.md").read_text(encoding="utf-8")
