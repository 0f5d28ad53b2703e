"""Every layer type on every engine, in every way its parameters can be written, against loops (tests/oracles)."""

import dataclasses
import zlib

import numpy as np
import pytest
from caffe_layers import CASES, ORACLES, Case

from lpcaffe.engines import infer_shapes, run
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers import LAYERS
from lpcaffe.net import ArrayBlob, Net

ALL = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]
# Engine, arithmetic, and the largest error as a part of the largest value.
ENGINES = [("numpy", "float32", 4e-6), ("numpy", "float64", 1e-13), ("onnxruntime", "float32", 4e-6)]


def engines_of(kind: str) -> list[tuple[str, str, float]]:
    return [engine for engine in ENGINES if not (engine[0] == "onnxruntime" and LAYERS[kind].numpy_only)]


def build(kind: str, case: Case) -> Net:
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {_dims(shape_of(bottom))} }} }} }}\n'
        for i, bottom in enumerate(case.bottoms)
    )
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(case.bottoms)))
    tops = " ".join(f'top: "y{i}"' for i in range(case.tops))
    return Net.of(parse(f'{inputs}layer {{ name: "l" type: "{kind}" {bottoms} {tops} {case.text} }}'))


def shape_of(bottom: tuple[int, ...] | np.ndarray) -> tuple[int, ...]:
    return bottom.shape if isinstance(bottom, np.ndarray) else bottom


def _dims(shape: tuple[int, ...]) -> str:
    return " ".join(f"dim: {dim}" for dim in shape)


def values(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, a third of them on a grid of sixteenths, so that roundings meet ties; a few are large."""
    x = rng.normal(size=shape)
    x = np.where(rng.random(shape) < 0.33, np.round(x * 16) / 16, x)
    return np.where(rng.random(shape) < 0.05, 8 * x, x).astype(np.float32)


def check(kind: str, case: Case, engines: list[tuple[str, str, float]]) -> None:
    """The layer on random values: shapes, and values as the oracle gives them."""
    rng = np.random.default_rng(zlib.crc32(repr((kind, case)).encode()))
    xs = [bottom if isinstance(bottom, np.ndarray) else values(bottom, rng) for bottom in case.bottoms]
    blobs = [blob if isinstance(blob, np.ndarray) else values(blob, rng) for blob in case.blobs]
    net = build(kind, case)
    if blobs:
        net = net.replace(net.message, {"l": [ArrayBlob(blob) for blob in blobs]})
    expected = ORACLES[kind](*xs, *blobs, **case.meaning)

    shapes = infer_shapes(net)
    assert shapes.params == ({"l": [blob.shape for blob in blobs]} if blobs else {})
    if not case.dynamic:
        assert [shapes.blobs[f"y{i}"] for i in range(case.tops)] == [top.shape for top in expected]
    for name, dtype, tolerance in engines:
        found = run(net, {f"x{i}": x for i, x in enumerate(xs)}, engine=name, dtype=dtype)
        for i, top in enumerate(expected):
            got = found[f"y{i}"]
            assert (got.dtype, got.shape) == (dtype, top.shape), name
            atol = 0 if case.exact else tolerance * np.nanmax(np.abs(top), initial=0)
            np.testing.assert_allclose(got, top, rtol=0, atol=atol, err_msg=f"{name} {dtype}")


@pytest.mark.parametrize(("kind", "case"), ALL)
def test_a_layer_is_what_loops_over_its_definition_give_on_every_engine(kind, case):
    check(kind, case, engines_of(kind))


@pytest.mark.parametrize("kind", CASES)
def test_a_layer_that_is_off_by_one_percent_fails_its_check(kind, monkeypatch):
    """Or the check above would show nothing. Only what computes zeros alone may be off by one percent of them.

    On one engine, another for each type: what differs between engines is the tolerance.
    """
    true = LAYERS[kind]
    engines = engines_of(kind)
    engine = engines[zlib.crc32(kind.encode()) % len(engines)]

    def off(ops, *args):
        tops = true.function(ops, *args)
        return [ops.mul(top, 1.01) for top in (tops if isinstance(tops, list) else [tops])]

    monkeypatch.setitem(LAYERS, kind, dataclasses.replace(true, function=off))
    failures = 0
    for case in CASES[kind]:
        try:
            check(kind, case, [engine])
        except AssertionError:
            failures += 1
    assert failures >= max(1, len(CASES[kind]) - 2) or not CASES[kind][0].tops


def test_every_registered_layer_type_has_an_oracle_and_cases():
    computing = {kind for kind, row in LAYERS.items() if row.function is not None}
    assert set(ORACLES) == computing
    assert {kind for kind, cases in CASES.items() if cases} == computing


def test_dimensions_of_a_case_differ():
    """A loop over the wrong axis shows only where axes differ in size."""
    for kind, cases in CASES.items():
        for case in cases:
            for shape in map(shape_of, case.bottoms):
                sizes = [size for size in shape if size > 1]
                assert len(set(sizes)) == len(sizes), (kind, case)


def test_a_max_window_wholly_outside_yields_the_lowest_float32():
    """Windows of 1 at 0, 2 and 4 over four pixels: (4 - 1) / 2 rounds up to 2, and nothing is left of the third."""
    x = np.arange(1, 13, dtype=np.float32).reshape(1, 1, 4, 3) * -1
    net = build("Pooling", Case("pooling_param { kernel_size: 1 stride: 2 }", [(1, 1, 4, 3)]))
    for dtype in ("float32", "float64"):
        y = run(net, x, dtype=dtype)["y0"]
        lowest = float(np.finfo(np.float32).min)
        np.testing.assert_array_equal(y, [[[[-1, -3], [-7, -9], [lowest, lowest]]]])


def test_a_mean_of_a_window_wholly_outside_is_nan_as_zero_over_zero():
    net = build("Pooling", Case("pooling_param { pool: AVE kernel_size: 1 stride: 2 }", [(1, 1, 4, 3)]))
    y = run(net, np.ones((1, 1, 4, 3), np.float32))["y0"]
    np.testing.assert_array_equal(y[0, 0], [[1, 1], [1, 1], [np.nan, np.nan]])


def test_a_power_layer_that_ignores_its_input_ignores_infinities_and_nan_too():
    x = np.array([[np.inf, -np.inf, np.nan]], np.float32)
    for text, constant in (("scale: 0 shift: 2 power: 3", 8), ("power: 0", 1), ("scale: 0 power: 0", 1)):
        net = build("Power", Case(f"power_param {{ {text} }}", [(1, 3)]))
        np.testing.assert_array_equal(run(net, x)["y0"], [[constant] * 3])


def test_a_softmax_and_a_sigmoid_of_large_numbers_do_not_overflow():
    x = np.array([[-1e4, 0.0, 1e4]], np.float32)
    np.testing.assert_array_equal(run(build("Softmax", Case("", [(1, 3)])), x)["y0"], [[0, 0, 1]])
    np.testing.assert_array_equal(run(build("Sigmoid", Case("", [(1, 3)])), x)["y0"], [[0, 0.5, 1]])


def test_a_network_goes_on_where_a_filter_chose_no_image():
    """Axes that are inferred (InnerProduct, Flatten, ArgMax) cannot be had by dividing by a number of images of 0."""
    net = Net.of(
        parse("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 5 } } }
        layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 4 } } }
        layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "y" }
        layer { name: "ip" type: "InnerProduct" bottom: "y" top: "ip" inner_product_param { num_output: 7 } }
        layer { name: "flat" type: "Flatten" bottom: "y" top: "flat" }
        layer { name: "max" type: "ArgMax" bottom: "ip" top: "max" argmax_param { top_k: 2 } }
        """)
    )
    net = net.replace(net.message, {"ip": [ArrayBlob(np.ones(shape, np.float32)) for shape in ((7, 15), (7,))]})
    x = np.ones((4, 3, 5), np.float32)
    for selector in ([0, 0, 0, 0], [0, 1, 1, 0]):
        n = sum(selector)
        found = run(net, {"x": x, "s": np.array(selector, np.float32)})
        shapes = {blob: value.shape for blob, value in found.items()}
        assert shapes == {
            "x": (4, 3, 5), "s": (4,), "y": (n, 3, 5), "ip": (n, 7), "flat": (n, 15), "max": (n, 1, 2),
        }  # fmt: skip


def test_an_input_layer_gives_each_of_its_tops_its_own_shape_or_one_to_all():
    text = 'layer {{ name: "in" type: "Input" top: "a" top: "b" input_param {{ {} }} }}'
    each = "shape { dim: 2 dim: 3 } shape { dim: 4 }"
    assert infer_shapes(Net.of(parse(text.format(each)))).blobs == {"a": (2, 3), "b": (4,)}
    net = Net.of(parse(text.format("shape { dim: 2 dim: 3 }")))
    assert infer_shapes(net).blobs == {"a": (2, 3), "b": (2, 3)}
    feeds = {"a": np.ones((2, 3), np.float32), "b": np.zeros((5, 1), np.float32)}
    found = run(net, feeds)
    assert {name: value.shape for name, value in found.items()} == {"a": (2, 3), "b": (5, 1)}


def test_odd_blobs_of_low_precision_layers_are_computed_and_never_read():
    """ADaPTION recomputes them in each forward pass, so what a file holds there does not matter."""
    case = CASES["LPConvolution"][1]
    rng = np.random.default_rng(5)
    blobs = [values(shape, rng) for shape in case.blobs]
    x = values(case.bottoms[0], rng)
    filler = [blob if i % 2 == 0 else np.full_like(blob, np.nan) for i, blob in enumerate(blobs)]
    tops = []
    for stored in (blobs, filler):
        net = build("LPConvolution", case)
        net = net.replace(net.message, {"l": [ArrayBlob(blob) for blob in stored]})
        tops.append(run(net, x)["y0"])
    np.testing.assert_array_equal(tops[0], tops[1])
