"""A stretch of a network as a network of its own: the layers from one index to another, fed with what is live there.

A tensor is **live** at an index when a layer before the index makes it and one at or after the index reads it. A bottom
always means the blob's current version, so no two tensors that are live together have the same blob name, and the
messages of the layers need no change: a stretch begins with Input layers for the live tensors and continues as in the
file. Each Input layer has the name of the layer that made the tensor, so every tensor keeps its name, BLOB@LAYER.
A stretch rounds what its own layers write; what enters it is rounded already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from lpcaffe.formats.schema import Message
from lpcaffe.net.graph import Layer, Net, blob_of


def live(net: Net, index: int, *, wanted: Collection[str] = ()) -> tuple[str, ...]:
    """The tensors that are live before the layer of this index, in the order in which they are made.

    Those of `wanted` that are made before it count as read by whoever wants them.
    """
    return tuple(
        top
        for layer in net.layers[:index]
        for top in layer.tops
        if top in wanted or any(reader.index >= index for reader in net.readers[top])
    )


def segment(
    net: Net, start: int, stop: int | None = None, *, shapes: Mapping[str, Sequence[int] | None] | None = None
) -> Net:
    """The layers start .. stop - 1 (default: to the end) as a Net, with their weights.

    `shapes` are those of the tensors (`infer_shapes(net).tensors`); without them the Input layers have none, and
    whoever runs the segment says them. Layers are counted in the phase of `net`, which is the segment's too.
    """
    layers = net.layers[start:stop]
    read = {bottom for layer in layers for bottom in layer.bottoms}
    entering = [tensor for tensor in live(net, start) if tensor in read]
    message = type(net.message)()
    message.CopyFrom(net.message)
    del message.layer[:]
    for writer in net.layers[:start]:
        tops = [top for top in writer.tops if top in entering]
        if tops:
            own = message.layer.add(name=writer.name, type="Input")
            own.top.extend(blob_of(top, writer.name) for top in tops)
            known = [dims for top in tops if (dims := (shapes or {}).get(top)) is not None]
            if len(known) == len(tops):  # one shape would stand for all tops
                for dims in known:
                    own.input_param.shape.add(dim=dims)
    return _with_layers(net, message, layers)


def leading_to(net: Net, wanted: Collection[str]) -> Net:
    """The network without the layers on which none of the wanted tensors depends."""
    needed, kept = set(wanted), []
    for layer in reversed(net.layers):
        if needed.intersection(layer.tops):
            needed.update(layer.bottoms)
            kept.append(layer)
    message = type(net.message)()
    message.CopyFrom(net.message)
    del message.layer[:]
    return _with_layers(net, message, kept[::-1])


def _with_layers(net: Net, message: Message, layers: Sequence[Layer]) -> Net:
    message.layer.extend(layer.message for layer in layers)
    weights = net.weights
    if weights is not None:
        weights = {layer.name: weights[layer.name] for layer in layers if layer.name in weights}
    tops = {top for layer in layers for top in layer.tops}
    roundings = {tensor: rounding for tensor, rounding in net.roundings.items() if tensor in tops}
    return dataclasses.replace(net, message=message, weights=weights, roundings=roundings)
