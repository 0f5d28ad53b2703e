"""What a network is, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

from lpcaffe.dialects.adaption import effective_format
from lpcaffe.engines import infer_shapes
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import LpcaffeError, located
from lpcaffe.formats.prototxt import unknown_fields
from lpcaffe.formats.schema import TEST, TRAIN
from lpcaffe.layers.low_precision import format_of
from lpcaffe.net import LOW_PRECISION, Layer, WeightBlob, load, load_net


def inspect(
    prototxt: str | PathLike[str],
    caffemodel: str | PathLike[str] | None = None,
    *,
    old_bd: bool = False,
    phase: str = "TEST",
) -> dict[str, Any]:
    """Layers, shapes, parameters and multiply-accumulates of a network.

    Keys: network, generation, inputs, outputs, layers (name, type, bottoms, tops), blobs (name -> dims, or null after a
    layer that cannot be resolved), params (layer -> dims of its blobs), parameters, macs (of one forward pass at the
    file's own batch size), formats (LP layer -> its format, and the bits of its codes: with weights those that the
    rounded values need), unknown_fields, problems (why shapes are null, and what does not fit in the weights).
    `old_bd` is that of `load_net`.
    """
    number = TRAIN if phase == "TRAIN" else TEST
    if caffemodel is None:
        net = load_net(prototxt, old_bd=old_bd, phase=number)
    else:
        net = load(prototxt, caffemodel, old_bd=old_bd, phase=number)
    shapes = infer_shapes(net, strict=False)
    problems = [f'layer "{problem.layer}": {problem.problem}' for problem in shapes.problems]
    if net.weights is not None:
        for name, expected in shapes.params.items():
            try:
                with located(path=caffemodel):
                    check_blobs(net, name, expected)
            except LpcaffeError as error:
                problems.append(str(error))
    formats = {}
    for layer in net.layers:
        if layer.type in (*LOW_PRECISION.values(), "LPAct"):
            try:
                formats[layer.name] = _format(layer, (net.weights or {}).get(layer.name, ()))
            except LpcaffeError as error:
                problems.append(f'layer "{layer.name}": {error}')
    return {
        "network": net.name,
        "generation": net.generation,
        "inputs": list(net.inputs),
        "outputs": list(net.outputs),
        "layers": [
            {
                "name": layer.name,
                "type": layer.type,
                "bottoms": list(layer.raw_bottoms),
                "tops": list(layer.raw_tops),
            }
            for layer in net.layers
        ],
        "blobs": {blob: None if shape is None else list(shape) for blob, shape in shapes.blobs.items()},
        "params": {name: [list(shape) for shape in own] for name, own in shapes.params.items()},
        "parameters": shapes.parameters,
        "macs": shapes.macs,
        "formats": formats,
        "unknown_fields": unknown_fields(net.message),
        "problems": problems,
    }


def _format(layer: Layer, blobs: Sequence[WeightBlob]) -> dict[str, Any]:
    fmt = format_of(layer.message.lpfp_param)
    odd = blobs[1] if layer.type != "LPAct" and len(blobs) > 1 else None
    return {"format": str(fmt), "bits": fmt.width if odd is None else effective_format(odd, fmt).width}
