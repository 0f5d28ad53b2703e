"""Messages of any content survive text and wire, and an upgraded network stays as it is."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcaffe.errors import LpcaffeError, LpcaffeWarning
from lpcaffe.formats import dialects, wire
from lpcaffe.formats.prototxt import dump, parse
from lpcaffe.formats.schema import LayerParameter, NetParameter, V1LayerParameter
from lpcaffe.formats.upgrade import upgrade

generated = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)


def scalar(field):
    """Values of one scalar field, the ends of its range included."""
    kind = field.cpp_type
    if kind == field.CPPTYPE_ENUM:
        return st.sampled_from([value.number for value in field.enum_type.values])
    if kind == field.CPPTYPE_BOOL:
        return st.booleans()
    if kind == field.CPPTYPE_FLOAT:
        return st.floats(width=32, allow_nan=False)
    if kind == field.CPPTYPE_DOUBLE:
        return st.floats(allow_nan=False)
    if kind == field.CPPTYPE_STRING:
        return text if field.type == field.TYPE_STRING else st.binary(max_size=9)
    bits = 64 if kind in (field.CPPTYPE_INT64, field.CPPTYPE_UINT64) else 32
    if kind in (field.CPPTYPE_INT32, field.CPPTYPE_INT64):
        return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return st.integers(0, 2**bits - 1)


@st.composite
def messages(draw, message_class, depth=0):
    """A message with some of its fields, to a depth of four; required ones always, `other` never."""
    message = message_class()
    fields = [field for field in message.DESCRIPTOR.fields if field.name not in ("other", "layers")]
    for field in draw(st.lists(st.sampled_from(fields), max_size=6 if depth < 2 else 3, unique_by=id)):
        times = 1 if field.has_presence else draw(st.integers(1, 3))
        if field.message_type is None:
            values = [draw(scalar(field)) for _ in range(times)]
        elif depth < 3:
            part = type(getattr(message, field.name)) if field.has_presence else None
            part = part or type(getattr(message_class(), field.name).add())
            values = [draw(messages(part, depth + 1)) for _ in range(times)]
        else:
            continue
        if not field.has_presence:
            getattr(message, field.name).extend(values)
        elif field.message_type is None:
            setattr(message, field.name, values[0])
        else:
            getattr(message, field.name).SetInParent()
            getattr(message, field.name).CopyFrom(values[0])
    for field in fields:
        if field.is_required and not message.HasField(field.name):
            setattr(message, field.name, draw(scalar(field)))
    return message


@generated
@given(messages(NetParameter))
def test_any_network_survives_text(net):
    assert parse(dump(net)) == net
    assert dump(parse(dump(net))) == dump(net)


@generated
@given(messages(LayerParameter))
def test_any_layer_survives_the_wire(layer):
    """Its type says which of the colliding fields it may have; the others are left out with a warning."""
    kept = type(layer)()
    kept.CopyFrom(layer)
    for name, number in dialects.FILE_NUMBERS.items():
        if dialects.meaning(number, layer.type) != name:
            kept.ClearField(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        data = dialects.layer_to_bytes(layer)
    read = dialects.layer_from_bytes(data)
    assert read == dialects.layer_from_bytes(dialects.layer_to_bytes(kept))
    assert dialects.layer_to_bytes(read) == data
    assert {f.name for f, _ in kept.ListFields()} - {f.name for f, _ in read.ListFields()} <= PRIVATE_NAMES


PRIVATE_NAMES = {
    field.name
    for field in LayerParameter.DESCRIPTOR.fields
    if field.number >= dialects.PRIVATE and field.name not in dialects.FILE_NUMBERS
}


@generated
@given(st.lists(st.tuples(st.integers(1, wire.MAX_FIELD_NUMBER), st.integers(0, 2**64 - 1) | st.binary(max_size=200))))
def test_fields_that_are_written_are_walked(fields):
    data = b"".join(
        wire.delimited(number, len(value)) + value
        if isinstance(value, bytes)
        else wire.tag(number, wire.VARINT) + wire.varint(value)
        for number, value in fields
    )
    found = []
    for field in wire.walk(data, 0, len(data)):
        value = data[field.payload : field.end]
        number = value if field.wire_type == wire.BYTES else wire.read_varint(value, 0, len(value))[0]
        found.append((field.number, number))
    assert found == fields


@generated
@given(messages(NetParameter), st.lists(messages(V1LayerParameter), max_size=3))
def test_an_upgraded_network_stays_as_it_is(net, old_layers):
    net.layers.extend(old_layers)
    before = net.SerializeToString(deterministic=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        try:
            once = upgrade(net)
        except LpcaffeError:
            return
        assert upgrade(once) == once
        assert parse(dump(once)) == once
    assert net.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("value", [math.nan, -math.nan, np.float32(1e-45), -0.0, math.inf])
def test_the_odd_numbers_survive_text(value):
    """NaN is unlike itself and -0.0 is like 0.0, so equality does not tell; of a NaN, only that it is one survives."""
    layer = LayerParameter(loss_weight=[value])
    (read,) = parse(dump(layer), LayerParameter).loss_weight
    if math.isnan(value):
        assert math.isnan(read)
    else:
        assert np.float32(read).tobytes() == np.float32(value).tobytes()
