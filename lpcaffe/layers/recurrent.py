"""RNN and LSTM, unrolled over time as Caffe unrolls them.

x is T x N x ...: T time steps of N sequences. cont (T x N) is 0 where a sequence begins and 1 where it continues: the
state that a step takes over is multiplied by it. A static input (N x ...), where there is one, is added to every step.
The bottoms are x, cont, the static input, and with `expose_hidden` the states to begin with (1 x N x H, where H is
num_output), which otherwise are 0. The tops are the outputs (T x N x H) and, with `expose_hidden`, the states at the
end.

Between two passes without `expose_hidden` Caffe keeps the state; here every pass begins with zeros, which is the same
when cont is 0 at the first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, layer, product

# The types whose axis 0 is time, not images.
RECURRENT = ("RNN", "LSTM")


def _check_bottoms(p: Message, states: int, x: Shape, cont: Shape, rest: Sequence[Shape]) -> Shape | None:
    """The shape of the static input, if there is one. `states` is how many states the type has."""
    hidden = states if p.expose_hidden else 0
    if not p.num_output:
        raise NetError("recurrent_param needs num_output of at least 1")
    if len(rest) - hidden not in (0, 1):
        wanted = f"{2 + hidden}, or {3 + hidden} with a static input"
        raise NetError(f"expected bottoms: {wanted}, got {2 + len(rest)}")
    if len(x) < 3 or cont != x[:2]:
        raise NetError(f"expected T x N x ... and T x N, got {shape_text(x)} and {shape_text(cont)}")
    static = rest[0] if len(rest) > hidden else None
    if static is not None and (len(static) < 2 or static[0] != x[1]):
        raise NetError(f"expected a static input of {x[1]} x ..., got {shape_text(static)}")
    begin = (1, x[1], p.num_output)
    for shape in rest[len(rest) - hidden :]:
        if shape != begin:
            raise NetError(f"expected a state of the shape {shape_text(begin)}, got {shape_text(shape)}")
    return static


def _input_blobs(p: Message, gates: int, x: Shape, static: Shape | None) -> list[Shape]:
    """Weights and bias of x, and the weights of the static input if there is one; `gates` values for each output."""
    rows = gates * p.num_output
    blobs: list[Shape] = [(rows, product(x[2:])), (rows,)]
    return blobs if static is None else [*blobs, (rows, product(static[1:]))]


def _transform(ops: Ops, x: Array, w: Array) -> Array:
    return ops.matmul(x, ops.permute(w, (1, 0)))


def _inputs(ops: Ops, x: Array, w: Array, b: Array, static: Array | None, w_static: Array | None) -> Array:
    """What x, the bias and the static input contribute to each step: T x N x rows of w."""
    y = ops.add(_transform(ops, ops.reshape(x, [0, 0, -1]), w), b)
    return y if static is None else ops.add(y, _transform(ops, ops.reshape(static, [0, -1]), w_static))


def _split(p: Message, states: int, arrays: Sequence[Array]) -> tuple[Sequence[Array], Sequence[Array | None]]:
    """The states to begin with, and the arguments of `_inputs`, from what stands between cont and the last blobs."""
    hidden = states if p.expose_hidden else 0
    if len(arrays) == hidden + 2:
        return arrays[:hidden], [*arrays[hidden:], None, None]
    static, *begin, w, b, w_static = arrays
    return begin, [w, b, static, w_static]


def _zeros(ops: Ops, p: Message) -> Array:
    """The state before the first step; it broadcasts over N."""
    return ops.literal(np.zeros((1, 1, p.num_output)))


def rnn_blobs(p: Message, x: Shape, cont: Shape, *rest: Shape) -> list[Shape]:
    """W_xh and b_h, W_xh_static with a static input, W_hh, W_ho and b_o."""
    square = (p.num_output, p.num_output)
    static = _check_bottoms(p, 1, x, cont, rest)
    return [*_input_blobs(p, 1, x, static), square, square, (p.num_output,)]


@layer("RNN", "recurrent_param", blobs=rnn_blobs, bottoms=(2, 4))
def rnn(ops: Ops, p: Message, x: Array, cont: Array, *rest: Array) -> Array:
    """h_t = tanh(W_hh cont_t h_{t-1} + W_xh x_t + b_h), and the output tanh(W_ho h_t + b_o)."""
    *bottoms, w_hh, w_ho, b_o = rest
    states, own = _split(p, 1, bottoms)
    h = states[0] if states else _zeros(ops, p)
    inputs, goes_on = _inputs(ops, x, *own), ops.reshape(cont, [0, 0, 1])
    outputs = []
    for t in range(ops.shape(x)[0]):
        kept = ops.mul(h, ops.slice(goes_on, 0, t, t + 1))
        h = ops.tanh(ops.add(_transform(ops, kept, w_hh), ops.slice(inputs, 0, t, t + 1)))
        outputs.append(ops.tanh(ops.add(_transform(ops, h, w_ho), b_o)))
    output = ops.concat(outputs, 0)
    return [output, h] if p.expose_hidden else output


def lstm_blobs(p: Message, x: Shape, cont: Shape, *rest: Shape) -> list[Shape]:
    """W_xc and b_c, W_xc_static with a static input, and W_hc; rows are those of the gates i, f, o and g in turn."""
    static = _check_bottoms(p, 2, x, cont, rest)
    return [*_input_blobs(p, 4, x, static), (4 * p.num_output, p.num_output)]


@layer("LSTM", "recurrent_param", blobs=lstm_blobs, bottoms=(2, 5))
def lstm(ops: Ops, p: Message, x: Array, cont: Array, *rest: Array) -> Array:
    """c_t = f cont_t c_{t-1} + i g and h_t = o tanh(c_t), the output (Hochreiter & Schmidhuber 1997, with gates f).

    i, f, o = sigmoid, and g = tanh, of the rows of W_hc cont_t h_{t-1} + W_xc x_t + b_c.
    """
    *bottoms, w_hc = rest
    states, own = _split(p, 2, bottoms)
    h, c = states or [_zeros(ops, p)] * 2
    inputs, goes_on = _inputs(ops, x, *own), ops.reshape(cont, [0, 0, 1])
    outputs = []
    for t in range(ops.shape(x)[0]):
        now = ops.slice(goes_on, 0, t, t + 1)
        rows = ops.add(_transform(ops, ops.mul(h, now), w_hc), ops.slice(inputs, 0, t, t + 1))
        i, f, o, g = (ops.slice(rows, 2, gate * p.num_output, (gate + 1) * p.num_output) for gate in range(4))
        kept = ops.mul(c, ops.mul(ops.sigmoid(f), now))
        c = ops.add(kept, ops.mul(ops.sigmoid(i), ops.tanh(g)))
        h = ops.mul(ops.sigmoid(o), ops.tanh(c))
        outputs.append(h)
    output = ops.concat(outputs, 0)
    return [output, h, c] if p.expose_hidden else output
