"""round_fp_stats: the bits of round_fp, and figures that equal an independent account of them."""

import math
from fractions import Fraction

import numpy as np
import pytest

from lpcaffe.errors import LpcaffeError
from lpcaffe.numbers.rounding import SCHEMES, numpy_backend, round_fp, round_fp_stats, stats

EVERY = [("numpy", None), ("numba", 1), ("numba", 2)]


@pytest.fixture
def x(traps, nans) -> np.ndarray:
    noise = np.random.default_rng(8).standard_normal(70_003, dtype=np.float32)
    finite = traps(2, 6)[np.isfinite(traps(2, 6))]
    return np.concatenate([noise, finite[np.abs(finite) < 1e15], nans(np.float32), np.zeros(3, np.float32)])


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_figures_equal_a_plain_account(scheme, x, monkeypatch):
    """On every backend, in pieces that threads can share: one value for all of them."""
    monkeypatch.setattr(stats, "PIECE", 1 << 11)
    x = x[64_000:]
    results = [
        round_fp_stats(x, 2, 6, scheme, seed=4, index=7, backend=backend, threads=threads) for backend, threads in EVERY
    ]
    q, found = results[0]
    assert q.tobytes() == round_fp(x, 2, 6, scheme, seed=4, index=7).tobytes()
    assert [(other.tobytes(), figures) for other, figures in results[1:]] == [(q.tobytes(), found)] * 2
    number = ~np.isnan(x)
    exact = [(Fraction(a), Fraction(b)) for a, b in zip(x[number].tolist(), q[number].tolist(), strict=True)]
    top, step = Fraction(2) - Fraction(1, 64), Fraction(1, 64)
    assert found.count == x.size
    assert found.saturated == sum(abs(a) >= top + step / 2 for a, _ in exact)
    assert found.zeros_before == sum(a == 0 for a, _ in exact)
    assert found.zeros_after == sum(b == 0 for _, b in exact)
    assert found.max_abs_error == float(max(abs(b - a) for a, b in exact))
    sums = float(sum(a * a for a, _ in exact)), float(sum((b - a) ** 2 for a, b in exact))
    assert (found.signal, found.noise) == pytest.approx(
        sums, rel=1e-12
    )  # the sum of float64 squares, rounded on the way
    assert found.sqnr_db == pytest.approx(10 * math.log10(sums[0] / sums[1]))
    assert min(found.saturated, found.zeros_after - found.zeros_before) > 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_figures_are_the_same_bits_for_every_backend_thread_layout_and_out(dtype, x):
    x = x[:70_070].astype(dtype).reshape(7, 10, 11, 91)
    results = set()
    for backend, threads in EVERY:
        for source in x, np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2]:
            for out in None, np.empty_like(x), source:
                given = source.copy(order="K") if out is source else source
                target = given if out is source else out
                q, found = round_fp_stats(given, 2, 6, out=target, backend=backend, threads=threads)
                assert target is None or q is target
                results.add((found, np.ascontiguousarray(q).tobytes()))
    assert len(results) == 1


@pytest.mark.parametrize(("backend", "threads"), EVERY)
def test_infinity_nan_and_nothing(backend, threads):
    def of(*values, dtype=np.float32):
        return round_fp_stats(np.array(values, dtype), 3, 2, backend=backend, threads=threads)[1]

    assert of() == stats.RoundingStats(0, 0, 0, 0, 0.0, 0.0, 0.0)
    assert of(np.nan, 0.1) == stats.RoundingStats(2, 0, 0, 1, *[float(np.float32(0.1)) ** n for n in (1, 2, 2)])
    infinite = of(1.0, -np.inf)
    assert (infinite.saturated, infinite.max_abs_error, infinite.signal) == (1, math.inf, math.inf)
    assert of(1e200, 1.5e154, 1.5e154, dtype=np.float64).noise == math.inf
    assert of(*[1.3e154] * 2, dtype=np.float64).signal == math.inf
    assert of(1.25).sqnr_db is None
    assert of(0.0).sqnr_db is None


def test_saturation_starts_half_a_step_beyond_the_largest_value_at_any_width():
    for dtype, width in (np.float32, 25), (np.float32, 24), (np.float64, 54), (np.float64, 53):
        top = dtype(2.0 ** (width - 1) - 1)
        for backend, threads in EVERY:
            x = np.array([top, -top, top + dtype(1), -top - dtype(1), np.nextafter(top, dtype(0))], dtype)
            assert round_fp_stats(x, width, 0, backend=backend, threads=threads)[1].saturated == 2


def test_pieces_of_the_backends_do_not_show(monkeypatch, x):
    expected = round_fp_stats(x, 2, 6, "stochastic", backend="numpy")[1]
    monkeypatch.setattr(numpy_backend, "PIECE", 101)
    assert round_fp_stats(x, 2, 6, "stochastic", backend="numpy")[1] == expected


def test_wrong_arguments_are_the_errors_of_round_fp(x):
    with pytest.raises(LpcaffeError, match="unknown rounding scheme"):
        round_fp_stats(x, 2, 6, "nearest")
    with pytest.raises(LpcaffeError, match="out overlaps x"):
        round_fp_stats(x[1:], 2, 6, out=x[:-1])
