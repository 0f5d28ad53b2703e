"""What a person sees: bars on a terminal only, names as they are, and an end without noise."""

import os
import pty
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.cli import screen

PROGRAM = [sys.executable, "-m", "lpcaffe"]


class Terminal:
    """A stream that is a terminal, or is none."""

    def __init__(self, yes):
        self.yes = yes

    def isatty(self):
        return self.yes

    def write(self, text):
        return len(text)

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("quiet", "terminal", "bar"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_progress_is_for_terminals_only(monkeypatch, quiet, terminal, bar):
    monkeypatch.setattr(sys, "stderr", Terminal(terminal))
    with screen.progress("working", quiet) as report:
        assert (report is not None) is bar


# A program whose data takes its time: it says so on stdout and sleeps before each batch.
SLOW = """if True:
    import sys, time
    from lpcaffe.cli import main
    from lpcaffe.data.sources import Data
    def slow(self, size, batches=Data.batches):
        for batch in batches(self, 1000):
            print("ready", flush=True)
            time.sleep(float(sys.argv[1]))
            yield batch
    Data.batches = slow
    main(sys.argv[2:])
"""


def on_a_terminal(command):
    """What a command shows on a terminal, stdout left out."""
    ours, theirs = pty.openpty()
    terminal = os.environ | {"TERM": "xterm"}
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=terminal) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # Linux says so when the other end is closed
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    return shown


def test_a_terminal_gets_a_bar_for_what_takes_longer_than_a_second_and_a_pipe_the_same_file(small):
    np.save("many.npy", np.zeros((3000, 3, 9, 8), np.float32))
    many = [sys.executable, "-c", SLOW, "0.6", "calibrate", *small, "--data", "many.npy", "--out"]
    shown = on_a_terminal([*many, "a.npz"])
    assert b"calibrating" in shown
    assert b"2000/3000" in shown
    done = subprocess.run([*many, "b.npz"], capture_output=True, check=True)
    assert done.stderr == b""
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    assert on_a_terminal([sys.executable, "-c", SLOW, "0", "calibrate", *small, "--data", "x.npy", "--out", "c"]) == b""


def test_a_reader_that_goes_away_is_no_error(small):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*PROGRAM, "inspect", *small], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_interrupt_ends_with_130_and_leaves_nothing(small):
    program = [sys.executable, "-c", SLOW, "60", "convert", *small, "--data", "x.npy", "--out", "out/put"]
    with subprocess.Popen(program, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert not Path("out").exists()


def test_names_are_shown_as_they_are_whatever_they_hold(lpcaffe, small):
    text = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(text.replace('"small"', '"a[/b] [red]x"').replace('"relu"', '"[/i]"'))
    status, out, err = lpcaffe("inspect", *small)
    assert (status, err) == (0, "")
    assert "a[/b] [red]x (V2)" in out
    assert "[/i] " in out
    status, out, _ = lpcaffe("convert", *small, "--out", "out", "--data", "x.npy")
    assert (status, out.splitlines()[0]) == (0, "a[/b] [red]x: formats and errors (SQNR in dB)")
    status, out, _ = lpcaffe("validate", *small, "out/lp.prototxt", "out/lp.caffemodel", "--data", "x.npy")
    assert status == 0
    assert "a[/b] [red]x: 5 images" in out


def test_names_that_the_terminal_cannot_show_are_no_error(small):
    text = Path("net.prototxt").read_text()
    Path("net.prototxt").write_text(text.replace('"small"', '"kärnten"'), encoding="utf-8")
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run([*PROGRAM, "inspect", *small], capture_output=True, env=ascii_only, check=True)
    assert rb"k\xe4rnten" in done.stdout
    folder = os.fsencode(Path.cwd()) + b"/\xff"
    done = subprocess.run([*PROGRAM, "convert", *small, "--out", folder], capture_output=True, check=True)
    assert b"written to" in done.stdout


def test_warnings_are_one_line_on_stderr_and_quiet_has_none(lpcaffe, small):
    np.save("wide.npy", np.full((2, 3, 9, 8), 200, np.float32))
    arguments = ["calibrate", *small, "--data", "wide.npy", "--out", "s.npz", "--force"]
    status, _, err = lpcaffe(*arguments)
    assert status == 0
    assert err.startswith('lpcaffe: warning: input "data": the data range over 200 to 200')
    assert err.count("\n") == 1
    assert lpcaffe(*arguments, "--quiet") == (0, "", "")
    # Calibration and measurement both look at the data.
    assert lpcaffe("convert", *small, "--data", "wide.npy", "--out", "out")[2] == err
