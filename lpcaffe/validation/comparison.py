"""The low-precision network against the full-precision one, layer by layer and at the outputs.

isolated       a layer pair computed on the full-precision network's values: the layer's own error only
accumulated    the same pair in a run of the whole low-precision network: all errors so far
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lpcaffe.calibration import BATCH, Progress, TensorStats, warn_of_range
from lpcaffe.data import Data
from lpcaffe.engines import NumpyEngine, batch_size, bind_parameters, check_executable, forward, run_layers
from lpcaffe.engines.forward import rounded
from lpcaffe.errors import DataError, located
from lpcaffe.net import Layer, Net
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import Site
from lpcaffe.validation.metric import Metric, measure
from lpcaffe.validation.pairs import LayerPair, layer_pairs, read_quant_net


@dataclass
class OutputAgreement:
    """One output blob over the data: errors, and how often the largest value along axis 1 is at the same index.

    `top1` and `top5` count the labels found, for the full-precision and the low-precision network; None without labels.
    """

    blob: str
    classifier: bool
    error: ErrorStats = field(default_factory=ErrorStats)
    agreeing: int = 0
    decisions: int = 0
    images: int = 0
    top1: list[int] | None = None
    top5: list[int] | None = None

    @property
    def agreement(self) -> float | None:
        """The fraction of decisions that are the same; None where there are none to take."""
        return self.agreeing / self.decisions if self.decisions else None

    def accuracy(self, k: int) -> tuple[float, float] | None:
        """Top-k accuracy of the full-precision and of the low-precision network."""
        hits = self.top1 if k == 1 else self.top5
        return None if hits is None else (hits[0] / self.images, hits[1] / self.images)


@dataclass(frozen=True)
class Comparison:
    """Errors by layer name, and the outputs; `accumulated` and `outputs` are empty unless they were asked for.

    `metric` is the user's own figure, None unless there is one.
    """

    pairs: Sequence[LayerPair]
    float_sites: Sequence[Site]
    isolated: dict[str, ErrorStats]
    accumulated: dict[str, ErrorStats]
    outputs: list[OutputAgreement]
    images: int
    metric: float | None = None

    @property
    def worst(self) -> str | None:
        """The layer whose own error is the largest, relative to its output."""
        ratios = {name: e.noise / e.signal for name, e in self.isolated.items() if e.signal}
        return max(ratios, key=lambda name: ratios[name]) if ratios and max(ratios.values()) > 0 else None


def compare(
    float_net: Net,
    quant_net: Net,
    data: Data,
    *,
    plan: BitPlan | None = None,
    accumulated: bool = True,
    batch: int = BATCH,
    metric: Metric | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Run both networks, which have weights, over the data. `float_net` is folded like `quant_net`.

    A plan gives the seed of stochastic rounding, and for the plain dialect the activation formats. A `metric` (see
    `lpcaffe.validation.metric`) needs `accumulated`; the outputs of all images are held for it.
    """
    run = _Run(float_net, quant_net, plan, accumulated, keep=metric is not None)
    done = 0
    labels = data.labels if accumulated else None
    first, fed = float_net.inputs[0], TensorStats()
    for feeds in data.batches(min(batch_size(float_net, batch), batch_size(quant_net, batch))):
        size = len(feeds[first])
        fed += TensorStats.of(feeds[first])
        run.batch(feeds, done, None if labels is None else labels[done : done + size])
        done += size
        if progress:
            progress(done, data.count)
    warn_of_range(float_net, data, first, fed)
    value = None if metric is None else measure(metric, *run.kept, labels)
    return Comparison(run.pairs, run.quantized.float_sites, run.isolated, run.accumulated, run.outputs, done, value)


@dataclass(frozen=True)
class _QuantEngine(NumpyEngine):
    """The numpy engine. `show` gets outputs before they are rounded, on which saturation is judged."""

    show: Callable[[Any], None] = lambda _: None

    def quantize(self, x: Any, fmt: NumberFormat, scheme: str, site: int | str) -> Any:
        """By the numpy engine."""
        if site == "top":
            self.show(x)
        return super().quantize(x, fmt, scheme, site)


class _Run:
    """Both networks ready to run, and the figures so far."""

    def __init__(self, float_net: Net, quant_net: Net, plan: BitPlan | None, accumulated: bool, keep: bool) -> None:
        self.quantized = read_quant_net(quant_net, plan)
        self.pairs = layer_pairs(float_net, quant_net, self.quantized)
        self.float_net, self.quant_net = float_net, self.quantized.net
        self.float_parameters = bind_parameters(float_net, check_executable(float_net))
        self.quant_parameters = bind_parameters(self.quant_net, check_executable(self.quant_net))
        self.float_ops = NumpyEngine()
        self.unrounded: list[Any] = []  # the last output before it was rounded
        self.quant_ops = _QuantEngine(seed=self.quantized.policy.seed, show=self._keep)
        self.isolated = {pair.name: ErrorStats() for pair in self.pairs}
        self.accumulated = {pair.name: ErrorStats() for pair in self.pairs} if accumulated else {}
        self.by_layer: dict[str, list[LayerPair]] = {}
        for pair in self.pairs:
            self.by_layer.setdefault(pair.layers[0].name, []).append(pair)
        self.by_tensor = {pair.site.tensor: pair for pair in self.pairs}
        self.outputs = outputs_of(float_net, self.quant_net.last_versions) if accumulated else []
        # The outputs of both networks by blob, batch by batch, if they are kept.
        self.keep = keep
        self.kept: tuple[dict[str, list[Any]], dict[str, list[Any]]] = ({}, {})

    def batch(self, feeds: dict[str, np.ndarray], first: int, labels: np.ndarray | None) -> None:
        """Take one batch through both networks."""
        own: dict[str, tuple[Any, Any]] = {}
        true: dict[str, Any] = {}

        def on_float(layer: Layer, bottoms: Sequence[Any], tops: Sequence[Any]) -> None:
            for pair in self.by_layer.get(layer.name, ()):
                own[pair.name] = self._isolated_values(pair, bottoms, tops, first)
            for tensor, value in zip(layer.tops, tops, strict=True):
                if tensor in self.by_tensor:
                    pair = self.by_tensor[tensor]
                    unrounded, result = own.pop(pair.name)
                    with located(layer=pair.name):
                        self.isolated[pair.name].add(value, result, pair.output, unrounded)
                    if self.accumulated:
                        true[pair.name] = value

        def on_quant(layer: Layer, bottoms: Sequence[Any], tops: Sequence[Any]) -> None:
            for tensor, value in zip(layer.tops, tops, strict=True):
                if tensor in self.by_tensor:
                    pair = self.by_tensor[tensor]
                    given = value if pair.output is None else self.unrounded[0]
                    with located(layer=pair.name):
                        self.accumulated[pair.name].add(true.pop(pair.name), value, pair.output, given)

        wanted = {output.blob: self.float_net.last_versions[output.blob] for output in self.outputs}
        float_values = forward(
            self.float_ops, self.float_net, feeds, self.float_parameters, keep=set(wanted.values()), visit=on_float
        )
        if not self.accumulated and not self.outputs:
            return
        quant_wanted = {blob: self.quant_net.last_versions[blob] for blob in wanted}
        quant_values = forward(
            self.quant_ops,
            self.quant_net,
            feeds,
            self.quant_parameters,
            first_image=first,
            keep=set(quant_wanted.values()),
            visit=on_quant,
        )
        for output in self.outputs:
            pair = float_values[wanted[output.blob]], quant_values[quant_wanted[output.blob]]
            add_output(output, *pair, labels)
            if self.keep:
                for kept, values in zip(self.kept, pair, strict=True):
                    kept.setdefault(output.blob, []).append(values)

    def _keep(self, unrounded: Any) -> None:
        self.unrounded[:] = [unrounded]

    def _isolated_values(
        self, pair: LayerPair, bottoms: Sequence[Any], tops: Sequence[Any], first: int
    ) -> tuple[Any, Any]:
        """The pair's output on full-precision values: before and after it is rounded."""
        ops = dataclasses.replace(self.quant_ops, first_image=first)
        head, tensor = pair.layers[0], pair.site.tensor
        values = dict(zip(head.bottoms, bottoms, strict=True))
        if head.type == "Input":
            values = dict(zip(head.tops, tops, strict=True))
        run_layers(ops, pair.layers, values, self.quant_parameters)
        unrounded = values[tensor]
        if tensor not in self.quant_net.roundings:
            return unrounded, unrounded
        return unrounded, rounded(ops, unrounded, self.quant_net.roundings[tensor])


def _writer(net: Net, blob: str) -> str:
    tensor = net.last_versions[blob]
    return next(layer.name for layer in net.layers if tensor in layer.tops)


def outputs_of(net: Net, among: Collection[str]) -> list[OutputAgreement]:
    """The output blobs of a network that are among these, before any data: in order of production.

    Those of Softmax layers decide, or without one the last output.
    """
    blobs = [blob for blob in net.last_versions if blob in net.outputs and blob in among]
    softmax = [blob for blob in blobs if net.by_name[_writer(net, blob)].type == "Softmax"]
    return [OutputAgreement(blob, blob in (softmax or blobs[-1:])) for blob in blobs]


def add_output(output: OutputAgreement, true: np.ndarray, got: np.ndarray, labels: np.ndarray | None) -> None:
    """Add a batch: the output of the full-precision network, that of the low-precision one, and the images' labels.

    Raises DataError for NaN and infinity, and for a label that is no class.
    """
    with located(blob=output.blob):
        output.error.add(true, got, None)
    output.images += len(true)
    if true.ndim < 2 or true.shape[1] < 2:
        return
    same = true.argmax(1) == got.argmax(1)
    output.agreeing += int(np.count_nonzero(same))
    output.decisions += int(same.size)
    if labels is None or not output.classifier or same.size != len(true):
        return
    pair = [values.reshape(len(true), -1) for values in (true, got)]
    wrong = labels[(labels < 0) | (labels >= true.shape[1])]
    if wrong.size:
        raise DataError(f"expected labels of 0 to {true.shape[1] - 1}, got {wrong[0]}", blob=output.blob)
    output.top1 = output.top1 or [0, 0]
    output.top5 = output.top5 or ([0, 0] if true.shape[1] > 5 else None)
    for i, scores in enumerate(pair):
        # The rank of the label's score: how many are larger, or equal and earlier, as argmax decides ties.
        own = scores[np.arange(len(scores)), labels][:, None]
        rank = np.count_nonzero(scores > own, axis=1)
        rank += np.count_nonzero((scores == own) & (np.arange(scores.shape[1]) < labels[:, None]), axis=1)
        output.top1[i] += int(np.count_nonzero(rank < 1))
        if output.top5 is not None:
            output.top5[i] += int(np.count_nonzero(rank < 5))
