"""Layers that join several bottoms element by element, or pick entries of one by another."""

import math
from collections.abc import Sequence

import numpy as np

from caffe_layers.core import CASES, Case, each, indices, oracle


@oracle("Eltwise")
def eltwise(*xs: np.ndarray, op: str = "sum", coeff: Sequence[float] = ()) -> list[np.ndarray]:
    def one(i: tuple[int, ...], _: float) -> float:
        values = [float(x[i]) for x in xs]
        if op == "sum":
            return sum(c * v for c, v in zip(coeff or [1.0] * len(xs), values, strict=True))
        return max(values) if op == "max" else math.prod(values)

    return each(xs[0], one)


CASES["Eltwise"] = [
    Case("", [(2, 3, 5, 4)] * 2),
    Case("eltwise_param { operation: SUM }", [(2, 3, 5)] * 3),
    Case("eltwise_param { coeff: 1 coeff: -0.5 coeff: 2 }", [(2, 3, 5)] * 3, {"coeff": (1, -0.5, 2)}),
    Case("eltwise_param { operation: PROD }", [(2, 3, 5)] * 3, {"op": "prod"}),
    Case("eltwise_param { operation: PROD stable_prod_grad: false }", [(2, 3, 5)] * 2, {"op": "prod"}),
    Case("eltwise_param { operation: MAX }", [(2, 3)] * 3, {"op": "max"}, exact=True),
    Case("eltwise_param { operation: MAX coeff: 3 coeff: 4 }", [(2, 3)] * 2, {"op": "max"}, exact=True),
]


@oracle("Axpy")
def axpy(a: np.ndarray, x: np.ndarray, y: np.ndarray) -> list[np.ndarray]:
    factors = a.reshape(a.shape[:2])
    return each(x, lambda i, v: float(factors[i[:2]]) * v + float(y[i]))


CASES["Axpy"] = [
    Case("", [(2, 3, 1, 1), (2, 3, 5, 4), (2, 3, 5, 4)]),
    Case("", [(2, 3), (2, 3, 5, 4), (2, 3, 5, 4)]),
    Case("", [(2, 3, 1), (2, 3, 5), (2, 3, 5)]),
    Case("", [(2, 3), (2, 3), (2, 3)]),
]


@oracle("BatchReindex")
def batch_reindex(x: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
    y = np.empty((len(order), *x.shape[1:]))
    for i in indices(y.shape):
        y[i] = x[(int(order[i[0]]), *i[1:])]
    return [y]


CASES["BatchReindex"] = [
    Case("", [(4, 3, 5), np.array([3, 0, 0, 2, 1, 3], np.float32)], exact=True),
    Case("", [(4, 3, 5, 2), np.array([2], np.float32)], exact=True),
    Case("", [(4,), np.array([1, 1, 0], np.float32)], exact=True),
    Case("", [(4, 3), np.array([1.75, 0.5], np.float32)], exact=True),  # fractions are cut off
]


@oracle("Filter")
def filter_(*bottoms: np.ndarray) -> list[np.ndarray]:
    *xs, selector = bottoms
    chosen = [n for n, flag in enumerate(selector.ravel().tolist()) if flag]
    tops = []
    for x in xs:
        y = np.empty((len(chosen), *x.shape[1:]))
        for i in indices(y.shape):
            y[i] = x[(chosen[i[0]], *i[1:])]
        tops.append(y)
    return tops


CASES["Filter"] = [
    Case("", [(4, 3, 5), np.array([0, 1, 0, -0.5], np.float32)], exact=True, dynamic=True),
    Case("", [(4, 3, 5), (4, 2), np.array([[1], [0], [1], [1]], np.float32)], tops=2, exact=True, dynamic=True),
    Case("", [(4, 3, 5), np.ones((4, 1, 1, 1), np.float32)], exact=True),  # all
    Case("", [(4, 3, 5), np.zeros(4, np.float32)], exact=True, dynamic=True),  # none
]
