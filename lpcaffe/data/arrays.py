"""Arrays as data: .npy, .npz, or arrays in memory, by name.

A .npy holds one array, mapped and not read. An .npz holds one array for each input of the network under the input's
name, or one called `x` for the only input; its member `y`, if it is no input, holds one label for each image. Members
of an .npz are compressed, so each is in memory as a whole. Pickled objects are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.data.image_files import INTEGER
from lpcaffe.errors import DataError, reason
from lpcaffe.io.kinds import UNREADABLE


def load_arrays(path: Path, inputs: list[str]) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]:
    """The arrays of a .npy or .npz file by input name, and its labels. Raises DataError."""
    try:
        with path.open("rb") as file:
            if not file.read(2).startswith(b"PK"):
                return select_inputs({"x": np.load(path, mmap_mode="r", allow_pickle=False)}, inputs)
            file.seek(0)
            with np.load(file, allow_pickle=False) as members:
                used = [name for name in members.files if name in (*inputs, "x", "y")]  # the others stay compressed
                return select_inputs({name: members[name] for name in used}, inputs)
    except DataError as error:
        raise DataError(error.problem, path=path, hint=error.hint) from error
    except UNREADABLE as error:
        raise DataError(f"unreadable array file: {reason(error)}", path=path) from error


def select_inputs(
    arrays: Mapping[str, NDArray[Any]], inputs: list[str]
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64] | None]:
    """One array for each input out of named ones, and the labels among them. Raises DataError."""
    if all(name in arrays for name in inputs):
        chosen = {name: arrays[name] for name in inputs}
    elif len(inputs) == 1 and "x" in arrays:
        chosen = {inputs[0]: arrays["x"]}
    else:
        wanted = " and ".join(f'"{name}"' for name in inputs)
        raise DataError(
            f"expected the inputs {wanted}, got {', '.join(sorted(arrays)) or 'nothing of use'}",
            hint='an .npz holds one array for each input by name, or "x" for the only one',
        )
    for name, array in chosen.items():
        if array.ndim == 0 or len(array) == 0:
            raise DataError(f"the array holds no images, its shape is {array.shape}", blob=name)
    counts = {name: len(array) for name, array in chosen.items()}
    if len(set(counts.values())) > 1:
        raise DataError(f"the inputs differ in their number of images: {counts}")
    if "y" not in arrays or "y" in chosen:
        return chosen, None
    labels = as_labels(arrays["y"])
    count = next(iter(counts.values()))
    if len(labels) != count:
        raise DataError(f"expected {count} labels in y, one for each image, got {len(labels)}")
    return chosen, labels


def as_labels(array: NDArray[Any]) -> NDArray[np.int64]:
    """Labels as int64. Raises DataError unless the array is a row of integers."""
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"labels must be a row of integers, got {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def read_labels(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Labels from a file: one integer a line, empty lines not counted, or .npy. Raises DataError."""
    path = Path(path)
    try:
        if path.suffix == ".npy":
            return as_labels(np.load(path, allow_pickle=False))
        lines = path.read_text(encoding="utf-8").splitlines()
    except DataError as error:
        raise DataError(error.problem, path=path) from error
    except UNREADABLE as error:
        raise DataError(f"unreadable labels: {reason(error)}", path=path) from error
    labels = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            if not INTEGER.fullmatch(line.strip()):
                raise DataError(f"expected one integer, got {line.strip()[:40]!r}", path=path, line=number)
            labels.append(int(line))
    if not labels:
        raise DataError("no labels in this file", path=path)
    return np.array(labels, np.int64)
