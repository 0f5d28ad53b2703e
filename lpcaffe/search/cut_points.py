"""The cut points of a network: what is live there, what it takes to get there, and where to keep what trials share.

A **cut point** is a number: 2 i is before layer i of the network, 2 i + 1 is behind it, before its output is rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from lpcaffe.engines.shapes import Shapes
from lpcaffe.layers.registry import product
from lpcaffe.net import Net
from lpcaffe.net.segment import live

# What a layer costs beside its multiply-accumulates: so many of them for each value that it writes.
_MOVED = 16


def last_uses(net: Net, wanted: Collection[str]) -> dict[str, int]:
    """The index of the layer after which each tensor is not needed any more; those wanted are needed at the end."""
    last = {tensor: max((layer.index for layer in readers), default=-1) for tensor, readers in net.readers.items()}
    return {tensor: len(net.layers) if tensor in wanted else index for tensor, index in last.items()}


def state_sizes(net: Net, shapes: Shapes, images: int, wanted: Collection[str]) -> list[int]:
    """The bytes of what is live at each cut point, over all images. Inputs are held anyway and count nothing."""
    fed = [top for layer in net.layers if layer.type == "Input" for top in layer.tops]
    in_file = (shapes.tensors[fed[0]] or (1,))[0] if fed else 1
    values = {tensor: 4 * product(shape or ()) * images // in_file for tensor, shape in shapes.tensors.items()}
    at_layers = [
        sum(values[tensor] for tensor in live(net, index, wanted=wanted) if tensor not in fed)
        for index in range(len(net.layers) + 1)
    ]
    return [at_layers[(point + 1) // 2] for point in range(2 * len(net.layers) + 1)]


def costs(net: Net, shapes: Shapes) -> list[float]:
    """What it takes to compute up to each cut point: multiply-accumulates, and some for each value that is written."""
    found = [0.0]
    for layer in net.layers:
        cost = 0.0
        if layer.type != "Input":
            weights = shapes.params.get(layer.name, [()])[0]
            values = sum(product(shapes.tensors[top] or ()) for top in layer.tops)
            cost = float(values * (_MOVED + product(weights[1:])))
        found += [found[-1] + cost, found[-1] + cost]
    return found


def choose_cuts(points: Sequence[int], costs: Sequence[float], sizes: Sequence[int], memory: int) -> tuple[int, ...]:
    """The cut points whose states are kept, of those where a trial can differ from another one, within the memory.

    `costs[point]` is what it takes to compute the state from the start, `sizes[point]` its bytes. Trials differ at each
    of `points` equally often, and compute from the last kept state on. Cut points are taken one after the other, each
    time the one that saves most for its bytes.
    """
    candidates = np.array(sorted(set(points)), np.int64)
    if not candidates.size:
        return ()
    reach = np.array([costs[point] for point in candidates])
    size = np.array([max(sizes[point], 1) for point in candidates])
    useful = candidates[:, None] <= np.array(points)
    saved = np.zeros(len(points))
    chosen: list[int] = []
    while True:
        gains = (np.maximum(reach[:, None] - saved, 0) * useful).sum(1) / size
        gains[size > memory] = 0
        best = int(gains.argmax())
        if gains[best] <= 0:
            return tuple(sorted(chosen))
        chosen.append(int(candidates[best]))
        saved = np.maximum(saved, reach[best] * useful[best])
        memory -= int(size[best])
