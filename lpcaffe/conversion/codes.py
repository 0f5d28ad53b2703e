"""codes.npz: the parameters of a quantized network as packed integer codes.

    LAYER/ROLE            uint8: the codes of a blob, packed (lpcaffe.numbers.packing) or Huffman codes
                          (lpcaffe.numbers.huffman)
    LAYER/ROLE/channel    only for formats whose parameters run along channels: the channel of each value, an array
                          that broadcasts against the blob
    __meta__              uint8: JSON, {"version": 1, "coding": "packed" | "huffman", "blobs": {LAYER/ROLE: {"format":
                          as in a plan, "shape": [...], "bits": of a packed code, "signed": whether codes are in two's
                          complement}}}

Formats carry scales, zero points and codebooks. ROLE is weights or bias. The bytes depend on the network and the plan
alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import numpy as np

from lpcaffe.errors import DataError, FormatError, located
from lpcaffe.formats.npz import read_arrays, write_entries
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.net import Net
from lpcaffe.numbers import parse_format
from lpcaffe.numbers.huffman import CodeCounts, huffman_decode, huffman_encode
from lpcaffe.numbers.number_format import Codes, short
from lpcaffe.numbers.packing import pack
from lpcaffe.numbers.packing import unpack as unpack_codes
from lpcaffe.quant.apply import Quantized, apply_plan
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.rounded import RoundedBlob, channels_of
from lpcaffe.quant.sizes import code_bits

META = "__meta__"
CODINGS = ("packed", "huffman")


def write_codes(
    net: Net, plan: BitPlan, path: str | PathLike[str], *, coding: str = "packed", force: bool = False
) -> str:
    """Write codes.npz of a network and its plan. Returns the SHA-256 of the file.

    `coding` is "packed", or "huffman" for the smaller codes of no fixed width. Raises as `write_weights`.
    """
    with outputs([path], force=force) as out:
        return stage_codes(out, apply_plan(net, plan), path, coding=coding)


def stage_codes(out: Outputs, quantized: Quantized, path: str | PathLike[str], *, coding: str = "packed") -> str:
    """`write_codes` into a transaction, one blob in memory at a time."""
    if coding not in CODINGS:
        raise FormatError(f"coding: expected {' or '.join(CODINGS)}, got {coding!r}")
    with out.open(path) as file:
        write_entries(file, _entries(quantized, coding))
    with out.staged(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(quantized: Quantized, coding: str) -> Iterator[tuple[str, np.ndarray]]:
    described: dict[str, Any] = {}
    for name, blobs in quantized.blobs.items():
        for blob in blobs:
            if not isinstance(blob, RoundedBlob):
                continue
            with located(layer=name):
                codes = _codes(blob)
            counts, key = CodeCounts.of(codes), blob.site.path
            bits = code_bits(blob.format, counts)
            signed = bool(counts.symbols.size) and int(counts.symbols[0]) < 0
            shape = [int(dim) for dim in blob.shape]
            described[key] = {"format": blob.format.to_plain(), "shape": shape, "bits": bits, "signed": signed}
            yield key, pack(codes, bits) if coding == "packed" else huffman_encode(codes)
            if blob.format.channels:
                yield f"{key}/channel", channels_of(blob.layer, blob.site, blob.shape).astype(np.int32)
    meta = json.dumps({"version": 1, "coding": coding, "blobs": described})
    yield META, np.frombuffer(meta.encode(), np.uint8)


def _codes(blob: RoundedBlob) -> Codes:
    """All codes of a blob, in the type that its chunks have."""
    chunks = blob.codes()
    first = next(chunks, np.zeros(0, np.int64))
    codes = np.empty(math.prod(blob.shape), first.dtype)
    codes[: first.size] = first
    start = first.size
    for chunk in chunks:
        codes[start : start + chunk.size] = chunk
        start += chunk.size
    return codes


def unpack(path: str | PathLike[str], *, codes: bool = False) -> dict[str, np.ndarray]:
    """The parameters that codes.npz holds, by "LAYER/ROLE": float32 values, or with `codes` their integer codes, int64.

    The values are those of the quantized network, bit for bit. Raises DataError for any other file.
    """
    arrays = read_arrays(path)
    with located(path=path):
        meta = _meta(arrays)
        assert isinstance(arrays, dict)
        found = {}
        for name, row in meta["blobs"].items():
            try:
                found[name] = _unpacked(arrays, str(name), row, meta["coding"], codes)
            except FormatError as error:
                raise DataError(f"{short(name)}: {error.problem}") from error
        return found


def _meta(arrays: Any) -> dict[str, Any]:
    """What `__meta__` holds, checked down to the rows of blobs."""
    text = arrays.get(META) if isinstance(arrays, dict) else None
    try:
        meta = json.loads(np.asarray(text, np.uint8).tobytes())
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"expected packed codes with the entry {META}, got another file") from error
    if not isinstance(meta, dict) or meta.get("version") != 1:
        got = meta.get("version") if isinstance(meta, dict) else meta
        raise DataError(f"{META}: expected version 1, got {short(got)}")
    if meta.get("coding") not in CODINGS or not isinstance(meta.get("blobs"), dict):
        raise DataError(f"{META}: expected coding: {' or '.join(CODINGS)}, and blobs")
    return meta


def _unpacked(arrays: Mapping[str, np.ndarray], name: str, row: Any, coding: str, codes: bool) -> np.ndarray:
    """One blob. Raises FormatError where its row and its bytes do not fit together."""
    data = arrays.get(name)
    if data is None or data.dtype != np.uint8 or data.ndim != 1:
        raise FormatError("expected an array of bytes")
    shape = row.get("shape") if isinstance(row, dict) else None
    if not isinstance(shape, list) or not all(type(dim) is int and 0 <= dim < 1 << 31 for dim in shape):
        raise FormatError("expected a shape and a format")
    fmt, count = parse_format(row.get("format")), math.prod(shape)
    if coding == "huffman":
        found = huffman_decode(data, count)
    else:
        found = unpack_codes(data, row.get("bits"), count, signed=bool(row.get("signed")))
    found = found.reshape(shape)
    if codes:
        return found
    if fmt.channels:
        channel = arrays.get(f"{name}/channel", np.empty(0))
        try:
            fmt = fmt.select(np.broadcast_to(channel, shape))
        except ValueError as error:
            problem = "expected the channel of each value, an array that broadcasts against the blob"
            raise FormatError(problem) from error
    return fmt.decode(found).astype(np.float32)
