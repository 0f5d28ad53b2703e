"""What a number format becomes in each profile of the ONNX export.

float   nothing: for networks that do not round
exact   the bits of the format: RoundFP, a model-local function, for Qm.f, standard operators for the others
qdq     integers: codes of weights in the smallest integer type and a DequantizeLinear; QuantizeLinear and
        DequantizeLinear for activations, clipped to the format's range first. Ties of activations go to even, because
        QuantizeLinear's do: what integer hardware behind ONNX computes, not what ADaPTION computes
qonnx   QONNX's IntQuant, with the width of the codes, scale and zero point. Its rounding mode HALF_UP is away from zero

    format                  qdq                                              qonnx
    Qm.f                    int4 to int32, scale 2^-ad                       signed, narrow (symmetric), HALF_UP
    Qm.f of channels        the same, with a scale for each channel          the same
    affine                  int4 to int16, or uint4 to uint16; the zero      ROUND for ties=even, HALF_UP for away; one
                            point whole, ties=even or away                   width for all channels
    e4m3fn, e5m2            float8                                           -
    others                  -                                                -
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lpcaffe.engines.channels import aligned, name_of
from lpcaffe.engines.onnx_engine import Array, OnnxEngine, Profile, Symbol
from lpcaffe.engines.onnx_formats import bounded, single
from lpcaffe.engines.onnx_rounding import check_scheme, exact
from lpcaffe.errors import NetError
from lpcaffe.layers.registry import Shape
from lpcaffe.numbers import Affine, ChannelQFormat, NumberFormat, OcpFloat, QFormat

QONNX = "qonnx.custom_op.general"
_EXACT = "use the profile exact"
_FLOAT8 = {"e4m3fn": "float8_e4m3fn", "e5m2": "float8_e5m2"}


@dataclass(frozen=True)
class _Grid:
    """Integer codes from `low` to `high`, and (code - zero) scale: single values or arrays that broadcast.

    `ties` are those of affine formats; `narrow` leaves out the code -2^(width - 1).
    """

    width: int
    scale: np.ndarray
    zero: np.ndarray
    low: np.ndarray
    high: np.ndarray
    signed: bool
    ties: str
    narrow: bool

    @property
    def limits(self) -> tuple[np.ndarray, np.ndarray]:
        """The smallest and the largest value."""
        return single((self.low - self.zero) * self.scale), single((self.high - self.zero) * self.scale)


def _grid(fmt: NumberFormat) -> _Grid | None:
    """The grid of a format that has integer codes; None for the others."""
    if isinstance(fmt, Affine):
        scale, zero, low, high = (np.asarray(v, np.float64) for v in (fmt.scale, fmt.zero, fmt.code_min, fmt.code_max))
        ties = "away" if fmt.ties == "up" and not fmt.signed else fmt.ties
        return _Grid(fmt.width, scale, zero, low, high, fmt.signed, ties, False)
    if isinstance(fmt, QFormat | ChannelQFormat):
        limit = np.asarray(fmt.code_max, np.float64)
        scale = np.ldexp(1.0, -np.asarray(fmt.ad, np.intc))
        return _Grid(fmt.width, scale, np.zeros(()), -limit, limit, True, "away", True)
    return None


def storage(width: int, signed: bool) -> np.dtype[Any]:
    """The smallest integer type of ONNX that holds the codes of a format and that DequantizeLinear reads."""
    import ml_dtypes

    small = (ml_dtypes.int4, np.int8, np.int16) if signed else (ml_dtypes.uint4, np.uint8, np.uint16)
    kinds: list[tuple[int, npt.DTypeLike]] = list(zip((4, 8, 16), small, strict=True))
    return next(np.dtype(kind) for bits, kind in [*kinds, (32, np.int32)] if width <= bits)


def qdq(graph: OnnxEngine, x: Array, fmt: NumberFormat, scheme: str, site: int | str) -> Any:
    """Integers on the way: QuantizeLinear for activations, integer initialisers for weights, DequantizeLinear."""
    if isinstance(x, Symbol):
        check_scheme(scheme)
    if isinstance(fmt, OcpFloat) and fmt.name in _FLOAT8:
        return _float8(graph, x, fmt, scheme, site)
    own = aligned(fmt, x.shape, site)
    grid = _grid(own)
    if grid is None:
        raise NetError(f"QuantizeLinear has no {name_of(fmt)}", hint=_EXACT)
    if not isinstance(x, Symbol):
        kind = storage(grid.width, grid.signed)
        scale, zero, axis = _along_axis(grid, kind, x.shape, name_of(fmt))
        codes = own.codes(graph.numpy.quantize(x, fmt, scheme, site)).astype(kind)
        return _dequantized(graph, codes, scale, zero, axis)
    if grid.width > 16:
        raise NetError(f"QuantizeLinear has at most 16 bits, {name_of(fmt)} has {grid.width}", hint=_EXACT)
    if grid.ties not in ("even", "away"):
        raise NetError(f"QuantizeLinear takes ties to even, {name_of(fmt)} takes them {grid.ties}", hint=_EXACT)
    # Not int4: onnxruntime cannot load a Clip before a QuantizeLinear of 4 bits, and the Clip says the width.
    kind = storage(max(grid.width, 8), grid.signed)
    scale, zero, axis = _along_axis(grid, kind, x.shape, name_of(fmt))
    clipped = bounded(graph, x, *grid.limits)
    return _dequantized(graph, graph.node("QuantizeLinear", [clipped, scale, zero], x.shape, **axis), scale, zero, axis)


def _along_axis(
    grid: _Grid, kind: np.dtype[Any], shape: Shape, name: str
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Scale and zero point as QuantizeLinear takes them, and the attribute `axis` if they are vectors."""
    scale, zero = np.broadcast_arrays(single(grid.scale), grid.zero)
    codes = zero.astype(kind)
    if (codes.astype(np.float64) != zero).any():
        raise NetError(f"QuantizeLinear needs a zero point of {kind}, {name} has another", hint=_EXACT)
    if kind == np.int32 and zero.any():
        raise NetError(f"DequantizeLinear has no zero point for {kind}, {name} has one", hint=_EXACT)
    axes = [len(shape) - scale.ndim + axis for axis, size in enumerate(scale.shape) if size > 1]
    if len(axes) > 1:
        raise NetError(f"QuantizeLinear has scales along one axis, {name} along {len(axes)}", hint=_EXACT)
    if not axes:
        return scale.reshape(()), codes.reshape(()), {}
    return scale.reshape(-1), codes.reshape(-1), {"axis": axes[0]}


def _dequantized(graph: OnnxEngine, codes: Array, scale: np.ndarray, zero: np.ndarray, axis: dict[str, Any]) -> Any:
    """DequantizeLinear; a zero point of 0 is left out."""
    point = [zero] if zero.astype(bool).any() else []
    return graph.node("DequantizeLinear", [codes, scale, *point], tuple(codes.shape), **axis)


def _float8(graph: OnnxEngine, x: Array, fmt: OcpFloat, scheme: str, site: int | str) -> Any:
    """Floats of 8 bits, which QuantizeLinear saturates and rounds with ties to even, as the format does."""
    import ml_dtypes

    kind, one = np.dtype(getattr(ml_dtypes, _FLOAT8[fmt.name])), np.float32(1)
    if isinstance(x, Symbol):
        codes = graph.node("QuantizeLinear", [x, one, np.zeros((), kind)], x.shape)
    else:
        codes = graph.numpy.quantize(x, fmt, scheme, site).astype(kind)
    return graph.node("DequantizeLinear", [codes, one], x.shape)


def qonnx(graph: OnnxEngine, x: Array, fmt: NumberFormat, scheme: str, site: int | str) -> Any:
    """IntQuant on activations, and on weights, which are rounded already, so that a reader finds their width."""
    if isinstance(x, Symbol):
        check_scheme(scheme)
    grid = _grid(aligned(fmt, x.shape, site))
    if grid is None:
        raise NetError(f"IntQuant has no {name_of(fmt)}", hint=_EXACT)
    if grid.low.ndim:
        raise NetError(f"IntQuant has one width for all channels, {name_of(fmt)} has several", hint=_EXACT)
    if grid.width < 2:
        raise NetError(f"QONNX takes one bit for +-1, {name_of(fmt)} has other values", hint=_EXACT)
    if grid.ties not in _MODES:
        raise NetError(f"IntQuant takes ties to even or from zero, {name_of(fmt)} takes them {grid.ties}", hint=_EXACT)
    if not isinstance(x, Symbol):
        x = graph.numpy.quantize(x, fmt, scheme, site)
    scale, zero = (_full_rank(single(value), len(x.shape)) for value in (grid.scale, grid.zero))
    inputs = [x, scale, zero, np.float32(grid.width)]
    attributes = {"signed": int(grid.signed), "narrow": int(grid.narrow), "rounding_mode": _MODES[grid.ties]}
    return graph.node("IntQuant", inputs, tuple(x.shape), domain=QONNX, **attributes)


# IntQuant's rounding modes for ties.
_MODES = {"even": "ROUND", "away": "HALF_UP"}


def _full_rank(value: np.ndarray, rank: int) -> np.ndarray:
    """A vector with as many axes as the array that it is for; a single value as it is."""
    return value.reshape((1,) * (rank - value.ndim) + value.shape) if value.ndim else value


# `exact` serves `float` too: a network that does not round never calls it.
PROFILES: dict[str, Profile] = {"float": exact, "exact": exact, "qdq": qdq, "qonnx": qonnx}
