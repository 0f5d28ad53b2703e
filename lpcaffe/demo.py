"""The demonstration: the embedded LeNet, converted at 16 bits and proved on real digits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from os import PathLike
from pathlib import Path

from lpcaffe.allocation import allocate
from lpcaffe.calibration import calibrate
from lpcaffe.data import images
from lpcaffe.io.outputs import check_outputs
from lpcaffe.net import load
from lpcaffe.pipeline import FILES, HDF5_WEIGHTS, Conversion, convert, validate
from lpcaffe.validation import ValidationReport

# The first digits calibrate, all of them validate.
CALIBRATION_DIGITS = 100


@dataclass(frozen=True)
class Demo:
    """What the demonstration made: the conversion, its proof, and the names of the files."""

    conversion: Conversion
    validation: ValidationReport
    files: tuple[str, ...] = FILES


def embedded_lenet() -> Path:
    """The folder of the embedded network: deploy.prototxt, lenet.caffemodel, digits.npz.

    In an installed package it lies inside the package, in a checkout in models/lenet.
    """
    installed = Path(str(resources.files("lpcaffe"))) / "models" / "lenet"
    return installed if installed.is_dir() else Path(__file__).resolve().parent.parent / "models" / "lenet"


def run_demo(
    folder: str | PathLike[str],
    *,
    bits: int = 16,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Demo:
    """Convert the embedded LeNet into `folder` and validate it on its 1,000 digits. Fails when a decision changes."""
    check_outputs((HDF5_WEIGHTS, *FILES), force=force, folder=folder)
    lenet = embedded_lenet()
    net = load(lenet / "deploy.prototxt", lenet / "lenet.caffemodel")
    digits = lenet / "digits.npz"
    calibration = images(digits, net, limit=CALIBRATION_DIGITS)
    plan = allocate(net, calibrate(net, calibration, progress=progress), bits=bits)
    conversion = convert(net, plan, folder, data=calibration, force=force, progress=progress)
    proof = validate(net, conversion, images(digits, net), min_agreement=1.0, progress=progress)
    return Demo(conversion, proof)
