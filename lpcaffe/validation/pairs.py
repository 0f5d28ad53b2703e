"""Pairs of a full-precision and a quantized network: what is compared with what.

Both have the same layers and tensors, whatever the dialect of the files: `Dialect.read` takes LP layers and LPActs out.
A **layer pair** is an output site in both: the layers from the site's own to the one whose top is rounded (BatchNorm,
Scale and Bias where they are kept, the ReLU where outputs are rounded after it).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from lpcaffe.dialects import dialect_named, dialect_of
from lpcaffe.errors import NetError, PlanError, located
from lpcaffe.net import LOW_PRECISION, Layer, Net, chain_after, fold_batch_norm, quantizable_layers
from lpcaffe.numbers import NumberFormat
from lpcaffe.quant.apply import Quantized, apply_plan
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import Site


@dataclass(frozen=True)
class LayerPair:
    """An output site in both networks.

    `layers` are those of the quantized network from the site's own to the one that writes the tensor; `type` is that of
    the layer in the files.
    """

    site: Site
    type: str
    layers: tuple[Layer, ...]
    weights: NumberFormat | None
    output: NumberFormat | None

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.site.layer


def matching_float_net(net: Net, quant_net: Net) -> Net:
    """The full-precision network with BatchNorm folded if the low-precision one has it folded."""
    chains = [chain_after(net, layer) for layer in quantizable_layers(net)]
    missing = any(affine.name not in quant_net.by_name for chain in chains for affine in chain.affine)
    return fold_batch_norm(net) if missing else net


def read_quant_net(quant_net: Net, plan: BitPlan | None) -> Quantized:
    """The quantized network of a low-precision one, of any dialect.

    A plan without any format leaves a network as it is, in either dialect. Raises NetError and PlanError for a network
    and a plan that visibly do not belong together.
    """
    shown = dialect_of(quant_net)
    if plan is None:
        return shown.read(quant_net, None)
    planned = dialect_named(plan.policy.dialect)
    formats = any(row.formats() for row in plan.layers.values())
    if planned.name != shown.name and (shown.marked or (planned.marked and formats)):
        raise PlanError(f"dialect: the low-precision network has {shown.name}, the plan has {planned.name}")
    return (shown if planned.marked else planned).read(quant_net, plan)


def layer_pairs(float_net: Net, quant_net: Net, quantized: Quantized) -> list[LayerPair]:
    """The output sites to compare, in order: those of convolutions and inner products, and all others with a format.

    NetError when the quantized network has a convolution or inner product of its own.
    """
    _check_source(float_net, quant_net, quantized.base)
    planned = {site.layer for site in quantized.formats}
    marked = dialect_of(quant_net).marked
    found = []
    for site in quantized.sites:
        learned = site.type in LOW_PRECISION and (marked or site.layer in planned)
        if site.role != "output" or not (learned or site in quantized.formats):
            continue
        layer = quant_net.by_name.get(site.layer)
        weights = quantized.formats.get(quantized.site(site.layer, "weights")) if learned else None
        output = quantized.formats.get(site)
        type_ = site.type if layer is None else layer.type
        found.append(LayerPair(site, type_, _layers(quantized.base, site), weights, output))
    return found


def _layers(net: Net, site: Site) -> tuple[Layer, ...]:
    """The layers from a site's own to the one that its LPAct follows."""
    last = net.by_name[site.after]
    first = net.by_name.get(site.layer, last)
    layers, on_the_way = [first], set(first.tops)
    for other in net.layers[first.index + 1 : last.index + 1]:
        if other.bottoms and other.bottoms[0] in on_the_way:
            layers.append(other)
            on_the_way.update(other.tops)
    return tuple(layers)


def _check_source(float_net: Net, quant_net: Net, read: Net) -> None:
    """Raise NetError unless each convolution and inner product is what the full-precision network has of this name."""
    for layer in read.layers:
        if layer.type not in LOW_PRECISION:
            continue
        with located(path=quant_net.path, layer=layer.name):
            source = float_net.by_name.get(layer.name)
            if source is None or source.type not in LOW_PRECISION:
                raise NetError("the full-precision network has no such layer")
            if layer.type != source.type:
                raise NetError(f"expected {LOW_PRECISION[source.type]}, got {quant_net.by_name[layer.name].type}")
            if (len(layer.bottoms), len(layer.tops)) != (1, 1):
                raise NetError(f"expected one bottom and one top, got {len(layer.bottoms)} and {len(layer.tops)}")


def check_formats(quantized: Quantized, plan: BitPlan, float_net: Net) -> None:
    """Raise PlanError when the layers of a network have other formats than the dialect makes of the plan.

    `float_net` is the full-precision network, folded like the other one. Formats that no layer holds are not compared.
    """
    dialect = dialect_named(plan.policy.dialect)
    expected = {site.key: dialect.written(fmt, site) for site, fmt in applied(float_net, plan).formats.items()}
    found = {site.key: fmt for site, fmt in quantized.formats.items()}
    names = {site.key: site for site in quantized.sites}
    for key in dict.fromkeys([*expected, *found]):
        has, wanted = found.get(key), expected.get(key)
        if has != wanted and key[1] != "bias":
            problem = f"{key[1]}: the low-precision network has {has or 'no format'}, the plan has {wanted or 'none'}"
            raise PlanError(problem, layer=names[key].layer if key in names else key[0])


def applied(float_net: Net, plan: BitPlan) -> Quantized:
    """A plan applied to a network that is folded already."""
    policy = dataclasses.replace(plan.policy, fold_bn=False)
    return apply_plan(float_net, dataclasses.replace(plan, policy=policy, sha256=None))
