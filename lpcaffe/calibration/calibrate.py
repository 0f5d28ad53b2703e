"""One pass over the data: statistics of every tensor that a plan needs.

Images go through the network one at a time, since sums of floats can depend on what else is in a batch. So the
statistics do not depend on how the images are ordered or split, nor on the number of threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from lpcaffe.calibration.calibration import Calibration
from lpcaffe.calibration.finite import finite_weights
from lpcaffe.calibration.one_thread import one_blas_thread
from lpcaffe.calibration.stats import TensorStats
from lpcaffe.data import Data, suspicious_range
from lpcaffe.engines import (
    ENGINES,
    NumpyEngine,
    Options,
    batch_size,
    bind_parameters,
    check_executable,
    choose_engine,
    engines_with,
    forward,
)
from lpcaffe.errors import DataError, NetError, warn
from lpcaffe.net import Layer, Net, fold_batch_norm
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import relu_after, sites

# How many images are computed at a time where that changes no result. Memory grows with it, speed hardly does.
BATCH = 8
_DEFAULT = Policy()
Progress = Callable[[int, int], None]
Feeds = Mapping[str, np.ndarray]


def calibrate(
    net: Net,
    data: Data,
    *,
    policy: Policy = _DEFAULT,
    engine: str = "auto",
    per_channel: bool = False,
    progress: Progress | None = None,
) -> Calibration:
    """Run the full-precision net over the data and collect the statistics of its output sites.

    `policy` decides folding, placement and coverage; the outputs that it would leave in full precision because they are
    the network's answers are collected too. `engine` is one of ENGINES that gives any tensor, or auto, which takes
    onnxruntime where it can. `per_channel` collects those of each output channel too. Images are computed one by one,
    unless the network fixes its batch; memory does not grow with their number. `progress(done, total)` is called after
    each. Warns when the range of the data does not look like what the network was trained on. Raises DataError when an
    activation is NaN or infinite, naming the first layer and the image; WeightsError when it is a weight that is.
    """
    folded = fold_batch_norm(net) if policy.fold_bn else net
    shapes = check_executable(folded)
    stats = StatsCollector(folded, policy, per_channel)
    first, fed = folded.inputs[0], TensorStats()
    chosen = choose_engine(folded, engine)
    if not ENGINES[chosen].any_tensor:
        raise NetError(f"{chosen} does not calibrate", hint=f"{engines_with('any_tensor')} do")
    with finite_weights(net):
        session = ENGINES[chosen].open(folded, stats.tensors, shapes, Options())
    done = 0
    for feeds in data.batches(batch_size(folded, 1)):
        fed += TensorStats.of(feeds[first])
        with finite_weights(net), _traced(folded, feeds, done), one_blas_thread():
            for tensor, values in session(feeds, done).items():
                stats.update(tensor, values)
        done += len(feeds[first])
        if progress:
            progress(done, data.count)
    warn_of_range(net, data, first, fed)
    return Calibration(
        stats.layers,
        net.name,
        net.sha256,
        policy.fold_bn,
        policy.act_placement,
        done,
        data.source,
        stats.all_rectified(),
        stats.channels,
        policy.coverage,
    )


class StatsCollector:
    """The statistics of the output sites of a network, updated with the values of tensors."""

    def __init__(self, net: Net, policy: Policy, per_channel: bool) -> None:
        every = sites(net, dataclasses.replace(policy, round_output=True))
        outputs = [site for site in every if site.role == "output" and site.covered]
        self.layers = {site.layer: TensorStats() for site in outputs}
        self.rectified: dict[str, TensorStats] = {}
        self.channels: dict[str, tuple[TensorStats, ...]] = {}
        self.axes = {site.layer: _channel_axis(net.by_name[site.after]) for site in outputs} if per_channel else {}
        self.outputs = {site.tensor: site.layer for site in outputs}
        self.slopes: dict[str, str] = {}  # tensor after a ReLU that lets something of x < 0 through -> layer
        self.plain: list[str] = []  # the layers whose ReLU does not
        for site in outputs:
            relu = relu_after(net, site.tensor) if policy.act_placement == "before-relu" else None
            if relu is None:
                continue
            if relu.type == "ReLU" and relu.message.relu_param.negative_slope == 0:
                self.plain.append(site.layer)
            else:
                self.slopes[relu.tops[0]] = site.layer
                self.rectified[site.layer] = TensorStats()

    @property
    def tensors(self) -> list[str]:
        """The tensors that it needs."""
        return list(dict.fromkeys([*self.outputs, *self.slopes]))

    def update(self, tensor: str, values: np.ndarray) -> None:
        """Add the values of a tensor, if it is one of those."""
        for wanted, found in ((self.outputs, self.layers), (self.slopes, self.rectified)):
            if tensor in wanted:
                found[wanted[tensor]] += _finite(values, wanted[tensor])
        name = self.outputs.get(tensor, "")
        if name in self.axes:
            own = tuple(TensorStats.of(part) for part in np.moveaxis(values, self.axes[name], 0))
            so_far = self.channels.get(name, (TensorStats(),) * len(own))
            self.channels[name] = tuple(one + two for one, two in zip(so_far, own, strict=True))

    def all_rectified(self) -> dict[str, TensorStats]:
        """The statistics after the ReLUs, in the order of the layers."""
        derived = {name: self.layers[name].rectified() for name in self.plain}
        return {name: (derived | self.rectified)[name] for name in self.layers if name in derived | self.rectified}


def _channel_axis(layer: Layer) -> int:
    return -1 if layer.type == "InnerProduct" else 1


class _NotFiniteError(DataError):
    """A statistic that is NaN or infinite; where it began is yet to be found."""


def _finite(values: np.ndarray, layer: str) -> TensorStats:
    stats = TensorStats.of(values)
    if not np.isfinite(stats.min + stats.max):
        raise _NotFiniteError("an activation is NaN or infinite", layer=layer)
    return stats


@contextmanager
def _traced(net: Net, feeds: Feeds, done: int) -> Iterator[None]:
    """Replace the error of a statistic by one that names the first layer, and the image, at fault."""
    try:
        yield
    except _NotFiniteError as error:

        def visit(layer: Layer, bottoms: Any, tops: Any) -> None:
            for values in map(np.asarray, tops):
                if not np.isfinite(values).all():
                    raise _not_finite(layer.name, values, feeds, done)

        forward(NumpyEngine(), net, feeds, bind_parameters(net, check_executable(net)), first_image=done, visit=visit)
        raise _not_finite(error.layer, np.zeros(0), feeds, done) from None


def _not_finite(layer: str | None, values: np.ndarray, feeds: Feeds, done: int) -> DataError:
    images = len(next(iter(feeds.values())))
    image = done
    if values.ndim and len(values) == images:
        image += int(np.argmin(np.isfinite(values.reshape(images, -1)).all(1)))
    problem = f"an activation is NaN or infinite for image {image}, counted from 0"
    return DataError(problem, layer=layer, hint="check the weights and the input's range")


def warn_of_range(net: Net, data: Data, blob: str, fed: TensorStats) -> None:
    """Warn when the range of what was fed into a blob does not look like what the network was trained on."""
    for sentence in suspicious_range(net, data, fed.min, fed.max):
        warn(f'input "{blob}": {sentence}', stacklevel=3)
