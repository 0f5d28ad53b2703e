"""Every verb does what the contract says of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.npz import write_npz

FILES = ("lp.prototxt", "lp.caffemodel", "plan.yaml", "report.json")
# What `run` says it chose: onnxruntime for float work, numpy where the network rounds.
FLOAT = "lpcaffe: computed with onnxruntime in float32\n"
EXACT = "lpcaffe: computed with numpy in float32\n"


def read(path):
    return Path(path).read_bytes()


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir())


def test_convert_writes_the_four_files_and_says_so(lpcaffe, small):
    status, out, err = lpcaffe("convert", *small, "--out", "out", "--data", "x.npy")
    assert (status, err) == (0, "")
    assert names("out") == sorted(FILES)
    assert "conv/1" in out
    assert out.endswith("written to out: lp.prototxt lp.caffemodel plan.yaml report.json\n")


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--bits", "8"],
        ["--weight-bits", "6", "--activation-bits", "9"],
        ["--rounding", "stochastic", "--seed", "9", "--round-bias"],
        ["--round-output"],
        ["--dialect", "plain"],
        ["--keep-step", "--bits", "5"],
    ],
)
def test_step_by_step_gives_the_bytes_of_convert(lpcaffe, small, options):
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", *options)[0] == 0
    assert lpcaffe("calibrate", *small, "--data", "x.npy", "--out", "stats.npz")[0] == 0
    assert lpcaffe("allocate", *small, "--stats", "stats.npz", "--out", "plan.yaml", *options)[0] == 0
    assert lpcaffe("rewrite", small[0], "--plan", "plan.yaml", "--out", "lp.prototxt")[0] == 0
    assert lpcaffe("weights", *small, "--plan", "plan.yaml", "--out", "lp.caffemodel")[0] == 0
    for name in FILES[:3]:
        assert read(name) == read(f"out/{name}"), name


def test_convert_twice_and_with_its_own_plan_gives_identical_bytes(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "a", "--data", "x.npy", "--bits", "9")
    lpcaffe("convert", *small, "--out", "b", "--data", "x.npy", "--bits", "9")
    status, _, err = lpcaffe("convert", *small, "--out", "c", "--data", "x.npy", "--plan", "a/plan.yaml")
    assert (status, err) == (0, "")
    for name in FILES:
        assert read(f"a/{name}") == read(f"b/{name}"), name
        # The comments of a plan come from the statistics, and a plan does not keep them.
        if name not in ("plan.yaml", "report.json"):
            assert read(f"a/{name}") == read(f"c/{name}"), name
    reports = [json.loads(read(f"{folder}/report.json")) for folder in "ac"]
    for report in reports:
        del report["files"]["plan.yaml"]
    assert reports[0] == reports[1]


def test_options_that_a_plan_decides_are_named_in_a_warning(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "a")
    status, _, err = lpcaffe("convert", *small, "--out", "b", "--plan", "a/plan.yaml", "--bits", "8", "--keep-bn")
    assert status == 0
    assert err == "lpcaffe: warning: a/plan.yaml decides what --bits, --keep-bn would; the plan is obeyed\n"
    assert read("b/lp.caffemodel") == read("a/lp.caffemodel")


def test_json_is_the_report_and_nothing_else(lpcaffe, small):
    status, out, _ = lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--json")
    assert status == 0
    assert json.loads(out) == json.loads(read("out/report.json"))
    status, out, _ = lpcaffe("calibrate", *small, "--data", "x.npy", "--out", "s.npz", "--json")
    assert list(json.loads(out)["layers"]) == ["data", "conv/1", "ip", "last"]
    status, out, _ = lpcaffe("allocate", *small, "--stats", "s.npz", "--out", "p.yaml", "--json")
    assert json.loads(out) == lp.BitPlan.load("p.yaml").to_json()
    status, out, _ = lpcaffe("inspect", *small, "--json")
    assert json.loads(out) == lp.inspect(*small)
    status, out, _ = lpcaffe("validate", *small, "out/lp.prototxt", "out/lp.caffemodel", "--json", "-")
    assert json.loads(out)["holds"] is True


def verbs():
    """Every verb with arguments that do, in an order that works."""
    small, low = ("net.prototxt", "net.caffemodel"), ("out/lp.prototxt", "out/lp.caffemodel")
    return {
        "convert": ["convert", *small, "--out", "out", "--data", "x.npy"],
        "inspect": ["inspect", *small],
        "upgrade": ["upgrade", small[0], "v2.prototxt"],
        "calibrate": ["calibrate", *small, "--data", "x.npy", "--out", "stats.npz"],
        "allocate": ["allocate", *small, "--stats", "stats.npz", "--out", "plan.yaml"],
        "rewrite": ["rewrite", small[0], "--plan", "plan.yaml", "--out", "lp.prototxt"],
        "weights": ["weights", *small, "--plan", "plan.yaml", "--out", "lp.caffemodel"],
        "run": ["run", *small, "--input", "x.npy", "--out", "blobs.npz"],
        "validate": ["validate", *small, *low, "--data", "x.npy", "--json", "proof.json"],
        "round": ["round", "x.npy", "y.npy", "--format", "Q2.3"],
    }


def test_quiet_prints_nothing_and_nothing_is_overwritten_without_force(lpcaffe, small):
    for verb, arguments in verbs().items():
        assert lpcaffe(*arguments, "--quiet") == (0, "", ""), verb
    for verb, arguments in verbs().items():
        if verb == "inspect":
            continue
        status, out, err = lpcaffe(*arguments)
        assert (status, out) == (2, ""), verb
        assert re.fullmatch(r"lpcaffe: \S+: the file exists; --force overwrites it\n", err), verb
        assert lpcaffe(*arguments, "--quiet", "--force") == (0, "", ""), verb


@pytest.mark.parametrize("verb", [*verbs(), "demo"])
def test_every_verb_has_help(lpcaffe, verb):
    status, out, err = lpcaffe(verb, "--help")
    assert (status, err) == (0, "")
    assert "--quiet" in out
    assert f"lpcaffe {verb}" in out


def test_no_arguments_and_the_version(lpcaffe):
    assert lpcaffe()[:2] == lpcaffe("--help")[:2]
    assert set(verbs()) <= set(re.findall(r"^  (\w+)", lpcaffe("--help")[1], re.MULTILINE))
    assert lpcaffe("--version") == (0, f"lpcaffe {lp.__version__}\n", "")


def test_the_program_and_the_module_are_the_same(small):
    module, script = [sys.executable, "-m", "lpcaffe"], [Path(sys.executable).with_name("lpcaffe")]
    done = subprocess.run([*script, "inspect", small[0], "--json"], capture_output=True, check=True)
    assert json.loads(done.stdout)["network"] == "small"
    for command in (module, script):
        done = subprocess.run([*command, "inspect", "gone"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("lpcaffe: gone: ")
        assert done.stderr.count("\n") == 1


def test_run_writes_every_blob_under_its_own_name(lpcaffe, small):
    assert lpcaffe("run", *small, "--input", "x.npy", "--out", "blobs.npz") == (0, "", FLOAT)
    expected = lp.run(lp.load(*small), np.load("x.npy"))
    with np.load("blobs.npz") as found:
        assert set(found.files) == {"data", "conv/1", "file", "last", "prob"} == set(expected)
        for name in found.files:
            np.testing.assert_array_equal(found[name], expected[name])
        np.testing.assert_array_equal(found["data"], np.load("x.npy"))
        assert found["file"].min() == 0
        assert found["prob"].shape == (5, 4)


def test_versions_adds_earlier_versions_of_in_place_blobs(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bits", "6")
    low = ("out/lp.prototxt", "out/lp.caffemodel")
    assert lpcaffe("run", *low, "--input", "x.npy", "--out", "blobs.npz", "--versions") == (0, "", EXACT)
    with np.load("blobs.npz") as found:
        versions = {"conv/1@conv/1", "conv/1@conv/1_lpact", "file@ip", "file@ip_lpact"}
        assert set(found.files) == {"data", "conv/1", "file", "last", "prob", *versions}
        rounded = found["conv/1@conv/1_lpact"]
        plan = lp.BitPlan.load("out/plan.yaml").layers["conv/1"].output
        np.testing.assert_array_equal(rounded, lp.round_fp(found["conv/1@conv/1"], plan.bd, plan.ad))
        np.testing.assert_array_equal(np.maximum(rounded, 0), found["conv/1"])
        assert rounded.min() < 0


def test_run_takes_several_inputs_from_an_npz_and_any_batch(lpcaffe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(
        """layer { name: "in" type: "Input" top: "a" top: "file"
                   input_param { shape { dim: 1 dim: 3 } shape { dim: 1 dim: 3 } } }
        layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "file" top: "sum" }"""
    )
    a = np.arange(12, dtype=np.float64).reshape(4, 3)
    write_npz("x.npz", {"a": a, "file": 10 * a})  # numpy.savez knows no array called `file`
    assert lpcaffe("run", "net.prototxt", "--input", "x.npz", "--out", "o.npz") == (0, "", FLOAT)
    with np.load("o.npz") as found:
        np.testing.assert_array_equal(found["sum"], 11 * a)
        assert {found[name].dtype for name in found.files} == {np.dtype(np.float32)}
    lpcaffe("run", "net.prototxt", "--input", "x.npz", "--out", "o.npz", "--dtype", "float64", "--force")
    with np.load("o.npz") as found:
        assert found["sum"].dtype == np.float64


def test_run_options_reach_the_engine(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bits", "5", "--rounding", "stochastic")
    low = lp.load("out/lp.prototxt", "out/lp.caffemodel")
    for options, keywords in (
        ([], {}),
        (["--seed", "3"], {"seed": 3}),
        (["--stochastic-as", "floor"], {"stochastic_as": "floor"}),
        (["--dtype", "float64", "--engine", "numpy"], {"dtype": "float64", "engine": "numpy"}),
    ):
        arguments = ["run", "out/lp.prototxt", "out/lp.caffemodel", "--input", "x.npy", "--out", "o.npz", "--force"]
        assert lpcaffe(*arguments, *options)[0] == 0
        with np.load("o.npz") as found:
            np.testing.assert_array_equal(found["last"], lp.run(low, np.load("x.npy"), **keywords)["last"])


def test_old_bd_counts_no_sign(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bits", "8")
    text = Path("out/lp.prototxt").read_text()
    old = re.sub(r"bd: (\d+)", lambda match: f"bd: {int(match[1]) - 1}", text)
    Path("old.prototxt").write_text(old)
    lpcaffe("run", "old.prototxt", "out/lp.caffemodel", "--old-bd", "--input", "x.npy", "--out", "old.npz")
    lpcaffe("run", "out/lp.prototxt", "out/lp.caffemodel", "--input", "x.npy", "--out", "new.npz")
    with np.load("old.npz") as found, np.load("new.npz") as expected:
        np.testing.assert_array_equal(found["prob"], expected["prob"])
    status, _, _ = lpcaffe("validate", *small, "old.prototxt", "out/lp.caffemodel", "--old-bd")
    assert status == 0


def test_validate_exits_1_when_a_check_does_not_hold(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bits", "4", "--round-output")
    low = ["out/lp.prototxt", "out/lp.caffemodel"]
    status, out, err = lpcaffe("validate", *small, *low, "--plan", "out/plan.yaml", "--data", "x.npy")
    assert (status, err) == (0, "")
    assert "0 differ from round_fp" in out
    assert re.search(r"output prob: SQNR .* agreement", out)
    status, out, err = lpcaffe("validate", *small, *low, "--data", "x.npy", "--min-agreement", "1")
    assert (status, err) == (1, "")
    assert 'FAILED: "prob" agrees in' in out
    data = bytearray(read(low[1]))
    blob = open_caffemodel(low[1]).by_name["ip"].blobs[1]
    data[blob.spans[0].offset + 4 * 100 + 2] ^= 0x40  # one bit of odd weight 100
    Path("wrong.caffemodel").write_bytes(data)
    arguments = ["validate", *small, low[0], "wrong.caffemodel", "--json", "proof.json"]
    status, out, err = lpcaffe(*arguments)
    assert (status, err) == (1, "")
    assert 'FAILED: layer "ip" blob 1: 1 of' in out
    assert "the first at 100" in out
    proof = json.loads(read("proof.json"))
    assert proof["holds"] is False
    assert len(proof["failures"]) == 1


def test_labels_give_accuracy(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "out")
    labels = lp.run(lp.load(*small), np.load("x.npy"))["prob"].argmax(1)
    labels[0] = (labels[0] + 1) % 4
    Path("labels.txt").write_text("\n".join(map(str, labels)))
    np.save("labels.npy", labels)
    for name in ("labels.txt", "labels.npy"):
        arguments = ["validate", *small, "out/lp.prototxt", "out/lp.caffemodel", "--data", "x.npy", "--labels", name]
        status, out, _ = lpcaffe(*arguments)
        assert status == 0
        assert "output prob: top-1 80.00% in full precision, 80.00% in low" in out
    np.savez("xy.npz", x=np.load("x.npy"), y=labels)
    _, out, _ = lpcaffe("validate", *small, "out/lp.prototxt", "out/lp.caffemodel", "--data", "xy.npz", "--json", "-")
    assert json.loads(out)["outputs"][0]["top1"] == {"full": 0.8, "low": 0.8}


def test_limit_takes_the_first_images(lpcaffe, small):
    np.save("first.npy", np.load("x.npy")[:3])
    for name, options in (("a", ["x.npy", "--limit", "3"]), ("b", ["first.npy"])):
        assert lpcaffe("calibrate", *small, "--out", f"{name}.npz", "--data", *options)[0] == 0
    a, b = lp.Calibration.load("a.npz"), lp.Calibration.load("b.npz")
    assert a.layers == b.layers
    assert (a.images, a.source) == (3, "array x.npy, first 3 of 5 prepared blobs")


def test_round_is_round_fp_of_the_array(lpcaffe, small):
    x = np.load("x.npy")
    for scheme in ("deterministic", "stochastic", "half_even", "floor"):
        arguments = ["round", "x.npy", "y.npy", "--format", "q2.3", "--scheme", scheme, "--force"]
        assert lpcaffe(*arguments, "--seed", "7", "--stream", "11") == (0, "", "")
        found = np.load("y.npy")
        np.testing.assert_array_equal(found, lp.round_fp(x, 2, 3, scheme, seed=7, stream=11))
        assert (found.dtype, found.shape) == (x.dtype, x.shape)
    np.save("d.npy", x.astype(np.float64))
    lpcaffe("round", "d.npy", "e.npy", "--format", "Q2.40")
    assert np.load("e.npy").dtype == np.float64


def test_upgrade_goes_by_content(lpcaffe, small):
    v1 = 'input: "data" input_dim: [2, 3, 9, 8] layers { name: "r" type: RELU bottom: "data" top: "r" }'
    Path("v1").write_text(v1)
    assert lpcaffe("upgrade", "v1", "v2") == (0, "", "")
    assert 'type: "ReLU"' in Path("v2").read_text()
    assert lpcaffe("upgrade", "net.caffemodel", "again.caffemodel") == (0, "", "")
    before, after = (open_caffemodel(name) for name in ("net.caffemodel", "again.caffemodel"))
    assert after.net == before.net
    assert [len(layer.blobs) for layer in after.layers] == [len(layer.blobs) for layer in before.layers]


def test_inspect_shows_shapes_and_counts(lpcaffe, small):
    status, out, err = lpcaffe("inspect", *small)
    assert (status, err) == (0, "")
    assert re.search(r"conv/1 +Convolution +data +conv/1 +2 x 5 x 7 x 7 +5x3x3x2, 5", out)
    assert "inputs data; outputs prob" in out
    status, out, _ = lpcaffe("inspect", small[0], "--phase", "TRAIN", "--json")
    assert json.loads(out)["network"] == "small"


def test_a_training_network_becomes_one_that_runs_with_the_same_weights(lpcaffe, small):
    text = Path("net.prototxt").read_text()
    _, conv, rest = text.partition('layer { name: "conv/1"')
    body, _, _ = rest.partition('layer { name: "prob"')
    Path("train_val.prototxt").write_text(
        'name: "small"\n'
        'layer { name: "d" type: "MemoryData" top: "data" top: "label"'
        " memory_data_param { batch_size: 2 channels: 3 height: 9 width: 8 } }\n"
        f"{conv}{body}"
        'layer { name: "acc" type: "Accuracy" bottom: "last" bottom: "label" top: "acc" include { phase: TEST } }\n'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "last" bottom: "label" top: "loss" }\n'
    )
    assert lpcaffe("upgrade", "train_val.prototxt", "deploy.prototxt", "--deploy") == (0, "", "")
    for net, out in (("net.prototxt", "a.npz"), ("deploy.prototxt", "b.npz")):
        assert lpcaffe("run", net, small[1], "--input", "x.npy", "--out", out, "--quiet") == (0, "", "")
    with np.load("a.npz") as a, np.load("b.npz") as b:
        assert set(a) == set(b)
        for blob in a:
            np.testing.assert_array_equal(a[blob], b[blob])
    assert lpcaffe("upgrade", "deploy.prototxt", "again.prototxt", "--deploy") == (0, "", "")
    assert Path("again.prototxt").read_text() == Path("deploy.prototxt").read_text()
    assert lpcaffe("convert", "deploy.prototxt", small[1], "--out", "out")[0] == 0


def test_options_that_say_what_the_plan_says_are_not_warned_of(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "a", "--keep-bn", "--rounding", "stochastic", "--seed", "7")
    said = ["--keep-bn", "--rounding", "stochastic", "--seed", "7", "--dialect", "adaption"]
    assert lpcaffe("convert", *small, "--out", "b", "--plan", "a/plan.yaml", *said)[::2] == (0, "")
    _, _, error = lpcaffe("convert", *small, "--out", "c", "--plan", "a/plan.yaml", "--fold-bn", "--seed", "8")
    assert error == "lpcaffe: warning: a/plan.yaml decides what --seed, --fold-bn would; the plan is obeyed\n"


def test_old_bd_is_taken_wherever_low_precision_networks_are(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "a", "--bits", "8")
    old = re.sub(r"bd: (\d+)", lambda match: f"bd: {int(match[1]) - 1}", read("a/lp.prototxt").decode())
    Path("old.prototxt").write_text(old)
    pair = ("old.prototxt", "a/lp.caffemodel")
    assert json.loads(lpcaffe("inspect", "--json", *pair)[1])["problems"] != []
    assert json.loads(lpcaffe("inspect", "--json", "--old-bd", *pair)[1])["problems"] == []
    out = ["--out-net", "net", "--out-weights", "weights"]
    assert lpcaffe("extract", "--old-bd", *pair, *out)[::2] == (0, "")
    assert lpcaffe("diff", "--quiet", "weights", small[1])[0] == 0
