"""Protocol Buffers on the wire: tags and varints, and a walk over the fields of one message.

A serialised message is a sequence of fields, each a tag and a payload, and nothing else: no header, no length, no end.

    varint   little-endian groups of 7 bits, the top bit of a byte set when another byte follows; 1 to 10 bytes
    tag      varint of (field number << 3 | wire type), at most 5 bytes; field numbers run from 1 to 2^29 - 1
    payload  wire type 0  VARINT   one varint
             wire type 1  FIXED64  8 bytes, little-endian
             wire type 2  BYTES    a varint length and that many bytes: strings, messages, packed numbers
             wire type 5  FIXED32  4 bytes, little-endian

Wire types 3 and 4 (groups) occur in no file of Caffe and are refused, as are 6 and 7, which do not exist. Because a
message has no end mark, one cut off between two fields is a valid, shorter message.

The walk needs nothing but random access to bytes, so it runs over a memory map and touches tags and lengths only.
Every error says at which byte of the buffer, what was expected and what was got.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

from lpcaffe.errors import FileError

# What is walked: slices give bytes, indices give integers.
Buffer = bytes | mmap.mmap

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELD_NUMBER = 2**29 - 1

_CUT_OFF = "the file is cut off or damaged"
_NOT_OURS = "the file is damaged, or of another kind"


class Field(NamedTuple):
    """One field: its bytes are buffer[start:end], tag included; its payload is buffer[payload:end].

    The payload of a BYTES field begins after the length.
    """

    number: int
    wire_type: int
    start: int
    payload: int
    end: int


def read_varint(buffer: Buffer, at: int, end: int) -> tuple[int, int]:
    """The unsigned 64-bit varint at `at`, and the position after it; none of its bytes may lie at or beyond `end`."""
    value = 0
    for position in range(at, min(at + 10, end)):
        byte = buffer[position]
        value |= (byte & 0x7F) << 7 * (position - at)
        if byte < 0x80:
            if value >= 2**64:
                raise FileError(f"byte {at}: expected a varint of 64 bits, got {value.bit_length()}", hint=_NOT_OURS)
            return value, position + 1
    if end - at >= 10:
        raise FileError(f"byte {at}: expected a varint of at most 10 bytes, got more", hint=_NOT_OURS)
    raise FileError(f"byte {at}: expected a whole varint, got {max(end - at, 0)} of its bytes", hint=_CUT_OFF)


def walk(buffer: Buffer, start: int, end: int) -> Iterator[Field]:
    """The fields of the message in buffer[start:end], in the order of the bytes.

    Raises FileError where a tag cannot be, or where a field reaches beyond `end`.
    """
    at = start
    while at < end:
        field = read_field(buffer, at, end)
        yield field
        at = field.end


def read_field(buffer: Buffer, at: int, end: int) -> Field:
    """The field at `at`, which must end at or before `end`."""
    tag, payload = read_varint(buffer, at, end)
    number, wire_type = tag >> 3, tag & 7
    if payload - at > 5:
        raise FileError(f"byte {at}: expected a tag of at most 5 bytes, got {payload - at}", hint=_NOT_OURS)
    if not 1 <= number <= MAX_FIELD_NUMBER:
        raise FileError(
            f"byte {at}: expected a field number from 1 to {MAX_FIELD_NUMBER}, got {number}", hint=_NOT_OURS
        )
    if wire_type == VARINT:
        return Field(number, wire_type, at, payload, read_varint(buffer, payload, end)[1])
    if wire_type == BYTES:
        size, payload = read_varint(buffer, payload, end)
    elif wire_type in (FIXED64, FIXED32):
        size = 8 if wire_type == FIXED64 else 4
    else:
        raise FileError(
            f"byte {at}: expected field {number} with wire type 0, 1, 2 or 5, got {wire_type}", hint=_NOT_OURS
        )
    if size > end - payload:
        raise FileError(
            f"byte {payload}: expected {size} bytes for field {number}, got {end - payload}",
            hint=_CUT_OFF,
        )
    return Field(number, wire_type, at, payload, payload + size)


def varint(value: int) -> bytes:
    """The shortest varint of an unsigned 64-bit integer."""
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def tag(number: int, wire_type: int) -> bytes:
    """The tag of a field."""
    return varint(number << 3 | wire_type)


def delimited(number: int, size: int) -> bytes:
    """Tag and length that precede the `size` bytes of a BYTES field."""
    return tag(number, BYTES) + varint(size)


def signed(value: int, bits: int) -> int:
    """The two's complement number in the lowest `bits` of a varint, which is how int32 and int64 are stored."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> bits - 1 else value
