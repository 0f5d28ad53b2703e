"""Embed: rows of a learned table."""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import Array, Ops, Shape, layer


def embed_blobs(p: Message, x: Shape) -> list[Shape]:
    """A table input_dim x num_output, and biases num_output."""
    if not (p.num_output and p.input_dim):
        got = f"got {p.num_output} and {p.input_dim}"
        raise NetError(f"embed_param needs num_output and input_dim of at least 1 ({got})")
    return [(p.input_dim, p.num_output), (p.num_output,)] if p.bias_term else [(p.input_dim, p.num_output)]


@layer("Embed", "embed_param", blobs=embed_blobs)
def embed(ops: Ops, p: Message, x: Array, table: Array, b: Array | None = None) -> Array:
    """The row of the table that each value of the bottom names, plus a bias: an axis of num_output after the bottom's.

    It is InnerProduct on one-hot vectors, without the vectors.
    """
    y = ops.gather(table, x)
    return y if b is None else ops.add(y, b)
