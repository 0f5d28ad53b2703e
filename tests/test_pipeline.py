"""convert: four files, or none."""

import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe import cli, pipeline
from lpcaffe.engines import infer_shapes
from lpcaffe.errors import DataError, FileError, LpcaffeWarning, PlanError, WeightsError
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""
PLAN = BitPlan(
    {
        "conv": LayerPlan("Convolution", QFormat(1, 4), QFormat(3, 5)),
        "ip": LayerPlan("InnerProduct", QFormat(1, 7)),
    },
    network="small",
)
FILES = ["lp.caffemodel", "lp.prototxt", "plan.yaml", "report.json"]


def make(folder, edit=None):
    folder.mkdir()
    (folder / "net.prototxt").write_text(SMALL)
    net = lp.load_net(folder / "net.prototxt")
    rng = np.random.default_rng(0)
    weights = {
        name: [rng.normal(0, 0.4, shape).astype(np.float32) for shape in shapes]
        for name, shapes in infer_shapes(net).params.items()
    }
    if edit:
        edit(weights)
    blobs = {name: [BlobSource.of(blob) for blob in own] for name, own in weights.items()}
    write_caffemodel(folder / "net.caffemodel", net.message, blobs)
    return lp.load(folder / "net.prototxt", folder / "net.caffemodel")


@pytest.fixture
def net(tmp_path):
    return make(tmp_path / "net")


def images(net, count=5):
    return lp.images(np.random.default_rng(4).normal(size=(count, 3, 9, 8)).astype(np.float32), net)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def broken(weights):
    weights["ip"][0][3, 4] = np.nan


def test_four_files_come_out_and_load(net, tmp_path):
    done = lp.convert(net, PLAN, tmp_path / "a" / "b", data=images(net))
    assert sorted(contents(tmp_path / "a" / "b")) == FILES
    assert done.folder == tmp_path / "a" / "b"
    assert [layer.type for layer in done.net.layers] == ["Input", "LPConvolution", "LPAct", "ReLU", "LPInnerProduct"]
    assert done.net.path == str(done.folder / "lp.prototxt")
    assert BitPlan.load(done.folder / "plan.yaml") == done.plan == PLAN
    assert json.loads((done.folder / "report.json").read_text()) == json.loads(json.dumps(done.report.to_json()))
    assert lp.validate(net, done.net, plan=PLAN).holds
    x = np.ones((2, 3, 9, 8), np.float32)
    assert lp.run(done.net, x)["ip"].shape == (2, 7)


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_a_conversion_validates_with_its_own_plan(net, tmp_path, dialect):
    plan = dataclasses.replace(PLAN, policy=Policy(dialect, "stochastic", 3, fold_bn=False))
    done = lp.convert(net, plan, tmp_path / "out")
    proof = lp.validate(net, done, images(net))
    assert proof.holds
    assert proof.to_json() == lp.validate(net, done.net, images(net), plan=plan).to_json()
    other = dataclasses.replace(plan, policy=Policy(dialect, "stochastic", 4, fold_bn=False))
    assert not lp.validate(net, done, plan=other).holds


def test_the_report_is_the_last_to_appear(net, tmp_path, monkeypatch):
    moved, replace = [], pipeline.Path.replace

    def noted(self, target):
        if target.parent == tmp_path / "out":
            moved.append(target.name)
        return replace(self, target)

    monkeypatch.setattr(pipeline.Path, "replace", noted)
    lp.convert(net, PLAN, tmp_path / "out")
    assert moved[-1] == "report.json"
    assert sorted(moved) == FILES


def test_no_report_stands_beside_files_that_it_does_not_describe(net, tmp_path, monkeypatch):
    lp.convert(net, PLAN, tmp_path / "out")
    replace = pipeline.Path.replace

    def failing(self, target):
        if target == tmp_path / "out" / "lp.caffemodel":
            raise OSError(errno.EIO, "Input/output error", str(target))
        return replace(self, target)

    monkeypatch.setattr(pipeline.Path, "replace", failing)
    with pytest.raises(FileError, match=r"out/lp\.caffemodel: cannot be written: input/output error"):
        lp.convert(net, PLAN, tmp_path / "out", force=True)
    assert sorted(contents(tmp_path / "out")) == ["lp.caffemodel", "lp.prototxt", "plan.yaml"]


def test_the_disk_learns_that_the_old_report_is_gone_before_anything_else_changes(net, tmp_path, monkeypatch):
    out, seen, sync = tmp_path / "out", [], os.fsync
    old = dataclasses.replace(PLAN, policy=Policy("plain", fold_bn=False))
    lp.convert(net, old, out)
    before = contents(out)

    def noted(descriptor):
        if os.path.samestat(os.fstat(descriptor), out.stat()):
            seen.append({name: (out / name).read_bytes() != before[name] for name in FILES if (out / name).exists()})
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    lp.convert(net, PLAN, out, force=True)
    assert seen[0] == dict.fromkeys(FILES[:3], False)
    # Whatever of the other names the disk has, it has all of them before that of the report.
    assert seen[-2] == dict.fromkeys(FILES[:3], True)
    assert seen[-1] == dict.fromkeys(FILES, True)


def test_files_are_replaced_and_never_written_into(net, tmp_path):
    """Who has an old file open, or mapped, keeps it whole: a second name of it shows that."""
    lp.convert(net, dataclasses.replace(PLAN, policy=Policy("plain", fold_bn=False)), tmp_path / "out")
    before = contents(tmp_path / "out")
    (tmp_path / "names").mkdir()
    for name in FILES:
        (tmp_path / "names" / name).hardlink_to(tmp_path / "out" / name)
    lp.convert(net, PLAN, tmp_path / "out", force=True)
    assert contents(tmp_path / "names") == before
    assert all(data != before[name] for name, data in contents(tmp_path / "out").items())


def test_a_link_to_the_folder_and_links_in_it_go_on_pointing(net, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    for name in ("lp.caffemodel", "report.json"):
        (tmp_path / "real" / name).symlink_to(tmp_path / "store" / f"my-{name}")
    for force in (False, True):
        lp.convert(net, PLAN, tmp_path / "out", force=force)
        assert (tmp_path / "out").is_symlink()
        assert sorted(contents(tmp_path / "real")) == FILES
        assert sorted(contents(tmp_path / "store")) == ["my-lp.caffemodel", "my-report.json"]
        assert [name for name in FILES if (tmp_path / "real" / name).is_symlink()] == ["lp.caffemodel", "report.json"]


@pytest.mark.parametrize("name", FILES)
def test_nothing_is_overwritten_without_force(net, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    (out / "other").write_text("other")
    with pytest.raises(FileError, match=f"{name}: the file exists; --force overwrites it"):
        lp.convert(net, PLAN, out)
    assert contents(out) == {name: b"mine", "other": b"other"}
    lp.convert(net, PLAN, out, force=True)
    assert sorted(contents(out)) == sorted([*FILES, "other"])
    assert contents(out)[name] != b"mine"


def test_a_folder_in_the_place_of_a_file_is_refused(net, tmp_path):
    (tmp_path / "out" / "report.json").mkdir(parents=True)
    with pytest.raises(FileError, match=r"report\.json: expected an ordinary file"):
        lp.convert(net, PLAN, tmp_path / "out", force=True)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(FileError, match="file"):
            lp.convert(net, PLAN, out)


def test_a_name_that_no_file_can_have_is_refused(net, tmp_path):
    with pytest.raises(FileError, match="file name too long"):
        lp.convert(net, PLAN, tmp_path / ("a" * 300))


FAILURES = {
    "nan": (lambda net, tmp_path: {"net": make(tmp_path / "bad", broken)}, WeightsError),
    "plan": (lambda net, tmp_path: {"plan": BitPlan({"x": LayerPlan("Convolution", None)})}, PlanError),
    "data": (lambda net, tmp_path: {"data": lp.images(np.full((2, 3, 9, 8), 3e38, np.float32), net)}, DataError),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_leaves_nothing_new_behind(net, tmp_path, failure):
    options, error = FAILURES[failure]
    arguments = {"net": net, "plan": PLAN} | options(net, tmp_path)
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "new" / "er", tmp_path / "there"):
        with pytest.raises(error):
            lp.convert(folder=out, **arguments)
    assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "there") == {}


@pytest.mark.parametrize("failure", FAILURES)
def test_what_fails_with_force_leaves_the_old_files_as_they_were(net, tmp_path, failure):
    options, error = FAILURES[failure]
    lp.convert(net, PLAN, tmp_path / "out")
    before = contents(tmp_path / "out")
    with pytest.raises(error):
        lp.convert(folder=tmp_path / "out", force=True, **({"net": net, "plan": PLAN} | options(net, tmp_path)))
    assert contents(tmp_path / "out") == before


def test_an_interrupt_leaves_nothing_behind(net, tmp_path):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lp.convert(net, PLAN, tmp_path / "out", data=images(net), progress=interrupt)
    assert not (tmp_path / "out").exists()


def test_errors_name_the_file_that_the_user_knows(net, tmp_path, monkeypatch):
    def full(descriptor):
        file = Path(f"/proc/self/fd/{descriptor}")
        if file.is_file() and file.read_bytes().startswith(b"# Which fixed-point format"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError) as caught:
        lp.convert(net, PLAN, tmp_path / "out")
    assert str(caught.value) == f"{tmp_path / 'out' / 'plan.yaml'}: cannot be written: no space left on device"
    assert not (tmp_path / "out").exists()


def test_warnings_name_the_files_that_the_user_knows(net, tmp_path):
    net.message.layer[1].other.add(name="of_a_fork", value="3")
    with pytest.warns(LpcaffeWarning) as caught:
        lp.convert(net, PLAN, tmp_path / "out", data=images(net))
    assert [str(one.message).partition(": ")[0] for one in caught] == [str(tmp_path / "out" / "lp.prototxt")]


def test_a_folder_that_may_not_be_written_is_refused(net, tmp_path, monkeypatch):
    def denied(self, *args, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(pipeline.Path, "mkdir", denied)  # root may write anywhere
    for out in (tmp_path / "locked", tmp_path / "locked" / "below"):
        with pytest.raises(FileError) as caught:
            lp.convert(net, PLAN, out)
        assert str(caught.value) == f"{out}: cannot be written: permission denied"


def test_a_network_without_learned_layers_converts_to_itself(tmp_path):
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "net.prototxt").write_text("\n".join(SMALL.splitlines()[:2]))
    loaded = lp.load_net(folder / "net.prototxt")
    write_caffemodel(folder / "net.caffemodel", loaded.message, {})
    empty = lp.load(folder / "net.prototxt", folder / "net.caffemodel")
    done = lp.convert(empty, BitPlan({}), tmp_path / "out")
    assert BitPlan.load(tmp_path / "out" / "plan.yaml") == BitPlan({})
    assert done.report.to_json()["layers"] == []


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "through a link"])
def test_an_input_is_never_an_output(net, tmp_path, linked, capfd):
    folder = tmp_path / "in"
    folder.mkdir()
    for name, new in (("net.prototxt", "lp.prototxt"), ("net.caffemodel", "lp.caffemodel")):
        (folder / new).write_bytes((tmp_path / "net" / name).read_bytes())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = folder
    if linked:
        out = tmp_path / "out"
        out.mkdir()
        (out / "lp.caffemodel").symlink_to(folder / "lp.caffemodel")
    arguments = ["convert", folder / "lp.prototxt", folder / "lp.caffemodel", "--out", out, "--force"]
    for more in ([], ["--hdf5"]):
        assert cli.run([str(argument) for argument in [*arguments, *more]]) == 2
        assert "expected a file of its own for this output, got the input" in capfd.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    for prototxt in (folder / "lp.prototxt", tmp_path / "net" / "net.prototxt"):
        with pytest.raises(FileError, match=r"lp\.\w+: expected a file of its own"):
            lp.convert(lp.load(prototxt, folder / "lp.caffemodel"), PLAN, folder, force=True)


def test_two_outputs_are_never_one_file(net, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("lp.prototxt", "plan.yaml"):
        (out / name).symlink_to(tmp_path / "one")
    with pytest.raises(FileError, match=r"plan\.yaml: expected a file of its own .* the same file as .*lp\.prototxt"):
        lp.convert(net, PLAN, out)
    assert not (tmp_path / "one").exists()


def test_a_link_to_a_folder_that_is_still_to_be_made_is_followed(net, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "new")
    lp.convert(net, PLAN, tmp_path / "link")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(FILES)


def test_the_plan_of_the_folder_can_be_edited_and_obeyed(net, tmp_path):
    lp.convert(net, PLAN, tmp_path / "out")
    edited = (tmp_path / "out" / "plan.yaml").read_text().replace("weights: Q1.4", "weights: Q1.5")
    (tmp_path / "out" / "plan.yaml").write_text(edited)
    inputs = [str(tmp_path / "net" / name) for name in ("net.prototxt", "net.caffemodel")]
    out = str(tmp_path / "out")
    assert cli.run(["convert", *inputs, "--plan", f"{out}/plan.yaml", "--out", out, "--force", "--quiet"]) == 0
    assert BitPlan.load(f"{out}/plan.yaml").layers["conv"].weights == QFormat(1, 5)
    assert lp.verify(f"{out}/lp.prototxt", f"{out}/lp.caffemodel", plan=BitPlan.load(f"{out}/plan.yaml")).holds
