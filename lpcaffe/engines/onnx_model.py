"""A graph as a ModelProto: opset 21, weights as raw data.

protobuf cannot write a message of 2 GiB: beyond that, weights are for the caller to put elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from lpcaffe.engines.onnx_engine import OPSET, Symbol
from lpcaffe.engines.onnx_graph import Graph
from lpcaffe.engines.onnx_rounding import DOMAIN, functions
from lpcaffe.errors import NetError

IR_VERSION = 10
# More bytes of weights than this do not go into a message.
INLINE_LIMIT = (1 << 31) - (1 << 24)
_SMALL = 64


class Initializers:
    """The constants of a graph by name. Small equal ones share one; a big one is known by its memory."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = set(taken)
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}
        self._counts: dict[str, int] = {}

    def name(self, layer: str, values: np.ndarray) -> str:
        """The name of a constant, LAYER/NUMBER for one that is new."""
        if values.size <= _SMALL:
            key: Any = (values.dtype.str, values.shape, values.tobytes())
        else:
            interface = values.__array_interface__
            key = (interface["data"], values.strides, values.shape)
        if key not in self._known:
            number = self._counts.get(layer, 0)
            while f"{layer}/{number}" in self.taken:
                number += 1
            self._counts[layer] = number + 1
            self._known[key] = f"{layer}/{number}"
            self.taken.add(self._known[key])
            self.arrays[self._known[key]] = values
        return self._known[key]

    @property
    def nbytes(self) -> int:
        """Of all constants."""
        return sum(values.nbytes for values in self.arrays.values())


def build_model(
    graph: Graph, *, metadata: Mapping[str, str] | None = None, spill: Callable[[Any], None] | None = None
) -> Any:
    """The ModelProto of a graph.

    `spill` is called with each TensorProto of weights when they are too many for one message; it moves their bytes
    elsewhere. Raises NetError for such a graph when there is none.
    """
    from onnx import TensorProto, helper, numpy_helper

    constants = Initializers(set(graph.dims))
    nodes = []
    for node in graph.nodes:
        inputs = [_input_name(value, node.layer, constants) for value in node.inputs]
        while inputs and not inputs[-1]:
            inputs.pop()
        outputs = [symbol.name for symbol in node.outputs]
        options = {"name": outputs[0], "domain": node.domain or None, **node.attributes}
        nodes.append(helper.make_node(node.operator, inputs, outputs, **options))
    large = constants.nbytes > INLINE_LIMIT
    if large and spill is None:
        raise NetError(f"{constants.nbytes} bytes of weights are more than an ONNX model in memory can hold")
    tensors = []
    for name, values in constants.arrays.items():
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), name))
        if large and spill is not None and values.size > _SMALL:  # shapes and axes stay, for shape inference
            spill(tensors[-1])

    def info(symbol: Symbol) -> Any:
        return helper.make_tensor_value_info(symbol.name, TensorProto.FLOAT, graph.dims[symbol.name])

    proto = helper.make_graph(
        nodes,
        graph.name or "net",
        [info(symbol) for symbol in graph.inputs],
        [info(symbol) for symbol in graph.outputs.values()],
        tensors,
    )
    domains = sorted({node.domain for node in graph.nodes if node.domain})
    model = helper.make_model(
        proto,
        producer_name="lpcaffe",
        producer_version=version("lpcaffe"),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)],
        functions=functions({node.operator for node in graph.nodes if node.domain == DOMAIN}),
    )
    helper.set_model_props(model, dict(metadata or {}))
    return model


def _input_name(value: Symbol | np.ndarray | None, layer: str, constants: Initializers) -> str:
    if value is None:
        return ""
    return value.name if isinstance(value, Symbol) else constants.name(layer, value)
