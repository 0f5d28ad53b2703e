"""Layers that make fewer values of many."""

import math

import numpy as np

from caffe_layers.core import CASES, Case, indices, one, oracle


@oracle("Reduction")
def reduction(x: np.ndarray, *, op: str = "sum", axis: int = 0, coeff: float = 1.0) -> list[np.ndarray]:
    y = np.empty(x.shape[:axis])
    for i in indices(y.shape):
        line = [float(x[i + j]) for j in indices(x.shape[axis:])]
        total = {
            "sum": lambda v: math.fsum(v),
            "asum": lambda v: math.fsum(map(abs, v)),
            "sumsq": lambda v: math.fsum(u * u for u in v),
            "mean": lambda v: math.fsum(v) / len(v),
        }[op](line)
        y[i] = coeff * total
    return [y]


CASES["Reduction"] = [
    one("reduction_param"),
    one("reduction_param", "operation: SUM axis: 1", axis=1),
    one("reduction_param", "operation: ASUM axis: 2", op="asum", axis=2),
    one("reduction_param", "operation: SUMSQ axis: -1", op="sumsq", axis=3),
    one("reduction_param", "operation: MEAN axis: 1", op="mean", axis=1),
    one("reduction_param", "operation: MEAN axis: 2 coeff: -0.5", op="mean", axis=2, coeff=-0.5),
    one("reduction_param", "operation: SUMSQ coeff: 2", op="sumsq", coeff=2),
    one("reduction_param", "operation: ASUM", op="asum", bottom=(7,)),
]


@oracle("ArgMax")
def arg_max(x: np.ndarray, *, top_k: int = 1, axis: int | None = None, out_max: bool = False) -> list[np.ndarray]:
    def best(line: list[float]) -> list[tuple[float, int]]:
        """The largest, and of equals the last, first."""
        return sorted(((v, i) for i, v in enumerate(line)), reverse=True)[:top_k]

    if axis is None:
        y = np.empty((len(x), 2 if out_max else 1, top_k, *[1] * (x.ndim - 3)))
        for n in range(len(x)):
            for k, (v, place) in enumerate(best([float(x[(n, *j)]) for j in indices(x.shape[1:])])):
                y[n, 0, k] = place
                if out_max:
                    y[n, 1, k] = v
        return [y]
    y = np.empty((*x.shape[:axis], top_k, *x.shape[axis + 1 :]))
    for i in indices(y.shape):
        line = [float(x[(*i[:axis], j, *i[axis + 1 :])]) for j in range(x.shape[axis])]
        v, place = best(line)[i[axis]]
        y[i] = v if out_max else place
    return [y]


TIES = np.array([[1, 3, 3, -1, 3], [0, 0, 0, 0, 0]], np.float32)

CASES["ArgMax"] = [
    one("argmax_param", exact=True),
    one("argmax_param", "top_k: 4", exact=True, top_k=4),
    one("argmax_param", "top_k: 3 out_max_val: true", exact=True, top_k=3, out_max=True),
    one("argmax_param", "top_k: 2 out_max_val: true", bottom=(3, 7), exact=True, top_k=2, out_max=True),
    one("argmax_param", "top_k: 2", bottom=(2, 3, 1, 5, 4), exact=True, top_k=2),
    one("argmax_param", bottom=(6,), exact=True)._replace(bottoms=[np.arange(6, dtype=np.float32)]),
    one("argmax_param", "axis: 1", exact=True, axis=1),
    one("argmax_param", "axis: 2 top_k: 5 out_max_val: true", exact=True, axis=2, top_k=5, out_max=True),
    one("argmax_param", "axis: -1 top_k: 2", exact=True, axis=3, top_k=2),
    one("argmax_param", "axis: 0 top_k: 2 out_max_val: true", exact=True, axis=0, top_k=2, out_max=True),
    Case("argmax_param { top_k: 5 }", [TIES], {"top_k": 5}, exact=True),
    Case("argmax_param { top_k: 2 axis: 1 }", [TIES], {"top_k": 2, "axis": 1}, exact=True),
]
