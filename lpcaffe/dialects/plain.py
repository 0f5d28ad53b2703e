"""The plain dialect: an ordinary network whose blobs are already rounded, which any Caffe loads.

    blobs      [round(W), b], the bias rounded with `round_bias` or in a format of its own
    outputs    no layer rounds them: their formats are in the plan, and `validate` simulates them

A float32 holds Qm.f with -24 <= ad <= 126; other formats are their values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial

from lpcaffe.dialects.blobs import copied, judged_bias
from lpcaffe.dialects.dialect import Blobs, Clipped, check
from lpcaffe.errors import NetError, located
from lpcaffe.formats.caffemodel import BlobSource
from lpcaffe.net import Net
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.numbers.rounding import SCHEMES
from lpcaffe.quant.apply import Quantized, apply_plan
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import Site

LOWEST_AD, HIGHEST_AD = -24, 126


def fit_to_float32(fmt: NumberFormat) -> NumberFormat:
    """The format, or the Qm.f of its width with the nearest fraction that a float32 holds."""
    if not isinstance(fmt, QFormat):
        return fmt
    ad = min(max(fmt.ad, LOWEST_AD), HIGHEST_AD)
    return QFormat(fmt.width - ad, ad)


@dataclass(frozen=True)
class Plain:
    """See the module."""

    name: str = "plain"
    hint: str | None = None
    schemes: Collection[str] = tuple(SCHEMES)
    marked: bool = False

    def fit(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """Anything that a float32 holds."""
        return fit_to_float32(fmt)

    def written(self, fmt: NumberFormat, site: Site) -> NumberFormat:
        """The format itself."""
        return fmt

    def copies(self, type_: str) -> int:
        """The rounded value alone."""
        return 1

    def network(self, quantized: Quantized) -> Net:
        """The full-precision network, with slopes and coefficients rounded."""
        check(self, quantized)
        return quantized.base.replace(quantized.message, None)

    def blobs(self, quantized: Quantized, clipped: Clipped) -> Blobs:
        """Each blob once."""
        found = {}
        for name, blobs in quantized.blobs.items():
            with located(layer=name):
                own = quantized.parameters.get(name, {})
                sources = []
                for index, blob in enumerate(blobs):
                    judged = judged_bias(quantized, name, index, blob)
                    if index in own:
                        sources.append(BlobSource(tuple(blob.shape), partial(blob.chunks, 0)))
                    else:
                        sources.append(copied(blob, quantized.shapes.params[name][index], index, judged))
                found[name] = sources
        return found

    def is_written(self, net: Net) -> bool:
        """Nothing in a network shows it."""
        return False

    def read(self, net: Net, plan: BitPlan | None) -> Quantized:
        """The network as it is, with the formats of the plan. Raises NetError without one."""
        if plan is None:
            raise NetError("the network has no LP layers", path=net.path, hint="give its plan with --plan")
        policy = dataclasses.replace(plan.policy, fold_bn=False)
        applied = apply_plan(plan.naming_inputs(net), dataclasses.replace(plan, policy=policy, sha256=None))
        return dataclasses.replace(applied, policy=plan.policy, rounded_already=True)
