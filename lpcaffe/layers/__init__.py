"""What each Caffe layer means, written once; engines run it. See `registry` for how."""

from lpcaffe.layers import (  # noqa: F401  (importing a family registers its types)
    activation,
    convolution,
    elementwise,
    inner_product,
    low_precision,
    normalization,
    pooling,
    shaping,
)
from lpcaffe.layers.registry import LAYERS, LayerType, Ops, Window, layer, layer_type

__all__ = ["LAYERS", "LayerType", "Ops", "Window", "layer", "layer_type"]
