"""Layers that join several bottoms element by element, or pick entries of one by another."""

from __future__ import annotations

from functools import reduce

from lpcaffe.errors import NetError, shape_text
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.registry import ANY, Array, Ops, layer, product

_PROD, _SUM, _MAX = (enum_number("EltwiseParameter.EltwiseOp", name) for name in ("PROD", "SUM", "MAX"))


@layer("Eltwise", "eltwise_param", bottoms=(2, ANY))
def eltwise(ops: Ops, p: Message, *xs: Array) -> Array:
    """Product, sum weighted with `coeff`, or maximum, element by element.

    `coeff` beside MAX is allowed and has no effect; `stable_prod_grad` is for training alone.
    """
    if len({ops.shape(x) for x in xs}) > 1:
        raise NetError(f"bottoms differ in shape: {', '.join(shape_text(ops.shape(x)) for x in xs)}")
    if p.coeff and (len(p.coeff) != len(xs) or p.operation == _PROD):
        raise NetError(f"coeff needs operation SUM and one for each of {len(xs)} bottoms (got {len(p.coeff)})")
    if p.operation == _SUM:
        terms = [x if c == 1 else ops.mul(x, c) for x, c in zip(xs, p.coeff or [1.0] * len(xs), strict=True)]
        return reduce(ops.add, terms)
    return reduce(ops.mul if p.operation == _PROD else ops.maximum, xs)


@layer("Axpy", bottoms=(3, 3))
def axpy(ops: Ops, a: Array, x: Array, y: Array) -> Array:
    """a x + y, with a factor for each image and channel (SENet, Hu et al. 2017): a is N x C or N x C x 1 x 1."""
    factors, shape = ops.shape(a), ops.shape(x)
    if len(shape) < 2 or factors[:2] != shape[:2] or len(factors) < 2 or product(factors[2:]) != 1:
        expected = shape_text(shape[:2]) if len(shape) > 1 else "at least N x C"
        raise NetError(f"expected a factor of the shape {expected}, got {shape_text(factors)} for {shape_text(shape)}")
    if ops.shape(y) != shape:
        raise NetError(f"bottoms differ in shape: {shape_text(shape)}, {shape_text(ops.shape(y))}")
    return ops.add(ops.mul(x, ops.reshape(a, [0, 0] + [1] * (len(shape) - 2))), y)


@layer("BatchReindex", bottoms=(2, 2))
def batch_reindex(ops: Ops, x: Array, indices: Array) -> Array:
    """The images of the first bottom that the second names, in its order; some may come twice, others never."""
    if len(ops.shape(indices)) != 1 or not ops.shape(x):
        shapes = f"{shape_text(ops.shape(x))} and {shape_text(ops.shape(indices))}"
        raise NetError(f"expected images and one axis of indices, got {shapes}")
    return ops.gather(x, indices)


@layer("Filter", bottoms=(2, ANY), numpy_only=True)
def filter_(ops: Ops, *bottoms: Array) -> list[Array]:
    """The images of each bottom but the last at which the last, the selector, is not 0; none at all is a result too.

    How many images stay is known when the network runs. Before that Caffe takes it for all, and so do shapes here.
    """
    *xs, selector = bottoms
    shape = ops.shape(selector)
    if not shape or product(shape[1:]) != 1:
        raise NetError(f"the selector is one value for each image, got {shape_text(shape)}")
    for x in xs:
        if ops.shape(x)[:1] != shape[:1]:
            raise NetError(f"expected {shape[0]} images, as the selector has, got {shape_text(ops.shape(x))}")
    return [ops.compress(x, ops.reshape(selector, [-1])) for x in xs]
