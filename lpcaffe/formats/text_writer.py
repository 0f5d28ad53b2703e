"""From the fields of a message to the text of a prototxt; prototxt.py says what a text may hold."""

from __future__ import annotations

import functools
from typing import Any

from lpcaffe.errors import FileError
from lpcaffe.formats import scalars
from lpcaffe.formats.schema import Message
from lpcaffe.formats.text_parser import MAX_BYTES


def dump(message: Message) -> str:
    """`message` as prototxt text, such that parse(dump(message)) == message.

    Fields come in the order of their numbers, `name` before them and `other` after them; in a NetParameter the layers
    come last of all. Floats have the fewest digits that give the same float32; characters beyond ASCII stay as
    they are. Raises FileError when that is more text than `parse` takes.
    """
    lines: list[str] = []
    _write(message, "", lines)
    text = "".join(lines)
    if len(text.encode()) > MAX_BYTES:
        raise FileError(f"expected a network of at most {MAX_BYTES} bytes of text, got {len(text.encode())}")
    return text


def _write(message: Message, indent: str, lines: list[str]) -> None:
    for field, value in sorted(message.ListFields(), key=lambda item: _rank(item[0])):
        values = (value,) if field.has_presence else value
        if field.name == "other":
            for entry in values:
                if entry.HasField("block"):
                    _write_block(entry.name, entry.block, indent, lines)
                else:
                    lines.append(f"{indent}{entry.name}: {entry.value}\n")
        elif field.message_type is not None:
            for block in values:
                _write_block(field.name, block, indent, lines)
        else:
            show = _writer(field)
            lines.extend(f"{indent}{field.name}: {show(item)}\n" for item in values)


def _write_block(name: str, block: Message, indent: str, lines: list[str]) -> None:
    lines.append(f"{indent}{name} {{\n")
    _write(block, indent + "  ", lines)
    lines.append(f"{indent}}}\n")


_writer = functools.cache(scalars.writer)


@functools.cache
def _rank(field: Any) -> tuple[int, int]:
    """Where a field is printed: `name` first, then by number, then `other`, and a network's layers at the end."""
    if field.name in ("layers", "layer") and field.containing_type.name == "NetParameter":
        return 3, int(field.number)
    return {"name": 0, "other": 2}.get(field.name, 1), int(field.number)
