"""Weights in HDF5: Caffe's layout both ways, streamed, the same bytes every time, and nothing a hostile file can do."""

import hashlib
import os
import resource
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import FileError, LpcaffeError, LpcaffeWarning, MissingExtraError, WeightsError
from lpcaffe.formats import caffemodel, hdf5
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.schema import NetParameter

NET = NetParameter(name="n", layer=[{"name": name, "type": "T"} for name in ("conv", "relu", "ip", "last_10")])


def traps(*shape):
    values = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    bits = np.array([0x80000000, 0x7FC12345, 0x7F800000, 0xFF800000, 0x00000001, 0x7F7FFFFF], np.uint32)
    values.reshape(-1)[: min(values.size, 6)] = bits.view(np.float32)[: values.size]
    return values


BLOBS = {
    "conv": [traps(5, 3, 2, 4), traps(5), traps(1), traps()],
    "ip": [traps(7, 0, 2), traps(3, 11)],
    "last_10": [traps(1, 2) for _ in range(12)],
}


def sources(blobs):
    return {name: [BlobSource.of(blob) for blob in own] for name, own in blobs.items()}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.caffemodel.h5"


def test_binary_to_hdf5_and_back_is_the_same_file(tmp_path, path):
    write_caffemodel(tmp_path / "a.caffemodel", NET, sources(BLOBS))
    with open_caffemodel(tmp_path / "a.caffemodel") as model:
        write_caffemodel(
            path, NET, {layer.name: [*map(BlobSource.copy, layer.blobs)] for layer in model.layers}, hdf5=True
        )
    with open_caffemodel(path) as model:
        write_caffemodel(
            tmp_path / "b.caffemodel", NET, {layer.name: [*map(BlobSource.copy, layer.blobs)] for layer in model.layers}
        )
    assert (tmp_path / "a.caffemodel").read_bytes() == (tmp_path / "b.caffemodel").read_bytes()


def test_h5py_reads_what_is_written_and_it_is_caffes_layout(path):
    digest = write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with h5py.File(path) as file:
        assert list(file) == ["data"]
        assert sorted(file["data"]) == ["conv", "ip", "last_10", "relu"]
        assert len(file["data/relu"]) == 0
        for name, own in BLOBS.items():
            assert sorted(file["data"][name], key=int) == [str(number) for number in range(len(own))]
            for number, blob in enumerate(own):
                dataset = file["data"][name][str(number)]
                assert (dataset.shape, dataset.dtype, dataset.chunks) == (blob.shape, np.dtype("<f4"), None)
                assert dataset[()].tobytes() == blob.tobytes()


def test_the_file_is_of_the_oldest_version_and_holds_no_time(path, tmp_path):
    write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    data = path.read_bytes()
    assert data[8] == 0  # the superblock that HDF5 1.8 writes by default
    with h5py.File(path) as file:
        found = [h5py.h5g.get_objinfo(file.id, b"data/" + name.encode()) for name in ("conv/0", "ip/1", "last_10/11")]
    assert [info.mtime for info in found] == [0, 0, 0]
    write_caffemodel(tmp_path / "again.h5", NET, sources(BLOBS), hdf5=True)
    assert (tmp_path / "again.h5").read_bytes() == data


PROTOTXT = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "block" type: "PReLU" bottom: "data" top: "data" }
layer { name: "block/conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "block/deep/ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""


def by_hand(path, dtype="<f4", **options):
    """What Caffe would write for PROTOTXT, by h5py's ordinary functions; the values by layer and number."""
    shapes = {"block": [(3,)], "block/conv": [(5, 3, 3, 2), (5,)], "block/deep/ip": [(7, 245), (7,)]}
    rng = np.random.default_rng(5)
    values = {name: [rng.normal(size=shape).astype(dtype) for shape in own] for name, own in shapes.items()}
    with h5py.File(path, "w", **options) as file:
        for part in ("data", "diff"):
            for name in ("data", "block", "block/conv", "relu", "block/deep/ip", "loss"):
                file.require_group(f"{part}/{name}")
        for name, own in values.items():
            for number, blob in enumerate(own):
                file[f"data/{name}"].create_dataset(str(number), data=blob)
                file[f"diff/{name}"].create_dataset(str(number), data=np.full_like(blob, np.nan))
        file["data/loss"].create_dataset("0", data=np.float32(1))
    return values


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", ">f8"])
def test_a_file_of_another_writer_in_caffes_layout_is_loaded(tmp_path, dtype, libver):
    values = by_hand(tmp_path / "any_name", dtype, libver=libver)
    (tmp_path / "net.prototxt").write_text(PROTOTXT)
    with pytest.warns(LpcaffeWarning, match="left out the weights of 1 layer that the prototxt lacks: loss"):
        net = lp.load(tmp_path / "net.prototxt", tmp_path / "any_name")
    assert {name: [blob.shape for blob in own] for name, own in net.weights.items()} == {
        name: [blob.shape for blob in own] for name, own in values.items()
    }
    for name, own in values.items():
        for blob, expected in zip(net.weights[name], own, strict=True):
            assert np.array_equal(blob.array(), expected.astype(np.float32))
            assert np.array_equal(np.concatenate([*blob.chunks(4)]), expected.reshape(-1))
            assert max(chunk.size for chunk in blob.chunks(4)) <= 4
    plan = lp.BitPlan({"block/conv": lp.LayerPlan("Convolution", lp.QFormat(3, 5))})
    lp.write_weights(net, plan, tmp_path / "lp.caffemodel")
    with pytest.warns(LpcaffeWarning, match='Caffe will not find the weights of "block/conv" and 1 more in HDF5'):
        lp.write_weights(net, plan, tmp_path / "lp.h5", hdf5=True)
    with open_caffemodel(tmp_path / "lp.caffemodel") as binary, open_caffemodel(tmp_path / "lp.h5") as in_hdf5:
        for name in ("block", "block/conv", "block/deep/ip"):
            pairs = zip(binary.by_name[name].blobs, in_hdf5.by_name[name].blobs, strict=True)
            assert all(a.shape == b.shape and a.array().tobytes() == b.array().tobytes() for a, b in pairs)
        assert len(in_hdf5.by_name["block/conv"].blobs) == 4


SHARED = """layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "a" top: "ip" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 3 } }
layer { name: "twin" type: "InnerProduct" bottom: "ip" top: "twin" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 3 } }
"""


def test_a_layer_that_shares_its_blobs_has_those_of_the_owner(tmp_path, path):
    (tmp_path / "net.prototxt").write_text(SHARED)
    with h5py.File(path, "w") as file:
        file["data/ip/0"], file["data/ip/1"] = np.arange(9, dtype="f4").reshape(3, 3), np.arange(3, dtype="f4")
        file.create_group("data/twin")
    net = lp.load(tmp_path / "net.prototxt", path)
    assert [blob.array().tolist() for blob in net.weights["twin"]] == [
        blob.array().tolist() for blob in net.weights["ip"]
    ]
    assert [blob.shape for blob in net.weights["twin"]] == [(3, 3), (3,)]
    (tmp_path / "net.prototxt").write_text(SHARED.replace('"b"', '"c"', 1))
    net = lp.load(tmp_path / "net.prototxt", path)
    assert "twin" not in net.weights  # its bias is nobody's


# ------------------------------------------------------------------------------------------------------------- limits

MEMORY = """
import sys
import h5py, numpy
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.schema import NetParameter

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

net = NetParameter(layer=[{"name": "ip"}])
write_caffemodel(sys.argv[2], net, {"ip": [BlobSource.of(numpy.ones(5))]}, hdf5=True)
open_caffemodel(sys.argv[2]).by_name["ip"].blobs[0].array()
before = peak()
with open_caffemodel(sys.argv[1]) as model:
    (blob,) = model.by_name["ip"].blobs
    write_caffemodel(sys.argv[2], net, {"ip": [BlobSource.copy(blob)]}, hdf5=True, force=True)
    total = sum(float(chunk.sum()) for chunk in blob.chunks())
print(peak() - before, total)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
def test_reading_and_writing_take_a_fraction_of_the_memory_of_the_network(path, tmp_path):
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("data/ip/0", (15, 1 << 20), "f4")  # 63 MB
        for row in range(15):
            dataset[row] = row
    command = [sys.executable, "-c", MEMORY, os.fspath(path), os.fspath(tmp_path / "copy.h5")]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    kilobytes, total = run.stdout.split()
    assert float(total) == 105 << 20
    assert int(kilobytes) < 8 * 1024
    with open_caffemodel(tmp_path / "copy.h5") as model:
        assert model.layers[0].blobs[0].shape == (15, 1 << 20)


def test_beyond_the_limit_of_a_message_the_error_names_hdf5_and_hdf5_has_none(tmp_path, path, monkeypatch):
    monkeypatch.setattr(caffemodel, "MAX_BYTES", 500)
    with pytest.raises(FileError, match=r"expected at most 500 bytes, .*; HDF5 has no such limit: a name in \.h5"):
        write_caffemodel(tmp_path / "a.caffemodel", NET, sources(BLOBS))
    assert list(tmp_path.iterdir()) == []
    write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    assert path.stat().st_size > 500


def test_without_h5py_the_error_names_the_extra(path, monkeypatch):
    write_caffemodel(path, NET, {}, hdf5=True)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingExtraError, match=r"net\.caffemodel\.h5: .*h5py; pip install 'lpcaffe\[hdf5\]'"):
        open_caffemodel(path)
    path.unlink()
    with pytest.raises(MissingExtraError, match=r"pip install 'lpcaffe\[hdf5\]'"):
        write_caffemodel(path, NET, {}, hdf5=True)
    assert not path.exists()


def test_the_package_imports_without_h5py():
    code = "import sys; sys.modules['h5py'] = None; import lpcaffe.formats.caffemodel"
    subprocess.run([sys.executable, "-c", code], check=True)


# ------------------------------------------------------------------------------------------------------ what is refused


def interrupted():
    yield np.zeros(2)
    raise KeyboardInterrupt("stop")


def net_of(*names):
    return NetParameter(layer=[{"name": name} for name in names])


ONE = [BlobSource.of(np.ones(1))]


@pytest.mark.parametrize(
    ("net", "blobs", "error", "problem"),
    [
        (net_of("a"), {"a": [BlobSource((3,), interrupted)]}, KeyboardInterrupt, "stop"),
        (
            net_of("a"),
            {"a": [*ONE, BlobSource((3,), lambda: iter([np.ones(2)]))]},
            WeightsError,
            '"a" blob 1: .* got 2',
        ),
        (net_of("a"), {"a": [BlobSource((3,), lambda: iter([np.ones(4)]))]}, WeightsError, "got 4 or more"),
        (net_of("a"), {"b": ONE}, WeightsError, 'layer "b": expected one layer of this name'),
        (net_of("a", "a/0"), {"a": ONE}, WeightsError, 'layer "a" blob 0: HDF5 has one place .* "a/0"'),
        (net_of("a/0/b", "a"), {"a": ONE, "a/0/b": ONE}, WeightsError, 'layer "a" blob 0: HDF5 has one place'),
        (net_of("/a"), {}, WeightsError, 'layer "/a": expected a name that HDF5 can hold'),
        (net_of("a/"), {}, WeightsError, "expected a name that HDF5 can hold"),
        (net_of("a//b"), {}, WeightsError, "expected a name that HDF5 can hold"),
        (net_of("a/./b"), {}, WeightsError, "expected a name that HDF5 can hold"),
        (net_of(""), {}, WeightsError, "expected a name that HDF5 can hold"),
        (net_of("a\0b"), {}, WeightsError, "expected a name that HDF5 can hold"),
        (net_of("a" * 4097), {}, WeightsError, "expected a name that HDF5 can hold"),
        (
            net_of("a"),
            {"a": [BlobSource((1, 1, 2, 3), lambda: iter([np.ones(6)]), legacy=True)]},
            WeightsError,
            "got legacy dims",
        ),
    ],
)
def test_after_an_error_no_file_is_left(path, net, blobs, error, problem):
    with pytest.raises(error, match=problem):
        write_caffemodel(path, net, blobs, hdf5=True)
    assert list(path.parent.iterdir()) == []


def test_an_existing_file_is_kept_unless_forced_and_may_be_the_one_that_is_read(path):
    write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    before = path.read_bytes()
    with open_caffemodel(path) as model:
        copies = {layer.name: [*map(BlobSource.copy, layer.blobs)] for layer in model.layers}
        with pytest.raises(FileError, match="the file exists"):
            write_caffemodel(path, NET, copies, hdf5=True)
        write_caffemodel(path, NET, copies, hdf5=True, force=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("limit", [100, 3000, 5000])
def test_a_disk_that_takes_no_more_leaves_no_file(path, limit):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(
            FileError, match=r"net\.caffemodel\.h5: cannot be written: (file too large|the disk is full, or fails)$"
        ):
            write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(path.parent.iterdir()) == []


def refused(path, problem, error=FileError):
    with pytest.raises(error, match=problem) as caught:
        open_caffemodel(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def dataset(file, **options):
    file.create_dataset("data/ip/0", **options)


OTHER_FILE = "elsewhere.h5"  # there is none, so whoever followed a link would say so
LAYOUT = h5py.VirtualLayout((3,), "f4")
LAYOUT[:] = h5py.VirtualSource(OTHER_FILE, "x", (3,))
HOSTILE = {
    "integers": (lambda f: dataset(f, data=np.arange(3)), r'layer "ip" blob 0: expected values of float32 or float64'),
    "half": (lambda f: dataset(f, data=np.ones(3, "f2")), "expected values of float32 or float64, got 2 bytes each"),
    "compound": (lambda f: dataset(f, shape=3, dtype=[("a", "f4"), ("b", "f4")]), "float64, got 8 bytes each"),
    "strings": (lambda f: dataset(f, data="text"), "expected values of float32 or float64"),
    "bfloat": (lambda f: _custom_float(f), "expected values of float32 or float64, got 4 bytes each of another type"),
    "null": (lambda f: dataset(f, data=h5py.Empty("f4")), "expected values of float32 or float64, got none"),
    "chunked": (lambda f: dataset(f, data=np.ones((3, 5), "f4"), chunks=(1, 5)), "contiguous.* h5repack"),
    "gzip": (lambda f: dataset(f, data=np.ones((3, 5), "f4"), compression="gzip"), "contiguous"),
    "huge chunked": (lambda f: dataset(f, shape=10**12, dtype="f4", chunks=(10,)), "contiguous"),
    "huge": (lambda f: dataset(f, shape=(10**6, 10**6), dtype="f4"), "expected 1000000000000 values .*, got none"),
    "absent": (lambda f: dataset(f, shape=(10, 7), dtype="f4"), "expected 70 values for shape 10 x 7, got none"),
    "compact": (lambda f: _compact(f), "got a chunked or compact dataset"),
    "external": (lambda f: dataset(f, shape=3, dtype="f4", external=[(OTHER_FILE, 0, 12)]), "external or virtual"),
    "virtual": (lambda f: f.create_virtual_dataset("data/ip/0", LAYOUT), "external or virtual dataset"),
    "external link": (lambda f: _link(f, "data/ip/0", h5py.ExternalLink(OTHER_FILE, "/x")), 'external link "0"'),
    "external layer": (lambda f: _link(f, "data/ip", h5py.ExternalLink(OTHER_FILE, "/x")), 'external link "ip"'),
    "external data": (lambda f: _link(f, "data", h5py.ExternalLink(OTHER_FILE, "/x")), 'external link "data"'),
    "soft link": (lambda f: _link(f, "data/ip/0", h5py.SoftLink("/x")), 'soft or external link "0"'),
    "cycle": (lambda f: _hard(f, "data/a/b", "data/a/b/c"), '" twice or inside itself'),
    "self": (lambda f: _hard(f, "data", "data/a"), '" twice or inside itself'),
    "twice": (lambda f: _hard(f, "data/a", "data/b"), '" twice or inside itself'),
    "gap": (lambda f: [f.create_dataset(f"data/ip/{i}", data=np.ones(2, "f4")) for i in (0, 2)], "blob 1: expected 2"),
    "from 1": (lambda f: f.create_dataset("data/ip/1", data=np.ones(2, "f4")), 'layer "ip" blob 0: expected 1 blobs'),
    "names": (lambda f: f.create_dataset("data/ip/weights", data=np.ones(2, "f4")), 'got "weights"'),
    "zeros": (lambda f: f.create_dataset("data/ip/00", data=np.ones(2, "f4")), 'got "00"'),
    "no layer": (lambda f: f.create_dataset("data/0", data=np.ones(2, "f4")), 'groups of their layers, got "0"'),
    "type": (lambda f: _named_type(f), r'expected datasets "0", "1", .* got "0"'),
    "no data": (lambda f: f.create_group("dat"), 'expected an HDF5 file with a group "data", got none'),
    "data dataset": (lambda f: f.create_dataset("data", data=np.ones(2, "f4")), 'with a group "data"'),
    "long": (lambda f: f.create_group("data/" + "a" * 4097), "names of at most 4096 bytes"),
    "deep": (lambda f: f.create_group("data/" + "/".join("ab" * 1400)), "names of at most 4096 bytes"),
    "not UTF-8": (lambda f: h5py.h5g.create(f.create_group("data").id, b"\xff"), "got a damaged one: .*utf-8"),
}


def _link(file, name, link):
    file[name] = link


def _hard(file, old, new):
    file.create_group(old)
    file[new] = file[old]


def _custom_float(file):
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_ebias(100)
    group = file.create_group("data/ip")
    h5py.h5d.create(group.id, b"0", kind, h5py.h5s.create_simple((3,)))


def _compact(file):
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_layout(h5py.h5d.COMPACT)
    group = file.create_group("data/ip")
    h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3,)), properties)


def _named_type(file):
    file["data/ip/0"] = np.dtype("f4")


@pytest.mark.parametrize("make", HOSTILE)
def test_what_caffe_would_not_write_is_one_line(path, make):
    create, problem = HOSTILE[make]
    with h5py.File(path, "w") as file:
        create(file)
    refused(path, problem)


def test_more_groups_than_any_network_has_are_refused(path, monkeypatch):
    by_hand(path)
    open_caffemodel(path).close()
    monkeypatch.setattr(hdf5, "MAX_LINKS", 7)
    refused(path, "and 7 groups and datasets")


def test_a_file_that_is_cut_off_is_refused_wherever_it_ends(path):
    write_caffemodel(path, NET, sources(BLOBS), hdf5=True)
    data = path.read_bytes()
    for length in [8, 9, 60, 95, 96, 97, 800, *range(1000, len(data), 997), len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "HDF5 file, got a damaged one")


def test_a_file_with_wrong_bytes_is_read_or_refused(path):
    by_hand(path)
    data = path.read_bytes()
    with h5py.File(path) as file:
        values = [file[name].id.get_offset() for name in ("data/block/conv/0", "data/block/deep/ip/0")]
    rng = np.random.default_rng(11)
    outcomes = set()
    for _ in range(300):
        broken = bytearray(data)
        for at in rng.integers(8, min(values), 3):
            broken[at] = rng.integers(256)
        path.write_bytes(broken)
        try:
            with open_caffemodel(path) as model:
                for layer in model.layers:
                    for blob in layer.blobs:
                        assert sum(chunk.size for chunk in blob.chunks()) == blob.count
            outcomes.add("read")
        except LpcaffeError as error:
            outcomes.add(f"refused, {error.path == os.fspath(path)}")
    assert outcomes == {"read", "refused, True"}


def test_what_hdf5_cannot_hold_is_not_blamed_on_the_disk(path):
    with pytest.raises(FileError, match=r"cannot be written: (?!the disk)"):
        write_caffemodel(path, NET, {"ip": [BlobSource.of(np.ones((1,) * 33, np.float32))]}, hdf5=True)
    assert list(path.parent.iterdir()) == []
