import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from lpcaffe.errors import FileError, LpcaffeWarning
from lpcaffe.formats import wire
from lpcaffe.formats.dialects import layer_from_bytes, layer_to_bytes, meaning, parse, to_bytes
from lpcaffe.formats.schema import LayerParameter, NetParameter, V1LayerParameter


def fork_layer(**fields):
    """The class of a LayerParameter as one fork defines it: name, type, and each NAME=(number, fields of its message).

    These schemas have the numbers of the files, so protobuf itself writes and reads the binary form of the fork.
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="fork.proto", package="fork")
    layer = file.message_type.add(name="Layer")
    layer.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    layer.field.add(name="type", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    for name, (number, inner) in fields.items():
        if inner is None:
            layer.field.add(name=name, number=number, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
            continue
        message = file.message_type.add(name=name.title().replace("_", ""))
        for inner_number, (inner_name, kind) in enumerate(inner.items(), 1):
            kind_number = {"float": kinds.TYPE_FLOAT, "uint32": kinds.TYPE_UINT32}[kind]
            message.field.add(name=inner_name, number=inner_number, type=kind_number, label=kinds.LABEL_OPTIONAL)
        type_name = f".fork.{message.name}"
        layer.field.add(
            name=name, number=number, type=kinds.TYPE_MESSAGE, type_name=type_name, label=kinds.LABEL_OPTIONAL
        )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("fork.Layer"))


UPSTREAM = fork_layer(
    swish_param=(147, {"beta": "float"}),
    clip_param=(148, {"min": "float", "max": "float"}),
)
ADAPTION = fork_layer(
    lpfp_param=(147, {"bd": "uint32", "ad": "uint32"}),
    roi_pooling_param=(148, {"pooled_h": "uint32", "pooled_w": "uint32", "spatial_scale": "float"}),
    smooth_l1_loss_param=(149, {"sigma": "float"}),
)
RISTRETTO = fork_layer(
    quantization_param=(149, {"precision": "uint32", "rounding_scheme": "uint32", "bw_layer_in": "uint32"})
)
NVCAFFE = fork_layer(forward_math=(147, None), backward_math=(148, None), debug=(149, None))

COLLIDING = [
    UPSTREAM(name="a", type="Swish", swish_param={"beta": 1.5}),
    UPSTREAM(name="b", type="Clip", clip_param={"min": -0.25, "max": 6.0}),
    ADAPTION(name="c", type="LPConvolution", lpfp_param={"bd": 2, "ad": 14}),
    ADAPTION(name="d", type="LPAct", lpfp_param={"bd": 8, "ad": 3}),
    ADAPTION(name="e", type="ROIPooling", roi_pooling_param={"pooled_h": 7, "pooled_w": 5, "spatial_scale": 0.0625}),
    ADAPTION(name="f", type="SmoothL1Loss", smooth_l1_loss_param={"sigma": 3.0}),
    *(
        RISTRETTO(name="g", type=f"{kind}Ristretto", quantization_param={"precision": 1, "bw_layer_in": 9})
        for kind in ("Convolution", "Deconvolution", "Fc", "LRN", "Data")
    ),
]


@pytest.mark.parametrize("written", COLLIDING, ids=lambda layer: layer.type)
def test_a_colliding_field_is_read_by_layer_type_and_written_under_its_number(written):
    (field, value) = written.ListFields()[-1]
    data = written.SerializeToString()
    layer = layer_from_bytes(data)
    assert not UnknownFieldSet(layer)
    assert {(f.name, v) for f, v in getattr(layer, field.name).ListFields()} == {
        (f.name, v) for f, v in value.ListFields()
    }
    assert type(written).FromString(layer_to_bytes(layer)) == written


@pytest.mark.parametrize("written", COLLIDING, ids=lambda layer: layer.type)
def test_the_type_counts_wherever_in_the_layer_it_stands(written):
    data = written.SerializeToString()
    fields = [data[field.start : field.end] for field in wire.walk(data, 0, len(data))]
    assert layer_from_bytes(b"".join(reversed(fields))) == layer_from_bytes(data)
    assert layer_from_bytes(b"\x12\x04Data" + data) == layer_from_bytes(data)  # the last type of two


@pytest.mark.parametrize(
    "layer_type", ["Convolution", "Swish", "Clip", "ROIPooling", "SmoothL1Loss", "FcRistretto", ""]
)
def test_plain_numbers_of_nvcaffe_survive_in_every_type(layer_type):
    written = NVCAFFE(name="conv", type=layer_type, forward_math=2, backward_math=-1, debug=1)
    layer = layer_from_bytes(written.SerializeToString())
    assert sorted(field.field_number for field in UnknownFieldSet(layer)) == [147, 148, 149]
    assert NVCAFFE.FromString(layer_to_bytes(layer)) == written


def test_messages_of_no_known_fork_survive_under_their_number():
    data = LayerParameter(name="x", type="Mystery").SerializeToString()
    for number in (148, 149, 153, 10001):
        data += wire.delimited(number, 4) + b"\x0a\x02\xff\xfe"
    layer = layer_from_bytes(data)
    assert [field.field_number for field in UnknownFieldSet(layer)] == [148, 149, 153, 10001]
    assert layer_to_bytes(layer) == data


@given(
    st.sampled_from(["Swish", "Clip", "ROIPooling", "SmoothL1Loss", "FcRistretto", "LPAct", "Convolution", "Écran"]),
    st.lists(st.tuples(st.sampled_from([146, 150, 147, 148, 149, 155, 9999]), st.integers(0, 2**64 - 1))),
)
def test_layers_survive_reading_and_writing(layer_type, numbers):
    data = LayerParameter(name="x", type=layer_type, bottom=["a", "b"], top=["c"]).SerializeToString()
    data += b"".join(wire.tag(number, wire.VARINT) + wire.varint(value) for number, value in numbers)
    assert layer_to_bytes(layer_from_bytes(data)) == data


def test_a_field_that_the_type_does_not_own_is_left_out_with_a_warning():
    layer = LayerParameter(name="act", type="ReLU", swish_param={"beta": 2})
    layer.relu_param.negative_slope = 0.5
    with pytest.warns(LpcaffeWarning, match='layer "act": swish_param is left out .* number 147 .* type "ReLU"'):
        data = layer_to_bytes(layer)
    assert data == LayerParameter(name="act", type="ReLU", relu_param={"negative_slope": 0.5}).SerializeToString()
    swish = LayerParameter(name="act", type="Swish", lpfp_param={"bd": 2})
    with pytest.warns(LpcaffeWarning, match="lpfp_param is left out"):
        assert layer_to_bytes(swish) == LayerParameter(name="act", type="Swish").SerializeToString()


def test_what_has_no_number_in_files_is_dropped_at_any_depth():
    layer = LayerParameter(name="pool", type="Pooling", other=[{"name": "fork_param", "value": "1"}])
    layer.pooling_param.kernel_size = 3
    plain = LayerParameter()
    plain.CopyFrom(layer)
    plain.ClearField("other")
    layer.pooling_param.ceil_mode = False
    layer.pooling_param.other.add(name="round", value="UP")
    layer.interp_param.zoom_factor = 2
    layer.include.add().other.add(name="host", block={"other": [{"name": "a", "value": "2"}]})
    plain.include.add()
    before = layer.SerializeToString()
    assert layer_to_bytes(layer) == plain.SerializeToString()
    assert layer.SerializeToString() == before  # the message itself is left as it is
    assert layer_from_bytes(before) == plain  # and a file that holds our numbers does not get them in

    net = NetParameter(name="n", other=[{"name": "default_forward_type", "value": "FLOAT16"}])
    net.state.other.add(name="x", value="1")
    assert to_bytes(net) == NetParameter(name="n", state={}).SerializeToString()


def test_a_file_cannot_reach_a_translated_field_by_its_private_number():
    data = wire.delimited(500_000_001, 5) + b"\x0d\x00\x00\x80\x3f"
    layer = layer_from_bytes(b"\x12\x05Swish" + data)
    assert not layer.HasField("swish_param")
    assert layer_to_bytes(layer) == b"\x12\x05Swish"


def test_a_missing_required_field_neither_stops_reading_nor_writing():
    data = b"\x12\x04Clip" + wire.delimited(148, 5) + b"\x0d\x00\x00\x80\x3f"
    layer = layer_from_bytes(data)
    assert (layer.clip_param.min, layer.clip_param.HasField("max")) == (1, False)
    assert layer_to_bytes(layer) == data


def test_bytes_that_are_no_message_are_one_line():
    nested = b""
    for _ in range(200):
        nested = wire.delimited(3, len(nested)) + nested
        nested = wire.delimited(500_000_000, len(nested)) + nested
    for data in (b"\x52\x01\xff\x0a\x7fshort", wire.delimited(106, len(nested)) + nested):
        with pytest.raises(FileError, match="expected"):
            layer_from_bytes(data)
    with pytest.raises(FileError, match="expected a V1LayerParameter, got 3 bytes that are none"):
        parse(V1LayerParameter, b"\x22\x05a")


def test_the_three_numbers_mean_at_most_one_field_for_a_type():
    assert meaning(147, "LPInnerProduct") == "lpfp_param"
    assert meaning(147, "swish") == "lpfp_param"  # types are spelt exactly
    assert meaning(148, "PSROIPooling") is None
    assert meaning(149, "Ristretto") == "quantization_param"
    assert meaning(150, "Swish") is None
