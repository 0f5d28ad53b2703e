"""Running a network: inputs, weights, versions of blobs, batches, random numbers. Arithmetic is in tests/layers."""

import dataclasses
import hashlib

import numpy as np
import pytest

from lpcaffe.engines import (
    NumpyEngine,
    batch_size,
    bind_parameters,
    check_executable,
    choose_engine,
    forward,
    infer_shapes,
    input_shapes,
    onnx_model,
    run,
)
from lpcaffe.errors import DataError, LpcaffeError, NetError, WeightsError
from lpcaffe.net import ArrayBlob, Rounding
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 7 dim: 6 } } }\n'
STOCHASTIC = (
    INPUT
    + """
layer { name: "conv" type: "LPConvolution" bottom: "data" top: "conv"
  convolution_param { num_output: 3 kernel_size: 2 }
  lpfp_param { bd: 2 ad: 6 round_bias: true rounding_scheme: STOCHASTIC } }
layer { name: "act" type: "LPAct" bottom: "conv" top: "conv" lpfp_param { bd: 6 ad: 4 rounding_scheme: STOCHASTIC } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "LPInnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 } lpfp_param { bd: 2 ad: 6 round_bias: true rounding_scheme: STOCHASTIC } }
layer { name: "ip_act" type: "LPAct" bottom: "ip" top: "ip_act" lpfp_param { bd: 9 ad: 2 rounding_scheme: STOCHASTIC } }
"""
)


def grid(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Multiples of 1/256: with weights on a grid, float64 sums of these are exact and do not depend on the batch."""
    return np.random.default_rng(seed).integers(-1024, 1025, shape) / 256


def stream(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def by_batches(net, x: np.ndarray, sizes: list[int], seed: int = 0) -> np.ndarray:
    """All blobs of `ip_act`, computed some images at a time."""
    parameters = bind_parameters(net, check_executable(net))
    ops, tops, done = NumpyEngine("float64", seed=seed), [], 0
    for size in sizes:
        feeds = {"data": x[done : done + size]}
        kept = forward(ops, net, feeds, parameters, first_image=done, keep=["ip_act@ip_act"])
        assert list(kept) == ["ip_act@ip_act"]
        tops.append(kept["ip_act@ip_act"])
        done += size
    return np.concatenate(tops)


@pytest.mark.parametrize("sizes", [[7], [3, 3, 1], [1, 6], [1] * 7])
def test_stochastic_rounding_does_not_depend_on_the_batch_size(random_net, sizes):
    net, x = random_net(STOCHASTIC), grid((7, 4, 7, 6))
    np.testing.assert_array_equal(by_batches(net, x, sizes), run(net, x, dtype="float64")["ip_act"])


def test_batches_without_their_first_image_would_differ(random_net):
    """Or the test above would say nothing: the random numbers have to depend on the image's place."""
    net, x = random_net(STOCHASTIC), np.repeat(grid((1, 4, 7, 6)), 2, axis=0)
    first, second = by_batches(net, x, [1, 1])
    assert not np.array_equal(first, second)


def test_the_seed_and_nothing_else_decides_the_random_numbers(random_net):
    net, x = random_net(STOCHASTIC), grid((2, 4, 7, 6))
    one, again, other = (run(net, x, dtype="float64", seed=seed) for seed in (5, 5, 6))
    for blob in ("conv", "ip_act"):
        np.testing.assert_array_equal(one[blob], again[blob])
        assert not np.array_equal(one[blob], other[blob])


def test_streams_are_named_after_the_layer_and_the_blob(random_net):
    """LAYER/0 weights, LAYER/2 bias, LAYER/top activations: the contract of round_fp.md."""
    net, x = random_net(STOCHASTIC), grid((2, 4, 7, 6))
    found = run(net, x, dtype="float64", seed=9, versions=True)
    act = round_fp(found["conv@conv"], 6, 4, "stochastic", seed=9, stream=stream("act/top"))
    np.testing.assert_array_equal(found["conv@act"], act)
    w, _, b, _ = (blob.values.astype(np.float64) for blob in net.weights["ip"])
    w = round_fp(w, 2, 6, "stochastic", seed=9, stream=stream("ip/0"))
    b = round_fp(b, 2, 6, "stochastic", seed=9, stream=stream("ip/2"))
    np.testing.assert_array_equal(found["ip"], found["conv"].reshape(2, -1) @ w.T + b)


@pytest.mark.parametrize("scheme", ["floor", "deterministic", "half_even"])
def test_stochastic_as_replaces_the_scheme_of_stochastic_layers(random_net, scheme):
    net, x = random_net(STOCHASTIC), grid((2, 4, 7, 6))
    found = run(net, x, dtype="float64", stochastic_as=scheme, versions=True)
    np.testing.assert_array_equal(found["conv@act"], round_fp(found["conv@conv"], 6, 4, scheme))
    np.testing.assert_array_equal(found["ip_act"], round_fp(found["ip"], 9, 2, scheme))


def test_stochastic_as_leaves_deterministic_layers_alone(random_net):
    net, x = random_net(STOCHASTIC.replace("STOCHASTIC", "DETERMINISTIC")), grid((2, 4, 7, 6))
    plain, floor = run(net, x), run(net, x, stochastic_as="floor")
    np.testing.assert_array_equal(plain["ip_act"], floor["ip_act"])


def test_an_unknown_scheme_names_the_layer(random_net):
    with pytest.raises(LpcaffeError, match=r'^layer "conv": unknown rounding scheme'):
        run(random_net(STOCHASTIC), grid((2, 4, 7, 6)), stochastic_as="nearest")


# ---------------------------------------------------------------------------------------------------- blobs


def test_run_gives_every_blob_in_its_last_version_and_on_demand_the_earlier_ones(random_net):
    net, x = random_net(STOCHASTIC), grid((3, 4, 7, 6))
    found = run(net, x)
    assert {blob: value.shape for blob, value in found.items()} == {
        "data": (3, 4, 7, 6),
        "conv": (3, 3, 6, 5),
        "ip": (3, 5),
        "ip_act": (3, 5),
    }
    assert found["conv"].min() == 0
    versions = run(net, x, versions=True)
    assert set(versions) - set(found) == {"conv@conv", "conv@act"}
    assert versions["conv@act"].min() < 0
    np.testing.assert_array_equal(np.maximum(versions["conv@act"], 0), versions["conv"])


@pytest.mark.parametrize("blob", ["file", "a/b", "x@y", "self", "data ü"])
def test_any_blob_name_works(net_of, blob):
    net = net_of(INPUT + f'layer {{ name: "l/1" type: "TanH" bottom: "data" top: "{blob}" }}')
    x = np.ones((1, 4, 7, 6), np.float32)
    np.testing.assert_array_equal(run(net, x)[blob], np.tanh(x))


def test_inputs_are_never_written_to(random_net):
    x = grid((2, 4, 7, 6)).astype(np.float32)
    x.flags.writeable = False
    text = INPUT + 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }'
    found = run(random_net(text), x, versions=True)
    np.testing.assert_array_equal(found["data@data"], x)
    assert found["data"].min() == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int64])
def test_inputs_of_any_number_type_are_converted(net_of, dtype):
    net = net_of(INPUT + 'layer { name: "p" type: "Power" bottom: "data" top: "p" power_param { scale: 2 } }')
    for arithmetic in ("float32", "float64"):
        found = run(net, np.arange(6).reshape(1, 2, 3, 1).astype(dtype), dtype=arithmetic)["p"]
        assert found.dtype == arithmetic
        np.testing.assert_array_equal(found, 2 * np.arange(6).reshape(1, 2, 3, 1))


def test_inputs_of_any_layout_give_the_same(random_net):
    net, x = random_net(STOCHASTIC), grid((2, 4, 7, 6))
    turned = np.ascontiguousarray(x.transpose(3, 1, 0, 2)).transpose(2, 1, 3, 0)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(run(net, turned)["ip_act"], run(net, x)["ip_act"])


TWO = (
    'layer { name: "in" type: "Input" top: "a" top: "b" input_param { shape { dim: 2 dim: 3 } } }\n'
    'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }'
)


@pytest.mark.parametrize(
    ("text", "inputs", "message"),
    [
        (TWO, np.ones((2, 3)), r"the network has 2 inputs \(a, b\), got one array"),
        (TWO, {"a": np.ones((2, 3))}, "expected the inputs a, b, got a"),
        (TWO, {}, "expected the inputs a, b, got none"),
        (TWO, {"a": np.ones((2, 3)), "b": np.ones((2, 3)), "c": np.ones(1)}, "expected the inputs a, b, got a, b, c"),
        (TWO, {"a": np.ones((2, 3)), "b": np.array([["x"] * 3] * 2)}, '^blob "b": expected an array of floats, got <U'),
        (TWO, {"a": np.ones((2, 3)), "b": np.ones((2, 0))}, '^blob "b": expected at least one value, got .* 2 x 0$'),
        (TWO, {"a": np.ones((2, 3)), "b": np.ones((2, 3), bool)}, '^blob "b": expected an array of floats, got bool'),
        (TWO, {"a": np.ones((2, 3)), "b": [[1, 2, 3]]}, '^blob "b": expected an array of floats, got list'),
        (TWO, [1, 2], "^expected an array, or arrays by blob, got list"),
        ('layer { name: "d" type: "Dropout" }', np.ones(3), "the network has 0 inputs, got one array$"),
    ],
)
def test_inputs_that_are_not_the_networks_are_refused(net_of, text, inputs, message):
    with pytest.raises(DataError, match=message):
        run(net_of(text), inputs)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (2, 5, 7, 6),
            "got 2 x 5 x 7 x 6, which does not fit "
            'layer "conv" blob 0: expected the shape 3 x 5 x 2 x 2, got 3 x 4 x 2 x 2',
        ),
        (
            (3, 4, 8, 6),
            'got 3 x 4 x 8 x 6, which does not fit layer "ip" blob 0: expected the shape 5 x 105, got 5 x 90',
        ),
        (
            (2, 4, 1, 6),
            'got 2 x 4 x 1 x 6, which does not fit layer "conv": the kernel spans 2 pixels, the padded input has 1',
        ),
        ((4, 7, 6), "got 4 x 7 x 6"),
        ((1, 2, 4, 7, 6), "got 1 x 2 x 4 x 7 x 6"),
        ((), "got ()"),
    ],
)
def test_an_input_of_a_shape_that_does_not_fit_is_named_with_what_it_does_not_fit(random_net, shape, said):
    net = random_net(STOCHASTIC)
    with pytest.raises(DataError) as caught:
        run(net, np.ones(shape, np.float32))
    assert str(caught.value) == f'blob "data": expected N x 4 x 7 x 6 as in the file, {said}'


def test_of_two_inputs_the_one_that_differs_in_more_than_the_number_of_images_is_named(net_of):
    net = net_of(TWO)
    with pytest.raises(DataError, match=r'^blob "b": expected N x 3 as in the file, got 5 x 4, which .* layer "sum": '):
        run(net, {"a": np.ones((5, 3)), "b": np.ones((5, 4))})
    with pytest.raises(DataError, match=r'^blob "a": expected N x 3 as in the file, got 5 x 3, which .* layer "sum": '):
        run(net, {"a": np.ones((5, 3)), "b": np.ones((2, 3))})


def test_weights_that_do_not_fit_the_files_own_shapes_are_to_blame_whatever_is_fed(random_net):
    net = random_net(STOCHASTIC)
    wrong = net.replace(net.message, {**net.weights, "conv": net.weights["conv"][:1]})
    for shape in ((2, 4, 7, 6), (2, 5, 7, 6)):
        with pytest.raises(WeightsError, match=r'^layer "conv": expected . blobs, got 1$'):
            run(wrong, np.ones(shape, np.float32))


def test_a_network_of_another_size_runs_where_its_weights_allow_it(net_of):
    net = net_of(INPUT + 'layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }')
    assert run(net, np.ones((3, 2, 5, 9), np.float32), engine="numpy")["relu"].shape == (3, 2, 5, 9)


@pytest.mark.parametrize("engine", ["auto", "numpy", "onnxruntime"])
def test_a_network_without_layers_is_refused(net_of, engine):
    with pytest.raises(NetError, match=r"^the network has no layers$"):
        run(net_of('name: "nothing"'), {}, engine=engine)


@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_windows_far_beyond_the_image_cost_no_memory(net_of, method):
    """With the ceil rule and no padding there is a second window wherever the kernel is smaller than the image."""
    text = f"pooling_param {{ pool: {method} kernel_size: 2 stride: 4000000000 }}"
    net = net_of(INPUT + f'layer {{ name: "p" type: "Pooling" bottom: "data" top: "p" {text} }}')
    x = grid((1, 4, 7, 6))
    y = run(net, x, engine="numpy")["p"]
    assert y.shape == (1, 4, 2, 2)
    first = x[:, :, :2, :2]
    np.testing.assert_array_equal(y[:, :, 0, 0], first.max((2, 3)) if method == "MAX" else first.mean((2, 3)))
    assert np.all(y[:, :, 1] == (np.finfo(np.float32).min if method == "MAX" else 0))


CHOSEN = 'layer { name: "in" type: "Input" top: "data" top: "chosen" input_param { shape { dim: 3 } } }\n'
AFTER_DETECTIONS = """
    layer { name: "in" type: "Input" top: "loc" top: "conf" top: "prior" input_param {
            shape { dim: 1 dim: 12 } shape { dim: 1 dim: 6 } shape { dim: 1 dim: 2 dim: 12 } } }
    layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
            detection_output_param { num_classes: 2 nms_param { eta: %s } } }
    layer { name: "last" type: "%s" bottom: "out" %s }"""


@pytest.mark.parametrize(
    ("text", "engine"),
    [
        (AFTER_DETECTIONS % ("1", "Silence", ""), "onnxruntime"),
        (AFTER_DETECTIONS % ("0.5", "Silence", ""), "numpy"),
        (AFTER_DETECTIONS % ("1", "Flatten", 'top: "rows"'), "numpy"),
        (CHOSEN + 'layer { name: "f" type: "Filter" bottom: "data" bottom: "chosen" top: "some" }', "numpy"),
        (INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }', "onnxruntime"),
        (INPUT + 'layer { name: "q" type: "LPAct" bottom: "data" top: "q" lpfp_param { bd: 2 ad: 3 } }', "numpy"),
    ],
)
def test_auto_takes_onnxruntime_where_a_graph_holds_the_network_and_nothing_rounds(net_of, text, engine):
    net = net_of(text)
    assert choose_engine(net) == engine
    assert choose_engine(net, dtype="float64") == "numpy"
    feeds = {blob: np.ones(shape, np.float32) for blob, shape in input_shapes(net).items()}
    assert list(run(net, feeds)) == [raw for layer in net.layers for raw in layer.raw_tops]


def test_auto_takes_numpy_where_the_weights_are_too_many_for_a_graph(random_net, monkeypatch):
    net = random_net(IP)
    size = 4 * sum(blob.values.size for blobs in net.weights.values() for blob in blobs)
    for limit, engine in ((size, "onnxruntime"), (size - 1, "numpy")):
        monkeypatch.setattr(onnx_model, "INLINE_LIMIT", limit)
        assert choose_engine(net) == engine


def test_engines_and_types_that_there_are_not_are_refused(random_net):
    net = random_net(STOCHASTIC)
    with pytest.raises(NetError, match="there is no engine 'tpu'; known are auto, numpy, onnxruntime, pycaffe"):
        run(net, grid((1, 4, 7, 6)), engine="tpu")
    with pytest.raises(NetError, match="there is no arithmetic in 'float16'; known are float32 and float64"):
        run(net, grid((1, 4, 7, 6)), dtype="float16")


# ---------------------------------------------------------------------------------------------------- weights

IP = INPUT + (
    'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 5 } }\n'
    'layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }'
)
W, B = np.arange(840, dtype=np.float32).reshape(5, 168), np.ones(5, np.float32)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, '^layer "ip": no weights were given, expected 2$'),
        ({}, '^layer "ip": the weights have no blobs for this layer, expected 2$'),
        ({"ip": [W]}, '^layer "ip": expected 2 blobs, got 1$'),
        ({"ip": [W, B, B]}, '^layer "ip": expected 2 blobs, got 3$'),
        ({"ip": [W.T, B]}, '^layer "ip" blob 0: expected the shape 5 x 168, got 168 x 5$'),
        ({"ip": [W, B.reshape(5, 1)]}, '^layer "ip" blob 1: expected the shape 5, got 5 x 1$'),
        ({"ip": [W, B], "relu": [B]}, '^layer "relu": ReLU has no blobs, the weights hold 1$'),
    ],
)
def test_weights_that_do_not_fit_name_layer_and_blob(net_of, weights, message):
    net = net_of(IP, weights)
    with pytest.raises(WeightsError, match=message):
        bind_parameters(net, infer_shapes(net))


def test_legacy_blobs_fit_by_the_number_of_their_values(net_of):
    net = net_of(IP)
    legacy = [ArrayBlob(W.reshape(1, 1, 5, 168), legacy=True), ArrayBlob(B.reshape(1, 1, 1, 5), legacy=True)]
    bound = bind_parameters(net.replace(net.message, {"ip": legacy}), infer_shapes(net))
    np.testing.assert_array_equal(bound["ip"][0], W)
    np.testing.assert_array_equal(bound["ip"][1], B)
    short = [ArrayBlob(W.reshape(1, 1, 5, 168), legacy=True), ArrayBlob(B[:4].reshape(1, 1, 1, 4), legacy=True)]
    with pytest.raises(WeightsError, match=r'^layer "ip" blob 1: expected the shape 5, got 1 x 1 x 1 x 4$'):
        bind_parameters(net.replace(net.message, {"ip": short}), infer_shapes(net))


def test_only_some_layers_can_be_bound(random_net):
    net = random_net(STOCHASTIC)
    assert list(bind_parameters(net, infer_shapes(net), only=["ip"])) == ["ip"]


# ---------------------------------------------------------------------------------------------------- forward


def test_forward_keeps_what_is_asked_for_and_visits_every_layer_in_order(random_net):
    net, x = random_net(STOCHASTIC), grid((2, 4, 7, 6))
    parameters = bind_parameters(net, check_executable(net))
    seen = []
    kept = forward(
        NumpyEngine(),
        net,
        {"data": x},
        parameters,
        keep=["conv@act", "data@data"],
        visit=lambda layer, bottoms, tops: seen.append((layer.name, len(bottoms), len(tops))),
    )
    assert set(kept) == {"conv@act", "data@data"}
    assert seen == [("data", 0, 1), *((name, 1, 1) for name in ("conv", "act", "relu", "ip", "ip_act"))]


def test_roundings_of_a_net_are_applied_as_if_an_lpact_stood_there(net_of):
    """How a plan of the plain dialect is simulated."""
    net = net_of(INPUT + 'layer { name: "t" type: "TanH" bottom: "data" top: "t" }')
    x = grid((3, 4, 7, 6))
    for scheme in ("deterministic", "stochastic"):
        low = dataclasses.replace(net, roundings={"t@t": Rounding(QFormat(1, 4), scheme, "conv7_lpact")})
        found = run(low, x, dtype="float64", seed=3)["t"]
        true = round_fp(np.tanh(x), 1, 4, scheme, seed=3, stream=stream("conv7_lpact/top"))
        np.testing.assert_array_equal(found, true)


def test_a_net_with_roundings_rounds(net_of):
    net = net_of(INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }')
    low = dataclasses.replace(net, roundings={"r@r": Rounding(QFormat(2, 1), "deterministic", "r_lpact")})
    x = grid((3, 4, 7, 6))
    assert (choose_engine(net), choose_engine(low)) == ("onnxruntime", "numpy")
    expected = round_fp(np.maximum(x, 0), 2, 1)
    for engine in ("auto", "numpy", "onnxruntime"):
        np.testing.assert_array_equal(run(low, x, engine=engine)["r"], expected)
    assert (expected != np.maximum(x, 0)).any()


def test_a_rounding_of_no_tensor_of_the_network_is_refused(net_of):
    net = net_of(INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }')
    low = dataclasses.replace(net, roundings={"r@s": Rounding(QFormat(2, 1), "deterministic", "r_lpact")})
    with pytest.raises(NetError, match='expected roundings of tensors of the network, got "r@s"'):
        run(low, grid((1, 4, 7, 6)))


def reshaped(dims: str) -> str:
    return (
        f'{INPUT} layer {{ name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param {{ shape {{ {dims} }} }} }}'
    )


FLAT = ' layer { name: "ip" type: "InnerProduct" bottom: "r" top: "ip" inner_product_param { num_output: 5 } }'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (INPUT, 32),
        (STOCHASTIC, 32),
        (reshaped("dim: 0 dim: -1") + FLAT, 32),
        (reshaped("dim: -1 dim: 84") + FLAT, 32),  # two rows an image, whatever the batch
        (reshaped("dim: 2 dim: 168") + FLAT, 2),  # fixed: other batches do not fit
        (reshaped("dim: 2 dim: -1") + FLAT, 2),  # other batches fit, but would mix images
        (reshaped("dim: 1 dim: -1"), 2),
    ],
)
def test_the_batch_is_the_files_where_a_layer_fixes_it(net_of, text, expected):
    assert batch_size(net_of(text), 32) == expected


def test_a_recurrent_network_keeps_the_number_of_time_steps_of_its_file(net_of):
    text = (
        'layer { name: "i" type: "Input" top: "x" top: "cont" input_param { shape { dim: 5 dim: 1 dim: 3 }'
        ' shape { dim: 5 dim: 1 } } } layer { name: "r" type: "LSTM" bottom: "x" bottom: "cont" top: "y"'
        " recurrent_param { num_output: 2 } }"
    )
    assert batch_size(net_of(text), 32) == 5


def test_a_seed_is_for_numpy_so_auto_takes_it(random_net):
    net = random_net(IP)
    x = grid((2, 4, 7, 6))
    for name, values in run(net, x, engine="numpy").items():
        np.testing.assert_array_equal(run(net, x, seed=3)[name], values)
    with pytest.raises(NetError, match="seed and stochastic_as are for numpy, not onnxruntime"):
        run(net, x, seed=3, engine="onnxruntime")
