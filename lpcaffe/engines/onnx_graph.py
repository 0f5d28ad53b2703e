"""A network as an ONNX graph: the layers run on the onnx engine, and its values get the names that Caffe gives them.

A blob's last version has the blob's name, an earlier one BLOB@LAYER, as in the results of `run`; only an input that is
written over in place, or rounded, keeps its name, and its last version is BLOB@LAYER. Where another blob has that very
name, it is BLOB@LAYER_2. What a layer computes in between is called LAYER/OPERATOR. The batch is dynamic when the graph
made for one more image is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcaffe.engines import onnx_boxes, onnx_elementwise, onnx_windows  # noqa: F401  (importing registers emitters)
from lpcaffe.engines.forward import check_executable, run_layers
from lpcaffe.engines.onnx_engine import Node, OnnxEngine, Profile, Symbol
from lpcaffe.engines.onnx_rounding import exact, join_relu
from lpcaffe.engines.parameters import Parameters, bind_parameters
from lpcaffe.errors import NetError, located
from lpcaffe.layers import LAYERS
from lpcaffe.layers.registry import Shape
from lpcaffe.net import Layer, Net
from lpcaffe.numbers import NumberFormat


@dataclass(frozen=True)
class Graph:
    """Nodes in order, what goes in and what comes out. `dims` are the dimensions of each symbol by name.

    `outputs` are the tensors asked for, each with its symbol. A dimension is a number, or a name where it depends on
    the number of images.
    """

    name: str
    inputs: Sequence[Symbol]
    outputs: Mapping[str, Symbol]
    nodes: Sequence[Node]
    dims: Mapping[str, tuple[int | str, ...]]

    @property
    def dynamic(self) -> bool:
        """Whether the number of images is open."""
        return any(isinstance(dim, str) for symbol in self.inputs for dim in self.dims[symbol.name])


def emit(
    net: Net,
    *,
    taps: Collection[str] | None = None,
    inputs: Mapping[str, Shape] | None = None,
    profile: Profile = exact,
    constant_formats: Mapping[tuple[str, int], tuple[NumberFormat, str]] | None = None,
) -> Graph:
    """The graph of a network with its weights.

    `taps` are the tensors to come out (default: the output blobs); `inputs` replaces the shapes of the file; `profile`
    decides what quantize becomes; `constant_formats` (by layer and index of the blob) are those of weights that a plan
    of the plain dialect rounds. Raises as `check_executable`, `check_graph` and `bind_parameters` do.
    """
    shapes = check_executable(net, inputs)
    check_graph(net)
    parameters = bind_parameters(net, shapes)
    wanted = [net.last_versions[blob] for blob in net.outputs] if taps is None else list(taps)
    given = {raw: shapes.blobs[raw] or () for raw in net.inputs}

    def engine() -> OnnxEngine:
        return OnnxEngine(profile, constant_formats=constant_formats or {})

    graph = _emit(net, given, parameters, wanted, engine())
    more = {raw: (shape[0] + 1, *shape[1:]) for raw, shape in given.items() if shape}
    try:
        check_executable(net, more)
        other = _emit(net, more, parameters, wanted, engine())
    except NetError:
        return graph
    return dataclasses.replace(graph, dims=_open_dims(graph, other)) if _same(graph, other) else graph


def check_graph(net: Net) -> None:
    """Raise NetError for a layer of a known type that no graph can hold.

    NonMaxSuppression has no threshold that shrinks (eta < 1). How many rows DetectionOutput gives is known only when
    the graph runs, so the dimensions of what a layer makes of them could not be said.
    """
    rows: set[str] = set()
    for layer in net.layers:
        with located(layer=layer.name):
            if layer.type in LAYERS and LAYERS[layer.type].numpy_only:
                raise NetError(f"{layer.type} cannot be part of an ONNX graph", hint="the numpy engine runs it")
            if layer.tops and not rows.isdisjoint(layer.bottoms):
                problem = "an ONNX graph cannot go on after DetectionOutput, whose number of rows the data decide"
                raise NetError(problem, hint="the numpy engine does")
            if layer.type == "DetectionOutput":
                rows.update(layer.tops)
                eta = layer.message.detection_output_param.nms_param.eta
                if eta < 1:
                    problem = f"an ONNX graph cannot shrink the overlap threshold by eta {eta:g}"
                    raise NetError(problem, hint="the numpy engine does")


def _emit(
    net: Net,
    shapes: Mapping[str, Shape],
    parameters: Parameters,
    wanted: Sequence[str],
    ops: OnnxEngine,
) -> Graph:
    values: dict[str, Any] = {
        tensor: Symbol(shapes[blob], blob)
        for layer in net.layers
        if layer.type == "Input"
        for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True)
    }
    inputs = list(values.values())
    # An input keeps its name, for feeding it, even if a layer writes over it in place.
    last = {tensor: blob for blob, tensor in net.last_versions.items() if tensor in values or blob not in net.inputs}
    blobs = {*last.values(), *(symbol.name for symbol in inputs)}
    names = {
        tensor: last[tensor] if tensor in last else _unused(tensor, blobs)
        for layer in net.layers
        for tensor in layer.tops
    }
    kept = set(wanted)

    def name_tops(layer: Layer, bottoms: Sequence[Any], tops: Sequence[Any]) -> None:
        if layer.type == "Input":
            for tensor, value in zip(layer.tops, tops, strict=True):
                if value not in inputs:
                    value.name = _unused(tensor, blobs)
            return
        for position, (tensor, value) in enumerate(zip(layer.tops, tops, strict=True)):
            fresh = isinstance(value, Symbol) and not value.name
            if fresh or _stands_in(layer, position, value, inputs, kept):
                value.name = names[tensor]
            elif isinstance(value, Symbol) or tensor in kept:
                values[tensor] = ops.for_layer(layer.name).node("Identity", [value], tuple(value.shape))
                values[tensor].name = names[tensor]

    run_layers(ops, net.layers, values, parameters, roundings=net.roundings, visit=name_tops)
    outputs = {}
    for tensor in wanted:
        if values[tensor] in inputs:  # an output that no layer computes still needs a node
            values[tensor] = ops.for_layer("output").node("Identity", [values[tensor]], values[tensor].shape)
        outputs[tensor] = values[tensor]
    nodes = join_relu(ops.nodes, list(outputs.values()))
    taken = {symbol.name for symbol in values.values() if isinstance(symbol, Symbol)}
    for node in nodes:
        for symbol in node.outputs:
            symbol.name = symbol.name or _unused(f"{node.layer}/{node.operator}", taken)
    symbols = [*inputs, *(symbol for node in nodes for symbol in node.outputs)]
    dims = {symbol.name: _dims(symbol) for symbol in symbols}
    return Graph(net.name, inputs, outputs, nodes, dims)


def _dims(symbol: Symbol) -> tuple[int | str, ...]:
    return tuple(f"{symbol.name}.{i}" if i in symbol.open_axes else size for i, size in enumerate(symbol.shape))


def _stands_in(layer: Layer, position: int, value: Any, inputs: Sequence[Symbol], kept: Collection[str]) -> bool:
    """Whether a layer that does nothing in place (Dropout) passes its bottom's symbol on under the top's name."""
    if not isinstance(value, Symbol) or value in inputs or position >= len(layer.bottoms):
        return False
    return layer.raw_bottoms[position] == layer.raw_tops[position] and layer.bottoms[position] not in kept


def _unused(name: str, taken: set[str]) -> str:
    count = 1
    numbered = name
    while numbered in taken:
        count += 1
        numbered = f"{name}_{count}"
    taken.add(numbered)
    return numbered


def _same(one: Graph, other: Graph) -> bool:
    """Whether two graphs are the same but for the shapes of their values."""
    if len(one.nodes) != len(other.nodes):
        return False
    return all(
        (a.operator, a.domain, a.attributes, [s.name for s in a.outputs])
        == (b.operator, b.domain, b.attributes, [s.name for s in b.outputs])
        and len(a.inputs) == len(b.inputs)
        and all(map(_same_input, a.inputs, b.inputs))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )


def _same_input(a: Symbol | np.ndarray | None, b: Symbol | np.ndarray | None) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same_memory = a.__array_interface__ == b.__array_interface__
        return same_memory or (a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    return getattr(a, "name", a) is getattr(b, "name", b) or getattr(a, "name", 0) == getattr(b, "name", 1)


def _open_dims(one: Graph, other: Graph) -> dict[str, tuple[int | str, ...]]:
    """Dimensions that differ get a name: N for the number of images, else one of their own."""
    images = tuple(graph.dims[graph.inputs[0].name][0] for graph in (one, other)) if one.inputs else ()

    def dim(name: str, axis: int, size: Any, grown: Any) -> int | str:
        if size == grown:
            return size  # type: ignore[no-any-return]
        return "N" if (size, grown) == images else f"{name}.{axis}"

    return {
        name: tuple(dim(name, i, *pair) for i, pair in enumerate(zip(dims, other.dims[name], strict=True)))
        for name, dims in one.dims.items()
    }
