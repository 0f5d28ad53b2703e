"""How many bits each site gets.

Whatever is most specific decides:

    1. a rule        `rules`, the last that matches
    2. a plan        `plan`, the widths of its formats
    3. the kind      conv_weights, inner_product_weights, weights, outputs, bias
    4. bits          of everything else

A rule is PATTERN:N, or PATTERN:ROLE=N with ROLE weights, bias or output. PATTERN is a layer's name, or else `first` or
`last` (of the convolutions and inner products, in the order of the file), or else `type=T`, or else a glob as `fc*`.
Without a ROLE a rule is for weights and output. Widths count the sign.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lpcaffe.errors import PlanError
from lpcaffe.net import LOW_PRECISION
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import ROLES, Site

# The widest format whose values a float32 all holds.
WIDEST = 25

RULE = re.compile(rf"(?P<pattern>.+):(?:(?P<role>{'|'.join(ROLES)})=)?(?P<bits>[0-9]{{1,9}})")


@dataclass(frozen=True)
class Widths:
    """What decides the widths; see the module. None leaves a kind to what is less specific.

    A bias has a format of its own only where `bias` or a rule gives it a width.
    """

    bits: int = 16
    weights: int | None = None
    outputs: int | None = None
    conv_weights: int | None = None
    inner_product_weights: int | None = None
    bias: int | None = None
    rules: Sequence[str] = ()
    plan: BitPlan | None = None

    def of(self, sites: Sequence[Site]) -> dict[Site, int]:
        """The width of each site that gets one.

        Raises PlanError for a rule that cannot be read or matches nothing, and for a width that float32 does not hold.
        """
        for option in ("bits", "weights", "outputs", "conv_weights", "inner_product_weights", "bias"):
            if (width := getattr(self, option)) is not None:
                checked(_OPTIONS.get(option, option), width)
        widths = {site: width for site in sites if (width := self._before_rules(site)) is not None}
        types = {site.layer: site.type for site in sites}
        for rule in self.rules:
            match = RULE.fullmatch(rule)
            if match is None:
                raise PlanError(f"expected a rule as conv1:8 or fc*:weights=6, got {rule!r}")
            width = checked(f"rule {rule!r}", int(match["bits"]))
            named = set(matching(match["pattern"], types, rule))
            roles = ("weights", "output") if match["role"] is None else (match["role"],)
            found = {site: width for site in sites if site.layer in named and site.role in roles}
            if not found and match["role"] in ("weights", "bias"):
                raise PlanError(f"the rule {rule!r} matches nothing: {match['pattern']} has no {match['role']}")
            widths |= found
        for site, width in widths.items():
            checked(f'layer "{site.layer}": {site.role}', width)
        return widths

    def _before_rules(self, site: Site) -> int | None:
        planned = None if self.plan is None else self.plan.format_of(site.layer, site.role)
        if planned is not None:
            return planned.width
        if site.role == "bias":
            return self.bias
        if site.role == "output":
            return _first(self.outputs, self.bits)
        by_type = {"Convolution": self.conv_weights, "InnerProduct": self.inner_product_weights}
        return _first(by_type.get(site.type), self.weights, self.bits)


_OPTIONS = {
    "weights": "weight_bits",
    "outputs": "activation_bits",
    "conv_weights": "conv_weight_bits",
    "inner_product_weights": "inner_product_weight_bits",
    "bias": "bias_bits",
}


def matching(pattern: str, types: Mapping[str, str], rule: str) -> list[str]:
    """The layers that a pattern matches; PlanError that names the rule and lists near names when there is none."""
    names, learned = list(types), [name for name, kind in types.items() if kind in LOW_PRECISION]
    if pattern in types:
        return [pattern]
    if pattern in ("first", "last") and learned:
        return [learned[0 if pattern == "first" else -1]]
    wanted = pattern.removeprefix("type=")
    if wanted != pattern:
        found = [name for name, kind in types.items() if kind == wanted]
        known = sorted(set(types.values()))
    else:
        found, known = [name for name in names if fnmatchcase(name, pattern)], names
    if not found:
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5) or known[:3]
        what = "layer of that type" if wanted != pattern else "such layer"
        hint = f"near are {', '.join(near)}" if near else None
        raise PlanError(f"the rule {rule!r} matches nothing: no {what} gets a format", hint=hint)
    return found


def checked(what: str, width: int) -> int:
    """The width, when a float32 holds every value of such a format."""
    if not 2 <= width <= WIDEST:
        raise PlanError(f"{what}: expected 2 to {WIDEST} bits, which a float32 holds exactly, got {width}")
    return width


def _first(*widths: int | None) -> int:
    return next(width for width in widths if width is not None)
