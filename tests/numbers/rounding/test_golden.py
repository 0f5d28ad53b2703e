"""What ADaPTION's own CPU code computed, value for value (it keeps -0.0, so values, not bits, are compared)."""

import re
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.errors import FormatError
from lpcaffe.numbers.rounding import round_fp

GOLDEN = Path(__file__).parents[2] / "golden" / "rounding"
WIDER_THAN_FLOAT32 = {(1, 30), (2, 24), (2, 30), (10, 20), (16, 16), (24, 8), (30, 1), (31, 0)}
SCHEME = {"det": "deterministic", "sto": "floor"}


def recorded(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name) as archive:
        return {key: archive[key] for key in archive.files}


def fmt_of(key: str) -> tuple[int, int]:
    bd, ad = re.search(r"_bd(\d+)_ad(\d+)", key).groups()
    return int(bd), int(ad)


def check(x: np.ndarray, fmt: tuple[int, int], scheme: str, expected: np.ndarray) -> int:
    """The number of values compared."""
    if x.dtype == np.float32 and fmt in WIDER_THAN_FLOAT32:
        with pytest.raises(FormatError, match="holds every value of a format only up to"):
            round_fp(x, *fmt, scheme)
        return 0
    q = round_fp(x, *fmt, scheme)
    number = ~np.isnan(x)
    np.testing.assert_array_equal(q[number], expected[number])
    assert np.isnan(q[~number]).all()
    return int(number.sum())


def test_activations_equal_the_recorded_layer():
    arrays = recorded("round_act.npz")
    compared = 0
    for key, expected in arrays.items():
        kind = key[:3]
        if kind in SCHEME:
            compared += check(arrays["x" + key[3:]], fmt_of(key), SCHEME[kind], expected)
    assert compared > 2 * 20 * 340


@pytest.mark.parametrize(("precision", "formats"), [("f32", 20), ("f64", 28)])
def test_the_function_itself_equals_the_recorded_one(precision, formats):
    arrays = recorded("round_direct.npz")
    compared = 0
    for key, expected in arrays.items():
        kind = key[:3]
        if kind in SCHEME and precision in key:
            compared += check(arrays["x" + key[3:]], fmt_of(key), SCHEME[kind], expected)
    assert compared > 2 * formats * 340


def test_weights_and_biases_equal_the_recorded_layers():
    arrays = recorded("round_weights.npz")
    compared = 0
    for key, expected in arrays.items():
        layer, *_, blob = key.split("_")
        if blob == "w1" or (blob == "b3" and "_rb1_" in key):
            source = arrays[key[:-2] + {"w1": "w0", "b3": "b2"}[blob]]
            compared += check(source, fmt_of(key), SCHEME[key.split("_")[1]], expected)
    assert layer in ("conv", "ip", "bias")
    assert compared > 2 * 2 * 3 * 20 * 340
