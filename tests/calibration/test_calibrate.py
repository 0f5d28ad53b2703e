"""Calibration: the statistics are those of every image, however the work is cut."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.calibration import Calibration, TensorStats, calibrate
from lpcaffe.errors import DataError, FileError, LpcaffeWarning, WeightsError
from lpcaffe.formats.npz import read_arrays, write_npz

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }\n'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param {{ num_output: 4 }} }}
"""
NORMED = f"""name: "normed"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 bias_term: false }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param {{ bias_term: true }} }}
layer {{ name: "relu" type: "ReLU" bottom: "bn" top: "bn" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "bn" top: "ip" inner_product_param {{ num_output: 4 }} }}
"""


def blobs(count, scale=1.0):
    return (np.random.default_rng(count).normal(size=(count, 3, 7, 6)) * scale).astype(np.float32)


def of(values):
    return TensorStats(values.size, float(values.min()), float(values.max()))


def test_statistics_are_those_of_the_values_before_the_relu(make_net):
    net, images = make_net(SMALL), blobs(13)
    stats = calibrate(net, lp.images(images, net))
    values = lp.run(net, images, versions=True)
    assert stats.layers == {"conv": of(values["conv@conv"]), "ip": of(values["ip"])}
    assert stats.layers["conv"].min < 0
    assert (stats.images, stats.network, stats.sha256) == (13, "small", net.sha256)


def test_after_relu_they_are_those_of_the_values_after_it(make_net):
    net, images = make_net(SMALL), blobs(13)
    stats = calibrate(net, lp.images(images, net), act_placement="after-relu")
    assert stats.layers["conv"] == of(lp.run(net, images)["conv"])
    assert stats.layers["conv"].min == 0


def quarters(weights):
    """Sums of these times small integers are exact, so the order of summation, which BLAS chooses, does not matter."""
    for own in weights.values():
        own[:] = [np.round(blob * 4) / 4 for blob in own]


@pytest.mark.parametrize("batch", [1, 2, 5, 13, 100])
def test_the_batch_size_changes_no_bit(make_net, batch):
    net, images = make_net(SMALL, quarters), np.round(blobs(13) * 8)
    assert calibrate(net, lp.images(images, net), batch=batch) == calibrate(net, lp.images(images, net))


def test_statistics_of_parts_in_any_order_add_up_to_the_bits_of_the_whole(make_net):
    net, images = make_net(SMALL, quarters), np.round(blobs(13) * 8)
    first, second, third = (calibrate(net, lp.images(part, net), batch=3) for part in np.split(images, [4, 9]))
    whole = calibrate(net, lp.images(images, net))
    assert (second + third + first).layers == (third + (first + second)).layers == whole.layers
    assert (second + third + first).images == 13


def test_keys_are_the_learned_layers_whether_batch_norm_is_folded_or_kept(make_net):
    net, images = make_net(NORMED), blobs(5)
    folded = calibrate(net, lp.images(images, net))
    kept = calibrate(net, lp.images(images, net), fold_bn=False)
    assert list(folded.layers) == list(kept.layers) == ["conv", "ip"]
    assert (folded.fold_bn, kept.fold_bn) == (True, False)
    assert kept.layers["conv"] == of(lp.run(net, images, versions=True)["bn@scale"])
    for name, stats in kept.layers.items():
        np.testing.assert_allclose(
            [folded.layers[name].min, folded.layers[name].max], [stats.min, stats.max], rtol=1e-4
        )


def test_memory_does_not_grow_with_the_number_of_images(make_net, tmp_path):
    net = make_net(
        SMALL.replace("dim: 7 dim: 6", "dim: 64 dim: 64").replace("kernel_size: 3", "kernel_size: 3 stride: 4")
    )
    code = """if True:
        import sys, tracemalloc, numpy as np, lpcaffe as lp
        net = lp.load(sys.argv[1] + "/net.prototxt", sys.argv[1] + "/net.caffemodel")
        peaks = []
        for count in (16, 16, 128):
            tracemalloc.start()
            lp.calibrate(net, lp.images(f"{sys.argv[1]}/{count}.npy", net))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        print(*peaks)
    """
    for count in (16, 128):
        np.save(tmp_path / f"{count}.npy", np.ones((count, 3, 64, 64), np.float32))
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    _, few, many = map(int, done.stdout.split())
    assert many < few * 1.2 + 2**16
    assert net.name == "small"


def test_a_nan_activation_is_an_error_that_names_the_layer(make_net):
    def overflowing(weights):
        weights["conv"][0][:] = 3e38

    net = make_net(SMALL, overflowing)
    with pytest.raises(DataError, match='layer "conv": an activation is NaN or infinite'):
        calibrate(net, lp.images(blobs(2), net))


@pytest.mark.parametrize("fold", [True, False])
def test_a_nan_weight_is_named_itself_however_far_it_travels(make_net, fold):
    def broken(weights):
        weights["bn"][0][3] = np.nan

    net = make_net(NORMED, broken)
    with pytest.raises(WeightsError, match=r'layer "bn" blob 0: the value at \[3\] is nan'):
        calibrate(net, lp.images(blobs(2), net), fold_bn=fold)


def test_missing_weights_are_an_error(make_net):
    net = make_net(SMALL)
    with pytest.raises(WeightsError, match='layer "conv"'):
        calibrate(net.replace(net.message, None), lp.images(blobs(2), net))


def test_a_range_unlike_the_networks_is_a_warning(make_net):
    net = make_net(SMALL)
    with pytest.warns(LpcaffeWarning, match='input "data": the data range over 0 to 255'):
        calibrate(net, lp.images(np.full((2, 3, 7, 6), [[[[255.0]]], [[[0.0]]]], np.float32), net))


def test_progress_counts_images(make_net):
    net, seen = make_net(SMALL), []

    def progress(done, total):
        seen.append((done, total))

    calibrate(net, lp.images(blobs(13), net), engine="numpy", batch=5, progress=progress)
    assert seen == [(5, 13), (10, 13), (13, 13)]
    seen.clear()
    calibrate(net, lp.images(blobs(4), net), engine="onnxruntime", batch=5, progress=progress)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_both_engines_see_the_same_activations(make_net):
    net = make_net(SMALL)
    one, other = (calibrate(net, lp.images(blobs(5), net), engine=engine) for engine in ("numpy", "onnxruntime"))
    for name, stats in one.layers.items():
        assert stats.count == other.layers[name].count
        np.testing.assert_allclose([stats.min, stats.max], [other.layers[name].min, other.layers[name].max], rtol=1e-5)


def test_caffe_itself_does_not_calibrate(make_net):
    net = make_net(SMALL)
    with pytest.raises(lp.LpcaffeError, match="pycaffe does not calibrate; numpy and onnxruntime do"):
        calibrate(net, lp.images(blobs(1), net), engine="pycaffe")


def test_what_is_saved_is_loaded_and_the_bytes_depend_on_it_alone(make_net, tmp_path):
    net = make_net(SMALL)
    stats = calibrate(net, lp.images(blobs(13), net))
    stats.save(tmp_path / "a.npz")
    Calibration.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert Calibration.load(tmp_path / "a.npz") == stats
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert str(tmp_path) not in (tmp_path / "a.npz").read_bytes().decode("latin-1")
    with pytest.raises(FileError, match="the file exists"):
        stats.save(tmp_path / "a.npz")


def test_loaded_statistics_can_be_added_to_fresh_ones(make_net, tmp_path):
    net = make_net(SMALL)
    stats = calibrate(net, lp.images(blobs(3), net))
    stats.save(tmp_path / "a.npz")
    both = stats + Calibration.load(tmp_path / "a.npz")
    assert both.images == 6
    assert both.layers["ip"] == dataclasses.replace(stats.layers["ip"], count=2 * stats.layers["ip"].count)
    assert (both + stats).source == stats.source


@pytest.mark.parametrize(
    "change",
    [{"sha256": "0"}, {"fold_bn": False}, {"act_placement": "after-relu"}, {"layers": {"conv": TensorStats()}}],
)
def test_statistics_of_different_things_cannot_be_added(make_net, change):
    net = make_net(SMALL)
    stats = calibrate(net, lp.images(blobs(2), net))
    with pytest.raises(DataError, match="cannot be added"):
        stats + dataclasses.replace(stats, **change)


def test_statistics_of_another_network_are_refused(make_net, tmp_path):
    net = make_net(SMALL)
    other = make_net(SMALL.replace("num_output: 4", "num_output: 8"), folder=tmp_path / "other")
    stats = calibrate(net, lp.images(blobs(2), net))
    stats.check(net)
    with pytest.raises(DataError, match=f'of "small" with sha256 {net.sha256[:12]}'):
        stats.check(other)
    with pytest.raises(DataError, match="expected statistics of the layers conv, ip, got conv"):
        dataclasses.replace(stats, layers={"conv": stats.layers["conv"]}).check(net)


def broken_files():
    """Arrays that `calibrate` never writes."""
    good = {
        "layers": np.array(["ip"]),
        "count": np.array([3]),
        "min": np.array([-1.0]),
        "max": np.array([1.0]),
        "meta": np.array(json.dumps({"version": 1, "network": "n"})),
    }
    yield {key: good[key] for key in good if key != "max"}
    yield good | {"max": np.array([1.0, 2.0])}
    yield good | {"max": np.array(["x"])}
    yield good | {"count": np.array(3)}
    for meta in ("{", "3", "null", "[]", "{}", '{"version": 1, "bits": 2}', '{"version": 1, "layers": 2}'):
        yield good | {"meta": np.array(meta)}


@pytest.mark.parametrize("arrays", list(broken_files()))
def test_a_broken_statistics_file_is_refused_by_name(tmp_path, arrays):
    write_npz(tmp_path / "s.npz", arrays)
    with pytest.raises(DataError, match=r"s\.npz: is not a statistics file of lpcaffe calibrate"):
        Calibration.load(tmp_path / "s.npz")


def test_other_versions_and_other_files_are_refused(tmp_path, make_net):
    net = make_net(SMALL)
    calibrate(net, lp.images(blobs(2), net)).save(tmp_path / "s.npz")
    arrays = dict(read_arrays(tmp_path / "s.npz"))
    arrays["meta"] = np.array(json.dumps(json.loads(str(arrays["meta"])) | {"version": 2}))
    write_npz(tmp_path / "v2.npz", arrays)
    with pytest.raises(DataError, match="expected statistics of version 1, got 2"):
        Calibration.load(tmp_path / "v2.npz")
    np.save(tmp_path / "x.npy", blobs(1))
    for name in ("x.npy", "net.prototxt", "gone.npz"):
        with pytest.raises(DataError, match=name):
            Calibration.load(tmp_path / name)
