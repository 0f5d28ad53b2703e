import pytest
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import example, given
from hypothesis import strategies as st

from lpcaffe.errors import FileError
from lpcaffe.formats import wire
from lpcaffe.formats.schema import BlobShape, message_class

# Every field of every other message is unknown to this one, so protobuf itself lists what a walk must find.
Unknowing = message_class("OtherBlock")


def protobuf_fields(data):
    return [(field.field_number, field.wire_type, field.data) for field in UnknownFieldSet(Unknowing.FromString(data))]


def walked_fields(data):
    found = []
    for field in wire.walk(data, 0, len(data)):
        payload = data[field.payload : field.end]
        if field.wire_type == wire.VARINT:
            found.append((field.number, 0, wire.read_varint(data, field.payload, field.end)[0]))
        elif field.wire_type == wire.BYTES:
            found.append((field.number, 2, payload))
        else:
            found.append((field.number, field.wire_type, int.from_bytes(payload, "little")))
    return found


@given(st.integers(-(2**63), 2**63 - 1))
@example(0)
@example(127)
@example(128)
@example(-1)
def test_varints_are_those_of_protobuf(value):
    data = BlobShape(dim=[value]).SerializeToString()
    assert data == wire.delimited(1, len(data) - 2) + wire.varint(value & 2**64 - 1)
    unsigned, end = wire.read_varint(data, 2, len(data))
    assert (wire.signed(unsigned, 64), end) == (value, len(data))


@given(st.integers(-(2**31), 2**31 - 1))
def test_an_int32_is_the_low_half_of_its_varint(value):
    assert wire.signed(value & 2**64 - 1, 32) == value


FIELDS = st.one_of(
    st.tuples(st.just(0), st.integers(0, 2**64 - 1).map(wire.varint)),
    st.tuples(st.just(1), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(2), st.binary(max_size=200).map(lambda payload: wire.varint(len(payload)) + payload)),
    st.tuples(st.just(5), st.binary(min_size=4, max_size=4)),
)


@given(st.lists(st.tuples(st.integers(1, 499_999_999), FIELDS)))
def test_a_walk_finds_what_protobuf_finds(fields):
    data = b"".join(wire.tag(number, wire_type) + payload for number, (wire_type, payload) in fields)
    assert walked_fields(data) == protobuf_fields(data)
    assert b"".join(data[field.start : field.end] for field in wire.walk(data, 0, len(data))) == data


@given(st.binary(max_size=40))
@example(b"\xa0\x06\x85\x80\x80\x80\x80\x80\x80\x80\x80\x01")
def test_what_a_walk_accepts_protobuf_accepts(data):
    try:
        found = walked_fields(data)
    except FileError:
        return
    if any(number == 500_000_000 for number, _, _ in found):
        return
    assert found == protobuf_fields(data)


@given(st.binary(max_size=40))
def test_what_a_walk_refuses_protobuf_refuses_except_groups_and_long_numbers(data):
    try:
        walked_fields(data)
    except FileError as error:
        if "wire type" not in str(error) and "a varint of 64 bits" not in str(error):
            with pytest.raises(DecodeError):
                Unknowing.FromString(data)


@pytest.mark.parametrize(
    ("hexadecimal", "problem"),
    [
        ("80", "byte 0: expected a whole varint, got 1 of its bytes"),
        ("08", "byte 1: expected a whole varint, got 0 of its bytes"),
        ("08 ff ff", "byte 1: expected a whole varint, got 2 of its bytes"),
        ("08 ff ff ff ff ff ff ff ff ff ff 01", "byte 1: expected a varint of at most 10 bytes, got more"),
        ("08 ff ff ff ff ff ff ff ff ff 02", "byte 1: expected a varint of 64 bits, got 65"),
        ("88 80 80 80 80 00 00", "byte 0: expected a tag of at most 5 bytes, got 6"),
        ("00 00", "byte 0: expected a field number from 1 to 536870911, got 0"),
        ("80 80 80 80 10 00", "byte 0: expected a field number from 1 to 536870911, got 536870912"),
        ("0b 0c", "byte 0: expected field 1 with wire type 0, 1, 2 or 5, got 3"),
        ("08 01 14", "byte 2: expected field 2 with wire type 0, 1, 2 or 5, got 4"),
        ("0e", "byte 0: expected field 1 with wire type 0, 1, 2 or 5, got 6"),
        ("0f", "byte 0: expected field 1 with wire type 0, 1, 2 or 5, got 7"),
        ("12 05 61 62 63 64", "byte 2: expected 5 bytes for field 2, got 4"),
        ("12 ff ff ff ff ff ff ff ff ff 01 61", "byte 11: expected 18446744073709551615 bytes for field 2, got 1"),
        ("2d 00 00 80", "byte 1: expected 4 bytes for field 5, got 3"),
        ("41 00 00 00 00 00 00 f0", "byte 1: expected 8 bytes for field 8, got 7"),
    ],
)
def test_a_message_that_cannot_be_is_refused_with_its_place(hexadecimal, problem):
    data = bytes.fromhex(hexadecimal)
    with pytest.raises(FileError) as caught:
        list(wire.walk(data, 0, len(data)))
    assert problem in str(caught.value)


def test_a_field_may_not_reach_beyond_the_message_it_is_in():
    data = bytes.fromhex("0a 03 0a 02 61 62")  # the inner string has one byte more than the outer message holds
    outer = next(wire.walk(data, 0, len(data) - 1))
    with pytest.raises(FileError, match="byte 4: expected 2 bytes for field 1, got 1"):
        list(wire.walk(data, outer.payload, outer.end))
