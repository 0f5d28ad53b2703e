"""QFormat: what Qm.f means, its text, its values, and the smallest format that holds a magnitude."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcaffe.errors import FormatError
from lpcaffe.numbers.qformat import QFormat, from_old_bd

formats = st.builds(lambda width, ad: QFormat(width - ad, ad), st.integers(1, 54), st.integers(-53, 900))


@pytest.mark.parametrize(
    ("text", "width", "step", "top", "code_max"),
    [
        ("Q2.14", 16, 0.00006103515625, 1.99993896484375, 32767),
        ("Q1.15", 16, 0.000030517578125, 0.999969482421875, 32767),
        ("Q3.2", 5, 0.25, 3.75, 15),
        ("Q1.0", 1, 1.0, 0.0, 0),
        ("Q-1.3", 2, 0.125, 0.125, 1),
        ("Q20.-4", 16, 16.0, 524272.0, 32767),
        ("Q1.1", 2, 0.5, 0.5, 1),
    ],
)
def test_figures_of_a_format(text, width, step, top, code_max):
    q = QFormat.parse(text)
    assert (q.width, q.step, q.max, q.min, q.code_max) == (width, step, top, -top, code_max)
    assert str(q) == text


@given(formats)
def test_figures_are_exact_and_text_is_read_back(q):
    assert Fraction(q.step) == Fraction(2) ** -q.ad
    assert Fraction(q.max) == q.code_max * Fraction(q.step) == -Fraction(q.min)
    assert q.code_max == 2 ** (q.bd + q.ad - 1) - 1
    assert QFormat.parse(str(q)) == q
    assert QFormat.parse(f" {str(q).lower()} ") == q


@pytest.mark.parametrize(
    "text", ["", "Q2", "2.14", "Q2.", "Q.14", "Q2,14", "Q+2.14", "Q2.14x", "QQ2.14", "Q\uff12.14", None, 2.14]
)
def test_other_text_is_refused(text):
    with pytest.raises(FormatError, match=r"expected a format such as Q2\.14, got"):
        QFormat.parse(text)


@pytest.mark.parametrize("text", ["Q0.0", "Q-3.2", "Q1025.1", "Q1.1075", "Q-2.99999", "Q1." + "9" * 5000])
def test_formats_that_do_not_exist_are_refused(text):
    with pytest.raises(FormatError):
        QFormat.parse(text)


def test_fields_are_integers():
    assert QFormat(np.int64(2), np.uint8(14)) == QFormat(2, 14)
    assert type(QFormat(np.int64(2), 14).bd) is int
    for wrong in (2.0, "2", None):
        with pytest.raises(FormatError, match="two integers"):
            QFormat(wrong, 14)


def test_a_format_is_an_ordered_hashable_value():
    assert sorted([QFormat(2, 14), QFormat(-1, 3), QFormat(2, 6)]) == [QFormat(-1, 3), QFormat(2, 6), QFormat(2, 14)]
    assert len({QFormat(2, 14), QFormat.parse("q2.14")}) == 1
    with pytest.raises(AttributeError):
        QFormat(2, 14).bd = 3


@given(formats.filter(lambda q: q.width <= 12))
def test_codes_and_values_correspond(q):
    codes = np.arange(-q.code_max, q.code_max + 1)
    values = codes * q.step
    assert q.holds(values).all()
    assert q.codes(values).dtype == np.int64
    assert q.codes(values).tolist() == codes.tolist()
    between = values + q.step / 2
    beyond = np.array([q.max + q.step, q.min - q.step, np.inf, -np.inf, np.nan])
    assert not q.holds(np.concatenate([between, beyond])).any()


def test_holds_knows_minus_zero_underflow_and_shapes():
    q = QFormat(3, 2)
    assert q.holds(np.float32([[-0.0, 0.25, 0.3], [3.75, -3.75, 4.0]])).tolist() == [
        [True, True, False],
        [True, True, False],
    ]
    assert q.holds(0.5).shape == ()
    assert not QFormat(40, -24).holds(5e-324)
    assert not QFormat(1, 1074).holds(1e300)
    assert QFormat(30, 34).codes([[2.0**-34, -(2.0**29) + 2.0**-20]]).tolist() == [[1, -(2**63) + 2**14]]
    assert q.codes(-0.0).tolist() == 0


def test_codes_of_values_outside_the_format_are_an_error_that_says_where():
    with pytest.raises(FormatError, match=r"0\.3 at index 2 is not a value of Q3\.2; round it"):
        QFormat(3, 2).codes([[0.25, 0.5], [0.3, 9.0]])
    with pytest.raises(FormatError, match="nan at index 0"):
        QFormat(3, 2).codes(np.nan)
    with pytest.raises(FormatError, match="int64 holds 64"):
        QFormat(33, 32).codes(0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_check_dtype_draws_the_line_where_arithmetic_stops_being_exact(dtype):
    p, widest, highest = (24, 25, 126) if dtype is np.float32 else (53, 54, 1022)
    for ad in (-p, 0, 3, highest):
        q = QFormat(widest - ad, ad)
        q.check_dtype(dtype)
        assert Fraction(float(dtype(q.max))) == q.code_max * Fraction(2) ** -ad
        assert dtype(q.step) >= np.finfo(dtype).smallest_normal
        with pytest.raises(FormatError, match=rf"has {widest + 1} bits; a float\d+ holds .* up to bd \+ ad = {widest}"):
            QFormat(widest + 1 - ad, ad).check_dtype(dtype)
    for ad in (-p - 1, highest + 1):
        with pytest.raises(FormatError, match=rf"needs {-p} <= ad <= {highest} \(got {ad}\)"):
            QFormat(4 - ad, ad).check_dtype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.int32, ">f4"])
def test_check_dtype_refuses_other_types(dtype):
    with pytest.raises(FormatError, match="expected float32 or float64"):
        QFormat(2, 6).check_dtype(dtype)


def saturates(max_abs: float, q: QFormat) -> bool:
    """Whether the code, rounded half away in rational arithmetic, exceeds N."""
    return math.floor(Fraction(max_abs) * Fraction(2) ** q.ad + Fraction(1, 2)) > q.code_max


magnitudes = st.floats(0, 1e30, exclude_min=True, allow_subnormal=False) | st.builds(
    lambda exponent, width, code: float(math.ldexp(2 ** (width - 1) - 0.5 + code / 4, exponent)),
    st.integers(-60, 60),
    st.integers(1, 32),
    st.integers(-3, 3),
).filter(lambda v: v > 0)


@given(magnitudes, st.integers(1, 60))
def test_holding_has_the_fewest_integer_bits_that_do_not_saturate(max_abs, width):
    """The bound +-(N + 1/2) steps is itself drawn often."""
    if not -1000 < math.frexp(max_abs)[1] < 900:
        return
    q = QFormat.holding(max_abs, width)
    assert q.width == width
    assert not saturates(max_abs, q)
    assert saturates(max_abs, QFormat(q.bd - 1, q.ad + 1))


@pytest.mark.parametrize(
    ("max_abs", "width", "text"),
    [
        (1.0, 16, "Q2.14"),
        (0.99998, 16, "Q1.15"),  # 32767.34: rounds to 32767
        (0.999985, 16, "Q2.14"),  # 32767.51: rounds to 32768
        (0.9999847412109375, 16, "Q2.14"),  # 32767.5: a tie, away from zero
        (0.1, 8, "Q-2.10"),
        (300000.0, 16, "Q20.-4"),
        (0.4, 1, "Q1.0"),  # one bit holds 0 alone, and 0.4 rounds to it
        (0.5, 1, "Q2.-1"),
        (np.float32(3.9), 8, "Q3.5"),
        (0.0, 16, "Q1.15"),
    ],
)
def test_holding_by_example(max_abs, width, text):
    assert str(QFormat.holding(max_abs, width)) == text


@pytest.mark.parametrize("max_abs", [-1.0, math.nan, math.inf])
def test_holding_needs_a_magnitude(max_abs):
    with pytest.raises(FormatError, match="finite magnitude"):
        QFormat.holding(max_abs, 16)


def test_holding_needs_a_bit():
    for max_abs in (0.0, 1.0):
        with pytest.raises(FormatError, match="has 0 bits"):
            QFormat.holding(max_abs, 0)


def test_old_files_did_not_count_the_sign():
    assert from_old_bd(1, 14) == QFormat(2, 14)
    assert from_old_bd(0, 3) == QFormat(1, 3)
