import struct

import numpy as np
import pytest

from lpcaffe.errors import WeightsError
from lpcaffe.formats import wire
from lpcaffe.formats.blobproto import BlobSource
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.schema import BlobProto, LayerParameter

# Bit patterns with the traps in them: -0.0, subnormal, infinity, NaN with a payload, largest, and ordinary numbers.
TRAPS = np.array([0x80000000, 1, 0xFF800000, 0x7FC12345, 0x7F7FFFFF, 0x3FC00000], np.uint32).view(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel"


def bits(values):
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}").tolist()


def open_layer(path, *blobs):
    """Open a file of one layer with these serialised BlobProtos."""
    layer = LayerParameter(name="ip", type="InnerProduct").SerializeToString()
    layer += b"".join(wire.delimited(7, len(blob)) + blob for blob in blobs)
    path.write_bytes(wire.delimited(100, len(layer)) + layer)
    return open_caffemodel(path)


# Every way to write the same values: functions from float32 values to bytes of a BlobProto.
def packed(values):
    return wire.delimited(5, 4 * len(values)) + values.astype("<f4").tobytes()


def unpacked(values):
    return b"".join(b"\x2d" + value.tobytes() for value in values.astype("<f4"))


def long_tags(values):
    return b"".join(b"\xad\x80\x00" + value.tobytes() for value in values.astype("<f4"))


def in_pieces(values):
    half = len(values) // 2
    return packed(values[:half]) + unpacked(values[half : half + 3]) + packed(values[:0]) + packed(values[half + 3 :])


def with_gradients(values):
    gradient = BlobProto(diff=[9] * len(values), double_diff=[8] * 3, raw_diff=b"\x01\x02").SerializeToString()
    loose = b"\x35\x00\x00\x80\x3f" * 40 + b"\x49" + bytes(8)
    return gradient + packed(values[:1]) + loose + packed(values[1:]) + loose


ENCODINGS = [packed, unpacked, long_tags, in_pieces, with_gradients]


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("shape_first", [True, False])
@pytest.mark.parametrize("size", [1, 2, 7, 40, 1001])
def test_all_ways_to_write_values_read_the_same(path, encode, shape_first, size):
    values = np.resize(TRAPS, size)
    shape = BlobProto(shape={"dim": [size, 1]}).SerializeToString()
    data = shape + encode(values) if shape_first else encode(values) + shape
    assert bits(np.array(BlobProto.FromString(data).data, np.float32)) == bits(values)  # the oracle agrees
    with open_layer(path, data, data) as model:
        for blob in model.by_name["ip"].blobs:
            assert (blob.shape, blob.count, blob.dtype, blob.legacy) == ((size, 1), size, np.float32, False)
            assert bits(blob.array().reshape(-1)) == bits(values)
            for limit in (1, 3, size, 10**9):
                pieces = list(blob.chunks(limit))
                assert max(map(len, pieces)) <= limit
                assert bits(np.concatenate(pieces)) == bits(values)


def test_one_packed_field_is_a_view_that_outlives_the_model(path):
    data = BlobProto(shape={"dim": [3, 2]}, data=range(6)).SerializeToString()
    model = open_layer(path, data)
    array = model.layers[0].blobs[0].array()
    assert not array.flags.owndata
    assert not array.flags.writeable
    model.close()
    path.unlink()
    assert array.tolist() == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize(
    ("fields", "dtype"),
    [
        ({"double_data": [1.5, -2.0, 2.0**-1074]}, "<f8"),
        ({"double_data": [1.5, -2.0, 0.1], "data": [7, 7, 7]}, "<f8"),  # as in Caffe, double_data goes first
        ({"raw_data_type": 0, "raw_data": struct.pack("<3d", 1.5, -2.0, 0.1)}, "<f8"),
        ({"raw_data_type": 1, "raw_data": struct.pack("<3f", 1.5, -2.0, 0.1)}, "<f4"),
        ({"raw_data_type": 2, "raw_data": struct.pack("<3e", 1.5, -2.0, 0.1)}, "<f2"),
        ({"raw_data_type": 2, "raw_data": b"\x00", "data": [1.5, -2.0, 0.1]}, "<f4"),  # and data before raw_data
    ],
)
def test_other_number_types_keep_their_type_until_asked_for_float32(path, fields, dtype):
    proto = BlobProto(shape={"dim": [1, 3]}, **fields)
    stored = proto.double_data or proto.data or np.frombuffer(proto.raw_data, dtype)
    with open_layer(path, proto.SerializeToString()) as model:
        (blob,) = model.layers[0].blobs
        assert blob.dtype == np.dtype(dtype)
        assert np.concatenate(list(blob.chunks(2))).tolist() == list(stored)
        assert blob.array(np.float64).tolist() == [list(stored)]
        assert blob.array().dtype == np.float32
        assert blob.array().tolist() == [np.array(stored).astype(np.float32).tolist()]


def test_a_signalling_nan_becomes_a_quiet_one_without_a_warning(path):
    data = BlobProto(shape={"dim": [1]}, raw_data_type=0, raw_data=struct.pack("<Q", 0x7FF0000000000001))
    with open_layer(path, data.SerializeToString()) as model:
        assert np.isnan(model.layers[0].blobs[0].array()).tolist() == [True]


def test_a_double_beyond_float32_is_refused_and_an_infinite_one_is_not(path):
    data = BlobProto(shape={"dim": [2]}, double_data=[np.inf, -1e39]).SerializeToString()
    fine = BlobProto(shape={"dim": [2]}, double_data=[np.inf, -1e38]).SerializeToString()
    with open_layer(path, data, fine) as model:
        with pytest.raises(WeightsError, match=r"expected values that float32 can hold, got 1e\+39"):
            model.layers[0].blobs[0].array()
        assert model.layers[0].blobs[1].array().tolist() == [np.inf, np.float32(-1e38)]


@pytest.mark.parametrize(
    ("fields", "shape", "legacy"),
    [
        ({"num": 1, "channels": 1, "height": 2, "width": 3}, (1, 1, 2, 3), True),
        ({"num": 6, "channels": 1, "height": 1, "width": 1, "shape": {"dim": [2, 3]}}, (6, 1, 1, 1), True),
        ({"shape": {"dim": [3, 1, 2]}}, (3, 1, 2), False),
    ],
)
def test_legacy_dims_are_four_and_go_before_the_shape(path, fields, shape, legacy):
    with open_layer(path, BlobProto(data=range(6), **fields).SerializeToString()) as model:
        (blob,) = model.layers[0].blobs
        assert (blob.shape, blob.legacy) == (shape, legacy)
        assert blob.array().shape == shape


def test_an_incomplete_legacy_shape_has_zeros_as_in_caffe(path):
    with open_layer(path, BlobProto(num=5, width=3).SerializeToString()) as model:
        assert model.layers[0].blobs[0].shape == (5, 0, 0, 3)


def test_a_blob_without_dims_is_one_number_and_one_with_a_zero_is_none(path):
    scalar = BlobProto(shape={}, data=[2.5]).SerializeToString()
    empty = BlobProto(shape={"dim": [3, 0]}).SerializeToString()
    with open_layer(path, scalar, empty) as model:
        one, none = model.layers[0].blobs
        assert (one.shape, one.array().tolist()) == ((), 2.5)
        assert (none.shape, none.array().shape, list(none.chunks())) == ((3, 0), (3, 0), [])


def test_a_run_of_values_ends_at_another_tag_and_an_empty_field_is_no_value(path):
    other = b"\xad\x81\x00" + bytes(4)  # field 21, whose tag differs from that of a value in one bit
    data = b"\x3a\x02\x08\x05" + b"\x42\x00" + long_tags(TRAPS[:3]) + other + long_tags(TRAPS[3:5])
    assert bits(np.array(BlobProto.FromString(data).data, np.float32)) == bits(TRAPS[:5])
    with open_layer(path, data) as model:
        assert bits(model.layers[0].blobs[0].array()) == bits(TRAPS[:5])


def test_dims_may_be_unpacked_split_and_in_several_shapes(path):
    data = b"\x3a\x02\x08\x02" + packed(np.zeros(30)) + b"\x3a\x05\x0a\x01\x03\x08\x05"
    assert list(BlobProto.FromString(data).shape.dim) == [2, 3, 5]
    with open_layer(path, data) as model:
        assert model.layers[0].blobs[0].shape == (2, 3, 5)


def test_a_legacy_source_has_four_dims():
    with pytest.raises(ValueError, match="four dims"):
        BlobSource((2, 3), lambda: iter([]), legacy=True).head()
