"""A caffemodel: one serialised NetParameter, of which only the headers are ever parsed.

    NetParameter        layer = 100 (V2), layers = 2 (V1 and V0); all the rest is name, input, state, ...
    LayerParameter      blobs = 7; all the rest is the layer's header
    V1LayerParameter    blobs = 6; layer = 1 holds a V0 layer, whose blobs = 50
    BlobProto           see blobproto.py

Or an HDF5 file (hdf5.py), which has no headers: known by its content when it is read, asked for when it is written.

The file is mapped and walked by tags and lengths. The headers, joined without their blobs, are parsed by protobuf; the
values stay where they are in the file until somebody asks for them. A file is written from a network without blobs and
a source of values for each blob, in one pass. Neither way is the network ever in memory.
"""

from __future__ import annotations

import mmap
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from lpcaffe.errors import FileError, WeightsError, located, reason
from lpcaffe.formats import dialects, wire
from lpcaffe.formats.blobproto import BlobSource, StoredBlob, read_blob
from lpcaffe.formats.hdf5 import read_layers, write_layers
from lpcaffe.formats.schema import MAX_LAYERS, LayerParameter, Message, NetParameter, V1LayerParameter
from lpcaffe.formats.upgrade import generation, upgrade
from lpcaffe.io.hashed import hashed
from lpcaffe.io.kinds import HDF5_MAGIC, MAGIC, file_kind
from lpcaffe.io.outputs import Outputs, outputs

__all__ = [
    "BlobSource",
    "Caffemodel",
    "LayerBlobs",
    "StoredBlob",
    "open_caffemodel",
    "stage_caffemodel",
    "write_caffemodel",
]

# What Caffe's reader takes: protobuf's limit, a signed 32-bit length.
MAX_BYTES = 2**31 - 1

# All that is not a blob, together: networks of the wild have some 0.1 MB. The headers are in memory, part of the time
# as several copies, and a message of two bytes takes a hundred there, and microseconds.
MAX_HEADER_BYTES = 1 << 20

# Blobs in a file. No layer of the wild has more than 12 (a recurrent one), most have 2.
MAX_BLOBS = 4 * MAX_LAYERS

# Field of NetParameter -> field of its layers that holds the blobs; and that of a V0 layer inside a V1 layer.
LAYER_BLOBS = {100: 7, 2: 6}
V0_BLOBS = 50


@dataclass(frozen=True)
class LayerBlobs:
    """A layer of a caffemodel: its header, upgraded to V2 and without blobs, and its blobs."""

    header: Message
    blobs: list[StoredBlob]

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.header.name)

    @property
    def type(self) -> str:
        """The layer's type, as V2 spells it."""
        return str(self.header.type)


@dataclass(frozen=True)
class Caffemodel:
    """An open caffemodel.

    `net` is the NetParameter without blobs, upgraded to V2; `generation` ("V0", "V1" or "V2") is that of the file.
    Of an HDF5 file, all that `net` holds are the names of the layers with blobs.
    `layers` has one entry for each layer of `net`, in its order. `by_name` finds them; where several layers share a
    name (the data layers of two phases), it has the one with blobs.
    """

    path: str
    net: Message
    generation: str
    layers: list[LayerBlobs]
    by_name: dict[str, LayerBlobs]
    mapping: mmap.mmap

    def close(self) -> None:
        """Give the file back. If arrays that are views of it are still about, it stays mapped until they are gone."""
        with suppress(BufferError):
            self.mapping.close()

    def __enter__(self) -> Caffemodel:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_caffemodel(path: str | os.PathLike[str]) -> Caffemodel:
    """Open a caffemodel of any generation (or a NetParameter in binary form, without weights), or one in HDF5.

    The values of the blobs are not read, but their number is checked against their shape. However long the file,
    memory is bounded by `MAX_LAYERS`, `MAX_BLOBS`, `MAX_HEADER_BYTES` and `blobproto.MAX_FIELDS`, and time is linear.

    Raises FileError when the file is missing, cut off, damaged or something else, and when a shape and its values
    disagree; WeightsError when two layers of one name have blobs; MissingExtraError for HDF5 without h5py.
    """
    with located(path=path):
        mapping = _map(path)
        try:
            read = _read_hdf5 if mapping[: len(HDF5_MAGIC)] == HDF5_MAGIC else _read
            return read(os.fspath(path), mapping)
        except BaseException:
            with suppress(BufferError):
                mapping.close()
            raise


def _map(path: str | os.PathLike[str]) -> mmap.mmap:
    kind = file_kind(path)
    if kind not in ("binary", MAGIC[HDF5_MAGIC]):
        raise FileError(f"expected a caffemodel, got {_WORDS.get(kind, kind)}")
    try:
        with Path(path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {reason(error)}") from error


_WORDS = {"empty": "an empty file", "text": "text, a prototxt perhaps"}


class _Budget:
    """What is left of the limits of one file."""

    def __init__(self) -> None:
        self.header_bytes = MAX_HEADER_BYTES
        self.blobs = MAX_BLOBS

    def header(self, field: wire.Field) -> None:
        """Take a field that is going to be in memory."""
        self.header_bytes -= field.end - field.start
        if self.header_bytes < 0:
            raise FileError(f"byte {field.start}: expected at most {MAX_HEADER_BYTES} bytes beside the blobs, got more")

    def blob(self, field: wire.Field) -> None:
        """Take a blob."""
        self.blobs -= 1
        if self.blobs < 0:
            raise FileError(f"byte {field.start}: expected at most {MAX_BLOBS} blobs, got more")


class _RawLayer(NamedTuple):
    header: Message  # LayerParameter or V1LayerParameter, without blobs
    name: str
    blobs: list[StoredBlob]


def _read(path: str, mapping: mmap.mmap) -> Caffemodel:
    rest = bytearray()
    raw_layers: list[_RawLayer] = []
    budget = _Budget()
    for field in wire.walk(mapping, 0, len(mapping)):
        if field.wire_type == wire.BYTES and field.number in LAYER_BLOBS:
            if len(raw_layers) == MAX_LAYERS:
                raise FileError(f"byte {field.start}: expected at most {MAX_LAYERS} layers, got more")
            raw_layers.append(_read_layer(mapping, field, budget))
        else:
            budget.header(field)
            rest += mapping[field.start : field.end]
    if not raw_layers:
        raise FileError("expected a caffemodel, got a binary file without any layer")
    net = dialects.parse(NetParameter, bytes(rest))
    for raw in raw_layers:
        (net.layer if isinstance(raw.header, LayerParameter) else net.layers).append(raw.header)
    stored_generation = generation(net)
    net = upgrade(net)
    layers = _pair(net, raw_layers)
    by_name: dict[str, LayerBlobs] = {}
    for layer in layers:
        if layer.blobs and layer.name in by_name and by_name[layer.name].blobs:
            raise WeightsError("expected one layer of this name with blobs, got two", layer=layer.name)
        if layer.blobs or layer.name not in by_name:
            by_name[layer.name] = layer
    return Caffemodel(path, net, stored_generation, layers, by_name, mapping)


def _read_hdf5(path: str, mapping: mmap.mmap) -> Caffemodel:
    stored = read_layers(mapping)
    net = NetParameter(layer=[{"name": name} for name in stored])
    layers = [LayerBlobs(header, stored[header.name]) for header in net.layer]
    return Caffemodel(path, net, "V2", layers, {layer.name: layer for layer in layers}, mapping)


def _pair(net: Message, raw_layers: list[_RawLayer]) -> list[LayerBlobs]:
    """The layers of the upgraded net with the blobs of the file.

    The upgrade drops the padding layers of V0 and puts Input layers in front, so layers are matched by name, and those
    of one name from the last to the first.
    """
    waiting: dict[str, list[_RawLayer]] = {}
    for raw in raw_layers:
        waiting.setdefault(raw.name, []).append(raw)
    layers = []
    for header in reversed(net.layer):
        same_name = waiting.get(header.name)
        layers.append(LayerBlobs(header, same_name.pop().blobs if same_name else []))
    for name, left in waiting.items():
        if any(raw.blobs for raw in left):
            raise WeightsError("expected the upgraded network to have this layer, because it has blobs", layer=name)
    return layers[::-1]


def _read_layer(mapping: mmap.mmap, layer: wire.Field, budget: _Budget) -> _RawLayer:
    data, blob_fields = _split(mapping, layer, LAYER_BLOBS[layer.number], budget)
    try:
        header = dialects.layer_from_bytes(data) if layer.number == 100 else dialects.parse(V1LayerParameter, data)
    except FileError as error:
        error.problem = f"byte {layer.start}: {error.problem}"
        raise
    is_v0 = layer.number == 2 and header.HasField("layer")
    name = header.layer.name or header.name if is_v0 else header.name
    blobs = []
    for index, field in enumerate(blob_fields):
        with located(layer=name, blob=index):
            blobs.append(read_blob(mapping, field))
    return _RawLayer(header, name, blobs)


def _split(mapping: mmap.mmap, layer: wire.Field, blobs_number: int, budget: _Budget) -> tuple[bytes, list[wire.Field]]:
    """The bytes of a layer without its blobs, and the fields of the blobs, those of a V0 layer inside it included."""
    data = bytearray()
    blob_fields = []
    for field in wire.walk(mapping, layer.payload, layer.end):
        if field.wire_type == wire.BYTES and field.number == blobs_number:
            budget.blob(field)
            blob_fields.append(field)
        elif field.wire_type == wire.BYTES and field.number == 1 and blobs_number == LAYER_BLOBS[2]:
            inner, inner_blobs = _split(mapping, field, V0_BLOBS, budget)
            data += wire.delimited(1, len(inner)) + inner
            blob_fields += inner_blobs
        else:
            budget.header(field)
            data += mapping[field.start : field.end]
    return bytes(data), blob_fields


def write_caffemodel(
    path: str | os.PathLike[str],
    net: Message,
    blobs: Mapping[str, Sequence[BlobSource]],
    *,
    hdf5: bool = False,
    force: bool = False,
) -> str:
    """`stage_caffemodel` as a transaction of its own. After an error no file is left, or the earlier one."""
    with outputs([path], force=force) as out:
        return stage_caffemodel(out, path, net, blobs, hdf5=hdf5)


def stage_caffemodel(
    out: Outputs,
    path: str | os.PathLike[str],
    net: Message,
    blobs: Mapping[str, Sequence[BlobSource]],
    *,
    hdf5: bool = False,
) -> str:
    """Stage a V2 caffemodel, or with `hdf5` an HDF5 file, and return the SHA-256 of its bytes, in hexadecimal.

    Caffe takes a file for HDF5 if its name ends in .h5, and for nothing else.
    `net` is a V2 NetParameter; `blobs` has the blobs of its layers by layer name, and nothing is written of blobs that
    `net` itself may hold. The same input gives the same bytes. The file is produced in one pass and in pieces: no more
    than one piece of one blob is in memory.

    Raises FileError when the file cannot be written, or would be longer than Caffe reads or have more beside the blobs
    than `open_caffemodel` reads; WeightsError when `blobs` does not fit `net`, or a source does not give as many values
    as its shape says; MissingExtraError for HDF5 without h5py.
    """
    with located(path=out.path(path)):
        _check_layers(net, blobs)
        if hdf5:
            layers = {layer.name: blobs.get(layer.name, ()) for layer in net.layer}
            with out.open(path) as file:
                return write_layers(file, layers)
        pieces = _pieces(net, blobs)
        size = sum(len(piece.head) + (4 * piece.source.count if piece.source else 0) for piece in pieces)
        header_size = sum(len(piece.head) for piece in pieces if piece.source is None)
        if header_size > MAX_HEADER_BYTES:
            raise FileError(f"expected at most {MAX_HEADER_BYTES} bytes beside the blobs, got {header_size}")
        check_size(size)
        with out.open(path) as file, hashed(file) as behind:
            for piece in pieces:
                behind.write(piece.head)
                if piece.source is None:
                    continue
                with located(layer=piece.layer, blob=piece.number):
                    for values in piece.source.values():
                        behind.write(values.data)
            return behind.sha256()


def check_size(size: int) -> None:
    """Raise FileError when a caffemodel of `size` bytes is longer than Caffe reads."""
    if size > MAX_BYTES:
        raise FileError(
            f"expected at most {MAX_BYTES} bytes, which is all that Caffe reads, got {size}",
            hint="HDF5 has no such limit: a name in .h5, or convert --hdf5; the dialect plain needs half of it",
        )


class _Piece(NamedTuple):
    """Bytes of the file that are known, and the blob whose values follow them."""

    head: bytes
    source: BlobSource | None = None
    layer: str = ""
    number: int = 0


def _check_layers(net: Message, blobs: Mapping[str, Sequence[BlobSource]]) -> None:
    if net.layers:
        raise FileError("expected a V2 network, got V1 layers", hint="upgrade it first")
    names = Counter(layer.name for layer in net.layer)
    for name, sources in blobs.items():
        if sources and names[name] != 1:
            raise WeightsError(f"expected one layer of this name for its blobs, got {names[name]}", layer=name)


def _pieces(net: Message, blobs: Mapping[str, Sequence[BlobSource]]) -> list[_Piece]:
    """The whole file. Lengths stand before what they measure, and all follow from the headers and the shapes."""
    rest = NetParameter()
    rest.CopyFrom(net)
    rest.ClearField("layer")
    pieces = [_Piece(dialects.to_bytes(rest))]
    for layer in net.layer:
        header = LayerParameter()
        header.CopyFrom(layer)
        header.ClearField("blobs")
        data = dialects.layer_to_bytes(header)
        layer_blobs = []
        for index, source in enumerate(blobs.get(layer.name, ())):
            head = source.head()
            size = len(head) + 4 * source.count
            layer_blobs.append(_Piece(wire.delimited(7, size) + head, source, layer.name, index))
        size = len(data) + sum(len(piece.head) + 4 * piece.source.count for piece in layer_blobs if piece.source)
        pieces += [_Piece(wire.delimited(100, size) + data), *layer_blobs]
    return pieces
