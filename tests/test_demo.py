"""The demonstration: what a newcomer sees first holds, and its figures are stable."""

import json
from pathlib import Path

from lpcaffe.cli import render
from lpcaffe.cli import run as lpcaffe
from lpcaffe.demo import embedded_lenet, run_demo


def test_the_embedded_network_has_its_files():
    assert {path.name for path in embedded_lenet().iterdir()} >= {"deploy.prototxt", "lenet.caffemodel", "digits.npz"}


def test_sixteen_bits_change_no_decision_on_a_thousand_digits(tmp_path, monkeypatch, capfd):
    """By the verb, which shows the proof."""
    monkeypatch.chdir(tmp_path)
    assert lpcaffe(["demo", "--json"]) == 0
    values = json.loads(capfd.readouterr().out)
    report = values["validation"]
    assert report["holds"]
    assert report["data"]["images"] == 1000
    assert {check["differing"] for check in report["rounding"]} == {0}
    (output,) = report["outputs"]
    assert output["agreement"] == 1
    assert output["top1"]["full"] == output["top1"]["low"] > 0.98
    assert sorted(values["files"]) == sorted(str(path) for path in Path("lpcaffe-demo").iterdir())
    assert json.loads(Path("lpcaffe-demo/report.json").read_text())["data"]["images"] == 100
    assert any("agreement 100.000%" in str(part) for part in render.demo(values))
    assert lpcaffe(["demo"]) == 2
    said = "lpcaffe: lpcaffe-demo/lp.prototxt: the file exists; --force overwrites it\n"
    assert capfd.readouterr() == ("", said)


def test_five_bits_do_and_that_is_a_failure(tmp_path):
    seen = []
    done = run_demo(tmp_path / "demo", bits=5, progress=lambda count, total: seen.append((count, total)))
    assert not done.validation.holds
    (failure,) = done.validation.failures
    assert "expected at least 100.0000%" in failure
    assert seen[-1] == (1000, 1000)
