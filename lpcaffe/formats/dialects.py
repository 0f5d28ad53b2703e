"""Field numbers that forks of Caffe use differently, and the translation of binary layers into our schema and back.

In a binary LayerParameter the number of a field does not say which field it is; the layer's type does:

    in files   layer type             field                   in our schema
    147        Swish                  swish_param             500000001
               any other              lpfp_param              147
    148        Clip                   clip_param              500000002
               ROIPooling             roi_pooling_param       500000003
    149        SmoothL1Loss           smooth_l1_loss_param    500000005
               ...Ristretto           quantization_param      500000004

NVCaffe stores plain numbers (forward_math, backward_math, debug) in 147, 148 and 149, so only fields with the wire type
of a message are translated. What no line of the table covers stays under its number, an unknown field of the message,
and is written again byte for byte.

`other` (500000000), fields of layers on whose number no two forks agree (interp_param, ...) and the private numbers
inside sub-messages (ceil_mode, scale_train) have no number that a file could use: they are dropped when a message is
read or written, at any depth. V1 and V0 layers have no colliding numbers.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as ProtobufMessage

from lpcaffe.errors import FileError, warn
from lpcaffe.formats import wire
from lpcaffe.formats.schema import LayerParameter, Message

# Numbers from here on are ours and reach no file.
PRIVATE = 500_000_000

# Field of LayerParameter -> its number in files.
FILE_NUMBERS = {
    "swish_param": 147,
    "lpfp_param": 147,
    "clip_param": 148,
    "roi_pooling_param": 148,
    "smooth_l1_loss_param": 149,
    "quantization_param": 149,
}
SCHEMA_NUMBERS = {name: LayerParameter.DESCRIPTOR.fields_by_name[name].number for name in FILE_NUMBERS}
_NAMES_OF_THINGS = ("name", "type", "bottom", "top", "input")
_NAMES = {number: name for name, number in SCHEMA_NUMBERS.items()}


def meaning(file_number: int, layer_type: str) -> str | None:
    """The field that `file_number` (147, 148 or 149) means in a layer of this type; None where it is none of ours."""
    if file_number == 147:
        return "swish_param" if layer_type == "Swish" else "lpfp_param"
    if file_number == 148:
        return {"Clip": "clip_param", "ROIPooling": "roi_pooling_param"}.get(layer_type)
    if file_number == 149:
        if layer_type == "SmoothL1Loss":
            return "smooth_l1_loss_param"
        return "quantization_param" if layer_type.endswith("Ristretto") else None
    return None


def layer_from_bytes(data: bytes) -> Message:
    """The LayerParameter whose binary form, as found in files, is `data`.

    Raises FileError when `data` is no LayerParameter.
    """
    fields = list(wire.walk(data, 0, len(data)))
    layer_type = ""
    for field in fields:
        if (field.number, field.wire_type) == (2, wire.BYTES):  # the last one counts
            layer_type = data[field.payload : field.end].decode(errors="replace")
    translated = bytearray()
    for field in fields:
        name = meaning(field.number, layer_type) if field.wire_type == wire.BYTES else None
        if name is not None:
            translated += wire.delimited(SCHEMA_NUMBERS[name], field.end - field.payload)
            translated += data[field.payload : field.end]
        elif field.number < PRIVATE or field.number not in LayerParameter.DESCRIPTOR.fields_by_number:
            translated += data[field.start : field.end]
    return parse(LayerParameter, bytes(translated))


def layer_to_bytes(layer: Message) -> bytes:
    """The binary form of a LayerParameter as files have it; the same message always gives the same bytes.

    A colliding field that the layer's type does not own (swish_param in a layer that is not a Swish) would be read
    as another one: it is left out, with a LpcaffeWarning.
    """
    data = to_bytes(layer)
    written = bytearray()
    for field in wire.walk(data, 0, len(data)):
        name = _NAMES.get(field.number) if field.wire_type == wire.BYTES else None
        if name is None:
            written += data[field.start : field.end]
        elif meaning(FILE_NUMBERS[name], layer.type) == name:
            written += wire.delimited(FILE_NUMBERS[name], field.end - field.payload) + data[field.payload : field.end]
        else:
            warn(
                f'layer "{layer.name}": {name} is left out of the binary file, where number {FILE_NUMBERS[name]} '
                f'means something else in a layer of type "{layer.type}"'
            )
    return bytes(written)


def parse(message_class: Message, data: bytes) -> Message:
    """`data` as a message of that class, without what it says under our private numbers.

    Raises FileError when it is none, and when a name in it is not UTF-8; other such strings get escapes.
    """
    try:
        message = message_class.FromString(data)
    except DecodeError:
        raise FileError(f"expected a {message_class.DESCRIPTOR.name}, got {len(data)} bytes that are none") from None
    _drop_private(message)
    _mend_text(message)
    return message


def _mend_text(message: Message) -> None:
    """Make the strings that are not UTF-8 text, for which protobuf gives bytes, and which it cannot copy or print.

    Names have to be right. Anything else is a path on somebody's disk, in the encoding of 2014: it gets escapes.
    """
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if field.has_presence else value:
                _mend_text(part)
        elif field.type == field.TYPE_STRING:
            texts = [value] if field.has_presence else list(value)
            if all(isinstance(text, str) for text in texts):
                continue
            if field.name in _NAMES_OF_THINGS:
                got = next(text for text in texts if isinstance(text, bytes))
                raise FileError(f"expected {field.name} in UTF-8, got {got!r}")
            mended = [text if isinstance(text, str) else text.decode(errors="backslashreplace") for text in texts]
            if field.has_presence:
                setattr(message, field.name, mended[0])
            else:
                getattr(message, field.name)[:] = mended


def to_bytes(message: Message) -> bytes:
    """The binary form of a message without its private fields, except those of a layer that have a number in files."""
    plain = type(message)()
    plain.CopyFrom(message)
    _drop_private(plain)
    # Partial: a missing required field (ClipParameter has two) is for whoever executes the layer to report.
    return bytes(plain.SerializePartialToString(deterministic=True))


def _drop_private(message: Message) -> None:
    for field, value in message.ListFields():
        if field.number >= PRIVATE and not (
            field.number in _NAMES and field.containing_type is LayerParameter.DESCRIPTOR
        ):
            message.ClearField(field.name)
        elif isinstance(value, ProtobufMessage):
            _drop_private(value)
        elif field.message_type is not None:
            for part in value:
                _drop_private(part)
