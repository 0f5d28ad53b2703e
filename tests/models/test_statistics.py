"""What the statistics estimate, against the weights and activations of open_nsfw themselves."""

from __future__ import annotations

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.calibration import TensorStats
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.net import quantizable_layers
from lpcaffe.numbers.qformat import QFormat

pytestmark = pytest.mark.released

PREPARE = {"resize": (256, 256), "crop": 224, "mean": (104.0, 117.0, 123.0)}
WIDTHS = range(2, 17)
IMAGES = 4


@pytest.fixture(scope="module")
def net(open_nsfw):
    return lp.fold_batch_norm(lp.load(open_nsfw / "deploy.prototxt", open_nsfw / "resnet_50_1by2_nsfw.caffemodel"))


@pytest.fixture(scope="module")
def tensors(net, crops):
    """The weights of every layer, its output over four images, and the same after the ReLU where one follows."""
    found = {
        f"weights of {layer.name}": net.weights[layer.name][0].array().reshape(-1) for layer in quantizable_layers(net)
    }
    outputs = {layer.tops[0]: layer.name for layer in quantizable_layers(net)}
    engine = OnnxRuntime(net, outputs)
    runs = [engine.run(feeds) for feeds in lp.images(crops, net, limit=IMAGES, **PREPARE).batches(1)]
    for tensor, name in outputs.items():
        values = np.concatenate([run[tensor].reshape(-1) for run in runs])
        found[f"output of {name}"] = values
        if [reader.type for reader in net.readers[tensor]] == ["ReLU"]:
            found[f"rectified output of {name}"] = np.maximum(values, 0)
    return found


@numba.njit
def true_error(values, scale, top):
    """The sum of squared errors, value by value; rounding a magnitude half up is half away from zero."""
    total = 0.0
    for value in values:
        code = abs(np.float64(value)) * scale
        total += (code - min(np.floor(code + 0.5), top)) ** 2
    return total / scale**2


@pytest.fixture(scope="module")
def errors(tensors):
    """For each tensor and width: bd -> (true error, estimate). All bd around the least error, each way from the max."""
    table = {}
    for name, values in tensors.items():
        stats = TensorStats.of(values)
        for width in WIDTHS:
            holding = QFormat.holding(stats.abs_max, width).bd
            row = table[name, width] = {}
            for bd in range(holding + 1, holding - 30, -1):
                fmt = QFormat(bd, width - bd)
                row[bd] = true_error(values, 2.0**fmt.ad, float(fmt.code_max)), stats.squared_error(fmt)
                # With ever less range nothing is left but saturation: both errors only grow.
                if bd < holding and all(row[bd][k] > 2 * min(pair[k] for pair in row.values()) for k in (0, 1)):
                    break
    return table


def test_errors_are_within_two_percent_for_nearly_all_and_five_for_all(errors, tensors):
    best = {key: row[min(row, key=row.get)] for key, row in errors.items()}
    off = {key: abs(found / true - 1) for key, (true, found) in best.items()}
    assert len(off) == len(tensors) * len(WIDTHS) == 141 * 15
    assert np.mean(np.array(list(off.values())) < 0.02) >= 0.99
    assert max(value for (name, _), value in off.items() if tensors[name].size >= 1000) < 0.05


def test_the_format_of_least_error_is_that_of_the_data_but_for_ties(errors):
    wrong = {}
    for key, row in errors.items():
        true, found = (min(row, key=lambda bd, row=row, k=k: row[bd][k]) for k in (0, 1))
        if true != found:
            wrong[key] = row[found][0] / row[true][0] - 1
    # Where two formats err by almost the same, a tie may be decided otherwise.
    assert len(wrong) <= len(errors) / 1000
    assert all(cost < 0.005 for cost in wrong.values())


def test_the_format_of_least_error_is_never_worse_than_that_of_the_largest_magnitude(errors, tensors):
    for (name, width), row in errors.items():
        holding = QFormat.holding(float(np.abs(tensors[name]).max()), width).bd
        found = min(row, key=lambda bd, row=row: row[bd][1])
        assert row[found][0] <= row[holding][0], (name, width)


def test_moments_are_those_of_the_data_but_for_a_hundred_thousandth(tensors):
    for name, values in tensors.items():
        stats, x = TensorStats.of(values), values.astype(np.float64)
        centred = x - x.mean()
        std = centred.std()
        found = (stats.mean, stats.std, stats.mean_abs_dev, stats.kurtosis + 3, stats.signal)
        true = (x.mean(), std, np.abs(centred).mean(), (centred**4).mean() / std**4, np.dot(x, x))
        np.testing.assert_allclose(found, true, rtol=1e-5, atol=1e-9 * std, err_msg=name)


CODE = """if True:
    import sys, lpcaffe as lp
    net = lp.load(sys.argv[1] + "/deploy.prototxt", sys.argv[1] + "/resnet_50_1by2_nsfw.caffemodel")
    images = lp.images(sys.argv[2], net, resize=(256, 256), crop=224, mean=(104.0, 117.0, 123.0), limit=2)
    lp.calibrate(net, images, engine=sys.argv[3]).save(sys.argv[4])
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors can be limited on Linux only")
@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_the_number_of_threads_changes_no_bit(open_nsfw, crops, tmp_path, engine):
    saved = []
    for threads in ("1", "2"):
        out = tmp_path / f"{threads}.npz"
        command = [sys.executable, "-c", CODE, open_nsfw, crops, engine, out]
        # onnxruntime takes as many threads as there are processors.
        few = {"preexec_fn": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})} if threads == "1" else {}
        subprocess.run(command, check=True, env=os.environ | {"OPENBLAS_NUM_THREADS": threads}, **few)
        saved.append(out.read_bytes())
    assert saved[0] == saved[1]
