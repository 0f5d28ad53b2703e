"""The whole job: a network, a plan and a folder become the four files of a conversion.

lp.prototxt  lp.caffemodel (or lp.caffemodel.h5)  plan.yaml  report.json; codes.npz if asked for
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lpcaffe.calibration import BATCH, Progress
from lpcaffe.conversion import stage_codes, stage_quantized
from lpcaffe.data import Data
from lpcaffe.dialects import dialect_named
from lpcaffe.errors import located
from lpcaffe.formats.prototxt import dump
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.net import Net, load, load_weights
from lpcaffe.quant.apply import apply_plan
from lpcaffe.quant.plan import VECTORS, BitPlan
from lpcaffe.report import ConversionReport
from lpcaffe.validation import ValidationReport, compare
from lpcaffe.validation import validate as validate_nets
from lpcaffe.validation.metric import Metric

FILES = ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json")

# In place of lp.caffemodel. A folder has one of the two, so that nobody takes the weights of another conversion.
HDF5_WEIGHTS = "lp.caffemodel.h5"

# Packed integer codes.
CODES = "codes.npz"

# Beside plan.yaml, where the plan has long vectors.
PLAN_VECTORS = f"plan{VECTORS}"


@dataclass(frozen=True)
class Conversion:
    """The low-precision network as it was written, with its weights, its plan, the report, and the folder."""

    net: Net
    plan: BitPlan
    report: ConversionReport
    folder: Path


@contextmanager
def conversion_outputs(
    folder: str | PathLike[str], *, force: bool = False, inputs: Iterable[str | PathLike[str] | None] = ()
) -> Iterator[Outputs]:
    """The transaction of a conversion: the four files, in a folder held against other conversions until the block ends.

    Where there is a report.json it describes the files beside it, even after a power cut. Raises FileError, at once,
    when a file is in the way or would overwrite one of `inputs`, and when another conversion holds the folder.
    """
    names = (HDF5_WEIGHTS, PLAN_VECTORS, CODES, *FILES)
    with outputs(names, force=force, inputs=inputs, folder=folder, witness="report.json") as out:
        yield out


def stage_conversion(
    out: Outputs,
    net: Net,
    plan: BitPlan,
    *,
    data: Data | None = None,
    hdf5: bool = False,
    codes: str | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> ConversionReport:
    """`convert` for a caller who holds the folder by `conversion_outputs`."""
    quantized = dataclasses.replace(apply_plan(net, plan), counted={})
    low = dialect_named(plan.policy.dialect).network(quantized)
    weights, other = (HDF5_WEIGHTS, "lp.caffemodel") if hdf5 else ("lp.caffemodel", HDF5_WEIGHTS)
    out.remove(other)
    if not plan.has_vectors:
        out.remove(PLAN_VECTORS)
    weights_sha256, clipped = stage_quantized(out, quantized, low, weights, hdf5=hdf5)
    sums = {
        "lp.prototxt": stage_prototxt(out, low, "lp.prototxt"),
        weights: weights_sha256,
        "plan.yaml": plan.stage(out, "plan.yaml"),
    }
    if plan.has_vectors:
        beside = Path("plan.yaml").with_suffix(VECTORS)
        sums[beside.name] = hashlib.sha256(out.staged(beside).read_bytes()).hexdigest()
    if codes is None:
        out.remove(CODES)
    else:
        sums[CODES] = stage_codes(out, quantized, CODES, coding=codes)
    comparison = None
    if data is not None:
        written = Net.of(low.message, path=str(out.path("lp.prototxt")))
        loaded = load_weights(written, out.staged(weights))
        comparison = compare(quantized.base, loaded, data, plan=plan, accumulated=False, batch=batch, progress=progress)
    report = ConversionReport.of(net, plan, (quantized, clipped), sums, comparison, data)
    out.write("report.json", report.to_bytes())
    return report


def convert(
    net: Net,
    plan: BitPlan,
    folder: str | PathLike[str],
    *,
    data: Data | None = None,
    force: bool = False,
    hdf5: bool = False,
    codes: str | None = None,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Conversion:
    """Write the four files of a conversion.

    A pure function of the network, its weights and the plan: the same input gives the same bytes. With data, the report
    has the error of each layer's output too. The files appear when all is done (see `lpcaffe.io.outputs`): what fails
    or is interrupted before leaves nothing behind, and files that `force` would overwrite as they were.

    `hdf5`: the weights go to lp.caffemodel.h5, which has no limit of 2 GiB, instead of lp.caffemodel. `codes`: the
    integer codes go to codes.npz, "packed" or as "huffman" codes (see `lpcaffe.conversion.codes`). Raises FileError
    when another conversion holds the folder.
    """
    with conversion_outputs(folder, force=force, inputs=(net.path, net.weights_path)) as out:
        report = stage_conversion(out, net, plan, data=data, hdf5=hdf5, codes=codes, batch=batch, progress=progress)
    made = Path(folder)
    return Conversion(
        load(made / "lp.prototxt", made / (HDF5_WEIGHTS if hdf5 else "lp.caffemodel")), plan, report, made
    )


def write_prototxt(net: Net, path: str | PathLike[str], *, force: bool = False) -> str:
    """Write a network's prototxt and return the SHA-256 of its bytes."""
    with outputs([path], force=force) as out:
        return stage_prototxt(out, net, path)


def stage_prototxt(out: Outputs, net: Net, path: str | PathLike[str]) -> str:
    """`write_prototxt` into a transaction."""
    with located(path=out.path(path)):
        text = dump(net.message)
    return out.write(path, text.encode())


def validate(
    net: Net,
    low: Net | Conversion,
    data: Data | None = None,
    *,
    plan: BitPlan | None = None,
    min_agreement: float | None = None,
    batch: int = BATCH,
    metric: Metric | None = None,
    progress: Progress | None = None,
) -> ValidationReport:
    """Check a low-precision network, or a whole conversion with its plan, against the network it came from.

    See `lpcaffe.validation.validate` for what is checked and for the arguments.
    """
    if isinstance(low, Conversion):
        plan = low.plan if plan is None else plan
        low = low.net
    return validate_nets(
        net, low, data, plan=plan, min_agreement=min_agreement, batch=batch, metric=metric, progress=progress
    )
