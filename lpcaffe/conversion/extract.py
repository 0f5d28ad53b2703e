"""The way back: a full-precision network out of a low-precision one.

`rewrite` and `weights` in reverse. LPConvolution and LPInnerProduct become Convolution and InnerProduct with the even
blobs (or the rounded ones), their `param` blocks are those of blobs 0 and 2, `lpfp_param` goes, and so does every
LPAct; all the rest of the message is kept. What a conversion has changed for good stays so: a network whose BatchNorm
was folded comes out folded, and nothing in it tells that it ever had one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from os import PathLike

from lpcaffe.conversion.weights import snapshot_header
from lpcaffe.errors import NetError, WeightsError, located
from lpcaffe.formats.blobproto import CHUNK
from lpcaffe.formats.caffemodel import BlobSource, stage_caffemodel
from lpcaffe.formats.prototxt import dump
from lpcaffe.formats.schema import Message
from lpcaffe.io.outputs import outputs
from lpcaffe.net import LOW_PRECISION, Net, WeightBlob

_FULL_PRECISION = {low: full for full, low in LOW_PRECISION.items()}


def extract(low: Net, *, rounded: bool = False) -> Net:
    """The full-precision network that a low-precision one holds, with its weights when it has them.

    `rounded` takes the odd blobs as the file has them, the bias too where the layer computes with it (`round_bias`).
    An LPAct that is not in place goes too, and its bottom is read instead of its top.

    Raises NetError for a network without low-precision layers, and for an LPAct whose bottom is overwritten before its
    top is read for the last time; WeightsError when an LP layer has not 4 blobs, or 2 without bias.
    """
    if not any(layer.type in (*_FULL_PRECISION, "LPAct") for layer in low.layers):
        raise NetError("expected a low-precision network, got one without LP layers", path=low.path)
    with located(path=low.weights_path):
        weights = None if low.weights is None else _weights(low, low.weights, rounded)
    with located(path=low.path):
        full = low.replace(_message(low.message), weights)
        _check_flow(low, full)
    return full


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


def _weights(low: Net, weights: Mapping[str, Sequence[WeightBlob]], rounded: bool) -> dict[str, Sequence[WeightBlob]]:
    result = dict(weights)
    for layer in low.layers:
        if layer.type in _FULL_PRECISION:
            blobs, expected = weights.get(layer.name, ()), 4 if _has_bias(layer.message) else 2
            if len(blobs) != expected:
                raise WeightsError(f"expected {expected} blobs, got {len(blobs)}", layer=layer.name)
            bias = 3 if rounded and layer.message.lpfp_param.round_bias else 2
            result[layer.name] = [blobs[1 if rounded else 0], *blobs[bias : bias + 1]]
    return result


def _has_bias(layer: Message) -> bool:
    ip = layer.type == "LPInnerProduct"
    return bool((layer.inner_product_param if ip else layer.convolution_param).bias_term)


def _message(low: Message) -> Message:
    message = type(low)()
    message.CopyFrom(low)
    del message.layer[:]
    instead: dict[str, str] = {}  # the top of an LPAct that is not in place -> its bottom
    for source in low.layer:
        bottoms = [instead.get(bottom, bottom) for bottom in source.bottom]
        if source.type == "LPAct":
            if (len(source.bottom), len(source.top)) != (1, 1):
                raise NetError("expected one bottom and one top", layer=source.name)
            if source.top[0] != source.bottom[0]:
                instead[source.top[0]] = bottoms[0]
            continue
        layer = message.layer.add()
        layer.CopyFrom(source)
        layer.bottom[:] = bottoms
        for top in source.top:  # a layer in place on it makes the blob anew, under its own name
            instead.pop(top, None)
        if source.type in _FULL_PRECISION:
            layer.type = _FULL_PRECISION[source.type]
            layer.ClearField("lpfp_param")
            _restore_param_blocks(layer, source)
    return message


def _restore_param_blocks(layer: Message, source: Message) -> None:
    """Block 0 and, with a bias, block 2; the latter only if it says something, because an absent one means the same.

    A layer with a bias and two blocks or fewer has those of the layer that it was made from: people who write LP layers
    by hand leave them, and ADaPTION, which gates the bias gradient by the second block, trains with them.
    """
    if _has_bias(source) and len(source.param) < 3:
        return
    blocks = list(source.param)[: 3 if _has_bias(source) else 1 : 2]
    if len(blocks) > 1 and not blocks[1].ListFields():
        del blocks[1]
    del layer.param[:]
    layer.param.extend(blocks)


def _check_flow(low: Net, full: Net) -> None:
    """Raise NetError unless every layer reads what it read before, but for the rounding."""
    now: dict[str, str] = {}  # tensor of the low-precision network -> tensor of the other one
    for layer in low.layers:
        if layer.type == "LPAct":
            now[layer.tops[0]] = now[layer.bottoms[0]]
            continue
        twin = full.by_name[layer.name]
        for blob, tensor, got in zip(layer.raw_bottoms, layer.bottoms, twin.bottoms, strict=True):
            if got != now[tensor]:
                raise NetError(
                    f'"{blob}" comes from an LPAct whose bottom is overwritten before this layer reads it',
                    layer=layer.name,
                    hint="without the LPAct there is no blob that holds the value",
                )
        now.update(zip(layer.tops, twin.tops, strict=True))
