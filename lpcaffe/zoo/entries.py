"""models/zoo.yaml: released networks, where their weights are published and how a copy is checked.

    NAME:
      title           what it is, in one line
      file            the caffemodel's file name
      licence         of the weights, or "not stated"
      url             where the caffemodel is published, http or https; or else
      package         {requirement: NAME==VERSION, sha256: of the archive, member: path in it}, a Python package with it
      size            of the caffemodel, in bytes
      sha1, sha256    of the caffemodel, in hexadecimal; or, where no more of it was published,
      sha256_begins   the first digits of the latter
      preprocessing   what it was trained with, as keywords of `lpcaffe.images`; resize is [W, H]
      accuracy        {top1, top5}: published, of one crop, in per cent

There must be a title, a file, a licence, and a url or a package, and with a package the file's sha256.
NAME/deploy.prototxt beside zoo.yaml is the network; its layers have the names of those in the caffemodel.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lpcaffe.errors import FileError, NetError, located
from lpcaffe.zoo.packages import Package

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Entry:
    """A network of the zoo; the fields are the keys of the module's docstring, None for what is not known.

    Either `url` is given, or `package` with `member`. `prototxt` is the path of its deploy.prototxt.
    """

    name: str
    title: str
    file: str
    licence: str
    prototxt: Path
    url: str | None = None
    package: Package | None = None
    member: str | None = None
    size: int | None = None
    sha1: str | None = None
    sha256: str | None = None
    sha256_begins: str | None = None
    preprocessing: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    accuracy: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    @property
    def checksums(self) -> dict[str, str]:
        """The whole checksums that are known, by the name of the algorithm."""
        known = {"sha1": self.sha1, "sha256": self.sha256}
        return {algorithm: digest for algorithm, digest in known.items() if digest is not None}


def models_folder() -> Path:
    """Where zoo.yaml and the prototxts lie: inside an installed package, or in models/ of a checkout."""
    installed = Path(str(resources.files("lpcaffe"))) / "models"
    return installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "models"


@functools.cache
def zoo() -> Mapping[str, Entry]:
    """The networks that lpcaffe knows, by name."""
    return MappingProxyType(read_zoo(models_folder() / "zoo.yaml"))


def entry(name: str) -> Entry:
    """The network of this name; NetError that lists the known names, the most similar first, when there is none."""
    entries = zoo()
    if name not in entries:
        names = sorted(entries, key=lambda known: -difflib.SequenceMatcher(None, name.lower(), known).ratio())
        raise NetError(f'the zoo has no network "{name}"', hint=f"it has {', '.join(names)}")
    return entries[name]


def entry_with_weights(size: int, digest: Callable[[str], str]) -> Entry | None:
    """The network whose caffemodel has this size in bytes and these checksums, or None.

    `digest` gives the checksum of the caffemodel by the name of an algorithm, "sha1" or "sha256", in hexadecimal. It is
    asked only for networks whose size, if it is known, is this one. A checksum that is not known whole proves nothing.
    """
    digest = functools.cache(digest)
    for candidate in zoo().values():
        known = candidate.checksums
        if known and candidate.size in (None, size) and all(digest(name) == value for name, value in known.items()):
            return candidate
    return None


def read_zoo(path: str | os.PathLike[str]) -> dict[str, Entry]:
    """The entries of a zoo.yaml. Raises FileError that names the network and what is wrong with it."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise FileError(f"cannot be read as YAML: {' '.join(str(error).split())}", path=path) from error
    with located(path=path):
        if not isinstance(content, dict):
            raise FileError("expected networks by name, got something else")
        return {name: _entry(name, values, Path(path).parent) for name, values in content.items()}


_HEX = {"sha1": r"[0-9a-f]{40}", "sha256": r"[0-9a-f]{64}", "sha256_begins": r"[0-9a-f]{4,63}"}
_TYPES: dict[str, Any] = {"size": int, "package": dict, "preprocessing": dict, "accuracy": dict}
_KEYS = {"title", "file", "licence", "url", *_HEX, *_TYPES}
_INNER = {
    "package": {"requirement", "sha256", "member"},
    "preprocessing": {"resize", "crop", "mean", "scale", "channels"},
    "accuracy": {"top1", "top5"},
}


def _entry(name: Any, values: Any, folder: Path) -> Entry:
    if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name) and isinstance(values, dict)):
        raise FileError(f"expected a name and its keys, got {name!r}")
    _check_keys(name, "", values, _KEYS, {"title", "file", "licence"})
    value: Any
    for key, value in values.items():
        wanted = _TYPES.get(key, str)
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise FileError(f'network "{name}": {key} must be {wanted.__name__}, got {value!r}')
        if key in _INNER:
            _check_keys(name, f"{key}: ", value, _INNER[key], _INNER[key] if key == "package" else set())
        if key in _HEX and not re.fullmatch(_HEX[key], value):
            raise FileError(f'network "{name}": {key} must be digits 0 to 9 and a to f of its length, got {value!r}')
    if ("url" in values) == ("package" in values):
        raise FileError(f'network "{name}": expected either a url or a package')
    if Path(values["file"]).name != values["file"]:
        raise FileError(f'network "{name}": file must be a name without folders, got {values["file"]!r}')
    if "package" in values and "sha256" not in values:
        raise FileError(f'network "{name}": a file out of a package needs its sha256')
    package = values.get("package")
    return Entry(
        name=name,
        prototxt=folder / name / "deploy.prototxt",
        package=None if package is None else Package(package["requirement"], package["sha256"]),
        member=None if package is None else package["member"],
        preprocessing=_frozen(values.get("preprocessing", {})),
        accuracy=_frozen(values.get("accuracy", {})),
        **{key: value for key, value in values.items() if key not in _INNER},
    )


def _frozen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType({key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _check_keys(name: str, where: str, values: Mapping[Any, Any], known: set[str], needed: set[str]) -> None:
    if unknown := [str(key) for key in values if key not in known]:
        raise FileError(f'network "{name}": {where}unknown key {unknown[0]!r}, known are {", ".join(sorted(known))}')
    if missing := sorted(needed - set(values)):
        raise FileError(f'network "{name}": {where}{", ".join(missing)} missing')
