"""From the tokens of a prototxt to the fields of a message; prototxt.py says what a text may hold.

The text is cut into tokens by one regular expression, and the parser goes through their list once. Lines and columns
are counted when an error asks for them.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from itertools import islice
from typing import Any, NamedTuple, NoReturn

from lpcaffe.errors import FileError
from lpcaffe.formats import scalars
from lpcaffe.formats.schema import MAX_LAYERS, Message

# 9 times the longest of 249 networks of the wild. The messages of a text made for it take 50 times its length, and some
# of the time there are two of them, so this bounds memory at some 250 MB.
MAX_BYTES = 2 << 20

# protobuf's own limit for binary messages. A block of an unknown field counts twice: it is an Other and an OtherBlock.
MAX_DEPTH = 100

# A name, number or string. The longest of the wild is a Python layer's parameter of some hundred characters.
MAX_TOKEN = 1 << 20

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


class _Field(NamedTuple):
    """What the parser needs to know of one field of the schema."""

    repeated: bool
    enum: bool
    convert: Callable[[str], Any] | None  # None for a block
    expected: str


@functools.cache
def text_fields(descriptor: Any) -> dict[str, _Field]:
    """The fields of a message that may stand in a file: all but `other`."""
    table = {}
    for field in descriptor.fields:
        convert, expected = (None, "") if field.message_type is not None else scalars.reader(field)
        # Every field of proto2 that is not repeated has presence.
        table[field.name] = _Field(not field.has_presence, field.enum_type is not None, convert, expected)
    table.pop("other", None)
    return table


def parse_fields(
    text: str, message_class: Any, path: str | os.PathLike[str] | None = None
) -> tuple[Message, list[str]]:
    """The message that `text` describes, and the names of its outermost blocks in the order of the text.

    Raises FileError with line and column.
    """
    if len(text) > MAX_BYTES:
        hint = "a prototxt describes a network and holds no weights"
        raise FileError(f"expected at most {MAX_BYTES} bytes of text, got more", path=path, hint=hint)
    parser = Parser(text.removeprefix("\ufeff"), path)
    message = message_class()
    parser.fields(message, 0, -1, 1)
    if not message.IsInitialized():
        missing = ", ".join(message.FindInitializationErrors())
        raise FileError(f"expected every required field, got none for {missing}", path=path)
    return message, [name for name, _ in parser.outermost]


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

    def location(self, i: int) -> tuple[int, int]:
        """Line and column of token i. Only errors ask, so it is counted each time."""
        start = min(next(islice(_TOKEN.finditer(self.text), i, None)).start(1), self.length)
        return self.text.count("\n", 0, start) + 1, start - self.text.rfind("\n", 0, start)

    def fail(self, i: int, problem: str, hint: str | None = None) -> NoReturn:
        """Raise FileError at token i."""
        line, column = self.location(i)
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
        known = text_fields(message.DESCRIPTOR)
        seen = set()
        while (name := tokens[i]) != close:
            field = known.get(name)
            if field is None:
                if not scalars.NAME.fullmatch(name):
                    end = f' or "{close}" for the block opened in line {self.location(opened)[0]}' if close else ""
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
