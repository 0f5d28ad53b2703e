"""Caffe's prototxt: protobuf text format, with what no known Caffe has kept word for word.

A file is the fields of one message, usually a NetParameter:

    # from here to the end of the line is a comment
    name: "LeNet"                      a scalar: field name, colon, value (scalars.py says which values there are)
    pooling_param { pool: MAX }        a block: field name, colon or none, { fields } or < fields >
    input_dim: [1, 3, 224, 224]        a repeated field may be a list, of scalars or of blocks
    stride: 2; pad: 1,                 one semicolon or comma may follow a field
    name: "Le" 'Net'                   strings that follow one another are one string; a string ends on its line
    axis: - 1                          a minus may stand apart from its number

A field that is not repeated MUST be given once, and a required one MUST be given. Blocks nest at most
`text_parser.MAX_DEPTH` messages deep, and a text has at most `MAX_BYTES` bytes, `text_parser.MAX_TOKEN` characters in a
name, number or string, and `schema.MAX_LAYERS` layers. A reader accepts a byte order mark, CRLF, and bytes that are not
UTF-8 inside comments. A writer SHOULD write what `dump` writes; a reader MUST NOT depend on it.

Forks of Caffe add fields, blocks and enum values without end. Those that proto/caffe.proto lacks are not an error: they
are kept in their message's private field `other` (a name with either the value as written or a block), copied and
compared with the message, printed by `dump` after the known fields, and never reach a binary file. A list becomes one
entry for each value. An enum value that a known field lacks becomes an entry with the known field's name; as it may be
a misspelling, whoever executes a layer MUST refuse it when `known_field_in_other` finds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lpcaffe.errors import FileError, reason, warn
from lpcaffe.formats.schema import Message, NetParameter
from lpcaffe.formats.text_parser import MAX_BYTES, parse_fields, text_fields
from lpcaffe.formats.text_writer import dump
from lpcaffe.formats.upgrade import merge_generations

__all__ = ["MAX_BYTES", "dump", "known_field_in_other", "parse", "read", "unknown_fields"]

# How many names of unknown fields a warning lists.
MAX_NAMED = 50

_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


# ---------------------------------------------------------------------------------------------------- reading


def parse(text: str, message_class: Any = NetParameter, *, path: str | os.PathLike[str] | None = None) -> Message:
    """The message that `text` describes; `path` is what errors call the text.

    What the schema lacks is not warned of: ask `unknown_fields` and `known_field_in_other`, or call `read`. A network
    that mixes `layers` (V1) and `layer` (V2), of which Caffe drops the latter, comes out as V2 in the order of the
    text, since a message cannot hold that order; with one LpcaffeWarning.

    Raises FileError with line and column (both from 1, the column in characters), what was expected and what was got.
    """
    message, outermost = parse_fields(text, message_class, path)
    blocks = [name for name in outermost if name in ("layer", "layers")]
    if len(set(blocks)) > 1:
        where = "the network" if path is None else os.fspath(path)
        warn(f'{where}: mixes "layers" and "layer"; read in the order of the text')
        merge_generations(message, blocks)
    return message


def read(path: str | os.PathLike[str], message_class: Any = NetParameter) -> Message:
    """The message in the prototxt file `path`, with one LpcaffeWarning that names everything no known Caffe has.

    Raises FileError when the file is missing, a directory, binary, empty, or not a text of `message_class`: one that
    has no field of it at all is none.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)  # a device has no end
    except IsADirectoryError:
        raise FileError("expected a prototxt file, got a directory", path=path) from None
    except (OSError, ValueError) as error:
        raise FileError(f"cannot be read: {reason(error)}", path=path) from None
    if match := _BINARY.search(data, 0, 4096):
        raise FileError(
            f"expected text, got binary data (byte {match[0][0]:#04x} at offset {match.start()})",
            path=path,
            hint="a caffemodel holds the weights; the network is in its prototxt, in UTF-8",
        )
    # Bytes that are not UTF-8 become lone surrogates: skipped in a comment, an error with a place anywhere else.
    message = parse(data.decode("utf-8", "surrogateescape"), message_class, path=path)
    if not message.ListFields():
        raise FileError("expected fields, got an empty file", path=path)
    if all(field.name == "other" for field, _ in message.ListFields()):
        others = _listed(unknown_fields(message))
        raise FileError(f"expected fields of a {message.DESCRIPTOR.name}, got only others: {others}", path=path)
    if names := unknown_fields(message):
        what = "1 field or value" if len(names) == 1 else f"{len(names)} fields or values"
        text = f"{os.fspath(path)}: kept {what} that no known Caffe has: {_listed(names)}"
        warn(text)
    return message


def _listed(names: list[str]) -> str:
    shown = [name if len(name) <= 200 else f"{name[:200]}..." for name in names[:MAX_NAMED]]
    more = [f"and {len(names) - MAX_NAMED} more"] if len(names) > MAX_NAMED else []
    return ", ".join(shown + more)


# ---------------------------------------------------------------------------------------------------- what is unknown


def unknown_fields(message: Message) -> list[str]:
    """The fields, blocks and enum values of `message` that the schema lacks, each once, in the order of the fields.

    Dotted names from the message down, for example "layer.correlation_param"; an unknown value of a known field is
    "layer.loss_param.normalization=PRE_FIXED". What an unknown block holds is not listed.
    """
    return list(dict.fromkeys(name for name, _ in _walk_other(message, "")))


def known_field_in_other(message: Message) -> str | None:
    """The first known field in or below `message` whose value the schema lacks, as "pooling_param.pool=AVG", or None.

    Such a value may be misspelt, so a layer that is executed must be refused when this finds one.
    """
    return next((name for name, known in _walk_other(message, "") if known), None)


def _walk_other(message: Message, prefix: str) -> Iterator[tuple[str, bool]]:
    """(dotted name, whether the field itself is known) of every entry of `other` outside unknown blocks."""
    for field, value in message.ListFields():
        if field.name == "other":
            known = text_fields(message.DESCRIPTOR)
            for entry in value:
                if entry.name in known:
                    yield f"{prefix}{entry.name}={entry.value}", True
                else:
                    yield prefix + entry.name, False
        elif field.message_type is not None:
            for block in (value,) if field.has_presence else value:
                yield from _walk_other(block, f"{prefix}{field.name}.")
