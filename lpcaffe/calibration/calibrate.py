"""Calibration: one pass over the data, statistics of every tensor that a plan needs.

The statistics are those of the outputs of the learned layers, where an LPAct would stand, keyed by the learned layer's
name: the same names whether BatchNorm is folded or kept. The file is an .npz of

    layers      names, in the order of the network           count, min, max   one entry for each
    meta        JSON: version, network, sha256, fold_bn, act_placement, images, source
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from lpcaffe.calibration.finite import finite_weights
from lpcaffe.calibration.stats import TensorStats
from lpcaffe.data import Data, suspicious_range
from lpcaffe.engines import NumpyEngine, batch_size, bind_parameters, check_executable, choose_engine, forward
from lpcaffe.errors import DataError, LpcaffeWarning, NetError
from lpcaffe.formats.npz import read_arrays, write_npz
from lpcaffe.net import Layer, Net, fold_batch_norm, learned_layers
from lpcaffe.net.placement import last_of_output

# How many images are computed at a time. Memory grows with it, speed hardly does.
BATCH = 8
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Calibration:
    """Statistics by layer name, and what they were taken from. `images` adds up when calibrations are merged."""

    layers: Mapping[str, TensorStats]
    network: str = ""
    sha256: str = ""
    fold_bn: bool = True
    act_placement: str = "before-relu"
    images: int = 0
    source: str = ""

    def __add__(self, other: Calibration) -> Calibration:
        ours = (self.sha256, self.fold_bn, self.act_placement)
        if ours != (other.sha256, other.fold_bn, other.act_placement) or self.layers.keys() != other.layers.keys():
            raise DataError("statistics of different networks, folding or placement cannot be added")
        return Calibration(
            {name: stats + other.layers[name] for name, stats in self.layers.items()},
            self.network,
            *ours,
            self.images + other.images,
            self.source if self.source == other.source else f"{self.source} + {other.source}",
        )

    def check(self, net: Net) -> None:
        """Raise DataError when the statistics belong to another network."""
        learned = [layer.name for layer in learned_layers(net)]
        if self.sha256 == net.sha256 and list(self.layers) != learned:
            raise DataError(f"expected statistics of the layers {', '.join(learned)}, got {', '.join(self.layers)}")
        if self.sha256 != net.sha256:
            raise DataError(
                f'the statistics are of "{self.network}" with sha256 {self.sha256[:12]}..., '
                f'"{net.name}" has {net.sha256[:12]}...',
                hint="run lpcaffe calibrate on this network",
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values: what the statistics are of, and the numbers by layer."""
        return self._meta() | {
            "layers": {name: {"count": s.count, "min": s.min, "max": s.max} for name, s in self.layers.items()}
        }

    def _meta(self) -> dict[str, Any]:
        return {
            "version": 1,
            "network": self.network,
            "sha256": self.sha256,
            "fold_bn": self.fold_bn,
            "act_placement": self.act_placement,
            "images": self.images,
            "source": self.source,
        }

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write the .npz."""
        rows = self.layers.values()
        arrays = {
            "layers": np.array(list(self.layers), dtype=np.str_),
            "count": np.array([stats.count for stats in rows], np.int64),
            "min": np.array([stats.min for stats in rows], np.float64),
            "max": np.array([stats.max for stats in rows], np.float64),
            "meta": np.array(json.dumps(self._meta())),
        }
        write_npz(path, arrays, force=force)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Read the .npz. Raises DataError when it is not one that `save` wrote."""
        file = read_arrays(path)
        try:
            meta = json.loads(str(file["meta"]))
            rows = zip(file["layers"], file["count"], file["min"], file["max"], strict=True)
            layers = {str(name): TensorStats(int(n), float(low), float(high)) for name, n, low, high in rows}
            version = meta.pop("version")
            stats = cls(layers, **meta)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError("is not a statistics file of lpcaffe calibrate", path=path) from error
        if version != 1:
            raise DataError(f"expected statistics of version 1, got {version}", path=path)
        return stats


def calibrate(
    net: Net,
    data: Data,
    *,
    fold_bn: bool = True,
    act_placement: str = "before-relu",
    engine: str = "auto",
    batch: int = BATCH,
    progress: Progress | None = None,
) -> Calibration:
    """Run the full-precision net over the data and collect the statistics of the learned layers' outputs.

    `engine` is numpy, onnxruntime, or auto, which takes onnxruntime. onnxruntime gets one image at a time, whatever
    `batch` is: it is no slower so, and its sums can depend on the batch. Memory does not grow with the number of
    images. `progress(done, total)` is called after each batch. Warns when the
    range of the data does not look like what the network was trained on. Raises DataError when a value is NaN or
    infinite, naming the layer; WeightsError when it is a weight that is.
    """
    folded = fold_batch_norm(net) if fold_bn else net
    shapes = check_executable(folded)
    learned = learned_layers(folded)
    watched = {last_of_output(folded, layer, act_placement).tops[0]: layer.name for layer in learned}
    found: dict[str, TensorStats] = {layer.name: TensorStats() for layer in learned}
    first, fed = folded.inputs[0], TensorStats()

    def observe(tensor: str, values: np.ndarray) -> None:
        if tensor in watched:
            found[watched[tensor]] += finite_stats(values, watched[tensor])

    def visit(layer: Layer, bottoms: Any, tops: Any) -> None:
        for tensor, values in zip(layer.tops, tops, strict=True):
            observe(tensor, values)

    chosen = choose_engine(folded, engine)
    if chosen == "onnxruntime":
        from lpcaffe.engines.onnxruntime_engine import OnnxRuntime

        batch, runtime = 1, OnnxRuntime(folded, watched)
    elif chosen == "numpy":
        ops, parameters = NumpyEngine(), bind_parameters(folded, shapes)
    else:
        raise NetError(f"{chosen} does not calibrate", hint="numpy and onnxruntime do")
    done = 0
    for feeds in data.batches(batch_size(folded, batch)):
        fed += TensorStats.of(feeds[first])
        with finite_weights(net):
            if chosen == "onnxruntime":
                for tensor, values in runtime.run(feeds).items():
                    observe(tensor, values)
            else:
                forward(ops, folded, feeds, parameters, first_image=done, visit=visit)
        done += len(feeds[first])
        if progress:
            progress(done, data.count)
    warn_of_range(net, data, first, fed)
    return Calibration(found, net.name, net.sha256, fold_bn, act_placement, done, data.source)


def finite_stats(values: np.ndarray, layer: str) -> TensorStats:
    """The statistics of an activation; DataError when it holds NaN or infinity."""
    stats = TensorStats.of(values)
    if not np.isfinite(stats.min + stats.max):
        raise DataError("an activation is NaN or infinite", layer=layer, hint="check the weights and the input's range")
    return stats


def warn_of_range(net: Net, data: Data, blob: str, fed: TensorStats) -> None:
    """Warn when the range of what was fed into a blob does not look like what the network was trained on."""
    for sentence in suspicious_range(net, data, fed.min, fed.max):
        warnings.warn(f'input "{blob}": {sentence}', LpcaffeWarning, stacklevel=3)
