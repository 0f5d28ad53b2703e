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

from lpcaffe.engines import onnx_model
from lpcaffe.engines.forward import check_inputs, check_types, forward
from lpcaffe.engines.numpy_engine import NumpyEngine
from lpcaffe.engines.onnx_graph import check_graph
from lpcaffe.engines.parameters import bind_parameters
from lpcaffe.errors import DataError, NetError
from lpcaffe.layers import LAYERS
from lpcaffe.layers.registry import product, shape_text
from lpcaffe.net import Net

ENGINES = ("auto", "numpy", "onnxruntime", "pycaffe")


def choose_engine(net: Net, engine: str = "auto", *, dtype: str = "float32", numpy_options: bool = False) -> str:
    """The engine that `auto` stands for on this network, or the one named.

    `numpy_options`: options were given that only the numpy engine has, seed or stochastic_as.
    Rounding is decided by the last bit of a sum, so a network that rounds gets the engine whose sums are the reference.
    Raises NetError for an engine that does not exist or cannot do what is asked.
    """
    if engine not in ENGINES:
        raise NetError(f"there is no engine {engine!r}", hint=f"known are {', '.join(ENGINES)}")
    if dtype not in ("float32", "float64"):
        raise NetError(f"there is no arithmetic in {dtype!r}", hint="known are float32 and float64")
    if engine == "auto":
        numpy = dtype == "float64" or numpy_options or rounds(net) or not _fits_graph(net)
        return "numpy" if numpy else "onnxruntime"
    if engine != "numpy" and dtype != "float32":
        raise NetError(f"{engine} computes in float32 only", hint="the numpy engine has float64")
    return engine


def rounds(net: Net) -> bool:
    """Whether rounding is part of a network: a layer's, or one of its `roundings`."""
    return bool(net.roundings) or any(LAYERS[layer.type].rounds for layer in net.layers if layer.type in LAYERS)


def _fits_graph(net: Net) -> bool:
    """Whether onnxruntime can take the network: its layers, and its weights in one message."""
    try:
        check_graph(net)
    except NetError:
        return False
    weights = (blob for blobs in (net.weights or {}).values() for blob in blobs)
    return sum(4 * product(blob.shape) for blob in weights) <= onnx_model.INLINE_LIMIT


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
    array is for a network with one input. `engine` is one of ENGINES. `dtype` is float32 or float64, the arithmetic and
    the dtype of the result. `versions` adds BLOB@LAYER for every earlier version of a blob. `stochastic_as="floor"`
    computes stochastic layers as ADaPTION's CPU code did. `net.roundings` are applied. Raises DataError for inputs that
    do not fit and for versions that have the name of a blob, NetError and WeightsError for the network.
    """
    check_types(net)
    feeds = _named_inputs(net, inputs)
    shapes = check_inputs(net, {blob: values.shape for blob, values in feeds.items()})
    numpy_options = stochastic_as is not None or seed != 0
    chosen = choose_engine(net, engine, dtype=dtype, numpy_options=numpy_options)
    if chosen != "numpy" and numpy_options:
        raise NetError(f"seed and stochastic_as are for the numpy engine, not {chosen}")
    names = {tensor: blob for blob, tensor in net.last_versions.items()}
    if versions:
        names |= _earlier_versions(net)
    if chosen == "numpy":
        ops = NumpyEngine(dtype, seed=seed, schemes={} if stochastic_as is None else {"stochastic": stochastic_as})
        found = forward(ops, net, feeds, bind_parameters(net, shapes), keep=names)
    elif chosen == "onnxruntime":
        from lpcaffe.engines.onnxruntime_engine import OnnxRuntime

        found = OnnxRuntime(net, names).run(feeds)
    else:
        from lpcaffe.engines.pycaffe_engine import run_pycaffe

        found = run_pycaffe(net, feeds, names)
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
