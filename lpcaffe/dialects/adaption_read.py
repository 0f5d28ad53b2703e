"""The way back: a full-precision network, and the formats, out of ADaPTION's files.

LPConvolution and LPInnerProduct become Convolution and InnerProduct with the even blobs (or the rounded ones), their
`param` blocks are those of blobs 0 and 2, `lpfp_param` goes, and so does every LPAct; all the rest of the message is
kept. What a conversion has changed for good stays so: a network whose BatchNorm was folded comes out folded, and
nothing in it shows that it ever had one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from lpcaffe.errors import NetError, WeightsError, located
from lpcaffe.formats.schema import Message
from lpcaffe.layers.low_precision import format_of, scheme_of
from lpcaffe.net import LOW_PRECISION, Layer, Net, WeightBlob, learned_param
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.apply import Quantized, with_implied
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.policy import PLACEMENTS, Policy
from lpcaffe.quant.sites import ROLES, Site, sites

_FULL_PRECISION = {low: full for full, low in LOW_PRECISION.items()}


def read(low: Net, plan: BitPlan | None) -> Quantized:
    """The quantized network of an LP network: the even blobs as its full precision, and the formats of its layers.

    The plan gives the seed, and the formats of parameters that have no LP form; these are rounded in the file. Raises
    what `extract` raises, and NetError for a value that two LPActs round.
    """
    base = extract(low) if plan is None else plan.naming_inputs(extract(low))
    policy = plan.policy if plan is not None else Policy(rounding=_rounding(low))
    policy = dataclasses.replace(policy, dialect="adaption", coverage="all")
    found = {site.key: site for site in sites(base, policy)}
    formats: dict[Site, NumberFormat] = {}
    schemes: dict[Site, str] = {}
    for layer in low.layers:
        if layer.type not in _FULL_PRECISION:
            continue
        lpfp = layer.message.lpfp_param
        with located(path=low.path, layer=layer.name):
            for role in ("weights", *(["bias"] if lpfp.round_bias and _has_bias(layer.message) else [])):
                formats[found[layer.name, role]] = format_of(lpfp)
                schemes[found[layer.name, role]] = scheme_of(lpfp)
    outputs = _outputs(low, base, policy)
    for site, layer in outputs.items():
        with located(path=low.path, layer=layer.name):
            formats[site] = format_of(layer.message.lpfp_param)
            schemes[site] = scheme_of(layer.message.lpfp_param)
    if plan is not None:
        for name, row in plan.layers.items():
            for role, fmt in row.formats().items():
                own = found.get((name, role))
                if own is not None and role != "output" and own not in formats:
                    formats[own] = fmt
    every = _in_order(base, found.values(), outputs)
    if plan is not None and plan.policy.coverage == "all":
        formats = with_implied(base, every, formats, dataclasses.replace(plan.policy, round_bias=False))
    return Quantized(base, policy, every, formats, schemes)


def _in_order(base: Net, found: Collection[Site], outputs: Collection[Site]) -> tuple[Site, ...]:
    """All sites in source order, those of LPActs in place of the network's own."""
    rounded = {site.tensor for site in outputs}
    every = [site for site in found if site.role != "output" or site.tensor not in rounded] + list(outputs)
    writers = {top: layer.index for layer in base.layers for top in layer.tops}

    def place(site: Site) -> tuple[int, int]:
        first = base.by_name.get(site.layer)
        return writers[site.tensor] if first is None else first.index, ROLES.index(site.role)

    return tuple(sorted(every, key=place))


def _rounding(low: Net) -> str:
    """The scheme of the first LP layer."""
    low_types = (*_FULL_PRECISION, "LPAct")
    return next(
        (scheme_of(layer.message.lpfp_param) for layer in low.layers if layer.type in low_types), "deterministic"
    )


def _outputs(low: Net, base: Net, policy: Policy) -> dict[Site, Layer]:
    """The output sites that LPActs round, each with its LPAct's own name, and the LPActs."""
    placements = sorted(PLACEMENTS, key=lambda placement: placement != policy.act_placement)
    by_tensor: dict[str, Site] = {}
    for placement in placements:
        for site in sites(base, dataclasses.replace(policy, act_placement=placement)):
            if site.role == "output":
                by_tensor.setdefault(site.tensor, site)
    writers = {top: layer for layer in base.layers for top in layer.tops}
    now = _same_tensors(low, base)
    found: dict[str, Site] = {}
    acts: dict[Site, Layer] = {}
    for layer in low.layers:
        if layer.type != "LPAct":
            continue
        tensor = now[layer.bottoms[0]]
        if tensor in found:
            raise NetError(f'"{tensor}" is rounded by layer "{found[tensor].act}" already', layer=layer.name)
        writer = writers[tensor]
        site = by_tensor.get(tensor) or Site(writer.name, "output", writer.type, False, None, tensor, writer.name)
        found[tensor] = dataclasses.replace(site, act=layer.name)
        acts[found[tensor]] = layer
    return acts


def extract(low: Net, *, rounded: bool = False) -> Net:
    """The full-precision network that a low-precision one holds, with its weights when it has them.

    `rounded` takes the odd blobs as the file has them, the bias too where the layer computes with it (`round_bias`).
    An LPAct that is not in place goes too, and its bottom is read instead of its top.

    Raises NetError for a network without low-precision layers, and for an LPAct whose bottom is overwritten before its
    top is read for the last time; WeightsError when an LP layer has not 4 blobs, or 2 without bias.
    """
    if not any(layer.type in (*_FULL_PRECISION, "LPAct") for layer in low.layers):
        raise NetError("expected a low-precision network, got one without LP layers", path=low.path)
    with located(path=low.weights_path):
        weights = None if low.weights is None else _weights(low, low.weights, rounded)
    with located(path=low.path):
        full = low.replace(_message(low.message), weights)
        _same_tensors(low, full)
    return full


def _weights(low: Net, weights: Mapping[str, Sequence[WeightBlob]], rounded: bool) -> dict[str, Sequence[WeightBlob]]:
    result = dict(weights)
    for layer in low.layers:
        if layer.type in _FULL_PRECISION:
            blobs, expected = weights.get(layer.name, ()), 4 if _has_bias(layer.message) else 2
            if len(blobs) != expected:
                raise WeightsError(f"expected {expected} blobs, got {len(blobs)}", layer=layer.name)
            bias = 3 if rounded and layer.message.lpfp_param.round_bias else 2
            result[layer.name] = [blobs[1 if rounded else 0], *blobs[bias : bias + 1]]
    return result


def _has_bias(layer: Message) -> bool:
    return bool(learned_param(layer).bias_term)


def _message(low: Message) -> Message:
    message = type(low)()
    message.CopyFrom(low)
    del message.layer[:]
    instead: dict[str, str] = {}  # the top of an LPAct that is not in place -> its bottom
    for source in low.layer:
        bottoms = [instead.get(bottom, bottom) for bottom in source.bottom]
        if source.type == "LPAct":
            if (len(source.bottom), len(source.top)) != (1, 1):
                raise NetError("expected one bottom and one top", layer=source.name)
            if source.top[0] != source.bottom[0]:
                instead[source.top[0]] = bottoms[0]
            continue
        layer = message.layer.add()
        layer.CopyFrom(source)
        layer.bottom[:] = bottoms
        for top in source.top:  # a layer in place on it writes the blob under its own name
            instead.pop(top, None)
        if source.type in _FULL_PRECISION:
            layer.type = _FULL_PRECISION[source.type]
            layer.ClearField("lpfp_param")
            _restore_param_blocks(layer, source)
    return message


def _restore_param_blocks(layer: Message, source: Message) -> None:
    """Block 0 and, with a bias, block 2; the latter only if it says something, because an absent one means the same.

    A layer with a bias and two blocks or fewer has those of the layer that it was made from: people who write LP layers
    by hand leave them, and ADaPTION, which gates the bias gradient by the second block, trains with them.
    """
    if _has_bias(source) and len(source.param) < 3:
        return
    blocks = list(source.param)[: 3 if _has_bias(source) else 1 : 2]
    if len(blocks) > 1 and not blocks[1].ListFields():
        del blocks[1]
    del layer.param[:]
    layer.param.extend(blocks)


def _same_tensors(low: Net, full: Net) -> dict[str, str]:
    """For each tensor of the low-precision network the tensor of the other one that it is, but for the rounding.

    Raises NetError unless every layer reads what it read before.
    """
    now: dict[str, str] = {}
    for layer in low.layers:
        if layer.type == "LPAct":
            now[layer.tops[0]] = now[layer.bottoms[0]]
            continue
        twin = full.by_name[layer.name]
        for blob, tensor, got in zip(layer.raw_bottoms, layer.bottoms, twin.bottoms, strict=True):
            if got != now[tensor]:
                raise NetError(
                    f'"{blob}" comes from an LPAct whose bottom is overwritten before this layer reads it',
                    layer=layer.name,
                    hint="without the LPAct there is no blob that holds the value",
                )
        now.update(zip(layer.tops, twin.tops, strict=True))
    return now
