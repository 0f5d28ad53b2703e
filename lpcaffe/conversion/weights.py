"""The caffemodel's way: weights and a plan become the blobs of the low-precision network.

    ADaPTION    [W, round(W), b, round(b)], or [W, round(W)] without bias: even full precision, odd rounded, always
    plain       [round(W), b], the bias rounded with `round_bias`

Weights are streamed: a blob is read, rounded and written chunk by chunk, and memory does not grow with the network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from os import PathLike

import numpy as np

from lpcaffe.calibration import finite_weights
from lpcaffe.conversion.error import ErrorStats
from lpcaffe.conversion.rewrite import base_net, rewrite
from lpcaffe.engines import Shapes, check_executable, infer_shapes
from lpcaffe.engines.forward import check_blobs
from lpcaffe.errors import located
from lpcaffe.formats.caffemodel import BlobSource, check_size, stage_caffemodel
from lpcaffe.formats.schema import Message
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.layers.registry import Shape
from lpcaffe.net import Net, WeightBlob, learned_layers
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp_stats, stream_of
from lpcaffe.plan import BitPlan


@dataclass(frozen=True)
class WeightErrors:
    """What rounding did to the weights and the bias of each layer, by layer name; filled while the file is written."""

    weights: dict[str, ErrorStats] = field(default_factory=dict)
    bias: dict[str, ErrorStats] = field(default_factory=dict)


def write_weights(
    net: Net, plan: BitPlan, path: str | PathLike[str], *, hdf5: bool = False, force: bool = False
) -> tuple[str, WeightErrors]:
    """`stage_weights` as a transaction of its own."""
    with outputs([path], force=force) as out:
        return stage_weights(out, net, plan, path, hdf5=hdf5)


def stage_weights(
    out: Outputs, net: Net, plan: BitPlan, path: str | PathLike[str], *, hdf5: bool = False
) -> tuple[str, WeightErrors]:
    """Stage the caffemodel of `rewrite(net, plan)`. Returns the SHA-256 of the file and what rounding did.

    `hdf5`: as an HDF5 file, which Caffe reads if its name ends in .h5.

    Raises WeightsError, and leaves no file, when weights are missing, do not fit, or hold NaN or infinity.
    """
    base, low = base_net(net, plan), rewrite(net, plan)
    errors = WeightErrors()
    with finite_weights(net):
        blobs = _blobs(base, plan, infer_shapes(base), errors)
        return stage_caffemodel(out, path, snapshot_header(low), blobs, hdf5=hdf5), errors


def check_weights_size(net: Net, dialect: str) -> None:
    """Raise FileError where Caffe could not read the caffemodel of a conversion: worth asking before a long pass.

    Counted are the values, when every convolution and inner product gets a format.
    """
    twice = {layer.name for layer in learned_layers(net)} if dialect == "adaption" else set()
    counts = {name: sum(math.prod(shape) for shape in shapes) for name, shapes in check_executable(net).params.items()}
    check_size(sum(4 * count * (2 if name in twice else 1) for name, count in counts.items()))


def snapshot_header(low: Net) -> Message:
    """The network as a snapshot holds it: the layers of one phase, and what the source held that no schema knows."""
    header = type(low.message)()
    header.CopyFrom(low.message)
    del header.layer[:]
    header.layer.extend(layer.message for layer in low.layers)
    header.MergeFromString(low.unknown.get(None, b""))
    for layer in header.layer:
        layer.MergeFromString(low.unknown.get(layer.name, b""))
    return header


def _blobs(base: Net, plan: BitPlan, shapes: Shapes, errors: WeightErrors) -> dict[str, Sequence[BlobSource]]:
    result: dict[str, Sequence[BlobSource]] = {}
    for name, expected in shapes.params.items():
        with located(layer=name):
            blobs = check_blobs(base, name, expected)
            planned = plan.layers.get(name)
            if planned is None or planned.weights is None:
                result[name] = [
                    _copy(blob, shape, i) for i, (blob, shape) in enumerate(zip(blobs, expected, strict=True))
                ]
                continue
            fmt = planned.weights
            found = [errors.weights.setdefault(name, ErrorStats())]
            if len(blobs) > 1:
                found.append(errors.bias.setdefault(name, ErrorStats()))
            sources: list[BlobSource] = []
            for index, (blob, shape, error) in enumerate(zip(blobs, expected, found, strict=True)):
                # Streams count the blobs of the LP layer, where the bias is blob 2, in every dialect.
                stream = stream_of(f"{name}/{2 * index}")
                # A bias that stays as it is was measured too: whether the format holds it is worth to know.
                kept = plan.dialect == "plain" and index == 1 and not plan.round_bias
                rounded = _rounded(blob, shape, index, fmt, plan, stream, error, kept=kept)
                sources += [_copy(blob, shape, index), rounded] if plan.dialect == "adaption" else [rounded]
            result[name] = sources
    return result


def _copy(blob: WeightBlob, shape: Shape, index: int) -> BlobSource:
    return BlobSource(shape, lambda: finite_chunks(blob, index))


def _rounded(
    blob: WeightBlob,
    shape: Shape,
    index: int,
    fmt: QFormat,
    plan: BitPlan,
    stream: int,
    error: ErrorStats,
    *,
    kept: bool,
) -> BlobSource:
    """A blob as it is rounded, or, when it is `kept`, as it was; `error` learns of the rounding in both cases."""

    def chunks() -> Iterator[np.ndarray]:
        start = 0
        for chunk in finite_chunks(blob, index):
            rounded, stats = round_fp_stats(
                chunk, fmt.bd, fmt.ad, plan.rounding, seed=plan.seed, stream=stream, index=start
            )
            error.add_stats(chunk, stats)
            start += chunk.size
            yield chunk if kept else rounded

    return BlobSource(shape, chunks)
