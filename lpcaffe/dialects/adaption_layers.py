"""The messages of LP layers, made from those of ordinary ones.

A message is copied and edited, never generated, so what we do not understand survives.
"""

from __future__ import annotations

from lpcaffe.formats.schema import LayerParameter, Message
from lpcaffe.layers.low_precision import LPFP_SCHEMES
from lpcaffe.net import LOW_PRECISION, blob_of, learned_param
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site


def low_precision(layer: Message, fmt: QFormat, policy: Policy) -> None:
    """Make a Convolution or InnerProduct its LP twin, in place."""
    bias = bool(learned_param(layer).bias_term)
    layer.type = LOW_PRECISION[layer.type]
    layer.lpfp_param.bd, layer.lpfp_param.ad = fmt.bd, fmt.ad
    layer.lpfp_param.round_bias = policy.round_bias
    layer.lpfp_param.rounding_scheme = LPFP_SCHEMES.index(policy.rounding)
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


def lp_act(site: Site, fmt: NumberFormat, last: Message, policy: Policy) -> Message:
    """The LPAct in place on the blob of an output site, and there whenever `last`, the layer before it, is."""
    assert isinstance(fmt, QFormat)
    blob = blob_of(site.tensor, site.after)
    act = LayerParameter(name=site.act, type="LPAct", bottom=[blob], top=[blob])
    act.include.extend(last.include)
    act.exclude.extend(last.exclude)
    act.lpfp_param.bd, act.lpfp_param.ad = fmt.bd, fmt.ad
    act.lpfp_param.rounding_scheme = LPFP_SCHEMES.index(policy.rounding)
    return act
