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


def test_importing_the_package_loads_one_module_of_it_and_nothing_heavy():
    loaded = set(python("import sys, lpcaffe; print(*sys.modules)").split())
    assert {name for name in loaded if name.partition(".")[0] == "lpcaffe"} == {"lpcaffe"}
    assert not loaded & HEAVY


def test_every_name_is_there_when_it_is_asked_for():
    for name in lpcaffe.__all__:
        assert getattr(lpcaffe, name) is not None
    assert set(lpcaffe.__all__) <= set(dir(lpcaffe))
    assert not hasattr(lpcaffe, "no_such_name")


def test_converting_loads_neither_numba_nor_pillow_nor_the_command_line():
    code = "import sys; from lpcaffe import pipeline, demo; print(*sys.modules)"
    assert not set(python(code).split()) & {"numba", "onnx", "onnxruntime", "PIL", "typer", "rich", "lmdb"}
