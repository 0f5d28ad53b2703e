"""tools/fuzz.py for a second a target, with its fixed mutations; by hand it runs for as long as one likes."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import lpcaffe as lp

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"
TARGETS = ["text", "wire", "upgrade", "plan", "inspect", "diff", "verify", "extract"]


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MAX_SECONDS = 60  # a hang ends here, and a busy machine does not
    return module


@pytest.mark.parametrize("target", TARGETS)
def test_damaged_files_give_a_value_or_one_line(fuzz, monkeypatch, tmp_path, target):
    monkeypatch.chdir(tmp_path)  # where an input that breaks something is saved
    seeds = len(fuzz.seeds(target))
    assert seeds >= 4
    assert fuzz.run(target, runs=seeds + 250, seed=1) == seeds + 250


def test_the_low_precision_pair_is_sound(fuzz):
    """So that every half of it that is damaged is read to its end."""
    found = lp.verify(*fuzz._pair_with(fuzz.seeds("verify")[0]))
    assert (found.failures, found.notes, len(found.rounding)) == ([], [], 4)
    fuzz.check("extract", fuzz.seeds("extract")[1])


def test_an_input_that_breaks_the_promise_is_saved_and_named(fuzz, monkeypatch, tmp_path):
    def breaks(data):
        raise KeyError("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fuzz.TARGETS, "plan", breaks)
    with pytest.raises(RuntimeError, match=r"plan: input 0, saved as fuzz-plan-[0-9a-f]{12}: KeyError: 'a bug'"):
        fuzz.run("plan", runs=9)
    (saved,) = tmp_path.iterdir()
    assert saved.read_bytes() == fuzz.seeds("plan")[0]


def test_an_endless_loop_is_a_broken_promise(fuzz, monkeypatch, tmp_path):
    def hangs(data):
        while True:
            pass

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(fuzz.TARGETS, "plan", hangs)
    monkeypatch.setattr(fuzz, "MAX_SECONDS", 0.1)
    with pytest.raises(RuntimeError, match="TooSlow"):
        fuzz.run("plan", runs=9)


def test_a_memory_hog_is_a_broken_promise(fuzz, monkeypatch, tmp_path):
    peaks = iter([100, 500, 500])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fuzz, "_peak", lambda: next(peaks))
    with pytest.raises(RuntimeError, match="took 400 MB"):
        fuzz.run("plan", runs=1)


def test_all_targets_run_by_one_command_a_process_each(fuzz, monkeypatch, tmp_path, capfd):
    """Of the processes that `all` starts the first one is run."""
    monkeypatch.chdir(tmp_path)
    commands, start = [], subprocess.run

    def started(command, **options):
        commands.append(command)
        return subprocess.CompletedProcess(command, 0) if len(commands) > 1 else start(command, **options)

    monkeypatch.setattr(subprocess, "run", started)
    monkeypatch.setattr(sys, "argv", ["fuzz.py", "all", "--runs", "3", "--seed", "1"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 0
    assert commands == [[sys.executable, str(TOOL), target, "--runs", "3", "--seed", "1"] for target in TARGETS]
    assert capfd.readouterr().out == f"{TARGETS[0]}: 3 inputs, none broke the promise\n"
    assert list(tmp_path.iterdir()) == []
