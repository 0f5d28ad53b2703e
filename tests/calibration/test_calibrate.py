"""Calibration: the statistics are those of every image, however the work is cut."""

import dataclasses
import json
import tracemalloc

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.calibration import Calibration, TensorStats, calibrate
from lpcaffe.calibration.one_thread import one_blas_thread
from lpcaffe.errors import DataError, FileError, LpcaffeWarning, WeightsError
from lpcaffe.formats.npz import write_npz

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } } }\n'
RELU = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 }} }}
{RELU}
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


def one_by_one(net, images, **options):
    """Every blob of every image, computed alone."""
    runs = [lp.run(net, image[None], **options) for image in images]
    return {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}


def test_statistics_are_those_of_the_values_before_the_relu_and_after_it(make_net):
    net, images = make_net(SMALL), blobs(13)
    stats = calibrate(net, lp.images(images, net))
    values = one_by_one(net, images, versions=True)
    assert stats.layers == {"conv": TensorStats.of(values["conv@conv"]), "ip": TensorStats.of(values["ip"])}
    assert stats.rectified == {"conv": TensorStats.of(values["conv"])}
    assert stats.layers["conv"].min < 0 == stats.rectified["conv"].min
    assert stats.channels == {}
    assert (stats.images, stats.network, stats.sha256) == (13, "small", net.sha256)


def test_after_relu_they_are_those_of_the_values_after_it(make_net):
    net, images = make_net(SMALL), blobs(13)
    stats = calibrate(net, lp.images(images, net), policy=lp.Policy(act_placement="after-relu"))
    assert stats.layers["conv"] == TensorStats.of(one_by_one(net, images)["conv"])
    assert stats.layers["conv"].min == 0
    assert stats.rectified == {}


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
@pytest.mark.parametrize(
    "relu",
    [
        'layer { name: "relu" type: "PReLU" bottom: "conv" top: "conv" }',
        'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" relu_param { negative_slope: 0.1 } }',
    ],
)
def test_a_relu_that_lets_something_through_is_measured(make_net, relu, engine):
    net, images = make_net(SMALL.replace(RELU, relu)), blobs(7)
    stats = calibrate(net, lp.images(images, net), engine=engine)
    with one_blas_thread():
        values = one_by_one(net, images, engine=engine, versions=True)
    assert stats.rectified == {"conv": TensorStats.of(values["conv"])}
    assert stats.layers["conv"] == TensorStats.of(values["conv@conv"])
    assert stats.rectified["conv"] != stats.layers["conv"].rectified()


def test_a_value_that_others_read_too_before_the_relu_counts_as_not_rectified(make_net):
    both = 'layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "other" top: "sum" }\n'
    net = make_net(SMALL.replace(RELU, RELU.replace('top: "conv"', 'top: "other"') + "\n" + both))
    assert calibrate(net, lp.images(blobs(2), net)).rectified == {}


def test_channels_are_those_of_each_output_channel(make_net):
    net, images = make_net(SMALL), blobs(7)
    stats = calibrate(net, lp.images(images, net), per_channel=True)
    values = one_by_one(net, images, versions=True)
    conv = tuple(TensorStats.of(values["conv@conv"][:, channel]) for channel in range(5))
    assert stats.channels == {
        "conv": conv,
        "ip": tuple(TensorStats.of(values["ip"][:, channel]) for channel in range(4)),
    }
    assert sum(conv, TensorStats()) == stats.layers["conv"]


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_images_in_any_order_and_splitting_give_the_same_file(make_net, tmp_path, engine, per_channel):
    net, images = make_net(SMALL), blobs(13)

    def collect(part):
        stats = calibrate(net, lp.images(part, net), engine=engine, per_channel=per_channel)
        return dataclasses.replace(stats, source="thirteen")  # which else says how many there were in each part

    shuffled = images[np.random.default_rng(0).permutation(13)]
    first, second, third = map(collect, np.split(shuffled, [4, 9]))
    whole = collect(images)
    for name, stats in {"whole": whole, "left": (second + third) + first, "right": third + (first + second)}.items():
        assert stats == whole
        stats.save(tmp_path / f"{name}.npz")
        assert (tmp_path / f"{name}.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert whole.images == 13


def test_sources_that_differ_are_named_in_one_order(make_net, tmp_path):
    net = make_net(SMALL)
    np.save(tmp_path / "x.npy", blobs(2))
    one, other = calibrate(net, lp.images(blobs(3), net)), calibrate(net, lp.images(tmp_path / "x.npy", net))
    assert one + other == other + one == dataclasses.replace(one + other, images=5)
    assert (one + other + one).source == (other + one).source


def test_keys_are_the_learned_layers_whether_batch_norm_is_folded_or_kept(make_net):
    net, images = make_net(NORMED), blobs(5)
    folded = calibrate(net, lp.images(images, net))
    kept = calibrate(net, lp.images(images, net), policy=lp.Policy(fold_bn=False))
    assert list(folded.layers) == list(kept.layers) == ["conv", "ip"]
    assert (folded.fold_bn, kept.fold_bn) == (True, False)
    assert kept.layers["conv"] == TensorStats.of(one_by_one(net, images, versions=True)["bn@scale"])
    for name, stats in kept.layers.items():
        np.testing.assert_allclose(
            [folded.layers[name].min, folded.layers[name].max], [stats.min, stats.max], rtol=1e-4
        )


def test_memory_does_not_grow_with_the_number_of_images(make_net, tmp_path):
    net = make_net(
        SMALL.replace("dim: 7 dim: 6", "dim: 63 dim: 62").replace("kernel_size: 3", "kernel_size: 3 stride: 4")
    )
    peaks = []
    for count in (16, 16, 128):  # what is made once, the first makes
        np.save(tmp_path / "x.npy", np.ones((count, 3, 63, 62), np.float32))
        tracemalloc.start()
        calibrate(net, lp.images(tmp_path / "x.npy", net))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    _, few, many = peaks
    assert many < few * 1.2 + 2**16


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_a_nan_activation_is_an_error_that_names_the_layer_and_the_image(make_net, engine):
    def large(weights):
        weights["conv"][0][:] = 1e30

    net, images = make_net(SMALL, large), blobs(5)
    images[3] = 1e20
    with pytest.raises(DataError, match='layer "conv": an activation is NaN or infinite for image 3, counted from 0'):
        calibrate(net, lp.images(images, net), engine=engine)


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_the_layer_named_is_where_nan_first_appears_learned_or_not(make_net, engine):
    power = 'layer { name: "root" type: "Power" bottom: "data" top: "root" power_param { power: 0.5 shift: 10 } }\n'
    net = make_net(
        SMALL.replace('layer { name: "conv"', power + 'layer { name: "conv"').replace(
            'bottom: "data" top: "conv"', 'bottom: "root" top: "conv"'
        )
    )
    images = blobs(4)
    calibrate(net, lp.images(images, net), engine=engine)
    images[1, 2, 0, 0] = -11
    with pytest.raises(DataError, match='layer "root": an activation is NaN or infinite for image 1, counted from 0'):
        calibrate(net, lp.images(images, net), engine=engine)


def test_a_layer_that_is_always_zero_is_fine(make_net):
    def dead(weights):
        for blob in weights["conv"]:
            blob[:] = 0

    net = make_net(SMALL, dead)
    stats = calibrate(net, lp.images(blobs(4), net))
    assert (stats.layers["conv"].abs_max, stats.layers["conv"].std) == (0, 0)
    assert stats.layers["ip"].std > 0  # each output is its own bias
    assert stats.to_json()["layers"]["conv"]["kurtosis"] == 0


def test_a_network_that_fixes_its_batch_keeps_it(make_net):
    shape = "reshape_param { shape { dim: 2 dim: 3 dim: 7 dim: 6 } }"
    fixed = f'layer {{ name: "fix" type: "Reshape" bottom: "data" top: "fix" {shape} }}\nlayer {{ name: "conv"'
    text = SMALL.replace('layer { name: "conv"', fixed).replace(
        'bottom: "data" top: "conv"', 'bottom: "fix" top: "conv"'
    )
    net = make_net(text)
    seen = []
    stats = calibrate(net, lp.images(blobs(6), net), progress=lambda done, total: seen.append(done))
    assert seen == [2, 4, 6]
    assert stats.layers["ip"].count == 6 * 4


@pytest.mark.parametrize("fold", [True, False])
def test_a_nan_weight_is_named_itself_however_far_it_travels(make_net, fold):
    def broken(weights):
        weights["bn"][0][3] = np.nan

    net = make_net(NORMED, broken)
    with pytest.raises(WeightsError, match=r'layer "bn" blob 0: the value at \[3\] is nan'):
        calibrate(net, lp.images(blobs(2), net), policy=lp.Policy(fold_bn=fold))


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

    calibrate(net, lp.images(blobs(4), net), progress=progress)
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


@pytest.mark.parametrize("per_channel", [False, True])
def test_what_is_saved_is_loaded_and_the_bytes_depend_on_it_alone(make_net, tmp_path, per_channel):
    net = make_net(SMALL)
    stats = calibrate(net, lp.images(blobs(13), net), per_channel=per_channel)
    stats.save(tmp_path / "a.npz")
    Calibration.load(tmp_path / "a.npz").save(tmp_path / "b.npz")
    assert Calibration.load(tmp_path / "a.npz") == stats
    assert list(Calibration.load(tmp_path / "a.npz").rectified) == ["conv"]
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
    assert both.layers["ip"] == stats.layers["ip"] + stats.layers["ip"]
    assert (both + stats).source == stats.source


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "0"},
        {"fold_bn": False},
        {"act_placement": "after-relu"},
        {"layers": {"conv": TensorStats()}},
        {"rectified": {}},
        {"channels": {"conv": (TensorStats(),)}},
    ],
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


def whole_file():
    meta = {"version": 2, "network": "n"}
    ip = TensorStats.of(np.array([-1, 0.3, 0.3, 1], np.float32))
    return {
        "meta": np.array(json.dumps(meta)),
        "layers": np.array(["ip"]),
        "layer": np.array([0, 0]),
        "channel": np.array([-1, 0]),
        "count": np.array([4, 4]),
        "min": np.array([-1.0, -1.0]),
        "max": np.array([1.0, 1.0]),
        "above": np.array([ip.exceed_counts, ip.exceed_counts]),
        "start": np.array([0, 3, 6]),
        "keys": np.array([*ip.keys, *ip.keys]),
        "counts": np.array([*ip.counts, *ip.counts]),
        "sums": np.array([*ip.sums, *ip.sums]),
        "squares": np.array([*ip.squares, *ip.squares]),
    }


def broken_files():
    """Arrays that `calibrate` never writes."""
    good = whole_file()
    for key in good:
        yield {name: array for name, array in good.items() if name != key}
    for key in set(good) - {"meta", "layers"}:
        yield good | {key: good[key][:-1]}
        yield good | {key: good[key][0]}
        yield good | {key: good[key].astype("U3")}
    yield good | {"count": np.array([4, 5])}
    yield good | {"counts": np.array([1, -2, 5, 1, 2, 1])}
    yield good | {"start": np.array([0, 4, 3])}
    yield good | {"start": np.array([1, 3, 6])}
    yield good | {"keys": good["keys"][::-1].copy()}
    yield good | {"keys": np.array([1, 2, 2**14] * 2, np.uint16)}
    yield good | {"layer": np.array([0, 1])}
    yield good | {"layers": np.array(["ip", "more"])}
    yield good | {"min": np.array([-1, np.nan])}
    yield good | {"min": np.array([-2.0, -1])}
    yield good | {"max": np.array([1, np.inf])}
    yield good | {"max": np.array([1e300, 1])}
    yield good | {"max": np.array([1, 0.3])}
    yield good | {"sums": good["sums"] - 2**18}
    yield good | {"sums": good["sums"] + 2**19}
    yield good | {"squares": -1 - good["squares"]}
    yield good | {"squares": good["squares"] + 2**30}
    yield good | {"above": good["above"] - 1}
    yield good | {"above": good["above"] + 2}
    yield good | {"above": good["above"][:, ::-1].copy()}
    infinite = TensorStats.of(np.array([-1, 0.3, 0.3, 3e38], np.float32)).keys
    yield good | {"keys": np.array([*np.where(infinite == infinite[1], 255 * 32, infinite)] * 2, np.uint16)}
    for channels in ([-1, -3], [-1, -1], [-2, -1], [-1, 1], [0, -1]):
        yield good | {"channel": np.array(channels)}
    yield good | {"layer": np.array([0, -1])}
    for key, value in {
        "network": 3,
        "sha256": None,
        "fold_bn": 1,
        "act_placement": "nowhere",
        "images": -1,
        "source": ["x"],
        "version": "2",
    }.items():
        yield good | {"meta": np.array(json.dumps({"version": 2, key: value}))}
    yield good | {"meta": np.array("[" * 100_000)}
    for meta in ("{", "3", "null", "[]", "{}", '{"version": 2, "bits": 2}', '{"version": 2, "layers": 2}'):
        yield good | {"meta": np.array(meta)}


def test_a_file_made_by_hand_from_the_documented_layout_is_read(tmp_path):
    write_npz(tmp_path / "s.npz", whole_file())
    stats = Calibration.load(tmp_path / "s.npz")
    assert stats.layers == {"ip": TensorStats.of(np.array([-1, 0.3, 0.3, 1], np.float32))}
    assert stats.channels == {"ip": (stats.layers["ip"],)}


@pytest.mark.parametrize("arrays", list(broken_files()))
def test_a_broken_statistics_file_is_refused_by_name(tmp_path, arrays):
    write_npz(tmp_path / "s.npz", arrays)
    with pytest.raises(DataError, match=r"s\.npz: is not a statistics file of lpcaffe calibrate"):
        Calibration.load(tmp_path / "s.npz")


@pytest.mark.parametrize(("version", "hint"), [(1, "calibrate again"), (3, "it was written by another lpcaffe")])
def test_other_versions_are_refused_with_what_to_do(tmp_path, version, hint):
    write_npz(tmp_path / "s.npz", whole_file() | {"meta": np.array(json.dumps({"version": version}))})
    with pytest.raises(DataError, match=f"expected statistics of version 2, got {version}; {hint}"):
        Calibration.load(tmp_path / "s.npz")


def test_other_files_are_refused(tmp_path, make_net):
    make_net(SMALL)
    np.save(tmp_path / "x.npy", blobs(1))
    for name in ("x.npy", "net.prototxt", "gone.npz"):
        with pytest.raises(DataError, match=name):
            Calibration.load(tmp_path / name)
