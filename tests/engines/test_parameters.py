"""An engine has no memory: what it computes depends on its arguments, and what weights alone give is computed once."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from lpcaffe.engines import NumpyEngine, Parameters, bind_parameters, check_executable, forward
from lpcaffe.numbers import QFormat
from lpcaffe.numbers.rounding import round_fp

TEXT = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "LPInnerProduct" bottom: "x" top: "y"
  inner_product_param { num_output: 4 bias_term: false } lpfp_param { bd: 1 ad: 1 } }"""
FINE = TEXT.replace("ad: 1", "ad: 7")
X = np.array([[1, 0, 0], [0, 0, 0.5]], np.float32)


def product_with(weights: np.ndarray, ad: int) -> np.ndarray:
    return X @ round_fp(weights, 1, ad).T


def test_one_engine_and_one_set_of_weights_serve_two_formats(random_net):
    ops, net = NumpyEngine(), random_net(TEXT)
    fine = random_net(FINE).replace(random_net(FINE).message, net.weights)
    parameters = bind_parameters(net, check_executable(net))
    found = [forward(ops, each, {"x": X}, parameters, keep=["y@ip"])["y@ip"] for each in (net, fine, net)]
    weights = parameters["ip"][0]
    for y, ad in zip(found, (1, 7, 1), strict=True):
        np.testing.assert_array_equal(y, product_with(weights, ad))
    assert (found[0] != found[1]).any()


def test_one_engine_serves_two_sets_of_weights(random_net):
    ops, net = NumpyEngine(), random_net(TEXT)
    for factor in (1, -0.5):
        weights = np.float32(factor) * net.weights["ip"][0].array()
        found = forward(ops, net, {"x": X}, Parameters({"ip": [weights, weights]}), keep=["y@ip"])["y@ip"]
        np.testing.assert_array_equal(found, product_with(weights, 1))


def test_weights_are_rounded_once_for_all_batches(random_net, monkeypatch):
    rounded = []

    def counted(fmt, x, *args, **options):
        rounded.append(x)
        return round_fp(x, fmt.bd, fmt.ad)

    monkeypatch.setattr(QFormat, "quantize", counted)
    net = random_net(TEXT)
    parameters = bind_parameters(net, check_executable(net))
    for first in range(3):
        forward(NumpyEngine(), net, {"x": X}, parameters, first_image=2 * first)
    assert len(rounded) == 1
    forward(NumpyEngine("float64"), net, {"x": X}, parameters)
    assert len(rounded) == 2


def test_threads_that_need_the_same_value_compute_it_once():
    weights = np.arange(3, dtype=np.float32)
    parameters, together, computed = Parameters({"ip": [weights]}), threading.Barrier(4), []

    def compute() -> np.ndarray:
        computed.append(threading.get_ident())
        return -weights

    def ask(_: int) -> np.ndarray:
        together.wait()
        return parameters.derived("negative", weights, compute)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(computed) == 1
    assert all(values is found[0] for values in found)
    np.testing.assert_array_equal(found[0], [0, -1, -2])


def test_another_array_under_the_same_key_is_computed_anew():
    one, other = np.ones(2, np.float32), np.full(2, 3, np.float32)
    parameters = Parameters({})
    found = [parameters.derived("twice", values, lambda values=values: 2 * values) for values in (one, other)]
    np.testing.assert_array_equal(found, [[2, 2], [6, 6]])
