"""The whole job: a network, a plan and a folder become the four files of a conversion.

lp.prototxt  lp.caffemodel  plan.yaml  report.json
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from lpcaffe.calibration import BATCH, Progress
from lpcaffe.conversion import base_net, rewrite, write_weights
from lpcaffe.data import Data
from lpcaffe.errors import FileError
from lpcaffe.formats.files import whole_file
from lpcaffe.formats.prototxt import dump
from lpcaffe.net import Net, load
from lpcaffe.plan import BitPlan
from lpcaffe.report import ConversionReport
from lpcaffe.validation import compare

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
    if out.exists() and not out.is_dir():
        raise FileError("expected a folder for the output, got a file", path=out)
    for name in FILES:
        if (out / name).exists() and not force:
            raise FileError("the file exists", path=out / name, hint="--force overwrites it")
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
    """Write the four files of a conversion; report.json comes last.

    A pure function of the network, its weights and the plan: the same input gives the same bytes. With data, the report
    has the error of each layer's output too. Nothing is overwritten without `force`, and what an error interrupts is
    not left behind.
    """
    out = check_outputs(folder, force=force)
    base = base_net(net, plan)
    low = rewrite(net, plan)
    made = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"cannot be made: {(error.strerror or str(error)).lower()}", path=out) from error
    written: list[Path] = []
    try:
        (out / "report.json").unlink(missing_ok=True)
        sums = {}
        sums["lp.caffemodel"], errors = write_weights(net, plan, out / "lp.caffemodel", force=force)
        written.append(out / "lp.caffemodel")
        sums["lp.prototxt"] = write_prototxt(low, out / "lp.prototxt", force=force)
        written.append(out / "lp.prototxt")
        plan.save(out / "plan.yaml", force=force)
        written.append(out / "plan.yaml")
        sums["plan.yaml"] = hashlib.sha256((out / "plan.yaml").read_bytes()).hexdigest()
        loaded = load(out / "lp.prototxt", out / "lp.caffemodel")
        comparison = None
        if data is not None:
            comparison = compare(base, loaded, data, plan=plan, accumulated=False, batch=batch, progress=progress)
        files = {name: sums[name] for name in FILES if name in sums}
        report = ConversionReport.of(net, plan, errors, files, comparison, data)
        report.save(out / "report.json", force=force)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        if made and not any(out.iterdir()):
            out.rmdir()
        raise
    return Conversion(loaded, plan, report, out)
