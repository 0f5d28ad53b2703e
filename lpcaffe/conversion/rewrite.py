"""The prototxt's way: a network and a plan become a network of low-precision layers.

The message is copied and edited, never generated anew, so what we do not understand survives. In the ADaPTION dialect a
planned layer becomes LPConvolution or LPInnerProduct with an lpfp_param, and an LPAct in place on its output rounds it;
no tensor is renamed and no other layer changes. In the plain dialect only BatchNorm is folded.
"""

from __future__ import annotations

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.low_precision import ROUNDING
from lpcaffe.net import LOW_PRECISION, Net, fold_batch_norm
from lpcaffe.net.placement import last_of_output
from lpcaffe.plan import BitPlan


def check_full_precision(net: Net) -> None:
    """Raise NetError when a network has low-precision layers already."""
    present = [layer for layer in net.layers if layer.type in (*LOW_PRECISION.values(), "LPAct")]
    if present:
        raise NetError(
            f"expected a full-precision network, got {present[0].type}",
            path=net.path,
            layer=present[0].name,
            hint="give the network that this one was made from",
        )


def base_net(net: Net, plan: BitPlan) -> Net:
    """The full-precision network that the formats apply to: checked, and BatchNorm folded if the plan says so."""
    check_full_precision(net)
    plan.check(net)
    return fold_batch_norm(net) if plan.fold_bn else net


def rewrite(net: Net, plan: BitPlan) -> Net:
    """The low-precision network of a plan, without weights. Raises PlanError when the plan is for another network."""
    base = base_net(net, plan)
    if plan.dialect == "plain":
        return base.replace(base.message, None)
    anchors = {
        last_of_output(base, base.by_name[name], plan.act_placement).name: name
        for name, line in plan.layers.items()
        if line.output is not None
    }
    message = type(base.message)()
    message.CopyFrom(base.message)
    del message.layer[:]
    taken = {layer.name for layer in base.message.layer}
    for source in base.message.layer:
        layer = message.layer.add()
        layer.CopyFrom(source)
        planned = plan.layers.get(source.name)
        # A layer of the other phase may have the same name: it is converted too if it is the same layer.
        if planned is not None and planned.weights is not None and source.type == planned.type:
            _low_precision(layer, plan)
        if source.name in anchors and source.type == base.by_name[source.name].type:
            _lp_act(message.layer.add(), anchors[source.name], source, plan, taken)
    return base.replace(message, None)


def _low_precision(layer: Message, plan: BitPlan) -> None:
    fmt = plan.layers[layer.name].weights
    assert fmt is not None
    bias = (layer.inner_product_param if layer.type == "InnerProduct" else layer.convolution_param).bias_term
    layer.type = LOW_PRECISION[layer.type]
    layer.lpfp_param.bd, layer.lpfp_param.ad = fmt.bd, fmt.ad
    layer.lpfp_param.round_bias = plan.round_bias
    layer.lpfp_param.rounding_scheme = ROUNDING.index(plan.rounding)
    _rewrite_param_blocks(layer, bias)


def _rewrite_param_blocks(layer: Message, bias: bool) -> None:
    """`param` blocks map to blobs by index, and an LP layer has two blobs where the source has one.

    ADaPTION gates the bias gradient by the second block, so the second block repeats the bias's learning rate.
    """
    source = list(layer.param)
    if not source:
        return
    blocks = [type(source[0])() for _ in range(4 if bias else 2)]
    blocks[0].CopyFrom(source[0])
    blocks[1].decay_mult = 0
    if bias:
        if len(source) > 1:
            blocks[2].CopyFrom(source[1])
        blocks[1].lr_mult = blocks[2].lr_mult
        blocks[3].lr_mult = blocks[3].decay_mult = 0
    else:
        blocks[1].lr_mult = 0
    del layer.param[:]
    layer.param.extend(blocks)


def _lp_act(act: Message, name: str, last: Message, plan: BitPlan, taken: set[str]) -> None:
    """The LPAct of the layer `name`, in place on the top of `last`, and there whenever `last` is."""
    fmt = plan.layers[name].output
    assert fmt is not None
    act.name = f"{name}_lpact"
    while act.name in taken:
        act.name += "_"
    act.type = "LPAct"
    act.bottom.append(last.top[0])
    act.top.append(last.top[0])
    act.include.extend(last.include)
    act.exclude.extend(last.exclude)
    act.lpfp_param.bd, act.lpfp_param.ad = fmt.bd, fmt.ad
    act.lpfp_param.rounding_scheme = ROUNDING.index(plan.rounding)
