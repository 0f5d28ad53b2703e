"""Running a network: check it, and execute layer after layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lpcaffe.engines.numpy_engine import NumpyEngine
from lpcaffe.engines.parameters import Parameters, bind_parameters, check_blobs
from lpcaffe.engines.session import Options, Session
from lpcaffe.engines.shapes import Shapes, infer_shapes, input_shapes
from lpcaffe.errors import DataError, NetError, WeightsError, located, shape_text
from lpcaffe.formats.prototxt import known_field_in_other
from lpcaffe.layers import layer_type
from lpcaffe.layers.recurrent import RECURRENT
from lpcaffe.layers.registry import Shape
from lpcaffe.net import Layer, Net, Rounding

# Called after each layer with the layer, the values of its bottoms and those of its tops.
Visit = Callable[[Layer, Sequence[Any], Sequence[Any]], None]


def check_executable(net: Net, inputs: Mapping[str, Shape] | None = None) -> Shapes:
    """The shapes of a network that can be run; NetError that names the layer otherwise."""
    check_types(net)
    return infer_shapes(net, inputs)


def check_types(net: Net) -> None:
    """Raise NetError for a layer that no engine runs, a network without layers, and a rounding of no tensor of it.

    An enum value that the schema does not know (a mistyped one, most often) is an error here, not when the file is
    read.
    """
    if not net.layers:
        raise NetError("the network has no layers", path=net.path)
    absent = [tensor for tensor in net.roundings if tensor not in net.readers]
    if absent:
        raise NetError(f'expected roundings of tensors of the network, got "{absent[0]}"', path=net.path)
    for layer in net.layers:
        with located(path=net.path, layer=layer.name):
            if layer.type != "Input":
                layer_type(layer.type, layer_name=layer.name)
            unknown = known_field_in_other(layer.message)
            if unknown:
                raise NetError(f"{unknown} is not a value that Caffe knows")


def check_inputs(net: Net, fed: Mapping[str, Shape]) -> Shapes:
    """The shapes of the network for inputs of these shapes, by blob, when it and its weights can be run with them.

    Raises DataError for an input of another rank than in the file, or with which a layer or its weights fail that are
    in order for the file's own shapes; else what `infer_shapes` and `check_blobs` raise.
    """
    own = input_shapes(net)
    differing = [blob for blob, shape in fed.items() if own.get(blob, shape) != shape]
    for blob in differing:
        if len(fed[blob]) != len(own[blob]):
            raise DataError(_expected(own[blob], fed[blob]), blob=blob)
    try:
        return _fitting(net, fed)
    except (NetError, WeightsError) as error:
        if not differing or not _fits(net):
            raise
        # The one that differs in more than the number of images, if there is one.
        blob = min(differing, key=lambda name: fed[name][1:] == own[name][1:])
        where = f'layer "{error.layer}"' + ("" if error.blob is None else f" blob {error.blob}")
        text = f"{_expected(own[blob], fed[blob])}, which does not fit {where}: {error.problem}"
        raise DataError(text, blob=blob) from error


def _fitting(net: Net, inputs: Mapping[str, Shape] | None = None) -> Shapes:
    shapes = infer_shapes(net, inputs)
    for name, expected in shapes.params.items():
        check_blobs(net, name, expected)
    return shapes


def _fits(net: Net) -> bool:
    try:
        _fitting(net)
    except (NetError, WeightsError):
        return False
    return True


def _expected(own: Shape, got: Shape) -> str:
    wanted = f"N x {shape_text(own[1:])}" if len(own) > 1 else shape_text(own)
    return f"expected {wanted} as in the file, got {shape_text(got)}"


def run_layers(
    ops: Any,
    layers: Iterable[Layer],
    values: dict[str, Any],
    parameters: Parameters,
    *,
    roundings: Mapping[str, Rounding] | None = None,
    visit: Visit | None = None,
    release: Mapping[str, int] | None = None,
) -> None:
    """Execute layers in order on an engine (numpy's, onnx's), adding their tops to `values`, which holds the bottoms.

    `roundings` are those of the net, by tensor. `release` is the index of the layer after which a tensor is dropped
    from `values`.
    """
    for layer in layers:
        bottoms = [values[bottom] for bottom in layer.bottoms]
        if layer.type == "Input":
            tops = [values[top] for top in layer.tops]
        else:
            kind = layer_type(layer.type, layer_name=layer.name)
            own = ops.for_layer(layer.name, parameters)
            with located(layer=layer.name), np.errstate(all="ignore"):
                blobs = [own.constant(i, blob) for i, blob in enumerate(parameters.get(layer.name, ()))]
                tops = kind.tops(own, layer.message, bottoms, blobs)
        for position, tensor in enumerate(layer.tops):
            if roundings and tensor in roundings:
                with located(layer=layer.name):
                    tops[position] = rounded(ops, tops[position], roundings[tensor])
        values.update(zip(layer.tops, tops, strict=True))
        if visit:
            visit(layer, bottoms, tops)
        if release:
            for tensor in {*layer.bottoms, *layer.tops}:
                if release[tensor] <= layer.index:
                    del values[tensor]


def rounded(ops: Any, value: Any, rounding: Rounding) -> Any:
    """A value as an engine rounds it where an LPAct would."""
    return ops.for_layer(rounding.stream).quantize(value, rounding.format, rounding.scheme, "top")


def forward(
    ops: NumpyEngine,
    net: Net,
    inputs: Mapping[str, np.ndarray],
    parameters: Parameters,
    *,
    first_image: int = 0,
    keep: Collection[str] = (),
    visit: Visit | None = None,
) -> dict[str, Any]:
    """One forward pass, `net.roundings` included.

    `inputs` are keyed by blob; the result holds the tensors of `keep`, all others are dropped.
    `first_image` is the position of the batch in the whole input, for stochastic rounding.
    """
    ops = dataclasses.replace(ops, first_image=first_image)
    values = {
        tensor: ops.value(inputs[blob])
        for layer in net.layers
        if layer.type == "Input"
        for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True)
    }
    end = len(net.layers)
    last_reader = {
        tensor: max([layer.index for layer in readers], default=-1) for tensor, readers in net.readers.items()
    }
    release = {tensor: end if tensor in keep else index for tensor, index in last_reader.items()}
    run_layers(ops, net.layers, values, parameters, roundings=net.roundings, visit=visit, release=release)
    return values


def open_numpy(net: Net, tensors: Collection[str], shapes: Shapes, options: Options) -> Session:
    """A session of the numpy engine."""
    schemes = {} if options.stochastic_as is None else {"stochastic": options.stochastic_as}
    ops, parameters = NumpyEngine(options.dtype, options.seed, schemes), bind_parameters(net, shapes)
    return lambda inputs, first: forward(ops, net, inputs, parameters, first_image=first, keep=tensors)


def batch_size(net: Net, wanted: int) -> int:
    """How many images to run at a time: `wanted`, or what the file says where a layer fixes it, as Reshape can.

    A recurrent layer takes axis 0 for time, and starts at zero with every pass: then it is the length in the file.
    """
    given = infer_shapes(net)
    inputs = {
        raw: shape
        for layer in net.layers
        if layer.type == "Input"
        for raw, top in zip(layer.raw_tops, layer.tops, strict=True)
        if (shape := given.tensors[top]) is not None
    }
    try:
        other = infer_shapes(net, {raw: (wanted, *shape[1:]) for raw, shape in inputs.items()})
    except NetError:
        other = None
    recurrent = any(layer.type in RECURRENT for layer in net.layers)
    if recurrent or other is None or _of_one_image(other) != _of_one_image(given):
        return next((shape[0] for shape in inputs.values()), 1)
    return wanted


def _of_one_image(shapes: Shapes) -> object:
    """What must not depend on the number of images: the blobs of the layers, and all axes of tensors but the first."""
    return shapes.params, {tensor: shape and shape[1:] for tensor, shape in shapes.tensors.items()}
