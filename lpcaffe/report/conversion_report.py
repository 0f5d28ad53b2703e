"""report.json: what a conversion did, layer by layer.

It holds no time, duration, host or path, so the same conversion gives the same bytes. `sqnr_db` is null where there is
no error at all (or no signal); `output` is the layer's own error over the calibration data, null without data. `note`
stands in weights or output in which nothing varies: "all zero" or "constant".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from lpcaffe.conversion import ErrorStats, WeightErrors
from lpcaffe.data import Data
from lpcaffe.io.outputs import write_file
from lpcaffe.net import Net, Unfolded, unfolded
from lpcaffe.plan import BitPlan
from lpcaffe.validation import Comparison


def data_json(data: Data) -> dict[str, Any]:
    """Where the images came from and how they were prepared; no path."""
    how = None if data.preprocessing is None else data.preprocessing.to_json()
    return {"images": data.count, "source": data.source, "preprocessing": how}


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, how, and how far the values moved."""

    network: str
    plan: BitPlan
    weights: WeightErrors
    comparison: Comparison | None
    data: Data | None
    unfolded: tuple[Unfolded, ...]
    files: Mapping[str, str]

    @classmethod
    def of(
        cls,
        net: Net,
        plan: BitPlan,
        weights: WeightErrors,
        files: Mapping[str, str],
        comparison: Comparison | None = None,
        data: Data | None = None,
    ) -> ConversionReport:
        """The report of a conversion of `net`."""
        left = unfolded(net) if plan.fold_bn else ()
        return cls(net.name, plan, weights, comparison, data, left, files)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        layers = [self._row(name) for name in self.plan.layers]
        errors = [*self.weights.weights.values()]
        signal, noise = sum(e.signal for e in errors), sum(e.noise for e in errors)
        planned = [(line, self.weights.weights[name].count) for name, line in self.plan.layers.items() if line.weights]
        return {
            "version": 1,
            "network": self.network,
            "plan": self.plan.to_json(),
            "data": None if self.data is None else data_json(self.data),
            "layers": layers,
            "totals": {
                "layers": len(layers),
                "weights": sum(e.count for e in errors),
                "weight_bits": sum(line.weights.width * count for line, count in planned if line.weights),
                "weight_bits_float32": 32 * sum(e.count for e in errors),
                "saturated": sum(e.saturated for e in errors),
                "bias_saturated": sum(e.saturated for e in self.weights.bias.values()),
                "max_abs_error": max((e.max_abs_error for e in errors), default=0.0),
                "noise_to_signal": noise / signal if signal else None,
                "worst_layer": None if self.comparison is None else self.comparison.worst,
            },
            "unfolded": [{"layer": u.layer, "type": u.type, "reason": u.reason} for u in self.unfolded],
            "files": dict(self.files),
        }

    def _row(self, name: str) -> dict[str, Any]:
        line = self.plan.layers[name]
        row: dict[str, Any] = {"name": name, "type": line.type, "weights": None, "bias": None, "output": None}
        if line.weights is not None:
            error = self.weights.weights[name]
            row["weights"] = error.weights_json(line.weights) | _note(error)
            if name in self.weights.bias:
                row["bias"] = self.weights.bias[name].weights_json(line.weights)
        if self.comparison is not None and line.output is not None:
            error = self.comparison.isolated[name]
            row["output"] = error.output_json(line.output) | _note(error)
        return row

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write report.json."""
        write_file(path, self.to_bytes(), force=force)

    def to_bytes(self) -> bytes:
        """The file."""
        return (json.dumps(self.to_json(), indent=1) + "\n").encode()


def _note(error: ErrorStats) -> dict[str, str]:
    return {} if error.note is None else {"note": error.note}
