"""Two files are the same, or every layer, field, blob, shape and bit that differs is told."""

import json
import subprocess
import sys

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import FileError, NetError
from lpcaffe.formats import wire
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.formats.prototxt import parse
from lpcaffe.formats.schema import BlobProto, LayerParameter, NetParameter

NET = """name: "n"
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 3 kernel_size: [2, 5] } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { lr_mult: 1 } param { lr_mult: 2 } }
"""


def snan(payload: int) -> np.float32:
    """A NaN with these bits; 0x7F800001 is signalling."""
    return np.array(payload, np.uint32).view(np.float32)[()]


@pytest.fixture
def write(tmp_path):
    """A function that writes a caffemodel of arrays by layer name, and gives its path."""

    def file(name, **layers):
        net = NetParameter()
        for layer in layers:
            net.layer.add(name=layer, type="InnerProduct")
        path = tmp_path / f"{name}.caffemodel"
        blobs = {layer: [BlobSource.of(array) for array in own] for layer, own in layers.items()}
        write_caffemodel(path, net, blobs)
        return path

    return file


def test_the_same_file_is_the_same(write):
    path = write("a", ip=[np.arange(6, dtype=np.float32).reshape(2, 3), np.full(2, np.nan, np.float32)])
    found = lp.diff(path, path)
    assert found.same
    assert (found.blobs, found.fields, found.headers) == ((), (), ())
    assert found.compared == {"layers": 1, "blobs": 2, "values": 8}


def test_every_kind_of_difference_is_counted_apart(write):
    a = np.array([1, 2, 0.0, -0.0, snan(0x7FC00001), snan(0x7F800001), 5, np.inf, 0.0, 3, -4], np.float32)
    b = np.array([1, 2.5, -0.0, -0.0, snan(0x7FC00002), snan(0x7F800001), np.nan, 7, 0.0, 3, -1], np.float32)
    (found,) = lp.diff(write("a", ip=[a]), write("b", ip=[b])).blobs
    assert (found.layer, found.blob, found.count, found.first) == ("ip", 0, 11, 1)
    # 1, 6, 7 and 10 in value; 2 in the sign of zero; 4 in the bits of NaN; the infinite ones have no difference.
    assert (found.differing, found.values, found.zero_signs, found.nan_payloads) == (6, 4, 1, 1)
    assert found.max_abs_difference == 3.0


def test_only_the_sign_of_zero_differs(write):
    found = lp.diff(write("a", ip=[np.zeros(3, np.float32)]), write("b", ip=[np.array([0, 0, -0.0], np.float32)]))
    assert not found.same
    (blob,) = found.blobs
    assert (blob.differing, blob.values, blob.zero_signs, blob.first, blob.max_abs_difference) == (1, 0, 1, 2, 0)


def test_layers_blobs_and_shapes_of_one_file_only(write):
    one = np.ones(6, np.float32)
    a = write("a", gone=[one], ip=[one.reshape(2, 3), one], fc=[one], cut=[one])
    b = write("b", ip=[one.reshape(3, 2)], fc=[one, one], cut=[one[:5]], new=[one])
    found = lp.diff(a, b)
    assert (found.only_a, found.only_b) == (("gone",), ("new",))
    assert [(blob.layer, blob.blob, blob.shape_a, blob.shape_b, blob.differing) for blob in found.blobs] == [
        ("ip", 0, (2, 3), (3, 2), 0),
        ("ip", 1, (6,), None, 0),
        ("fc", 1, None, (6,), 0),
        ("cut", 0, (6,), (5,), 0),
    ]
    assert found.compared == {"layers": 3, "blobs": 3, "values": 12}
    back = lp.diff(b, a)
    assert (back.only_a, back.only_b, len(back.blobs)) == (found.only_b, found.only_a, 4)


def stored(tmp_path, name, **blob):
    """A caffemodel of one layer with one BlobProto."""
    net = NetParameter()
    net.layer.add(name="ip", type="InnerProduct").blobs.add(**blob)
    (tmp_path / name).write_bytes(net.SerializeToString())
    return tmp_path / name


def test_how_values_are_stored_does_not_count(tmp_path):
    values = np.arange(1, 7, dtype=np.float32) / 3
    new = stored(tmp_path, "new", shape={"dim": [2, 3]}, data=values)
    double = stored(tmp_path, "double", shape={"dim": [2, 3]}, double_data=values.astype(np.float64))
    legacy = stored(tmp_path, "legacy", num=1, channels=1, height=2, width=3, data=values)
    turned = stored(tmp_path, "turned", num=1, channels=1, height=3, width=2, data=values)
    for a in (new, double, legacy):
        for b in (new, double, legacy):
            assert lp.diff(a, b).same
    (blob,) = lp.diff(new, turned).blobs
    assert (blob.shape_a, blob.shape_b, blob.differing) == ((2, 3), (1, 1, 3, 2), 0)


def test_values_in_pieces_are_compared_in_their_order(tmp_path):
    values = np.arange(1, 12, dtype=np.float32)

    def pieces(name, *cuts):
        data = BlobProto(shape={"dim": [11]}).SerializeToString()
        data += b"".join(BlobProto(data=part).SerializeToString() for part in np.split(values, cuts))
        layer = LayerParameter(name="ip", type="InnerProduct").SerializeToString()
        layer += wire.delimited(7, len(data)) + data
        (tmp_path / name).write_bytes(wire.delimited(100, len(layer)) + layer)
        return tmp_path / name

    a, b, c = pieces("a"), pieces("b", 4, 9), pieces("c", 6)
    assert lp.diff(a, b).same
    assert lp.diff(b, c).same
    values[[7, 10]] = -8, 0
    (blob,) = lp.diff(b, pieces("d", 3, 5, 8)).blobs
    assert (blob.differing, blob.first, blob.max_abs_difference) == (2, 7, 16)


def test_float64_is_compared_with_all_its_bits(tmp_path):
    a = np.array([1, 2, 1e308])
    b = np.array([1, np.nextafter(2, 3), -1e308])
    files = [stored(tmp_path, name, shape={"dim": [3]}, double_data=x) for name, x in (("a", a), ("b", b))]
    (blob,) = lp.diff(*files).blobs
    assert (blob.differing, blob.first, blob.max_abs_difference) == (2, 1, sys.float_info.max)
    narrow = stored(tmp_path, "narrow", shape={"dim": [3]}, data=np.array([1, 2, 3], np.float32))
    assert lp.diff(files[1], narrow).blobs[0].first == 1


def test_generations_are_compared_by_what_they_mean(tmp_path):
    values = np.arange(6, dtype=np.float32)
    v2 = stored(tmp_path, "v2", shape={"dim": [2, 3]}, data=values)
    net = NetParameter()
    net.layers.add(name="ip", type=14).blobs.add(num=1, channels=1, height=2, width=3, data=values)
    (tmp_path / "v1").write_bytes(net.SerializeToString())
    found = lp.diff(tmp_path / "v1", v2)
    assert found.same
    assert found.generations == ("V1", "V2")


def test_headers_are_told_and_do_not_count(tmp_path):
    paths = []
    for name, kind in (("a", "InnerProduct"), ("b", "LPInnerProduct")):
        net = NetParameter()
        net.layer.add(name="ip", type=kind).blobs.add(shape={"dim": [1]}, data=[7])
        net.layer.add(name="prob", type="Softmax" + kind)
        paths.append(tmp_path / name)
        paths[-1].write_bytes(net.SerializeToString())
    found = lp.diff(*paths)
    assert found.same
    assert found.headers == ("ip",)


def test_a_difference_beyond_the_first_chunk_is_found_where_it_is(write):
    size = (1 << 20) + 77
    a = np.zeros(size, np.float32)
    b = a.copy()
    b[[size - 5, size - 2]] = -0.25, 2.0
    (blob,) = lp.diff(write("a", ip=[a]), write("b", ip=[b])).blobs
    assert (blob.differing, blob.first, blob.max_abs_difference) == (2, size - 5, 2.0)


MEASURE = """
import resource, sys, lpcaffe as lp
lp.diff(sys.argv[1], sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert lp.diff(sys.argv[2], sys.argv[3]).blobs[0].first == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss has other units elsewhere")
def test_memory_does_not_grow_with_the_blobs(write):
    size = 12 << 20  # 48 MiB each
    little = write("little", ip=[np.ones(7, np.float32)])
    a, b = write("a", ip=[np.ones(size, np.float32)]), write("b", ip=[np.full(size, 2, np.float32)])
    done = subprocess.run([sys.executable, "-c", MEASURE, little, a, b], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40 << 10  # KiB; a chunk of each with what is computed of it takes 4 MiB a piece


# ------------------------------------------------------------------------------------------------------- prototxts


@pytest.fixture
def text(tmp_path):
    """A function that writes a prototxt and gives its path."""

    def file(name, content):
        (tmp_path / name).write_text(content)
        return tmp_path / name

    return file


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('name: "n"', 'name: "m"', [(None, "name", '"n"', '"m"')]),
        ("num_output: 3", "num_output: 4", [("a", "convolution_param.num_output", "3", "4")]),
        ("[2, 5]", "[2, 6]", [("a", "convolution_param.kernel_size", "[2, 5]", "[2, 6]")]),
        ("lr_mult: 2", "", [("b", "param[1].lr_mult", "2", None), ("b", "param[1]", None, "{}")]),
        (" param { lr_mult: 2 }", "", [("b", "param[1].lr_mult", "2", None)]),
        ("num_output: 3", "num_output: 3 bias_term: true", [("a", "convolution_param.bias_term", None, "true")]),
        ('bottom: "a"', 'bottom: "x"', [("b", "bottom", '["a"]', '["x"]')]),
    ],
)
def test_a_field_that_differs_is_named_with_both_values(text, old, new, expected):
    assert old in NET
    found = lp.diff(text("a", NET), text("b", NET.replace(old, new)))
    assert not found.same
    assert [(field.layer, field.field, field.a, field.b) for field in found.fields] == expected
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning")
def test_fields_of_forks_are_compared_under_their_own_names(text):
    fork = 'name: "n" layer { name: "a" type: "Odd" odd_param { depth: 1 inner { } } odd_param { depth: 3 } odd: X }'
    found = lp.diff(text("a", fork), text("b", fork.replace("depth: 3", "depth: 4").replace("inner { }", "")))
    assert [(field.field, field.a, field.b) for field in found.fields] == [
        ("odd_param.depth[1]", "3", "4"),
        ("odd_param.inner", "{}", None),
    ]


@pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning")
def test_names_without_end_are_told_in_part(text):
    """And are told apart by all of them: a path may be longer than memory in all its fields together."""
    layer, block = "n" * 900, "b" * 900
    net = f'layer {{ name: "{layer}" {block} {{ one: 1 two {{ x: 3 }} }} {block}c {{ one: 5 }} }}'
    found = lp.diff(text("a", net), text("b", net.replace("1", "2").replace("3", "4").replace("5", "6")))
    assert [(field.a, field.b) for field in found.fields] == [("1", "2"), ("3", "4"), ("5", "6")]
    assert {field.layer for field in found.fields} == {"n" * 200 + "..."}
    assert {field.field[:200] for field in found.fields} == {"b" * 200}
    assert lp.diff(text("a", net), text("b", net)).same


@pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning")
def test_fields_that_are_given_once_more_or_elsewhere(text):
    a = 'layer { name: "a" odd: 1 other: 2 odd: 3 block { odd: 4 } block { } }'
    b = 'layer { name: "a" odd: 1 other: 2 odd: 5 odd: 6 block { odd: 4 odd: 7 } }'
    assert [(field.field, field.a, field.b) for field in lp.diff(text("a", a), text("b", b)).fields] == [
        ("odd[1]", "3", "5"),
        ("odd[2]", None, "6"),
        ("block.odd[1]", None, "7"),
        ("block", "{}", None),
    ]
    turned = a.replace("odd: 1 other: 2 odd: 3", "odd: 3 other: 2 odd: 1")
    assert [field.field for field in lp.diff(text("a", a), text("b", turned)).fields] == ["odd", "odd[1]"]


def test_a_network_that_cannot_be_upgraded_is_named(text):
    v0 = 'layers { layer { name: "p" type: "padding" pad: 1 } bottom: "x" top: "p" }\n'
    net = v0 + 'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }'
    with pytest.raises(NetError, match='/b: layer "r": '):
        lp.diff(text("a", NET), text("b", net))


def test_layers_that_are_elsewhere_or_in_one_file_only(text):
    head, a, b = NET.strip().split("\n")
    found = lp.diff(text("a", NET), text("b", "\n".join([head, b, a])))
    assert (found.same, found.reordered, found.fields) == (False, True, ())
    found = lp.diff(text("a", NET), text("c", "\n".join([head, a, b.replace('"b"', '"c"', 1)])))
    assert (found.only_a, found.only_b, found.reordered) == (("b",), ("c",), False)


def test_layers_of_two_phases_with_one_name_are_told_apart(text):
    net = "".join(
        f'layer {{ name: "data" type: "Data" top: "x" include {{ phase: {phase} }} '
        f"data_param {{ batch_size: {size} }} }}\n"
        for phase, size in (("TRAIN", 64), ("TEST", 10))
    )
    assert lp.diff(text("a", net), text("b", net)).same
    (field,) = lp.diff(text("a", net), text("b", net.replace("10", "11"))).fields
    assert (field.layer, field.field, field.a, field.b) == ("data", "data_param.batch_size", "10", "11")


def test_v1_text_is_compared_with_v2_text(text):
    v1 = 'layers { name: "r" type: RELU bottom: "x" top: "r" }'
    v2 = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" }  # the same'
    found = lp.diff(text("a", v1), text("b", v2))
    assert found.same
    assert found.generations == ("V1", "V2")
    assert parse(v1) != parse(v2)


def test_files_of_two_kinds_or_of_none_are_refused(text, write):
    net, weights = text("a", NET), write("a", ip=[np.ones(2, np.float32)])
    with pytest.raises(FileError, match=r"a\.caffemodel: expected a prototxt, as the other file is, got a caffemodel"):
        lp.diff(net, weights)
    with pytest.raises(FileError, match=r"/a: expected a caffemodel, as the other file is, got a prototxt"):
        lp.diff(weights, net)
    empty = text("empty", "")
    for pair in ((net, empty), (empty, net), (weights, empty), (empty, empty)):
        with pytest.raises(FileError, match="empty"):
            lp.diff(*pair)
    with pytest.raises(FileError, match="gone: cannot be read: no such file"):
        lp.diff(net, net.with_name("gone"))
    cut = write("cut", ip=[np.ones(99, np.float32)])
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(FileError, match=r"cut\.caffemodel: byte"):
        lp.diff(weights, cut)
