"""ADaPTION's dialect: LPConvolution, LPInnerProduct and LPAct.

    blobs      [W, round(W), b, round(b)], or [W, round(W)] without bias: even full precision, odd rounded, always
    lpfp_param bd and ad of the weights, `round_bias`, the scheme; one format serves weights and bias
    outputs    an LPAct in place on the output, after the layer that the site names; no tensor is renamed

What the layers can express: the schemes deterministic and stochastic, and Qm.f with bd >= 1 and ad >= 0, since `bd`
counts the sign bit and is unsigned, and both are shifts. A format of weights with bd < 1 is nevertheless exact: Q1.10
has the step of Q-2.10 and holds all its values. The prototxt gets bd 1 with the same ad, and where the two formats
could round a value differently the even blob holds the limit of the plan's range, so that odd = round_fp(even) and
every code fits the width of the plan:

    deterministic   |w| >= max + step/2         stochastic   |w| > max

(a bias alike, with `round_bias`). 1 + ad is at most 25, what a float32 holds. For outputs, whose values are not known
beforehand, there is no such way: they need bd >= 1.

Parameters of types that have no LP form (Deconvolution, slopes, coefficients) are written rounded, in place. So is a
bias with a format of its own: blob 2 holds the rounded value, `round_bias` is false, and blob 3 is round_fp of blob 2
in the layer's written format.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from lpcaffe.dialects.adaption_layers import low_precision, lp_act
from lpcaffe.dialects.adaption_read import read
from lpcaffe.dialects.blobs import copied
from lpcaffe.dialects.dialect import Blobs, Clipped, check
from lpcaffe.dialects.plain import fit_to_float32
from lpcaffe.errors import PlanError, located
from lpcaffe.formats.caffemodel import BlobSource
from lpcaffe.formats.schema import Message
from lpcaffe.layers.data import is_data
from lpcaffe.layers.low_precision import LPFP_SCHEMES
from lpcaffe.net import LOW_PRECISION, Net, WeightBlob, blob_of
from lpcaffe.net.blobs import CHUNK, finite_chunks
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.rounded import RoundedBlob
from lpcaffe.quant.sites import Site

# The longest fraction of an LP layer: Q1.24 is the widest format that a float32 holds.
HIGHEST_AD = 24


def written_format(fmt: QFormat) -> QFormat:
    """What the prototxt holds for a format of weights."""
    return QFormat(max(fmt.bd, 1), fmt.ad)


def effective_format(odd: WeightBlob, fmt: QFormat) -> QFormat:
    """The narrowest format of the same step that holds every value of a rounded blob: what a plan may have had.

    Formats with bd < 1 are written with bd 1 (see the module), so a Q1.10 may hold codes of 8 bits.
    """
    if fmt.bd > 1:
        return fmt
    largest = max((float(np.abs(chunk).max(initial=0)) for chunk in odd.chunks(CHUNK)), default=0.0)
    code = 0 if not np.isfinite(largest) else min(round(np.ldexp(largest, fmt.ad)), fmt.code_max)
    width = max(code.bit_length() + 1, 2)
    return fmt if width >= fmt.width else QFormat(width - fmt.ad, fmt.ad)


@dataclass(frozen=True)
class Adaption:
    """See the module."""

    name: str = "adaption"
    hint: str | None = "--dialect plain expresses it"
    schemes: Collection[str] = LPFP_SCHEMES
    marked: bool = True

    def fit(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """Qm.f with ad >= 0, for weights up to HIGHEST_AD, for outputs with bd >= 1."""
        if site.role == "bias" or (site.role == "weights" and site.type not in LOW_PRECISION):
            return fit_to_float32(fmt)
        if not isinstance(fmt, QFormat):
            raise PlanError(f"{site.role}: ADaPTION's layers express Qm.f alone, got {fmt}", hint=self.hint)
        highest = max(fmt.width - 1, 0) if site.role == "output" else max(fmt.width - 1, HIGHEST_AD)
        ad = min(max(fmt.ad, 0), highest)
        return QFormat(fmt.width - ad, ad)

    def written(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """With bd 1 in place of a smaller one, for the weights of LP layers."""
        if isinstance(fmt, QFormat) and site.role == "weights" and site.type in LOW_PRECISION:
            return written_format(fmt)
        return fmt

    def copies(self, type_: str) -> int:
        """Even and odd."""
        return 2 if type_ in LOW_PRECISION else 1

    def network(self, quantized: Quantized) -> Net:
        """The network with LP layers in place of those with formatted weights, and an LPAct for each output."""
        check(self, quantized)
        base, policy = quantized.base, quantized.policy
        weights = {s.layer: fmt for s, fmt in quantized.formats.items() if s.role == "weights"}
        acts = _acts(quantized)
        message = type(base.message)()
        message.CopyFrom(quantized.message)
        del message.layer[:]
        for source in quantized.message.layer:
            layer = message.layer.add()
            layer.CopyFrom(source)
            # A layer of the other phase may have the same name: it is converted too if it is the same layer.
            twin = base.by_name.get(source.name)
            same = twin is not None and twin.type == source.type
            fmt = weights.get(source.name)
            if same and source.type in LOW_PRECISION and isinstance(fmt, QFormat):
                low_precision(layer, written_format(fmt), policy)
            for site, output in acts(source, same):
                message.layer.append(lp_act(site, output, source, policy))
        return base.replace(message, None)

    def blobs(self, quantized: Quantized, clipped: Clipped) -> Blobs:
        """Of LP layers each blob twice."""
        found = {}
        shapes = quantized.shapes.params
        for name, blobs in quantized.blobs.items():
            with located(layer=name):
                own = quantized.parameters.get(name, {})
                if quantized.base.by_name[name].type in LOW_PRECISION and 0 in own:
                    found[name] = self._doubled(quantized, name, blobs, clipped)
                else:
                    found[name] = [
                        BlobSource(tuple(shape), partial(blob.chunks, 0)) if i in own else copied(blob, shape, i)
                        for i, (blob, shape) in enumerate(zip(blobs, shapes[name], strict=True))
                    ]
        return found

    def _doubled(
        self, quantized: Quantized, name: str, blobs: Sequence[WeightBlob], clipped: Clipped
    ) -> list[BlobSource]:
        fmt = quantized.formats[quantized.parameters[name][0]]
        assert isinstance(fmt, QFormat)
        sources: list[BlobSource] = []
        for index, (blob, shape) in enumerate(zip(blobs, quantized.shapes.params[name], strict=True)):
            site = quantized.site(name, "bias" if index else "weights")
            own = quantized.parameters[name].get(index)
            if own is None:  # a bias that the layer uses as it is
                rounded = quantized.rounded(site, blob, shape, written_format(fmt))
                sources += [copied(blob, shape, index), BlobSource(shape, partial(rounded.chunks, 0))]
            elif own.role == "bias" and not quantized.policy.round_bias:
                assert isinstance(blob, RoundedBlob)
                own_value = replace(blob, measured=None)  # blob 2 has measured it
                again = replace(own_value, source=own_value, format=written_format(fmt))
                sources += [BlobSource(shape, partial(one.chunks, 0)) for one in (blob, again)]
            else:
                assert isinstance(blob, RoundedBlob)
                even = BlobSource(shape, partial(_even, blob, clipped))
                sources += [even, BlobSource(shape, partial(blob.chunks, 0))]
        return sources

    def is_written(self, net: Net) -> bool:
        """Whether it has LP layers."""
        return any(layer.type in (*LOW_PRECISION.values(), "LPAct") for layer in net.layers)

    def read(self, net: Net, plan: BitPlan | None) -> Quantized:
        """The formats of the LP layers, on the network with the even blobs."""
        return read(net, plan)


def _acts(quantized: Quantized) -> Callable[[Message, bool], list[tuple[Site, NumberFormat]]]:
    """The outputs that LPActs round right after a layer of the message, which is of the network's phase or its twin.

    The data layer of another phase brings the same input under a name of its own.
    """
    after: dict[str, list[tuple[Site, NumberFormat]]] = {}
    inputs: dict[str, list[tuple[Site, NumberFormat]]] = {}
    for site, fmt in quantized.formats.items():
        if site.role == "output":
            after.setdefault(site.after, []).append((site, fmt))
            if is_data(site.type):
                inputs.setdefault(blob_of(site.tensor, site.after), []).append((site, fmt))

    def acts(source: Message, same: bool) -> list[tuple[Site, NumberFormat]]:
        if same:
            return after.get(source.name, [])
        return inputs.get(source.top[0], []) if is_data(source.type) and source.top else []

    return acts


def _even(rounded: RoundedBlob, clipped: Clipped) -> Iterator[np.ndarray]:
    """The even values of a rounded blob: the full-precision ones, clipped where the written format would not clip."""
    fmt = rounded.format
    assert isinstance(fmt, QFormat)
    for chunk in finite_chunks(rounded.source, rounded.index):
        if fmt.bd >= 1:
            yield chunk
            continue
        even = clip_even(chunk, fmt, rounded.policy.rounding)
        count = int(np.count_nonzero(even != chunk))
        clipped.counts[rounded.site] = clipped.counts.get(rounded.site, 0) + count
        yield even


def clip_even(values: np.ndarray, fmt: QFormat, rounding: str) -> np.ndarray:
    """Values as the even blob of a format with bd < 1 holds them: at the limit where rounding would clip them."""
    size = np.abs(values)
    beyond = size > fmt.max if rounding == "stochastic" else size >= fmt.max + fmt.step / 2
    return np.where(beyond, np.copysign(np.float32(fmt.max), values), values)
