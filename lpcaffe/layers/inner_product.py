"""InnerProduct, the fully connected layer."""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, canonical_axis, layer, product


def inner_product_blobs(p: Message, x: Shape) -> list[Shape]:
    """Weights N x K (K x N with `transpose`), and biases N; K counts the values from `axis` on."""
    if not p.num_output:
        raise NetError("inner_product_param needs num_output of at least 1")
    inputs = product(x[canonical_axis(p.axis, len(x)) :])
    weights = (inputs, p.num_output) if p.transpose else (p.num_output, inputs)
    return [weights, (p.num_output,)] if p.bias_term else [weights]


@layer("InnerProduct", "inner_product_param", blobs=inner_product_blobs)
def inner_product(ops: Ops, p: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """x W^T + b, with x flattened from `axis` on."""
    axis = canonical_axis(p.axis, len(ops.shape(x)))
    y = ops.matmul(ops.reshape(x, [0] * axis + [-1]), w if p.transpose else ops.permute(w, (1, 0)))
    return y if b is None else ops.add(y, b)
