"""Eltwise: several bottoms of one shape become one."""

from __future__ import annotations

from functools import reduce

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import ANY, Array, Ops, layer, shape_text

_PROD, _SUM, _MAX = (enum_number("EltwiseParameter.EltwiseOp", name) for name in ("PROD", "SUM", "MAX"))


@layer("Eltwise", "eltwise_param", bottoms=(2, ANY))
def eltwise(ops: Ops, p: Message, *xs: Array) -> Array:
    """Product, sum weighted with `coeff`, or maximum, element by element."""
    if len({ops.shape(x) for x in xs}) > 1:
        raise NetError(f"bottoms differ in shape: {', '.join(shape_text(ops.shape(x)) for x in xs)}")
    if p.coeff and (len(p.coeff) != len(xs) or p.operation == _PROD):
        raise NetError(f"coeff needs operation SUM and one for each of {len(xs)} bottoms (got {len(p.coeff)})")
    if p.operation == _SUM:
        terms = [x if c == 1 else ops.mul(x, c) for x, c in zip(xs, p.coeff or [1.0] * len(xs), strict=True)]
        return reduce(ops.add, terms)
    return reduce(ops.mul if p.operation == _PROD else ops.maximum, xs)
