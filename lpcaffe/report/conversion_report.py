"""report.json: what a conversion did, layer by layer.

It holds no time, duration, host or path, so the same conversion gives the same bytes. `sqnr_db` is null where there is
no error at all (or no signal); `output` is the layer's own error over the calibration data, null without data. `note`
is in weights or output in which nothing varies: "all zero" or "constant". `float_sites` are the places that no format
covers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from lpcaffe.data import Data
from lpcaffe.dialects import Clipped
from lpcaffe.io.outputs import write_file
from lpcaffe.net import Net, Unfolded, unfolded
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.validation import Comparison


def data_json(data: Data) -> dict[str, Any]:
    """Where the images came from and how they were prepared; no path."""
    how = None if data.preprocessing is None else data.preprocessing.to_json()
    return {"images": data.count, "source": data.source, "preprocessing": how}


@dataclass(frozen=True)
class ConversionReport:
    """What was converted, how, and how far the values moved.

    `quantized` is the plan applied, whose `errors` were filled as the weights were written.
    """

    network: str
    plan: BitPlan
    quantized: Quantized
    clipped: Clipped
    comparison: Comparison | None
    data: Data | None
    unfolded: tuple[Unfolded, ...]
    files: Mapping[str, str]

    @classmethod
    def of(
        cls,
        net: Net,
        plan: BitPlan,
        written: tuple[Quantized, Clipped],
        files: Mapping[str, str],
        comparison: Comparison | None = None,
        data: Data | None = None,
    ) -> ConversionReport:
        """The report of a conversion of `net`."""
        left = unfolded(net) if plan.policy.fold_bn else ()
        return cls(net.name, plan, *written, comparison, data, left, files)

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        layers = [self._row(name, row) for name, row in self.plan.layers.items()]
        weights = [(fmt, self._error(site.layer, "weights")) for site, fmt in self._formats("weights")]
        known = [(fmt, error) for fmt, error in weights if error is not None]
        signal, noise = sum(e.signal for _, e in known), sum(e.noise for _, e in known)
        biases = [e for row in self.plan.layers if (e := self._error(row, "bias")) is not None]
        return {
            "version": 1,
            "network": self.network,
            "plan": self.plan.to_json(),
            "data": None if self.data is None else data_json(self.data),
            "layers": layers,
            "totals": {
                "layers": len(layers),
                "weights": sum(e.count for _, e in known),
                "weight_bits": sum(fmt.width * e.count for fmt, e in known),
                "weight_bits_float32": 32 * sum(e.count for _, e in known),
                "saturated": sum(e.saturated for _, e in known),
                "bias_saturated": sum(e.saturated for e in biases),
                "max_abs_error": max((e.max_abs_error for _, e in known), default=0.0),
                "noise_to_signal": noise / signal if signal else None,
                "worst_layer": None if self.comparison is None else self.comparison.worst,
            },
            "unfolded": [{"layer": u.layer, "type": u.type, "reason": u.reason} for u in self.unfolded],
            "float_sites": [site.path for site in self.quantized.float_sites],
            "files": dict(self.files),
        }

    def _formats(self, role: str) -> list[tuple[Any, NumberFormat]]:
        return [(site, fmt) for site, fmt in self.quantized.formats.items() if site.role == role]

    def _error(self, layer: str, role: str) -> ErrorStats | None:
        return next((e for site, e in self.quantized.errors.items() if site.key == (layer, role)), None)

    def _row(self, name: str, line: LayerPlan) -> dict[str, Any]:
        row: dict[str, Any] = {"name": name, "type": line.type, "weights": None, "bias": None, "output": None}
        formats = {site.key: fmt for site, fmt in self.quantized.formats.items()}
        error, bias = self._error(name, "weights"), self._error(name, "bias")
        if line.weights is not None and error is not None:
            row["weights"] = error.weights_json(line.weights) | _note(error)
            if count := sum(n for site, n in self.clipped.counts.items() if site.key == (name, "weights")):
                row["weights"]["even_clipped"] = count
        fmt = formats.get((name, "bias"), line.weights)
        if bias is not None and fmt is not None:
            row["bias"] = bias.weights_json(fmt)
            if line.bias is not None:
                row["bias"]["even_rounded"] = True
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
