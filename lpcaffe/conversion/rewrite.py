"""The prototxt's way: a network and a plan become the network that the plan's dialect writes."""

from __future__ import annotations

from lpcaffe.dialects import dialect_named
from lpcaffe.net import Net
from lpcaffe.quant.apply import apply_plan
from lpcaffe.quant.plan import BitPlan


def rewrite(net: Net, plan: BitPlan) -> Net:
    """The low-precision network of a plan, without weights. Raises PlanError when the plan is for another network."""
    return dialect_named(plan.policy.dialect).network(apply_plan(net, plan))
