"""Caffe itself, where its Python package `caffe` can be imported: the reference, for those who have a build of it."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from lpcaffe.engines.session import Options, Session
from lpcaffe.engines.shapes import Shapes
from lpcaffe.errors import NetError
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.formats.prototxt import dump
from lpcaffe.net import Net


def open_pycaffe(net: Net, tensors: Collection[str], shapes: Shapes, options: Options) -> Session:
    """A session of Caffe, which loads the network for every pass."""
    return lambda inputs, first: run_pycaffe(net, inputs, tensors)


def run_pycaffe(net: Net, inputs: Mapping[str, np.ndarray], tensors: Collection[str]) -> dict[str, np.ndarray]:
    """The tensors of one forward pass in phase TEST.

    The network goes through two temporary files. Caffe keeps the last version of a blob only, and no value is rounded
    but by a layer: NetError for another version, for `net.roundings`, and when `caffe` cannot be imported. A layer that
    this build of Caffe lacks ends the process; Caffe's log says why.
    """
    last = {tensor: blob for blob, tensor in net.last_versions.items()}
    earlier = [tensor for tensor in tensors if tensor not in last]
    if earlier:
        raise NetError(f'Caffe does not keep "{earlier[0]}": a later layer writes over it in place')
    if net.roundings:
        raise NetError("Caffe rounds no value but by a layer", hint="the numpy engine does")
    try:
        import caffe
    except ImportError as error:
        raise NetError("the package caffe cannot be imported", hint="build Caffe with its Python interface") from error
    with tempfile.TemporaryDirectory() as folder:
        prototxt, weights = Path(folder, "net.prototxt"), Path(folder, "net.caffemodel")
        prototxt.write_text(dump(net.message), encoding="utf-8")
        stored = {name: [BlobSource.of(blob.array()) for blob in blobs] for name, blobs in (net.weights or {}).items()}
        write_caffemodel(weights, net.message, stored)
        model = caffe.Net(str(prototxt), str(weights), caffe.TEST)
    for blob, values in inputs.items():
        model.blobs[blob].reshape(*values.shape)
        model.blobs[blob].data[...] = values
    model.forward()
    return {tensor: np.array(model.blobs[last[tensor]].data) for tensor in tensors}
