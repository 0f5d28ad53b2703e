"""Images for calibration and validation: where they come from (`sources`), how they become blobs (`preprocessing`)."""

from lpcaffe.data.arrays import read_labels
from lpcaffe.data.for_net import images, input_channels, net_preprocessing, suspicious_range
from lpcaffe.data.preprocessing import (
    Channels,
    Preprocessing,
    default_channels,
    parse_mean,
    parse_size,
    read_binaryproto,
)
from lpcaffe.data.range_check import pixel_range, range_warnings
from lpcaffe.data.sources import Data, open_data

__all__ = [
    "Channels",
    "Data",
    "Preprocessing",
    "default_channels",
    "images",
    "input_channels",
    "net_preprocessing",
    "open_data",
    "parse_mean",
    "parse_size",
    "pixel_range",
    "range_warnings",
    "read_binaryproto",
    "read_labels",
    "suspicious_range",
]
