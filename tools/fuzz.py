"""Feed damaged files to the readers: `python tools/fuzz.py TARGET [--runs N | --seconds S]`.

Targets: text (prototxt), wire (caffemodel), upgrade (either), plan (plan.yaml), inspect (a network's shapes), diff
(either, beside itself and a prototxt also upgraded), verify and extract (either, beside the sound other half of a
low-precision pair); all: one after the other, each in a process of its own.

Whatever a file holds, a reader gives a value or one LpcaffeError of one line, within 5 seconds and 300 MB. What was
read must survive being written and read again. The first input that breaks this is saved as fuzz-TARGET-SHA, and the
exit status is 1; `python tools/fuzz.py TARGET FILE` tries it again.

With atheris (extra `fuzz`), coverage guides the mutations; without it, or with `--seed`, a fixed sequence of byte
flips, splices, truncations, integers at their ends and words of the format does. The seeds are tests/hostile,
tests/golden and models/.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[1]
MAX_SECONDS = 5
MAX_MEGABYTES = 300
SEED_BYTES = 20_000  # longer files teach nothing that shorter ones do not, slowly

WORDS = [b"layer {", b"layers {", b"layer: <", b"type: ", b"top: ", b"bottom: "]
WORDS += [b"param {", b"include { phase: TRAIN }"]
WORDS += [b"[", b"]", b"}", b">", b"{", b"<", b":", b",", b";", b"#", b'"', b"'", b"\\", b"-", b"\n", b"\xc3", b"\0"]
WORDS += [b"&a ", b"*a", b"<<: *a", b"? ", b"- ", b"!!int ", b"!!python/name:os ", b"---\n", b"|\n", b"Q2.14", b"Q-1.3"]
NUMBERS = [0, 1, 2**7, 2**8 - 1, 2**15, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]
WORDS += [str(sign * number).encode() for number in NUMBERS for sign in (1, -1)]
WORDS += [b"0x" + b"f" * 20, b"1e999", b"nan", b"inf", b"-inf", b"9" * 5000, b"0" * 400]
# Tags that matter in a caffemodel: layers of V2 and V1, blobs, shape, data, dims, raw data, and no tag at all.
WORDS += [b"\xa2\x06", b"\x12", b"\x3a", b"\x32", b"\x2a", b"\x2d", b"\x08", b"\x62"]
WORDS += [b"\x50\x01", b"\x00", b"\x0b", b"\xff"]


class TooSlow(BaseException):
    """An input took more than MAX_SECONDS. Not an Exception: nothing on the way may catch it."""


# ---------------------------------------------------------------------------------------------------- targets


@cache
def _file() -> Path:
    """A file that the readers are given again and again."""
    return Path(tempfile.mkdtemp(prefix="lpcaffe-fuzz-")) / "input"


def text(data: bytes) -> None:
    """The text parser and the printer."""
    from lpcaffe.formats.prototxt import dump, read

    _file().write_bytes(data)
    message = read(_file())
    again = _file().with_name("again")
    again.write_text(dump(message), encoding="utf-8")
    # NaN is unlike itself, so it is the texts that are compared.
    assert dump(read(again)) == dump(message), "the printed text reads as something else"


def wire(data: bytes) -> None:
    """The walk over a caffemodel, and all its values."""
    from lpcaffe.formats.caffemodel import open_caffemodel

    _file().write_bytes(data)
    with open_caffemodel(_file()) as model:
        for layer in model.layers:
            for blob in layer.blobs:
                assert sum(len(chunk) for chunk in blob.chunks(1000)) == blob.count, "values are missing"
                assert blob.array("float64").shape == blob.shape


def upgrade(data: bytes) -> None:
    """A file as V2, and once more, which must change nothing."""
    from lpcaffe.formats.upgrade_file import upgrade_file

    once, twice = (_file().with_name(name) for name in ("once", "twice"))
    _file().write_bytes(data)
    upgrade_file(_file(), once, force=True)
    upgrade_file(once, twice, force=True)
    assert once.read_bytes() == twice.read_bytes(), "upgrading twice is not upgrading once"


def plan(data: bytes) -> None:
    """The plan reader and its writer."""
    from lpcaffe.quant.plan import BitPlan

    _file().write_bytes(data)
    read = BitPlan.load(_file())
    read.save(_file(), force=True)
    assert BitPlan.load(_file()) == read, "the saved plan reads as another one"


def inspect(data: bytes) -> None:
    """All that is known of a network without running it."""
    from lpcaffe.report import inspect

    _file().write_bytes(data)
    inspect(_file())


def diff(data: bytes) -> None:
    """A file and itself; and a prototxt upgraded and printed, which says the same in other words."""
    from lpcaffe.formats.upgrade_file import upgrade_file
    from lpcaffe.report import diff

    other = _file().with_name("other")
    _file().write_bytes(data)
    found = diff(_file(), _file())
    assert found.same, "a file differs from itself"
    if found.kind == "prototxt":
        upgrade_file(_file(), other, force=True)
        assert diff(_file(), other).same, "the upgraded file says something else"


def verify(data: bytes) -> None:
    """What a low-precision pair must be."""
    from lpcaffe.validation import verify

    json.dumps(verify(*_pair_with(data)).to_json(), allow_nan=False)


def extract(data: bytes) -> None:
    """The full-precision network of a low-precision pair."""
    from lpcaffe.conversion import extract, write_net
    from lpcaffe.errors import LpcaffeError
    from lpcaffe.net import load

    paths = [_file().with_name(name) for name in ("full.prototxt", "full.caffemodel")]
    write_net(extract(load(*_pair_with(data))), *paths, force=True)
    try:
        load(*paths)
    except LpcaffeError as error:
        raise AssertionError(f"what was written cannot be read: {error}") from error


def _pair_with(data: bytes) -> list[Path]:
    """A low-precision pair of which this is one file, and the other one is sound."""
    from lpcaffe.io.kinds import HEAD_BYTES, content_kind

    halves = list(_pair())
    halves[content_kind(data[:HEAD_BYTES]) == "binary"] = data
    paths = [_file().with_name(name) for name in ("lp.prototxt", "lp.caffemodel")]
    for path, half in zip(paths, halves, strict=True):
        path.write_bytes(half)
    return paths


TARGETS: dict[str, Callable[[bytes], None]] = {
    "text": text,
    "wire": wire,
    "upgrade": upgrade,
    "plan": plan,
    "inspect": inspect,
    "diff": diff,
    "verify": verify,
    "extract": extract,
}


# ---------------------------------------------------------------------------------------------------- seeds


def seeds(target: str) -> list[bytes]:
    """The files to begin with, in a fixed order."""
    if target == "plan":
        return _plans()
    texts = [
        path.read_bytes()
        for folder in ("tests/hostile", "tests/golden", "models")
        for path in sorted((ROOT / folder).rglob("*.prototxt"))
    ]
    binaries = [
        bytes.fromhex(" ".join(path.read_text().splitlines()[2:]))
        for path in sorted((ROOT / "tests/hostile/caffemodel").glob("*.hex"))
    ]
    binaries += [path.read_bytes() for path in sorted((ROOT / "tests/golden").rglob("*.caffemodel"))]
    binaries += _caffemodels()
    either, pairs = texts + binaries, [*_pair() * 3, *texts, *binaries]  # the pair is the one that goes far
    chosen = {"wire": binaries, "upgrade": either, "diff": either, "verify": pairs, "extract": pairs}.get(target, texts)
    return [data for data in chosen if 0 < len(data) <= SEED_BYTES]


def _caffemodels() -> list[bytes]:
    """A whole small network of each generation."""
    from lpcaffe.formats.schema import NetParameter

    blobs = [{"shape": {"dim": [2, 3]}, "data": range(6)}, {"num": 1, "channels": 1, "height": 1, "width": 2}]
    blobs[1]["double_data"] = [7, 8]
    v2 = NetParameter(name="new", input=["data"], input_dim=[1, 2, 3, 5])
    v2.layer.add(name="a", type="Convolution", bottom=["data"], top=["a"], blobs=blobs)
    v2.layer.add(name="b", type="Swish", swish_param={"beta": 2})
    v1 = NetParameter(name="old")
    v1.layers.add(name="a", type="CONVOLUTION", blobs=blobs, blobs_lr=[1, 2], weight_decay=[1, 0])
    v1.layers.add(layer={"name": "p", "type": "padding", "pad": 2}, bottom=["a"], top=["p"])
    v1.layers.add(layer={"name": "c", "type": "conv", "blobs": blobs}, bottom=["p"], top=["c"])
    return [v2.SerializeToString(), v1.SerializeToString()]


@cache
def _pair() -> tuple[bytes, bytes]:
    """A low-precision prototxt and its caffemodel."""
    from lpcaffe.formats.prototxt import dump
    from lpcaffe.formats.schema import NetParameter

    net, weights = NetParameter(name="low"), NetParameter(name="low")
    net.layer.add(name="data", type="Input", top=["data"], input_param={"shape": [{"dim": [1, 2, 3, 4]}]})
    lpfp = {"bd": 2, "ad": 3, "round_bias": True}
    for name, bottom, shape, param in (
        ("conv", "data", [3, 2, 1, 2], {"convolution_param": {"num_output": 3, "kernel_h": 1, "kernel_w": 2}}),
        ("ip", "conv", [2, 27], {"inner_product_param": {"num_output": 2}}),
    ):
        kind = {"conv": "LPConvolution", "ip": "LPInnerProduct"}[name]
        net.layer.add(name=name, type=kind, bottom=[bottom], top=[name], lpfp_param=lpfp, **param)
        net.layer.add(name=f"{name}_lpact", type="LPAct", bottom=[name], top=[name], lpfp_param=lpfp)
        blobs = weights.layer.add(name=name, type=kind).blobs
        for dims in (shape, shape, shape[:1], shape[:1]):
            blobs.add(shape={"dim": dims}, data=[0.125 * (i % 5) for i in range(math.prod(dims))])
    return dump(net).encode(), weights.SerializeToString()


def _plans() -> list[bytes]:
    line = "{type: Convolution, weights: Q1.15, output: Q-1.17}"
    head = (
        "version: 1\nnetwork: LeNet\ndialect: plain\nrounding: stochastic\nseed: 7\nround_bias: true\nfold_bn: false\n"
    )
    return [
        f"{head}layers:\n  a/b: {line}\n  'on': {line}  # why\n".encode(),
        f"layers: {{a: &a {line}, b: {{<<: *a, output: null}}, c: {{<<: [*a, {{}}]}}}}\n".encode(),
        f"x: &x {line}\nlayers: {{? a : *x, 1: *x}}\nseed: 0x10\nsha256: '{'0' * 64}'\n".encode(),
        b'{"version": 1, "layers": {"\\u00e9": {"type": "InnerProduct", "weights": "Q2.6", "output": null}}}',
    ]


# ---------------------------------------------------------------------------------------------------- running


def check(target: str, data: bytes) -> None:
    """Give one input to a target. Raises whatever breaks the promise; LpcaffeError keeps it."""
    from lpcaffe.errors import LpcaffeError, LpcaffeWarning

    with _limited(), warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        try:
            TARGETS[target](data)
        except LpcaffeError as error:
            line = str(error)
            assert line.isprintable(), "an error is one line"
            assert len(line) < 5000, "an error is short"


@contextmanager
def _limited() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {MAX_SECONDS} seconds")

    before = _peak()
    earlier = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
    assert _peak() - before < MAX_MEGABYTES, f"took {_peak() - before} MB"


def _peak() -> int:
    """The most memory that this process has had, in megabytes."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def mutate(rng: random.Random, corpus: list[bytes]) -> bytes:
    """One damaged file."""
    data = bytearray(rng.choice(corpus))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5, 9))):
        at = rng.randrange(len(data) + 1)
        to = min(len(data), at + int(rng.expovariate(0.1)))
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            data[at:to] = rng.choice(WORDS)
        elif kind == 3:
            data[at:at] = rng.choice(WORDS)
        elif kind == 4:
            del data[at:to]
        elif kind == 5:
            data[at:at] = data[at:to] * rng.choice((1, 1, 2, 50))
        elif kind == 6:
            del data[at:]
        else:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + int(rng.expovariate(0.01))]
    return bytes(data)


def run(target: str, *, runs: int | None = None, seconds: float | None = None, seed: int = 0) -> int:
    """Try the seeds themselves, and then damaged ones; the number of inputs. Raises RuntimeError with what broke."""
    corpus = seeds(target)
    rng = random.Random(seed)
    end = None if seconds is None else time.monotonic() + seconds
    count = 0
    while (runs is None or count < runs) and (end is None or time.monotonic() < end):
        data = corpus[count] if count < len(corpus) else mutate(rng, corpus)
        try:
            check(target, data)
        except (Exception, TooSlow) as error:
            path = _save(target, data)
            raise RuntimeError(f"{target}: input {count}, saved as {path}: {type(error).__name__}: {error}") from error
        count += 1
    return count


def _save(target: str, data: bytes) -> Path:
    path = Path(f"fuzz-{target}-{hashlib.sha256(data).hexdigest()[:12]}")
    path.write_bytes(data)
    return path


def _guided(target: str, runs: int | None, seconds: float | None) -> None:
    """Let atheris do it. It ends the process itself."""
    import atheris

    with atheris.instrument_imports(include=["lpcaffe", "yaml"]):
        import lpcaffe.plan
        import yaml  # noqa: F401

        import lpcaffe.formats.upgrade_file
        import lpcaffe.report
        import lpcaffe.validation  # noqa: F401
    folder = Path(tempfile.mkdtemp(prefix="lpcaffe-seeds-"))
    for index, data in enumerate(seeds(target)):
        (folder / str(index)).write_bytes(data)
    options = [
        f"-timeout={2 * MAX_SECONDS}",
        "-max_len=100000",
        f"-artifact_prefix=fuzz-{target}-",
        "-print_final_stats=1",
    ]
    options += [] if runs is None else [f"-runs={runs}"]
    options += [] if seconds is None else [f"-max_total_time={int(seconds)}"]
    atheris.Setup([sys.argv[0], *options, str(folder)], lambda data: check(target, data))
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("file", nargs="*", type=Path, help="try these files only")
    parser.add_argument("--runs", type=int, help="inputs to try")
    parser.add_argument("--seconds", type=float, help="how long to try (without either: 60)")
    parser.add_argument("--seed", type=int, help="of the built-in mutations, even where atheris is installed")
    options = parser.parse_args()
    if options.target == "all":
        rest = [argument for argument in sys.argv[1:] if argument != "all"]
        runs = [subprocess.run([sys.executable, __file__, target, *rest], check=False) for target in TARGETS]
        sys.exit(int(any(run.returncode for run in runs)))
    seconds = 60 if options.runs is None and options.seconds is None else options.seconds
    if options.file:
        for path in options.file:
            check(options.target, path.read_bytes())
        return
    if options.seed is None and importlib.util.find_spec("atheris"):
        _guided(options.target, options.runs, seconds)
    try:
        count = run(options.target, runs=options.runs, seconds=seconds, seed=options.seed or 0)
    except RuntimeError as error:
        sys.exit(str(error))
    print(f"{options.target}: {count} inputs, none broke the promise")


if __name__ == "__main__":
    main()
