"""Every layer type, in every way its parameters can be written, against loops over indices (conftest.py)."""

import zlib
from typing import Any, NamedTuple

import numpy as np
import pytest

from lpcaffe.engines import infer_shapes, run
from lpcaffe.formats.prototxt import parse
from lpcaffe.layers import LAYERS
from lpcaffe.net import ArrayBlob, Net


class Case(NamedTuple):
    """A layer in the words of the file, and the same in plain numbers for the oracle.

    `blobs` are the shapes that the layer owns, or their values. `exact`: the layer moves or picks values, so it has to
    give them back bit for bit.
    """

    text: str
    bottoms: list[tuple[int, ...]]
    meaning: dict[str, Any] = {}  # noqa: RUF012
    blobs: list[Any] = []  # noqa: RUF012
    tops: int = 1
    exact: bool = False


IMAGE = (2, 4, 7, 6)
PLAIN = {"stride": (1, 1), "pad": (0, 0), "dilation": (1, 1)}


def conv(text: str, blobs: list[Any], *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    return Case(f"convolution_param {{ num_output: 6 {text} }}", [bottom], PLAIN | meaning, blobs)


def ip(text: str, blobs: list[Any], *, bottom: tuple[int, ...] = (3, 4, 2, 5), **meaning: Any) -> Case:
    return Case(f"inner_product_param {{ num_output: 7 {text} }}", [bottom], meaning, blobs)


def pool(text: str, *, bottom: tuple[int, ...] = IMAGE, **meaning: Any) -> Case:
    return Case(f"pooling_param {{ {text} }}", [bottom], meaning, exact=not meaning.get("ave"))


def low(case: Case, text: str, **meaning: Any) -> Case:
    """The same layer in low precision: every blob twice."""
    doubled = [blob for blob in case.blobs for _ in range(2)]
    return case._replace(text=f"{case.text} lpfp_param {{ {text} }}", meaning=case.meaning | meaning, blobs=doubled)


def one(
    block: str, text: str = "", bottom: tuple[int, ...] = (2, 3, 5, 4), exact: bool = False, **meaning: Any
) -> Case:
    return Case(f"{block} {{ {text} }}", [bottom], meaning, exact=exact)


VARIANCE = np.array([0.5, 2.0, 0.03], np.float32)
STATISTICS = [(3,), VARIANCE, np.array([2.5], np.float32)]
STATISTICS_0 = [(3,), VARIANCE, np.array([0], np.float32)]

CASES: dict[str, list[Case]] = {
    "Convolution": [
        conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]),
        conv("kernel_size: 3 bias_term: false", [(6, 4, 3, 3)]),
        conv("kernel_size: 3 pad: 2 stride: 2", [(6, 4, 3, 3), (6,)], pad=(2, 2), stride=(2, 2)),
        conv("kernel_size: 3 pad: 1 group: 2", [(6, 2, 3, 3), (6,)], pad=(1, 1), group=2),
        conv("kernel_size: 3 group: 2 bias_term: false dilation: 2", [(6, 2, 3, 3)], group=2, dilation=(2, 2)),
        conv("kernel_size: 2 group: 3", [(6, 1, 2, 2), (6,)], bottom=(2, 3, 7, 5), group=3),  # depthwise, O = 2 C
        conv("kernel_size: 2 dilation: 3 pad: 1", [(6, 4, 2, 2), (6,)], dilation=(3, 3), pad=(1, 1)),
        conv(
            "kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 0 pad_w: 2",
            [(6, 4, 3, 2), (6,)],
            stride=(1, 3),
            pad=(0, 2),
        ),
        conv("kernel_size: 2 pad_h: 1", [(6, 4, 2, 2), (6,)], pad=(1, 0)),
        conv(
            "kernel_size: 3 kernel_size: 2 stride: 2 stride: 1 pad: 0 pad: 1 dilation: 1 dilation: 2",
            [(6, 4, 3, 2), (6,)],
            stride=(2, 1),
            pad=(0, 1),
            dilation=(1, 2),
        ),
        conv("kernel_size: 1", [(6, 4, 1, 1), (6,)]),
        conv("kernel_size: 1 stride: 2", [(6, 4, 1, 1), (6,)], stride=(2, 2)),
        conv("kernel_size: 1 pad: 1", [(6, 4, 1, 1), (6,)], pad=(1, 1)),
        conv("kernel_size: 2 stride: 3", [(6, 4, 2, 2), (6,)], stride=(3, 3)),
        conv("kernel_size: 3 axis: -3", [(6, 4, 3, 3), (6,)]),
        conv("kernel_h: 7 kernel_w: 6", [(6, 4, 7, 6), (6,)]),
        conv(
            "kernel_size: 3 stride: 2 pad: 1",
            [(6, 5, 3), (6,)],
            bottom=(2, 5, 9),
            stride=(2,),
            pad=(1,),
            dilation=(1,),
        ),
        conv(
            "kernel_size: 2 kernel_size: 1 kernel_size: 3",
            [(6, 2, 2, 1, 3), (6,)],
            bottom=(1, 2, 3, 4, 5),
            stride=(1, 1, 1),
            pad=(0, 0, 0),
            dilation=(1, 1, 1),
        ),
    ],
    "InnerProduct": [
        ip("", [(7, 40), (7,)]),
        ip("bias_term: false", [(7, 40)]),
        ip("transpose: true", [(40, 7), (7,)], transpose=True),
        ip("axis: 2", [(7, 10), (7,)], axis=2),
        ip("axis: -1 transpose: true bias_term: false", [(5, 7)], axis=3, transpose=True),
        ip("axis: 0", [(7, 120), (7,)], axis=0),
        ip("", [(7, 4), (7,)], bottom=(3, 4)),
    ],
    "Pooling": [
        pool("kernel_size: 2", kernel=(2, 2)),
        pool("kernel_size: 3 stride: 2", kernel=(3, 3), stride=(2, 2)),
        pool("pool: AVE kernel_size: 3 stride: 2", kernel=(3, 3), stride=(2, 2), ave=True),
        pool("kernel_size: 3 stride: 2 pad: 1", kernel=(3, 3), stride=(2, 2), pad=(1, 1)),
        pool("pool: AVE kernel_size: 3 stride: 2 pad: 1", kernel=(3, 3), stride=(2, 2), pad=(1, 1), ave=True),
        pool("pool: AVE kernel_size: 4 stride: 3 pad: 2", kernel=(4, 4), stride=(3, 3), pad=(2, 2), ave=True),
        # 5 + 2 - 2 = 5, halved and rounded up 3, so 4 windows; the last would begin at 6 - 1 = 5, in the padding.
        pool("kernel_size: 2 stride: 2 pad: 1", bottom=(1, 2, 5, 3), kernel=(2, 2), stride=(2, 2), pad=(1, 1)),
        pool(
            "pool: AVE kernel_size: 2 stride: 2 pad: 1",
            bottom=(1, 2, 5, 3),
            kernel=(2, 2),
            stride=(2, 2),
            pad=(1, 1),
            ave=True,
        ),
        pool("kernel_size: 3 stride: 2 round_mode: FLOOR", kernel=(3, 3), stride=(2, 2), down=True),
        pool("kernel_size: 3 stride: 2 ceil_mode: false", kernel=(3, 3), stride=(2, 2), down=True),
        pool("kernel_size: 3 stride: 2 ceil_mode: true", kernel=(3, 3), stride=(2, 2)),
        pool(
            "pool: AVE kernel_size: 3 stride: 2 pad: 1 ceil_mode: false",
            kernel=(3, 3),
            stride=(2, 2),
            pad=(1, 1),
            ave=True,
            down=True,
        ),
        pool("global_pooling: true", kernel=(7, 6)),
        pool("pool: AVE global_pooling: true", kernel=(7, 6), ave=True),
        pool("pool: AVE kernel_h: 7 kernel_w: 6", kernel=(7, 6), ave=True),
        pool("kernel_h: 3 kernel_w: 2 stride_h: 2 stride_w: 1", kernel=(3, 2), stride=(2, 1)),
        pool(
            "pool: AVE kernel_h: 3 kernel_w: 4 stride: 2 pad_h: 0 pad_w: 3",
            kernel=(3, 4),
            stride=(2, 2),
            pad=(0, 3),
            ave=True,
        ),
        pool("kernel_size: 1 stride: 3", kernel=(1, 1), stride=(3, 3)),
        pool("pool: AVE kernel_size: 2 stride: 3", bottom=(2, 3, 8, 5), kernel=(2, 2), stride=(3, 3), ave=True),
        # A kernel larger than the image: (4 - 5) / 2 rounds up to 0, so there is one window.
        pool("kernel_size: 5 stride: 2", bottom=(2, 3, 4, 6), kernel=(5, 5), stride=(2, 2)),
        pool("pool: AVE kernel_size: 5 stride: 2", bottom=(2, 3, 4, 6), kernel=(5, 5), stride=(2, 2), ave=True),
    ],
    "ReLU": [one("relu_param", exact=True), one("relu_param", "negative_slope: 0.125", slope=0.125)],
    "PReLU": [
        one("prelu_param")._replace(blobs=[(3,)]),
        one("prelu_param", bottom=(5, 3))._replace(blobs=[(3,)]),
        one("prelu_param", "channel_shared: true", shared=True)._replace(blobs=[()]),
    ],
    "Sigmoid": [one("sigmoid_param"), one("sigmoid_param", bottom=(7,))],
    "TanH": [one("tanh_param")],
    "Power": [
        one("power_param", exact=True),
        one("power_param", "power: 2", power=2),
        one("power_param", "power: 3 scale: 0.5 shift: -1", power=3, scale=0.5, shift=-1),
        one("power_param", "power: 0", power=0, exact=True),
        one("power_param", "scale: 0 shift: 3 power: 2", scale=0, shift=3, power=2, exact=True),
        one("power_param", "power: 0 scale: 0", power=0, scale=0, exact=True),
        one("power_param", "power: 0.5 scale: 0.25 shift: 16", power=0.5, scale=0.25, shift=16),
        one("power_param", "power: -1.5 scale: 0.25 shift: 16", power=-1.5, scale=0.25, shift=16),
    ],
    "Dropout": [
        one("dropout_param", "dropout_ratio: 0.3", exact=True),
        one("dropout_param", "dropout_ratio: 0.25 scale_train: true", exact=True),
        one("dropout_param", "dropout_ratio: 0.25 scale_train: false", factor=0.75),
    ],
    "Softmax": [
        one("softmax_param"),
        one("softmax_param", bottom=(2, 9)),
        one("softmax_param", "axis: -1", axis=3),
        one("softmax_param", "axis: 0", axis=0),
    ],
    "BatchNorm": [
        one("batch_norm_param")._replace(blobs=STATISTICS),
        one("batch_norm_param", bottom=(4, 3))._replace(blobs=STATISTICS),
        one("batch_norm_param", "eps: 0.5", eps=0.5)._replace(blobs=STATISTICS_0),
        one("batch_norm_param", "use_global_stats: true eps: 0.01", eps=0.01)._replace(blobs=STATISTICS),
        one("batch_norm_param", "use_global_stats: false", own=True)._replace(blobs=STATISTICS),
        one("batch_norm_param", "use_global_stats: false", bottom=(5, 3), own=True)._replace(blobs=STATISTICS),
    ],
    "Scale": [
        one("scale_param")._replace(blobs=[(3,)]),
        one("scale_param", "bias_term: true")._replace(blobs=[(3,), (3,)]),
        one("scale_param", "axis: 0 num_axes: 2 bias_term: true", axis=0)._replace(blobs=[(2, 3), (2, 3)]),
        one("scale_param", "axis: 2 num_axes: -1", axis=2)._replace(blobs=[(5, 4)]),
        one("scale_param", "num_axes: 0 bias_term: true")._replace(blobs=[(), ()]),
        one("scale_param", "axis: -1 bias_term: true", axis=3)._replace(blobs=[(4,), (4,)]),
        Case("scale_param { axis: 0 }", [(2, 3, 5, 4), (2, 3)], {"axis": 0}),
        Case("scale_param { axis: 1 }", [(2, 3, 5, 4), (3, 5, 4)]),
        Case("scale_param { axis: 2 bias_term: true }", [(2, 3, 5, 4), (5,)], {"axis": 2}, [(5,)]),
    ],
    "Bias": [
        one("bias_param")._replace(blobs=[(3,)]),
        one("bias_param", "axis: 2 num_axes: 2", axis=2)._replace(blobs=[(5, 4)]),
        one("bias_param", "num_axes: 0")._replace(blobs=[()]),
        one("bias_param", "axis: -3 num_axes: -1")._replace(blobs=[(3, 5, 4)]),
        Case("bias_param { axis: 0 }", [(2, 3, 5, 4), (2,)], {"axis": 0}),
    ],
    "LRN": [
        one("lrn_param", bottom=(2, 7, 3, 4)),
        one("lrn_param", "local_size: 3 alpha: 0.5 beta: 1.25 k: 2", size=3, alpha=0.5, beta=1.25, k=2),
        one("lrn_param", "local_size: 11 alpha: 2", size=11, alpha=2),  # more neighbours than channels
        one("lrn_param", "local_size: 1 k: 0.5", size=1, k=0.5),
        one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.5", size=3, alpha=0.5, within=True),
        # k is not read within a channel
        one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 5 beta: 0.5 k: 9", beta=0.5, within=True),
        one("lrn_param", "norm_region: WITHIN_CHANNEL local_size: 9", size=9, within=True),
    ],
    "Eltwise": [
        Case("", [(2, 3, 5, 4)] * 2),
        Case("eltwise_param { operation: SUM }", [(2, 3, 5)] * 3),
        Case("eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }", [(2, 3, 5)] * 3, {"coeff": (1, -0.5, 2)}),
        Case("eltwise_param { operation: PROD }", [(2, 3, 5)] * 3, {"op": "prod"}),
        Case("eltwise_param { operation: MAX }", [(2, 3)] * 3, {"op": "max"}, exact=True),
        Case("eltwise_param { operation: MAX coeff: 3 coeff: 4 }", [(2, 3)] * 2, {"op": "max"}, exact=True),
    ],
    "Concat": [
        Case("", [(2, 3, 5), (2, 1, 5), (2, 4, 5)], exact=True),
        Case("concat_param { axis: 0 }", [(2, 3), (4, 3)], {"axis": 0}, exact=True),
        Case("concat_param { axis: -1 }", [(2, 3, 5), (2, 3, 4)], {"axis": 2}, exact=True),
        Case("concat_param { concat_dim: 2 }", [(2, 3, 5), (2, 3, 4)], {"axis": 2}, exact=True),
        Case("", [(2, 3, 5)], exact=True),
    ],
    "Slice": [
        Case("", [(2, 6, 5)], {"cuts": (2, 4)}, tops=3, exact=True),
        Case("slice_param { slice_point: 1 slice_point: 4 }", [(2, 6, 5)], {"cuts": (1, 4)}, tops=3, exact=True),
        Case("slice_param { axis: -1 slice_point: 3 }", [(2, 6, 5)], {"cuts": (3,), "axis": 2}, tops=2, exact=True),
        Case("slice_param { slice_dim: 0 }", [(4, 6, 5)], {"cuts": (2,), "axis": 0}, tops=2, exact=True),
        Case("", [(2, 6, 5)], {"cuts": ()}, exact=True),
    ],
    "Split": [Case("", [(2, 3)], {"tops": 3}, tops=3, exact=True), Case("", [(2, 3)], {"tops": 1}, exact=True)],
    "Flatten": [
        one("flatten_param", exact=True, shape=(2, 60)),
        one("flatten_param", "axis: 2", exact=True, shape=(2, 3, 20)),
        one("flatten_param", "axis: 0 end_axis: 1", exact=True, shape=(6, 5, 4)),
        one("flatten_param", "axis: -3 end_axis: -2", exact=True, shape=(2, 15, 4)),
        one("flatten_param", "axis: 1 end_axis: 1", exact=True, shape=(2, 3, 5, 4)),
    ],
    "Reshape": [
        one("reshape_param", "shape { dim: 0 dim: -1 }", exact=True, shape=(2, 60)),
        one("reshape_param", "shape { dim: 0 dim: 0 dim: 10 dim: 2 }", exact=True, shape=(2, 3, 10, 2)),
        one("reshape_param", "shape { dim: 5 dim: 4 dim: 6 }", exact=True, shape=(5, 4, 6)),
        one("reshape_param", "axis: 1 num_axes: 2 shape { dim: -1 }", exact=True, shape=(2, 15, 4)),
        one("reshape_param", "axis: 1 num_axes: 0 shape { dim: 1 dim: 1 }", exact=True, shape=(2, 1, 1, 3, 5, 4)),
        one("reshape_param", "axis: -1 num_axes: 0 shape { dim: 1 }", exact=True, shape=(2, 3, 5, 4, 1)),
        one("reshape_param", "axis: -3 shape { dim: 10 dim: -1 }", exact=True, shape=(2, 3, 10, 2)),
        one("reshape_param", "axis: 2 shape { dim: 2 dim: -1 }", exact=True, shape=(2, 3, 2, 10)),
    ],
    "LPConvolution": [
        low(conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]), "bd: 2 ad: 3", bd=2, ad=3),
        low(conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]), "bd: 1 ad: 5 round_bias: true", bd=1, ad=5, round_bias=True),
        low(
            conv("kernel_size: 2 group: 2 stride: 2 bias_term: false", [(6, 2, 2, 2)], group=2, stride=(2, 2)),
            "bd: 2 ad: 0 round_bias: true",
            bd=2,
            ad=0,
        ),
    ],
    "LPInnerProduct": [
        low(ip("", [(7, 40), (7,)]), "bd: 2 ad: 3", bd=2, ad=3),
        low(ip("", [(7, 40), (7,)]), "bd: 2 ad: 2 round_bias: true", bd=2, ad=2, round_bias=True),
        low(ip("transpose: true bias_term: false", [(40, 7)], transpose=True), "bd: 3 ad: 1", bd=3, ad=1),
    ],
    "LPAct": [
        one("lpfp_param", "bd: 2 ad: 3", bd=2, ad=3, exact=True),
        one("lpfp_param", "bd: 1 ad: 0 round_bias: true", bd=1, ad=0, exact=True),  # one bit: zero is all there is
        one("lpfp_param", "bd: 3 ad: 13 rounding_scheme: DETERMINISTIC", bd=3, ad=13, bottom=(5,), exact=True),
    ],
}  # fmt: skip
ALL = [pytest.param(name, case, id=f"{name}-{i}") for name, cases in CASES.items() for i, case in enumerate(cases)]


def build(kind: str, case: Case) -> Net:
    inputs = "".join(
        f'layer {{ name: "in{i}" type: "Input" top: "x{i}" input_param {{ shape {{ {_dims(shape)} }} }} }}\n'
        for i, shape in enumerate(case.bottoms)
    )
    bottoms = " ".join(f'bottom: "x{i}"' for i in range(len(case.bottoms)))
    tops = " ".join(f'top: "y{i}"' for i in range(case.tops))
    return Net.of(parse(f'{inputs}layer {{ name: "l" type: "{kind}" {bottoms} {tops} {case.text} }}'))


def _dims(shape: tuple[int, ...]) -> str:
    return " ".join(f"dim: {dim}" for dim in shape)


def values(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Normal numbers, a third of them on a grid of sixteenths, so that roundings meet ties; a few are large."""
    x = rng.normal(size=shape)
    x = np.where(rng.random(shape) < 0.33, np.round(x * 16) / 16, x)
    return np.where(rng.random(shape) < 0.05, 8 * x, x).astype(np.float32)


@pytest.mark.parametrize(("kind", "case"), ALL)
def test_a_layer_is_what_loops_over_its_definition_give(kind, case, oracles):
    rng = np.random.default_rng(zlib.crc32(repr((kind, case)).encode()))
    xs = [values(shape, rng) for shape in case.bottoms]
    blobs = [blob if isinstance(blob, np.ndarray) else values(blob, rng) for blob in case.blobs]
    net = build(kind, case)
    if blobs:
        net = net.replace(net.message, {"l": [ArrayBlob(blob) for blob in blobs]})
    expected = oracles[kind](*xs, *blobs, **case.meaning)

    shapes = infer_shapes(net)
    assert shapes.params == ({"l": [blob.shape for blob in blobs]} if blobs else {})
    assert [shapes.blobs[f"y{i}"] for i in range(case.tops)] == [top.shape for top in expected]
    for dtype, tolerance in (("float32", 4e-6), ("float64", 1e-13)):
        found = run(net, {f"x{i}": x for i, x in enumerate(xs)}, dtype=dtype)
        for i, top in enumerate(expected):
            got = found[f"y{i}"]
            assert (got.dtype, got.shape) == (dtype, top.shape)
            atol = 0 if case.exact else tolerance * np.nanmax(np.abs(top))
            np.testing.assert_allclose(got, top, rtol=0, atol=atol)


def test_every_registered_layer_type_has_an_oracle_and_cases(oracles):
    assert set(oracles) == set(LAYERS)
    assert {kind for kind, cases in CASES.items() if cases} == set(LAYERS)


def test_dimensions_of_a_case_differ():
    """A loop over the wrong axis shows only where axes differ in size."""
    for kind, cases in CASES.items():
        for case in cases:
            for shape in case.bottoms:
                assert len(set(shape)) == len(shape), (kind, case)


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
