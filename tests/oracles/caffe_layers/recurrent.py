"""RNN and LSTM, step by step and value by value."""

import math
from collections.abc import Sequence

import numpy as np

from caffe_layers.core import CASES, Case, oracle

Vector = list[float]


def times(w: np.ndarray, x: Sequence[float]) -> Vector:
    return [math.fsum(float(a) * b for a, b in zip(row, x, strict=True)) for row in w]


def total(*vectors: Sequence[float]) -> Vector:
    return [math.fsum(values) for values in zip(*vectors, strict=True)]


def numbers(x: np.ndarray) -> Vector:
    return [float(v) for v in x.ravel()]


def sigmoid(v: float) -> float:
    return 1 / (1 + math.exp(-v))


@oracle("RNN")
def rnn(
    x: np.ndarray, cont: np.ndarray, *rest: np.ndarray, size: int, static: bool = False, exposed: bool = False
) -> list[np.ndarray]:
    rest = list(rest)
    fixed = rest.pop(0) if static else None
    first = rest.pop(0) if exposed else None
    w_xh, b_h = rest[:2]
    w_static = rest[2] if static else None
    w_hh, w_ho, b_o = rest[-3:]
    steps, sequences = x.shape[:2]
    y, last = np.empty((steps, sequences, size)), np.empty((1, sequences, size))
    for n in range(sequences):
        h = numbers(first[0, n]) if exposed else [0.0] * size
        for t in range(steps):
            kept = [float(cont[t, n]) * v for v in h]
            terms = [times(w_hh, kept), times(w_xh, numbers(x[t, n])), numbers(b_h)]
            if static:
                terms.append(times(w_static, numbers(fixed[n])))
            h = [math.tanh(v) for v in total(*terms)]
            y[t, n] = [math.tanh(v) for v in total(times(w_ho, h), numbers(b_o))]
        last[0, n] = h
    return [y, last] if exposed else [y]


@oracle("LSTM")
def lstm(
    x: np.ndarray, cont: np.ndarray, *rest: np.ndarray, size: int, static: bool = False, exposed: bool = False
) -> list[np.ndarray]:
    rest = list(rest)
    fixed = rest.pop(0) if static else None
    first_h, first_c = (rest.pop(0), rest.pop(0)) if exposed else (None, None)
    w_xc, b_c = rest[:2]
    w_static = rest[2] if static else None
    w_hc = rest[-1]
    steps, sequences = x.shape[:2]
    y = np.empty((steps, sequences, size))
    last_h, last_c = np.empty((1, sequences, size)), np.empty((1, sequences, size))
    for n in range(sequences):
        h = numbers(first_h[0, n]) if exposed else [0.0] * size
        c = numbers(first_c[0, n]) if exposed else [0.0] * size
        for t in range(steps):
            goes_on = float(cont[t, n])
            terms = [times(w_hc, [goes_on * v for v in h]), times(w_xc, numbers(x[t, n])), numbers(b_c)]
            if static:
                terms.append(times(w_static, numbers(fixed[n])))
            rows = total(*terms)
            for k in range(size):
                i, f, o = (sigmoid(rows[gate * size + k]) for gate in range(3))
                c[k] = goes_on * f * c[k] + i * math.tanh(rows[3 * size + k])
                h[k] = o * math.tanh(c[k])
            y[t, n] = h
        last_h[0, n], last_c[0, n] = h, c
    return [y, last_h, last_c] if exposed else [y]


def small(*shape: int) -> np.ndarray:
    """Weights between -0.7 and 0.7, no two rows alike: large ones would leave nothing but saturated gates."""
    return np.array([0.7 * math.sin(1.7 * k + 0.3 * len(shape)) for k in range(math.prod(shape))], np.float32).reshape(
        shape
    )


# 4 steps of 3 sequences, of which the second begins anew at step 2 and the third at steps 1 and 3. The last flag shows
# that it is a factor; at step 0, 1 takes over the state to begin with.
CONT = np.array([[0, 1, 0], [1, 1, 0], [1, 0, 1], [1, 1, 0.5]], np.float32)


def recurrent(
    text: str, x: tuple[int, ...], rest: list[tuple[int, ...]], blobs: list[np.ndarray], **meaning: object
) -> Case:
    tops = 1 + sum(shape[0] == 1 for shape in rest)
    cont = CONT[: x[0]]
    return Case(f"recurrent_param {{ {text} }}", [x, cont, *rest], {"size": 5, **meaning}, blobs, tops=tops)


def rnn_blobs(inputs: int, static: int = 0) -> list[np.ndarray]:
    own = [small(5, static)] if static else []
    return [small(5, inputs), small(5), *own, small(5, 5), small(5, 5)[::-1].copy(), small(5)[::-1].copy()]


def lstm_blobs(inputs: int, static: int = 0) -> list[np.ndarray]:
    own = [small(20, static)] if static else []
    return [small(20, inputs), small(20), *own, small(20, 5)]


CASES["RNN"] = [
    recurrent("num_output: 5", (4, 3, 2), [], rnn_blobs(2)),
    recurrent("num_output: 5 debug_info: true", (4, 3, 2, 6), [], rnn_blobs(12)),
    recurrent("num_output: 5", (4, 3, 2), [(3, 2, 4)], rnn_blobs(2, 8), static=True),
    recurrent("num_output: 5 expose_hidden: true", (4, 3, 2), [(1, 3, 5)], rnn_blobs(2), exposed=True),
    recurrent(
        "num_output: 5 expose_hidden: true", (4, 3, 2), [(3, 7), (1, 3, 5)], rnn_blobs(2, 7), static=True, exposed=True
    ),
    recurrent("num_output: 5", (1, 3, 2), [], rnn_blobs(2)),
]


CASES["LSTM"] = [
    recurrent("num_output: 5", (4, 3, 2), [], lstm_blobs(2)),
    recurrent("num_output: 5 debug_info: true", (4, 3, 2, 6), [], lstm_blobs(12)),
    recurrent("num_output: 5", (4, 3, 2), [(3, 2, 4)], lstm_blobs(2, 8), static=True),
    recurrent("num_output: 5 expose_hidden: true", (4, 3, 2), [(1, 3, 5)] * 2, lstm_blobs(2), exposed=True),
    recurrent(
        "num_output: 5 expose_hidden: true",
        (4, 3, 2),
        [(3, 7), (1, 3, 5), (1, 3, 5)],
        lstm_blobs(2, 7),
        static=True,
        exposed=True,
    ),
    recurrent("num_output: 5", (1, 3, 2), [], lstm_blobs(2)),
]
