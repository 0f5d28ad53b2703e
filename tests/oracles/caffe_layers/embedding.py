"""Embed."""

import numpy as np

from caffe_layers.core import CASES, Case, indices, oracle


@oracle("Embed")
def embed(x: np.ndarray, table: np.ndarray, bias: np.ndarray | None = None) -> list[np.ndarray]:
    y = np.empty((*x.shape, table.shape[1]))
    for i in indices(y.shape):
        y[i] = float(table[int(x[i[:-1]]), i[-1]]) + (0.0 if bias is None else float(bias[i[-1]]))
    return [y]


WORDS = np.array([[4, 0, 2], [1, 1, 6]], np.float32)

CASES["Embed"] = [
    Case("embed_param { num_output: 5 input_dim: 7 }", [WORDS], blobs=[(7, 5), (5,)]),
    Case("embed_param { num_output: 5 input_dim: 7 bias_term: false }", [WORDS], blobs=[(7, 5)], exact=True),
    Case("embed_param { num_output: 4 input_dim: 7 }", [WORDS.reshape(1, 6, 1)], blobs=[(7, 4), (4,)]),
    Case("embed_param { num_output: 1 input_dim: 1 }", [np.zeros(3, np.float32)], blobs=[(1, 1), (1,)]),
]
