"""Running a network: check it, bind its weights, and execute layer after layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lpcaffe.engines.numpy_engine import NumpyEngine
from lpcaffe.engines.shapes import Shapes, infer_shapes
from lpcaffe.errors import DataError, NetError, WeightsError, located
from lpcaffe.formats.prototxt import known_field_in_other
from lpcaffe.layers import layer_type
from lpcaffe.layers.registry import Shape, product, shape_text
from lpcaffe.net import Layer, Net, WeightBlob
from lpcaffe.qformat import QFormat

# The blobs of each layer as arrays of the shapes that the layers declare.
Parameters = Mapping[str, Sequence[np.ndarray]]
# Called after each layer with the layer, the values of its bottoms and those of its tops.
Visit = Callable[[Layer, Sequence[Any], Sequence[Any]], None]


def check_executable(net: Net, inputs: Mapping[str, Shape] | None = None) -> Shapes:
    """The shapes of a network that can be run; NetError that names the layer otherwise.

    An enum value that the schema does not know (a mistyped one, most often) is an error here, not when the file is
    read.
    """
    for layer in net.layers:
        with located(path=net.path, layer=layer.name):
            if layer.type != "Input":
                layer_type(layer.type, layer_name=layer.name)
            unknown = known_field_in_other(layer.message)
            if unknown:
                raise NetError(f"{unknown} is not a value that Caffe knows")
    return infer_shapes(net, inputs)


def bind_parameters(net: Net, shapes: Shapes, *, only: Collection[str] | None = None) -> dict[str, list[np.ndarray]]:
    """The net's weights as arrays of the declared shapes; views of the file where its values are float32.

    Raises WeightsError, with expected and got, when a layer has no weights, or blobs of another number or shape. A
    legacy blob (four dimensions always) fits when its number of values does. `only` limits it to some layers.
    """
    for name, blobs in (net.weights or {}).items():
        if blobs and name in net.by_name and name not in shapes.params:
            raise WeightsError(f"{net.by_name[name].type} has no blobs, the weights hold {len(blobs)}", layer=name)
    bound = {}
    for name, expected in shapes.params.items():
        if only is not None and name not in only:
            continue
        with located(layer=name):
            blobs = check_blobs(net, name, expected)
            bound[name] = [blob.array().reshape(shape) for blob, shape in zip(blobs, expected, strict=True)]
    return bound


def check_blobs(net: Net, name: str, expected: Sequence[Shape]) -> Sequence[WeightBlob]:
    """The stored blobs of a layer, when they are those that the layer declares."""
    blobs = (net.weights or {}).get(name, ())
    if not blobs:
        got = "no weights were given" if net.weights is None else "the weights have no blobs for this layer"
        raise WeightsError(f"{got}, expected {len(expected)}", layer=name)
    if len(blobs) != len(expected):
        raise WeightsError(f"expected {len(expected)} blobs, got {len(blobs)}", layer=name)
    for index, (blob, shape) in enumerate(zip(blobs, expected, strict=True)):
        fits = product(blob.shape) == product(shape) if blob.legacy else tuple(blob.shape) == tuple(shape)
        if not fits:
            problem = f"expected the shape {shape_text(shape)}, got {shape_text(blob.shape)}"
            raise WeightsError(problem, layer=name, blob=index)
    return blobs


def run_layers(
    ops: NumpyEngine,
    layers: Iterable[Layer],
    values: dict[str, Any],
    parameters: Parameters,
    *,
    formats: Mapping[str, tuple[str, QFormat, str]] | None = None,
    visit: Visit | None = None,
    release: Mapping[str, int] | None = None,
) -> None:
    """Execute layers in order, adding their tops to `values`, which holds the bottoms.

    `formats` rounds tensors on the way: tensor -> (layer that names the stream, format, scheme). It is how a plan of
    the plain dialect is simulated, whose activation formats no prototxt can say. `release` is the index of the layer
    after which a tensor is dropped from `values`.
    """
    for layer in layers:
        bottoms = [values[bottom] for bottom in layer.bottoms]
        if layer.type == "Input":
            tops = [values[top] for top in layer.tops]
        else:
            kind = layer_type(layer.type, layer_name=layer.name)
            ops.layer = layer.name
            blobs = [ops.constant(layer.name, i, blob) for i, blob in enumerate(parameters.get(layer.name, ()))]
            with located(layer=layer.name), np.errstate(all="ignore"):
                tops = kind.tops(ops, layer.message, bottoms, blobs)
        for position, tensor in enumerate(layer.tops):
            if formats and tensor in formats:
                ops.layer, fmt, scheme = formats[tensor]
                tops[position] = ops.round_fp(tops[position], fmt, scheme, "top")
        values.update(zip(layer.tops, tops, strict=True))
        if visit:
            visit(layer, bottoms, tops)
        if release:
            for tensor in {*layer.bottoms, *layer.tops}:
                if release[tensor] <= layer.index:
                    del values[tensor]


def forward(
    ops: NumpyEngine,
    net: Net,
    inputs: Mapping[str, np.ndarray],
    parameters: Parameters,
    *,
    first_image: int = 0,
    keep: Collection[str] = (),
    formats: Mapping[str, tuple[str, QFormat, str]] | None = None,
    visit: Visit | None = None,
) -> dict[str, Any]:
    """One forward pass. `inputs` are keyed by blob; the result holds the tensors of `keep`, all others are dropped.

    `first_image` is the position of the batch in the whole input, for stochastic rounding.
    """
    ops.first_image = first_image
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
    run_layers(ops, net.layers, values, parameters, formats=formats, visit=visit, release=release)
    return values


def batch_size(net: Net, wanted: int) -> int:
    """How many images to run at a time: `wanted`, or what the file says where a layer fixes it, as Reshape can."""
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
    if other is None or _of_one_image(other) != _of_one_image(given):
        return next((shape[0] for shape in inputs.values()), 1)
    return wanted


def _of_one_image(shapes: Shapes) -> object:
    """What must not depend on the number of images: the blobs of the layers, and all axes of tensors but the first."""
    return shapes.params, {tensor: shape and shape[1:] for tensor, shape in shapes.tensors.items()}


def run(
    net: Net,
    inputs: np.ndarray | Mapping[str, np.ndarray],
    *,
    engine: str = "auto",
    dtype: str = "float32",
    seed: int = 0,
    stochastic_as: str | None = None,
    versions: bool = False,
) -> dict[str, np.ndarray]:
    """Every blob of one forward pass, inputs included, by its name in the file: the last version of in-place blobs.

    Inputs are fed as they are, N x C x H x W or the blob's own rank, and their shapes replace those of the file; one
    array is for a network with one input. `engine` is "numpy" or "auto", which takes it. `dtype` is float32 or
    float64, the arithmetic and the dtype of the result. `versions` adds BLOB@LAYER for every earlier version of a
    blob. `stochastic_as="floor"` computes stochastic layers as ADaPTION's CPU code did. Raises DataError for inputs
    that do not fit, NetError and WeightsError for the network.
    """
    if engine not in ("auto", "numpy"):
        raise NetError(f"there is no engine {engine!r}", hint="known are auto and numpy")
    if dtype not in ("float32", "float64"):
        raise NetError(f"there is no arithmetic in {dtype!r}", hint="known are float32 and float64")
    feeds = _named_inputs(net, inputs)
    shapes = check_executable(net, {blob: values.shape for blob, values in feeds.items()})
    parameters = bind_parameters(net, shapes)
    schemes = {} if stochastic_as is None else {"stochastic": stochastic_as}
    last = {tensor: blob for blob, tensor in net.last_versions.items()}
    found: dict[str, np.ndarray] = {}

    def collect(layer: Layer, bottoms: Sequence[Any], tops: Sequence[Any]) -> None:
        for tensor, value in zip(layer.tops, tops, strict=True):
            if tensor in last:
                found[last[tensor]] = value
            elif versions:
                found[tensor] = value

    forward(NumpyEngine(dtype, seed=seed, schemes=schemes), net, feeds, parameters, visit=collect)
    return found


def _named_inputs(net: Net, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(inputs, np.ndarray):
        if len(net.inputs) != 1:
            names = f" ({', '.join(net.inputs)})" if net.inputs else ""
            hint = "data layers cannot be fed: use the deploy network" if not net.inputs else None
            raise DataError(f"the network has {len(net.inputs)} inputs{names}, got one array", hint=hint)
        inputs = {net.inputs[0]: inputs}
    missing = [blob for blob in net.inputs if blob not in inputs]
    surplus = [blob for blob in inputs if blob not in net.inputs]
    if missing or surplus:
        raise DataError(f"expected the inputs {', '.join(net.inputs)}, got {', '.join(inputs) or 'none'}")
    for blob, values in inputs.items():
        if values.dtype.kind not in "fui" or values.size == 0:
            raise DataError(f"expected floats, got {values.dtype} of shape {values.shape}", blob=blob)
    return dict(inputs)
