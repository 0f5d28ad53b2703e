"""Trials: one network, one set of images, many assignments of formats.

A trial computes the low-precision network that gives each **part** (the weights of a layer, or its output) the format
that the trial names, and leaves the others in full precision. Its weights are round_fp of the full-precision ones, and
its outputs are rounded where `rewrite` would put the LPAct; the numpy engine computes it, so its figures are those that
`convert` and `validate` give for a plan of these formats, to the last bit if BLAS has one thread there as here. Nothing
is computed twice: a trial starts from the deepest place where the network is still that of an earlier trial (see
`states`). Batches are computed side by side, one on each processor, and added up in order.

`alone` measures one part at several formats. What comes behind the part is float work then: onnxruntime does it, with
one session for all formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from os import PathLike
from typing import Any, TypeVar

import numpy as np

from lpcaffe.calibration import BATCH, Progress, finite_weights
from lpcaffe.calibration.one_thread import one_blas_thread
from lpcaffe.conversion.rewrite import check_full_precision
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
from lpcaffe.net import Net, Rounding, fold_batch_norm, learned_layers
from lpcaffe.net.placement import last_of_output
from lpcaffe.net.segment import leading_to, segment
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import round_fp, stream_of
from lpcaffe.numbers.rounding.numba_backend import processors
from lpcaffe.plan import BitPlan
from lpcaffe.search.metrics import Score
from lpcaffe.search.parts import KINDS, Part
from lpcaffe.search.places import choose_cuts, costs, last_uses, state_sizes
from lpcaffe.search.prepared import prepared, weights_digest
from lpcaffe.search.record import Key, Record
from lpcaffe.search.states import Formats, State, States
from lpcaffe.search.tally import Outputs, Reference, Tally, wanted_outputs
from lpcaffe.validation.metric import Metric, load_metric, metric_name

# Bytes of values that are kept between trials.
MEMORY = 512 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class _Low:
    """The low-precision network of a trial: its weights, and the tensors to be rounded."""

    parameters: Parameters
    roundings: Mapping[str, Rounding]


class Trials:
    """Runs trials, and remembers their scores.

    net, data        the full-precision network with its weights, and the images. Prepared images are held in memory.
    fold_bn, act_placement, round_bias, rounding, seed    as in a plan
    output           the blob that decides; by default the first Softmax, or else the last output, as in `validate`
    metric           the user's own figure, or its `module:function` (see `lpcaffe.validation.metric`)
    record           a file to which every trial is written, and from which those of an interrupted run are taken
    engine           what computes the float rest in `alone`: numpy, onnxruntime, or auto, which takes onnxruntime
    progress         called with the number of trials that are done, and 0, after each
    memory           bytes of values kept between trials; a running trial holds one batch and what it is about to keep

    `run` and `reused` count trials; `layers_run` and `layers_saved` count layers computed, each over all
    images, and those that did not have to be. Raises DataError, also for a record of other work, PlanError, NetError
    and WeightsError.
    """

    def __init__(
        self,
        net: Net,
        data: Data,
        *,
        fold_bn: bool = True,
        act_placement: str = "before-relu",
        round_bias: bool = False,
        rounding: str = "deterministic",
        seed: int = 0,
        output: str | None = None,
        metric: Metric | str | None = None,
        record: str | PathLike[str] | None = None,
        engine: str = "auto",
        batch: int = BATCH,
        memory: int = MEMORY,
        progress: Progress | None = None,
    ) -> None:
        check_full_precision(net)
        if net.weights is None:
            raise WeightsError("trials need weights", path=net.path)
        self.how = BitPlan({}, rounding=rounding, seed=seed, round_bias=round_bias, act_placement=act_placement)
        base = fold_batch_norm(net) if fold_bn else net
        shapes = check_executable(base)
        self.source, self.images, self.labels = data.source, data.count, data.labels
        self.metric = load_metric(metric) if isinstance(metric, str) else metric
        self.output, wanted = wanted_outputs(base, output, self.metric is not None)
        # Where each part acts: the layer that computes with the weights, the one whose top is rounded.
        acts = {(layer.name, "weights"): layer for layer in learned_layers(base)} | {
            (layer.name, "output"): last_of_output(base, layer, act_placement) for layer in learned_layers(base)
        }
        self.net = leading_to(base, wanted.values())
        self._wanted, self._shapes = wanted, shapes
        self._acts = {part: self.net.by_name.get(layer.name) for part, layer in acts.items()}
        with finite_weights(net):
            bound = bind_parameters(base, shapes)
        self._parameters = Parameters(
            {name: [np.require(blob, np.float32, ["A", "C"]) for blob in blobs] for name, blobs in bound.items()}
        )
        self.engine = choose_engine(self.net, engine)
        if not ENGINES[self.engine].any_tensor:
            raise NetError(f"{self.engine} runs no trials", hint=f"{engines_with('any_tensor')} do")
        feeds, self._firsts, digest = prepared(base, self.net, data, batch_size(base, batch))
        self._end = 2 * len(self.net.layers)
        sizes = state_sizes(self.net, shapes, self.images, wanted.values())
        self._states = States(feeds, sizes, memory)
        places = [place for part in acts if (place := self._place(part)) is not None]
        # Half of the memory for the assignment that a search has reached, half for the one that it tries.
        self._cuts = choose_cuts(places, costs(self.net, shapes), sizes, memory // 2)
        self._release = last_uses(self.net, wanted.values())
        self._rest: tuple[int, Any, Any] = (-1, None, None)
        self.run = self.reused = self.layers_run = self.layers_saved = 0
        self._record = Record(
            record,
            {
                "network": net.name,
                "sha256": net.sha256,
                "weights": weights_digest(bound),
                "data": digest,
                "images": self.images,
                "output": self.output,
                "metric": None if self.metric is None else metric_name(self.metric),
                "fold_bn": fold_bn,
                "act_placement": act_placement,
                "round_bias": round_bias,
                "rounding": rounding,
                "seed": seed,
            },
        )
        self._net, self._progress = net, progress

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

    def __call__(self, formats: Mapping[Part, QFormat]) -> Score:
        """The score of the network with these formats; parts not named stay in full precision."""
        key = self._key("numpy", formats)
        known = key in self._record
        if not known:
            self._record.add(key, self._run(formats))
        self._done(not known, known)
        return self._record[key]

    def alone(self, part: Part, formats: Sequence[QFormat]) -> list[Score]:
        """The scores of the network with one part at each of the formats, and all else in full precision.

        With onnxruntime the rest adds up in another order than in the full-precision network with which it is
        compared: errors below 1e-6 of the output, an SQNR beyond 110 dB, are not those of the format.
        """
        keys = [self._key(self.engine, {part: fmt}) for fmt in formats]
        missing = {key: fmt for key, fmt in zip(keys, formats, strict=True) if key not in self._record}
        for key, score in zip(missing, self._run_alone(part, list(missing.values())), strict=True):
            self._record.add(key, score)
        self._done(len(missing), len(formats) - len(missing))
        return [self._record[key] for key in keys]

    def matters(self, part: Part) -> bool:
        """Whether the outputs that are measured depend on a part."""
        return self._place((part.layer, part.kind)) is not None

    def _done(self, run: int, reused: int) -> None:
        self.run += run
        self.reused += reused
        if self._progress:
            self._progress(self.run + self.reused, 0)

    def _key(self, engine: str, formats: Mapping[Part, QFormat]) -> Key:
        for part, fmt in formats.items():
            self._place((part.layer, part.kind))
            with located(layer=part.layer):
                fmt.check_dtype(np.float32)
        return engine, frozenset((str(part), str(fmt)) for part, fmt in formats.items())

    def _place(self, part: tuple[str, str]) -> int | None:
        """The place from which on a part's format matters; None when the outputs wanted do not depend on it."""
        if part not in self._acts:
            raise PlanError(f"there is no such part of the network: {part[1]}", layer=part[0])
        layer = self._acts[part]
        return None if layer is None else 2 * layer.index + (part[1] == "output")

    def _placed(self, formats: Mapping[Part, QFormat]) -> Formats:
        places = {part: self._place((part.layer, part.kind)) for part in formats}
        return tuple(sorted((place, f"{part}={formats[part]}") for part, place in places.items() if place is not None))

    @cached_property
    def _full(self) -> list[Outputs]:
        """The outputs of the full-precision network, batch by batch."""
        low = _Low(self._parameters, {})

        def outputs(index: int) -> Outputs:
            values = dict(self._states.start[index])
            self._advance(low, index, values, 0, self._end)
            return self._outputs(values)

        return list(self._each_batch(outputs))

    def _tally(self) -> Tally:
        return Tally(Reference(self._net, self.output, self._full, self._firsts, self.labels, self.metric))

    def _each_batch(self, function: Callable[[int], T]) -> Iterator[T]:
        """The results of a function of a batch's index, in order, computed on all processors, a batch on each."""
        with one_blas_thread(), ThreadPoolExecutor(processors(), thread_name_prefix="trials") as pool:
            yield from pool.map(function, range(len(self._states.start)))

    def _run(self, formats: Mapping[Part, QFormat]) -> Score:
        placed = self._placed(formats)
        start, state = self._states.deepest(placed, self._end)
        kept = [cut for cut in self._cuts if cut > start]
        self._states.make_room(kept)
        low = self._low(formats, start)
        new: dict[int, State] = {cut: [] for cut in kept}

        def batch(index: int) -> tuple[Outputs, dict[int, dict[str, Any]]]:
            values, passed = dict(state[index]), {}
            for here, there in pairwise([start, *kept, self._end]):
                self._advance(low, index, values, here, there)
                if there in new:
                    passed[there] = dict(values)
            return self._outputs(values), passed

        tally = self._tally()
        for index, (outputs, passed) in enumerate(self._each_batch(batch)):
            tally.add(index, outputs)
            for cut, values in passed.items():
                new[cut].append(values)
        for cut, own in new.items():
            self._states.hold(cut, placed, own)
        self._count(start)
        return tally.score()

    def _run_alone(self, part: Part, formats: list[QFormat]) -> list[Score]:
        """The scores, batch by batch of the full-precision values in front of the part, which are kept for the next."""
        place = self._place((part.layer, part.kind))
        if not formats or place is None:
            return [self.baseline for _ in formats]
        ends = [layer.index for kind in KINDS if (layer := self._acts[part.layer, kind]) is not None]
        behind = 2 * (max(ends) + 1)
        start, state = self._states.deepest((), place)
        kept = self._states.sizes[place] <= self._states.memory
        if kept:  # parts come in the order of the network: the state of the part before is not needed again
            self._states.drop(start, ())
            self._states.make_room([place])
        # Rounded weights are made once for all batches if they are not too large.
        weight_bytes = sum(blob.nbytes for blob in self._parameters.get(part.layer, ()))
        lows = None
        if part.kind == "output" or weight_bytes * len(formats) <= self._states.memory:
            lows = [self._low({part: fmt}, place) for fmt in formats]
        full, rest = self._low({}, 0), self._rest_from(behind)
        new: State = []

        def batch(index: int) -> tuple[dict[str, Any], list[Outputs]]:
            values, found = dict(state[index]), []
            self._advance(full, index, values, start, place)
            for number, fmt in enumerate(formats):
                own = dict(values)
                self._advance(lows[number] if lows else self._low({part: fmt}, place), index, own, place, behind)
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
            self._states.hold(place, (), new)
        for number in range(len(formats)):
            self._count(place if number else start)
        return [tally.score() for tally in tallies]

    def _count(self, start: int) -> None:
        """Count the layers of a trial that was computed from a place on."""
        saved = (start + 1) // 2
        self.layers_saved += saved
        self.layers_run += len(self.net.layers) - saved

    def _low(self, formats: Mapping[Part, QFormat], start: int) -> _Low:
        """The network of a trial that starts at a place."""
        parameters = dict(self._parameters)
        roundings = {}
        for part, fmt in formats.items():
            layer = self._acts[part.layer, part.kind]
            if layer is None or 2 * layer.index + (part.kind == "output") < start:
                continue
            if part.kind == "weights":
                parameters[part.layer] = self._rounded(part.layer, fmt)
            else:
                roundings[layer.tops[0]] = Rounding(fmt, self.how.rounding, f"{part.layer}_lpact")
        return _Low(Parameters(parameters), roundings)

    def _rounded(self, name: str, fmt: QFormat) -> list[np.ndarray]:
        """The weights of a layer in a format, the bias too with `round_bias`."""
        blobs = list(self._parameters[name])
        with located(layer=name):
            for index in range(len(blobs) if self.how.round_bias else 1):
                # Streams count the blobs of the LP layer, where the bias is blob 2.
                stream = stream_of(f"{name}/{2 * index}")
                blobs[index] = round_fp(
                    blobs[index], fmt.bd, fmt.ad, self.how.rounding, seed=self.how.seed, stream=stream
                )
        return blobs

    def _advance(self, low: _Low, index: int, values: dict[str, Any], start: int, stop: int) -> None:
        """Take the values of a batch from one place to another."""
        if start == stop:
            return
        ops = NumpyEngine(seed=self.how.seed, first_image=self._firsts[index])
        layers, roundings = self.net.layers, low.roundings
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
            low.parameters,
            roundings=roundings,
            release=self._release,
        )

    def _outputs(self, values: Mapping[str, Any]) -> Outputs:
        return {blob: np.asarray(values[tensor]) for blob, tensor in self._wanted.items()}

    def _rest_from(self, place: int) -> Callable[[int, dict[str, Any]], None]:
        """What takes the values of a batch from a place to the end, when nothing is rounded behind it."""
        first = place // 2
        taps = {top for layer in self.net.layers[first:] for top in layer.tops} & set(self._wanted.values())
        if self.engine == "numpy" or not taps:
            full = self._low({}, 0)
            return lambda index, values: self._advance(full, index, values, place, self._end)
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
