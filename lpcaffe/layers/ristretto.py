"""Ristretto's layers: ConvolutionRistretto, DeconvolutionRistretto, FcRistretto, LRNRistretto (Gysel 2016).

Each computes its ordinary layer on numbers of a narrow format: at test time bottom, weights, bias and top are
quantized. `quantization_param.precision` says to what:

    DYNAMIC_FIXED_POINT         round(clip(x) 2^fl) 2^-fl, clipped to -2^(bw-1) 2^-fl .. (2^(bw-1) - 1) 2^-fl; bw and fl
                                are of their own for bottom, parameters and top
    MINIFLOAT                   1 sign bit, exp_bits (bias 2^(exp_bits-1) - 1) and mant_bits: no infinities, no NaN, no
                                denormal numbers (0 in their place); larger numbers become the largest
    INTEGER_POWER_OF_2_WEIGHTS  weights sign(w) 2^e with exp_min <= e <= exp_max, e rounded in the logarithm, and no 0,
                                which becomes 2^exp_min; the bias as it is; bottom and top in fixed point

Rounding is to nearest with halves away from zero, as on Ristretto's CPU (its GPU takes halves to even). STOCHASTIC
draws from lpcaffe's own generator, and is for fixed point alone. A number between the largest minifloat and the next
power of two can round up to that power, which the format does not have: as in Ristretto.

Three things differ from Ristretto on purpose. There the bottom is rounded in place, so that other layers that read the
blob later see it rounded; here it is a copy. There the CPU leaves all that follows the first 0 of a blob unrounded
(MINIFLOAT), and does not round bottom and top (INTEGER_POWER_OF_2_WEIGHTS); here they are rounded, as on its GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message, enum_number
from lpcaffe.layers.convolution import (
    convolution,
    convolution_blobs,
    deconvolution,
    deconvolution_blobs,
)
from lpcaffe.layers.inner_product import inner_product, inner_product_blobs
from lpcaffe.layers.registry import Array, Ops, Shape, layer
from lpcaffe.numbers import Affine, Minifloat, PowerOfTwo, QFormat
from lpcaffe.numbers.affine import MAX_FLOAT32_BITS

_FIXED, _MINIFLOAT, _POWER_OF_2 = (
    enum_number("QuantizationParameter.Precision", name)
    for name in ("DYNAMIC_FIXED_POINT", "MINIFLOAT", "INTEGER_POWER_OF_2_WEIGHTS")
)
_NEAREST, _STOCHASTIC = (enum_number("QuantizationParameter.Rounding", name) for name in ("NEAREST", "STOCHASTIC"))
_ACROSS_CHANNELS = enum_number("LRNParameter.NormRegion", "ACROSS_CHANNELS")

# The widest fixed-point format and the longest fraction: what Ristretto defaults to, and room for every real one.
_WIDEST, _LONGEST = 32, 64


def _fixed(ops: Ops, q: Message, x: Array, what: str, site: int | str) -> Array:
    """Fixed point of bw_WHAT bits, fl_WHAT of them after the point."""
    bw, fl = getattr(q, f"bw_{what}"), getattr(q, f"fl_{what}")
    if not 1 <= bw <= _WIDEST:
        raise NetError(f"quantization_param needs 1 <= bw_{what} <= {_WIDEST} (got {bw})")
    if abs(fl) > _LONGEST:
        raise NetError(f"quantization_param needs {-_LONGEST} <= fl_{what} <= {_LONGEST} (got {fl})")
    step = 2.0**-fl
    if q.rounding_scheme == _NEAREST and bw <= MAX_FLOAT32_BITS:
        return ops.quantize(x, Affine(bw, step, signed=True, ties="away"), "deterministic", site)
    x = ops.minimum(ops.maximum(x, -(2.0 ** (bw - 1)) * step), (2.0 ** (bw - 1) - 1) * step)
    if q.rounding_scheme == _STOCHASTIC:
        fmt = QFormat(bw + 1 - fl, fl)  # one bit more, so that it does not clip once more
        fmt.check_dtype(np.float32)
        return ops.quantize(x, fmt, "stochastic", site)
    # float32 holds no code of more bits, but Ristretto rounds what it holds.
    return ops.mul(ops.round_half_away(ops.mul(x, 1 / step)), step)


def _minifloat(q: Message) -> Minifloat:
    """The format of mant_bits and exp_bits."""
    m, e = q.mant_bits, q.exp_bits
    if m > 23 or not 1 <= e <= 8:
        raise NetError(f"quantization_param needs mant_bits <= 23 and 1 <= exp_bits <= 8 (got {m} and {e})")
    if q.rounding_scheme != _NEAREST:
        raise NetError("MINIFLOAT with STOCHASTIC rounding is not supported", hint="NEAREST is")
    return Minifloat(e, m, "ristretto")


def _power_of_2(q: Message) -> PowerOfTwo:
    """The format of exp_min and exp_max."""
    low, high = q.exp_min, q.exp_max
    if not -126 <= low <= high <= 127:
        raise NetError(f"quantization_param needs -126 <= exp_min <= exp_max <= 127 (got {low} and {high})")
    if q.rounding_scheme != _NEAREST:
        raise NetError("INTEGER_POWER_OF_2_WEIGHTS with STOCHASTIC rounding is not supported", hint="NEAREST is")
    return PowerOfTwo(low, high, rule="ristretto")


def _quantized(ops: Ops, q: Message, x: Array, what: str, site: int | str) -> Array:
    if q.precision == _MINIFLOAT:
        return ops.quantize(x, _minifloat(q), "deterministic", site)
    return _fixed(ops, q, x, what, site)


def _on_quantized(
    run: Callable[..., Array], ops: Ops, p: Message, q: Message, x: Array, w: Array, b: Array | None
) -> Array:
    """An ordinary layer on quantized bottom and parameters, its top quantized."""
    x = _quantized(ops, q, x, "layer_in", "bottom")
    if q.precision == _POWER_OF_2:
        w = ops.quantize(w, _power_of_2(q), "deterministic", 0)
    else:
        w = _quantized(ops, q, w, "params", 0)
        b = None if b is None else _quantized(ops, q, b, "params", 1)
    return _quantized(ops, q, run(ops, p, x, w, b), "layer_out", "top")


def _own_blobs(blobs: Callable[..., list[Shape]]) -> Callable[..., list[Shape]]:
    """Those of the ordinary layer: full precision, rounded in each forward pass."""
    return lambda p, q, *bottoms: blobs(p, *bottoms)


@layer(
    "ConvolutionRistretto",
    "convolution_param",
    "quantization_param",
    blobs=_own_blobs(convolution_blobs),
    rounds=True,
)
def convolution_ristretto(ops: Ops, p: Message, q: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Convolution with bottom, weights, bias and top in the format of `quantization_param`."""
    return _on_quantized(convolution, ops, p, q, x, w, b)


@layer(
    "DeconvolutionRistretto",
    "convolution_param",
    "quantization_param",
    blobs=_own_blobs(deconvolution_blobs),
    rounds=True,
)
def deconvolution_ristretto(ops: Ops, p: Message, q: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """Deconvolution with bottom, weights, bias and top in the format of `quantization_param`."""
    return _on_quantized(deconvolution, ops, p, q, x, w, b)


@layer(
    "FcRistretto",
    "inner_product_param",
    "quantization_param",
    blobs=_own_blobs(inner_product_blobs),
    rounds=True,
)
def fc_ristretto(ops: Ops, p: Message, q: Message, x: Array, w: Array, b: Array | None = None) -> Array:
    """InnerProduct with bottom, weights, bias and top in the format of `quantization_param`."""
    return _on_quantized(inner_product, ops, p, q, x, w, b)


@layer("LRNRistretto", "lrn_param", "quantization_param", rounds=True)
def lrn_ristretto(ops: Ops, p: Message, q: Message, x: Array) -> Array:
    """LRN across channels in which every intermediate result is a minifloat.

    The sum over the neighbours runs along the channels: each square is added as it enters the window and subtracted as
    it leaves, and rounding after every step makes the order count.
    """
    shape = ops.shape(x)
    if len(shape) != 4:
        raise NetError(f"LRN needs N x C x H x W, got {len(shape)} axes")
    if q.precision != _MINIFLOAT or p.norm_region != _ACROSS_CHANNELS:
        raise NetError("LRNRistretto needs precision: MINIFLOAT and norm_region: ACROSS_CHANNELS")
    if p.local_size % 2 == 0:
        raise NetError(f"local_size must be odd (got {p.local_size})")

    fmt = _minifloat(q)

    def mini(value: Array) -> Array:
        return ops.quantize(value, fmt, "deterministic", "top")

    x = mini(x)
    square = mini(ops.mul(x, x))
    after = p.local_size // 2
    total: Array = None
    totals = []
    for head in range(shape[1] + after):
        if head < shape[1]:
            entering = ops.slice(square, 1, head, head + 1)
            total = mini(entering if total is None else ops.add(total, entering))
        if head >= p.local_size:
            total = mini(ops.sub(total, ops.slice(square, 1, head - p.local_size, head - p.local_size + 1)))
        if head >= after:
            totals.append(total)
    scale = mini(ops.add(mini(ops.mul(ops.concat(totals, 1), p.alpha / p.local_size)), p.k))
    return mini(ops.mul(x, mini(ops.power(scale, -p.beta))))
