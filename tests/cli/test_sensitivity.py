"""The verb sensitivity."""

import json
import sys

import numpy as np
import pytest


def test_a_table_with_a_row_a_part_and_the_worst_marked(lpcaffe, small):
    status, out, _ = lpcaffe("sensitivity", *small, "--data", "x.npy", "--widths", "3,5-6")
    assert status == 0
    assert "small: one part rounded, 5 images, SQNR of prob in dB" in out
    assert "3 bits" in out
    assert "6 bits" in out
    assert "4 bits" not in out
    rows = [line.split() for line in out.splitlines() if line.startswith(("conv/1", "ip ", "last "))]
    half = len(rows) // 2  # SQNR, then agreement
    assert [row[:2] for row in rows[:half]] == [
        ["conv/1", "weights"],
        ["conv/1", "output"],
        ["ip", "weights"],
        ["ip", "output"],
        ["last", "weights"],
    ]
    columns = np.array([[float(cell.rstrip("*")) for cell in row[3:]] for row in rows[:half]])
    marked = np.array([[cell.endswith("*") for cell in row[3:]] for row in rows[:half]])
    assert columns.shape == (5, 3)
    assert (marked == (columns == columns.min(0))).all()
    assert all(cell.rstrip("*").endswith("%") for row in rows[half:] for cell in row[3:])


def test_json_has_everything(lpcaffe, small, tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join("01230"))
    (tmp_path / "verb_metric.py").write_text(
        "def worst(full, low, labels):\n    return -abs(full['prob'] - low['prob']).max()\n"
    )
    arguments = ("--data", "x.npy", "--labels", "labels.txt", "--metric", "verb_metric:worst", "--only", "output")
    status, out, _ = lpcaffe("sensitivity", *small, *arguments, "--output", "last", "--method", "max", "--json")
    assert status == 0
    report = json.loads(out)
    assert report["output"] == "last"
    assert report["widths"] == [2, 3, 4, 5, 6, 7, 8]
    assert [(part["layer"], part["kind"]) for part in report["parts"]] == [("conv/1", "output"), ("ip", "output")]
    assert report["baseline"]["metric"] == 0
    assert all(score["metric"] < 0 and score["top1"] is not None for score in report["parts"][0]["scores"])
    sys.modules.pop("verb_metric")


def test_statistics_of_calibrate_give_the_same(lpcaffe, small):
    assert lpcaffe("calibrate", *small, "--data", "x.npy", "--out", "stats.npz")[0] == 0
    plain = lpcaffe("sensitivity", *small, "--data", "x.npy", "--widths", "4", "--json")
    assert plain[0] == 0
    assert lpcaffe("sensitivity", *small, "--data", "x.npy", "--widths", "4", "--json", "--stats", "stats.npz") == plain


def test_a_record_saves_the_second_run(lpcaffe, small, tmp_path):
    arguments = ("sensitivity", *small, "--data", "x.npy", "--widths", "2-4", "--json", "--trials", "t.jsonl")
    first = lpcaffe(*arguments)
    written = (tmp_path / "t.jsonl").read_bytes()
    assert lpcaffe(*arguments) == first
    assert (tmp_path / "t.jsonl").read_bytes() == written
    np.save("x.npy", np.load("x.npy")[:4])
    status, _, error = lpcaffe(*arguments)
    assert status == 2
    assert error.startswith("lpcaffe: t.jsonl: the trials in it are of other work: its data is")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--widths", "8-2"), "--widths: expected widths such as 2-8 or 4,6,16, got '8-2'"),
        (("--widths", "x"), "--widths: expected widths such as"),
        (("--widths", "1-3"), "--widths: expected 2 to 25 bits"),
        (("--widths", "26"), "--widths: expected 2 to 25 bits"),
        (("--method", "nope"), "there is no allocation method 'nope'"),
        (("--output", "nope"), 'blob "nope": the network has no such blob'),
        (("--metric", "nope:f"), "metric: there is no module 'nope'"),
        (("--labels", "x.npy"), "x.npy: "),
        (("--trials", "x.npy"), "x.npy: is not a record of trials"),
        (("--trials", "nowhere/t.jsonl"), "nowhere/t.jsonl: cannot be used: no such file or directory"),
        (("--stats", "x.npy"), "x.npy: "),
    ],
)
def test_what_the_user_got_wrong_is_one_line(lpcaffe, small, arguments, said):
    status, out, error = lpcaffe("sensitivity", *small, "--data", "x.npy", *arguments)
    assert (status, out) == (2, "")
    assert error.startswith(f"lpcaffe: {said}")
    assert error.count("\n") == 1


def test_validate_measures_the_metric_too(lpcaffe, small, tmp_path):
    (tmp_path / "verb_metric2.py").write_text("def images(full, low, labels):\n    return len(low['prob'])\n")
    assert lpcaffe("convert", *small, "--out", "out")[0] == 0
    low = ("out/lp.prototxt", "out/lp.caffemodel", "--data", "x.npy", "--metric", "verb_metric2:images")
    status, out, _ = lpcaffe("validate", *small, *low)
    assert status == 0
    assert "metric 5\n" in out
    status, out, _ = lpcaffe("validate", *small, *low, "--json", "-")
    assert json.loads(out)["metric"] == 5
    sys.modules.pop("verb_metric2")
    assert lpcaffe("validate", *small, *low[:2], "--metric", "verb_metric2:images")[0] == 2
    sys.modules.pop("verb_metric2")
