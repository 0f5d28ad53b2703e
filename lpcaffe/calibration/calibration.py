"""Calibration: the statistics of a network's outputs over data, and the file they are kept in.

Statistics are kept by the name of the site's layer, the same whether BatchNorm is folded or kept. The file is an .npz
of uncompressed arrays, in this order. A row is one TensorStats; the rows of a layer follow one another, layers are in
the order of the network:

    meta      JSON: version (2), network, sha256, fold_bn, act_placement, images, source; coverage, absent = learned
    layers    str[n]       the names of the layers
    layer     int64[r]     which layer a row is of: 0 .. n - 1
    channel   int64[r]     -1 the whole output, -2 the output after the ReLU that follows, c >= 0 its channel c
    count     int64[r]     how many values
    min, max  float64[r]   the extremes
    above     int64[r, 32] above[m] values exceed 2^m - 1
    start     int64[r + 1] the bins of row i are start[i] .. start[i + 1] - 1 of the four arrays that follow
    keys      uint16[k]    bins (bins.py says which), ascending in a row
    counts    int64[k]     values in the bin
    sums      int64[k]     the sum of their low 18 bits
    squares   int64[k]     the sum of ((low 18 bits + 8) >> 4)^2

The bytes depend on the statistics alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from lpcaffe.calibration.bins import COUNTERS, INFINITE, KEYS, LOW_BITS, SIGN
from lpcaffe.calibration.stats import TensorStats
from lpcaffe.errors import DataError
from lpcaffe.formats.npz import read_arrays, write_npz
from lpcaffe.net import Net, quantizable_layers
from lpcaffe.quant.policy import COVERAGES, PLACEMENTS, Policy

VERSION = 2
_WHOLE, _RECTIFIED = -1, -2
_CHANNELS = {True: "of each channel", False: "of whole outputs"}
_META = {"network": str, "sha256": str, "fold_bn": bool, "act_placement": str, "images": int, "source": str} | {
    "coverage": str
}
_NUMBERS = {"count": np.int64, "min": np.float64, "max": np.float64}
_ENDS = ("min", "max")
_BINS = {"keys": np.uint16, "counts": np.int64, "sums": np.int64, "squares": np.int64}


@dataclass(frozen=True)
class Calibration:
    """Statistics by layer name, and what they were taken from. `images` adds up when calibrations are merged.

    layers      where the LPAct stands: before the ReLU, unless act_placement says after
    rectified   after the ReLU or PReLU that follows the LPAct, for the layers which one follows
    channels    of each output channel, for all layers or for none
    coverage    "learned", or "all": which outputs have statistics
    """

    layers: Mapping[str, TensorStats]
    network: str = ""
    sha256: str = ""
    fold_bn: bool = True
    act_placement: str = "before-relu"
    images: int = 0
    source: str = ""
    rectified: Mapping[str, TensorStats] = field(default_factory=dict)
    channels: Mapping[str, tuple[TensorStats, ...]] = field(default_factory=dict)
    coverage: str = "learned"

    def __add__(self, other: Calibration) -> Calibration:
        """The statistics of both, in any order the same. DataError when they are not of the same tensors."""
        if self.sha256 != other.sha256:
            raise DataError(f'statistics of "{self.network}" and "{other.network}" cannot be added: networks differ')
        self.check_settings(other.policy, bool(other.channels))
        if _tensors(self) != _tensors(other):
            raise DataError(f"statistics of {_tensors(self)} and of {_tensors(other)} cannot be added")
        return Calibration(
            {name: stats + other.layers[name] for name, stats in self.layers.items()},
            self.network,
            self.sha256,
            self.fold_bn,
            self.act_placement,
            self.images + other.images,
            " + ".join(sorted({*self.source.split(" + "), *other.source.split(" + ")})),
            {name: stats + other.rectified[name] for name, stats in self.rectified.items()},
            {
                name: tuple(one + two for one, two in zip(stats, other.channels[name], strict=True))
                for name, stats in self.channels.items()
            },
            self.coverage,
        )

    @property
    def policy(self) -> Policy:
        """What the statistics were collected with."""
        return Policy(fold_bn=self.fold_bn, act_placement=self.act_placement, coverage=self.coverage)

    def check_settings(self, policy: Policy, per_channel: bool) -> None:
        """Raise DataError when what was collected with other settings is to be added."""
        for ours, theirs in [
            (f"with fold_bn {self.fold_bn}", f"with fold_bn {policy.fold_bn}"),
            (f"placed {self.act_placement}", f"placed {policy.act_placement}"),
            (f"of coverage {self.coverage}", f"of coverage {policy.coverage}"),
            (_CHANNELS[bool(self.channels)], _CHANNELS[per_channel]),
        ]:
            if ours != theirs:
                raise DataError(f"statistics {ours} and {theirs} cannot be added")

    def check(self, net: Net) -> None:
        """Raise DataError when the statistics belong to another network."""
        learned = [layer.name for layer in quantizable_layers(net)]
        expected = learned if self.coverage == "learned" else [name for name in learned if name in self.layers]
        if self.sha256 == net.sha256 and [name for name in self.layers if name in learned] != expected:
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
            "layers": {
                name: {
                    "count": stats.count,
                    "min": stats.min,
                    "max": stats.max,
                    "mean": stats.mean,
                    "std": stats.std,
                    "b": stats.mean_abs_dev,
                    "kurtosis": stats.kurtosis,
                }
                for name, stats in self.layers.items()
            }
        }

    def _meta(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "network": self.network,
            "sha256": self.sha256,
            "fold_bn": self.fold_bn,
            "act_placement": self.act_placement,
            "images": self.images,
            "source": self.source,
        } | ({"coverage": self.coverage} if self.coverage != "learned" else {})

    def _rows(self) -> Iterator[tuple[int, int, TensorStats]]:
        for index, (name, stats) in enumerate(self.layers.items()):
            yield index, _WHOLE, stats
            if name in self.rectified:
                yield index, _RECTIFIED, self.rectified[name]
            for channel, own in enumerate(self.channels.get(name, ())):
                yield index, channel, own

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write the .npz."""
        layer, channel, rows = zip(*self._rows(), strict=True) if self.layers else ((), (), ())
        arrays = {
            "meta": np.array(json.dumps(self._meta())),
            "layers": np.array(list(self.layers), dtype=np.str_),
            "layer": np.array(layer, np.int64),
            "channel": np.array(channel, np.int64),
        }
        for name, kind in _NUMBERS.items():
            arrays[name] = np.array([getattr(stats, name) for stats in rows], kind)
        arrays["above"] = np.array([stats.exceed_counts for stats in rows], np.int64).reshape(-1, COUNTERS)
        arrays["start"] = np.cumsum([0] + [stats.keys.size for stats in rows], dtype=np.int64)
        for name, bins in _BINS.items():
            parts = [getattr(stats, name) for stats in rows]
            arrays[name] = np.concatenate([np.zeros(0, bins), *parts]).astype(bins)
        write_npz(path, arrays, force=force)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Calibration:
        """Read the .npz. Raises DataError when it is not one that `save` wrote."""
        file = read_arrays(path)
        try:
            if not isinstance(file, dict):
                raise TypeError
            meta = json.loads(str(file["meta"]))
            version = meta.pop("version")
            if type(version) is not int or any(
                type(meta[key]) is not kind for key, kind in _META.items() if key in meta
            ):
                raise TypeError
            if version == VERSION:
                found = cls(**_split(file), **meta)
                rows = zip(file["layer"].tolist(), file["channel"].tolist(), strict=True)
                if list(rows) != [row[:2] for row in found._rows()]:
                    raise ValueError("rows")
                if found.act_placement not in PLACEMENTS or found.coverage not in COVERAGES or found.images < 0:
                    raise ValueError("meta")
                return found
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
            raise DataError("is not a statistics file of lpcaffe calibrate", path=path) from error
        hint = "calibrate again" if version == 1 else "it was written by another lpcaffe"
        raise DataError(f"expected statistics of version {VERSION}, got {version}", path=path, hint=hint)


def _tensors(stats: Calibration) -> str:
    return ", ".join(name + " (with ReLU)" * (name in stats.rectified) for name in stats.layers)


def _split(file: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The statistics in the arrays of a file. Raises ValueError or KeyError where they do not fit together."""
    names, start = [str(name) for name in file["layers"]], file["start"]
    rows = len(file["layer"])
    shapes = dict.fromkeys(("layer", "channel", *_NUMBERS), (rows,)) | {"above": (rows, COUNTERS)}
    shapes |= {"start": (rows + 1,)} | {name: (int(start[-1]),) for name in _BINS}
    kinds = dict.fromkeys(("layer", "channel", "above", "start"), np.int64) | _NUMBERS | _BINS
    for name, shape in shapes.items():
        if file[name].shape != shape or file[name].dtype != kinds[name]:
            raise ValueError(name)
    if start[0] != 0 or (np.diff(start) < 0).any():
        raise ValueError("start")
    _check_numbers(file)
    keys, order = file["keys"].astype(np.int64), _in_order(file["keys"])
    with np.errstate(over="ignore"):
        low, high = (_in_order((file[end] + 0.0).astype(np.float32).view(np.uint32) >> LOW_BITS) for end in _ENDS)
    found: dict[str, Any] = {"layers": {}, "rectified": {}, "channels": {}}
    for row in range(rows):
        bins = slice(start[row], start[row + 1])
        if (np.diff(keys[bins]) <= 0).any() or file["counts"][bins].sum() != file["count"][row]:
            raise ValueError("bins")
        numbers = int(file["count"][row]), float(file["min"][row]), float(file["max"][row])
        stats = TensorStats(*numbers, file["above"][row], *(file[name][bins] for name in _BINS))
        own = order[bins] if stats.count else np.zeros(1)
        if (own.min(), own.max()) != (low[row], high[row]):
            raise ValueError("extremes")
        name, channel = names[file["layer"][row]], int(file["channel"][row])
        if channel >= 0:
            found["channels"][name] = (*found["channels"].get(name, ()), stats)
        else:
            found["layers" if channel == _WHOLE else "rectified"][name] = stats
    if list(found["layers"]) != names:
        raise ValueError("layers")
    return found


def _check_numbers(file: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for numbers that no tensor has. In a bin low < 2^18, and ((low + 8) >> 4)^2 <= 2^28."""
    counts, keys = file["counts"], file["keys"]
    for wrong in (
        counts <= 0,
        (keys >= KEYS) | (keys % SIGN >= INFINITE),
        (file["sums"] < 0) | (file["sums"] >> LOW_BITS >= counts),
        (file["squares"] < 0) | (file["squares"] >> 2 * (LOW_BITS - 4) > counts),
        np.diff(file["above"], prepend=file["count"][:, None], append=0) > 0,  # count >= above[0] >= ... >= 0
        file["min"] > file["max"],
    ):
        if wrong.any():
            raise ValueError("numbers")


def _in_order(keys: np.ndarray) -> np.ndarray:
    """Bins as numbers that ascend with their values; negative values have negative ones."""
    keys = keys.astype(np.int64)
    return np.where(keys >= SIGN, SIGN - 1 - keys, keys)
