"""What each Caffe layer means, written once; engines run it. See `registry` for how."""

from lpcaffe.layers import (  # noqa: F401  (importing a family registers its types)
    activation,
    convolution,
    data,
    detection,
    elementwise,
    embedding,
    inner_product,
    loss,
    low_precision,
    normalization,
    pooling,
    quant,
    recurrent,
    reduction,
    regions,
    resizing,
    ristretto,
    shaping,
)
from lpcaffe.layers.registry import (
    LAYERS,
    NEVER_RUN,
    DetectionRules,
    Geometry,
    LayerType,
    Ops,
    Primitives,
    Window,
    layer,
    layer_type,
)

__all__ = [
    "LAYERS",
    "NEVER_RUN",
    "DetectionRules",
    "Geometry",
    "LayerType",
    "Ops",
    "Primitives",
    "Window",
    "layer",
    "layer_type",
]
