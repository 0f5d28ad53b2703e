"""The onnx engine: layers run on names instead of values, and what they compute becomes the nodes of an ONNX graph.

An array is a `Symbol` (the output of a node, or an input of the graph) or an ndarray (a constant). A primitive whose
arguments are all constants is the numpy engine's, so what depends on weights alone is computed once, here; otherwise
the emitter of that name adds nodes. The shapes engine gives the shapes.

Operators are those of opset OPSET. Constants stay ndarrays until `lpcaffe.engines.onnx_model` writes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lpcaffe.engines.numpy_engine import NumpyEngine
from lpcaffe.engines.parameters import Parameters
from lpcaffe.engines.shapes import ShapesEngine
from lpcaffe.errors import NetError
from lpcaffe.layers.registry import Shape
from lpcaffe.numbers import NumberFormat

OPSET = 21

# A Symbol or an ndarray; floats stand for single values.
Array = Any

# What quantize becomes: (graph, x, format, scheme, site), as `Primitives.quantize`. Each profile of the export is one.
Profile = Callable[["OnnxEngine", Array, NumberFormat, str, "int | str"], Array]


class Symbol:
    """A value that the graph computes. Its name is settled when the layer that makes it is done.

    `open_axes` are those whose size is known only when the graph runs, whatever `shape` says.
    """

    def __init__(self, shape: Shape, name: str = "") -> None:
        self.shape = shape
        self.name = name
        self.open_axes: tuple[int, ...] = ()


@dataclass
class Node:
    """One operator. An input that is None is left out; `domain` is empty for ONNX's own operators."""

    operator: str
    inputs: list[Symbol | np.ndarray | None]
    outputs: list[Symbol]
    attributes: dict[str, Any]
    layer: str
    domain: str = ""


@dataclass(frozen=True)
class OnnxEngine:
    """The primitives of the layers as emitters of nodes of one layer. `profile` decides what quantize becomes."""

    profile: Profile
    numpy: NumpyEngine = field(default_factory=NumpyEngine)
    layer: str = ""
    # Those of all layers: the engines that `for_layer` makes add to one list.
    nodes: list[Node] = field(default_factory=list)
    # Formats of blobs that no layer says, by layer and index, with the scheme: those of a plan of the plain dialect.
    constant_formats: Mapping[tuple[str, int], tuple[NumberFormat, str]] = field(default_factory=dict)

    def for_layer(self, layer: str, parameters: Parameters | None = None) -> OnnxEngine:
        """The engine for a layer, whose name its nodes get."""
        return dataclasses.replace(self, layer=layer, numpy=self.numpy.for_layer(layer, parameters))

    def constant(self, index: int, values: np.ndarray) -> Array:
        """A blob of weights as float32, rounded where a plan rounds it, at the site that an LP layer would have."""
        constant = self.numpy.constant(index, values)
        planned = self.constant_formats.get((self.layer, index))
        return constant if planned is None else self.quantize(constant, *planned, 2 * index)

    def shape(self, x: Array) -> Shape:
        """Dimensions of x."""
        return tuple(x.shape)

    def quantize(self, x: Array, fmt: NumberFormat, scheme: str, site: int | str) -> Array:
        """What the profile makes of it. FormatError for a format that float32 does not hold."""
        fmt.check_dtype(np.dtype(np.float32))
        return self.profile(self, x, fmt, scheme, site)

    def node(
        self, operator: str, inputs: Sequence[Array | None], shape: Any, *, domain: str = "", **attributes: Any
    ) -> Any:
        """Add an operator. One shape gives one Symbol; a list of shapes a list of them."""
        several = isinstance(shape, list)
        outputs = [Symbol(one) for one in (shape if several else [shape])]
        arrays = [np.float32(x) if isinstance(x, (int, float)) else x for x in inputs]
        values = [np.asarray(x) if isinstance(x, np.generic) else x for x in arrays]
        self.nodes.append(Node(operator, values, outputs, attributes, self.layer, domain))
        return outputs if several else outputs[0]

    def __getattr__(self, primitive: str) -> Callable[..., Any]:
        if primitive.startswith("__"):
            raise AttributeError(primitive)

        def apply(*args: Any, **options: Any) -> Any:
            if not any(isinstance(arg, Symbol) for arg in _flat([*args, *options.values()])):
                return getattr(self.numpy, primitive)(*args, **options)
            if primitive not in EMITTERS:
                raise NetError(f"ONNX has nothing to say {primitive} with", hint="the numpy engine runs the layer")
            shape = getattr(ShapesEngine(), primitive)(*map(_shape_of, args), **options)
            return EMITTERS[primitive](self, shape, *args, **options)

        return apply


EMITTERS: dict[str, Callable[..., Any]] = {}


def emitter(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register what a primitive becomes: `f(graph, shape, *arguments of the primitive)`, of the primitive's name."""
    EMITTERS[function.__name__.rstrip("_")] = function
    return function


def _flat(args: Sequence[Any]) -> list[Any]:
    return [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else [arg])]


def _shape_of(arg: Any) -> Any:
    """An argument as the shapes engine takes it."""
    if isinstance(arg, (Symbol, np.ndarray)):
        return tuple(arg.shape)
    if isinstance(arg, (list, tuple)) and any(isinstance(item, (Symbol, np.ndarray)) for item in arg):
        return [_shape_of(item) for item in arg]
    return arg


def integers(*values: int) -> np.ndarray:
    """Axes, sizes and the like."""
    return np.array(values, np.int64)
