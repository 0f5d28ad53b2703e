"""What round_fp becomes in each profile of the ONNX export.

float   nothing: for networks that do not round
exact   RoundFP, a model-local function of standard operators: the bits of round_fp; weights are rounded already
qdq     integers: codes of weights as int4, int8, int16 or int32 and a DequantizeLinear; QuantizeLinear and
        DequantizeLinear for activations, clipped to the symmetric range first. Ties of activations go to even, because
        QuantizeLinear's do: what integer hardware behind ONNX computes, not what ADaPTION computes
qonnx   QONNX's IntQuant: width bd + ad, signed, narrow (symmetric), scale 2^-ad, rounding mode HALF_UP, which is away
        from zero there
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lpcaffe.engines.onnx_engine import Array, OnnxEngine, Rounding, Symbol
from lpcaffe.engines.onnx_rounding import exact
from lpcaffe.errors import NetError
from lpcaffe.numbers.qformat import QFormat

QONNX = "qonnx.custom_op.general"


def storage(width: int) -> np.dtype[Any]:
    """The smallest integer type of ONNX that holds the codes of a format."""
    import ml_dtypes

    kinds: list[tuple[int, npt.DTypeLike]] = [(4, ml_dtypes.int4), (8, np.int8), (16, np.int16), (32, np.int32)]
    return next(np.dtype(kind) for bits, kind in kinds if width <= bits)


def qdq(graph: OnnxEngine, x: Array, fmt: QFormat, scheme: str, slot: int | str) -> Any:
    """Integers on the way: QuantizeLinear for activations, integer initialisers for weights, DequantizeLinear."""
    step = np.float32(fmt.step)
    if isinstance(x, Symbol):
        _deterministic(scheme)
        if fmt.width > 16:
            raise NetError(f"QuantizeLinear has at most 16 bits, {fmt} has {fmt.width}", hint="use the profile exact")
        # Not int4: onnxruntime cannot load a Clip before a QuantizeLinear of 4 bits, and the Clip says the width.
        zero = np.zeros((), storage(max(fmt.width, 8)))
        limits = [np.float32(fmt.min), np.float32(fmt.max)]
        codes = graph.node("QuantizeLinear", [graph.node("Clip", [x, *limits], x.shape), step, zero], x.shape)
    else:
        rounded = graph.numpy.round_fp(x, fmt, scheme, slot)
        codes = (rounded * np.float32(2.0**fmt.ad)).astype(storage(fmt.width))
    return graph.node("DequantizeLinear", [codes, step], x.shape)


def qonnx(graph: OnnxEngine, x: Array, fmt: QFormat, scheme: str, slot: int | str) -> Any:
    """IntQuant on activations, and on weights, which are rounded already, so that a reader finds their width."""
    if fmt.width < 2:
        raise NetError(f"QONNX takes one bit for +-1, {fmt} holds 0 alone", hint="use the profile exact")
    if isinstance(x, Symbol):
        _deterministic(scheme)
    else:
        x = graph.numpy.round_fp(x, fmt, scheme, slot)
    inputs = [x, np.float32(fmt.step), np.float32(0), np.float32(fmt.width)]
    shape = tuple(x.shape)
    return graph.node("IntQuant", inputs, shape, domain=QONNX, signed=1, narrow=1, rounding_mode="HALF_UP")


def _deterministic(scheme: str) -> None:
    if scheme != "deterministic":
        raise NetError(f"an ONNX graph cannot round {scheme}", hint="the numpy engine does")


# `exact` serves `float` too: a network that does not round never calls it.
PROFILES: dict[str, Rounding] = {"float": exact, "exact": exact, "qdq": qdq, "qonnx": qonnx}
