"""Every hostile file through every verb that takes it: a value or one line, soon, and in little memory."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe import cli
from lpcaffe.errors import LpcaffeError, LpcaffeWarning, WeightsError
from lpcaffe.formats import wire
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.schema import BlobProto
from lpcaffe.formats.upgrade_file import upgrade_file
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

HOSTILE = Path(__file__).parent / "hostile"
NETS = sorted((HOSTILE / "net").glob("*.prototxt"))
TEXTS = sorted((HOSTILE / "prototxt").glob("*.prototxt"))
CAFFEMODELS = sorted((HOSTILE / "caffemodel").glob("*.hex"))

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
"""
PLAN = BitPlan({"ip": LayerPlan("InnerProduct", QFormat(1, 7))})


def status_and_line(capsys, *arguments):
    status = cli.run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("lpcaffe: warning: ")]
    return status, lines


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        yield


@pytest.mark.parametrize("verb", ["inspect", "upgrade"])
@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.stem)
def test_a_hostile_text_ends_every_verb_with_one_line(tmp_path, capsys, verb, path):
    out = tmp_path / "out.prototxt"
    status, lines = status_and_line(capsys, verb, path, *[out] * (verb == "upgrade"))
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith(f"lpcaffe: {path}")
    assert not out.exists()


@pytest.mark.parametrize("path", CAFFEMODELS, ids=lambda path: path.stem)
def test_a_hostile_caffemodel_ends_every_verb_with_one_line(tmp_path, capsys, path):
    data = bytes.fromhex(" ".join(path.read_text().splitlines()[2:]))
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "net.caffemodel").write_bytes(data)
    PLAN.save(tmp_path / "plan.yaml")
    net, model, out = tmp_path / "net.prototxt", tmp_path / "net.caffemodel", tmp_path / "out"
    for arguments in (
        ("inspect", net, model),
        ("weights", net, model, "--plan", tmp_path / "plan.yaml", "--out", out),
        ("upgrade", model, out),
    ):
        if arguments[0] == "upgrade" and path.stem == "prototxt":
            continue  # which upgrade takes, too
        status, lines = status_and_line(capsys, *arguments)
        assert status == 2, arguments[0]
        assert len(lines) == 1, arguments[0]
        assert not out.exists()


@pytest.mark.parametrize("path", NETS, ids=lambda path: path.stem)
def test_a_hostile_network_is_what_its_second_line_says(tmp_path, path):
    _, expected = (line.removeprefix("# ") for line in path.read_text().splitlines()[:2])
    upgrade_file(path, tmp_path / "once.prototxt")
    upgrade_file(tmp_path / "once.prototxt", tmp_path / "twice.prototxt")
    assert (tmp_path / "once.prototxt").read_bytes() == (tmp_path / "twice.prototxt").read_bytes()
    if expected == "read":
        json.dumps(lp.inspect(path))
        return
    with pytest.raises(LpcaffeError) as caught:
        lp.inspect(path)
    assert expected.removeprefix("refused: ") in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_hostile_files_are_there():
    assert len(NETS) >= 15
    assert len(TEXTS) >= 55
    assert len(CAFFEMODELS) >= 45


def caffemodel(path, dims, values, **more):
    shape = wire.delimited(1, len(dims)) + bytes(dims)
    data = np.array(values, "<f4").tobytes()
    blob = wire.delimited(7, len(shape)) + shape + wire.delimited(5, len(data)) + data
    layer = b"\x0a\x02ip" + (wire.delimited(7, len(blob)) + blob) * more.get("times", 1)
    path.write_bytes(wire.delimited(100, len(layer)) + layer)


def test_values_that_are_no_numbers_are_read_and_refused_where_they_would_count(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET.replace("num_output: 4", "num_output: 4 bias_term: false"))
    caffemodel(tmp_path / "net.caffemodel", [4, 3], [1, 2, 3, 4, np.nan, 6, 7, 8, 9, 10, 11, 12])
    with open_caffemodel(tmp_path / "net.caffemodel") as model:
        assert np.isnan(model.by_name["ip"].blobs[0].array()[1, 1])
    net = lp.load(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    with pytest.raises(WeightsError, match="nan"):
        lp.convert(net, PLAN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("times", [1, 3])
def test_one_blob_for_two_slots_or_three_is_a_problem_that_names_the_layer(tmp_path, times):
    (tmp_path / "net.prototxt").write_text(NET)
    caffemodel(tmp_path / "net.caffemodel", [4, 3], range(12), times=times)
    (problem,) = lp.inspect(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")["problems"]
    assert 'layer "ip"' in problem


HOOK = """
import sys, warnings
warnings.simplefilter("ignore")
touched = []
def hook(event, args):
    if event in ("open", "import", "os.listdir", "os.scandir") and "hostile_" in str(args[0]):
        touched.append(str(args[0]))
sys.addaudithook(hook)
import lpcaffe as lp
"""


@pytest.mark.parametrize("name", ["python_layer", "paths"])
def test_nothing_that_a_network_names_is_opened_or_imported(tmp_path, name):
    """In a process of its own, because an audit hook cannot be taken back."""
    program = f"""{HOOK}
from lpcaffe.formats.upgrade_file import upgrade_file
for phase in ("TEST", "TRAIN"):
    lp.inspect({str(HOSTILE / "net" / name)!r} + ".prototxt", phase=phase)
upgrade_file({str(HOSTILE / "net" / name)!r} + ".prototxt", "out.prototxt")
net = lp.load_net("out.prototxt")
try:
    lp.run(net, {{}})
except lp.LpcaffeError as error:
    print(error)
try:
    lp.images("images", net)
except lp.LpcaffeError as error:
    print(error)
assert not touched, touched
"""
    (tmp_path / "hostile_module.py").write_text("raise SystemExit('it was imported')")
    (tmp_path / "images").mkdir()
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_mean_file_elsewhere_is_not_opened(tmp_path):
    """Only one that lies beside the prototxt is, under the last name of the path that the network gives."""
    elsewhere = tmp_path / "elsewhere" / "hostile_mean.binaryproto"
    elsewhere.parent.mkdir()
    mean = BlobProto(channels=3, height=4, width=5, num=1, data=range(60))
    elsewhere.write_bytes(mean.SerializeToString())
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "net.prototxt").write_text(f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 4 dim: 5 }} }}
        transform_param {{ mean_file: "{elsewhere}" }} }}
layer {{ name: "relu" type: "ReLU" bottom: "data" top: "relu" }}
""")
    program = f"""{HOOK}
import shutil
import numpy as np
image = np.full((1, 4, 5, 3), 100, np.uint8)
net = lp.load_net("net/net.prototxt")
try:
    lp.images(image, net)
except lp.LpcaffeError as error:
    print(error)
assert not touched, touched
shutil.copy({str(elsewhere)!r}, "net")
touched.clear()
(batch,) = lp.images(image, net).batches(1)
assert batch["data"].ravel().tolist() == [100 - i for i in range(60)]
assert sorted(set(touched)) == ["net/hostile_mean.binaryproto"], touched
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"net: mean_file '{elsewhere}' is not beside the prototxt; put it there")
    assert done.stdout.count("\n") == 1


# Files too large for the repository: the verb, what makes the bytes, and what the error must contain; None: it is read.
LARGE = {
    "10^6 nested blocks": ("inspect", lambda: b"a{" * 10**6, "at most 100 messages inside one another"),
    "10^6 nested layers": ("inspect", lambda: b"layer{" * (10**6 // 3), "at most 100 messages inside one another"),
    "token of 100 MB": ("inspect", lambda: b"name: '" + b"a" * 10**8, "at most 2097152 bytes"),
    "token of more than 1 MB": ("inspect", lambda: b"name: '" + b"a" * (1 << 20) + b"'", "at most 1048576 characters"),
    "layers without end": ("inspect", lambda: b"layer{}" * 50_000, "at most 10000 layers"),
    "unknown blocks": ("upgrade", lambda: b"name:'a'" + b"a{}" * 100_000, None),
    "tops": ("inspect", lambda: b"layer{name:'a' " + b"".join(b"top:'%d' " % n for n in range(120_000)) + b"}", None),
    "a field given often": ("diff", lambda: b"layer{" + b"foo:1 " * 100_000 + b"}", None),
    "one name for all layers": ("diff", lambda: b"layer{name:'a'}" * 10_000, None),
    "more unknown blocks": ("diff", lambda: b"name:'a'" + b"a{}" * 200_000, None),
    "a block of a long name": ("differ", lambda: b"layer{" + b"a" * 10**6 + b"{" + b"b:1 " * 100_000 + b"}}", None),
    "messages of two bytes": ("upgrade", lambda: wire.delimited(100, 300_000) + b"\x32\0" * 150_000, None),
    "5 MB beside the blobs": ("upgrade", lambda: wire.delimited(999, 5 << 20) + bytes(5 << 20), "1048576 bytes beside"),
    "layers of two bytes": ("upgrade", lambda: b"\x12\0" * 10**6, "at most 10000 layers"),
    "blobs of six bytes": (
        "upgrade",
        lambda: wire.delimited(100, 6 * 10**5) + b"\x3a\4\x3a\2\x08\0" * 10**5,
        "at most 40000 blobs",
    ),
    "plan of 100 MB": ("plan", lambda: b"#" * 10**8, "at most 1048576 bytes"),
    "plan that merges merges": (
        "plan",
        lambda: (
            b"a: &a0 {x: 1, y: 2}\n"
            + b"".join(b"a%d: &a%d {<<: [*a%d, *a%d], %d: 1}\n" % (n, n, n - 1, n - 1, n) for n in range(1, 999))
        ),
        "at most 10000 merged entries",
    ),
    "plan of a number in base 60": (
        "plan",
        lambda: b"layers: {}\nseed: 1" + b":1" * 500_000,
        "at most 65536 characters",
    ),
}

# The reader that each verb uses, in one process after the other, and its peak of memory at the end.
DRIVER = """
import json, sys, warnings
from lpcaffe import BitPlan, diff, inspect
from lpcaffe.errors import LpcaffeError
from lpcaffe.formats.upgrade_file import upgrade_file
warnings.simplefilter("ignore")

def same(path):
    assert diff(path, path).same

def differ(path):
    with open(path) as file, open("other", "w") as other:
        other.write(file.read().replace(":1", ":2"))
    fields = diff(path, "other").fields
    assert len(fields) == 100_000 and all(len(field.field) < 300 for field in fields)

upgrade = lambda path: upgrade_file(path, "out", force=True)
readers = {"inspect": inspect, "plan": BitPlan.load, "upgrade": upgrade, "diff": same, "differ": differ}
lines = {}
for name, (verb, path) in json.load(sys.stdin).items():
    try:
        readers[verb](path)
        lines[name] = None
    except LpcaffeError as error:
        lines[name] = str(error)
# Not ru_maxrss, in which a child begins with what its parent had.
status = open("/proc/self/status").read().split()
print(json.dumps([lines, int(status[status.index("VmHWM:") + 1]) / 1024]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux' /proc")
def test_large_files_take_little_memory(tmp_path):
    """What reads them in more than linear time does not end here."""
    jobs = {}
    for index, (name, (verb, made, _)) in enumerate(LARGE.items()):
        path = tmp_path / str(index)
        path.write_bytes(made())
        jobs[name] = (verb, str(path))
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**31)
    expected = {name: problem for name, (_, _, problem) in LARGE.items()}
    for name, job, problem in (
        ("2 GiB of nothing", ("upgrade", str(tmp_path / "sparse")), "field number"),
        ("a device without end", ("inspect", "/dev/zero"), "expected text, got binary data"),
        ("a plan without end", ("plan", "/dev/zero"), "at most 1048576 bytes"),
    ):
        jobs[name] = job
        expected[name] = problem
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=tmp_path,
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    lines, megabytes = json.loads(done.stdout)
    for name, problem in expected.items():
        if problem is None:
            assert lines[name] is None, name
        else:
            assert problem in (lines[name] or ""), name
            assert lines[name].isprintable()
    assert megabytes < 300
