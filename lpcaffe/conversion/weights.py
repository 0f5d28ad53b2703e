"""The caffemodel's way: weights and a plan become the blobs that the plan's dialect writes.

Weights are streamed: a blob is read, rounded and written chunk by chunk, and memory does not grow with the network.
"""

from __future__ import annotations

import math
from os import PathLike

from lpcaffe.calibration import finite_weights
from lpcaffe.dialects import Clipped, dialect_named
from lpcaffe.engines import check_executable
from lpcaffe.formats.caffemodel import check_size, stage_caffemodel
from lpcaffe.formats.schema import Message
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.net import Net
from lpcaffe.quant.apply import Quantized, apply_plan
from lpcaffe.quant.plan import BitPlan


def write_weights(
    net: Net, plan: BitPlan, path: str | PathLike[str], *, hdf5: bool = False, force: bool = False
) -> str:
    """Write the caffemodel of `rewrite(net, plan)`. Returns the SHA-256 of the file.

    `hdf5`: as an HDF5 file, which Caffe reads if its name ends in .h5.

    Raises WeightsError, and leaves no file, when weights are missing, do not fit, or hold NaN or infinity.
    """
    quantized = apply_plan(net, plan)
    low = dialect_named(plan.policy.dialect).network(quantized)
    with outputs([path], force=force) as out:
        return stage_quantized(out, quantized, low, path, hdf5=hdf5)[0]


def stage_quantized(
    out: Outputs, quantized: Quantized, low: Net, path: str | PathLike[str], *, hdf5: bool = False
) -> tuple[str, Clipped]:
    """Stage the weights of `low`, which the dialect has made of `quantized`, whose `errors` are filled on the way.

    Returns the SHA-256 of the file, and how many even values were written at the limit of their format.
    """
    clipped = Clipped()
    with finite_weights(quantized.source or quantized.base):
        blobs = dialect_named(quantized.policy.dialect).blobs(quantized, clipped)
        return stage_caffemodel(out, path, snapshot_header(low), blobs, hdf5=hdf5), clipped


def check_weights_size(net: Net, dialect: str) -> None:
    """Raise FileError where Caffe could not read the caffemodel of a conversion: worth asking before a long pass.

    Counted are the values, when every convolution and inner product gets a format.
    """
    copies = dialect_named(dialect).copies
    counts = {name: sum(math.prod(shape) for shape in shapes) for name, shapes in check_executable(net).params.items()}
    check_size(sum(4 * count * copies(net.by_name[name].type) for name, count in counts.items()))


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
