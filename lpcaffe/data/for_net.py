"""Data for a given network: the shapes of its inputs, and the preprocessing that its own file asks for."""

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
from lpcaffe.engines import infer_shapes
from lpcaffe.errors import DataError
from lpcaffe.net import Net


def input_channels(net: Net) -> int:
    """C of the network's first input; 3 when the file does not say."""
    shape = next(iter(_input_shapes(net).values()), ())
    return shape[1] if len(shape) == 4 else 3


def _input_shapes(net: Net) -> dict[str, tuple[int, ...]]:
    blobs = infer_shapes(net).tensors
    return {
        raw: shape
        for layer in net.layers
        if layer.type == "Input"
        for raw, top in zip(layer.raw_tops, layer.tops, strict=True)
        if (shape := blobs[top]) is not None
    }


def net_preprocessing(net: Net, *, read_mean: bool = True) -> Preprocessing | None:
    """What the network's own transform_param says, or None; `read_mean=False` leaves a mean_file unread."""
    folder = Path(net.path).parent if net.path else Path()
    return Preprocessing.from_net(net.message, input_channels(net), folder=folder, read_mean=read_mean)


def images(
    spec: str | PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]],
    net: Net,
    *,
    limit: int | None = None,
    **preprocessing: Any,
) -> Data:
    """Data for a network, from what `--data` takes: a folder, a list file, .npy, .npz, an LMDB, "random", or arrays.

    `preprocessing` are fields of Preprocessing (resize, crop, mean, scale, channels, transpose); those left out, or
    None, are the network's own. Raises DataError for everything that cannot be read or does not fit.
    """
    given = {name: value for name, value in preprocessing.items() if value is not None}
    own = net_preprocessing(net, read_mean=False) or Preprocessing(channels=default_channels(input_channels(net)))
    shapes = _input_shapes(net)
    if "mean" not in given:
        data = open_data(spec, shapes, replace(own, **given), limit=limit)
        # The network's mean file is asked for only where images need it: it is missing beside many released networks.
        if data.preprocessing is None:
            return data
        own = net_preprocessing(net) or own
    return open_data(spec, shapes, replace(own, **given), limit=limit)


def suspicious_range(net: Net, data: Data, data_min: float, data_max: float) -> list[str]:
    """Sentences on a range of values that does not look like what the network was trained on; see `range_check`."""
    try:
        own = net_preprocessing(net)
    except DataError:
        return []
    return range_warnings(data_min, data_max, input_channels(net), data.preprocessing, own)
