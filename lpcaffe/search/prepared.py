"""The images as trials take them, and digests by which two pieces of work are compared."""

from __future__ import annotations

import hashlib

import numpy as np

from lpcaffe.calibration import TensorStats, warn_of_range
from lpcaffe.data import Data
from lpcaffe.engines import NumpyEngine, Parameters
from lpcaffe.net import Net
from lpcaffe.search.states import State


def prepared(float_net: Net, net: Net, data: Data, batch: int) -> tuple[State, list[int], str]:
    """The batches as the engine computes with them, by tensor; where each begins; a digest of data and labels."""
    ops, first, fed = NumpyEngine(), float_net.inputs[0], TensorStats()
    tensors = {
        blob: tensor
        for layer in net.layers
        if layer.type == "Input"
        for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True)
    }
    sums = {blob: hashlib.sha256() for blob in float_net.inputs}
    batches: State = []
    firsts = [0]
    for feeds in data.batches(batch):
        fed += TensorStats.of(feeds[first])
        firsts.append(firsts[-1] + len(feeds[first]))
        for blob, values in feeds.items():
            sums[blob].update(np.ascontiguousarray(values).reshape(-1).data)
        batches.append({tensor: ops.value(feeds[blob]) for blob, tensor in tensors.items()})
    warn_of_range(float_net, data, first, fed)
    digest = hashlib.sha256()
    for blob, own in sums.items():
        digest.update(f"{blob} {own.hexdigest()}\n".encode())
    if data.labels is not None:
        digest.update(data.labels.astype(np.int64).tobytes())
    return batches, firsts, digest.hexdigest()


def weights_digest(bound: Parameters) -> str:
    """SHA-256 of the weights, names and shapes included."""
    digest = hashlib.sha256()
    for name, blobs in sorted(bound.items()):
        for blob in blobs:
            digest.update(f"{name} {blob.shape}\n".encode())
            digest.update(np.ascontiguousarray(blob).reshape(-1).data)
    return digest.hexdigest()
