"""diff, verify and extract: what they print, how they end, and what they say of what is wrong."""

import json
import re
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.formats.caffemodel import open_caffemodel

NET = ("net.prototxt", "net.caffemodel")
LOW = ("out/lp.prototxt", "out/lp.caffemodel")
BACK = ("back.prototxt", "back.caffemodel")
EXTRACT = ["extract", *LOW, "--out-net", BACK[0], "--out-weights", BACK[1]]


@pytest.fixture
def converted(lpcaffe, small):
    """The working directory holds the network, and its conversion in out/."""
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bits", "8", "--quiet")[0] == 0


@pytest.fixture
def refused(lpcaffe, converted):
    """A function that runs a command which must end with status 2, and returns its one line."""

    def run(*arguments):
        before = snapshot()
        status, out, err = lpcaffe(*arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert snapshot() == before
        return err.removeprefix("lpcaffe: ").rstrip("\n")

    return run


def snapshot():
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def change_bit(source, target, layer, blob, index, byte, mask):
    """A copy of a caffemodel in which bits of one byte of one value are turned over."""
    data = bytearray(Path(source).read_bytes())
    with open_caffemodel(source) as model:
        (span,) = model.by_name[layer].blobs[blob].spans
    data[span.offset + 4 * index + byte] ^= mask
    Path(target).write_bytes(data)


@pytest.mark.usefixtures("converted")
def test_there_and_back_is_no_difference(lpcaffe):
    assert lpcaffe(*EXTRACT) == (0, "", "")
    assert lpcaffe("diff", NET[0], BACK[0]) == (0, "same: 7 layers compared\n", "")
    status, out, err = lpcaffe("diff", NET[1], BACK[1])
    assert (status, out, err) == (0, "same: 3 layers, 6 blobs, 1,849 values compared\n", "")
    status, out, _ = lpcaffe("diff", NET[0], LOW[0])
    assert status == 1
    assert f"only in {LOW[0]}: conv/1_lpact, ip_lpact\n" in out
    assert "different: 7 layers compared" in out


@pytest.mark.usefixtures("converted")
def test_diff_says_what_and_where(lpcaffe):
    change_bit(NET[1], "sign.caffemodel", "ip", 0, 100, 3, 0x80)
    status, out, err = lpcaffe("diff", NET[1], "sign.caffemodel")
    assert (status, err) == (1, "")
    (row,) = [line for line in out.splitlines() if line.startswith("ip ")]
    largest = 2 * abs(lp.load(*NET).weights["ip"][0].array().flat[100])
    assert row.split() == ["ip", "0", *["7", "x", "245", "1,715", "1", "1", "0", "0"], f"{largest:.3g}", "100"]
    status, out, _ = lpcaffe("diff", NET[1], "sign.caffemodel", "--json")
    assert status == 1
    assert json.loads(out) == json.loads(json.dumps(lp.diff(NET[1], "sign.caffemodel").to_json()))
    assert json.loads(out)["blobs"][0]["first"] == 100
    assert lpcaffe("diff", NET[1], "sign.caffemodel", "--quiet") == (1, "", "")


@pytest.mark.usefixtures("converted")
def test_verify_prints_every_layer_and_what_failed(lpcaffe):
    for plan in ([], ["--plan", "out/plan.yaml"]):
        status, out, err = lpcaffe("verify", *LOW, *plan)
        assert (status, err) == (0, "")
        assert "FAILED" not in out
        assert "conv/1_lpact" in out
    change_bit(LOW[1], "wrong.caffemodel", "ip", 1, 100, 2, 0x40)
    status, out, err = lpcaffe("verify", LOW[0], "wrong.caffemodel")
    assert (status, err) == (1, "")
    assert 'FAILED: layer "ip" blob 1: 1 of 1715 values are not round_fp of blob 0, the first at 100\n' in out
    status, out, _ = lpcaffe("verify", LOW[0], "wrong.caffemodel", "--json")
    found = json.loads(out)
    assert (status, found["holds"], len(found["failures"])) == (1, False, 1)
    assert lpcaffe("verify", LOW[0], "wrong.caffemodel", "--quiet") == (1, "", "")
    other = Path("out/plan.yaml").read_text().replace("round_bias: false", "round_bias: true")
    Path("other.yaml").write_text(other)
    status, out, _ = lpcaffe("verify", *LOW, "--plan", "other.yaml")
    assert status == 1
    assert 'FAILED: layer "conv/1": round_bias: the low-precision network has False, the plan has True' in out


@pytest.mark.usefixtures("converted")
def test_full_precision_weights_under_a_low_precision_net(lpcaffe):
    status, out, err = lpcaffe("verify", LOW[0], NET[1])
    assert (status, err) == (1, "")
    assert out.count("expected 4 blobs, got 2") == 3
    status, out, err = lpcaffe("extract", LOW[0], NET[1], *EXTRACT[3:])
    assert (status, out) == (2, "")
    assert err == 'lpcaffe: net.caffemodel: layer "conv/1": expected 4 blobs, got 2\n'


@pytest.mark.usefixtures("converted")
def test_extract_gives_networks_that_run(lpcaffe):
    x = np.load("x.npy")
    for options, expected in (([], lp.run(lp.load(*NET), x, engine="numpy")), (["--rounded"], None)):
        assert lpcaffe(*EXTRACT, "--force", *options) == (0, "", "")
        found = lp.run(lp.load(*BACK), x, engine="numpy")
        if expected is None:
            assert lpcaffe("diff", NET[1], BACK[1])[0] == 1
            assert lpcaffe("diff", NET[0], BACK[0])[0] == 0
        else:
            np.testing.assert_array_equal(found["prob"], expected["prob"])


def test_nothing_is_overwritten_without_force(refused, lpcaffe):
    for name in BACK:
        Path(name).write_text("mine")
        assert refused(*EXTRACT) == f"{name}: the file exists; --force overwrites it"
        Path(name).unlink()
    assert refused(*EXTRACT[:3], "--out-net", "gone/a", "--out-weights", "b").startswith("gone/a: the directory ")
    assert refused(*EXTRACT[:3], "--out-net", "a", "--out-weights", "gone/b").startswith("gone/b: the directory ")
    said = refused(*EXTRACT[:3], "--out-net", "a", "--out-weights", "./a")
    assert said == "a: expected a file of its own for this output, got the same file as a"
    Path(BACK[0]).write_text("mine")
    assert lpcaffe(*EXTRACT, "--force", "--quiet") == (0, "", "")
    assert lpcaffe("diff", NET[0], BACK[0])[0] == 0


def test_a_full_disk_leaves_neither_file(refused):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (100, 3000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            said = refused(*EXTRACT)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert said == f"{BACK[1]}: cannot be written: file too large"


def cut(name):
    Path("cut.caffemodel").write_bytes(Path(name).read_bytes()[:-7])
    return "cut.caffemodel"


@pytest.mark.parametrize("verb", [["verify"], EXTRACT[:1]])
def test_wrong_files_are_one_line(refused, verb):
    rest = EXTRACT[3:] if verb == ["extract"] else []

    def said(net, weights):
        return refused(*verb, net, weights, *rest)

    assert said("gone", LOW[1]).startswith("gone: ")
    assert said(LOW[0], "gone") == "gone: cannot be read: no such file or directory"
    swapped = said(LOW[1], LOW[0])
    assert swapped.startswith("out/lp.caffemodel: expected text, got binary data")
    assert said(LOW[0], LOW[0]).startswith("out/lp.prototxt: expected a caffemodel, got text, a prototxt perhaps")
    assert said(LOW[0], cut(LOW[1])).startswith("cut.caffemodel: ")
    assert said(*NET).startswith("net.prototxt: expected a low-precision network, got one without LP layers")
    Path("empty").write_bytes(b"")
    assert said("empty", LOW[1]) == "empty: expected fields, got an empty file"
    assert said(LOW[0], "empty").startswith("empty: expected a caffemodel, got an empty file")
    assert said("out", LOW[1]).startswith("out: ")
    assert said(LOW[0], "out").startswith("out: ")
    broken = Path(LOW[0]).read_text().replace('bottom: "conv/1"', 'bottom: "nowhere"')
    Path("broken.prototxt").write_text(broken)
    assert re.match(r'broken\.prototxt:\d+:1: layer "', said("broken.prototxt", LOW[1]))


def test_wrong_plans_are_one_line(refused):
    assert refused("verify", *LOW, "--plan", "gone").startswith("gone: cannot be read")
    assert refused("verify", *LOW, "--plan", LOW[1]).startswith("out/lp.caffemodel: ")
    plain = Path("out/plan.yaml").read_text().replace("dialect: adaption", "dialect: plain")
    Path("plain.yaml").write_text(plain)
    said = refused("verify", *LOW, "--plan", "plain.yaml")
    assert said == "plain.yaml: expected a plan of the dialect adaption, got plain"


def test_files_that_cannot_be_compared_are_one_line(refused):
    said = "net.caffemodel: expected a prototxt, as the other file is, got a caffemodel"
    assert refused("diff", NET[0], NET[1]) == said
    said = "net.prototxt: expected a caffemodel, as the other file is, got a prototxt"
    assert refused("diff", NET[1], NET[0]) == said
    assert refused("diff", NET[0], "gone") == "gone: cannot be read: no such file or directory"
    assert refused("diff", "out", "out").startswith("out: ")
    assert refused("diff", NET[1], cut(NET[1])).startswith("cut.caffemodel: ")
    assert refused("diff", NET[1], "x.npy").startswith("x.npy: expected a caffemodel, got a NumPy array")
    assert refused("diff", "x.npy", NET[0]).startswith("x.npy: expected text, got binary data")
    shutil.copy(NET[0], "odd.prototxt")
    Path("odd.prototxt").write_text(Path(NET[0]).read_text() + "layer {")
    assert refused("diff", NET[0], "odd.prototxt").startswith("odd.prototxt:")


@pytest.mark.parametrize("verb", ["diff", "verify", "extract"])
def test_every_verb_has_help(lpcaffe, verb):
    status, out, err = lpcaffe(verb, "--help")
    assert (status, err) == (0, "")
    assert f"lpcaffe {verb}" in out
    assert "--quiet" in out


def test_a_difference_of_very_many_fields_is_cut_on_the_screen_only(lpcaffe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in (("a", 1), ("b", 2)):
        fields = "\n".join(f"new{index}: {value}" for index in range(1500))
        Path(f"{name}.prototxt").write_text(f'layer {{ name: "x" type: "New" {fields} }}')
    status, out, _ = lpcaffe("diff", "a.prototxt", "b.prototxt")
    assert status == 1
    assert len(out.splitlines()) == 1000 + 4
    assert "and 500 more; --json has all\n" in out
    assert len(json.loads(lpcaffe("diff", "--json", "a.prototxt", "b.prototxt")[1])["fields"]) == 1500


def test_extract_names_what_is_not_in_the_pair(lpcaffe, small):
    """Values that the dialect replaced, as the report beside the pair lists them; not with other files' report."""
    options = ["--data", "x.npy", "--bits", "3", "--method", "mse", "--bias-bits", "6", "--quiet"]
    assert lpcaffe("convert", *small, "--out", "out", *options)[0] == 0
    report = json.loads(Path("out/report.json").read_text())
    biased = [row["name"] for row in report["layers"] if (row["bias"] or {}).get("even_rounded")]
    assert biased
    status, _, err = lpcaffe(*EXTRACT)
    assert status == 0
    expected = (
        f"lpcaffe: warning: not all of full precision is in the pair: the biases of {', '.join(biased)} are rounded"
    )
    assert err.startswith(expected)
    assert lpcaffe(*EXTRACT, "--rounded", "--force") == (0, "", "")
    Path("out/report.json").write_text(json.dumps(report | {"files": {}}))
    assert lpcaffe(*EXTRACT, "--force") == (0, "", "")
