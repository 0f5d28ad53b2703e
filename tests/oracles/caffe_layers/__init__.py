"""The oracles of all layer types, and the cases they are tried on."""

from caffe_layers import (  # noqa: F401  (importing a family adds its cases)
    activation,
    convolution,
    detection,
    elementwise,
    embedding,
    low_precision,
    normalization,
    pooling,
    recurrent,
    reduction,
    regions,
    resizing,
    ristretto,
    shaping,
)
from caffe_layers.core import CASES, ORACLES, Case

__all__ = ["CASES", "ORACLES", "Case"]
