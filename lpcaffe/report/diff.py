"""What differs between two files: two caffemodels, bit by bit, or two prototxts, field by field.

Of two caffemodels the weights are compared: names of layers, numbers and shapes of their blobs, and every value. Two
values differ when their bits do, and there are three ways to differ:

    values          the numbers differ, or one of them is no number (NaN)
    zero_signs      0.0 against -0.0
    nan_payloads    NaN against a NaN with other bits

Caffe never reads the rest of a caffemodel, the headers of the layers: differences there are reported but do not
count. How values are stored (unpacked, as float64, or with dims of before 2014) does not count either.

Of two prototxts every field is compared, after both are upgraded to V2. An absent field differs from one
set to its default.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from lpcaffe.errors import FileError, located
from lpcaffe.formats import scalars
from lpcaffe.formats.caffemodel import StoredBlob, open_caffemodel
from lpcaffe.formats.prototxt import read
from lpcaffe.formats.schema import Message
from lpcaffe.formats.upgrade import generation, upgrade
from lpcaffe.io.kinds import file_kind
from lpcaffe.net.blobs import side_by_side

# Longest name and path shown for a field, in characters: hostile files can hold names of any length.
MAX_NAME = 200


@dataclass(frozen=True)
class BlobDiff:
    """One blob that differs. A shape of None: only the other file has it.

    `differing` values have other bits, the `first` of them at that place in C order: the sum of `values`, `zero_signs`
    and `nan_payloads`. `max_abs_difference` is over the finite ones. Blobs of another number of values are not
    compared: the figures are 0.
    """

    layer: str
    blob: int
    shape_a: tuple[int, ...] | None
    shape_b: tuple[int, ...] | None
    count: int = 0
    differing: int = 0
    values: int = 0
    zero_signs: int = 0
    nan_payloads: int = 0
    max_abs_difference: float = 0.0
    first: int | None = None


@dataclass(frozen=True)
class FieldDiff:
    """A field of a prototxt that differs: of a layer, or of the network (None). None is an absent field."""

    layer: str | None
    field: str
    a: str | None
    b: str | None


@dataclass(frozen=True)
class DiffReport:
    """What differs between the files `a` and `b`, which are both of one `kind`: "caffemodel" or "prototxt".

    `only_a` and `only_b` are layers (of caffemodels: layers with blobs). `reordered`: the layers of both prototxts are
    the same, in another order. `headers` are the layers of two caffemodels whose headers differ, and do not count.
    `compared` says how much was: layers that both files have, their blobs, their values.
    """

    kind: str
    a: str
    b: str
    generations: tuple[str, str]
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    reordered: bool = False
    fields: tuple[FieldDiff, ...] = ()
    blobs: tuple[BlobDiff, ...] = ()
    headers: tuple[str, ...] = ()
    compared: Mapping[str, int] | None = None

    @property
    def same(self) -> bool:
        """Whether nothing differs that counts."""
        return not (self.only_a or self.only_b or self.reordered or self.fields or self.blobs)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {"version": 1, "same": self.same} | asdict(self)


def diff(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> DiffReport:
    """Compare two caffemodels or two prototxts of any generation, each recognised by its content.

    Values are read piece by piece: memory does not grow with the blobs. Raises FileError for a file that is neither,
    and for one of each.
    """
    kinds = [file_kind(path) for path in (a, b)]
    if sorted(kinds) == ["binary", "text"]:
        words = {"text": "a prototxt", "binary": "a caffemodel"}
        raise FileError(f"expected {words[kinds[0]]}, as the other file is, got {words[kinds[1]]}", path=b)
    # What is neither is refused by the reader.
    return (_prototxts if "text" in kinds else _caffemodels)(os.fspath(a), os.fspath(b))


# ---------------------------------------------------------------------------------------------------- caffemodels


def _caffemodels(a: str, b: str) -> DiffReport:
    with open_caffemodel(a) as model_a, open_caffemodel(b) as model_b:
        blobs_a, blobs_b = (
            {name: layer.blobs for name, layer in model.by_name.items() if layer.blobs} for model in (model_a, model_b)
        )
        both = [name for name in blobs_a if name in blobs_b]
        found = [
            difference
            for name in both
            for index, (x, y) in enumerate(zip_longest(blobs_a[name], blobs_b[name]))
            if (difference := _blob(name, index, x, y)) is not None
        ]
        headers = [name for name in both if _bytes(model_a.by_name[name]) != _bytes(model_b.by_name[name])]
        pairs = [pair for name in both for pair in zip(blobs_a[name], blobs_b[name], strict=False)]
        return DiffReport(
            "caffemodel",
            a,
            b,
            (model_a.generation, model_b.generation),
            tuple(name for name in blobs_a if name not in blobs_b),
            tuple(name for name in blobs_b if name not in blobs_a),
            blobs=tuple(found),
            headers=tuple(headers),
            compared={
                "layers": len(both),
                "blobs": len(pairs),
                "values": sum(x.count for x, y in pairs if x.count == y.count),
            },
        )


def _bytes(layer: Any) -> bytes:
    return bytes(layer.header.SerializePartialToString(deterministic=True))


def _blob(layer: str, index: int, a: StoredBlob | None, b: StoredBlob | None) -> BlobDiff | None:
    """The difference of two blobs; None without one."""
    if a is None or b is None or a.count != b.count:
        return BlobDiff(layer, index, None if a is None else a.shape, None if b is None else b.shape)
    start, values, zero_signs, nan_payloads, largest, first = 0, 0, 0, 0, 0.0, None
    for x, y in side_by_side(a, b):
        kind = np.result_type(x, y)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            x, y = (np.ascontiguousarray(piece, kind) for piece in (x, y))
        bits = np.dtype(f"u{kind.itemsize}")
        at = np.flatnonzero(x.view(bits) != y.view(bits))
        if at.size:
            first = start + int(at[0]) if first is None else first
            x_at, y_at = x[at].astype(np.float64), y[at].astype(np.float64)
            nans = np.isnan(x_at) & np.isnan(y_at)
            nan_payloads += int(np.count_nonzero(nans))
            zero_signs += int(np.count_nonzero(x_at == y_at))
            values += int(np.count_nonzero((x_at != y_at) & ~nans))
            finite = np.isfinite(x_at) & np.isfinite(y_at)
            with np.errstate(over="ignore"):  # of float64; JSON knows no infinity
                change = np.abs(x_at[finite] - y_at[finite]).max(initial=0.0)
            largest = max(largest, min(float(change), sys.float_info.max))
        start += x.size
    if first is None and _same_shape(a, b):
        return None
    differing = values + zero_signs + nan_payloads
    counts = (a.count, differing, values, zero_signs, nan_payloads)
    return BlobDiff(layer, index, a.shape, b.shape, *counts, largest, first)


def _same_shape(a: StoredBlob, b: StoredBlob) -> bool:
    """Caffe's rule: where one has legacy dims, which are always four, ones in front of the other's do not count."""
    if not (a.legacy or b.legacy):
        return a.shape == b.shape
    x, y = ((1,) * (4 - len(blob.shape)) + blob.shape for blob in (a, b))
    return x == y


# ---------------------------------------------------------------------------------------------------- prototxts


# The scalars of a message as text: by the number of the block that has them and their name, in the order of the file.
# No path is written out before something differs: in a hostile file all of them together are longer than memory.
_Fields = dict[tuple[int, str], list[str]]

# The outer block and the name of each block -> its number. The message itself is number 0.
_Blocks = dict[tuple[int, str], int]


def _prototxts(a: str, b: str) -> DiffReport:
    blocks: _Blocks = {}
    generation_a, own_a, layers_a = _net(a, blocks)
    generation_b, own_b, layers_b = _net(b, blocks)
    common_a, common_b = [key for key in layers_a if key in layers_b], [key for key in layers_b if key in layers_a]
    paths = _paths(blocks)
    found = list(_field_diffs(None, own_a, own_b, paths))
    for key in common_a:
        found += _field_diffs(_shown(key[0]), layers_a[key], layers_b[key], paths)
    return DiffReport(
        "prototxt",
        a,
        b,
        (generation_a, generation_b),
        tuple(key[0] for key in layers_a if key not in layers_b),
        tuple(key[0] for key in layers_b if key not in layers_a),
        common_a != common_b,
        tuple(found),
        compared={"layers": len(common_a), "blobs": 0, "values": 0},
    )


def _net(path: str, blocks: _Blocks) -> tuple[str, _Fields, dict[tuple[str, int], _Fields]]:
    """The generation of a prototxt, and what it says once it is upgraded: of the network itself, and of each layer.

    Layers go by name and, where those of two phases share one, their number.
    """
    message = read(path)
    source = generation(message)
    with located(path=path):
        message = upgrade(message)
    layers: dict[tuple[str, int], _Fields] = {}
    seen: Counter[str] = Counter()
    for layer in message.layer:
        fields = layers[layer.name, seen[layer.name]] = {}
        _gather(layer, 0, blocks, fields)
        seen[layer.name] += 1
    message.ClearField("layer")
    own: _Fields = {}
    _gather(message, 0, blocks, own)
    return source, own, layers


def _gather(message: Message, block: int, blocks: _Blocks, fields: _Fields) -> None:
    """Add the scalars of a block, and of the blocks inside it; fields of forks under their own names."""

    def add(name: str, value: str | Message) -> None:
        if isinstance(value, str):
            fields.setdefault((block, name), []).append(value)
        elif value.ListFields():
            _gather(value, blocks.setdefault((block, name), len(blocks) + 1), blocks, fields)
        else:
            fields.setdefault((block, name), []).append("{}")

    for field, value in message.ListFields():
        if field.name == "other":
            for entry in value:
                add(entry.name, entry.block if entry.HasField("block") else entry.value)
        elif field.message_type is None:
            show = scalars.writer(field)
            add(field.name, show(value) if field.has_presence else f"[{', '.join(map(show, value))}]")
        elif field.has_presence:
            add(field.name, value)
        else:
            for index, part in enumerate(value):
                add(f"{field.name}[{index}]", part)


def _paths(blocks: _Blocks) -> list[str]:
    """What stands before the names in each block. An outer block has the smaller number."""
    paths = [""]
    for outer, name in blocks:
        paths.append(_shown(paths[outer] + name) + ".")
    return paths


def _field_diffs(layer: str | None, a: _Fields, b: _Fields, paths: list[str]) -> Iterator[FieldDiff]:
    """The fields that differ, by dotted path; [1] is the second one of a path."""
    for key in [*a, *(key for key in b if key not in a)]:
        for index, (x, y) in enumerate(zip_longest(a.get(key, ()), b.get(key, ()))):
            if x != y:
                block, name = key
                yield FieldDiff(layer, _shown(paths[block] + name) + (f"[{index}]" if index else ""), x, y)


def _shown(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}..."
