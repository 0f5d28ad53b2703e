"""Where activations are rounded: the tensor of each learned layer that gets an activation format.

The LPAct goes in place on the output of its layer, before the ReLU (ADaPTION's order: convolution, LPAct, ReLU).
BatchNorm, Scale and Bias layers that directly follow belong to the output, folded or not. `after-relu` is the
alternative.
"""

from __future__ import annotations

from lpcaffe.net.fold import LOW_PRECISION, chain_after, learned_layers
from lpcaffe.net.graph import Layer, Net

PLACEMENTS = ("before-relu", "after-relu")
_RELUS = ("ReLU", "PReLU")


def last_of_output(net: Net, layer: Layer, placement: str = "before-relu") -> Layer:
    """The layer that writes the tensor to be rounded for a learned layer; the LPAct comes right after it."""
    last = chain_after(net, layer).last
    if placement == "after-relu":
        readers = net.readers[last.tops[0]]
        if len(readers) == 1 and readers[0].type in _RELUS:
            return readers[0]
    return last


def output_layers(net: Net) -> frozenset[str]:
    """The learned layers from whose output no other learned layer can be reached.

    They produce the network's answers; nothing is gained by rounding those, so by default they get no LPAct.
    """
    reaches: dict[str, bool] = {}
    for layer in reversed(net.layers):
        for top in layer.tops:
            readers = net.readers[top]
            reaches[top] = any(r.type in LOW_PRECISION or any(reaches[t] for t in r.tops) for r in readers)
    return frozenset(layer.name for layer in learned_layers(net) if not reaches[layer.tops[0]])
