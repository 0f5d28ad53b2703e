"""RoundFP in onnxruntime against round_fp, bit for bit."""

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.engines.onnx_graph import emit
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import Net

FORMATS = [(1, 0), (1, 3), (2, 14), (4, 4), (8, 0), (1, 15), (16, 9), (3, 22), (24, 0), (20, 5)]


def net_of(bd, ad, relu):
    text = f"""layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 1 }} }} }}
        layer {{ name: "q" type: "LPAct" bottom: "x" top: "y" lpfp_param {{ bd: {bd} ad: {ad} }} }}"""
    return Net.of(parse(text + ('layer { name: "r" type: "ReLU" bottom: "y" top: "y" }' if relu else "")))


def values(bd, ad):
    """Ties and their neighbours, both ends of the range, odd integers around 2^23, any bits at all."""
    step, limit = 2.0**-ad, 2.0 ** (bd - 1)
    codes = np.unique(
        np.concatenate([np.arange(-300, 300), 2 ** np.arange(0, bd + ad), 2 ** np.arange(0, bd + ad) - 1])
    )
    ties = ((codes + 0.5) * step).astype(np.float32)
    ends = np.float32([limit, limit - step, limit - step / 2, limit + step / 2, limit * 100, 3e38, np.inf])
    odd = np.float32([0.49999997, 1e-45, 1e-38, 1e-30, 0.0, 2**23 - 1, 2**23 + 1, 2**22 + 0.5, 2**24 + 2])
    rng = np.random.default_rng(7)
    random = [rng.normal(0, scale, 4000).astype(np.float32) for scale in (step, limit / 3, 3 * limit)]
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint64).astype(np.uint32).view(np.float32)
    some = np.concatenate([ties, ends, odd, odd * np.float32(step), *random, bits[~np.isnan(bits)]])
    near = [some, np.nextafter(some, np.float32(np.inf)), np.nextafter(some, np.float32(-np.inf))]
    both = np.concatenate([*near, *(-x for x in near)])
    return both[~np.isnan(both)]


@pytest.mark.parametrize(("bd", "ad"), FORMATS)
@pytest.mark.parametrize("relu", [False, True], ids=["alone", "relu"])
def test_round_fp_in_a_graph_has_the_bits_of_round_fp(bd, ad, relu):
    x = values(bd, ad)
    net = net_of(bd, ad, relu)
    found = next(iter(OnnxRuntime(net).run({"x": x}).values()))
    expected = lp.round_fp(x, bd, ad)
    expected = np.maximum(expected, np.float32(0)) if relu else expected
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))
    assert [node.operator for node in emit(net).nodes] == ["RoundFPReLU" if relu else "RoundFP"]


def test_a_format_that_float32_does_not_hold_is_refused_as_numpy_does():
    for engine in ("numpy", "onnxruntime"):
        with pytest.raises(lp.LpcaffeError, match=r'layer "q": Q30\.5 has 35 bits; a float32 holds'):
            lp.run(net_of(30, 5, False), np.ones(3, np.float32), engine=engine)


def test_a_rounding_whose_own_value_is_asked_for_stays_apart_from_the_relu():
    net = net_of(2, 3, True)
    graph = emit(net, taps=["y@q", "y@r"])
    assert [node.operator for node in graph.nodes] == ["RoundFP", "Relu"]


def test_a_rounding_that_two_layers_read_stays_apart_from_the_relu():
    net = Net.of(
        parse(
            """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 } } }
               layer { name: "q" type: "LPAct" bottom: "x" top: "y" lpfp_param { bd: 2 ad: 3 } }
               layer { name: "r" type: "ReLU" bottom: "y" top: "z" }
               layer { name: "a" type: "AbsVal" bottom: "y" top: "w" }"""
        )
    )
    assert [node.operator for node in emit(net).nodes] == ["RoundFP", "Relu", "Abs"]
