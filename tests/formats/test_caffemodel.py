import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lpcaffe.errors import FileError, WeightsError
from lpcaffe.formats import caffemodel, wire
from lpcaffe.formats.caffemodel import MAX_HEADER_BYTES, BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.schema import BlobProto, LayerParameter, NetParameter

SHARED = Path(__file__).parents[3] / "shared"
SHARED_MODELS = sorted([*SHARED.glob("models/*/*.caffemodel"), *SHARED.glob("golden/lp_*/**/*.caffemodel")])

per_example = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel"


def bits(values):
    values = np.ascontiguousarray(values)
    return values.view(f"u{values.dtype.itemsize}").tolist()


def copy_of(model):
    return {layer.name: [BlobSource.copy(blob) for blob in layer.blobs] for layer in model.layers}


# All bits but those of signalling NaNs, which Python's floats, and so protobuf's lists, make quiet.
WORDS = st.integers(0, 2**32 - 1).map(lambda word: word | 0x400000 if word & 0x7FFFFFFF > 0x7F800000 else word)
BLOBS = st.lists(st.integers(0, 5), max_size=4).flatmap(
    lambda dims: st.tuples(st.just(dims), st.lists(WORDS, min_size=math.prod(dims), max_size=math.prod(dims)))
)
LAYERS = st.lists(
    st.tuples(
        st.text(st.characters(codec="utf-8"), max_size=8),
        st.sampled_from(["Convolution", "LPConvolution", "LPAct", "Ünbekannt"]),
        st.integers(0, 30),
        st.lists(BLOBS, max_size=3),
    ),
    unique_by=lambda layer: layer[0],
    min_size=1,
    max_size=4,
)


def net_and_arrays(layers):
    """A net without blobs, the same net with blobs as protobuf holds them, and the arrays."""
    bare, full, arrays = NetParameter(name="näme"), NetParameter(name="näme"), {}
    for name, kind, ad, blobs in layers:
        header = LayerParameter(name=name, type=kind, bottom=["a"], lpfp_param={"ad": ad})
        bare.layer.append(header)
        arrays[name] = [np.array(words, np.uint32).view(np.float32).reshape(dims) for dims, words in blobs]
        for array in arrays[name]:
            header.blobs.append(BlobProto(shape={"dim": array.shape}, data=array.reshape(-1)))
        full.layer.append(header)
    return bare, full, arrays


@per_example
@given(LAYERS)
def test_what_is_written_is_what_protobuf_reads(tmp_path_factory, layers):
    path = tmp_path_factory.getbasetemp() / "written.caffemodel"
    bare, full, arrays = net_and_arrays(layers)
    sources = {name: [BlobSource.of(array) for array in blobs] for name, blobs in arrays.items()}
    digest = write_caffemodel(path, bare, sources, force=True)
    data = path.read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert NetParameter.FromString(data).SerializeToString() == full.SerializeToString()  # NaN is not equal to NaN


@per_example
@given(LAYERS, st.booleans())
def test_what_protobuf_writes_is_what_is_read(tmp_path_factory, layers, twice):
    path = tmp_path_factory.getbasetemp() / "read.caffemodel"
    bare, full, arrays = net_and_arrays(layers)
    path.write_bytes(full.SerializeToString())
    with open_caffemodel(path) as model:
        if twice:
            write_caffemodel(path, model.net, copy_of(model), force=True)  # over the very file that is read
            model = open_caffemodel(path)
        assert model.net == bare
        assert model.generation == "V2"
        assert [layer.name for layer in model.layers] == list(arrays)
        for layer in model.layers:
            assert layer.type == layer.header.type
            assert [blob.shape for blob in layer.blobs] == [array.shape for array in arrays[layer.name]]
            for blob, array in zip(layer.blobs, arrays[layer.name], strict=True):
                assert bits(blob.array()) == bits(array)


def old_net(**layer):
    data = {"name": "old", "layers": [{"bottom": ["data"], "top": ["ip"], **layer}]}
    return NetParameter(**data, input=["data"], input_dim=[2, 3, 5, 7])


V1_BLOBS = [
    {"num": 1, "channels": 1, "height": 2, "width": 3, "data": range(6)},
    {"num": 1, "channels": 1, "height": 1, "width": 2, "data": [7, 8]},
]


@pytest.mark.parametrize(
    ("net", "generation"),
    [
        (old_net(name="ip", type="INNER_PRODUCT", blobs=V1_BLOBS, inner_product_param={"num_output": 2}), "V1"),
        (old_net(layer={"name": "ip", "type": "innerproduct", "blobs": V1_BLOBS, "num_output": 2}), "V0"),
        (old_net(layer={"type": "innerproduct", "blobs": V1_BLOBS, "num_output": 2}, name="ip"), "V0"),
    ],
)
def test_older_generations_are_read_as_v2_and_their_legacy_blobs_stay_legacy(path, net, generation):
    path.write_bytes(net.SerializeToString())
    with open_caffemodel(path) as model:
        assert model.generation == generation
        assert [(layer.name, layer.type) for layer in model.layers] == [("input", "Input"), ("ip", "InnerProduct")]
        assert [layer.header for layer in model.layers] == list(model.net.layer)
        assert model.by_name["ip"].header.inner_product_param.num_output == 2
        weights, bias = model.by_name["ip"].blobs
        assert (weights.shape, bias.shape, bias.legacy) == ((1, 1, 2, 3), (1, 1, 1, 2), True)
        assert weights.array().tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
        assert not any(layer.blobs for layer in model.net.layer)
        copy = path.with_name("copy")
        write_caffemodel(copy, model.net, copy_of(model))
    written = NetParameter.FromString(copy.read_bytes())
    assert [blob.SerializeToString() for blob in written.layer[1].blobs] == [
        BlobProto(**blob).SerializeToString() for blob in V1_BLOBS
    ]


def test_v0_padding_layers_vanish_and_the_blobs_stay_where_they_belong(path):
    conv = {"name": "conv", "type": "conv", "kernelsize": 1, "num_output": 2, "blobs": V1_BLOBS[:1]}
    net = NetParameter(
        layers=[
            {"bottom": ["data"], "top": ["pad"], "layer": {"name": "pad", "type": "padding", "pad": 2}},
            {"bottom": ["pad"], "top": ["conv"], "layer": conv},
        ]
    )
    path.write_bytes(net.SerializeToString())
    with open_caffemodel(path) as model:
        (layer,) = model.layers
        assert (layer.name, list(layer.header.convolution_param.pad), len(layer.blobs)) == ("conv", [2], 1)


def test_a_v0_layer_in_two_parts_is_one_layer(path):
    parts = [{"name": "x", "blobs": V1_BLOBS[:1]}, {"name": "ip", "type": "innerproduct", "blobs": V1_BLOBS[1:]}]
    layer = b"".join(old_net(layer=part).layers[0].SerializeToString() for part in parts)
    path.write_bytes(wire.delimited(2, len(layer)) + layer)
    with open_caffemodel(path) as model:
        assert [blob.shape for blob in model.by_name["ip"].blobs] == [(1, 1, 2, 3), (1, 1, 1, 2)]


def test_layers_of_one_name_are_told_apart_by_their_blobs(path):
    blob = {"shape": {"dim": [1]}, "data": [5]}
    layers = [{"name": "data", "type": "Data"}, {"name": "data", "type": "Scale", "blobs": [blob]}, {"name": "data"}]
    path.write_bytes(NetParameter(layer=layers).SerializeToString())
    with open_caffemodel(path) as model:
        assert [len(layer.blobs) for layer in model.layers] == [0, 1, 0]
        assert model.by_name["data"] is model.layers[1]
    layers[0]["blobs"] = [blob]
    path.write_bytes(NetParameter(layer=layers).SerializeToString())
    with pytest.raises(WeightsError, match='layer "data": expected one layer of this name with blobs, got two'):
        open_caffemodel(path)


def test_a_net_without_weights_is_read_and_written_too(path):
    net = NetParameter(name="bare", layer=[{"name": "relu", "type": "ReLU", "bottom": ["a"], "top": ["a"]}])
    path.write_bytes(net.SerializeToString())
    with open_caffemodel(path) as model:
        assert model.net == net
        write_caffemodel(path, model.net, {}, force=True)
    assert path.read_bytes() == net.SerializeToString()


def source(shape, *chunks):
    return BlobSource(shape, lambda: iter([np.asarray(chunk) for chunk in chunks]))


NET = NetParameter(layer=[{"name": "conv", "type": "Convolution"}, {"name": "relu", "type": "ReLU"}])


def test_a_source_may_give_pieces_of_any_size_type_and_order_of_bytes(path):
    pieces = [np.ones((2, 1), ">f8"), np.zeros(0), np.float16(2), np.arange(12).reshape(3, 4)[:, ::3]]
    write_caffemodel(path, NET, {"conv": [source((3, 3), *pieces)]})
    with open_caffemodel(path) as model:
        assert model.layers[0].blobs[0].array().reshape(-1).tolist() == [1, 1, 2, 0, 3, 4, 7, 8, 11]


def test_blobs_inside_the_net_are_not_written(path):
    net = NetParameter(layer=[{"name": "conv", "blobs": [{"shape": {"dim": [1]}, "data": [5]}]}])
    write_caffemodel(path, net, {})
    assert path.read_bytes() == NetParameter(layer=[{"name": "conv"}]).SerializeToString()
    assert len(net.layer[0].blobs) == 1


def interrupted():
    yield np.zeros(2)
    raise KeyboardInterrupt("stop")


def endless():
    yield np.zeros(3)
    pytest.fail("after too many values, no more may be asked for")


@pytest.mark.parametrize(
    ("blobs", "error", "problem"),
    [
        ({"conv": [BlobSource((2,), endless)]}, WeightsError, "expected 2 values for shape 2, got 3 or more"),
        ({"conv": [source((2, 3), [1, 2, 3], [4, 5])]}, WeightsError, "expected 6 values for shape 2 x 3, got 5$"),
        ({"conv": [source((2, 3))]}, WeightsError, "expected 6 values for shape 2 x 3, got 0$"),
        ({"conv": [source((2,), [1], [2], [3])]}, WeightsError, "expected 2 values for shape 2, got 3 or more"),
        ({"conv": [source((0,), [1])]}, WeightsError, "expected 0 values for shape 0, got 1 or more"),
        ({"conv": [source((1,), [1e39])]}, WeightsError, "float32 can hold, got 1e\\+39"),
        (
            {"conv": [source((1,), [1]), source((1,))]},
            WeightsError,
            'caffemodel: layer "conv" blob 1: expected 1 values',
        ),
        ({"cönv": [source((1,), [1])]}, WeightsError, 'layer "cönv": expected one layer .*, got 0'),
        ({"conv": [BlobSource((3,), interrupted)]}, KeyboardInterrupt, "stop"),
    ],
)
def test_after_an_error_in_the_blobs_no_file_is_left(path, blobs, error, problem):
    with pytest.raises(error, match=problem):
        write_caffemodel(path, NET, blobs)
    assert list(path.parent.iterdir()) == []


def test_two_layers_of_one_name_cannot_be_given_blobs(path):
    twice = NetParameter(layer=[{"name": "conv"}, {"name": "conv"}])
    with pytest.raises(WeightsError, match='layer "conv": expected one layer of this name for its blobs, got 2'):
        write_caffemodel(path, twice, {"conv": [source((1,), [1])]})
    write_caffemodel(path, twice, {"conv": []})


def test_v1_layers_are_not_written(path):
    with pytest.raises(FileError, match="expected a V2 network, got V1 layers; upgrade it first"):
        write_caffemodel(path, NetParameter(layers=[{"name": "a"}]), {})


def test_an_existing_caffemodel_is_kept_unless_forced(path):
    path.write_bytes(b"precious")
    with pytest.raises(FileError, match="the file exists"):
        write_caffemodel(path, NET, {})
    assert path.read_bytes() == b"precious"


def test_more_than_caffe_reads_is_refused_before_any_value_is_asked_for(path, monkeypatch):
    def chunks():
        pytest.fail("no value may be asked for")

    with pytest.raises(FileError, match=r"expected at most 2147483647 bytes, .* got 2147483\d\d\d;"):
        write_caffemodel(path, NET, {"conv": [BlobSource((1 << 16, 1 << 13), chunks)]})
    assert not path.exists()

    blobs = {"conv": [source((2,), [1, 2])]}
    write_caffemodel(path, NET, blobs)
    size = path.stat().st_size
    monkeypatch.setattr(caffemodel, "MAX_BYTES", size)
    write_caffemodel(path, NET, blobs, force=True)  # exactly the limit is fine
    monkeypatch.setattr(caffemodel, "MAX_BYTES", size - 1)
    with pytest.raises(FileError, match=f"expected at most {size - 1} bytes, .* got {size};"):
        write_caffemodel(path, NET, blobs, force=True)


def test_what_would_not_be_read_again_is_not_written(path):
    def named(length):
        return NetParameter(name="\1" * length, layer=NET.layer)

    rest = len(NET.SerializeToString())
    write_caffemodel(path, named(MAX_HEADER_BYTES - rest - 4), {})
    open_caffemodel(path).close()
    with pytest.raises(
        FileError, match=f"at most {MAX_HEADER_BYTES} bytes beside the blobs, got {MAX_HEADER_BYTES + 1}"
    ):
        write_caffemodel(path, named(MAX_HEADER_BYTES - rest - 3), {}, force=True)


COPY = """
import sys
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

before = peak()
with open_caffemodel(sys.argv[1]) as model:
    sources = {layer.name: [BlobSource.copy(blob) for blob in layer.blobs] for layer in model.layers}
    write_caffemodel(sys.argv[2], model.net, sources)
    total = sum(float(chunk.sum()) for layer in model.layers for blob in layer.blobs for chunk in blob.chunks())
print(peak() - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
@pytest.mark.parametrize("encode", ["packed", "unpacked"])
def test_copying_takes_a_fraction_of_the_memory_of_the_network(path, encode):
    count = 12 << 20  # 48 MiB of float32
    if encode == "packed":
        values = wire.delimited(5, 4 * count) + np.ones(count, "<f4").tobytes()
    else:
        values = b"\x2d\x00\x00\x80\x3f" * count
    shape = BlobProto(shape={"dim": [count]}).SerializeToString()
    blob = b"\x0a\x02ip" + wire.delimited(7, len(shape) + len(values)) + shape
    path.write_bytes(wire.delimited(100, len(blob) + len(values)) + blob + values)
    copy = path.with_name("copy")
    command = [sys.executable, "-c", COPY, os.fspath(path), os.fspath(copy)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    kilobytes, total = run.stdout.split()
    assert float(total) == count
    assert int(kilobytes) < 16 * 1024
    with open_caffemodel(copy) as model:
        assert model.layers[0].blobs[0].count == count


def mapped_kilobytes(path):
    """How much of a file this process has in memory through its maps."""
    found, of_path = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            of_path = line.endswith(f" {path}")
        elif of_path and line.startswith("Rss:"):
            found += int(line.split()[1])
    return found


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="mapped memory is read from Linux' /proc")
def test_no_piece_leaves_mapped_memory_behind(path):
    write_caffemodel(path, NET, {"conv": [BlobSource.of(np.ones(6 << 20, np.float32))]})
    with open_caffemodel(path) as model:
        for size in (1 << 20, 1 << 18, 200_003):
            for chunk in model.by_name["conv"].blobs[0].chunks(size):
                assert chunk.sum() == len(chunk)
                assert len(chunk) // 256 <= mapped_kilobytes(path) <= len(chunk) // 256 + 4096, size
            assert mapped_kilobytes(path) <= 256, size


@pytest.mark.skipif(not SHARED_MODELS, reason="the released networks are not beside the repository")
@pytest.mark.parametrize("released", SHARED_MODELS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_released_networks_are_read_and_rewritten_as_protobuf_reads_them(released, path):
    stored = NetParameter.FromString(released.read_bytes())
    with open_caffemodel(released) as model:
        assert [layer.name for layer in model.layers] == [layer.name for layer in stored.layer]
        for layer, expected in zip(model.layers, stored.layer, strict=True):
            assert [blob.shape for blob in layer.blobs] == [tuple(blob.shape.dim) for blob in expected.blobs]
            for blob, values in zip(layer.blobs, expected.blobs, strict=True):
                assert np.array_equal(blob.array().reshape(-1).view(np.uint32), np.array(values.data, "f4").view("u4"))
        write_caffemodel(path, model.net, copy_of(model))
    written = NetParameter.FromString(path.read_bytes())
    for layer, expected in zip(written.layer, stored.layer, strict=True):
        for blob in expected.blobs:
            blob.ClearField("diff")
        if layer.type == "BatchNorm" and layer.param:  # the upgrade takes the learning rates of its three blobs
            layer.ClearField("param")
            expected.ClearField("param")
        assert layer == expected
        assert fields(layer) == fields(expected)
    assert fields(written) == fields(stored)


def fields(message):
    """The unknown fields of a message and of its parameter blocks."""
    found = [[(field.field_number, field.wire_type, field.data) for field in UnknownFieldSet(message)]]
    for field, value in message.ListFields():
        if field.name.endswith("_param"):
            found += [(field.name, *fields(value))]
    return found


@pytest.mark.skipif(not SHARED_MODELS, reason="the released networks are not beside the repository")
def test_open_nsfw_keeps_the_fields_of_caffeonspark(path):
    (released,) = (model for model in SHARED_MODELS if "nsfw" in model.name)
    with open_caffemodel(released) as model:
        write_caffemodel(path, model.net, copy_of(model))
    data, stored = path.read_bytes(), released.read_bytes()
    for field in (
        wire.delimited(10001, 33) + b"com.yahoo.ml.caffe.ImageDataFrame",  # in the layer, where it was
        wire.tag(10000, wire.VARINT) + b"\x00" + wire.delimited(10001, 65) + b"/projects/flickr_sciences/",
    ):
        assert data.count(field) == stored.count(field) == 1
