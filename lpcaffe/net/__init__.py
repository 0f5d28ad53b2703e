"""The resolved network (`graph`), its weights (`blobs`), its rewrites (`fold`) and where activations are rounded."""

from lpcaffe.net.blobs import ArrayBlob, WeightBlob, Weights
from lpcaffe.net.fold import (
    LOW_PRECISION,
    Chain,
    Unfolded,
    chain_after,
    fold_batch_norm,
    learned_param,
    quantizable_layers,
    unfolded,
)
from lpcaffe.net.graph import Layer, Net, Rounding, blob_of, load, load_net, load_weights, match_weights

__all__ = [
    "LOW_PRECISION",
    "ArrayBlob",
    "Chain",
    "Layer",
    "Net",
    "Rounding",
    "Unfolded",
    "WeightBlob",
    "Weights",
    "blob_of",
    "chain_after",
    "fold_batch_norm",
    "learned_param",
    "load",
    "load_net",
    "load_weights",
    "match_weights",
    "quantizable_layers",
    "unfolded",
]
