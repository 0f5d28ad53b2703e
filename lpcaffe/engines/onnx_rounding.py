"""The profile `exact`: every number format in ONNX, bit for bit. round_fp is a model-local function,

    RoundFP       y = clip(x 2^ad, -N, N)       h = clip(y, -c, c)       q = trunc(y + h) 2^-ad
    RoundFPReLU   y = clip(x 2^ad, 0, N)                                 q = floor(y + c) 2^-ad

with c the float32 just below one half and N = 2^(bd+ad-1) - 1. For |y| >= c the sum is y +- c, which truncation turns
into y rounded with halves away from zero (one half itself for c would carry the float just below one half up to 1);
for smaller y it is 2 y, below 1, and truncation gives 0. Truncation is a cast to int32 and back, so that -0.0 cannot
come out. (DequantizeLinear would be one operator less, but onnxruntime takes it for that of a quantized network.) The
second one is a RoundFP and the ReLU after it, in three operators less.

onnxruntime makes the first multiplication and the first clip part of the convolution before them.

Constants are rounded by the numpy engine when the graph is made. NaN, which round_fp passes on, has no integer: what
comes out for it is the runtime's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from lpcaffe.engines.channels import aligned, name_of
from lpcaffe.engines.onnx_elementwise import BELOW_HALF
from lpcaffe.engines.onnx_engine import OPSET, Array, Node, OnnxEngine, Symbol
from lpcaffe.engines.onnx_formats import FORMATS
from lpcaffe.errors import NetError
from lpcaffe.numbers import NumberFormat, QFormat

DOMAIN = "lpcaffe"
_FLOAT, _INT32 = 1, 6  # TensorProto.DataType


def exact(graph: OnnxEngine, x: Array, fmt: NumberFormat, scheme: str, site: int | str) -> Any:
    """RoundFP for Qm.f, operators for the other formats; constants are rounded at once.

    Raises NetError for a scheme that is not deterministic, and for a format that operators do not give exactly.
    """
    if not isinstance(x, Symbol):
        return graph.numpy.quantize(x, fmt, scheme, site)
    check_scheme(scheme)
    if isinstance(fmt, QFormat):
        return round_fp(graph, x, fmt)
    if type(fmt) not in FORMATS:
        raise NetError(f"no operators of ONNX give {name_of(fmt)} exactly", hint="the numpy engine computes it")
    return FORMATS[type(fmt)](graph, x, aligned(fmt, x.shape, site))


def check_scheme(scheme: str) -> None:
    """Raise NetError for a rounding scheme that no graph computes."""
    if scheme != "deterministic":
        raise NetError(f"an ONNX graph cannot round {scheme}", hint="the numpy engine does")


def round_fp(graph: OnnxEngine, x: Symbol, fmt: QFormat) -> Any:
    """A call of the model-local function RoundFP."""
    limit = 2.0 ** (fmt.width - 1) - 1
    return graph.node("RoundFP", [x], x.shape, domain=DOMAIN, scale=2.0**fmt.ad, limit=limit, step=fmt.step)


def join_relu(nodes: Sequence[Node], kept: Collection[Symbol]) -> list[Node]:
    """The nodes with each RoundFP that only a Relu reads, and that is not among the `kept`, joined with it."""
    readers = Counter(value for node in nodes for value in node.inputs if isinstance(value, Symbol))
    rounding = {node.outputs[0]: node for node in nodes if (node.domain, node.operator) == (DOMAIN, "RoundFP")}
    joined: list[Node] = []
    for node in nodes:
        before = rounding.get(node.inputs[0]) if node.operator == "Relu" else None  # type: ignore[arg-type]
        if before is not None and readers[before.outputs[0]] == 1 and before.outputs[0] not in kept:
            joined.remove(before)
            node = replace(before, operator="RoundFPReLU", outputs=node.outputs)
        joined.append(node)
    return joined


def functions(names: Collection[str]) -> list[Any]:
    """The FunctionProtos that nodes of these operators call: NAME(x; scale, limit, step)."""
    from onnx import AttributeProto, helper

    def attribute(name: str) -> Any:
        node = helper.make_node("Constant", [], [name])
        node.attribute.append(AttributeProto(name="value_float", ref_attr_name=name, type=AttributeProto.FLOAT))
        return node

    def constant(name: str, value: float) -> Any:
        return helper.make_node("Constant", [], [name], value_float=value)

    half = float(BELOW_HALF)
    given = [attribute("scale"), attribute("limit"), attribute("step"), constant("half", half)]
    scaled = helper.make_node("Mul", ["x", "scale"], ["scaled"])
    bodies = {
        "RoundFP": [
            constant("minus_half", -half),
            helper.make_node("Neg", ["limit"], ["minus_limit"]),
            scaled,
            helper.make_node("Clip", ["scaled", "minus_limit", "limit"], ["y"]),
            helper.make_node("Clip", ["y", "minus_half", "half"], ["h"]),
            helper.make_node("Add", ["y", "h"], ["outward"]),
            helper.make_node("Cast", ["outward"], ["code"], to=_INT32),
            helper.make_node("Cast", ["code"], ["whole"], to=_FLOAT),
            helper.make_node("Mul", ["whole", "step"], ["q"]),
        ],
        "RoundFPReLU": [
            constant("zero", 0.0),
            scaled,
            helper.make_node("Clip", ["scaled", "zero", "limit"], ["y"]),
            helper.make_node("Add", ["y", "half"], ["raised"]),
            helper.make_node("Floor", ["raised"], ["whole"]),
            helper.make_node("Mul", ["whole", "step"], ["q"]),
        ],
    }
    opset = [helper.make_opsetid("", OPSET)]
    return [
        helper.make_function(DOMAIN, name, ["x"], ["q"], given + body, opset, ["scale", "limit", "step"])
        for name, body in bodies.items()
        if name in names
    ]
