"""The demonstration: what a newcomer sees first holds, and its figures are stable."""

import json

import pytest

from lpcaffe.demo import embedded_lenet, run_demo
from lpcaffe.errors import FileError


def test_the_embedded_network_has_its_files():
    assert {path.name for path in embedded_lenet().iterdir()} >= {"deploy.prototxt", "lenet.caffemodel", "digits.npz"}


def test_sixteen_bits_change_no_decision_on_a_thousand_digits(tmp_path):
    seen = []
    done = run_demo(tmp_path / "demo", progress=lambda count, total: seen.append((count, total)))
    assert done.validation.holds
    report = done.validation.to_json()
    assert report["data"]["images"] == 1000
    assert {check["differing"] for check in report["rounding"]} == {0}
    (output,) = report["outputs"]
    assert output["agreement"] == 1
    assert output["top1"]["full"] == output["top1"]["low"] > 0.98
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == sorted(done.files)
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["data"]["images"] == 100
    assert seen[-1] == (1000, 1000)
    with pytest.raises(FileError, match="the file exists"):
        run_demo(tmp_path / "demo")


def test_five_bits_do_and_that_is_a_failure(tmp_path):
    done = run_demo(tmp_path / "demo", bits=5)
    assert not done.validation.holds
    (failure,) = done.validation.failures
    assert "expected at least 100.0000%" in failure
