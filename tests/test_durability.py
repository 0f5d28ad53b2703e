"""Outputs of processes that are killed, that get in each other's way, or whose disk fails: whole, or not there."""

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import FileError
from lpcaffe.io.locks import LOCK, held_folder
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.search.metrics import Score
from lpcaffe.search.record import Record

SMALL = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""
FILES = ["lp.caffemodel", "lp.prototxt", "plan.yaml", "report.json"]


def plan(bits):
    layers = {"conv": LayerPlan("Convolution", QFormat(1, bits)), "ip": LayerPlan("InnerProduct", QFormat(2, bits))}
    return BitPlan(layers, network="small")


def contents(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def net(make_net, tmp_path):
    return make_net(SMALL, folder=tmp_path / "net")


def assert_whole(folder, references):
    """Every file is that of one of the conversions, and a report stands beside the files that it describes only."""
    found = {name: data for name, data in contents(folder).items() if not name.startswith(".lpcaffe")}
    assert set(found) <= set(FILES)
    for name, data in found.items():
        assert data in [reference[name] for reference in references], f"{name} is not whole"
    if "report.json" in found:
        sums = json.loads(found.pop("report.json"))["files"]
        assert {name: hashlib.sha256(data).hexdigest() for name, data in found.items()} == sums


def assert_readable(folder):
    if (folder / "lp.prototxt").exists():
        lp.load_net(folder / "lp.prototxt")
    if (folder / "lp.caffemodel").exists():
        lp.formats.caffemodel.open_caffemodel(folder / "lp.caffemodel").close()
    if (folder / "plan.yaml").exists():
        BitPlan.load(folder / "plan.yaml")


# ------------------------------------------------------------------------------------------------------------- killed

# Forks, after one conversion that loads all there is to load, a child for every death; prints a line for each and waits
# for one that allows the next.
KILLS = """
    import os, random, signal, sys, time
    from pathlib import Path
    import lpcaffe as lp

    mode, net, weights, out, *plans = sys.argv[1:]
    net, plans = lp.load(net, weights), [lp.BitPlan.load(plan) for plan in plans]
    events = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "open", "os.link", "os.truncate"}

    def watch(seen):
        sys.addaudithook(lambda event, args: event in events and seen(event, str(args[0])))

    def convert(plan):
        lp.convert(net, plan, out, force=True)

    def told(line):
        print(line, flush=True)
        sys.stdin.readline()

    def dies(child):
        pid = os.fork()
        if pid == 0:
            try:
                child()
            finally:
                os._exit(0)
        return pid

    convert(plans[0])
    start = time.perf_counter()
    convert(plans[0])
    whole = time.perf_counter() - start
    dice = random.Random(5)

    if mode == "at random":
        for death in range(50):
            ours, theirs = os.pipe()

            def over_and_over():
                # Half of them die somewhere in a conversion, the others between its first and its last rename.
                moving = lambda event, path: path.endswith("report.json") and event == "os.remove"
                if death % 2:
                    watch(lambda event, path: moving(event, path) and os.write(theirs, b"."))
                for turn in range(100):
                    if not death % 2:
                        os.write(theirs, b".")
                    convert(plans[turn % 2])

            pid = dies(over_and_over)
            os.close(theirs)
            os.read(ours, 1)
            time.sleep(dice.uniform(0, whole / 4 if death % 2 else whole))
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            os.close(ours)
            told(death)
    else:
        step, done = 0, False
        while not done:
            def one_step_more():
                left = [step]
                sync = os.fsync

                def seen(event, path):
                    if event == "os.fsync" or out in path:
                        left[0] -= 1
                        left[0] < 0 and os.kill(os.getpid(), 9)

                os.fsync = lambda descriptor: (seen("os.fsync", ""), sync(descriptor))
                watch(seen)
                convert(plans[1])

            convert(plans[0])
            done = os.waitstatus_to_exitcode(os.waitpid(dies(one_step_more), 0)[1]) == 0
            step += 1
            told(step)
"""


@pytest.fixture
def memory(tmp_path):
    """A folder in memory, if there is one: what a killed process leaves is the same there, and is written faster."""
    if not Path("/dev/shm").is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def deaths(net, folder, mode):
    """Give a turn after each death of a process that converts into `folder`/out; the two conversions it makes."""
    references = []
    for bits in (4, 7):
        plan(bits).save(folder / f"{bits}.yaml")
        lp.convert(net, plan(bits), folder / f"out{bits}")
        references.append(contents(folder / f"out{bits}"))
    arguments = [
        net.path,
        Path(net.path).with_suffix(".caffemodel"),
        folder / "out",
        folder / "4.yaml",
        folder / "7.yaml",
    ]
    command = [sys.executable, "-c", textwrap.dedent(KILLS), mode, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        for _ in process.stdout:
            yield references
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0


@pytest.mark.parametrize("mode", ["at random", "before every step"])
def test_a_killed_conversion_leaves_whole_files_only(net, memory, mode):
    out, seen = memory / "out", set()
    for references in deaths(net, memory, mode):
        assert_whole(out, references)
        assert_readable(out)
        seen.add(frozenset(name for name in names(out) if not name.startswith(".lpcaffe")))
        last = references
    if mode == "before every step":
        # The test saw the old files, those of the time without a report, and the new ones.
        assert seen == {frozenset(FILES), frozenset(FILES[:3])}
    # The next conversion removes what the dead ones left behind.
    (out / ".lpcaffe-held-0123456789abcdef.part").write_text("half a file")
    (out / LOCK).touch()
    lp.convert(net, plan(4), out, force=True)
    assert contents(out) == last[0]


def test_files_of_others_are_not_taken_for_leftovers(net, tmp_path):
    """Other verbs write `.lpcaffe-*.part` files into the folder without holding it, and lpcaffe makes no links."""
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (out / ".lpcaffe-0123456789abcdef.part").write_text("half of a file that is being written")
    (out / ".lpcaffe-held-fedcba9876543210.part").symlink_to(tmp_path / "elsewhere")
    (out / ".lpcaffe-held-0123456789abcdef.part").mkdir()
    lp.convert(net, plan(4), out)
    assert len(names(out)) == len(FILES) + 3
    assert (tmp_path / "elsewhere" / "kept").exists()


# --------------------------------------------------------------------------------------------------------- concurrency


def test_of_conversions_at_once_one_writes_and_the_others_say_why(net, tmp_path):
    lp.convert(net, plan(4), tmp_path / "alone")
    plan(4).save(tmp_path / "plan.yaml")
    program = """
        import os, sys, lpcaffe as lp
        net, plan = lp.load("net/net.prototxt", "net/net.caffemodel"), lp.BitPlan.load("plan.yaml")
        statuses = []
        go, ready = os.pipe()
        children = []
        for _ in range(6):
            children.append(os.fork())
            if children[-1] == 0:
                os.close(ready)
                os.read(go, 1)  # the end, for all at once
                try:
                    lp.convert(net, plan, "out")
                    os._exit(0)
                except lp.LpcaffeError as error:
                    os.write(1, f"{error}\\n".encode())
                    os._exit(2)
        os.close(ready)
        print(sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children))
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    *said, statuses = done.stdout.splitlines()
    assert statuses == "[0, 2, 2, 2, 2, 2]"
    for line in said:
        assert line.startswith("out: another lpcaffe is writing into this folder") or "the file exists" in line
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_the_second_conversion_stops_before_it_reads_anything(tmp_path, capfd):
    from lpcaffe.cli import run

    (tmp_path / "out").mkdir()
    with held_folder(tmp_path / "out"):
        assert run(["convert", "no.prototxt", "no.caffemodel", "--out", str(tmp_path / "out")]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"lpcaffe: {tmp_path / 'out'}: another lpcaffe is writing into this folder; ")
    assert names(tmp_path / "out") == []


def test_a_record_is_written_by_one_process_at_a_time(tmp_path):
    path, work = tmp_path / "trials.jsonl", {"network": "small"}
    program = f"""
        import sys
        from lpcaffe.search.record import Record
        record = Record({str(path)!r}, {work!r})
        print("held", flush=True)
        sys.stdin.readline()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        before = path.read_bytes()
        with pytest.raises(FileError) as caught:
            Record(path, work)
        assert str(caught.value) == f"{path}: another lpcaffe is writing this record; give each search its own"
        assert path.read_bytes() == before
        process.kill()
    # A dead process holds nothing, and one process may have several records of a file.
    one = Record(path, work)
    other = Record(path, work)
    del one
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.wait() == 1
        assert b"another lpcaffe is writing this record" in process.stderr.read()
    del other
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        process.communicate("\n")
    assert process.returncode == 0


# ---------------------------------------------------------------------------------------------------- disks and places


@pytest.mark.parametrize("size", [0, 300, 2000])
def test_a_full_disk_leaves_the_earlier_conversion(net, tmp_path, size):
    lp.convert(net, plan(7), tmp_path / "out")
    before = contents(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(FileError, match=r"out/(lp\.\w+|plan\.yaml): cannot be written: file too large"):
            lp.convert(net, plan(4), tmp_path / "out", force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert contents(tmp_path / "out") == before


def test_a_record_on_a_full_disk_is_named(tmp_path):
    record = Record(tmp_path / "trials.jsonl", {"network": "small"})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "trials.jsonl").stat().st_size + 9, hard))
    try:
        with pytest.raises(FileError, match=r"trials\.jsonl: cannot be written: file too large"):
            record.add(("numpy", frozenset()), Score(2, 1.0, 0.0, 1.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # What was written of the line is dropped by the next search.
    assert len(Record(tmp_path / "trials.jsonl", {"network": "small"})) == 0


@pytest.mark.parametrize("out", ["/proc", "/proc/lpcaffe/out", "/sys/kernel/out"])
def test_a_folder_that_takes_no_files_is_one_line(net, out):
    with pytest.raises(FileError) as caught:
        lp.convert(net, plan(4), out)
    assert str(caught.value).startswith(f"{out}: cannot be written: ")


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another file system."""
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system to write to")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_a_link_to_another_file_system_is_followed(net, tmp_path, other_disk):
    out = tmp_path / "out"
    out.mkdir()
    for name in FILES:
        (out / name).symlink_to(other_disk / name)
    lp.convert(net, plan(4), out)
    lp.convert(net, plan(7), out, force=True)
    lp.convert(net, plan(7), tmp_path / "plain")
    assert all((out / name).is_symlink() for name in FILES)
    assert contents(other_disk) == contents(out) == contents(tmp_path / "plain")


def test_the_other_file_system_may_fill_up(net, tmp_path, other_disk, monkeypatch):
    out = tmp_path / "out"
    lp.convert(net, plan(7), out)
    (other_disk / "lp.caffemodel").write_bytes((out / "lp.caffemodel").read_bytes())
    (out / "lp.caffemodel").unlink()
    (out / "lp.caffemodel").symlink_to(other_disk / "lp.caffemodel")
    before = contents(out)

    def full(descriptor):
        if os.fstat(descriptor).st_dev == other_disk.stat().st_dev:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"lp\.caffemodel: cannot be written: no space left on device"):
        lp.convert(net, plan(4), out, force=True)
    assert contents(out) == before
    assert names(other_disk) == ["lp.caffemodel"]


def test_names_with_spaces_and_in_any_script_work_and_nothing_is_written_beside_the_model(make_net, tmp_path, capfd):
    from lpcaffe.cli import run

    model, out = tmp_path / "mein Netz ü 网络", tmp_path / "Ergebnis é (1)"
    make_net(SMALL, folder=model)
    np.save(tmp_path / "Bilder ß.npy", np.ones((2, 3, 9, 8), np.float32))
    model.chmod(0o555)  # which does not bind root; the time of the folder's last change does
    changed = model.stat().st_mtime_ns
    given = [str(model / "net.prototxt"), str(model / "net.caffemodel")]
    try:
        assert run(["convert", *given, "--out", str(out), "--data", str(tmp_path / "Bilder ß.npy")]) == 0
        low = [str(out / "lp.prototxt"), str(out / "lp.caffemodel")]
        assert run(["validate", *given, *low, "--plan", str(out / "plan.yaml")]) == 0
        assert run(["inspect", *low, "--quiet"]) == 0
        assert run(["upgrade", given[1], str(tmp_path / "neu é.caffemodel")]) == 0
    finally:
        model.chmod(0o755)
    assert model.stat().st_mtime_ns == changed
    assert sorted(names(model)) == ["net.caffemodel", "net.prototxt"]
    assert sorted(names(out)) == FILES
    assert str(out) in capfd.readouterr().out


# Signals, links and other users


HELD = """
import sys, time
from lpcaffe import cli
from lpcaffe.io.hashed import HashedFile

def slowly(file, data):
    print("writing", flush=True)
    time.sleep(60)

HashedFile.write = slowly
cli.main(sys.argv[1:])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
@pytest.mark.parametrize("verb", ["convert", "weights"])
def test_a_signal_that_asks_to_end_leaves_nothing_behind(net, tmp_path, verb, name):
    plan(6).save(tmp_path / "plan.yaml")
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / ("new" if verb == "convert" else "lp.caffemodel")
    inputs = [tmp_path / "net" / "net.prototxt", tmp_path / "net" / "net.caffemodel"]
    arguments = [verb, *inputs, "--plan", tmp_path / "plan.yaml", "--out", out]
    with subprocess.Popen([sys.executable, "-c", HELD, *map(str, arguments)], stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"writing\n"
        assert names(tmp_path / "out") != []
        number = getattr(signal, name)
        child.send_signal(number)
        assert child.wait() == 128 + number
    assert names(tmp_path / "out") == []


def test_a_hang_up_that_is_ignored_stays_ignored(net, tmp_path):
    """As `nohup` starts programs."""
    code = "import os, signal; from lpcaffe import cli; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    code += "cli.run = lambda arguments: os.kill(os.getpid(), signal.SIGHUP) or 0\ncli.main([])"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_new_folders_are_sent_to_the_disk_with_their_names(net, tmp_path, monkeypatch):
    synced = set()

    def fsync(descriptor):
        synced.add(os.path.realpath(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", fsync)
    lp.convert(net, plan(6), tmp_path / "a" / "b" / "out")
    assert {str(tmp_path / place) for place in ("", "a", "a/b", "a/b/out")} <= synced


@pytest.mark.skipif(os.geteuid() != 0, reason="to be another user takes root")
def test_the_lock_file_of_another_user_is_in_nobodys_way():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o777)
        (folder / LOCK).touch(mode=0o644)
        child = os.fork()
        if not child:
            try:
                os.setuid(12345)
                with held_folder(folder) as locked:
                    status = 0 if locked else 3
                os._exit(status)
            except BaseException:
                os._exit(4)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert names(folder) == []
