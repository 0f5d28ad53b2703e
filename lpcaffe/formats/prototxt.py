"""Caffe's prototxt: protobuf text format, with what no known Caffe has kept word for word.

A file is the fields of one message, usually a NetParameter:

    # from here to the end of the line is a comment
    name: "LeNet"                      a scalar: field name, colon, value (scalars.py says which values there are)
    pooling_param { pool: MAX }        a block: field name, colon or none, { fields } or < fields >
    input_dim: [1, 3, 224, 224]        a repeated field may be a list, of scalars or of blocks
    stride: 2; pad: 1,                 one semicolon or comma may follow a field
    name: "Le" 'Net'                   strings that follow one another are one string; a string ends on its line
    axis: - 1                          a minus may stand apart from its number

A field that is not repeated MUST be given once, and a required one MUST be given. Blocks nest at most `MAX_DEPTH`
messages deep, and a text has at most `MAX_BYTES` bytes, `MAX_TOKEN` characters in a name, number or string, and
`schema.MAX_LAYERS` layers. A reader accepts a byte order mark, CRLF, and bytes that are not UTF-8 inside comments. A
writer SHOULD write what `dump` writes; a reader MUST NOT depend on it.

Forks of Caffe add fields, blocks and enum values without end. Those that proto/caffe.proto lacks are not an error: they
are kept in their message's private field `other` (a name with either the value as written or a block), copied and
compared with the message, printed by `dump` after the known fields, and never reach a binary file. A list becomes one
entry for each value. An enum value that a known field lacks becomes an entry with the known field's name; as it may be
a misspelling, whoever executes a layer MUST refuse it when `known_field_in_other` finds one.
"""

from __future__ import annotations

import functools
import os
import re
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lpcaffe.errors import FileError, LpcaffeWarning, reason
from lpcaffe.formats import scalars
from lpcaffe.formats.schema import MAX_LAYERS, Message, NetParameter

# protobuf's own limit for binary messages. A block of an unknown field counts twice: it is an Other and an OtherBlock.
MAX_DEPTH = 100

# 9 times the longest of 249 networks of the wild. The messages of a text made for it take 50 times its length, and some
# of the time there are two of them, so this bounds memory at some 250 MB.
MAX_BYTES = 2 << 20

# A name, number or string. The longest of the wild is a Python layer's parameter of some hundred characters.
MAX_TOKEN = 1 << 20

# How many names of unknown fields a warning lists.
MAX_NAMED = 50

# One token after any space and comments: a name, punctuation, a string (an unclosed one runs to the end of its line,
# the line feed included), a number or what tries to be one, the empty end of the text, or a character that begins
# nothing. Every repetition is possessive, so the time is linear in the length of the text whatever it holds.
_TOKEN = re.compile(
    r"""(?:[ \t\r\n\f\v]++|\#[^\n]*+)*+
    ( [A-Za-z_][A-Za-z0-9_]*+
    | [{}:<>\[\],;]
    | "(?:[^"\\\n]++|\\[^\n])*+(?:"|\\?\n)
    | '(?:[^'\\\n]++|\\[^\n])*+(?:'|\\?\n)
    | -?\.?[0-9](?:[eE][-+]|[A-Za-z0-9_.])*+
    | \Z
    | .
    )""",
    re.VERBOSE,
)
_UNSIGNED = re.compile(r"\.?[0-9]|(?:inf|infinity|nan)$", re.IGNORECASE)
_CLOSING = {"{": "}", "<": ">"}
_NOT_A_NETWORK = "a prototxt describes a network and holds no weights"
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


# ---------------------------------------------------------------------------------------------------- reading


class _Field(NamedTuple):
    """What the parser needs to know of one field of the schema."""

    repeated: bool
    enum: bool
    convert: Callable[[str], Any] | None  # None for a block
    expected: str


@functools.cache
def _fields(descriptor: Any) -> dict[str, _Field]:
    """The fields of a message that may stand in a file: all but `other`."""
    table = {}
    for field in descriptor.fields:
        convert, expected = (None, "") if field.message_type is not None else scalars.reader(field)
        # Every field of proto2 that is not repeated has presence.
        table[field.name] = _Field(not field.has_presence, field.enum_type is not None, convert, expected)
    table.pop("other", None)
    return table


class Parser:
    """The tokens of one text. Methods take the index of a token and return the index after what they read."""

    def __init__(self, text: str, path: str | os.PathLike[str] | None) -> None:
        self.path = path
        self.length = len(text)
        self.text = text + "\n"  # so that every string ends with its line
        self.tokens: list[str] = _TOKEN.findall(self.text)
        if self.length > MAX_TOKEN:  # a shorter text has no such token, and most are shorter
            for i, token in enumerate(self.tokens):
                if len(token) > MAX_TOKEN:
                    self.fail(i, f"expected at most {MAX_TOKEN} characters, got {len(token)}: {_shown(token)}")
        self.outermost: list[tuple[str, int]] = []  # the outermost blocks, in the order of the text: name and bracket

    def place(self, i: int) -> tuple[int, int]:
        """Line and column of token i. Only errors ask, so it is counted anew."""
        start = min(next(islice(_TOKEN.finditer(self.text), i, None)).start(1), self.length)
        return self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)

    def fail(self, i: int, problem: str, hint: str | None = None) -> NoReturn:
        """Raise FileError at token i."""
        line, column = self.place(i)
        raise FileError(problem, path=self.path, line=line, column=column, hint=hint)

    def expect(self, i: int, expected: str, hint: str | None = None) -> NoReturn:
        """Raise FileError because token i is something else."""
        self.fail(i, f"expected {expected}, got {_shown(self.tokens[i])}", hint)

    def fields(self, message: Message, i: int, opened: int, depth: int) -> int:
        """Fields into `message`, up to the token that closes the one at `opened` (-1: up to the end of the text)."""
        tokens = self.tokens
        close = _CLOSING[tokens[opened]] if opened >= 0 else ""
        if depth > MAX_DEPTH:
            self.fail(opened, f"expected at most {MAX_DEPTH} messages inside one another, got more")
        known = _fields(message.DESCRIPTOR)
        seen = set()
        while (name := tokens[i]) != close:
            field = known.get(name)
            if field is None:
                if not scalars.NAME.fullmatch(name):
                    end = f' or "{close}" for the block opened in line {self.place(opened)[0]}' if close else ""
                    self.expect(i, f"a field name{end}")
            elif not field.repeated:
                if name in seen:
                    self.fail(i, f'expected "{name}" once, got it twice')
                seen.add(name)
            i += 1
            colon = tokens[i] == ":"
            if colon:
                i += 1
            if tokens[i] == "[":
                i = self.many(message, name, field, i, colon, depth)
            else:
                i = self.one(message, name, field, i, colon, depth)
            if tokens[i] == ";" or tokens[i] == ",":
                i += 1
        return i + 1

    def many(self, message: Message, name: str, field: _Field | None, i: int, colon: bool, depth: int) -> int:
        """A list, from its "["."""
        if field is not None and not field.repeated:
            self.expect(i, f'one value for "{name}"')
        if self.tokens[i + 1] == "]":
            return i + 2
        while True:
            i = self.one(message, name, field, i + 1, colon, depth)
            if self.tokens[i] == "]":
                return i + 1
            if self.tokens[i] != ",":
                self.expect(i, '"," or "]"')

    def one(self, message: Message, name: str, field: _Field | None, i: int, colon: bool, depth: int) -> int:
        """One value or block of the field `name`; `field` is None when the schema lacks it."""
        if field is None:
            return self.unknown(message, name, i, colon, depth)
        if field.convert is None:
            if self.tokens[i] not in _CLOSING:
                self.expect(i, f'"{{" after "{name}"')
            block = getattr(message, name)
            if field.repeated:
                block = block.add()
            else:
                block.SetInParent()
            if depth == 1:
                self.outermost.append((name, i))
                if len(self.outermost) > MAX_LAYERS:
                    self.fail(i, f"expected at most {MAX_LAYERS} layers and other outermost blocks, got more")
            return self.fields(block, i + 1, i, depth + 1)
        if not colon:
            self.expect(i, f'":" after "{name}"')
        raw, end = self.scalar(i)
        try:
            value = field.convert(raw)
            if field.repeated:
                getattr(message, name).append(value)
            else:
                setattr(message, name, value)
        except UnicodeError:
            self.not_utf8(i, name)
        except ValueError as error:
            if not (field.enum and (scalars.NAME.fullmatch(raw) or scalars.INTEGER.fullmatch(raw))):
                expected = error.args[0] if error.args else field.expected
                self.fail(i, f'expected {expected} for "{name}", got {_shown(raw)}', _hint(message, name))
            message.other.add(name=name, value=raw)
        return end

    def unknown(self, message: Message, name: str, i: int, colon: bool, depth: int) -> int:
        """One value or block of a field that the schema lacks, into `other`."""
        if self.tokens[i] in _CLOSING:
            block = message.other.add(name=name).block
            block.SetInParent()
            return self.fields(block, i + 1, i, depth + 2)
        if not colon:
            self.expect(i, f'":" or "{{" after {_shown(name)}')
        raw, end = self.scalar(i)
        if not scalars.is_value(raw):
            self.expect(i, f"a value for {_shown(name)}")
        try:
            message.other.add(name=name, value=raw)
        except UnicodeError:
            self.not_utf8(i, name)
        return end

    def scalar(self, i: int) -> tuple[str, int]:
        """The text of one value, unchecked: adjacent strings with a space between, a minus joined to its number."""
        token = self.tokens[i]
        start = token[:1]
        if start == '"' or start == "'":
            end = i
            while self.tokens[end].startswith(('"', "'")):
                if self.tokens[end][-1] == "\n":
                    self.fail(end, f"expected {self.tokens[end][0]} to close the string, got the end of the line")
                end += 1
            return token if end == i + 1 else " ".join(self.tokens[i:end]), end
        if token == "-":
            number = self.tokens[i + 1]
            if not _UNSIGNED.match(number):
                self.expect(i + 1, 'a number after "-"')
            return token + number, i + 2
        if not token.isascii() or not (start.isalnum() or start in ("_", "-", ".")):
            self.expect(i, "a value")
        return token, i + 1

    def not_utf8(self, i: int, name: str) -> NoReturn:
        """Raise FileError because the value of a field at token i is no text."""
        self.fail(i, f"expected UTF-8 for {_shown(name)}, got other bytes", "save the file as UTF-8")


def _shown(token: str) -> str:
    """A token for an error message: short and printable; names and numbers bare, strings and punctuation quoted."""
    if not token:
        return "the end of the file"
    token = token.rstrip("\n")
    token = token if len(token) <= 40 else token[:40] + "..."
    token = token if token.isprintable() else ascii(token)[1:-1].replace("\\udc", "\\x")
    return token if len(token) > 1 or token.isalnum() else f'"{token}"'


def _hint(message: Message, name: str) -> str | None:
    if name == "type" and message.DESCRIPTOR.name in ("LayerParameter", "V1LayerParameter"):
        return 'a "layer" has a quoted type ("Convolution"), a "layers" block an enum (CONVOLUTION)'
    return None


def parse(text: str, message_class: Any = NetParameter, *, path: str | os.PathLike[str] | None = None) -> Message:
    """The message that `text` describes; `path` is what errors call the text.

    What the schema lacks is not warned of: ask `unknown_fields` and `known_field_in_other`, or call `read`. A network
    that mixes `layers` (V1) and `layer` (V2), of which Caffe drops the latter, comes out as V2 in the order of the
    text, since a message cannot hold that order; with one LpcaffeWarning.

    Raises FileError with line and column (both from 1, the column in characters), what was expected and what was got.
    """
    if len(text) > MAX_BYTES:
        raise FileError(f"expected at most {MAX_BYTES} bytes of text, got more", path=path, hint=_NOT_A_NETWORK)
    parser = Parser(text.removeprefix("\ufeff"), path)
    message = message_class()
    parser.fields(message, 0, -1, 1)
    blocks = [name for name, _ in parser.outermost if name in ("layer", "layers")]
    if len(set(blocks)) > 1:
        # upgrade.py reads text itself, so it cannot be imported above.
        from lpcaffe.formats.upgrade import merge_generations

        where = "the network" if path is None else os.fspath(path)
        warnings.warn(
            f'{where}: mixes "layers" and "layer"; read in the order of the text', LpcaffeWarning, stacklevel=2
        )
        merge_generations(message, blocks)
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise FileError(f"expected every required field, got none for {missing}", path=path)
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
        warnings.warn(text, LpcaffeWarning, stacklevel=2)
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
            known = _fields(message.DESCRIPTOR)
            for entry in value:
                if entry.name in known:
                    yield f"{prefix}{entry.name}={entry.value}", True
                else:
                    yield prefix + entry.name, False
        elif field.message_type is not None:
            for block in (value,) if field.has_presence else value:
                yield from _walk_other(block, f"{prefix}{field.name}.")


# ---------------------------------------------------------------------------------------------------- writing


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
