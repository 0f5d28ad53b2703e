"""Importing the package is cheap: heavy packages are loaded where they are used."""

import subprocess
import sys

import lpcaffe

HEAVY = {
    "numba",
    "onnx",
    "onnxruntime",
    "google.protobuf",
    "PIL",
    "typer",
    "rich",
    "yaml",
    "lmdb",
    "h5py",
    "llvmlite",
    "numpy",
}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_package_imports_nothing_heavy():
    loaded = set(python("import sys, lpcaffe; print(*sys.modules)").split())
    assert "lpcaffe" in loaded
    assert not loaded & HEAVY


def test_the_import_adds_less_than_a_tenth_of_a_second_to_numpys():
    code = "import time, numpy; begin = time.perf_counter(); import lpcaffe; print(time.perf_counter() - begin)"
    assert min(float(python(code)) for _ in range(3)) < 0.1


def test_every_name_is_there_when_it_is_asked_for():
    for name in lpcaffe.__all__:
        assert getattr(lpcaffe, name) is not None
    assert set(lpcaffe.__all__) <= set(dir(lpcaffe))
    assert not hasattr(lpcaffe, "no_such_name")


def test_converting_loads_neither_numba_nor_pillow_nor_the_command_line():
    code = "import sys; from lpcaffe import pipeline, demo; print(*sys.modules)"
    assert not set(python(code).split()) & {"numba", "onnx", "onnxruntime", "PIL", "typer", "rich", "lmdb"}
