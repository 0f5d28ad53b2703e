"""Long vectors of a plan's formats, in a file of their own: a plan stays short enough to read.

In the plan a vector of more than INLINE values is replaced by its key in the .npz, `{in: LAYER/ROLE/PARAMETER}`, and

    vectors: {file: plan.npz, sha256: ...}

names the file, which is in the same folder.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from lpcaffe.errors import DataError, PlanError, reason
from lpcaffe.formats.npz import read_arrays
from lpcaffe.quant.yaml_text import short

INLINE = 64


def outlined(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The plan's plain values with keys in place of long vectors, and the vectors."""
    vectors: dict[str, np.ndarray] = {}

    def parameter(path: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: parameter(f"{path}/{key}", one) for key, one in value.items()}
        if isinstance(value, list | tuple) and len(value) > INLINE:
            vectors[path] = np.array(value)
            return {"in": path}
        return value

    layers = {
        name: {key: parameter(f"{name}/{key}", value) for key, value in row.items()}
        for name, row in values["layers"].items()
    }
    return values | {"layers": layers}, vectors


def named(values: dict[str, Any], file: str, sha256: str) -> dict[str, Any]:
    """The plan's values with the line that names the file of its vectors, before the layers."""
    head = {key: value for key, value in values.items() if key != "layers"}
    return head | {"vectors": {"file": file, "sha256": sha256}, "layers": values["layers"]}


def inlined(values: Any, plan: Path) -> Any:
    """The plan's values with its vectors in place. Raises PlanError for a file that is not the one named."""
    line = values.pop("vectors", None) if isinstance(values, dict) else None
    if line is None:
        return values
    name = line.get("file") if isinstance(line, dict) else None
    if not isinstance(name, str) or Path(name).name != name or not isinstance(line.get("sha256"), str):
        raise PlanError("vectors: expected {file: NAME.npz, sha256: ...}, the file in the plan's folder")
    arrays = _arrays(plan.with_name(name), line["sha256"])
    done: dict[int, Any] = {}  # an alias may stand for a mapping a million times: it is visited once

    def parameter(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if set(value) == {"in"}:
            if not isinstance(value["in"], str) or value["in"] not in arrays:
                raise PlanError(f"vectors: {name} has no {short(value['in'])}")
            return arrays[value["in"]].tolist()
        if id(value) not in done:
            done[id(value)] = {key: parameter(one) for key, one in value.items()}
        return done[id(value)]

    rows = values.get("layers")
    return (
        values | {"layers": {name: parameter(row) for name, row in rows.items()}} if isinstance(rows, dict) else values
    )


def _arrays(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """The arrays of the file. Nothing of it is parsed before its sum is known to be right."""
    try:
        if path.exists() and not path.is_file():  # a device has no end
            raise PlanError(f"vectors: expected a file, {path.name} is none")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise PlanError(f"vectors: expected {path.name} with sha256 {sha256[:12]}..., got {digest[:12]}...")
        arrays = read_arrays(path)
    except OSError as error:
        raise PlanError(f"vectors: {path.name} cannot be read: {reason(error)}") from error
    except DataError as error:
        raise PlanError(f"vectors: {path.name} {error.problem}") from error
    if not isinstance(arrays, dict):
        raise PlanError(f"vectors: expected an .npz, {path.name} is one array")
    return arrays
