"""Layers that work element by element on one bottom."""

import math

import numpy as np

from caffe_layers.core import CASES, Case, each, one, oracle


@oracle("ReLU")
def relu(x: np.ndarray, *, slope: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: v if v > 0 else slope * v)


CASES["ReLU"] = [one("relu_param", exact=True), one("relu_param", "negative_slope: 0.125", slope=0.125)]


@oracle("PReLU")
def prelu(x: np.ndarray, slopes: np.ndarray, *, shared: bool = False) -> list[np.ndarray]:
    return each(x, lambda i, v: v if v > 0 else v * float(slopes[() if shared else i[1]]))


CASES["PReLU"] = [
    one("prelu_param")._replace(blobs=[(3,)]),
    one("prelu_param", bottom=(5, 3))._replace(blobs=[(3,)]),
    one("prelu_param", "channel_shared: true", shared=True)._replace(blobs=[()]),
]


@oracle("Sigmoid")
def sigmoid(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: 1 / (1 + math.exp(-v)) if v > -700 else 0.0)


CASES["Sigmoid"] = [one("sigmoid_param"), one("sigmoid_param", bottom=(7,))]


@oracle("TanH")
def tanh(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: math.tanh(v))


CASES["TanH"] = [one("tanh_param")]


@oracle("Power")
def power(x: np.ndarray, *, power: float = 1.0, scale: float = 1.0, shift: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: math.pow(shift if scale == 0 else shift + scale * v, power))


CASES["Power"] = [
    one("power_param", exact=True),
    one("power_param", "power: 2", power=2),
    one("power_param", "power: 3 scale: 0.5 shift: -1", power=3, scale=0.5, shift=-1),
    one("power_param", "power: 0", power=0, exact=True),
    one("power_param", "scale: 0 shift: 3 power: 2", scale=0, shift=3, power=2, exact=True),
    one("power_param", "power: 0 scale: 0", power=0, scale=0, exact=True),
    one("power_param", "power: 0.5 scale: 0.25 shift: 16", power=0.5, scale=0.25, shift=16),
    one("power_param", "power: -1.5 scale: 0.25 shift: 16", power=-1.5, scale=0.25, shift=16),
]


@oracle("Dropout")
def dropout(x: np.ndarray, *, factor: float = 1.0) -> list[np.ndarray]:
    return each(x, lambda _, v: factor * v)


CASES["Dropout"] = [
    one("dropout_param", "dropout_ratio: 0.3", exact=True),
    one("dropout_param", "dropout_ratio: 0.25 scale_train: true", exact=True),
    one("dropout_param", "dropout_ratio: 0.25 scale_train: false", factor=0.75),
]


@oracle("Softmax")
def softmax(x: np.ndarray, *, axis: int = 1) -> list[np.ndarray]:
    def one(i: tuple[int, ...], v: float) -> float:
        line = [float(x[(*i[:axis], k, *i[axis + 1 :])]) for k in range(x.shape[axis])]
        return 1 / sum(math.exp(other - v) for other in line)

    return each(x, one)


CASES["Softmax"] = [
    one("softmax_param"),
    one("softmax_param", bottom=(2, 9)),
    one("softmax_param", "axis: -1", axis=3),
    one("softmax_param", "axis: 0", axis=0),
]


@oracle("AbsVal")
def abs_val(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: v if v > 0 else -v)


CASES["AbsVal"] = [Case("", [(2, 3, 5, 4)], exact=True), Case("", [(7,)], exact=True)]


@oracle("BNLL")
def bnll(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: v if v > 50 else math.log1p(math.exp(v)))


CASES["BNLL"] = [
    Case("", [(2, 3, 5, 4)]),
    Case("", [np.array([[-1000, -90, -20, -1], [0, 1, 20, 90]], np.float32)]),
]


@oracle("Clip")
def clip(x: np.ndarray, *, low: float, high: float) -> list[np.ndarray]:
    return each(x, lambda _, v: low if v < low or high < low else high if v > high else v)


CASES["Clip"] = [
    one("clip_param", "min: -0.5 max: 0.75", exact=True, low=-0.5, high=0.75),
    one("clip_param", "min: 0.25 max: 2", exact=True, low=0.25, high=2),
    one("clip_param", "min: 0 max: 0.5", exact=True, low=0, high=0.5),
    one("clip_param", "min: 0.5 max: -1", exact=True, low=0.5, high=-1),  # the smaller bound has the last word
]


@oracle("ELU")
def elu(x: np.ndarray, *, alpha: float = 1.0) -> list[np.ndarray]:
    return each(x, lambda _, v: v if v > 0 else alpha * math.expm1(v))


CASES["ELU"] = [
    one("elu_param"),
    one("elu_param", "alpha: 0.25", alpha=0.25),
    one("elu_param", "alpha: -2", alpha=-2),
    Case("", [np.array([[-200, -1, 0], [1, 100, 200]], np.float32)]),
]


@oracle("Exp")
def exp(x: np.ndarray, *, base: float = math.e, scale: float = 1.0, shift: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: math.pow(base, shift + scale * v))


CASES["Exp"] = [
    one("exp_param"),
    one("exp_param", "base: -1 scale: 0.5", scale=0.5),
    one("exp_param", "base: 2", base=2),
    one("exp_param", "base: 0.5 scale: -0.25 shift: 3", base=0.5, scale=-0.25, shift=3),
    one("exp_param", "shift: -2", shift=-2),
    one("exp_param", "base: 1 shift: 5", base=1, shift=5, exact=True),
    one("exp_param", "scale: 0 shift: 2", scale=0, shift=2),
]


@oracle("Log")
def log(x: np.ndarray, *, base: float = math.e, scale: float = 1.0, shift: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: math.log(shift + scale * v) / math.log(base))


POSITIVE = np.linspace(0.0625, 30, 24, dtype=np.float32).reshape(2, 3, 4)

CASES["Log"] = [
    Case("", [POSITIVE]),
    Case("log_param { base: -1 scale: 0.5 shift: 0.25 }", [POSITIVE], {"scale": 0.5, "shift": 0.25}),
    Case("log_param { base: 2 }", [POSITIVE], {"base": 2}),
    Case("log_param { base: 0.5 scale: -1 shift: 32 }", [POSITIVE], {"base": 0.5, "scale": -1, "shift": 32}),
    one("log_param", "shift: 64", shift=64),
    Case("log_param { base: 10 }", [POSITIVE], {"base": 10}),
]


@oracle("Swish")
def swish(x: np.ndarray, *, beta: float = 1.0) -> list[np.ndarray]:
    return each(x, lambda _, v: v / (1 + math.exp(-beta * v)))


CASES["Swish"] = [
    one("swish_param"),
    one("swish_param", "beta: 0.5", beta=0.5),
    one("swish_param", "beta: -2", beta=-2),
    one("swish_param", "beta: 0", beta=0, exact=True),
]


@oracle("Threshold")
def threshold(x: np.ndarray, *, threshold: float = 0.0) -> list[np.ndarray]:
    return each(x, lambda _, v: 1.0 if v > threshold else 0.0)


EDGES = np.array([[-1, -0.5, 0, 0.25], [0.5, 1, np.nextafter(np.float32(0.5), np.float32(1)), 2]], np.float32)

CASES["Threshold"] = [
    one("threshold_param", exact=True),
    one("threshold_param", "threshold: -0.125", threshold=-0.125, exact=True),
    Case("", [EDGES], exact=True),
    Case("threshold_param { threshold: 0.5 }", [EDGES], {"threshold": 0.5}, exact=True),
]


@oracle("ReLU6")
def relu6(x: np.ndarray) -> list[np.ndarray]:
    return each(x, lambda _, v: 0.0 if v < 0 else 6.0 if v > 6 else v)


CASES["ReLU6"] = [
    Case("", [(2, 3, 5, 4)], exact=True),
    Case("", [np.array([[-7, 0, 5.9375], [6, 6.0625, 100]], np.float32)], exact=True),
]
