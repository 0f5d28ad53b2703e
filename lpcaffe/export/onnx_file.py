"""A network as an ONNX file.

The tensors have the names of Caffe's blobs; an earlier version of a blob written in place is BLOB@LAYER. BatchNorm,
Scale and Bias are folded into the layer before them where they can be. Weights are raw data in the file, or, above
2 GB, in MODEL.onnx.data beside it. metadata_props hold

    lpcaffe.network    the network's name                lpcaffe.profile    the profile
    lpcaffe.sha256     of the upgraded, weight-free NetParameter, as in a plan
    lpcaffe.plan       JSON: the plan that was given, or the formats that the LP layers of the network say
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import ExitStack
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np

from lpcaffe.allocation.bits import WIDEST
from lpcaffe.engines import bind_parameters, check_executable
from lpcaffe.engines.onnx_graph import Graph, emit
from lpcaffe.engines.onnx_model import build_model
from lpcaffe.engines.run import rounds
from lpcaffe.errors import NetError, PlanError, located
from lpcaffe.export.profiles import PROFILES
from lpcaffe.io.outputs import check_outputs, outputs
from lpcaffe.layers.low_precision import format_of
from lpcaffe.net import Net, chain_after, fold_batch_norm, quantizable_layers
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.quant.apply import apply_plan, in_memory
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.rounded import channels_of

_ALIGNMENT = 64
_EXTERNAL = 1  # TensorProto.DataLocation


@dataclass(frozen=True)
class Exported:
    """What was written: the model and, if there is one, the file of its weights.

    Dimensions of inputs and outputs are numbers, or names where they depend on the number of images.
    """

    files: tuple[Path, ...]
    profile: str
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    nodes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "files": [str(path) for path in self.files],
            "profile": self.profile,
            "inputs": {name: list(dims) for name, dims in self.inputs.items()},
            "outputs": {name: list(dims) for name, dims in self.outputs.items()},
            "nodes": self.nodes,
        }


def export_onnx(
    net: Net,
    path: str | PathLike[str],
    *,
    profile: str | None = None,
    plan: BitPlan | None = None,
    force: bool = False,
) -> Exported:
    """Write a network with its weights, if its layers have any, as ONNX, opset 21.

    `profile` is one of PROFILES; without one it is `exact` for a network that rounds and `float` for any other. `plan`
    says how a full-precision network is to be rounded, or how a plain one was; an LP network says it itself.
    Raises NetError for a layer that no graph can hold and for a profile that does not fit, PlanError for a plan that
    does not, WeightsError (NaN and infinity included) and FileError.
    """
    check_outputs([path], force=force)
    rounding = plan is not None or rounds(net)
    profile = profile or ("exact" if rounding else "float")
    if profile not in PROFILES:
        raise NetError(f"there is no profile {profile!r}", hint=f"known are {', '.join(PROFILES)}")
    if rounding and profile == "float":
        raise NetError("the network rounds, which the profile float cannot say", hint="use exact, qdq or qonnx")
    if not rounding and profile != "float":
        raise NetError(f"nothing in the network rounds, which {profile} is for", hint="give --plan, or use float")
    if net.weights is None:
        bind_parameters(net, check_executable(net))  # WeightsError for a layer that has some
        net = net.replace(net.message, {})
    _check_finite(net)
    low, constants = _planned(net, plan) if plan is not None else (fold_batch_norm(net), {})
    graph = emit(low, profile=PROFILES[profile], constant_formats=constants)
    if not graph.outputs:
        raise NetError("the network has no outputs: layers read every blob")
    metadata = {
        "lpcaffe.network": net.name,
        "lpcaffe.profile": profile,
        "lpcaffe.sha256": net.sha256,
        "lpcaffe.plan": json.dumps(plan.to_json() if plan is not None else {"layers": stated_formats(low)}),
    }
    files = _write(graph, metadata, Path(path), force)
    dims = {symbol.name: graph.dims[symbol.name] for symbol in [*graph.inputs, *graph.outputs.values()]}
    return Exported(
        files,
        profile,
        {symbol.name: dims[symbol.name] for symbol in graph.inputs},
        {symbol.name: dims[symbol.name] for symbol in graph.outputs.values()},
        len(graph.nodes),
    )


def _check_finite(net: Net) -> None:
    """Raise WeightsError for NaN or infinity, which no integer code stands for; odd blobs of LP layers do not count."""
    for layer in net.layers:
        for index, blob in enumerate((net.weights or {}).get(layer.name, ())):
            if not (layer.type.startswith("LP") and index % 2):
                with located(layer=layer.name):
                    for _ in finite_chunks(blob, index):
                        pass


def _planned(net: Net, plan: BitPlan) -> tuple[Net, dict[tuple[str, int], Any]]:
    """The network of a plan, with rounded weights, and the formats of its blobs with their scheme."""
    if plan.sha256 != net.sha256 and _made_with(net, plan):
        plan = dataclasses.replace(plan, sha256=None)
    applied = apply_plan(net, plan)
    if plan.policy.rounding == "stochastic":
        for site in applied.formats:
            if site.role == "output":
                raise PlanError("an ONNX graph cannot round stochastic", layer=site.layer, hint="the numpy engine does")
    formats: dict[tuple[str, int], Any] = {}
    for site, fmt in applied.formats.items():
        if site.blob is not None and fmt.width <= WIDEST:  # a wider bias is a float32 all the same
            channels = channels_of(applied.base.by_name[site.layer], site, applied.shapes.params[site.layer][site.blob])
            formats[site.layer, site.blob] = (fmt.select(channels), plan.policy.rounding)
    return in_memory(applied.net), formats


def _made_with(net: Net, plan: BitPlan) -> bool:
    """Whether a network can be what a plan of the plain dialect made: folded, and its weights rounded already.

    The plan's sha256 is of the network before folding.
    """
    folded = not any(chain_after(net, one).affine for one in quantizable_layers(net))
    if plan.policy.dialect != "plain" or not plan.policy.fold_bn or not folded:
        return False
    try:
        applied = apply_plan(net, dataclasses.replace(plan, sha256=None))
    except PlanError:
        return False
    return bool(applied.parameters) and all(
        np.array_equal(rounded, values)
        for name, sites in applied.parameters.items()
        for index, site in sites.items()
        if (blobs := (net.weights or {}).get(name))
        for values, rounded in applied.rounded(site, blobs[index], tuple(blobs[index].shape)).pairs()
    )


def stated_formats(net: Net) -> dict[str, dict[str, str | None]]:
    """The formats that LP layers say, as the lines of a plan; an LPAct stands under its own name."""
    lines: dict[str, dict[str, str | None]] = {}
    for layer in net.layers:
        if layer.type in ("LPConvolution", "LPInnerProduct", "LPAct"):
            fmt = str(format_of(layer.message.lpfp_param))
            act = layer.type == "LPAct"
            lines[layer.name] = {
                "type": layer.type.removeprefix("LP") if not act else layer.type,
                "weights": None if act else fmt,
                "output": fmt if act else None,
            }
    return lines


def _write(graph: Graph, metadata: dict[str, str], path: Path, force: bool) -> tuple[Path, ...]:
    """The model, and the file of its weights where one message cannot hold them. The model describes that file."""
    beside = path.with_name(path.name + ".data")
    with outputs([path], force=force, witness=path) as out, ExitStack() as stack:
        data: IO[bytes] | None = None

        def spill(tensor: Any) -> None:
            nonlocal data
            data = data or stack.enter_context(out.open(beside))
            data.write(bytes(-data.tell() % _ALIGNMENT))
            place = {"location": beside.name, "offset": str(data.tell()), "length": str(len(tensor.raw_data))}
            data.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = _EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=value)

        out.write(path, build_model(graph, metadata=metadata, spill=spill).SerializeToString())
    return (path, beside) if data else (path,)
