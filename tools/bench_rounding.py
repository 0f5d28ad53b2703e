"""How fast round_fp is, against a copy of the same array in the same run.

    python tools/bench_rounding.py [--quick] [--peers] [--device cuda] [--json FILE]

Prints Markdown tables and writes JSON. Every figure is the median of interleaved repeats: each repeat times every
contender once, so what else the machine does hits all of them alike. GB/s counts 8 bytes a float32, read and written.
`--peers` needs torch and qtorch; `--device cuda` needs a GPU and the extra `cuda`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lpcaffe.errors import LpcaffeError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp, round_fp_stats

Contenders = dict[str, Callable[[], Any]]
FORMAT = QFormat(2, 14)
SCHEMES = ("deterministic", "stochastic")
SIZES = [1 << bits for bits in (12, 16, 20, 24, 26)]
COPY = "np.copyto"
QUEUED = 10
"""Kernels between two CUDA events: the device works on one while Python, some 100 us a call, prepares the next."""

FIRST_CALL = """
import time; start = time.perf_counter()
import numpy as np
from lpcaffe.numbers.rounding import round_fp
round_fp(np.zeros(4096, np.float32), 2, 14, {scheme!r}, backend="numba", out=np.empty(4096, np.float32))
print(time.perf_counter() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sizes up to 1 Mi and 5 repeats, to see that it works")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", help="elements")
    parser.add_argument("--peers", action="store_true", help="QPyTorch and torch expressions too")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    repeats = 5 if options.quick else options.repeats
    sizes = options.sizes or ([s for s in SIZES if s <= 1 << 20] if options.quick else SIZES)
    before = os.getloadavg()
    if options.device == "cuda":
        sizes = options.sizes or [1 << 20 if options.quick else 1 << 28]
        results = [row for size in sizes for row in on_cuda(size, repeats)]
    else:
        results = [row for size in sizes for row in on_cpu(size, repeats, options.peers)]
    report = {
        "machine": machine(),
        "load_average": {"before": before, "after": os.getloadavg()},
        "format": str(FORMAT),
        "repeats": repeats,
        "results": results,
    }
    if options.device == "cpu":
        report["first_call_s"] = first_calls(3 if options.quick else 7)
    print_tables(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def on_cpu(size: int, repeats: int, peers: bool) -> list[dict[str, Any]]:
    """Everything at one size."""
    x = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    out = np.zeros_like(x)  # touched, so that no repeat pays for fresh pages
    contenders: Contenders = {COPY: lambda: np.copyto(out, x)}
    for scheme in SCHEMES:
        for name, how in {
            "numpy": {"backend": "numpy"},
            "numba, 1 thread": {"backend": "numba", "threads": 1},
            "numba, all threads": {"backend": "numba"},
        }.items():
            contenders[f"{name}, {scheme}"] = lambda s=scheme, h=how: round_fp(x, 2, 14, s, out=out, **h)
        contenders[f"numba, all threads, in place, {scheme}"] = lambda s=scheme: round_fp(
            out, 2, 14, s, out=out, backend="numba"
        )
    contenders["numba, all threads, statistics, deterministic"] = lambda: round_fp_stats(
        x, 2, 14, out=out, backend="numba"
    )
    if peers:
        contenders |= peer_contenders(x)
    return rows("cpu", size, timed(contenders, repeats), COPY)


def peer_contenders(x: np.ndarray) -> Contenders:
    """What others do with the same array. Their bits differ: ties, the range, and where a value on the grid moves."""
    import torch
    from qtorch.quant import fixed_point_quantize

    t, scale, top = torch.from_numpy(x), float(2**FORMAT.ad), float(FORMAT.code_max)
    work = torch.empty_like(t)

    def in_place() -> None:
        torch.mul(t, scale, out=work).round_().clamp_(-top, top).mul_(1 / scale)

    return {
        "QPyTorch nearest, deterministic": lambda: fixed_point_quantize(t, wl=16, fl=14, rounding="nearest"),
        "QPyTorch, stochastic": lambda: fixed_point_quantize(t, wl=16, fl=14, rounding="stochastic"),
        "torch expression, deterministic": lambda: torch.clamp(torch.round(t * scale), -top, top) / scale,
        "torch in place, deterministic": in_place,
        "torch expression, stochastic": lambda: (
            torch.clamp(torch.floor(t * scale + torch.rand_like(t)), -top, top) / scale
        ),
    }


def timed(contenders: Contenders, repeats: int) -> dict[str, list[float]]:
    """Seconds a call, `repeats` for each; a sample of a short call is many calls."""
    calls = {}
    for name, run in contenders.items():
        run()  # compiles, and warms the caches
        start = time.perf_counter()
        run()
        calls[name] = max(1, int(1e-3 / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, run in contenders.items():
            start = time.perf_counter()
            for _ in range(calls[name]):
                run()
            seconds[name].append((time.perf_counter() - start) / calls[name])
    return seconds


def rows(device: str, size: int, seconds: dict[str, list[float]], baseline: str) -> list[dict[str, Any]]:
    """Medians, as rows of the report."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return [
        {
            "device": device,
            "elements": size,
            "what": name,
            "median_s": median,
            "min_s": min(seconds[name]),
            "gb_per_s": 8 * size / median / 1e9,
            "times_copy": median / medians[baseline],
        }
        for name, median in medians.items()
    ]


def on_cuda(size: int, repeats: int) -> list[dict[str, Any]]:
    """Kernels by CUDA events against a copy on the device; then host arrays end to end, against the same host copy."""
    from lpcaffe.numbers.rounding import cuda_backend

    cuda_backend.require()
    cuda = cuda_backend.cuda
    stream = cuda.stream()
    host = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    x, out = cuda.to_device(host), cuda.device_array(size, np.float32)
    kernels: Contenders = {"copy on the device": lambda: out.copy_to_device(x, stream=stream)}
    for scheme in SCHEMES:
        kernels[f"kernel, {scheme}"] = lambda s=scheme: round_fp(
            x, 2, 14, s, out=out, device="cuda", cuda_stream=stream
        )
    seconds: dict[str, list[float]] = {name: [] for name in kernels}
    for repeat in range(repeats + 1):
        for name, run in kernels.items():
            begin, end = cuda.event(), cuda.event()
            begin.record(stream)
            for _ in range(QUEUED):
                run()
            end.record(stream)
            end.synchronize()
            if repeat:  # the first compiles
                seconds[name].append(begin.elapsed_time(end) / 1e3 / QUEUED)
    results = rows("cuda", size, seconds, "copy on the device")
    target = np.zeros_like(host)
    staged: Contenders = {COPY: lambda: np.copyto(target, host)}
    for scheme in SCHEMES:
        staged[f"host to host by way of the GPU, {scheme}"] = lambda s=scheme: round_fp(
            host, 2, 14, s, out=target, device="cuda"
        )
    return results + rows("cuda, end to end", size, timed(staged, repeats), COPY)


def first_calls(repeats: int) -> dict[str, dict[str, float]]:
    """Seconds until the first result of a new process whose kernels are cached: without and with its start."""
    found = {}
    for scheme in SCHEMES:
        inside, whole = [], []
        for repeat in range(repeats + 1):
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", FIRST_CALL.format(scheme=scheme)], capture_output=True, text=True, check=True
            )
            if repeat:  # the first may compile
                whole.append(time.perf_counter() - start)
                inside.append(float(done.stdout))
        found[scheme] = {"import_and_call": statistics.median(inside), "process": statistics.median(whole)}
    return found


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = Path("/proc/cpuinfo")
    models = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if (
        info.exists()
    ) else [platform.processor()]  # fmt: skip
    versions = {}
    for package in ("numpy", "numba", "llvmlite", "numba-cuda", "torch", "qtorch"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    gpu = {}
    if "lpcaffe.numbers.rounding.cuda_backend" in sys.modules:
        name = getattr(
            sys.modules["lpcaffe.numbers.rounding.cuda_backend"].cuda.get_current_device(), "name", "simulated"
        )
        gpu = {"gpu": name.decode() if isinstance(name, bytes) else str(name)}
    return {"cpu": models[0], "cpus": os.cpu_count(), "python": platform.python_version(), **versions, **gpu}


def print_tables(report: dict[str, Any]) -> None:
    """The report as Markdown."""
    described = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    loads = [f"{report['load_average'][when][0]:.2f}" for when in ("before", "after")]
    print(f"{described}; load average {loads[0]} before, {loads[1]} after; {report['repeats']} repeats.")
    for device in dict.fromkeys(row["device"] for row in report["results"]):
        for size in dict.fromkeys(row["elements"] for row in report["results"]):
            found = [row for row in report["results"] if (row["device"], row["elements"]) == (device, size)]
            print(f"\n{size:,} float32, {device}\n\n| what | median | GB/s | x copy |\n|---|---|---|---|")
            for row in found:
                print(
                    f"| {row['what']} | {duration(row['median_s'])} | {row['gb_per_s']:.1f} | {row['times_copy']:.2f} |"
                )
    for scheme, seconds in report.get("first_call_s", {}).items():
        print(
            f"\nFirst call of a new process, kernels cached, {scheme}: {seconds['import_and_call']:.2f} s from the "
            f"first import on, {seconds['process']:.2f} s with the start of Python."
        )


def duration(seconds: float) -> str:
    """Microseconds or milliseconds."""
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


if __name__ == "__main__":
    try:
        main()
    except LpcaffeError as error:
        sys.exit(str(error))
