"""Layers with parameters at random: what the shapes engine lets pass, the numpy engine computes."""

import random

import numpy as np
import pytest

from lpcaffe.engines import check_executable, run
from lpcaffe.errors import LpcaffeError
from lpcaffe.formats.schema import LayerParameter, NetParameter
from lpcaffe.layers import LAYERS
from lpcaffe.net import ArrayBlob, Net

LEFT_OUT = ("weight_filler", "bias_filler", "filler", "other", "engine")
LIKELY = (
    "num_output",
    "kernel_size",
    "bd",
    "shape",
    "min",
    "max",
    "tiles",
    "input_dim",
    "min_size",
    "precision",
    "negative_slope",
    "num_classes",
    "pooled_h",
    "pooled_w",
    "pyramid_height",
    "output_dim",
    "group_size",
    "zoom_factor",
)
SIZES = [1, 2, 3, 4, 6, 6]
RANKS = [4, 4, 4, 4, 3, 2, 1, 5]
# Types that most parameters do not suit.
PARTICULAR = (
    "Convolution",
    "LPConvolution",
    "Deconvolution",
    "Interp",
    "SPP",
    "Pooling",
    "RNN",
    "LSTM",
    "Filter",
    "BatchReindex",
    "ConvolutionRistretto",
    "DeconvolutionRistretto",
    "LRNRistretto",
    "PriorBox",
)
REGIONS = ("ROIPooling", "PSROIPooling")
NUMBERS = [1, 1, 1, 2, 2, 3, 0, -1, -2, 5]
FLOATS = [0.0, 1.0, -1.0, 0.5, 3.0, float("inf"), float("nan")]


def _fill(dice: random.Random, message: LayerParameter) -> None:
    """Any small numbers in some of the fields, in those without which there is no layer more often than not."""
    for field in message.DESCRIPTOR.fields:
        if field.name in LEFT_OUT or field.cpp_type == field.CPPTYPE_STRING:
            continue
        if dice.randint(0, 15) > (14 if field.name in LIKELY else 0):
            continue
        if field.message_type is not None:
            _fill(dice, getattr(message, field.name))
            continue
        if field.enum_type is not None:
            numbers = [value.number for value in field.enum_type.values]
        elif field.cpp_type == field.CPPTYPE_BOOL:
            numbers = [False, True]
        elif field.cpp_type == field.CPPTYPE_FLOAT:
            numbers = FLOATS
        else:
            numbers = [abs(number) for number in NUMBERS] if field.cpp_type == field.CPPTYPE_UINT32 else NUMBERS
        if field.has_presence:
            setattr(message, field.name, dice.choice(numbers))
        else:
            getattr(message, field.name).extend(dice.choices(numbers, k=dice.choice([1, 1, 1, 2, 3])))


def any_network(dice: random.Random, kind: str) -> NetParameter:
    """A layer of this type with any parameters, on inputs of any small shapes."""
    layer = LayerParameter(name="l", type=kind)
    for block in LAYERS[kind].params:
        if block != "top":
            _fill(dice, getattr(layer, block))
    if kind == "PriorBox" and dice.randint(0, 3):  # mostly one that is in order
        for name in ("max_size", "aspect_ratio", "variance", "img_size", "img_h", "img_w", "step", "step_h", "step_w"):
            layer.prior_box_param.ClearField(name)
    least, most = LAYERS[kind].bottoms
    shape = dice.choices(SIZES, k=dice.choice(RANKS))
    net = NetParameter()
    for i in range(dice.choice([least] * 6 + [min(most, 2)] * 2 + [0, 3])):
        source = net.layer.add(name=f"in{i}", type="Input", top=[f"x{i}"])
        parts = [shape] * 3 + [shape[1:], shape[:2], shape[1:2]]
        if kind in ("RNN", "LSTM") and i == 1:
            parts = [shape[:2], *parts]  # cont
        if kind == "DetectionOutput" and i < 3:
            classes = layer.detection_output_param.num_classes or 1
            owners = 1 if layer.detection_output_param.share_location else classes
            parts = [[(2, 12 * owners), (2, 3 * classes), (1, 2, 12)][i]]
        if kind == "PriorBox":
            parts = [shape]
        if kind in REGIONS and i < 2:
            own = layer.psroi_pooling_param
            channels = max(1, own.output_dim) * max(1, own.group_size) ** 2
            parts = [[(2, channels, 6, 4), (3, 5)][i]]
        source.input_param.shape.add(dim=dice.choice(parts) or [1])
        layer.bottom.append(f"x{i}")
    tops = range(4) if kind in ("Slice", "Split") else [1] * 8 + [0, 2]
    layer.top.extend(f"y{i}" for i in range(dice.choice(tops)))
    net.layer.append(layer)
    return net


def ran(kind: str, message: NetParameter, dtype: str) -> bool:
    """Check that the layer is refused in one line, or computes the shapes that were said; whether it computed."""
    net = Net.of(message)
    refused, shapes = None, None
    try:
        shapes = check_executable(net)
    except LpcaffeError as error:
        refused = error
    if refused is not None:
        assert refused.layer == "l"
        assert "\n" not in str(refused)
        return False
    rng = np.random.default_rng(3)
    own = {
        name: [ArrayBlob(rng.normal(size=shape).astype(np.float32)) for shape in blobs]
        for name, blobs in shapes.params.items()
    }
    feeds = {blob: rng.normal(size=shapes.blobs[blob]).astype(dtype) for blob in net.inputs}
    if kind in ("BatchReindex", "Embed", "Upsample"):
        feeds[net.layers[-1].raw_bottoms[-1]][:] = 0  # indices
    if kind in REGIONS:
        feeds["x1"][:, 0] = 1  # of the second image
    found = run(net.replace(net.message, own), feeds, engine="numpy", dtype=np.dtype(dtype).name)
    said = shapes.blobs
    if kind == "DetectionOutput":  # how many rows depends on the data
        assert found["y0"].shape[:2] + found["y0"].shape[3:] == (1, 1, 7)
        said = said | {"y0": found["y0"].shape}
    assert {blob: value.shape for blob, value in found.items()} == said
    assert all(value.dtype == dtype for value in found.values())
    return True


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_any_parameters_are_refused_or_run_to_the_shapes_that_were_said(kind):
    """The shapes engine decides: what it lets pass, the numpy engine computes, in those shapes and that dtype."""
    dice = random.Random(kind)
    tries = 300 if kind in PARTICULAR else 100
    count = sum(ran(kind, any_network(dice, kind), dice.choice(["f4", "f8"])) for _ in range(tries))
    assert count > 3, "too few layers that can run to tell anything"
