"""`run`: one forward pass on the engine of choice, every blob by name.

numpy          float32 with BLAS, or float64: exact for fixed-point networks (see `numpy_engine`). The reference.
onnxruntime    the emitted ONNX graph in float32. Several times faster.
pycaffe        Caffe itself, where its Python package can be imported.
auto           onnxruntime for float work; numpy where rounding is part of the network, where no graph can hold a layer
               or the weights, and where float64 is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lpcaffe.engines.forward import check_inputs, check_types
from lpcaffe.engines.onnxruntime_engine import fits
from lpcaffe.engines.session import Options
from lpcaffe.engines.table import ENGINES, engines_with
from lpcaffe.errors import DataError, NetError, shape_text
from lpcaffe.layers import LAYERS
from lpcaffe.net import Net


def choose_engine(net: Net, engine: str = "auto", *, dtype: str = "float32", random: bool = False) -> str:
    """The engine that `auto` stands for on this network, or the one named.

    `random`: an option of random numbers was given, seed or stochastic_as.
    Rounding is decided by the last bit of a sum, so a network that rounds gets the engine whose sums are the reference.
    Raises NetError for an engine that does not exist or cannot do what is asked.
    """
    if engine not in ("auto", *ENGINES):
        raise NetError(f"there is no engine {engine!r}", hint=f"known are auto, {', '.join(ENGINES)}")
    if dtype not in ("float32", "float64"):
        raise NetError(f"there is no arithmetic in {dtype!r}", hint="known are float32 and float64")
    if engine == "auto":
        numpy = dtype == "float64" or random or rounds(net) or not fits(net)
        return "numpy" if numpy else "onnxruntime"
    if dtype == "float64" and not ENGINES[engine].float64:
        raise NetError(f"{engine} computes in float32 only", hint=f"float64 is for {engines_with('float64')}")
    if random and not ENGINES[engine].random:
        raise NetError(f"seed and stochastic_as are for {engines_with('random')}, not {engine}")
    return engine


def rounds(net: Net) -> bool:
    """Whether rounding is part of a network: a layer's, or one of its `roundings`."""
    return bool(net.roundings) or any(LAYERS[layer.type].rounds for layer in net.layers if layer.type in LAYERS)


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
    array is for a network with one input. `engine` is auto or one of ENGINES. `dtype` is float32 or float64, the
    arithmetic and the dtype of the result. `versions` adds BLOB@LAYER for every earlier version of a blob.
    `stochastic_as="floor"` computes stochastic layers as ADaPTION's CPU code did. `net.roundings` are applied. Raises
    DataError for inputs that do not fit and for versions that have the name of a blob, NetError and WeightsError for
    the network.
    """
    check_types(net)
    feeds = _named_inputs(net, inputs)
    shapes = check_inputs(net, {blob: values.shape for blob, values in feeds.items()})
    chosen = choose_engine(net, engine, dtype=dtype, random=stochastic_as is not None or seed != 0)
    names = {tensor: blob for blob, tensor in net.last_versions.items()}
    if versions:
        names |= _earlier_versions(net)
    session = ENGINES[chosen].open(net, names, shapes, Options(dtype, seed, stochastic_as))
    found = session(feeds, 0)
    return {
        names[tensor]: np.asarray(found[tensor]) for layer in net.layers for tensor in layer.tops if tensor in names
    }


def _earlier_versions(net: Net) -> dict[str, str]:
    """The names of all values that a later layer overwrites, BLOB@LAYER. Raises DataError where a blob has one."""
    last = set(net.last_versions.values())
    for layer in net.layers:
        for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True):
            if tensor not in last and tensor in net.last_versions:
                problem = f'what layer "{layer.name}" wrote into blob "{blob}" has this name too'
                raise DataError(problem, path=net.path, blob=tensor, hint="rename the blob, or leave out --versions")
    return {tensor: tensor for layer in net.layers for tensor in layer.tops if tensor not in last}


def _named_inputs(net: Net, inputs: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if isinstance(inputs, np.ndarray):
        if len(net.inputs) != 1:
            names = f" ({', '.join(net.inputs)})" if net.inputs else ""
            raise DataError(f"the network has {len(net.inputs)} inputs{names}, got one array")
        inputs = {net.inputs[0]: inputs}
    if not isinstance(inputs, Mapping):
        raise DataError(f"expected an array, or arrays by blob, got {type(inputs).__name__}")
    missing = [blob for blob in net.inputs if blob not in inputs]
    surplus = [blob for blob in inputs if blob not in net.inputs]
    if missing or surplus:
        raise DataError(f"expected the inputs {', '.join(net.inputs)}, got {', '.join(inputs) or 'none'}")
    for blob, values in inputs.items():
        if not isinstance(values, np.ndarray) or values.dtype.kind not in "fui":
            got = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
            raise DataError(f"expected an array of floats, got {got}", blob=blob)
        if values.size == 0:
            raise DataError(f"expected at least one value, got the shape {shape_text(values.shape)}", blob=blob)
    return dict(inputs)
