r"""The scalar values of a prototxt: their text and their meaning, reader and writer of each kind side by side.

  whole numbers   12, 0x1F, 017 (octal), -5; within the range of the field's type
  numbers         1, .5, 2.5e-3, 1.5f, inf, infinity, nan (in any case); one that a float32 cannot hold becomes infinite
  truth values    true, True, t, 1, false, False, f, 0
  strings         "..." or '...' with the escapes \n \t \r \a \b \f \v \\ \' \" \? \ooo \xhh \uhhhh \Uhhhhhhhh; several
                  with spaces between are one string
  enum values     by name or by number

Readers raise ValueError; with a text when it says better than the field's type what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor as Field

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
INTEGER = re.compile(r"-?(?:0[xX](?P<hexadecimal>[0-9a-fA-F]+)|0(?P<octal>[0-7]+)|(?P<decimal>0|[1-9][0-9]*))")
DECIMAL = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?")
SPECIAL = re.compile(r"-?(?:inf|infinity|nan)", re.IGNORECASE)
_STRING = re.compile(r""""(?:[^"\\]++|\\.)*+"|'(?:[^'\\]++|\\.)*+'""")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|x([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {**dict(zip("ntrabfv", "\n\t\r\a\b\f\v", strict=True)), **{char: char for char in "\\'\"?"}}
_TRUTH = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}


def is_value(raw: str) -> bool:
    """Whether `raw` is a value of some type: a string, a name or a number. Strings are taken as they are."""
    return raw[0] in "\"'" or any(kind.fullmatch(raw) for kind in (NAME, INTEGER, DECIMAL, SPECIAL))


def reader(descriptor: Any) -> tuple[Callable[[str], Any], str]:
    """How the text of a scalar field becomes its value, and what to call the text it expects."""
    kind = descriptor.cpp_type
    if kind == Field.CPPTYPE_ENUM:
        names = [value.name for value in descriptor.enum_type.values]
        return _enum_reader(descriptor.enum_type), f"one of {', '.join(names[:8])}{', ...' * (len(names) > 8)}"
    if kind in (Field.CPPTYPE_FLOAT, Field.CPPTYPE_DOUBLE):
        return _read_number, "a number"
    if kind == Field.CPPTYPE_BOOL:
        return _read_truth, "true or false"
    if kind == Field.CPPTYPE_STRING:
        return (_read_text if descriptor.type == Field.TYPE_STRING else _read_bytes), "a quoted string"
    bits = 64 if kind in (Field.CPPTYPE_INT64, Field.CPPTYPE_UINT64) else 32
    signed = kind in (Field.CPPTYPE_INT32, Field.CPPTYPE_INT64)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return _integer_reader(low, high), f"a whole number from {low} to {high}"


def writer(descriptor: Any) -> Callable[[Any], str]:
    """How the value of a scalar field is printed: the shortest text that reads back as the same value."""
    kind = descriptor.cpp_type
    if kind == Field.CPPTYPE_ENUM:
        names = {value.number: value.name for value in reversed(descriptor.enum_type.values)}
        return lambda value: str(names[value])
    if kind == Field.CPPTYPE_FLOAT:
        # numpy finds the shortest digits, but how it prints them has changed; no float32 needs more than nine.
        return lambda value: f"{float(str(np.float32(value))):.9g}"
    if kind == Field.CPPTYPE_DOUBLE:
        return lambda value: repr(value).removesuffix(".0")
    if kind == Field.CPPTYPE_BOOL:
        return lambda value: "true" if value else "false"
    if kind == Field.CPPTYPE_STRING:
        return _write_text if descriptor.type == Field.TYPE_STRING else _write_bytes
    return str


def _integer_reader(low: int, high: int) -> Callable[[str], int]:
    bases = {"hexadecimal": 16, "octal": 8, "decimal": 10}

    def read(raw: str) -> int:
        match = INTEGER.fullmatch(raw)
        if match is None or match.lastgroup is None:
            raise ValueError
        # No 64-bit integer has more than 22 octal digits, and Python refuses to convert thousands of decimal ones.
        digits = match[match.lastgroup].lstrip("0") or "0"
        number = int(digits, bases[match.lastgroup]) if len(digits) <= 22 else high + 1
        number = -number if raw[0] == "-" else number
        if not low <= number <= high:
            raise ValueError
        return number

    return read


def _enum_reader(descriptor: Any) -> Callable[[str], int]:
    numbers = {value.name: int(value.number) for value in descriptor.values}
    read_number = _integer_reader(-(2**31), 2**31 - 1)

    def read(raw: str) -> int:
        if raw in numbers:
            return numbers[raw]
        number = read_number(raw)
        if number not in descriptor.values_by_number:
            raise ValueError
        return number

    return read


def _read_number(raw: str) -> float:
    if DECIMAL.fullmatch(raw):
        return float(raw.rstrip("fF"))
    if SPECIAL.fullmatch(raw):
        return float(raw)
    raise ValueError


def _read_truth(raw: str) -> bool:
    return _TRUTH[raw] if raw in _TRUTH else bool(_integer_reader(0, 1)(raw))


def _read_text(raw: str) -> str:
    body = raw[1:-1]
    if raw[0] in "\"'" and "\\" not in body and raw[0] not in body:
        return body
    return _read_bytes(raw).decode()


def _read_bytes(raw: str) -> bytes:
    if raw[0] not in "\"'":
        raise ValueError
    # An escape gives bytes and a character gives its UTF-8; both pass through latin-1, where a character is a byte.
    literals = (literal[1:-1].encode().decode("latin-1") for literal in _STRING.findall(raw))
    return b"".join(_ESCAPE.sub(_unescape, literal).encode("latin-1") for literal in literals)


def _unescape(match: re.Match[str]) -> str:
    octal, hexadecimal, short, long, char = match.groups()
    if char is not None:
        code = _ESCAPED.get(char)
    elif short or long:
        number = int(short or long, 16)
        code = chr(number).encode().decode("latin-1") if number <= 0x10FFFF else None
    else:
        number = int(octal, 8) if octal else int(hexadecimal, 16)
        code = chr(number) if number <= 0xFF else None
    if code is None:
        raise ValueError(f"a known escape in place of {match[0]}")
    return code


_QUOTED = {code: f"\\{code:03o}" for code in (*range(0x20), 0x7F)} | {
    ord(char): f"\\{letter}" for char, letter in (("\n", "n"), ("\t", "t"), ("\r", "r"), ('"', '"'), ("\\", "\\"))
}
_QUOTED_BYTES = _QUOTED | {code: f"\\{code:03o}" for code in range(0x80, 0x100)}


def _write_text(value: str) -> str:
    return f'"{value.translate(_QUOTED)}"'


def _write_bytes(value: bytes) -> str:
    return f'"{value.decode("latin-1").translate(_QUOTED_BYTES)}"'
