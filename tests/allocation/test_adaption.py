"""The method `adaption` proposes what the old tool proposes, defects included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lpcaffe as lp
from lpcaffe.allocation import Tensor, method_named
from lpcaffe.calibration import TensorStats
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


def stats(values):
    return TensorStats.of(np.asarray(values, np.float32))


def proposed(values, threshold, width=16):
    return method_named(f"adaption:{threshold}")(Tensor("output", stats(values)), width)


def old_tool(values, n_bits, threshold):
    """The steps of the tool on the values themselves: get_qmf, the loop, the sign."""
    x = np.asarray(values, np.float64)
    m = 0
    while not x.max() <= 2.0**m and m < n_bits:
        m += 1
    last = 0.0
    while last < threshold:
        last = np.mean(x > 2.0**m - 1)
        if m < 2:
            break
        m = m - 1
    bd = m + 1
    return bd, n_bits - bd


@pytest.mark.parametrize(("largest", "bd"), [(0.5, 1), (1.0, 1), (1.0001, 2), (2.0, 2), (2.06, 3), (9.4, 5)])
def test_without_a_threshold_bd_is_one_more_than_the_logarithm_of_the_signed_maximum(largest, bd):
    assert proposed([-70.0, 0.0, largest], 0.0) == QFormat(bd, 16 - bd)


@pytest.mark.parametrize("threshold", [0.01, 0.1])
def test_a_threshold_ends_two_bits_below_what_it_allows(threshold):
    x = np.minimum(np.abs(np.random.default_rng(0).normal(0, 10, 40_000)), 42).astype(np.float32)
    x[0] = 42
    assert [round(float(np.mean(x > 2**m - 1)), 3) for m in (6, 5, 4)] == pytest.approx([0, 0.002, 0.134], abs=0.004)
    assert proposed(x, threshold) == QFormat(4, 12)
    assert np.mean(np.abs(x) > 8) > 0.4


def test_small_tensors_that_are_never_cut_end_at_bd_2_or_1():
    assert proposed([0.1, 1.5, 0.2], 0.9) == proposed([0.0] * 99 + [3.0], 0.9) == QFormat(2, 14)
    assert proposed([0.1, 0.9], 0.9) == QFormat(1, 15)


def test_negative_values_are_not_seen():
    assert proposed([-1e6, -3.0], 0.0) == proposed([-1e6, 0.25], 0.01) == QFormat(1, 15)


def test_a_maximum_beyond_the_width_gives_a_negative_ad():
    assert proposed([1e9], 0.0, 8) == QFormat(9, -1)


@given(
    st.lists(st.floats(-(2.0**20), 2.0**20, width=32) | st.sampled_from([1.0, 2.0, 3.0, 7.0, 8.0, 31.5]), min_size=1),
    st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]),
    st.integers(2, 16),
)
def test_it_is_the_old_tool_on_any_values(values, threshold, width):
    assert proposed(values, threshold, width) == QFormat(*old_tool(values, width, threshold))


def test_weights_are_measured_on_the_bias_and_outputs_after_the_relu():
    choose = method_named("adaption")
    assert choose(Tensor("weights", stats([0.3]), bias=stats([5.0])), 16) == QFormat(4, 12)
    # The threshold counts all values, those that the ReLU made zero too.
    output = stats([-9.0, -8.0, 2.5, 3.5, 9.0])
    tensor = Tensor("output", output, rectified=output.rectified())
    assert method_named("adaption:0.3")(tensor, 8) == QFormat(*old_tool([0, 0, 2.5, 3.5, 9.0], 8, 0.3))


def test_a_layer_without_bias_is_an_error_with_a_way_out(make_net):
    net = make_net(
        """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
                inner_product_param { num_output: 4 bias_term: false } }"""
    )
    with pytest.raises(PlanError, match=r'layer "ip": .* from the bias, .* has none; .*--weight-method max'):
        lp.allocate(net, None, method="adaption")
    assert lp.allocate(net, None, method=lp.Methods(outputs="adaption", weights="max")).layers["ip"].weights
