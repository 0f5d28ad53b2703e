"""The whole job: a network, a plan and a folder become the four files of a conversion.

lp.prototxt  lp.caffemodel (or lp.caffemodel.h5)  plan.yaml  report.json
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lpcaffe.calibration import BATCH, Progress
from lpcaffe.conversion import write_quantized
from lpcaffe.data import Data
from lpcaffe.dialects import dialect_named
from lpcaffe.errors import FileError, LpcaffeError, located
from lpcaffe.formats.files import cannot_write, check_output, move_whole, sync_folder, whole_file
from lpcaffe.formats.locks import held_folder
from lpcaffe.formats.prototxt import dump
from lpcaffe.net import Net, load
from lpcaffe.quant.apply import apply_plan
from lpcaffe.quant.plan import BitPlan
from lpcaffe.report import ConversionReport
from lpcaffe.validation import ValidationReport, compare
from lpcaffe.validation import validate as validate_nets
from lpcaffe.validation.metric import Metric

FILES = ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json")

# In place of lp.caffemodel. A folder has one of the two, so that nobody takes the weights of another conversion.
HDF5_WEIGHTS = "lp.caffemodel.h5"


@dataclass(frozen=True)
class Conversion:
    """The low-precision network as it was written, with its weights, its plan, the report, and the folder."""

    net: Net
    plan: BitPlan
    report: ConversionReport
    folder: Path


def check_outputs(
    folder: str | PathLike[str], *, force: bool = False, inputs: Iterable[str | PathLike[str] | None] = ()
) -> Path:
    """The output folder, after a check that none of the files is in the way.

    Raises FileError, also when an output is one of the `inputs`, which not even `force` may overwrite, or when two are
    one file, through links.
    """
    out = Path(folder)
    taken = {os.path.realpath(path): f"the input {path}" for path in inputs if path is not None}
    for name in (HDF5_WEIGHTS, *FILES):
        check_output(out / name, force=force, makes_folder=True)
        place = os.path.realpath(out / name)
        if place in taken:
            raise FileError(f"expected a file of its own for this output, got {taken[place]}", path=out / name)
        taken[place] = f"the same file as {name}"
    if out.exists() and not out.is_dir():
        raise FileError("expected a folder for the output, got a file", path=out)
    return out


@contextmanager
def output_folder(
    folder: str | PathLike[str], *, force: bool = False, inputs: Iterable[str | PathLike[str] | None] = ()
) -> Iterator[Path]:
    """The folder for the four files, held against other conversions until the block ends.

    It is made if need be, and removed again if it stays empty. What a killed conversion left in it is removed: only
    the holder of the folder makes `.lpcaffe-*.part` folders there. Raises FileError, at once, when one of the files is
    in the way (see `check_outputs`) or when another conversion holds the folder.
    """
    out = check_outputs(folder, force=force, inputs=inputs)
    with held_folder(out) as locked:
        if locked:
            for stale in out.glob(".lpcaffe-*.part"):
                if stale.is_dir() and not stale.is_symlink():
                    shutil.rmtree(stale, ignore_errors=True)
        yield out


def write_prototxt(net: Net, path: str | PathLike[str], *, force: bool = False) -> str:
    """Write a network's prototxt and return the SHA-256 of its bytes."""
    with located(path=path):
        text = dump(net.message)
    with whole_file(path, force, "w") as file:
        file.write(text)
    return hashlib.sha256(text.encode()).hexdigest()


def convert(
    net: Net,
    plan: BitPlan,
    folder: str | PathLike[str],
    *,
    data: Data | None = None,
    force: bool = False,
    held: bool = False,
    hdf5: bool = False,
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Conversion:
    """Write the four files of a conversion.

    A pure function of the network, its weights and the plan: the same input gives the same bytes. With data, the report
    has the error of each layer's output too. The files are made in a folder of their own inside `folder` and moved when
    all is done, report.json last: what fails or is interrupted before leaves nothing behind, and files that `force`
    would overwrite as they were. While files are moved there is no report.json: where there is one, it describes the
    three others, even after a power cut.

    `hdf5`: the weights go to lp.caffemodel.h5, which knows no limit of 2 GiB, instead of lp.caffemodel.
    `held`: the caller is inside `output_folder(folder)`. Raises FileError when another conversion is.
    """
    inputs = (net.path, net.weights_path)
    with nullcontext(Path(folder)) if held else output_folder(folder, force=force, inputs=inputs) as out:
        quantized = apply_plan(net, plan)
        low = dialect_named(plan.policy.dialect).network(quantized)
        with _staging(out) as part:
            sums = {}
            weights = HDF5_WEIGHTS if hdf5 else "lp.caffemodel"
            sums[weights], clipped = write_quantized(quantized, low, part / weights)
            sums["lp.prototxt"] = write_prototxt(low, part / "lp.prototxt")
            plan.save(part / "plan.yaml")
            sums["plan.yaml"] = hashlib.sha256((part / "plan.yaml").read_bytes()).hexdigest()
            comparison = None
            if data is not None:
                loaded = load(part / "lp.prototxt", part / weights)
                comparison = compare(
                    quantized.base, loaded, data, plan=plan, accumulated=False, batch=batch, progress=progress
                )
            files = {name: sums[name] for name in ("lp.prototxt", weights, "plan.yaml")}
            report = ConversionReport.of(net, plan, (quantized, clipped), files, comparison, data)
            report.save(part / "report.json")
            check_outputs(folder, force=force, inputs=inputs)  # they may have come into being meanwhile
            _move(part, out)
        return Conversion(load(out / "lp.prototxt", out / weights), plan, report, out)


def _move(part: Path, out: Path) -> None:
    """Move the four files. The disk must know that the old report is gone before it learns of any other change."""
    report = Path(os.path.realpath(out / "report.json"))
    try:
        if report.exists():
            report.unlink()
            sync_folder(report.parent)
        for name in (HDF5_WEIGHTS, *FILES):
            if (part / name).exists():
                move_whole(part / name, out / name)
            else:  # the weights of an earlier conversion, in the other format
                (out / name).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder inside `out`, gone at the end."""
    part = out / f".lpcaffe-{secrets.token_hex(8)}.part"
    try:
        try:
            part.mkdir()
        except OSError as error:
            raise cannot_write(out, error) from error
        yield part
    except LpcaffeError as error:
        # The user knows the folder by its own name.
        if error.path is not None and Path(error.path).parent == part:
            error.path = str(out / Path(error.path).name)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
