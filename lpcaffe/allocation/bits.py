"""How many bits the weights and the output of each layer get.

Whatever says it most closely decides:

    1. a rule        `bits_for`, the last that matches
    2. a plan        `bits_from`, the widths of its formats
    3. the kind      conv_weight_bits, inner_product_weight_bits, weight_bits, activation_bits
    4. bits          of everything else

A rule is PATTERN:N, PATTERN:weights=N or PATTERN:output=N. PATTERN is a layer's name, or else `first` or `last` (of the
learned layers, in the order of the file), or else `type=T`, or else a glob as `fc*`. Widths count the sign.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lpcaffe.errors import PlanError
from lpcaffe.quant.plan import BitPlan

# The widest format whose values a float32 all holds.
WIDEST = 25

RULE = re.compile(r"(?P<pattern>.+):(?:(?P<kind>weights|output)=)?(?P<bits>[0-9]{1,9})")


@dataclass(frozen=True)
class Widths:
    """The widths of a layer."""

    weights: int
    output: int


def layer_widths(
    types: Mapping[str, str],
    *,
    bits: int = 16,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    conv_weight_bits: int | None = None,
    inner_product_weight_bits: int | None = None,
    bits_for: Sequence[str] = (),
    bits_from: BitPlan | None = None,
) -> dict[str, Widths]:
    """The widths of the learned layers `types` (name -> type, in the order of the file).

    Raises PlanError for a rule that cannot be read or matches nothing, and for a width that a float32 does not hold.
    """
    of_type = {"Convolution": conv_weight_bits, "InnerProduct": inner_product_weight_bits}
    for option, width in {
        "bits": bits,
        "weight_bits": weight_bits,
        "activation_bits": activation_bits,
        "conv_weight_bits": conv_weight_bits,
        "inner_product_weight_bits": inner_product_weight_bits,
    }.items():
        if width is not None:
            checked(option, width)
    widths = {}
    for name, kind in types.items():
        planned = None if bits_from is None else bits_from.layers.get(name)
        weights, output = (planned.weights, planned.output) if planned else (None, None)
        widths[name] = {
            "weights": weights.width if weights else _first(of_type.get(kind), weight_bits, bits),
            "output": output.width if output else _first(activation_bits, bits),
        }
    for rule in bits_for:
        match = RULE.fullmatch(rule)
        if match is None:
            raise PlanError(f"expected a rule as conv1:8 or fc*:weights=6, got {rule!r}")
        width = checked(f"rule {rule!r}", int(match["bits"]))
        for name in matching(match["pattern"], types, rule):
            widths[name] |= {kind: width for kind in ("weights", "output") if match["kind"] in (None, kind)}
    for name, found in widths.items():
        for kind, width in found.items():
            checked(f'layer "{name}": {kind}', width)
    return {name: Widths(**found) for name, found in widths.items()}


def matching(pattern: str, types: Mapping[str, str], rule: str) -> list[str]:
    """The layers that a pattern matches; PlanError that names the rule and lists near names when there is none."""
    names = list(types)
    if pattern in types:
        return [pattern]
    if pattern in ("first", "last") and names:
        return [names[0 if pattern == "first" else -1]]
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
        raise PlanError(f"the rule {rule!r} matches nothing: no {what} has weights", hint=hint)
    return found


def checked(what: str, width: int) -> int:
    """The width, when a float32 holds every value of such a format."""
    if not 2 <= width <= WIDEST:
        raise PlanError(f"{what}: expected 2 to {WIDEST} bits, which a float32 holds exactly, got {width}")
    return width


def _first(*widths: int | None) -> int:
    return next(width for width in widths if width is not None)
