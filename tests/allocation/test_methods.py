"""What every allocation method keeps to, whatever its formula."""

import numpy as np
import pytest

from lpcaffe.allocation import METHODS, Tensor, method, method_named
from lpcaffe.allocation.registry import option
from lpcaffe.calibration import TensorStats
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat

NAMES = sorted(METHODS)
WIDTHS = [2, 5, 8, 16, 25]
RNG = np.random.default_rng(3)
SAMPLES = {
    "normal": RNG.normal(0.1, 1, 3_001),
    "laplace": RNG.laplace(-2, 0.01, 777),
    "uniform": RNG.uniform(-300, 100, 1_234),
    "tiny": RNG.normal(0, 1e-30, 99),
    "huge": RNG.normal(0, 1e30, 101),
    "positive": RNG.exponential(3, 500),
    "negative": -RNG.exponential(3, 501),
    "one": np.array([0.3]),
    "constant": np.full(17, -0.7),
    "two": np.array([1e-3, 1e3]),
    "mostly zero": np.concatenate([np.zeros(5_000), [0.5]]),
}


def tensors(values):
    stats = TensorStats.of(np.asarray(values, np.float32))
    return (
        Tensor("weights", stats, bias=stats),
        Tensor("output", stats),
        Tensor("output", stats, rectified=stats.rectified()),
    )


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", NAMES)
def test_formats_have_the_width_asked(name, sample):
    for width in WIDTHS:
        for tensor in tensors(SAMPLES[sample]):
            fmt = method_named(name)(tensor, width)
            assert isinstance(fmt, QFormat)
            assert fmt.width == width


@pytest.mark.parametrize("name", NAMES)
def test_zeros_get_one_bit_before_the_point_and_so_does_nothing(name):
    for width in WIDTHS:
        for values in (np.zeros(6), np.zeros(0)):
            for tensor in tensors(values):
                assert method_named(name)(tensor, width) == QFormat(1, width - 1)


@pytest.mark.parametrize("name", sorted({*NAMES} - {"adaption", "ristretto"}))
@pytest.mark.parametrize("value", [1.0, 0.3, -5.0, -0.7, 1e-20, 2.0**20])
def test_a_constant_is_held_as_well_as_the_width_allows(name, value):
    for width in (8, 16):
        weights, output, _ = tensors(np.full(40, value))
        for tensor in (weights, output):
            fmt = method_named(name)(tensor, width)
            value32 = float(np.float32(value))
            assert abs(value32) <= fmt.max + fmt.step / 2
            assert fmt.bd <= METHODS["max"](tensor, width).bd


@pytest.mark.parametrize("name", sorted({*NAMES} - {"adaption"}))
def test_a_power_of_two_scales_the_format(name):
    values = RNG.normal(0, 1, 2_000).astype(np.float32)
    values[:3] = [7, -9, 6.5]
    for width in (4, 8):
        for before, after in zip(tensors(values), tensors(values * 8), strict=True):
            bd = method_named(name)(before, width).bd
            assert method_named(name)(after, width).bd == bd + 3


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_data_give_the_same_format(name):
    for values in (SAMPLES["normal"], SAMPLES["positive"]):
        for once, twice in zip(tensors(values), tensors(np.tile(values, 2)), strict=True):
            for width in (4, 8, 11):
                assert method_named(name)(once, width) == method_named(name)(twice, width)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_says_what_it_does_and_has_a_page(name, request):
    assert METHODS[name].__doc__
    page = (request.config.rootpath / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# Method `{name}`\n")
    index = (request.config.rootpath / "docs" / "methods" / "README.md").read_text()
    assert f"[{name}]({name}.md)" in index


@pytest.mark.parametrize(
    "text", ["overflow:0.99", "percentile:0.5", "nstd:1e-9", "sqnr:0", "sqnr:1000", "adaption:1"], ids=str
)
@pytest.mark.parametrize("sample", SAMPLES)
def test_options_at_their_ends_give_a_format_too(text, sample):
    for width in WIDTHS:
        for tensor in tensors(SAMPLES[sample]):
            assert method_named(text)(tensor, width).width <= width


def test_the_option_stands_after_the_colon():
    tensor = tensors(SAMPLES["normal"])[0]
    for text, plain in (
        ("percentile:90", METHODS["percentile"](tensor, 8, percent=90.0)),
        ("overflow:0.25", METHODS["overflow"](tensor, 8, fraction=0.25)),
        ("nstd:1.5", METHODS["nstd"](tensor, 8, n=1.5)),
        ("sqnr:10", METHODS["sqnr"](tensor, 8, target=10.0)),
        ("aciq-laplace:paper", METHODS["aciq-laplace"](tensor, 8, constants="paper")),
    ):
        assert method_named(text)(tensor, 8) == plain
    assert method_named("percentile:90")(tensor, 8) != method_named("percentile")(tensor, 8)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("best", "there is no allocation method 'best'; known are aciq-gauss, "),
        ("max:3", "the method max has no option, got 'max:3'; write max"),
        ("percentile:many", "percent: expected a number after the colon, got 'percentile:many'"),
        ("percentile:", "percent: expected a number after the colon"),
        ("percentile:0", "percent: expected 0 < percent <= 100, got 0"),
        ("percentile:100.5", "percent: expected 0 < percent <= 100"),
        ("percentile:nan", "percent: expected 0 < percent <= 100"),
        ("overflow:1", "fraction: expected 0 <= fraction < 1"),
        ("overflow:-0.1", "fraction: expected 0 <= fraction < 1"),
        ("adaption:2", "threshold: expected 0 <= threshold <= 1"),
        ("nstd:0", "n: expected a number of standard deviations above 0, got 0"),
        ("nstd:inf", "n: expected"),
        ("sqnr:nan", "target: expected 0 to 1000 decibels, got nan"),
        ("sqnr:-1", "target: expected 0 to 1000 decibels, got -1"),
        ("sqnr:1e5", "target: expected 0 to 1000 decibels, got 100000"),
        ("aciq-laplace:papre", "constants: expected exact or paper, got 'papre'"),
        ("aciq-gauss:1", "constants: expected exact or paper, got '1'"),
    ],
)
def test_wrong_methods_and_options_are_told_before_any_tensor_is_seen(text, problem):
    with pytest.raises(PlanError, match="^" + problem.replace("(", r"\(")):
        method_named(text)


def test_a_method_has_at_most_one_option():
    assert option(METHODS["max"]) is None
    assert option(METHODS["percentile"]) == ("percent", 99.99)
    for name in NAMES:
        assert len(METHODS[name].__kwdefaults__ or {}) <= 1, name


def test_registering_is_one_decorator(monkeypatch):
    monkeypatch.delitem(METHODS, "middle", raising=False)

    @method("middle")
    def middle(tensor, width, *, before=1):
        return QFormat(int(before), width - int(before))

    try:
        assert method_named("middle:3")(tensors([1.0])[0], 8) == QFormat(3, 5)
    finally:
        del METHODS["middle"]


def test_what_is_read_is_after_the_relu():
    stats = TensorStats.of(np.array([-3.0, 2.0, 1.0], np.float32))
    plain, relu, leaky = (
        Tensor("output", stats),
        Tensor("output", stats, rectified=stats.rectified()),
        Tensor("output", stats, rectified=TensorStats.of(np.array([-0.3, 2.0, 1.0], np.float32))),
    )
    assert plain.read == stats
    assert (relu.read.min, relu.read.max, leaky.read.min) == (0.0, 2.0, np.float32(-0.3))
    assert [tensor.half_range for tensor in (plain, relu, leaky)] == [False, True, False]
    with pytest.raises(AttributeError):
        plain.kind = "weights"
