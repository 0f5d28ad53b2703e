"""The whole job: a network, a plan and a folder become the four files of a conversion.

lp.prototxt  lp.caffemodel  plan.yaml  report.json
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lpcaffe.calibration import BATCH, Progress
from lpcaffe.conversion import base_net, rewrite, write_weights
from lpcaffe.data import Data
from lpcaffe.errors import FileError, LpcaffeError
from lpcaffe.formats.files import check_output, whole_file
from lpcaffe.formats.prototxt import dump
from lpcaffe.net import Net, load
from lpcaffe.plan import BitPlan
from lpcaffe.report import ConversionReport
from lpcaffe.validation import ValidationReport, compare
from lpcaffe.validation import validate as validate_nets
from lpcaffe.validation.metric import Metric

FILES = ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json")


@dataclass(frozen=True)
class Conversion:
    """The low-precision network as it was written, with its weights, its plan, the report, and the folder."""

    net: Net
    plan: BitPlan
    report: ConversionReport
    folder: Path


def check_outputs(folder: str | PathLike[str], *, force: bool = False) -> Path:
    """The output folder, after a check that none of the four files is in the way. Raises FileError."""
    out = Path(folder)
    for name in FILES:
        check_output(out / name, force=force, makes_folder=True)
    if out.exists() and not out.is_dir():
        raise FileError("expected a folder for the output, got a file", path=out)
    return out


def write_prototxt(net: Net, path: str | PathLike[str], *, force: bool = False) -> str:
    """Write a network's prototxt and return the SHA-256 of its bytes."""
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
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Conversion:
    """Write the four files of a conversion.

    A pure function of the network, its weights and the plan: the same input gives the same bytes. With data, the report
    has the error of each layer's output too. The files are made in a folder of their own inside `folder` and moved when
    all is done, report.json last: what fails or is interrupted leaves nothing behind, and files that `force` would
    overwrite as they were.
    """
    out = check_outputs(folder, force=force)
    base = base_net(net, plan)
    low = rewrite(net, plan)
    with _staging(out) as part:
        sums = {}
        sums["lp.caffemodel"], errors = write_weights(net, plan, part / "lp.caffemodel")
        sums["lp.prototxt"] = write_prototxt(low, part / "lp.prototxt")
        plan.save(part / "plan.yaml")
        sums["plan.yaml"] = hashlib.sha256((part / "plan.yaml").read_bytes()).hexdigest()
        comparison = None
        if data is not None:
            loaded = load(part / "lp.prototxt", part / "lp.caffemodel")
            comparison = compare(base, loaded, data, plan=plan, accumulated=False, batch=batch, progress=progress)
        files = {name: sums[name] for name in FILES if name in sums}
        report = ConversionReport.of(net, plan, errors, files, comparison, data)
        report.save(part / "report.json")
        check_outputs(folder, force=force)  # they may have come into being meanwhile
        try:
            (out / "report.json").unlink(missing_ok=True)
            for name in FILES:
                (part / name).replace(out / name)
        except OSError as error:
            raise _cannot_write(out, error) from error
    return Conversion(load(out / "lp.prototxt", out / "lp.caffemodel"), plan, report, out)


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder inside `out`, which is made if need be; gone at the end, and so is what was made and stays empty."""
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    part = out / f".lpcaffe-{secrets.token_hex(8)}.part"
    try:
        try:
            part.mkdir(parents=True)
        except OSError as error:
            raise _cannot_write(out, error) from error
        yield part
    except LpcaffeError as error:
        # The user knows the folder by its own name.
        if error.path is not None and Path(error.path).parent == part:
            error.path = str(out / Path(error.path).name)
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # not empty, most often
            for folder in new:
                folder.rmdir()


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


def _cannot_write(out: Path, error: OSError) -> FileError:
    return FileError(f"cannot be written: {(error.strerror or str(error)).lower()}", path=out)
