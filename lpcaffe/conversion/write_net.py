"""A network and its weights as two files, both or none."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from os import PathLike
from pathlib import Path

from lpcaffe.conversion.weights import snapshot_header
from lpcaffe.errors import FileError, LpcaffeError, WeightsError, located
from lpcaffe.formats.blobproto import CHUNK
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.formats.files import cannot_write, check_output, sync_folder, whole_file
from lpcaffe.formats.prototxt import dump
from lpcaffe.net import Net, WeightBlob


def write_net(
    net: Net, prototxt: str | PathLike[str], caffemodel: str | PathLike[str], *, force: bool = False
) -> tuple[str, str]:
    """Write a network and its weights, both files or none. Returns their names.

    Values are copied bit by bit as they stream, float64 as float32. Raises FileError when a file is in the way, or
    cannot be written; WeightsError when the network has no weights.
    """
    if net.weights is None:
        raise WeightsError("expected weights to write, got none", path=net.path)
    if os.path.realpath(prototxt) == os.path.realpath(caffemodel):
        raise FileError("expected two files for network and weights, got one", path=caffemodel)
    blobs = {name: [_copy(blob) for blob in own] for name, own in net.weights.items()}
    with _whole_files((caffemodel, prototxt), force) as (weights_part, net_part):
        with located(path=prototxt):
            text = dump(net.message)
        with whole_file(net_part, mode="w") as file:
            file.write(text)
        write_caffemodel(weights_part, snapshot_header(net), blobs)
    return os.fspath(prototxt), os.fspath(caffemodel)


@contextmanager
def _whole_files(paths: Sequence[str | PathLike[str]], force: bool) -> Iterator[list[Path]]:
    """Files to write, which get the names `paths` one after the other once all of them are on the disk.

    Links are followed. What fails before takes nothing away, and nothing new stays. Between two renames only a fault of
    the disk, a kill or a power cut can come; after a fault, files that `force` has replaced by then stay replaced.
    """
    for path in paths:
        check_output(path, force=force)
    targets = [Path(os.path.realpath(path)) for path in paths]
    # The end of the name makes it a caffemodel or an HDF5 file.
    ends = [".h5" if os.fspath(path).endswith(".h5") else "" for path in paths]
    parts = [to.with_name(f".lpcaffe-{secrets.token_hex(8)}.part{end}") for to, end in zip(targets, ends, strict=True)]
    fresh: list[Path] = []
    try:
        yield parts
        for path in paths:
            check_output(path, force=force)  # they may have come into being meanwhile
        fresh = [target for target in targets if not target.exists()]
        try:
            for part, target in zip(parts, targets, strict=True):
                part.replace(target)
            # Only now: a folder that cannot be synchronised must not come between two renames.
            for target in targets:
                sync_folder(target.parent)
        except OSError as error:
            raise cannot_write(paths[targets.index(target)], error) from error
    except BaseException as error:
        for path, part, target in zip(paths, parts, targets, strict=True):
            with suppress(OSError):
                if part.exists():
                    part.unlink()
                elif target in fresh:
                    target.unlink()
            if isinstance(error, LpcaffeError) and error.path == str(part):
                error.path = os.fspath(path)  # the user knows the file by its own name
        raise


def _copy(blob: WeightBlob) -> BlobSource:
    return BlobSource(blob.shape, partial(blob.chunks, CHUNK), blob.legacy)
