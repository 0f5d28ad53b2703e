"""Pairs of places in two networks: where the low-precision network is compared with the full-precision one.

A **stage** is one learned layer with what belongs to its output: BatchNorm, Scale and Bias where they are kept, the
ReLU where activations are rounded after it, and the LPAct. Its value is compared with the full-precision network's at
the same place.
"""

from __future__ import annotations

from dataclasses import dataclass

from lpcaffe.errors import NetError, PlanError, located
from lpcaffe.layers.low_precision import format_of
from lpcaffe.net import LOW_PRECISION, Layer, Net, Rounding, chain_after, fold_batch_norm, quantizable_layers
from lpcaffe.net.placement import PLACEMENTS, last_of_output
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

LOW_TYPES = ("LPConvolution", "LPInnerProduct")


@dataclass(frozen=True)
class Stage:
    """A learned layer in both networks.

    `base_layer` and `base_tensor` are the layer and the end of the stage in the full-precision network; `layers` are
    the low-precision network's layers from the learned one to the LPAct, `unrounded` the tensor before the LPAct and
    `tensor` the one after it (the same without LPAct). `output` is the activation format, `weights` the format of the
    weights.
    """

    name: str
    type: str
    base_layer: Layer
    base_tensor: str
    layers: tuple[Layer, ...]
    unrounded: str
    tensor: str
    weights: QFormat | None
    output: QFormat | None


def is_plain(low: Net) -> bool:
    """Whether a network has no LP layers: its formats are in the plan only."""
    return not any(layer.type in (*LOW_TYPES, "LPAct") for layer in low.layers)


def matching_base(net: Net, low: Net) -> Net:
    """The full-precision network with BatchNorm folded if the low-precision one has it folded."""
    missing = any(
        affine.name not in low.by_name for layer in quantizable_layers(net) for affine in chain_after(net, layer).affine
    )
    return fold_batch_norm(net) if missing else net


def stages(base: Net, low: Net, plan: BitPlan | None) -> list[Stage]:
    """The stages of two networks, in order. NetError when the low-precision network has a learned layer of its own."""
    plain = is_plain(low)
    known = {layer.name: layer for layer in quantizable_layers(base)}
    found = []
    for layer in low.layers:
        if layer.type not in (*LOW_PRECISION, *LOW_TYPES):
            continue
        with located(path=low.path, layer=layer.name):
            _check_source(layer, known.get(layer.name))
        if not plain or (plan is not None and layer.name in plan.layers):
            found.append(_stage(base, known[layer.name], low, layer, plan if plain else None))
    return found


def _check_source(layer: Layer, source: Layer | None) -> None:
    """Raise NetError unless a learned layer is what the full-precision network has under this name."""
    if source is None:
        raise NetError("the full-precision network has no such layer")
    if layer.type not in (source.type, LOW_PRECISION[source.type]):
        raise NetError(f"expected {LOW_PRECISION[source.type]}, got {layer.type}")
    if (len(layer.bottoms), len(layer.tops)) != (1, 1):
        raise NetError(f"expected one bottom and one top, got {len(layer.bottoms)} and {len(layer.tops)}")


def _stage(base: Net, base_layer: Layer, low: Net, layer: Layer, plan: BitPlan | None) -> Stage:
    placement, last, act = "before-relu", last_of_output(low, layer), None
    if plan is not None:
        placement = plan.act_placement
        last = last_of_output(low, layer, placement)
    else:
        for candidate in PLACEMENTS:
            end = last_of_output(low, layer, candidate)
            readers = low.readers[end.tops[0]]
            if len(readers) == 1 and readers[0].type == "LPAct":
                placement, last, act = candidate, end, readers[0]
                break
    between = low.layers[layer.index : last.index + 1]
    on_the_way = {layer.tops[0]}
    layers = [layer]
    for other in between[1:]:
        if other.bottoms and other.bottoms[0] in on_the_way:
            layers.append(other)
            on_the_way.add(other.tops[0])
    if act is not None:
        layers.append(act)
    line = plan.layers[layer.name] if plan is not None else None
    if line is not None:
        weights, output = line.weights, line.output
    else:
        weights = format_of(layer.message.lpfp_param) if layer.type in LOW_TYPES else None
        output = format_of(act.message.lpfp_param) if act is not None else None
    return Stage(
        layer.name,
        layer.type,
        base_layer,
        last_of_output(base, base_layer, placement).tops[0],
        tuple(layers),
        last.tops[0],
        act.tops[0] if act is not None else last.tops[0],
        weights,
        output,
    )


def check_formats(stage_list: list[Stage], plan: BitPlan) -> None:
    """Raise PlanError when the low-precision network has other formats than the plan says."""
    for stage in stage_list:
        line = plan.layers.get(stage.name, LayerPlan(stage.type, None))
        for what, has, says in (("weights", stage.weights, line.weights), ("output", stage.output, line.output)):
            if has != says:
                raise PlanError(
                    f"{what}: the low-precision network has {has or 'no format'}, the plan says {says or 'none'}",
                    layer=stage.name,
                )


def check_plan_dialect(low: Net, plan: BitPlan) -> None:
    """Raise PlanError when the low-precision network is of another dialect than the plan.

    A plan without any format leaves a network as it is, in either dialect.
    """
    has = "plain" if is_plain(low) else "adaption"
    formats = any(fmt is not None for line in plan.layers.values() for fmt in (line.weights, line.output))
    if has != plan.dialect and (formats or has == "adaption"):
        raise PlanError(f"dialect: the low-precision network has {has}, the plan says {plan.dialect}")


def plain_roundings(stage_list: list[Stage], low: Net, plan: BitPlan | None) -> dict[str, Rounding]:
    """The roundings to simulate for a plain network, by tensor.

    The stream is that of the LPAct that the ADaPTION dialect would have there: both dialects draw the same random
    numbers.
    """
    if plan is None or not is_plain(low):
        return {}
    return {
        stage.tensor: Rounding(stage.output, plan.rounding, f"{stage.name}_lpact")
        for stage in stage_list
        if stage.output is not None
    }
