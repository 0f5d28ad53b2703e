"""ADaPTION's low-precision layers: LPConvolution, LPInnerProduct, LPAct.

The blobs of an LP layer are [W, round(W), b, round(b)], or [W, round(W)] without bias: even ones full precision, odd
ones rounded. Each forward pass recomputes the odd ones, as ADaPTION does, so what a file holds there does not matter.
"""

from __future__ import annotations

from collections.abc import Callable

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.convolution import convolution, convolution_blobs
from lpcaffe.layers.inner_product import inner_product, inner_product_blobs
from lpcaffe.layers.registry import Array, Ops, Shape, layer
from lpcaffe.numbers.qformat import QFormat

# LowPrecisionFPParameter.RoundingScheme as the schemes of round_fp.
LPFP_SCHEMES = ("deterministic", "stochastic")


def format_of(lpfp: Message) -> QFormat:
    """The format of an LP layer. bd and ad have no default: without them the reference's behaviour is undefined."""
    if lpfp.bd < 1:
        raise NetError(f"lpfp_param needs bd >= 1 (got {lpfp.bd})", hint="bd counts the sign bit")
    return QFormat(lpfp.bd, lpfp.ad)


def scheme_of(lpfp: Message) -> str:
    """The rounding scheme of an LP layer, by its name in round_fp."""
    return LPFP_SCHEMES[lpfp.rounding_scheme]


def doubled(blobs: Callable[..., list[Shape]]) -> Callable[..., list[Shape]]:
    """The blob shapes of an LP layer: each one of the ordinary layer twice."""
    return lambda p, lpfp, *bottoms: [shape for shape in blobs(p, *bottoms) for _ in range(2)]


def _rounded(ops: Ops, lpfp: Message, w: Array, b: Array | None) -> tuple[Array, Array | None]:
    fmt, scheme = format_of(lpfp), scheme_of(lpfp)
    w = ops.quantize(w, fmt, scheme, 0)
    return w, ops.quantize(b, fmt, scheme, 2) if b is not None and lpfp.round_bias else b


@layer("LPConvolution", "convolution_param", "lpfp_param", blobs=doubled(convolution_blobs), rounds=True)
def lp_convolution(
    ops: Ops, p: Message, lpfp: Message, x: Array, w: Array, odd_w: Array, b: Array | None = None, odd_b: Array = None
) -> Array:
    """Convolution with rounded weights; the bias is rounded with `round_bias`. Input and output are not rounded."""
    return convolution(ops, p, x, *_rounded(ops, lpfp, w, b))


@layer("LPInnerProduct", "inner_product_param", "lpfp_param", blobs=doubled(inner_product_blobs), rounds=True)
def lp_inner_product(
    ops: Ops, p: Message, lpfp: Message, x: Array, w: Array, odd_w: Array, b: Array | None = None, odd_b: Array = None
) -> Array:
    """InnerProduct with rounded weights; the bias is rounded with `round_bias`. Input and output are not rounded."""
    return inner_product(ops, p, x, *_rounded(ops, lpfp, w, b))


@layer("LPAct", "lpfp_param", rounds=True)
def lp_act(ops: Ops, lpfp: Message, x: Array) -> Array:
    """round_fp of the bottom. No rectification."""
    return ops.quantize(x, format_of(lpfp), scheme_of(lpfp), "top")
