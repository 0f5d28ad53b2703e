"""`-` is standard input or output, and nothing else is written to stdout then."""

import io
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import lpcaffe as lp
from lpcaffe.errors import FileError
from lpcaffe.formats.upgrade_file import upgrade_file

OLD = """name: "old"
input: "data" input_dim: 2 input_dim: 3 input_dim: 9 input_dim: 8
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" convolution_param { num_output: 5 kernel_size: 3 } }
"""
PLAN = '{"layers": {"ip": {"type": "InnerProduct", "weights": "Q1.7"}}}'


@pytest.fixture
def feed(monkeypatch):
    """A function that puts bytes into standard input."""

    def give(data):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))

    return give


def program(*arguments, data=b"", **options):
    command = [sys.executable, "-m", "lpcaffe", *map(str, arguments)]
    return subprocess.run(command, input=data, check=False, **{"capture_output": True, **options})


def test_upgrade_of_text_from_stdin_to_stdout_is_that_of_the_file(lpcaffe, small, feed):
    Path("old.prototxt").write_text(OLD)
    assert lpcaffe("upgrade", "old.prototxt", "new.prototxt") == (0, "", "")
    new = Path("new.prototxt").read_text()
    assert 'type: "Convolution"' in new
    feed(OLD.encode())
    assert lpcaffe("upgrade", "-", "-") == (0, new, "")
    assert lpcaffe("upgrade", "old.prototxt", "-") == (0, new, "")
    feed(OLD.encode())
    assert lpcaffe("upgrade", "-", "from_stdin.prototxt") == (0, "", "")
    assert Path("from_stdin.prototxt").read_text() == new


def test_upgrade_of_a_caffemodel_from_stdin_to_stdout_is_that_of_the_file(lpcaffe, small):
    assert lpcaffe("upgrade", small[1], "new.caffemodel") == (0, "", "")
    done = program("upgrade", "-", "-", data=Path(small[1]).read_bytes())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == Path("new.caffemodel").read_bytes()


def test_a_training_network_passes_through_too(lpcaffe, small, feed):
    Path("old.prototxt").write_text(OLD)
    lpcaffe("upgrade", "--deploy", "old.prototxt", "new.prototxt")
    feed(OLD.encode())
    assert lpcaffe("upgrade", "--deploy", "-", "-") == (0, Path("new.prototxt").read_text(), "")


@pytest.mark.parametrize("options", [[], ["--json"], ["--quiet"]])
def test_inspect_reads_stdin(lpcaffe, small, feed, options):
    feed(Path(small[0]).read_bytes())
    assert lpcaffe("inspect", "-", *options) == lpcaffe("inspect", small[0], *options)
    feed(Path(small[0]).read_bytes())
    assert lpcaffe("inspect", "-", small[1], *options) == lpcaffe("inspect", *small, *options)


def test_rewrite_reads_stdin_and_writes_stdout(lpcaffe, small, feed):
    Path("plan.json").write_text(PLAN)
    lpcaffe("rewrite", small[0], "--plan", "plan.json", "--out", "lp.prototxt")
    feed(Path(small[0]).read_bytes())
    assert lpcaffe("rewrite", "-", "--plan", "plan.json", "--out", "-") == (0, Path("lp.prototxt").read_text(), "")
    assert not Path("-").exists()


def test_warnings_go_to_stderr_and_name_stdin(lpcaffe, small, feed):
    feed(b'name: "x" strange: 3 layer { name: "d" type: "ReLU" }')
    status, out, err = lpcaffe("upgrade", "-", "-")
    assert status == 0
    assert out.startswith('name: "x"\nstrange: 3\n')
    assert err == "lpcaffe: warning: <stdin>: kept 1 field or value that no known Caffe has: strange\n"


@pytest.mark.parametrize("line", ["upgrade - -", "inspect -", "rewrite - --plan plan.json --out -"])
@pytest.mark.parametrize("data", [b"", b'name: "x"\nlayer {', b"<html>", b"\xff" * 50, b"layer { type: 3 }"])
def test_what_is_wrong_with_stdin_is_one_line_and_nothing_is_written(lpcaffe, small, feed, line, data):
    feed(data)
    status, out, err = lpcaffe(*line.split())
    assert (status, out) == (2, "")
    assert err.startswith("lpcaffe: <stdin>")
    assert err.count("\n") == 1


def test_an_endless_stdin_ends_where_caffe_stops_reading(lpcaffe, small, monkeypatch):
    monkeypatch.setattr("lpcaffe.cli.streams.MAX_BYTES", 3 << 20)
    with Path("/dev/zero").open("rb") as zeros:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=zeros))
        status, out, err = lpcaffe("upgrade", "-", "-")
    assert (status, out) == (2, "")
    assert err == "lpcaffe: <stdin>: expected at most 3145728 bytes, which is all that Caffe reads\n"


def test_a_closed_stdin_is_one_line(lpcaffe, small, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert lpcaffe("inspect", "-") == (2, "", "lpcaffe: <stdin>: is closed\n")


@pytest.mark.parametrize("verb", [["upgrade", "net.prototxt", "-"], ["inspect", "net.prototxt"]])
def test_a_full_stdout_is_one_line(small, verb):
    with Path("/dev/full").open("wb") as full:
        done = program(*verb, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr == b"lpcaffe: <stdout>: cannot be written: no space left on device\n"


def test_a_reader_that_goes_away_is_no_error(small):
    with subprocess.Popen(
        [sys.executable, "-m", "lpcaffe", "upgrade", "net.caffemodel", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert (process.returncode, said) == (0, b"")


def test_temporary_files_are_gone_afterwards(lpcaffe, small, feed, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for data in (OLD.encode(), b"layer {"):
        feed(data)
        lpcaffe("upgrade", "-", "-")
        assert list((tmp_path / "temporary").iterdir()) == []


def test_diff_takes_one_of_its_files_from_stdin(lpcaffe, small, feed):
    Path("old.prototxt").write_text(OLD)
    lpcaffe("upgrade", "old.prototxt", "new.prototxt")
    for arguments, status in ((("-", "new.prototxt"), 0), (("new.prototxt", "-"), 0), (("-", small[0]), 1)):
        feed(OLD.encode())
        got, out, error = lpcaffe("diff", "--json", *arguments)
        assert (got, error) == (status, "")
        found = json.loads(out)
        assert (found["a"], found["b"]) == tuple(map(str, arguments))
    feed(Path(small[1]).read_bytes())
    assert lpcaffe("diff", small[1], "-")[::2] == (0, "")
    feed(b"")
    assert lpcaffe("diff", "new.prototxt", "-")[::2] == (2, "lpcaffe: <stdin>: expected fields, got an empty file\n")


@contextmanager
def piped(name, data):
    """A named pipe that somebody writes `data` to."""
    os.mkfifo(name)
    writer = threading.Thread(target=lambda: Path(name).write_bytes(data))
    writer.start()
    yield name
    writer.join()


@pytest.mark.parametrize("command", ["diff {} net.prototxt", "upgrade {} -", "inspect --json {}"])
def test_pipes_are_read_as_stdin_is(lpcaffe, small, command):
    text = "# a comment beyond what is looked at to tell text from bytes\n" * 200 + Path(small[0]).read_text()
    Path("commented.prototxt").write_text(text)
    of_file = lpcaffe(*command.format("commented.prototxt").split())
    with piped("pipe", text.encode()):
        of_pipe = lpcaffe(*command.format("pipe").split())
    assert of_file[::2] == (0, "")
    assert of_pipe == of_file


def test_the_library_refuses_pipes_rather_than_lose_their_beginning(tmp_path, small):
    os.mkfifo(tmp_path / "pipe")
    for function in (lambda pipe: lp.diff(pipe, small[0]), lambda pipe: upgrade_file(pipe, tmp_path / "new")):
        with pytest.raises(FileError, match="pipe: expected an ordinary file, got a pipe or a device"):
            function(tmp_path / "pipe")


def test_stdin_cannot_be_two_files(lpcaffe, feed):
    assert lpcaffe("diff", "-", "-") == (2, "", "lpcaffe: expected one file on standard input, got two\n")


def test_a_file_that_is_called_dash_is_one_with_its_folder(lpcaffe, small):
    Path(small[0]).rename("-")
    assert lpcaffe("inspect", "--quiet", "./-") == (0, "", "")
    assert lpcaffe("upgrade", "--force", "./-", ".//-") == (0, "", "")


@pytest.mark.parametrize(
    ("command", "closed", "status"),
    [
        ("inspect net.prototxt", ">&-", 0),
        ("inspect gone", "2>&-", 2),
        ("diff net.prototxt net.prototxt", "<&- >&- 2>&-", 0),
        ("inspect gone", "<&- >&- 2>&-", 2),
    ],
)
def test_closed_streams_change_no_status(small, command, closed, status):
    line = f"{sys.executable} -m lpcaffe {command} {closed}"
    done = subprocess.run(["bash", "-c", line], check=False, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("spelling", [["--out", ""], ["--out="]])
def test_an_empty_argument_is_refused(lpcaffe, small, spelling):
    said = f"lpcaffe: expected a value after {spelling[0]}, got none: a variable that is not set?\n"
    assert lpcaffe("convert", *small, *spelling) == (2, "", said)
    assert not Path("lp.prototxt").exists()
    assert lpcaffe("")[2] == "lpcaffe: expected a value after lpcaffe, got none: a variable that is not set?\n"


def test_what_is_wrong_in_a_pipe_is_one_line(lpcaffe, small, feed):
    bad = Path(small[0]).read_text().replace('bottom: "last"', 'bottom: "gone"')
    with piped("pipe", bad.encode()):
        status, _, err = lpcaffe("inspect", "pipe")
    assert (status, err.count("\n")) == (2, 1)
    assert err.startswith('lpcaffe: pipe: layer "prob": bottom "gone" is not')
    feed(Path(small[1]).read_bytes())
    said = "lpcaffe: net.prototxt: expected a caffemodel, as the other file is, got a prototxt\n"
    assert lpcaffe("diff", "-", small[0]) == (2, "", said)


def test_names_in_files_draw_no_lines_of_their_own(lpcaffe, small):
    text = Path(small[0]).read_text().replace('"prob"', r'"pr\nob\033[2J"')
    Path("named.prototxt").write_text(text)
    status, out, _ = lpcaffe("inspect", "named.prototxt")
    assert status == 0
    assert r"pr\nob\x1b[2J" in out
    assert "\x1b" not in out
