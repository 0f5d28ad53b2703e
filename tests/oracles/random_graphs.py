"""Random small networks, as prototxt text: any property of all networks can be tested on some of them.

A graph grows step by step: each step reads a blob at random, or two, and adds a few layers. Every kind of step is as
likely as any other. A seed gives the same text for ever, as long as the steps do.

    conv     Convolution: kernels that are not square, pads, strides, dilation, groups, with and without bias
    affine   BatchNorm, Scale and Bias in any order
    act      ReLU, leaky ReLU or PReLU
    pool     MAX or AVE pooling
    eltwise  SUM with coefficients, PROD or MAX of a blob and a convolution of it
    concat   two blobs of the same height and width along the channels

BatchNorm, Scale, Bias and activations are in place or not, in place only where no layer has read the blob yet. One or
two inputs; at the end an InnerProduct, another after it, and a Softmax.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

Shape = tuple[int, int, int]  # channels, height, width


@dataclass
class _Graph:
    """What there is so far: the text of the layers, the shape of each blob, and the blobs that a layer has read."""

    rng: np.random.Generator
    layers: list[str] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def chance(self, likely: float = 0.5) -> bool:
        return bool(self.rng.random() < likely)

    def one_of(self, *values):
        return values[self.rng.integers(len(values))]

    def add(self, kind: str, bottoms: list[str], shape: Shape, text: str = "", *, in_place: bool = False) -> str:
        """Add a layer with one top; returns the top."""
        name = f"{kind.lower()}{len(self.layers)}"
        top = bottoms[0] if in_place and bottoms[0] not in self.read else name
        ends = "".join(f'bottom: "{bottom}" ' for bottom in bottoms) + f'top: "{top}"'
        self.layers.append(f'layer {{ name: "{name}" type: "{kind}" {ends} {text} }}')
        if top == name:
            self.read.update(bottoms)
        self.shapes[top] = shape
        return top


def random_graph(seed: int, steps: int = 7) -> str:
    """The text of a network with an input "data" of 2 images, and sometimes another, "more"."""
    graph = _Graph(np.random.default_rng(seed))
    shape = (graph.one_of(3, 4), graph.one_of(9, 10), graph.one_of(7, 8))
    for name in ["data", "more"][: 1 + graph.chance(0.3)]:
        dims = " ".join(f"dim: {dim}" for dim in (2, *shape))
        graph.layers.append(
            f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}'
        )
        graph.shapes[name] = shape
        graph.read.add(name)
    for blob in list(graph.shapes):
        _conv(graph, blob)
    for _ in range(steps):
        graph.one_of(*_STEPS)(graph, graph.one_of(*list(graph.shapes)[-3:]))
    _answer(graph, list(graph.shapes)[-1])
    return "\n".join(graph.layers)


def _conv(graph: _Graph, bottom: str) -> None:
    channels, *sizes = graph.shapes[bottom]
    group = graph.one_of(*(group for group in (1, 2, 3) if channels % group == 0))
    outputs = group * graph.one_of(*(count for count in (2, 3, 5) if group * count != channels))
    kernel = [graph.one_of(*range(1, min(size, 3) + 1)) for size in sizes]
    pad, stride = [graph.one_of(0, 1), graph.one_of(0, 1)], graph.one_of(1, 1, 2)
    after = tuple((size + 2 * p - k) // stride + 1 for size, p, k in zip(sizes, pad, kernel, strict=True))
    text = f"num_output: {outputs} kernel_h: {kernel[0]} kernel_w: {kernel[1]} pad_h: {pad[0]} pad_w: {pad[1]}"
    text += f" stride: {stride} group: {group}" + (" bias_term: false" if graph.chance() else "")
    top = graph.add("Convolution", [bottom], (outputs, *after), f"convolution_param {{ {text} }}")
    if graph.chance():
        _affine(graph, top)


def _same_size(graph: _Graph, bottom: str) -> str:
    """A convolution of the blob that has its shape."""
    shape = graph.shapes[bottom]
    text = f"num_output: {shape[0]} kernel_size: 3 pad: 2 dilation: 2"
    return graph.add("Convolution", [bottom], shape, f"convolution_param {{ {text} }}")


def _affine(graph: _Graph, bottom: str) -> None:
    kinds = [("BatchNorm", ""), ("Scale", "scale_param { bias_term: true }"), ("Scale", ""), ("Bias", "")]
    for i in graph.rng.permutation(len(kinds))[: graph.one_of(1, 2, 3)]:
        kind, text = kinds[i]
        bottom = graph.add(kind, [bottom], graph.shapes[bottom], text, in_place=graph.chance())


def _act(graph: _Graph, bottom: str) -> None:
    kind, text = graph.one_of(("ReLU", ""), ("ReLU", "relu_param { negative_slope: 0.125 }"), ("PReLU", ""))
    graph.add(kind, [bottom], graph.shapes[bottom], text, in_place=graph.chance(0.7))


def _pool(graph: _Graph, bottom: str) -> None:
    channels, *sizes = graph.shapes[bottom]
    if min(sizes) < 2:
        return
    stride = graph.one_of(1, 2)
    after = (-(-(size - 2) // stride) + 1 for size in sizes)  # Caffe rounds up
    text = f"pooling_param {{ pool: {graph.one_of('MAX', 'AVE')} kernel_size: 2 stride: {stride} }}"
    graph.add("Pooling", [bottom], (channels, *after), text)


def _eltwise(graph: _Graph, bottom: str) -> None:
    text = graph.one_of(
        "",
        "eltwise_param { coeff: 0.5 coeff: -1.5 }",
        *(f"eltwise_param {{ operation: {kind} }}" for kind in ("PROD", "MAX")),
    )
    graph.add("Eltwise", [bottom, _same_size(graph, bottom)], graph.shapes[bottom], text)


def _concat(graph: _Graph, bottom: str) -> None:
    channels, *sizes = graph.shapes[bottom]
    others = [blob for blob, shape in graph.shapes.items() if list(shape[1:]) == sizes and blob != bottom]
    other = graph.one_of(*others) if others else _same_size(graph, bottom)
    graph.add("Concat", [other, bottom], (graph.shapes[other][0] + channels, *sizes))


_STEPS: tuple[Callable[[_Graph, str], None], ...] = (_conv, _affine, _act, _pool, _eltwise, _concat)


def _answer(graph: _Graph, bottom: str) -> None:
    hidden = graph.add("InnerProduct", [bottom], (7, 1, 1), "inner_product_param { num_output: 7 }")
    if graph.chance():
        _affine(graph, hidden)
    text = "inner_product_param { num_output: 5 bias_term: false transpose: true }"
    graph.add("Softmax", [graph.add("InnerProduct", [list(graph.shapes)[-1]], (5, 1, 1), text)], (5, 1, 1))
