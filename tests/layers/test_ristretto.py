"""Ristretto's number formats by known values and by their code books, through FcRistretto with the identity."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest

from lpcaffe.engines import NumpyEngine, run
from lpcaffe.formats.prototxt import dump, parse
from lpcaffe.net import ArrayBlob, Net
from lpcaffe.numbers.qformat import QFormat

ENGINES = pytest.mark.parametrize(
    "engine",
    [("numpy", "float32"), ("numpy", "float64"), ("onnxruntime", "float32")],
    ids=lambda engine: "-".join(engine),
)


def network(rows: int, text: str, outputs: int = 1) -> Net:
    return Net.of(
        parse(
            f'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: {rows} dim: 1 }} }} }}'
            f'layer {{ name: "l" type: "FcRistretto" bottom: "x" top: "y" quantization_param {{ {text} }}'
            f" inner_product_param {{ num_output: {outputs} bias_term: false }} }}"
        )
    )


def quantized(
    values: list[float], text: str, engine: tuple[str, str], *, w: list[list[float]] | None = None
) -> list[list[float]]:
    """A column of values through FcRistretto; the weight is 1 unless given."""
    weights = np.array(w or [[1.0]], np.float32)
    net = network(len(values), text, len(weights))
    net = net.replace(net.message, {"l": [ArrayBlob(weights)]})
    return run(net, np.array(values, np.float32)[:, np.newaxis], engine=engine[0], dtype=engine[1])["y"].tolist()


def column(values: list[float]) -> list[list[float]]:
    return [[value] for value in values]


@ENGINES
def test_fixed_point_reaches_one_step_further_down_and_rounds_halves_away(engine):
    values = [-5, -2, -1.99, -1.125, -0.125, 0.125, 0.375, 1.74, 1.76, 5]
    text = "bw_layer_in: 4 fl_layer_in: 2 bw_layer_out: 32 fl_layer_out: 8"
    expected = [-2, -2, -2, -1.25, -0.25, 0.25, 0.5, 1.75, 1.75, 1.75]
    assert quantized(values, text, engine) == column(expected)
    text = "bw_layer_in: 32 fl_layer_in: 8 bw_layer_out: 4 fl_layer_out: 2"
    values = [round(value * 256) / 256 for value in values]
    assert quantized(values, text, engine) == column(expected)


def codes(mantissa: int, exponent: int) -> list[float]:
    """Every positive minifloat."""
    bias = 2 ** (exponent - 1) - 1
    return [(1 + m / 2**mantissa) * 2.0 ** (e - bias) for e in range(2**exponent) for m in range(2**mantissa)]


@ENGINES
@pytest.mark.parametrize(("mantissa", "exponent"), [(3, 4), (0, 5), (10, 2), (2, 1)])
def test_every_minifloat_is_itself_and_between_two_the_nearer_comes(engine, mantissa, exponent):
    text = f"precision: MINIFLOAT mant_bits: {mantissa} exp_bits: {exponent}"
    book = codes(mantissa, exponent)
    values = book + [-value for value in book]
    assert quantized(values, text, engine) == column(values)
    between = [(low, high, low + part * (high - low)) for low, high in pairwise(book) for part in (0.25, 0.5, 0.75)]
    nearer = [low if value - low < high - value else high for low, high, value in between]  # a half goes up
    assert quantized([value for *_, value in between], text, engine) == column(nearer)


@ENGINES
def test_a_minifloat_has_no_denormals_and_carries_beyond_its_largest_number(engine):
    """With 3 and 4 bits: 480 is the largest, 2^-7 the smallest. 496 to 512 round to 512, which a weight 1/2 shows."""
    text = "precision: MINIFLOAT mant_bits: 3 exp_bits: 4"
    values = [0.0, 2.0**-8, 2.0**-7 * 0.999, 2.0**-7, 480, 495.9, 496, 511.9, 512, 1e30, np.inf, -np.inf]
    halves = [0, 0, 0, 0, 240, 240, 256, 256, 240, 240, 240, -240]
    assert quantized(values, text, engine, w=[[0.5]]) == column(halves)


@ENGINES
def test_weights_become_powers_of_two_by_the_logarithm_and_none_is_zero(engine):
    root = np.sqrt(2)
    weights = [0.0, -0.0, 1e-9, -1e-9, 0.25 * root * 0.9999, 0.25 * root * 1.0001, -0.74, 0.1, 3, -3]
    expected = [2**-4, 2**-4, 2**-4, -(2**-4), 0.25, 0.5, -1, 0.125, 2, -2]
    text = "precision: INTEGER_POWER_OF_2_WEIGHTS exp_min: -4 exp_max: 1"
    assert quantized([1.0], text, engine, w=column(weights)) == [expected]


def test_stochastic_fixed_point_takes_a_neighbour_and_is_right_on_average():
    values = [0.3, -0.3, -2.0, 5.0, 0.25] * 2000
    text = "rounding_scheme: STOCHASTIC bw_layer_in: 4 fl_layer_in: 2 bw_layer_out: 8 fl_layer_out: 4"
    text += " bw_params: 4 fl_params: 2"
    found = np.array(quantized(values, text, ("numpy", "float32")))[:, 0].reshape(-1, 5)
    assert [set(own) for own in found.T] == [{0.25, 0.5}, {-0.25, -0.5}, {-2}, {1.75}, {0.25}]
    assert np.abs(found[:, :2].mean(0) - [0.3, -0.3]).max() < 4 * 0.1 / np.sqrt(2000)


def test_stochastic_rounding_does_not_depend_on_the_batch_size_and_differs_at_bottom_and_top():
    ops = NumpyEngine("float32", seed=5, layer="l")
    x = np.random.default_rng(0).normal(size=(6, 50)).astype(np.float32)
    fmt = QFormat(3, 2)
    bottom = ops.quantize(x, fmt, "stochastic", "bottom")
    assert (bottom != ops.quantize(x, fmt, "stochastic", "top")).any()
    ops = dataclasses.replace(ops, first_image=4)
    np.testing.assert_array_equal(ops.quantize(x[4:], fmt, "stochastic", "bottom"), bottom[4:])


def test_the_bottom_itself_is_not_changed():
    """Ristretto rounds it in place, so that a sibling that runs later sees it rounded."""
    values = [0.3, 0.7, -1.1]
    text = "bw_layer_in: 4 fl_layer_in: 2"
    net = network(len(values), text)
    x = np.array(values, np.float32)[:, np.newaxis]
    before = x.copy()
    found = run(net.replace(net.message, {"l": [ArrayBlob(np.ones((1, 1), np.float32))]}), x)
    assert found["y"].tolist() == column([0.25, 0.75, -1])
    np.testing.assert_array_equal(found["x"], before)
    np.testing.assert_array_equal(x, before)


def test_names_of_the_first_version_mean_the_same_and_are_written_as_the_new_ones():
    text = 'layer {{ name: "l" type: "FcRistretto" quantization_param {{ precision: {} }} }}'
    for old, new in (
        ("FIXED_POINT", "DYNAMIC_FIXED_POINT"),
        ("MINI_FLOATING_POINT", "MINIFLOAT"),
        ("POWER_2_WEIGHTS", "INTEGER_POWER_OF_2_WEIGHTS"),
    ):
        assert parse(text.format(old)) == parse(text.format(new))
        assert f"precision: {new}\n" in dump(parse(text.format(old)))
