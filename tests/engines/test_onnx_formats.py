"""Every number format in a graph: the bits of `quantize` in the profile exact, for single and for vector parameters."""

import dataclasses

import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.engines.onnx_graph import emit
from lpcaffe.engines.onnx_rounding import exact
from lpcaffe.errors import NetError
from lpcaffe.export import PROFILES
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import Net, Rounding
from lpcaffe.numbers import Affine, ChannelQFormat, QFormat, parse_format

SINGLE = [
    *("Q2.6", "Q-1.3", "Q12.-2", "Q3.22"),
    *("affine(1,0.5,0)", "affine(4,0.01,7)", "affine(10,3e-05,-2000.25)", "affine(16,0.3,32768)"),
    *("affine(8,0.1,0,signed,ties=away)", "affine(23,0.0625,0,signed,ties=away)", "affine(23,1,0,signed)"),
    *("affine(3,2,1,signed,ties=down)", "affine(5,0.75,-3,ties=up)", "affine(23,1,0,signed,ties=up)"),
    *("minifloat(1,1)", "minifloat(4,3)", "minifloat(7,1)", "minifloat(2,22)", "minifloat(5,0)/ristretto"),
    *("minifloat(4,3)/ristretto", "minifloat(1,5)/ristretto", "minifloat(8,7)/ristretto", "minifloat(8,23)/ristretto"),
    *("e4m3fn", "e5m2", "e3m2fn", "e2m3fn", "e2m1fn"),
    *("pow2(-8,-1)", "pow2(3,3)", "pow2(-126,127)", "pow2z(-8,-1)", "pow2z(-126,127)", "pow2z(-2,2,scale=3)"),
    *("pow2(-8,-1)/ristretto", "pow2z(0,6)/labelfree", "pow2z(-1,4,scale=0.3)/labelfree"),
    *("codebook(0.25)", "codebook(-0.5,0,0.5)", "codebook(-3,-0.1,1e-20,0.7,2.5)", "codebook(-1,1,4,scale=0.3)"),
]
VECTOR = [
    "q8[7,8,-2]",
    "q25[3,22,0]",
    "affine(4,[0.01,0.02,5],[7,8,-3.25])",
    "affine([0,2,8],[0.01,0.02,5],0,ties=away)",
    "affine([3,1,5],1,0,signed,ties=down)",
    "pow2(-2,2,scale=[0.1,3,1])",
    "codebook(-1,0.25,4,scale=[0.3,2,1])",
]
DIMS = {2: "dim: 2 dim: 3", 3: "dim: 2 dim: 3 dim: 5", 4: "dim: 2 dim: 3 dim: 5 dim: 4"}


def rounded(fmt, shape: str = DIMS[3]) -> Net:
    """A network that does nothing but round what a Split passes on."""
    net = Net.of(
        parse(
            f'layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {shape} }} }} }}'
            'layer { name: "s" type: "Split" bottom: "x" top: "y" }'
        )
    )
    return dataclasses.replace(net, roundings={"y@s": Rounding(fmt, "deterministic", "s_lpact")})


def numbers(fmt) -> np.ndarray:
    """The grid's values, what lies half way, both with their neighbours, all scales up to infinity, any bits at all."""
    rng = np.random.default_rng(3)
    ends = np.unique(np.abs(np.concatenate([np.ravel(fmt.min), np.ravel(fmt.max)])))
    bits = rng.integers(0, 2**32, 3000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    powers = 2.0 ** np.arange(-149, 128)
    with np.errstate(over="ignore"):
        spread = np.concatenate([rng.normal(0, size, 700) for size in (*ends, *(ends / 300), *(3 * ends), 1.0)])
        some = np.concatenate([spread, powers, 1.5 * powers, [0, 1e-45, np.inf], bits[np.isfinite(bits)]])
        some = some.astype(np.float32)
        grid = (fmt if fmt.channels is None else fmt.select(np.zeros(1, int))).quantize(some)
        grid = np.unique(grid[np.isfinite(grid)])
        some = np.concatenate([some, grid, grid[1:] / 2 + grid[:-1] / 2])
        near = [some, np.nextafter(some, np.float32(np.inf)), np.nextafter(some, np.float32(-np.inf))]
    both = np.concatenate([*near, *(-x for x in near)])
    return both[~np.isnan(both)]


@pytest.mark.parametrize("text", SINGLE)
def test_a_graph_gives_the_bits_of_the_format(text):
    fmt = parse_format(text)
    x = numbers(fmt)
    x = np.stack([x, x[::-1], -x]).reshape(1, 3, -1)
    found = run(rounded(fmt), x, engine="onnxruntime")["y"]
    np.testing.assert_array_equal(found.view(np.uint32), fmt.quantize(x).view(np.uint32))
    np.testing.assert_array_equal(run(rounded(fmt), x, engine="numpy")["y"], found)


@pytest.mark.parametrize("text", VECTOR)
@pytest.mark.parametrize("rank", DIMS)
def test_channels_run_along_axis_1_of_an_activation(text, rank):
    fmt = parse_format(text)
    x = numbers(fmt)
    x = np.stack([x, -x, x[::-1]])[:, : len(x) // 2 * 2]
    x = np.ascontiguousarray({2: x.T, 3: x[np.newaxis], 4: x.reshape(1, 3, -1, 2)}[rank])
    expected = fmt.select(np.arange(3).reshape(-1, *[1] * (rank - 2))).quantize(x)
    for engine in ("onnxruntime", "numpy"):
        found = run(rounded(fmt, DIMS[rank]), x, engine=engine)["y"]
        np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


def test_an_input_that_is_rounded_keeps_its_name():
    net = rounded(QFormat(2, 1))
    low = dataclasses.replace(net, roundings={"x@in": Rounding(QFormat(2, 1), "deterministic", "x_lpact")})
    graph = emit(low, taps=["x@in", "y@s"])
    assert [symbol.name for symbol in graph.inputs] == ["x"]
    assert {tensor: symbol.name for tensor, symbol in graph.outputs.items()} == {"x@in": "x@in", "y@s": "y"}
    x = np.float32([[[0.2, 0.3], [-0.8, 5], [1, -1]]])
    for engine in ("onnxruntime", "numpy"):
        found = run(low, x, engine=engine)
        np.testing.assert_array_equal(found["x"], [[[0, 0.5], [-1, 1.5], [1, -1]]])
        np.testing.assert_array_equal(found["y"], found["x"])


def test_a_format_of_another_number_of_channels_is_refused_on_every_engine():
    x = np.ones((1, 3, 4), np.float32)
    for engine in ("onnxruntime", "numpy"):
        with pytest.raises(NetError, match=r'layer "s": expected 2 channels, as q8\[7,3\] has, got 3 channels'):
            run(rounded(ChannelQFormat(8, (7, 3))), x, engine=engine)
    with pytest.raises(NetError, match=r"expected 2 channels, as q8\[7,3\] has, got no channels"):
        run(rounded(ChannelQFormat(8, (7, 3)), "dim: 2"), x[0, 0], engine="numpy")


def test_a_format_without_operators_is_refused_by_name():
    class Own(Affine):
        pass

    with pytest.raises(NetError, match=r"no operators of ONNX give affine\(4,1,0\) exactly; the numpy engine"):
        emit(rounded(Own(4, 1)), profile=exact)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_no_profile_rounds_stochastic(profile):
    for fmt in (QFormat(2, 3), Affine(4, 1), parse_format("e5m2")):
        net = rounded(fmt)
        rounding = dataclasses.replace(net.roundings["y@s"], scheme="stochastic")
        with pytest.raises(NetError, match='layer "s": an ONNX graph cannot round stochastic'):
            emit(dataclasses.replace(net, roundings={"y@s": rounding}), profile=profile)
