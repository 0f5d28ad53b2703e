"""Weights in HDF5, as Caffe's `snapshot_format: HDF5` leaves them (.caffemodel.h5): values by layer, and nothing else.

    /data               a group
    /data/LAYER         a group for each layer, empty where there are no blobs; slashes in the name nest groups
    /data/LAYER/0, 1    datasets, the blobs in their order: float32 or float64, of the blob's own shape
    /diff               gradients, in the same way; passed over

There are no types, params or fields of forks, no limit of 2 GiB, and no legacy dims. A blob that layers share is with
its owner only.

A writer SHOULD write float32 and MUST store every dataset in one piece (contiguous), which is HDF5's default and what
Caffe does. So a blob is a span of the file: h5py lays the file out and finds the spans, and the values go between file
and memory as those of any caffemodel do. What this reader need not do it cannot be made to do: no filter is run, and no
second file is opened for external links, external storage or virtual datasets, which are errors.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import IO, Any

import numpy as np

from lpcaffe.errors import FileError, MissingExtraError, WeightsError, located, reason, warn
from lpcaffe.formats.blobproto import BlobSource, Span, StoredBlob, check_shape
from lpcaffe.formats.schema import MAX_LAYERS
from lpcaffe.io.hashed import hashed
from lpcaffe.io.kinds import UNREADABLE

# Of a layer, its slashes included. It bounds how deep groups nest.
MAX_NAME_BYTES = 4096

# Groups and datasets of one file.
MAX_LINKS = 5 * MAX_LAYERS


def require_h5py() -> Any:
    """The package h5py. Raises MissingExtraError without it."""
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("weights in HDF5 need the package h5py", hint="pip install 'lpcaffe[hdf5]'") from error
    return h5py


# ------------------------------------------------------------------------------------------------------------- reading


def read_layers(mapping: mmap.mmap) -> dict[str, list[StoredBlob]]:
    """The layers with blobs of a mapped HDF5 file, sorted by name. No value is read.

    Raises FileError when the file is damaged, cut off or not laid out as above, MissingExtraError without h5py.
    """
    h5py = require_h5py()
    try:
        with h5py.File(mapping, "r") as file:
            return _read(h5py, file.id, mapping)
    except UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise FileError(f"expected a readable HDF5 file, got a damaged one: {reason}") from error


def _read(h5py: Any, root: Any, mapping: mmap.mmap) -> dict[str, list[StoredBlob]]:
    data, address = _open(h5py, root, b"data") if root.links.exists(b"data") else (None, None)
    if not isinstance(data, h5py.h5g.GroupID):
        raise FileError('expected an HDF5 file with a group "data", got none', hint="Caffe's weights are in it")
    layers = {}
    links = 0
    seen = {address}
    waiting = [("", data)]
    while waiting:
        layer, group = waiting.pop()
        links += group.get_num_objs()
        if len(layer.encode()) > MAX_NAME_BYTES or links > MAX_LINKS:
            raise FileError(f"expected names of at most {MAX_NAME_BYTES} bytes and {MAX_LINKS} groups and datasets")
        blobs = {}
        for name in group:
            text = name.decode()
            with located(layer=layer or text):
                found, address = _open(h5py, group, name)
                if isinstance(found, h5py.h5g.GroupID):
                    if address in seen:
                        raise FileError(f'expected groups in one place each, got "{text}" twice or inside itself')
                    seen.add(address)
                    waiting.append((f"{layer}/{text}" if layer else text, found))
                elif not layer or not isinstance(found, h5py.h5d.DatasetID) or not _is_number(text):
                    raise FileError(f'expected datasets "0", "1", ... in groups of their layers, got "{text}"')
                else:
                    with located(blob=int(text)):
                        blobs[int(text)] = _blob(h5py, found, mapping)
        if blobs:
            layers[layer] = [blobs[number] for number in _numbers(layer, blobs)]
    return dict(sorted(layers.items()))


def _open(h5py: Any, group: Any, name: bytes) -> tuple[Any, int]:
    """What a link leads to, and its address, if it leads there directly: one by name (soft) may end in an external one.

    The address is the link's: `H5Oget_info`, which knows it too, does not come back from some damaged files.
    """
    link = group.links.get_info(name)
    if link.type != h5py.h5l.TYPE_HARD:
        raise FileError(f'expected groups and datasets of this file, got the soft or external link "{name.decode()}"')
    return h5py.h5o.open(group, name), link.u


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 9 and str(int(text)) == text


def _numbers(layer: str, blobs: Mapping[int, StoredBlob]) -> range:
    missing = next((number for number in range(len(blobs)) if number not in blobs), None)
    if missing is not None:
        hint = "Caffe leaves out what a layer shares with another one; lpcaffe reads layers that share all or nothing"
        raise FileError(f"expected {len(blobs)} blobs from 0 on, got none", layer=layer, blob=missing, hint=hint)
    return range(len(blobs))


def _blob(h5py: Any, dataset: Any, mapping: mmap.mmap) -> StoredBlob:
    """A dataset as a span of the file. One that was never written to has a size of 0 there, and no offset."""
    properties = dataset.get_create_plist()
    layout = properties.get_layout()
    if properties.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise FileError("expected values in this file, got an external or virtual dataset")
    if layout != h5py.h5d.CONTIGUOUS:
        hint = "h5repack --layout=CONTI --filter=NONE OLD NEW"
        raise FileError("expected values in one piece (contiguous), got a chunked or compact dataset", hint=hint)
    kind, space = dataset.get_type(), dataset.get_space()
    dtype = next((np.dtype(code) for code, known in _types(h5py).items() if kind.equal(known)), None)
    if dtype is None or space.get_simple_extent_type() == h5py.h5s.NULL:
        got = "none" if dtype else f"{kind.get_size()} bytes each of another type"
        raise FileError(f"expected values of float32 or float64, got {got}")
    shape = tuple(space.get_simple_extent_dims())
    size, offset = dataset.get_storage_size(), dataset.get_offset()
    check_shape(shape, size // dtype.itemsize)
    if not size:
        return StoredBlob(shape, False, dtype, (), mapping)
    if offset is None or offset + size > len(mapping):
        raise FileError(f"expected {size} bytes of values, got the end of the file")
    return StoredBlob(shape, False, dtype, (Span(offset, size // dtype.itemsize),), mapping)


def _types(h5py: Any) -> dict[str, Any]:
    t = h5py.h5t
    return {"<f4": t.IEEE_F32LE, "<f8": t.IEEE_F64LE, ">f4": t.IEEE_F32BE, ">f8": t.IEEE_F64BE}


# ------------------------------------------------------------------------------------------------------------- writing


def write_layers(file: IO[bytes], layers: Mapping[str, Sequence[BlobSource]]) -> str:
    """Write the blobs of layers, by name, into an empty file, and return its SHA-256, in hexadecimal.

    The same input gives the same bytes: there are no times in the file. The file is laid out first, and then the values
    are written into it in one pass: no more than one piece of one blob is in memory. Warns when Caffe will not find
    layers: it looks for them in "data" itself, and one with a slash in its name is in a group inside.

    Raises FileError when the file cannot be written; WeightsError when HDF5 cannot hold a name, or a source does not
    give as many values as its shape says.
    """
    h5py = require_h5py()
    _check_names(layers)
    if nested := [name for name, blobs in layers.items() if blobs and "/" in name]:
        more = f" and {len(nested) - 1} more" if len(nested) > 1 else ""
        text = f'Caffe will not find the weights of "{nested[0]}"{more} in HDF5, because of the slash in the name'
        warn(text, stacklevel=3)
    try:
        offsets = _lay_out(h5py, file.name, layers)
    except UNREADABLE as error:
        raise FileError(f"cannot be written: {_why(error)}") from error
    blobs_at = [(offset, name, number) for name, blobs in offsets.items() for number, offset in enumerate(blobs)]
    with hashed(file) as behind:
        for offset, name, number in sorted(blobs_at):
            with located(layer=name, blob=number):
                behind.skip_to(offset)
                for values in layers[name][number].values():
                    behind.write(values.data)
        return behind.sha256()


def _why(error: BaseException) -> str:
    """What went wrong in the HDF5 library, whose own words hold the time of day."""
    if number := re.search(r"errno = (\d+)", str(error)):
        return os.strerror(int(number[1])).lower()
    return "the disk is full, or fails" if isinstance(error, OSError | RuntimeError) else reason(error)


def _check_names(layers: Mapping[str, Sequence[BlobSource]]) -> None:
    """HDF5 takes names for paths: it drops empty steps and ".", and a layer cannot be where another one's blob is."""
    groups = {group for name in layers for group in accumulate(name.split("/"), "{}/{}".format)}
    for name, blobs in layers.items():
        steps = name.split("/")
        if "" in steps or "." in steps or "\0" in name or len(name.encode()) > MAX_NAME_BYTES:
            problem = f"expected a name that HDF5 can hold: at most {MAX_NAME_BYTES} bytes, and between slashes"
            raise WeightsError(f'{problem} steps that are not empty, not ".", and without the character 0', layer=name)
        for number, source in enumerate(blobs):
            if f"{name}/{number}" in groups:
                raise WeightsError(
                    f'HDF5 has one place for it and for the layer "{name}/{number}"', layer=name, blob=number
                )
            if source.legacy:
                problem = "expected the shape that the layer gives its blob, got legacy dims, which HDF5 does not have"
                raise WeightsError(problem, layer=name, blob=number, hint="write .caffemodel")


def _lay_out(h5py: Any, path: str, layers: Mapping[str, Sequence[BlobSource]]) -> dict[str, list[int]]:
    """A file with everything but the values. Returns where the values of each blob go."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.CONTIGUOUS)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    properties.set_obj_track_times(False)
    offsets: dict[str, list[int]] = {}
    # The oldest format of everything, as HDF5 1.8 of Caffe's days writes it.
    with h5py.File(path, "w", libver=("earliest", "v108"), track_order=False) as file:
        data = file.create_group("data", track_order=False)
        for name, blobs in layers.items():
            group = data.require_group(name)
            offsets[name] = []
            for number, source in enumerate(blobs):
                scalar = h5py.h5s.create(h5py.h5s.SCALAR)
                space = h5py.h5s.create_simple(source.shape) if source.shape else scalar
                dataset = h5py.h5d.create(group.id, b"%d" % number, h5py.h5t.IEEE_F32LE, space, properties)
                offsets[name].append(dataset.get_offset() or 0)  # none where there are no values
    return offsets
