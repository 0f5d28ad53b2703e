"""How fast the engines and the exported models are, and what other Caffe-to-ONNX converters make of the same networks.

    python tools/bench_engines.py [--peers PYTHON] [--rounds N] [--runs N] [--references FOLDER]

Prints Markdown tables and changes nothing. Needs `tools/fetch_models.py` and `tools/cut_crops.py .cache/models/crops`,
onnxruntime and OpenCV. Every round times every contender once, in an order that rotates, so that what else the machine
does hits all of them alike. A sample is the second of two calls after a pause: the threads of the contender before have
gone to sleep, and its own weights are in the caches again.

PYTHON is that of an environment with caffe2onnx and caffe-onnx; without it they are left out. FOLDER (default: shared
beside the checkout) holds `models/` and `golden/`, as for tools/check_references.py.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import lpcaffe as lp
from lpcaffe.engines import NumpyEngine, bind_parameters, forward, infer_shapes
from lpcaffe.engines.onnxruntime_engine import OnnxRuntime
from lpcaffe.errors import LpcaffeError

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.environ.get("LPCAFFE_MODELS") or ROOT / ".cache" / "models")
PREPROCESSING = {"resize": (256, 256), "crop": 224, "mean": (104.0, 117.0, 123.0)}
PAUSE_S = 0.1
NETWORKS = ("lenet_mnist", "mtcnn_pnet", "mtcnn_rnet", "open_nsfw", "face_ssd_res10")
CLOSE = 1e-4
"""How far an output may be from Caffe's, relative to its largest magnitude."""

OURS, PEERS = "lpcaffe", ("caffe2onnx", "caffe-onnx")
OPENCV, ENGINE, NUMPY = "OpenCV's importer", "onnxruntime engine", "numpy engine, float32"
FLOAT, EXACT, QDQ, LOW = "export: float", "export: exact", "export: qdq", "numpy engine, float32, LP network"

# Which contender, over which, and what the ratio of the medians was to be at most.
GOALS = ((ENGINE, OPENCV, 0.7), (NUMPY, OPENCV, None), (EXACT, FLOAT, 1.6), (QDQ, FLOAT, None), (LOW, NUMPY, None))

ASK_PEERS = """
import importlib.metadata as m, platform
from google.protobuf.internal import api_implementation as a
names = ("caffe2onnx", "caffe-onnx", "onnx", "protobuf", "numpy")
print("Python", platform.python_version() + ",", ", ".join(f"{n} {m.version(n)}" for n in names), f"({a.Type()})")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21, help="samples of each engine")
    parser.add_argument("--runs", type=int, default=5, help="processes of each converter")
    parser.add_argument("--peers", help="the Python of an environment with caffe2onnx and caffe-onnx")
    parser.add_argument("--references", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    warnings.simplefilter("ignore", lp.LpcaffeWarning)
    print(machine())
    print(f"Load average before: {load()}.")
    if options.peers:
        print(f"Peers: {text_of([options.peers, '-c', ASK_PEERS])}.")
    else:
        print("Peers: left out, no --peers given.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        engines(folder, options.rounds)
        processes(folder, options.peers, options.runs)
        networks(folder, options.peers, options.references)
    print(f"\nLoad average after: {load()}.")


def source(folder: Path) -> tuple[Path, Path]:
    """The prototxt and the caffemodel in a folder of a released network."""
    return next(folder.glob("*.prototxt")), next(folder.glob("*.caffemodel"))


def engines(folder: Path, rounds: int) -> None:
    """One image through open_nsfw, in full precision and at 16 bits."""
    prototxt, caffemodel = source(MODELS / "open_nsfw")
    net = lp.load(prototxt, caffemodel)
    crops = lp.images(MODELS / "crops", net, **PREPROCESSING)
    low = lp.convert(net, lp.allocate(net, lp.calibrate(net, crops), bits=16, method="max"), folder / "low").net
    x = next(iter(crops.batches(1)))["data"]
    folded = lp.fold_batch_norm(net)
    runtime = OnnxRuntime(folded, [folded.last_versions["prob"]])
    contenders: dict[str, Callable[[], np.ndarray]] = {
        OPENCV: in_opencv(prototxt, caffemodel, x),
        ENGINE: lambda: next(iter(runtime.run({"data": x}).values())),
        NUMPY: in_numpy(folded, x),
        FLOAT: in_session(net, "float", folder, x),
        EXACT: in_session(low, "exact", folder, x),
        QDQ: in_session(low, "qdq", folder, x),
        LOW: in_numpy(low, x),
    }
    wanted = contenders[NUMPY]()
    differences = {name: float(np.abs(run() - wanted).max()) for name, run in contenders.items()}
    seconds = timed(contenders, rounds)
    print(f"\n### open_nsfw, one image of 224x224, {rounds} rounds\n")
    print("| what | median, ms | minimum, ms | prob differs by |\n|---|---|---|---|")
    for name, values in seconds.items():
        median, least = statistics.median(values) * 1e3, min(values) * 1e3
        print(f"| {name} | {median:.1f} | {least:.1f} | {differences[name]:.1g} |")
    print("\n| ratio | at most | of medians | of minima | median of the rounds' |\n|---|---|---|---|---|")
    for name, other, goal in GOALS:
        medians = statistics.median(seconds[name]) / statistics.median(seconds[other])
        paired = statistics.median(a / b for a, b in zip(seconds[name], seconds[other], strict=True))
        least = min(seconds[name]) / min(seconds[other])
        print(f"| {name} / {other} | {goal or ''} | {medians:.2f} | {least:.2f} | {paired:.2f} |")


def in_opencv(prototxt: Path, caffemodel: Path, x: np.ndarray) -> Callable[[], np.ndarray]:
    import cv2

    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(caffemodel))

    def run() -> np.ndarray:
        net.setInput(x)
        return np.asarray(net.forward())

    return run


def in_numpy(net: lp.Net, x: np.ndarray) -> Callable[[], np.ndarray]:
    ops, parameters = NumpyEngine(), bind_parameters(net, infer_shapes(net))
    tensor = net.last_versions["prob"]
    return lambda: np.asarray(forward(ops, net, {"data": x}, parameters, keep=[tensor])[tensor])


def in_session(net: lp.Net, profile: str, folder: Path, x: np.ndarray) -> Callable[[], np.ndarray]:
    lp.export_onnx(net, folder / f"{profile}.onnx", profile=profile)
    session = open_session(folder / f"{profile}.onnx")
    return lambda: np.asarray(session.run(["prob"], {"data": x})[0])


def open_session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a peer's model can have hundreds of warnings
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def timed(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, one in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for name in rotating(list(contenders), rounds):
        time.sleep(PAUSE_S)
        contenders[name]()
        start = time.perf_counter()
        contenders[name]()
        seconds[name].append(time.perf_counter() - start)
    return seconds


def rotating(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Every name once a round, each round beginning one further."""
    for first in range(rounds):
        for place in range(len(names)):
            yield names[(first + place) % len(names)]


def command(who: str, peers: str | None, prototxt: Path, caffemodel: Path, out: Path) -> list[str]:
    """A whole process that writes `out`."""
    files = [str(prototxt), str(caffemodel)]
    if who == OURS:
        return [sys.executable, "-m", "lpcaffe", "export", *files, "--out", str(out), "--force"]
    if who == "caffe2onnx":
        flags = ["--prototxt", files[0], "--caffemodel", files[1], "--onnx", str(out)]
        return [str(peers), "-m", "caffe2onnx.convert", *flags]
    return [str(peers), "-m", "src.cli", *files, out.stem, str(out.parent)]


def processes(folder: Path, peers: str | None, runs: int) -> None:
    """open_nsfw from its files to an ONNX file, start of Python included."""
    names = (OURS, *(PEERS if peers else ()))
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for who in rotating(names, runs):
        argv = command(who, peers, *source(MODELS / "open_nsfw"), folder / "process.onnx")
        start = time.perf_counter()
        subprocess.run(argv, cwd=folder, env=environment(), capture_output=True, check=True)
        seconds[who].append(time.perf_counter() - start)
    print(f"\n### open_nsfw to ONNX, the whole process, {runs} runs\n\n| what | best, s | median, s |\n|---|---|---|")
    for who, values in seconds.items():
        print(f"| {who} | {min(values):.2f} | {statistics.median(values):.2f} |")


def networks(folder: Path, peers: str | None, references: Path) -> None:
    """What each converter makes of released networks, against the blobs that Caffe computed on them."""
    golden = references / "golden" / "float_nets"
    names = (OURS, *(PEERS if peers else ()))
    print(f"\n### Released networks: converts / runs in onnxruntime / within {CLOSE:g} of Caffe\n")
    if not golden.is_dir():
        print("Left out: no recorded blobs, see --references.")
        return
    reasons = []
    print(f"| network | {' | '.join(names)} |\n|---|{'---|' * len(names)}")
    for name in NETWORKS:
        cells = []
        with np.load(golden / f"{name}.input_and_opencv.npz") as file:
            x = file["x"]
        for who in names:
            verdict, reason = judge(who, peers, source(references / "models" / name), x, golden / f"{name}.blobs.npz")
            cells.append(verdict)
            reasons += [f"- {name}, {who}: {reason}"] if reason else []
        print(f"| {name} | {' | '.join(cells)} |")
    print("", *reasons, sep="\n")
    low = [path for path in sorted((references / "golden" / "lp_nets").glob("*")) if path.is_dir()]
    found = []
    for path in low:
        x = np.load(path.parent / f"{path.name.rsplit('_', 1)[0]}.input.npy")
        found.append(judge(OURS, None, (path / "lp.prototxt", path / "lp.caffemodel"), x, path / "blobs.npz"))
    print(f"\nOf {len(low)} LP networks, profile exact ({OURS} alone):")
    for path, (verdict, reason) in zip(low, found, strict=True):
        print(f"- {path.name}: {verdict}{'; ' * bool(reason)}{reason}")


def judge(who: str, peers: str | None, files: tuple[Path, Path], x: np.ndarray, recorded: Path) -> tuple[str, str]:
    """Whether a converter's model exists, runs and is right, and what is wrong if not."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "model.onnx"
        argv = command(who, peers, *files, out)
        done = subprocess.run(argv, cwd=temporary, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode or not out.exists():
            return "no", last_line(done.stderr or done.stdout)
        try:
            session = open_session(out)
            values = session.run(None, {session.get_inputs()[0].name: x})
            got = {output.name: value for output, value in zip(session.get_outputs(), values, strict=True)}
        except Exception as error:  # onnxruntime's are not one class
            return "yes / no", last_line(str(error))
    return compare(got, lp.load_net(files[0]).outputs, recorded)


def compare(got: dict[str, np.ndarray], outputs: Sequence[str], recorded: Path) -> tuple[str, str]:
    """The verdict on a model that runs. The recording can be of the first images only."""
    worst = 0.0
    with np.load(recorded) as file:
        for blob in outputs:
            wanted = file[blob.replace("/", "__")]
            values = got.get(blob)
            if values is None or values.ndim != wanted.ndim or values[: len(wanted)].shape != wanted.shape:
                shape = "no such output" if values is None else f"shape {values.shape}"
                return "yes / yes / no", f"{blob}: {shape}, expected {wanted.shape}"
            largest = float(np.abs(wanted).max()) or 1.0
            worst = max(worst, float(np.abs(values[: len(wanted)] - wanted).max()) / largest)
    return f"yes / yes / {'yes' if worst <= CLOSE else 'no'} ({worst:.1g})", ""


def environment() -> dict[str, str]:
    """For a process that starts in another folder: it imports the lpcaffe of this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def last_line(text: str) -> str:
    """The last line that says something, without the path of the temporary model."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"\S*/model\.onnx", "the model", lines[-1] if lines else "nothing said")[-220:]


def text_of(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def load() -> str:
    return ", ".join(f"{value:.2f}" for value in os.getloadavg())


def machine() -> str:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if (
        info.exists()
    ) else [platform.processor()]  # fmt: skip
    packages = ("numpy", "onnxruntime", "opencv-python-headless", "onnx")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    return f"{models[0]}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}."


if __name__ == "__main__":
    try:
        main()
    except LpcaffeError as error:
        sys.exit(str(error))
