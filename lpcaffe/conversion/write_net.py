"""A network and its weights as two files, both or none."""

from __future__ import annotations

import os
from functools import partial
from os import PathLike

from lpcaffe.conversion.weights import snapshot_header
from lpcaffe.errors import WeightsError, located
from lpcaffe.formats.blobproto import CHUNK
from lpcaffe.formats.caffemodel import BlobSource, stage_caffemodel
from lpcaffe.formats.prototxt import dump
from lpcaffe.io.outputs import outputs
from lpcaffe.net import Net, WeightBlob


def write_net(
    net: Net,
    prototxt: str | PathLike[str],
    caffemodel: str | PathLike[str],
    *,
    hdf5: bool = False,
    force: bool = False,
) -> tuple[str, str]:
    """Write a network and its weights, both files or none. Returns their names.

    Values are copied bit by bit as they stream, float64 as float32; with `hdf5` into an HDF5 file. Raises FileError
    when a file is in the way, or cannot be written; WeightsError when the network has no weights.
    """
    if net.weights is None:
        raise WeightsError("expected weights to write, got none", path=net.path)
    blobs = {name: [_copy(blob) for blob in own] for name, own in net.weights.items()}
    with outputs([caffemodel, prototxt], force=force) as out:
        with located(path=prototxt):
            text = dump(net.message)
        stage_caffemodel(out, caffemodel, snapshot_header(net), blobs, hdf5=hdf5)
        out.write(prototxt, text.encode())
    return os.fspath(prototxt), os.fspath(caffemodel)


def _copy(blob: WeightBlob) -> BlobSource:
    return BlobSource(blob.shape, partial(blob.chunks, CHUNK), blob.legacy)
