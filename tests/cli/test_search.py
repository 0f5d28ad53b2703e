"""The verb search."""

import contextlib
import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.cli import run
from lpcaffe.search import search as module

TARGET = ("--min-sqnr", "15")
plots = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None,
    reason="matplotlib is not installed: pip install 'lpcaffe[plot]'",
)


@pytest.fixture
def search(lpcaffe, small):
    """A function that searches with the options given, writing plan.yaml."""

    def run_search(*options):
        return lpcaffe("search", *small, "--data", "x.npy", "--out", "plan.yaml", *options)

    return run_search


@pytest.fixture
def nothing_runs(monkeypatch):
    """Neither calibration nor trials may begin."""
    monkeypatch.setattr(module, "calibrate", None)
    monkeypatch.setattr(module, "Trials", None)


def files():
    """What lies in the working directory, by name."""
    return {path.name: path.read_bytes() for path in Path.cwd().iterdir() if path.is_file()}


def failed(result, status=2):
    """The one line of an error."""
    code, out, error = result
    assert (code, out) == (status, "")
    assert error.startswith("lpcaffe: ")
    assert error.count("\n") == 1
    return error.removeprefix("lpcaffe: ").rstrip("\n")


def test_the_plan_is_written_and_converts(search, lpcaffe, small):
    status, out, error = search(*TARGET)
    assert (status, error) == (0, "")
    plan = lp.BitPlan.load("plan.yaml")
    lines = out.splitlines()
    assert lines[0] == "small: greedy"
    for line, (name, formats) in zip(lines[2:5], plan.layers.items(), strict=True):
        weights, output = formats.weights, formats.output
        cells = [name, formats.type, str(weights), str(weights.width)]
        assert line.split() == [*cells, *(["-"] if output is None else [str(output), str(output.width)])]
    assert "written to plan.yaml" in lines
    data = ("--plan", "plan.yaml", "--data", "x.npy")
    assert lpcaffe("convert", *small, "--plan", "plan.yaml", "--out", "out")[0] == 0
    status, out, _ = lpcaffe("validate", *small, "out/lp.prototxt", "out/lp.caffemodel", *data, "--json", "-")
    assert status == 0
    (prob,) = json.loads(out)["outputs"]
    assert prob["sqnr_db"] >= 15
    assert f"SQNR {prob['sqnr_db']:.1f} dB over 5 images" in lines


def test_json_has_every_trial_and_the_curve_is_its_table(search, tmp_path):
    status, out, error = search(*TARGET, "--json", "--curve", "c.csv")
    assert (status, error) == (0, "")
    report = json.loads(out)
    assert report["strategy"] == "greedy"
    assert report["target"] == {"measure": "sqnr_db", "bound": 15}
    plan = lp.BitPlan.load("plan.yaml").to_json()
    assert plan["layers"] == {
        line["name"]: {key: line[key] for key in ("type", "weights", "output")} for line in report["layers"]
    }
    assert report["layers"][0]["weight_values"] == 5 * 3 * 3 * 2
    assert report["layers"][0]["output_values"] == 5 * 7 * 7
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["curve"]) > 3
    for row, entry in zip(rows, report["curve"], strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in entry.items()}
        assert (row["met"] == "True") == (float(row["sqnr_db"]) >= 15)
    assert report["found"] in report["curve"]


@plots
@pytest.mark.parametrize("target", [TARGET, ("--strategy", "budget", "--weight-budget", "9000")], ids=["met", "budget"])
def test_a_curve_is_the_same_drawing_every_time(search, target):
    drawn = []
    for _ in range(2):
        assert search(*target, "--curve", "c.SVG", "--force")[0] == 0
        drawn.append(Path("c.SVG").read_bytes())
    assert drawn[0] == drawn[1]
    assert b"<svg" in drawn[0]
    assert b"bits of a weight, average" in drawn[0] or b"<!-- bits of a weight, average -->" in drawn[0]


def test_a_plot_without_matplotlib_is_an_error_before_the_search(search, nothing_runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    before = files()
    said = failed(search(*TARGET, "--curve", "c.svg"))
    assert said == "a plot needs matplotlib; pip install 'lpcaffe[plot]', or write .csv"
    assert files() == before


@pytest.mark.parametrize("strategy", ["greedy", "ristretto", "budget"])
def test_the_same_search_gives_the_same_files(search, strategy):
    target = TARGET if strategy != "budget" else ("--weight-budget", "9000", "--activation-budget", "2000")
    seen = set()
    for name in ("a", "b"):
        status, out, _ = search("--strategy", strategy, *target, "--json", "--curve", f"{name}.csv", "--force")
        assert status == 0
        seen.add((out, Path("plan.yaml").read_bytes(), Path(f"{name}.csv").read_bytes()))
    assert len(seen) == 1


def test_statistics_of_calibrate_give_the_same(search, lpcaffe, small):
    plain = search(*TARGET, "--json")
    plan = Path("plan.yaml").read_bytes()
    assert lpcaffe("calibrate", *small, "--data", "x.npy", "--out", "stats.npz")[0] == 0
    assert search(*TARGET, "--json", "--force", "--stats", "stats.npz") == plain
    assert Path("plan.yaml").read_bytes() == plan


def test_a_record_saves_the_second_search(search):
    first = json.loads(search(*TARGET, "--json", "--trials", "t.jsonl")[1])
    written, plan = Path("t.jsonl").read_bytes(), Path("plan.yaml").read_bytes()
    second = json.loads(search(*TARGET, "--json", "--trials", "t.jsonl", "--force")[1])
    assert first.pop("trials")["run"] > 0 == second.pop("trials")["run"]
    assert second == first
    assert (Path("t.jsonl").read_bytes(), Path("plan.yaml").read_bytes()) == (written, plan)
    # A table says so.
    assert "0 trials run, " in search(*TARGET, "--trials", "t.jsonl", "--force")[1]
    Path("plan.yaml").unlink()
    before = files()
    said = failed(search(*TARGET, "--trials", "t.jsonl", "--round-bias"))
    assert said.startswith("t.jsonl: the trials in it are of other work: its round_bias is False, here it is True")
    assert files() == before


def test_an_interrupted_search_leaves_its_record_and_no_plan(search, monkeypatch):
    whole = json.loads(search(*TARGET, "--json", "--trials", "whole.jsonl")[1])
    plan = Path("plan.yaml").read_bytes()
    Path("plan.yaml").unlink()
    original, calls = module.Trials.__call__, []

    def interrupted(trials, formats):
        calls.append(formats)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return original(trials, formats)

    with monkeypatch.context() as patch:
        patch.setattr(module.Trials, "__call__", interrupted)
        with contextlib.suppress(KeyboardInterrupt):  # some versions of typer let it through, and `main` ends with 130
            assert search(*TARGET, "--trials", "t.jsonl")[0] == 130
    assert set(files()) >= {"t.jsonl"}
    assert "plan.yaml" not in files()
    again = json.loads(search(*TARGET, "--json", "--trials", "t.jsonl")[1])
    assert 0 < again.pop("trials")["run"] < whole.pop("trials")["run"]
    assert again == whole
    assert Path("plan.yaml").read_bytes() == plan
    assert Path("t.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()


def test_a_target_out_of_reach_is_status_1_and_leaves_no_file(search):
    before = files()
    said = failed(search("--min-sqnr", "200", "--curve", "c.csv"), 1)
    assert said.startswith(
        "the target, SQNR, dB >= 200, cannot be reached with at most 16 bits: the best of 1 trial has "
    )
    assert files() == before
    said = failed(search("--min-sqnr", "200", "--strategy", "budget", "--weight-budget", "9000"), 1)
    assert "cannot be reached within the budget" in said
    assert files() == before


def test_labels_and_a_metric(search, tmp_path):
    Path("labels.txt").write_text("\n".join("01230"))
    (tmp_path / "search_metric.py").write_text(
        "def worst(full, low, labels):\n    return -float(abs(full['prob'] - low['prob']).max())\n"
    )
    status, out, _ = search("--max-loss", "0", "--labels", "labels.txt")
    assert status == 0
    assert "top-1 " in out
    how = ("--metric", "search_metric:worst", "--max-metric-loss", "0.1", "--labels", "labels.txt", "--json", "--force")
    status, out, _ = search(*how)
    sys.modules.pop("search_metric")
    assert status == 0
    report = json.loads(out)
    assert -0.1 <= report["found"]["metric"] <= 0 == report["baseline"]["metric"]
    assert report["found"]["top1"] is not None


def test_only_one_kind(search):
    status, out, _ = search(*TARGET, "--only", "weights", "--other-bits", "11", "--highest", "12", "--json")
    assert status == 0
    plan = lp.BitPlan.load("plan.yaml")
    assert [line.output and line.output.width for line in plan.layers.values()] == [11, 11, None]
    assert json.loads(out)["found"]["activation_bits"] == 11


def test_quiet_says_nothing(search):
    assert search(*TARGET, "--quiet") == (0, "", "")


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("name", ["plan.yaml", "c.csv"])
def test_outputs_that_exist_are_refused_before_anything_runs(search, name):
    Path(name).write_text("mine")
    before = files()
    assert failed(search(*TARGET, "--curve", "c.csv")) == f"{name}: the file exists; --force overwrites it"
    assert files() == before


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--curve", "c.png"), "c.png: expected a curve's file to end in .csv or .svg"),
        (("--curve", "csv"), "csv: expected a curve's file to end in .csv or .svg"),
        (("--curve", "nowhere/c.csv"), "nowhere/c.csv: the directory "),
        (("--curve", "./c.csv", "--out", "c.csv"), "c.csv: --out and --curve name the same file"),
        (("--trials", "plan.yaml"), "plan.yaml: --out and --trials name the same file"),
        (("--trials", "c.csv", "--curve", "c.csv", "--force"), "c.csv: --curve and --trials name the same file"),
        (("--out", "nowhere/plan.yaml"), "nowhere/plan.yaml: the directory "),
        (("--out", "."), ".: expected an ordinary file"),
        (("--min-agreement", "1"), "expected one of --max-loss, --min-agreement, --min-sqnr and --max-metric-loss"),
        (("--max-loss", "1", "--max-metric-loss", "1"), "expected one of --max-loss"),
        (("--weight-budget", "9000"), "budgets and strategy budget need each other, got strategy greedy and a budget"),
        (("--strategy", "budget"), "budgets and strategy budget need each other, got strategy budget and no budget"),
        (
            ("--strategy", "budget", "--activation-budget", "9000", "--only", "weights"),
            "only weights is searched, and there is a budget for output",
        ),
        (("--lowest", "1"), "expected widths with 2 <= lowest <= highest <= 25, got 1 and 16"),
        (("--highest", "26"), "expected widths with 2 <= lowest <= highest <= 25, got 2 and 26"),
        (("--lowest", "7", "--highest", "6"), "expected widths with 2 <= lowest <= highest <= 25, got 7 and 6"),
        (("--other-bits", "8"), "other_bits: weights and outputs are both searched"),
        (("--only", "output", "--other-bits", "1"), "other_bits: expected 2 to 25 bits, got 1"),
        (("--only", "bias"), "Invalid value for '--only'"),
        (("--strategy", "best"), "Invalid value for '--strategy'"),
        (("--data", "gone.npy"), "gone.npy: "),
        (("--labels", "gone.txt"), "gone.txt: "),
        (("--labels", "few.txt"), "few.txt: expected 5 labels, one for each image, got 2"),
        (("--labels", "x.npy"), "x.npy: labels must be a row of integers"),
        (("--limit", "0"), "limit must be 1 image or more, got 0"),
        (("--stats", "x.npy"), "x.npy: is not a statistics file"),
        (("--stats", "gone.npz"), "gone.npz: "),
        (("--stats", "other.npz"), 'other.npz: the statistics are of "small" with sha256'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_the_user_got_wrong_is_one_line_and_nothing_runs(search, other, options, said):
    Path("few.txt").write_text("0\n1\n")
    before = files()
    assert failed(search(*TARGET, *options)).startswith(said)
    assert files() == before


@pytest.fixture
def other(small):
    """other.npz: statistics of this network, which has another sha256."""
    net = lp.load(*small)
    stats = lp.calibrate(net, lp.images("x.npy", net))
    lp.Calibration(stats.layers, "small", "0" * 64, images=stats.images).save("other.npz")


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ((), "strategy greedy needs a target; --max-loss, --min-agreement, --min-sqnr or --max-metric-loss"),
        (("--strategy", "ristretto"), "strategy ristretto needs a target"),
        (("--max-loss", "1"), "the target needs labels, and the data has none; --labels"),
        (("--max-metric-loss", "1"), "the target needs a metric; --metric"),
        (("--max-loss", "-0.5"), "top1_loss: expected a loss of 0 or more, got -0.5"),
        (("--max-loss", "nan"), "top1_loss: expected a finite number, got nan"),
        (("--max-loss", "one"), "Invalid value for '--max-loss'"),
        (("--max-metric-loss", "-1"), "metric_loss: expected a loss of 0 or more, got -1.0"),
        (("--min-sqnr", "inf"), "sqnr_db: expected a finite number, got inf"),
        (("--min-sqnr", "nan"), "sqnr_db: expected a finite number, got nan"),
        (("--min-agreement", "2"), "expected an agreement between 0 and 1, got 2.0"),
        (("--min-agreement", "-0.1"), "expected an agreement between 0 and 1, got -0.1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_target_that_makes_no_sense_is_one_line_and_nothing_runs(search, target, said):
    before = files()
    assert failed(search(*target)).startswith(said)
    assert files() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((*TARGET, "--output", "nope"), 'blob "nope": the network has no such blob; its outputs are prob'),
        ((*TARGET, "--metric", "nowhere:f"), "metric: there is no module 'nowhere'"),
        ((*TARGET, "--metric", "json"), "metric: expected module:function, got 'json'"),
        ((*TARGET, "--metric", "json:nope"), "metric: the module 'json' has no 'nope'"),
        ((*TARGET, "--metric", "math:hypot"), "the metric math:hypot failed: "),
        ((*TARGET, "--method", "best"), "there is no allocation method 'best'"),
        ((*TARGET, "--activation-method", "percentile:200"), "percent: expected 0 < percent <= 100"),
        ((*TARGET, "--trials", "x.npy"), "x.npy: is not a record of trials"),
        ((*TARGET, "--trials", "nowhere/t.jsonl"), "nowhere/t.jsonl: cannot be used: no such file or directory"),
        ((*TARGET, "--engine", "pycaffe"), "net.prototxt: pycaffe runs no trials"),
        ((*TARGET, "--seed", "-1"), "seed: expected 0 to 2^64 - 1, got -1"),
        (("--max-loss", "1", "--labels", "high.txt"), 'blob "prob": expected labels of 0 to 3, got 9'),
        (("--max-loss", "1", "--labels", "fit.txt", "--output", "conv/1"), "the target needs top1"),
        (
            ("--strategy", "budget", "--weight-budget", "3665"),
            "3,665 bits are less than 2 for each of the 1,833 values",
        ),
        (("--strategy", "budget", "--weight-budget", "-1"), "-1 bits are less than 2 for each of the 1,833 values"),
        (("--strategy", "budget", "--activation-budget", "0"), "0 bits are less than 2 for each of the 252 values"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_only_the_network_can_tell_is_one_line_too(search, options, said):
    Path("high.txt").write_text("\n".join("01239"))
    Path("fit.txt").write_text("\n".join("01230"))
    before = files()
    assert failed(search(*options)).startswith(said)
    assert files() == before


def test_limit_takes_the_first_images(search):
    status, out, _ = search(*TARGET, "--limit", "3", "--json")
    assert status == 0
    assert json.loads(out)["data"]["images"] == 3
    np.save("x.npy", np.load("x.npy")[:3])
    _, again, _ = search(*TARGET, "--json", "--force")
    assert json.loads(again)["layers"] == json.loads(out)["layers"]


def test_lenet_keeps_its_digits(lpcaffe, tmp_path, monkeypatch):
    folder = Path(lp.__file__).resolve().parent.parent / "models" / "lenet"
    net = folder / "deploy.prototxt", folder / "lenet.caffemodel"
    monkeypatch.chdir(tmp_path)
    data = ("--data", folder / "digits.npz", "--limit", "60")
    search = ("search", *net, *data, "--out", "plan.yaml", "--max-loss", "0", "--strategy", "ristretto", "--json")
    status, out, _ = lpcaffe(*search)
    assert status == 0
    found = json.loads(out)
    assert found["found"]["top1"] >= found["baseline"]["top1"]
    assert found["found"]["weight_bits"] < 10
    assert run(["convert", *map(str, net), "--plan", "plan.yaml", "--out", "out", "--quiet"]) == 0
    low = ("out/lp.prototxt", "out/lp.caffemodel")
    report = json.loads(lpcaffe("validate", *net, *low, "--plan", "plan.yaml", *data, "--json", "-")[1])
    assert report["outputs"][0]["top1"]["low"] == found["found"]["top1"]
