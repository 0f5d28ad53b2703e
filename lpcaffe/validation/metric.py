"""The user's own figure of merit: a Python function over the outputs of both networks.

    def metric(full, low, labels) -> float

`full` and `low` are the outputs of the full-precision and of the low-precision network, by blob, all images along the
first axis; `labels` has an integer for each image, or is None. Higher is better. `module:function` names one on the
command line; modules in the working directory can be named too.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

import numpy as np

from lpcaffe.errors import DataError, PlanError

Metric = Callable[[Mapping[str, np.ndarray], Mapping[str, np.ndarray], "np.ndarray | None"], float]


def load_metric(text: str) -> Metric:
    """The function that `module:function` names. PlanError when there is none, or it cannot be imported."""
    module_name, colon, name = text.partition(":")
    if not (module_name and colon and name):
        raise PlanError(f"metric: expected module:function, got {text!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _failing(f"importing {module_name!r}", error) from error
        raise PlanError(
            f"metric: there is no module {module_name!r}", hint="it is looked for in the working directory first"
        ) from error
    except Exception as error:
        raise _failing(f"importing {module_name!r}", error) from error
    function = getattr(module, name, None)
    if function is None:
        raise PlanError(f"metric: the module {module_name!r} has no {name!r}")
    if not callable(function):
        raise PlanError(f"metric: {text!r} is of type {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return]


def metric_name(metric: Metric) -> str:
    """`module:function`, the name of what was measured in reports."""
    return f"{getattr(metric, '__module__', '')}:{getattr(metric, '__qualname__', type(metric).__name__)}"


def measure(
    metric: Metric,
    full: Mapping[str, Sequence[np.ndarray]],
    low: Mapping[str, Sequence[np.ndarray]],
    labels: np.ndarray | None,
) -> float:
    """The metric of outputs that are there batch by batch. DataError when it raises, or returns no finite number."""
    name = metric_name(metric)
    joined = [{blob: _joined(blob, parts) for blob, parts in outputs.items()} for outputs in (full, low)]
    try:
        value = metric(joined[0], joined[1], labels)
    except Exception as error:
        raise DataError(f"the metric {name} failed: {_summary(error)}") from error
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise DataError(f"the metric {name} returned {type(value).__name__}, expected a number")
    if not math.isfinite(value):
        raise DataError(f"the metric {name} returned {float(value)}, expected a finite number")
    return float(value)


def _joined(blob: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    try:
        return np.concatenate(parts)
    except ValueError as error:
        shapes = sorted({part.shape[1:] for part in parts})
        problem = f"a metric needs it for all images, and its shape changes with the images: {shapes[0]}, {shapes[1]}"
        raise DataError(problem, blob=blob) from error


def _failing(what: str, error: Exception) -> PlanError:
    return PlanError(f"metric: {what} failed: {_summary(error)}")


def _summary(error: Exception) -> str:
    """The exception's class and its first line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
