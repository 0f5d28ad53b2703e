"""report.json: what a conversion did, layer by layer.

It holds no time, duration, host or path, so the same conversion gives the same bytes. `sqnr_db` is null where there is
no error at all (or no signal); `output` is the layer's own error over the calibration data, null without data. `note`
is in weights or output in which nothing varies: "all zero" or "constant". `float_sites` are the places that no format
covers. `sizes` are those of the layer's blobs (`lpcaffe.quant.sizes`), and of all layers of the plan in `totals`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from lpcaffe.data import Data
from lpcaffe.dialects import Clipped, dialect_named
from lpcaffe.errors import counted
from lpcaffe.io.outputs import write_file
from lpcaffe.net import LOW_PRECISION, Net, Unfolded, unfolded
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sizes import Sizes
from lpcaffe.validation import Comparison

Key = tuple[str, str]  # layer and role


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
        errors = {site.key: error for site, error in self.quantized.errors.items()}
        formats = {site.key: fmt for site, fmt in self.quantized.formats.items()}
        clipped = {site.key: count for site, count in self.clipped.counts.items()}
        sizes = {name: self._sizes(name) for name in self.plan.layers}
        layers = [
            self._row(name, errors, formats, clipped) | {"sizes": sizes[name].to_json()} for name in self.plan.layers
        ]
        known = [(fmt, errors[key]) for key, fmt in formats.items() if key[1] == "weights" and key in errors]
        signal, noise = sum(e.signal for _, e in known), sum(e.noise for _, e in known)
        biases = [error for key, error in errors.items() if key[1] == "bias"]
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
                "sizes": sum(sizes.values(), Sizes()).to_json(),
            },
            "unfolded": [{"layer": u.layer, "type": u.type, "reason": u.reason} for u in self.unfolded],
            "float_sites": [site.path for site in self.quantized.float_sites],
            "files": dict(self.files),
        }

    def _sizes(self, name: str) -> Sizes:
        """Of all blobs of a layer."""
        sites, counted = self.quantized.parameters.get(name, {}), self.quantized.counted or {}
        found = Sizes()
        for index, shape in enumerate(self.quantized.shapes.params.get(name, ())):
            site = sites.get(index)
            if site in counted:
                found += Sizes.of(self.quantized.formats[site], counted[site])
            else:
                found += Sizes.of_floats(math.prod(shape))
        return found

    def _row(
        self,
        name: str,
        errors: Mapping[Key, ErrorStats],
        formats: Mapping[Key, NumberFormat],
        clipped: Mapping[Key, int],
    ) -> dict[str, Any]:
        line = self.plan.layers[name]
        row: dict[str, Any] = {"name": name, "type": line.type, "weights": None, "bias": None, "output": None}
        weights, bias = (name, "weights"), (name, "bias")
        if line.weights is not None and weights in errors:
            row["weights"] = errors[weights].weights_json(line.weights) | _note(errors[weights])
            row["weights"] |= {"even_clipped": clipped[weights]} if clipped.get(weights) else {}
        fmt = formats.get(bias, line.weights)
        if bias in errors and fmt is not None:
            row["bias"] = errors[bias].weights_json(fmt)
            policy = self.plan.policy
            rounded = bias in formats and not policy.round_bias and dialect_named(policy.dialect).marked
            row["bias"] |= {"even_rounded": True} if rounded else {}
            row["bias"] |= {"even_clipped": clipped[bias]} if clipped.get(bias) else {}
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


def replaced_values(caffemodel: str | PathLike[str]) -> list[str]:
    """What a conversion wrote in place of full precision, a phrase each.

    The report.json beside the caffemodel lists it. Without one, or with that of another caffemodel, nothing is known.
    """
    path = Path(caffemodel)
    try:
        report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
        with path.open("rb") as file:
            if report["files"][path.name] != hashlib.file_digest(file, "sha256").hexdigest():
                return []
        rows = [(str(row["name"]), row["weights"] or {}, row["bias"] or {}) for row in report["layers"]]
        biases = [name for name, _, bias in rows if bias.get("even_rounded")]
        clipped = sum(int(each.get("even_clipped", 0)) for _, *both in rows for each in both)
        planned = report["plan"]["layers"].items()
        in_place = [name for name, row in planned if row["type"] not in LOW_PRECISION and row.get("weights")]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
    found = [f"the biases of {', '.join(biases)} are rounded"] if biases else []
    found += [f"the weights of {', '.join(in_place)} are rounded"] if in_place else []
    return found + ([f"{counted(clipped, 'value')} are at the limit of their format"] if clipped else [])
