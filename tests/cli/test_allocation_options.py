"""The options that choose methods and widths."""

import json
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.allocation import METHODS


def planned(path="out/plan.yaml"):
    plan = lp.BitPlan.load(path)
    return {name: (line.weights.width, line.output and line.output.width) for name, line in plan.layers.items()}


OPTIONS = [
    ["--method", "mse", "--bits", "3"],
    ["--method", "percentile:50"],
    ["--weight-method", "nstd:1", "--activation-method", "nstd:2", "--bits", "5"],
    ["--conv-weight-bits", "5", "--inner-product-weight-bits", "7", "--activation-bits", "9"],
    ["--bits-for", "conv/1:8", "--bits-for", "ip:output=6"],
    ["--bias", "own"],
    ["--bias", "none"],
    ["--bits-from", "other.yaml", "--bits-for", "last:5"],
    ["--keep-even", "--weight-method", "percentile:50", "--bits", "3"],
    ["--coverage", "all", "--bits-for", "data:output=9", "--bias-bits", "20"],
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_convert_and_allocate_take_them_alike(lpcaffe, small, options):
    lp.allocate(lp.load(*small), None, bits=11, bias="none").save("other.yaml")
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", *options)[0] == 0
    assert lpcaffe("calibrate", *small, "--data", "x.npy", "--out", "stats.npz")[0] == 0
    assert lpcaffe("allocate", *small, "--stats", "stats.npz", "--out", "plan.yaml", *options)[0] == 0
    assert Path("plan.yaml").read_bytes() == Path("out/plan.yaml").read_bytes()
    bits = options[-2:] if options[-2] == "--bits" else []
    lpcaffe("convert", *small, "--out", "plain", "--data", "x.npy", *bits)
    if options != ["--bias", "none"]:
        assert Path("plain/plan.yaml").read_bytes() != Path("out/plan.yaml").read_bytes()


def test_widths_reach_their_layers(lpcaffe, small):
    options = ("--bits", "9", "--conv-weight-bits", "5", "--inner-product-weight-bits", "7")
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", *options)[0] == 0
    assert planned() == {"conv/1": (5, 9), "ip": (7, 9), "last": (7, None)}
    lpcaffe("convert", *small, "--out", "two", "--bits-from", "out/plan.yaml", "--bits-for", "first:weights=4")
    assert planned("two/plan.yaml") == {"conv/1": (4, None), "ip": (7, None), "last": (7, None)}


def test_coverage_all_reaches_inputs_and_biases(lpcaffe, small):
    options = ["--coverage", "all", "--bits", "8", "--bits-for", "data:output=9", "--bias-bits", "20"]
    status, _, err = lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", *options)
    assert (status, err) == (0, "")
    plan = lp.BitPlan.load("out/plan.yaml")
    assert plan.policy.coverage == "all"
    widths = {f"{name}/{role}": fmt.width for name, row in plan.layers.items() for role, fmt in row.formats().items()}
    names = ("conv/1", "ip", "last")
    expected = {f"{name}/weights": 8 for name in names} | {f"{name}/bias": 20 for name in names}
    assert widths == expected | {"data/output": 9, "conv/1/output": 8, "ip/output": 8}
    assert json.loads(Path("out/report.json").read_text())["float_sites"] == ["last/output"]
    pair = ("out/lp.prototxt", "out/lp.caffemodel", "--plan", "out/plan.yaml")
    assert lpcaffe("verify", *pair)[0] == 0
    assert lpcaffe("validate", *small, *pair, "--data", "x.npy")[0] == 0


def test_keep_step_changes_nothing_and_is_noted(lpcaffe, small):
    assert lpcaffe("convert", *small, "--out", "plain")[2] == ""
    status, _, err = lpcaffe("convert", *small, "--out", "out", "--keep-step")
    assert status == 0
    assert err == "lpcaffe: warning: --keep-step is always on: small weights keep all their bits\n"
    for path in Path("plain").iterdir():
        assert path.read_bytes() == Path("out", path.name).read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--bits-for", "conv/*:8", "ip:weights=6", "last:5", "NET", "WEIGHTS"],
        ["NET", "WEIGHTS", "--bits-for=conv/*:8", "ip:weights=6", "--bits-for", "last:5"],
        ["NET", "--bits-for", "conv/*:8", "WEIGHTS", "--bits-for", "ip:weights=6", "last:5"],
        ["NET", "WEIGHTS", "--bits-for", "conv/*:8", "ip:weights=6", "last:5", "--quiet"],
    ],
)
def test_several_rules_may_follow_one_option(lpcaffe, small, arguments):
    words = [dict(zip(("NET", "WEIGHTS"), small, strict=True)).get(word, word) for word in arguments]
    assert lpcaffe("convert", "--out", "out", "--data", "x.npy", *words)[0] == 0
    assert planned() == {"conv/1": (8, 8), "ip": (6, 16), "last": (5, None)}


def test_a_file_that_looks_like_a_rule_is_a_file(lpcaffe, small):
    Path(small[1]).rename("weights:12")
    arguments = ["--bits-for", "ip:8", "weights:12"]
    assert lpcaffe("convert", small[0], *arguments, "--out", "out")[0] == 0
    assert planned() == {"conv/1": (16, None), "ip": (8, None), "last": (16, None)}


def test_what_is_no_rule_after_a_rule_stays_what_it_was(lpcaffe, small):
    status, _, err = lpcaffe("convert", *small, "--out", "out", "--bits-for", "ip:8", "surplus")
    assert (status, Path("out").exists()) == (2, False)
    assert "surplus" in err


def test_options_that_a_plan_decides_are_named_in_a_warning(lpcaffe, small):
    lpcaffe("convert", *small, "--out", "a")
    options = {
        "--conv-weight-bits": "5",
        "--inner-product-weight-bits": "5",
        "--bits-for": "ip:8",
        "--bits-from": "a/plan.yaml",
        "--weight-method": "mse",
        "--activation-method": "mse",
        "--bias": "own",
    }
    words = [word for pair in options.items() for word in pair]
    status, _, err = lpcaffe("convert", *small, "--out", "b", "--plan", "a/plan.yaml", *words)
    assert status == 0
    assert err == f"lpcaffe: warning: a/plan.yaml decides what {', '.join(options)} would; the plan is obeyed\n"


@pytest.mark.parametrize("verb", ["convert", "allocate"])
def test_help_lists_every_method(lpcaffe, verb):
    text = "".join(lpcaffe(verb, "--help")[1].split())
    assert f"Howformatsarechosen:{','.join(sorted(METHODS))}." in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "best"], "there is no allocation method 'best'; known are "),
        (["--weight-method", "kl:3"], "the method kl has no option, got 'kl:3'; write kl"),
        (["--activation-method", "percentile:x"], "percent: expected a number after the colon, got 'percentile:x'"),
        (["--bits-for", "cnv/1:8"], "the rule 'cnv/1:8' matches nothing: no such layer gets a format; near are conv/1"),
        (["--bits-for", "data:output=9"], "the rule 'data:output=9' matches nothing: no such layer gets a format"),
        (["--coverage", "all", "--bits-for", "relu2:8"], "the rule 'relu2:8' matches nothing"),
        (["--bias-bits", "26"], "bias_bits: expected 2 to 25 bits, which a float32 holds exactly, got 26"),
        (["--bias-bits", "8", "--bias", "own"], "--bias-bits: with --round-bias, and --bias own, biases have"),
        (["--bits-for", "8"], "expected a rule as conv1:8 or fc*:weights=6, got '8'"),
        (["--conv-weight-bits", "1"], "conv_weight_bits: expected 2 to 25 bits"),
        (["--bits", "26"], "bits: expected 2 to 25 bits, which a float32 holds exactly, got 26"),
        (["--bits-from", "narrow.yaml"], 'layer "ip": weights: expected 2 to 25 bits, which a float32 holds exactly'),
        (["--method", "sqnr:1e5"], "target: expected 0 to 1000 decibels, got 100000.0"),
        (["--bits-from", "gone.yaml"], "gone.yaml: cannot be read: no such file or directory"),
        (["--bits-from", "other.yaml"], 'other.yaml: layer "x": the plan has Convolution, the network "small"'),
        (["--bias", "none", "--round-bias"], "bias: expected report, none or own, got 'none' with round_bias"),
    ],
)
def test_what_is_wrong_is_one_line_and_comes_before_the_data_are_read(lpcaffe, small, options, message):
    Path("other.yaml").write_text("layers: {x: {type: Convolution, weights: Q1.7}}\n")
    Path("narrow.yaml").write_text("layers: {ip: {type: InnerProduct, weights: Q1.0}}\n")
    np.save("bad.npy", np.full((1, 3, 9, 8), np.nan, np.float32))
    data = [] if "--round-bias" in options else ["--data", "bad.npy"]
    status, out, err = lpcaffe("convert", *small, "--out", "out", *data, *options)
    assert (status, out) == (2, "")
    assert err.startswith(f"lpcaffe: {message}")
    assert err.count("\n") == 1
    assert not Path("out").exists()


def test_the_report_and_the_plan_note_tensors_in_which_nothing_varies(lpcaffe, small, make_net):
    def edit(weights):
        weights["conv/1"][0][:] = 0
        weights["conv/1"][1][:] = -0.5
        weights["last"][0][:] = 0.25

    make_net(Path("net.prototxt").read_text(), edit)
    assert lpcaffe("convert", *small, "--out", "out", "--data", "x.npy", "--bias", "none")[0] == 0
    rows = {row["name"]: row for row in json.loads(Path("out/report.json").read_text())["layers"]}
    notes = {
        name: [(row[key] or {}).get("note") for key in ("weights", "bias", "output")] for name, row in rows.items()
    }
    # A bias is what a dead layer gives out; one that is constant itself is nothing to remark on.
    assert notes == {"conv/1": ["all zero", None, "constant"], "ip": [None] * 3, "last": ["constant", None, None]}
    text = Path("out/plan.yaml").read_text()
    assert "|weights| <= 0 (all zero), output -0.5 .. -0.5 (constant)" in text
    assert "|weights| <= 0.25 (constant), output" in text


def test_biases_that_would_saturate_are_in_the_plan_and_the_report(lpcaffe, small, make_net):
    def edit(weights):
        for name in ("conv/1", "ip"):
            weights[name][1][0] = 100

    make_net(Path("net.prototxt").read_text(), edit)
    assert lpcaffe("convert", *small, "--out", "out")[2] == ""
    assert "1 of 5 bias values beyond Q" in Path("out/plan.yaml").read_text()
    assert json.loads(Path("out/report.json").read_text())["totals"]["bias_saturated"] == 2
    assert lpcaffe("convert", *small, "--out", "none", "--bias", "none")[2] == ""
    assert lpcaffe("convert", *small, "--out", "own", "--bias", "own")[2] == ""
    assert lp.BitPlan.load("own/plan.yaml").policy.round_bias
    lpcaffe("convert", *small, "--out", "old", "--round-bias")
    for name in ("plan.yaml", "lp.caffemodel", "report.json"):
        assert Path("own", name).read_bytes() == Path("old", name).read_bytes()
