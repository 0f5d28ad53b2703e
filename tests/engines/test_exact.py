"""In float64 the numpy engine is a bit-accurate simulator: equal, not close, to integer arithmetic on the codes."""

from itertools import product

import numpy as np
import pytest

from lpcaffe.engines import run
from lpcaffe.net import ArrayBlob
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp

TEXT = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 7 } } }
layer { name: "c1" type: "LPConvolution" bottom: "data" top: "c1" lpfp_param { bd: 2 ad: 14 round_bias: true }
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 } }
layer { name: "a1" type: "LPAct" bottom: "c1" top: "c1" lpfp_param { bd: 5 ad: 11 } }
layer { name: "r1" type: "ReLU" bottom: "c1" top: "c1" }
layer { name: "p1" type: "Pooling" bottom: "c1" top: "p1" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "c2" type: "LPConvolution" bottom: "p1" top: "c2" lpfp_param { bd: 1 ad: 15 round_bias: true }
  convolution_param { num_output: 10 kernel_h: 2 kernel_w: 3 group: 2 stride: 2 dilation: 1 bias_term: false } }
layer { name: "a2" type: "LPAct" bottom: "c2" top: "a2" lpfp_param { bd: 6 ad: 10 } }
layer { name: "ip" type: "LPInnerProduct" bottom: "a2" top: "ip" lpfp_param { bd: 2 ad: 14 round_bias: true }
  inner_product_param { num_output: 3 transpose: true } }
layer { name: "a3" type: "LPAct" bottom: "ip" top: "a3" lpfp_param { bd: 7 ad: 9 } }
"""
INPUT = QFormat(3, 13)


def codes_of(values: np.ndarray, bd: int, ad: int) -> np.ndarray:
    return QFormat(bd, ad).codes(round_fp(values, bd, ad))


def shifted(total: np.ndarray, bits: int, width: int) -> np.ndarray:
    """Integers with `bits` fewer bits after the point: nearest, ties away from zero, clipped symmetrically."""
    magnitude = (np.abs(total) + (1 << (bits - 1))) >> bits
    return np.sign(total) * np.minimum(magnitude, (1 << (width - 1)) - 1)


def conv(x: np.ndarray, w: np.ndarray, pad: int, stride: int, group: int) -> np.ndarray:
    """Cross-correlation of int64 codes, one output at a time."""
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = [(x.shape[2 + a] - w.shape[2 + a]) // stride + 1 for a in (0, 1)]
    y = np.empty((len(x), len(w), *out), np.int64)
    for o, i, j in product(range(len(w)), range(out[0]), range(out[1])):
        first = o // (len(w) // group) * w.shape[1]
        rows, columns = slice(i * stride, i * stride + w.shape[2]), slice(j * stride, j * stride + w.shape[3])
        y[:, o, i, j] = (x[:, first : first + w.shape[1], rows, columns] * w[o]).sum(axis=(1, 2, 3))
    return y


def max_pool(x: np.ndarray, kernel: int, stride: int) -> np.ndarray:
    out = [-(-(x.shape[2 + a] - kernel) // stride) + 1 for a in (0, 1)]
    y = np.empty((*x.shape[:2], *out), np.int64)
    for i, j in product(range(out[0]), range(out[1])):
        y[:, :, i, j] = x[:, :, i * stride : i * stride + kernel, j * stride : j * stride + kernel].max(axis=(2, 3))
    return y


@pytest.fixture
def network(net_of):
    rng = np.random.default_rng(2)
    shapes = {"c1": [(6, 4, 3, 3), (6,)], "c2": [(10, 3, 2, 3)], "ip": [(20, 3), (3,)]}
    even = {name: [rng.normal(size=s).astype(np.float32) for s in own] for name, own in shapes.items()}
    return net_of(TEXT, {name: [b for b in own for _ in (0, 1)] for name, own in even.items()}), even


def test_a_fixed_point_network_equals_integer_arithmetic_on_codes(network):
    net, even = network
    x = np.random.default_rng(3).integers(-(2**15) + 1, 2**15, (2, 4, 9, 7))
    total = conv(x, codes_of(even["c1"][0], 2, 14), pad=1, stride=1, group=1)
    total += codes_of(even["c1"][1], 2, 14)[:, None, None] << INPUT.ad
    a1 = shifted(total, 13 + 14 - 11, 16)
    p1 = max_pool(np.maximum(a1, 0), 3, 2)
    c2 = conv(p1, codes_of(even["c2"][0], 1, 15), pad=0, stride=2, group=2)
    a2 = shifted(c2, 11 + 15 - 10, 16)
    ip = a2.reshape(2, 20) @ codes_of(even["ip"][0], 2, 14) + (codes_of(even["ip"][1], 2, 14) << 10)
    a3 = shifted(ip, 10 + 14 - 9, 16)

    found = run(net, x * INPUT.step, dtype="float64", versions=True)
    # blob, integers, bits after the point
    for tensor, expected, ad in (("c1@c1", total, 27), ("c1@a1", a1, 11), ("p1", p1, 11), ("c2", c2, 26)):
        np.testing.assert_array_equal(found[tensor], expected * 2.0**-ad, err_msg=tensor)
    for tensor, expected, ad in (("a2", a2, 10), ("ip", ip, 24), ("a3", a3, 9)):
        np.testing.assert_array_equal(found[tensor], expected * 2.0**-ad, err_msg=tensor)
    # The same in float32 is not exact: the sums need more than 24 bits.
    single = run(net, (x * INPUT.step).astype(np.float32), versions=True)
    assert np.abs(total).max() > 2**24
    assert not np.array_equal(single["c1@c1"], found["c1@c1"])


def test_float64_does_not_depend_on_the_order_of_sums(network):
    """Channels permuted in the input and in the weights: other sums, the same bits."""
    net, _ = network
    x = np.random.default_rng(4).integers(-(2**15) + 1, 2**15, (2, 4, 9, 7)) * INPUT.step
    order = [2, 0, 3, 1]
    permuted = {name: [blob.values for blob in blobs] for name, blobs in net.weights.items()}
    permuted["c1"][0] = permuted["c1"][0][:, order]
    other = net.replace(net.message, {name: [ArrayBlob(b) for b in blobs] for name, blobs in permuted.items()})
    a, b = run(net, x, dtype="float64"), run(other, x[:, order], dtype="float64")
    np.testing.assert_array_equal(a["a3"], b["a3"])
