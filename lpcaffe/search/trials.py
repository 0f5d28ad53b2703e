"""Trials: one network, one set of images, many assignments of formats.

A trial computes the network that has the formats that it names, and leaves all other sites in full precision. It is the
network of a plan of these formats (`lpcaffe.quant.apply`), computed by the numpy engine, so its figures are those that
`convert` and `validate` give for that plan, to the last bit if BLAS has one thread there as here. Nothing
is computed twice: a trial starts from the deepest cut point where the network is still that of an earlier trial (see
`states`). Batches are computed side by side, one on each processor, and added up in order.

`isolated` measures one site at several formats. What comes behind the site is float work then: onnxruntime does it,
with one session for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from lpcaffe.calibration import BATCH, Progress, finite_weights
from lpcaffe.calibration.one_thread import one_blas_thread
from lpcaffe.data import Data
from lpcaffe.engines import (
    ENGINES,
    NumpyEngine,
    Options,
    Parameters,
    batch_size,
    bind_parameters,
    check_executable,
    choose_engine,
    engines_with,
    run_layers,
)
from lpcaffe.engines.forward import rounded
from lpcaffe.errors import NetError, PlanError, WeightsError, located
from lpcaffe.net import ArrayBlob, Layer, Net, Rounding, fold_batch_norm
from lpcaffe.net.segment import leading_to, segment
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.rounding.numba_backend import processors
from lpcaffe.quant.apply import Formats, Quantized, check_full_precision, with_implied
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site, sites
from lpcaffe.search.cut_points import choose_cuts, costs, last_uses, state_sizes
from lpcaffe.search.measure import Measure
from lpcaffe.search.metrics import Score
from lpcaffe.search.prepared import prepared, weights_digest
from lpcaffe.search.record import Key, Record
from lpcaffe.search.states import CutFormats, State, States
from lpcaffe.search.tally import Outputs, Reference, Tally, wanted_outputs
from lpcaffe.validation.metric import load_metric, metric_name

# Bytes of values that are kept between trials.
MEMORY = 512 << 20
T = TypeVar("T")

_DEFAULT = Policy()
_MEASURE = Measure()


@dataclass(frozen=True)
class _QuantNet:
    """The low-precision network of a trial: its layers and weights, and the tensors to be rounded."""

    layers: Sequence[Layer]
    parameters: Parameters
    roundings: Mapping[str, Rounding]


class Trials:
    """Runs trials, and remembers their scores.

    net, data   the full-precision network with its weights, and the images. Prepared images are held in memory.
    policy      how it is quantized
    measure     what is measured
    progress    called with the number of trials that are done, and 0, after each
    memory      bytes of values kept between trials; a running trial holds one batch and what it is about to keep

    `run` and `reused` count trials; `layers_run` and `layers_saved` count layers computed, each over all
    images, and those that did not have to be. Raises DataError, also for a record of other work, PlanError, NetError
    and WeightsError.
    """

    def __init__(
        self,
        net: Net,
        data: Data,
        *,
        policy: Policy = _DEFAULT,
        measure: Measure = _MEASURE,
        batch: int = BATCH,
        memory: int = MEMORY,
        progress: Progress | None = None,
    ) -> None:
        check_full_precision(net)
        if net.weights is None:
            raise WeightsError("trials need weights", path=net.path)
        self.policy = policy
        self.float_net = fold_batch_norm(net) if policy.fold_bn else net
        shapes = check_executable(self.float_net)
        self.source, self.images, self.labels = data.source, data.count, data.labels
        self.metric = load_metric(measure.metric) if isinstance(measure.metric, str) else measure.metric
        self.output, wanted = wanted_outputs(self.float_net, measure.output, self.metric is not None)
        self.sites = sites(self.float_net, policy)
        self.net = leading_to(self.float_net, wanted.values())
        self._wanted, self._shapes = wanted, shapes
        # Where each site acts: the layer that computes with the parameters, the one whose top is rounded.
        self._acts = {site: self.net.by_name.get(site.after or site.layer) for site in self.sites}
        with finite_weights(net):
            bound = bind_parameters(self.float_net, shapes)
        self._parameters = Parameters(
            {name: [np.require(blob, np.float32, ["A", "C"]) for blob in blobs] for name, blobs in bound.items()}
        )
        self.engine = choose_engine(self.net, measure.engine)
        if not ENGINES[self.engine].any_tensor:
            raise NetError(f"{self.engine} runs no trials", hint=f"{engines_with('any_tensor')} do")
        feeds, self._firsts, digest = prepared(self.float_net, self.net, data, batch_size(self.float_net, batch))
        self._end = 2 * len(self.net.layers)
        sizes = state_sizes(self.net, shapes, self.images, wanted.values())
        self._states = States(feeds, sizes, memory)
        points = [point for site in self.sites if site.covered and (point := self._cut_point(site)) is not None]
        # Half of the memory for the assignment that a search has reached, half for the one that it tries.
        self._cuts = choose_cuts(points, costs(self.net, shapes), sizes, memory // 2)
        self._release = last_uses(self.net, wanted.values())
        self._rest: tuple[int, Any, Any] = (-1, None, None)
        self.run = self.reused = self.layers_run = self.layers_saved = 0
        self._record = Record(measure.record, self._work(net, weights_digest(bound), digest))
        self._net, self._progress = net, progress

    def _work(self, net: Net, weights: str, data: str) -> dict[str, Any]:
        """What a record is of."""
        policy = self.policy
        work = {
            "network": net.name,
            "sha256": net.sha256,
            "weights": weights,
            "data": data,
            "images": self.images,
            "output": self.output,
            "metric": None if self.metric is None else metric_name(self.metric),
            "fold_bn": policy.fold_bn,
            "act_placement": policy.act_placement,
            "round_bias": policy.round_bias,
            "rounding": policy.rounding,
            "seed": policy.seed,
        }
        return work | ({} if policy.coverage == "learned" else {"coverage": policy.coverage})

    @property
    def baseline(self) -> Score:
        """The score of the full-precision network: no noise, and its own accuracy."""
        key: Key = ("baseline", frozenset())
        if key not in self._record:
            tally = self._tally()
            for index, outputs in enumerate(self._full):
                tally.add(index, outputs)
            self._record.add(key, tally.score())
        return self._record[key]

    def __call__(self, formats: Formats) -> Score:
        """The score of the network with these formats; sites not named stay in full precision."""
        key = self._key("numpy", formats)
        known = key in self._record
        if not known:
            self._record.add(key, self._run(formats))
        self._done(not known, known)
        return self._record[key]

    def isolated(self, site: Site, formats: Sequence[NumberFormat]) -> list[Score]:
        """The scores of the network with one site at each of the formats, and all else in full precision.

        What follows from the format, as in a plan, is rounded too (see `lpcaffe.quant.apply`).

        With onnxruntime the rest adds up in another order than in the full-precision network with which it is
        compared: errors below 1e-6 of the output, an SQNR beyond 110 dB, are not those of the format.
        """
        keys = [self._key(self.engine, {site: fmt}) for fmt in formats]
        missing = {key: fmt for key, fmt in zip(keys, formats, strict=True) if key not in self._record}
        for key, score in zip(missing, self._run_isolated(site, list(missing.values())), strict=True):
            self._record.add(key, score)
        self._done(len(missing), len(formats) - len(missing))
        return [self._record[key] for key in keys]

    def affects_output(self, site: Site) -> bool:
        """Whether the outputs that are measured depend on a site."""
        return self._cut_point(site) is not None

    def _done(self, run: int, reused: int) -> None:
        self.run += run
        self.reused += reused
        if self._progress:
            self._progress(self.run + self.reused, 0)

    def _key(self, engine: str, formats: Formats) -> Key:
        for site, fmt in formats.items():
            self._cut_point(site)
            with located(layer=site.layer):
                fmt.check_dtype(np.float32)
        return engine, frozenset((str(site), str(fmt)) for site, fmt in formats.items())

    def _cut_point(self, site: Site) -> int | None:
        """The cut point from which on a site's format matters; None when the outputs wanted do not depend on it."""
        if site not in self._acts:
            raise PlanError(f"the network has no such site: {site.role}", layer=site.layer)
        layer = self._acts[site]
        return None if layer is None else 2 * layer.index + (site.role == "output")

    def _cut_formats(self, formats: Formats) -> CutFormats:
        points = {site: self._cut_point(site) for site in formats}
        return tuple(sorted((point, f"{site}={formats[site]}") for site, point in points.items() if point is not None))

    @cached_property
    def _full(self) -> list[Outputs]:
        """The outputs of the full-precision network, batch by batch."""
        quant_net = _QuantNet(self.net.layers, self._parameters, {})

        def outputs(index: int) -> Outputs:
            values = dict(self._states.start[index])
            self._advance(quant_net, index, values, 0, self._end)
            return self._outputs(values)

        return list(self._each_batch(outputs))

    def _tally(self) -> Tally:
        return Tally(Reference(self._net, self.output, self._full, self._firsts, self.labels, self.metric))

    def _each_batch(self, function: Callable[[int], T]) -> Iterator[T]:
        """The results of a function of a batch's index, in order, computed on all processors, a batch on each."""
        with one_blas_thread(), ThreadPoolExecutor(processors(), thread_name_prefix="trials") as pool:
            yield from pool.map(function, range(len(self._states.start)))

    def _run(self, formats: Formats) -> Score:
        cut_formats = self._cut_formats(formats)
        start, state = self._states.deepest(cut_formats, self._end)
        kept = [cut for cut in self._cuts if cut > start]
        self._states.make_room(kept)
        quant_net = self._quant_net(formats, start)
        new: dict[int, State] = {cut: [] for cut in kept}

        def batch(index: int) -> tuple[Outputs, dict[int, dict[str, Any]]]:
            values, passed = dict(state[index]), {}
            for here, there in pairwise([start, *kept, self._end]):
                self._advance(quant_net, index, values, here, there)
                if there in new:
                    passed[there] = dict(values)
            return self._outputs(values), passed

        tally = self._tally()
        for index, (outputs, passed) in enumerate(self._each_batch(batch)):
            tally.add(index, outputs)
            for cut, values in passed.items():
                new[cut].append(values)
        for cut, own in new.items():
            self._states.hold(cut, cut_formats, own)
        self._count(start)
        return tally.score()

    def _run_isolated(self, site: Site, formats: list[NumberFormat]) -> list[Score]:
        """The scores, batch by batch of the full-precision values in front of the site, which are kept for the next."""
        point = self._cut_point(site)
        if not formats or point is None:
            return [self.baseline for _ in formats]
        # A bias behind the site may get a format from it, and computes in low precision then.
        implied = (with_implied(self.float_net, self.sites, {site: fmt}, self.policy) for fmt in formats)
        own_layers = {one.layer for found in implied for one in found}
        ends = [layer.index for one, layer in self._acts.items() if layer is not None and one.layer in own_layers]
        behind = 2 * (max(ends) + 1)
        start, state = self._states.deepest((), point)
        kept = self._states.sizes[point] <= self._states.memory
        if kept:  # sites come in the order of the network: the state of the site before is not needed again
            self._states.drop(start, ())
            self._states.make_room([point])
        # Rounded weights are made once for all batches if they are not too large.
        weight_bytes = sum(blob.nbytes for blob in self._parameters.get(site.layer, ()))
        quant_nets = None
        if site.role == "output" or weight_bytes * len(formats) <= self._states.memory:
            quant_nets = [self._quant_net({site: fmt}, point) for fmt in formats]
        full, rest = self._quant_net({}, 0), self._rest_from(behind)
        new: State = []

        def batch(index: int) -> tuple[dict[str, Any], list[Outputs]]:
            values, found = dict(state[index]), []
            self._advance(full, index, values, start, point)
            for number, fmt in enumerate(formats):
                own = dict(values)
                net = quant_nets[number] if quant_nets else self._quant_net({site: fmt}, point)
                self._advance(net, index, own, point, behind)
                rest(index, own)
                found.append(self._outputs(own))
            return values, found

        tallies = [self._tally() for _ in formats]
        for index, (values, found) in enumerate(self._each_batch(batch)):
            if kept:
                new.append(values)
            for tally, outputs in zip(tallies, found, strict=True):
                tally.add(index, outputs)
        if kept:
            self._states.hold(point, (), new)
        for number in range(len(formats)):
            self._count(point if number else start)
        return [tally.score() for tally in tallies]

    def _count(self, start: int) -> None:
        """Count the layers of a trial that was computed from a cut point on."""
        saved = (start + 1) // 2
        self.layers_saved += saved
        self.layers_run += len(self.net.layers) - saved

    def _quant_net(self, formats: Formats, start: int) -> _QuantNet:
        """The network of a trial that starts at a cut point."""
        every = with_implied(self.float_net, self.sites, formats, self.policy)
        behind = {s: fmt for s, fmt in every.items() if (point := self._cut_point(s)) is not None and point >= start}
        quantized = Quantized(self.float_net, self.policy, self.sites, behind)
        parameters = dict(self._parameters)
        for name, own in quantized.parameters.items():
            with located(layer=name):
                parameters[name] = [
                    quantized.rounded(own[i], ArrayBlob(blob), blob.shape).array() if i in own else blob
                    for i, blob in enumerate(parameters[name])
                ]
        layers = [quantized.with_rounded_fields(layer) for layer in self.net.layers]
        return _QuantNet(layers, Parameters(parameters), quantized.roundings)

    def _advance(self, quant_net: _QuantNet, index: int, values: dict[str, Any], start: int, stop: int) -> None:
        """Take the values of a batch from one cut point to another."""
        if start == stop:
            return
        ops = NumpyEngine(seed=self.policy.seed, first_image=self._firsts[index])
        layers, roundings = quant_net.layers, quant_net.roundings
        if start % 2:
            for tensor in layers[start // 2].tops:
                if tensor in roundings and tensor in values:
                    values[tensor] = rounded(ops, values[tensor], roundings[tensor])
        if stop % 2:
            last = layers[stop // 2].tops
            roundings = {tensor: rule for tensor, rule in roundings.items() if tensor not in last}
        run_layers(
            ops,
            layers[(start + 1) // 2 : (stop + 1) // 2],
            values,
            quant_net.parameters,
            roundings=roundings,
            release=self._release,
        )

    def _outputs(self, values: Mapping[str, Any]) -> Outputs:
        return {blob: np.asarray(values[tensor]) for blob, tensor in self._wanted.items()}

    def _rest_from(self, point: int) -> Callable[[int, dict[str, Any]], None]:
        """What takes the values of a batch from a cut point to the end, when nothing is rounded behind it."""
        first = point // 2
        taps = {top for layer in self.net.layers[first:] for top in layer.tops} & set(self._wanted.values())
        if self.engine == "numpy" or not taps:
            full = self._quant_net({}, 0)
            return lambda index, values: self._advance(full, index, values, point, self._end)
        if self._rest[0] != first:
            behind = segment(self.net, first, shapes=self._shapes.tensors)
            session = ENGINES[self.engine].open(behind, taps, check_executable(behind), Options(threads=1))
            self._rest = first, behind, session
        _, behind, session = self._rest
        inputs = {
            blob: tensor
            for layer in behind.layers
            if layer.type == "Input"
            for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True)
        }

        def rest(index: int, values: dict[str, Any]) -> None:
            values.update(session({blob: values[tensor] for blob, tensor in inputs.items()}, self._firsts[index]))

        return rest
