"""Every scheme against exact rational arithmetic, the table of docs/rounding.md, and the properties that define it."""

import doctest
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import SCHEMES, round_fp
from lpcaffe.numbers.rounding.scalar import join, split

DOCUMENT = Path(__file__).parents[3] / "docs" / "rounding.md"
ODD = [name for name in SCHEMES if name != "floor"]
NEAREST = ["deterministic", "half_even"]

# x, then the results in Q4.0 of deterministic, half_even, floor, and stochastic with seed 7, stream 0, index = row
TABLE = [
    ("7.75", 7, 7, 7, 7),
    ("2.5", 3, 2, 2, 2),
    ("1.5", 2, 2, 1, 2),
    ("1.25", 1, 1, 1, 2),
    ("0.49999997", 0, 0, 0, 1),
    ("-0.0", 0, 0, 0, 0),
    ("-0.25", 0, 0, -1, -1),
    ("-0.5", -1, 0, -1, 0),
    ("-2.5", -3, -2, -3, -3),
    ("-7.75", -7, -7, -7, -7),
]
COLUMNS = ("deterministic", "half_even", "floor", "stochastic")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("column", range(4), ids=COLUMNS)
def test_ten_numbers_round_as_the_table_says(column, dtype):
    x = np.array([float(row[0]) for row in TABLE], dtype)
    expected = np.array([row[1 + column] for row in TABLE], dtype)
    assert round_fp(x, 4, 0, COLUMNS[column], seed=7).tolist() == expected.tolist()


def test_document_shows_this_table_and_its_examples_run():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"]
    for row in TABLE:
        assert [str(cell) for cell in row] in [found[:5] for found in rows]
    failed, tried = doctest.testfile(str(DOCUMENT), module_relative=False, encoding="utf-8")
    assert (failed, tried > 5) == (0, True)


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_equals_rational_arithmetic(scheme, fmt, traps, oracle, philox_word):
    """In float32, in every format; float64, which has wider ones, is the next test's."""
    bd, ad = fmt
    x = traps(bd, ad)
    x = x[np.isfinite(x)]
    q = round_fp(x, bd, ad, scheme, seed=11, stream=2**40 + 3, index=5, backend="numpy")
    assert q.dtype == np.float32
    for k, (value, rounded) in enumerate(zip(x.tolist(), q.tolist(), strict=True)):
        u = Fraction(philox_word(11, 2**40 + 3, 5 + k) >> 8, 2**24) if scheme == "stochastic" else Fraction(0)
        expected = oracle(value, bd, ad, scheme, u)
        assert Fraction(rounded) == expected, (value, rounded, expected)


@pytest.mark.parametrize("width", [3, 16, 26, 40, 53, 54])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_float64_equals_rational_arithmetic(scheme, width, traps, oracle, philox_word):
    for bd in (2, width, -3, width - 1022):
        x = traps(bd, width - bd, np.float64)
        x = x[np.isfinite(x)]
        q = round_fp(x, bd, width - bd, scheme, seed=1)
        for k, (value, rounded) in enumerate(zip(x.tolist(), q.tolist(), strict=True)):
            u = Fraction(philox_word(1, 0, k) >> 8, 2**24) if scheme == "stochastic" else Fraction(0)
            assert Fraction(rounded) == oracle(value, bd, width - bd, scheme, u), (bd, value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_the_two_rules_of_a_scheme_agree_in_plain_python(scheme, dtype, traps):
    """The rule for compiled code, run uncompiled on NumPy scalars, gives the array rule's bits."""
    x = traps(3, 5, dtype)
    u = (np.arange(x.size) % 16 / 16).astype(np.float32)
    fmt = QFormat(3, 5)
    top, scale, step, whole = (dtype(v) for v in (fmt.max, 32.0, 1 / 32, 2.0 ** np.finfo(dtype).nmant))
    one_by_one = []
    with np.errstate(under="ignore"):
        for value, random in zip(x, u, strict=True):
            negative, integer, fraction, odd = split(value, top, scale, whole)
            one_by_one.append(join(negative, integer, SCHEMES[scheme].rule(odd, fraction, random, negative), step))
        at_once = SCHEMES[scheme].array(np.clip(x, -top, top) * scale, u) * step + dtype(0)
    assert {type(q) for q in one_by_one} == {dtype}
    np.testing.assert_array_equal(np.array(one_by_one).view(f"u{x.itemsize}"), at_once.view(f"u{x.itemsize}"))


def test_registry_holds_one_file_for_each_scheme():
    folder = Path(__file__).parents[3] / "lpcaffe" / "numbers" / "rounding"
    for name, scheme in SCHEMES.items():
        assert name == scheme.name
        assert scheme.rule.__module__ == scheme.array.__module__ == f"lpcaffe.numbers.rounding.{name}"
        assert (folder / f"{name}.py").is_file()
        assert not scheme.rule(False, np.float32(0), np.float32(0), True), "a rule must leave integers alone"
        assert not scheme.rule(True, np.float32(0), np.float32(0), False)


def formats() -> st.SearchStrategy[QFormat]:
    sizes = st.tuples(st.integers(1, 25), st.integers(-24, 126))
    return sizes.map(lambda size: QFormat(size[0] - size[1], size[1]))


def floats_near(fmt: QFormat) -> st.SearchStrategy[np.ndarray]:
    """float32 numbers over the whole range, and many around the format's own values."""
    anywhere = st.floats(width=32, allow_nan=False)
    near = st.floats(-1.25, 1.25).map(lambda v: float(np.float32(v * fmt.max)) if fmt.max < 1e37 else 0.0)
    on_half = st.integers(-40, 40).map(lambda k: k * fmt.step / 2)
    return st.lists(anywhere | near | on_half, min_size=1, max_size=40).map(lambda v: np.array(v, np.float32))


cases = formats().flatmap(lambda fmt: st.tuples(st.just(fmt), floats_near(fmt), st.integers(0, 2**64 - 1)))


@given(cases)
def test_results_are_values_of_the_format_and_rounding_again_changes_nothing(case):
    fmt, x, seed = case
    for scheme in SCHEMES:
        q = round_fp(x, fmt.bd, fmt.ad, scheme, seed=seed)
        assert fmt.holds(q).all()
        assert not np.signbit(q[q == 0]).any()
        again = round_fp(q, fmt.bd, fmt.ad, scheme, seed=seed ^ 1)
        assert again.tobytes() == q.tobytes()


@given(cases)
def test_schemes_on_the_magnitude_are_odd(case):
    fmt, x, seed = case
    for scheme in ODD:
        q, minus = (round_fp(v, fmt.bd, fmt.ad, scheme, seed=seed) for v in (x, -x))
        assert (q == -minus).all()


@given(cases)
def test_schemes_are_monotone(case):
    """With one random number for all elements, for stochastic."""
    fmt, x, seed = case
    for scheme in SCHEMES:
        q = [float(round_fp(v, fmt.bd, fmt.ad, scheme, seed=seed)) for v in np.sort(x)]
        assert q == sorted(q)


@given(cases)
def test_error_inside_the_range_is_half_a_step_for_nearest_and_less_than_one_step_for_all(case):
    fmt, x, seed = case
    x = x[np.abs(x) <= fmt.max]
    for scheme in SCHEMES:
        q = round_fp(x, fmt.bd, fmt.ad, scheme, seed=seed)
        for value, rounded in zip(x.tolist(), q.tolist(), strict=True):
            error = abs(Fraction(rounded) - Fraction(value)) / Fraction(fmt.step)
            assert error <= Fraction(1, 2) if scheme in NEAREST else error < 1


def test_stochastic_rounding_is_unbiased_over_seeds():
    """Hoeffding: the mean of n results, one step apart, leaves +-sqrt(ln(2/p) / 2n) steps with probability p < 1e-9."""
    x = np.array([0.125, -0.375, 0.7, -0.02, 1.9, 0.5, -1.001], np.float32)
    seeds = 4000
    total = sum(round_fp(x, 3, 2, "stochastic", seed=seed).astype(np.float64) for seed in range(seeds))
    bound = 0.25 * math.sqrt(math.log(2 / 1e-9) / (2 * seeds))
    assert (np.abs(total / seeds - x) < bound).all()
    assert bound < 0.013


@pytest.mark.parametrize("sign", [1, -1])
def test_stochastic_rounding_is_unbiased_over_two_million_draws_of_fifty_fractions(sign):
    """The mean error of n independent draws has a standard error of sqrt(f (1 - f) / n) steps; it is four at most."""
    n = 2_000_000
    fractions = np.linspace(0.01, 0.99, 50).astype(np.float32)
    x, q = np.empty(n, np.float32), np.empty(n, np.float32)
    for stream, fraction in enumerate(fractions.tolist()):
        x[:] = sign * (2 + fraction)
        round_fp(x, 8, 0, "stochastic", seed=2026, stream=stream, out=q, backend="numba")
        f = abs(float(x[0])) - 2
        mean_error = float(q.mean(dtype=np.float64)) - float(x[0])
        assert abs(mean_error) < 4 * math.sqrt(f * (1 - f) / n), fraction


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_values_on_the_grid_never_move(backend):
    codes = np.arange(-(2**17) + 1, 2**17, dtype=np.float32)
    for bd, ad in (18, 0), (2, 16), (-3, 21):
        x = codes * np.float32(2.0**-ad)
        for scheme in SCHEMES:
            for seed in range(4):
                assert round_fp(x, bd, ad, scheme, seed=seed, backend=backend).tobytes() == (x + 0).tobytes()


def test_stochastic_draws_are_independent_of_neighbours_and_streams():
    """Sums over elements and over streams, each with its own words, stay within the same bound."""
    n = 1 << 16
    x = np.full(n, 0.3, np.float32)
    up = round_fp(x, 8, 0, "stochastic", seed=3)
    other = round_fp(x, 8, 0, "stochastic", seed=3, stream=1)
    bound = math.sqrt(math.log(2 / 1e-9) / (2 * n))
    assert abs(up.mean() - 0.3) < bound
    assert abs((up[1:] * up[:-1]).mean() - 0.09) < 2 * bound
    assert abs((up * other).mean() - 0.09) < bound
