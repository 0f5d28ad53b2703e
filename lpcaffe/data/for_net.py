"""Data for a given network: the shapes of its inputs, and the preprocessing that it was trained with.

That is what its own file asks for in a transform_param. Where there is none, it is that of the released network in the
zoo with exactly these weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from lpcaffe.data.preprocessing import Preprocessing, default_channels
from lpcaffe.data.range_check import range_warnings
from lpcaffe.data.sources import Data, open_data
from lpcaffe.engines import check_executable
from lpcaffe.errors import DataError
from lpcaffe.formats.blobproto import StoredBlob, digest
from lpcaffe.net import Net
from lpcaffe.zoo import Entry, entry_with_weights


def input_channels(net: Net) -> int:
    """C of the network's first input; 3 when the file gives no shape."""
    shape = next(iter(_input_shapes(net).values()), ())
    return shape[1] if len(shape) == 4 else 3


def _input_shapes(net: Net) -> dict[str, tuple[int, ...]]:
    blobs = check_executable(net).tensors
    return {
        raw: shape
        for layer in net.layers
        if layer.type == "Input"
        for raw, top in zip(layer.raw_tops, layer.tops, strict=True)
        if (shape := blobs[top]) is not None
    }


def net_preprocessing(net: Net) -> Preprocessing | None:
    """That of the network's own transform_param, or else of the zoo's entry with its weights; None without either."""
    own = _from_file(net)
    return _from_zoo(net)[1] if own is None else own


def zoo_entry(net: Net) -> Entry | None:
    """The released network whose caffemodel, by size and whole checksum, is the one that this net's weights lie in."""
    blob = next((blob for blobs in (net.weights or {}).values() for blob in blobs), None)
    if not isinstance(blob, StoredBlob):
        return None
    mapping = blob.mapping
    return entry_with_weights(len(mapping), lambda algorithm: digest(mapping, algorithm))


def _from_file(net: Net, *, read_mean: bool = True) -> Preprocessing | None:
    folder = Path(net.path).parent if net.path else Path()
    return Preprocessing.from_net(net.message, input_channels(net), folder=folder, read_mean=read_mean)


def _from_zoo(net: Net) -> tuple[str, Preprocessing | None]:
    """The network's name in the zoo, and what it was trained with; "" and None if it has no entry."""
    entry = zoo_entry(net)
    if entry is None or not entry.preprocessing:
        return "", None
    return entry.name, Preprocessing(**entry.preprocessing)


def images(
    spec: str | PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]],
    net: Net,
    *,
    limit: int | None = None,
    skip_bad: bool = False,
    **preprocessing: Any,
) -> Data:
    """Data for a network, from what `--data` takes: a folder, a list file, .npy, .npz, an LMDB, "random", or arrays.

    `preprocessing` are fields of Preprocessing (resize, crop, mean, scale, channels, transpose); those left out, or
    None, are those of the network's transform_param, or else of its entry in the zoo, which `Data.source` then names.
    With `skip_bad`, files and database entries that cannot be decoded are left out, with one warning; they do not count
    toward `limit`. Each image is decoded once more for that. Raises DataError for everything else that cannot be read
    or does not fit, and when no image is left.
    """
    data = _images(spec, net, limit, preprocessing)
    return data.without_bad() if skip_bad else data


def _images(
    spec: str | PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]],
    net: Net,
    limit: int | None,
    preprocessing: Mapping[str, Any],
) -> Data:
    given = {name: value for name, value in preprocessing.items() if value is not None}
    found = _from_file(net, read_mean=False)
    own = found or Preprocessing(channels=default_channels(input_channels(net)))
    shapes = _input_shapes(net)
    data = open_data(spec, shapes, replace(own, **given), limit=limit)
    # Neither the network's mean file, which is missing beside many released networks, nor the zoo, which takes the
    # checksum of the weights, is asked where no image needs it.
    if data.preprocessing is None:
        return data
    if found is None:
        name, known = _from_zoo(net)
        if known is None:
            return data
        data = open_data(spec, shapes, replace(known, **given), limit=limit)
        return replace(data, source=f"{data.source}, preprocessed as the zoo says of {name}")
    if "mean" in given:
        return data
    return open_data(spec, shapes, replace(_from_file(net) or own, **given), limit=limit)


def suspicious_range(net: Net, data: Data, data_min: float, data_max: float) -> list[str]:
    """Sentences on a range of values that does not look like what the network was trained on; see `range_check`."""
    try:
        own = net_preprocessing(net)
    except DataError:
        return []
    return range_warnings(data_min, data_max, input_channels(net), data.preprocessing, own)
