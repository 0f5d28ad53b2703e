"""Which layers of a network exist in a phase: Caffe's `include` and `exclude` rules.

    include { phase: TRAIN }                          only in training
    exclude { stage: "deploy" }                       everywhere but in that stage
    include { min_level: 1 max_level: 3 not_stage: "small" }

A rule is met when all that it says holds: the phase is equal, the level is within the bounds, every `stage` is among
the stages of the network, no `not_stage` is. An empty rule is always met. A layer with `include` rules exists when any
of them is met; one with `exclude` rules, when none is. A layer MUST NOT have both. (src/caffe/net.cpp: FilterNet and
StateMeetsRule of Caffe 1.0.)
"""

from __future__ import annotations

from collections.abc import Iterable

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import TEST, Message, NetParameter


def filter_phase(net: Message, phase: int = TEST, level: int = 0, stages: Iterable[str] = ()) -> Message:
    """A new NetParameter with the layers of `net`, of any generation, that exist in this phase, level and stages.

    As in Caffe, `stages` come in addition to those of the network's own `state`, while its phase and level give way to
    the arguments. Rules and `state` stay as they are, so filtering twice is filtering once.

    Raises NetError for a layer with both kinds of rules.
    """
    present = frozenset(stages) | frozenset(net.state.stage)
    result = NetParameter()
    result.CopyFrom(net)
    for name in ("layer", "layers"):
        result.ClearField(name)
        getattr(result, name).extend(layer for layer in getattr(net, name) if _exists(layer, phase, level, present))
    return result


def _exists(layer: Message, phase: int, level: int, stages: frozenset[str]) -> bool:
    if layer.include and layer.exclude:
        raise NetError("expected include rules or exclude rules, got both", layer=layer.name)
    if layer.include:
        return any(_met(rule, phase, level, stages) for rule in layer.include)
    return not any(_met(rule, phase, level, stages) for rule in layer.exclude)


def _met(rule: Message, phase: int, level: int, stages: frozenset[str]) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == phase)
        and (not rule.HasField("min_level") or rule.min_level <= level)
        and (not rule.HasField("max_level") or level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )
