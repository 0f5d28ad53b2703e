"""Weights in HDF5 wherever a caffemodel is taken, and `convert --hdf5`, which writes them."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.formats import caffemodel
from lpcaffe.formats.caffemodel import open_caffemodel

SLASH = 'lpcaffe: warning: Caffe will not find the weights of "conv/1" in HDF5, because of the slash in the name\n'


@pytest.fixture
def in_hdf5(lpcaffe, small):
    """The network of `small` with its weights in HDF5 under a name that does not say so."""
    assert lpcaffe("upgrade", "net.caffemodel", "net.h5") == (0, "", SLASH)
    Path("net.h5").rename("weights")
    return "net.prototxt", "weights"


def test_every_verb_that_takes_a_caffemodel_takes_hdf5(lpcaffe, small, in_hdf5):
    results = []
    for name, net in (("binary", small), ("hdf5", in_hdf5)):
        run = lambda verb, *options: lpcaffe(verb, *net, *options)  # noqa: B023, E731
        assert run("convert", "--out", name, "--data", "x.npy")[0] == 0
        assert run("run", "--input", "x.npy", "--out", f"{name}.npz")[0] == 0
        low = [f"{name}/lp.prototxt", f"{name}/lp.caffemodel"]
        status, proof, err = run("validate", *low, "--plan", f"{name}/plan.yaml", "--json", "-")
        assert (status, err) == (0, "")
        assert run("calibrate", "--data", "x.npy", "--out", f"{name}.stats.npz")[0] == 0
        files = [Path(name, file).read_bytes() for file in ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json")]
        with np.load(f"{name}.npz") as blobs:
            results.append([run("inspect", "--json"), proof, files, {key: blobs[key].tolist() for key in blobs}])
    assert results[0] == results[1]


def test_convert_writes_hdf5_with_the_same_blobs(lpcaffe, small):
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy")[0] == 0
    status, out, err = lpcaffe("convert", *small, "--out", "new", "--data", "x.npy", "--hdf5")
    assert (status, err) == (0, SLASH)
    assert "written to new: lp.prototxt lp.caffemodel.h5 plan.yaml report.json\n" in out
    names = ["lp.caffemodel.h5", "lp.prototxt", "plan.yaml", "report.json"]
    assert sorted(path.name for path in Path("new").iterdir()) == names
    reports = [json.loads(Path(folder, "report.json").read_text()) for folder in ("out", "new")]
    digest = hashlib.sha256(Path("new/lp.caffemodel.h5").read_bytes()).hexdigest()
    assert reports[1]["files"] == {
        "lp.caffemodel.h5" if name == "lp.caffemodel" else name: digest if name == "lp.caffemodel" else value
        for name, value in reports[0]["files"].items()
    }
    assert {**reports[0], "files": 0} == {**reports[1], "files": 0}
    with open_caffemodel("out/lp.caffemodel") as binary, open_caffemodel("new/lp.caffemodel.h5") as hdf5:
        assert {layer.name for layer in hdf5.layers} == {"conv/1", "ip", "last"}
        for layer in hdf5.layers:
            assert len(layer.blobs) == len(binary.by_name[layer.name].blobs)
            for a, b in zip(layer.blobs, binary.by_name[layer.name].blobs, strict=True):
                assert (a.shape, a.array().tobytes()) == (b.shape, b.array().tobytes())
    low = ["new/lp.prototxt", "new/lp.caffemodel.h5"]
    assert lpcaffe("validate", *small, *low, "--plan", "new/plan.yaml", "--data", "x.npy")[0] == 0
    assert lpcaffe("weights", *small, "--plan", "new/plan.yaml", "--out", "lp.h5") == (0, "", SLASH)
    assert Path("lp.h5").read_bytes() == Path("new/lp.caffemodel.h5").read_bytes()


def test_a_folder_holds_the_weights_of_one_conversion(lpcaffe, small):
    assert lpcaffe("convert", *small, "--out", "out", "--quiet")[0] == 0
    for options, kept, gone in (
        (["--hdf5"], "lp.caffemodel.h5", "lp.caffemodel"),
        ([], "lp.caffemodel", "lp.caffemodel.h5"),
    ):
        status, _, err = lpcaffe("convert", *small, "--out", "out", *options)
        assert (status, "the file exists; --force overwrites it" in err) == (2, True)
        assert (Path("out", kept).exists(), Path("out", gone).exists()) == (False, True)
        assert lpcaffe("convert", *small, "--out", "out", "--force", "--quiet", *options)[0] == 0
        assert (Path("out", kept).exists(), Path("out", gone).exists()) == (True, False)


def test_weights_beyond_the_limit_of_a_message_are_told_to_go_to_hdf5(lpcaffe, small, monkeypatch):
    monkeypatch.setattr(caffemodel, "MAX_BYTES", 5_000)
    status, _, err = lpcaffe("convert", *small, "--out", "out")
    assert status == 2
    assert re.fullmatch(r"lpcaffe: out/lp\.caffemodel: expected at most 5000 bytes.* convert --hdf5; .*\n", err)
    assert not Path("out").exists()
    assert lpcaffe("convert", *small, "--out", "out", "--hdf5")[0] == 0


def test_without_h5py_it_is_one_line_and_no_file(lpcaffe, small, in_hdf5, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    hint = "weights in HDF5 need the package h5py; pip install 'lpcaffe[hdf5]'\n"
    assert lpcaffe("inspect", *in_hdf5) == (2, "", f"lpcaffe: weights: {hint}")
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--hdf5") == (2, "", f"lpcaffe: {hint}")
    assert not Path("out").exists()


def test_hdf5_has_no_generation_to_upgrade(lpcaffe, in_hdf5):
    status, out, err = lpcaffe("upgrade", "weights", "new")
    assert (status, out) == (2, "")
    assert (
        err
        == "lpcaffe: weights: expected a prototxt or a binary caffemodel, got an HDF5 file, which has no generation\n"
    )


def test_what_caffe_could_not_read_is_refused_before_the_data_is(lpcaffe, small, monkeypatch):
    values = 2 * sum(blob.array().size for blobs in lp.load(*small).weights.values() for blob in blobs)
    arguments = ["convert", *small, "--out", "out", "--data", "x.npy", "--quiet"]
    monkeypatch.setattr(caffemodel, "MAX_BYTES", 4 * values - 1)
    with monkeypatch.context() as patch:
        patch.setattr(lp, "calibrate", lambda *_, **__: pytest.fail("the data may not be read"))
        status, _, error = lpcaffe(*arguments)
    assert status == 2
    assert f"expected at most {4 * values - 1} bytes, which is all that Caffe reads, got {4 * values}; HDF5" in error
    assert lpcaffe(*arguments, "--hdf5")[::2] == (0, "")
    assert lpcaffe(*arguments, "--dialect", "plain", "--force")[::2] == (0, "")
