"""Is this a low-precision network? Everything that its two files show, without the network it came from.

    formats     lpfp_param is there, bd >= 1, ad >= 0, and float32 holds the format (bd + ad <= 25)
    blobs       2 or 4, of the shapes that the network asks for, all finite
    rounding    odd blobs are round_fp of the even ones; without a plan, a neighbour of a stochastic one will do
    layers      weights and prototxt have the same ones
    plan        formats, schemes and LPActs are those of the plan, where there is one

Each is checked in every layer, whatever was found before, and what does not hold is a **failure**. A **note** is what
no rule forbids, but that a reader should check: an LPAct where `convert` puts none, a rounded bias that no layer uses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np

from lpcaffe.dialects import DIALECTS, dialect_of
from lpcaffe.dialects.adaption import effective_format
from lpcaffe.dialects.adaption_read import read
from lpcaffe.engines import infer_shapes
from lpcaffe.engines.parameters import check_blobs
from lpcaffe.errors import LpcaffeError, NetError, PlanError, counted, located
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.layers.low_precision import format_of, scheme_of
from lpcaffe.net import Layer, Net, load_net
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.policy import PLACEMENTS
from lpcaffe.quant.sites import sites
from lpcaffe.validation.pairs import applied
from lpcaffe.validation.rounding import LOW_TYPES, BlobCheck, check_in_place, check_lp_layers

_LP = (*LOW_TYPES, "LPAct")


@dataclass(frozen=True)
class VerifyReport:
    """What was verified. `layers` are the LP layers and LPActs as the prototxt has them, `rounding` the odd blobs.

    `failures` and `notes` have a sentence for each finding.
    """

    network: str
    layers: list[dict[str, Any]]
    rounding: list[BlobCheck]
    failures: list[str]
    notes: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The report as plain values."""
        return {
            "version": 1,
            "network": self.network,
            "holds": self.holds,
            "failures": self.failures,
            "notes": self.notes,
            "layers": self.layers,
            "rounding": [check.to_json() for check in self.rounding],
        }


def verify(
    prototxt: str | PathLike[str],
    caffemodel: str | PathLike[str],
    *,
    plan: BitPlan | None = None,
    old_bd: bool = False,
) -> VerifyReport:
    """Check a low-precision prototxt and its caffemodel against what such a pair must be, see above.

    Weights are read piece by piece. The plan's sha256 is of the full-precision network and is not compared. Raises
    FileError for files that cannot be read, NetError for a network that cannot be resolved or has no LP layers (of the
    dialect `plain`, `validate` can tell more than the pair itself), PlanError for a plan of that dialect.
    """
    net = load_net(prototxt, old_bd=old_bd)
    if not dialect_of(net).marked:
        hint = "a network of the dialect plain is proved by validate, with its plan and the network it came from"
        raise NetError("expected a low-precision network, got one without LP layers", path=prototxt, hint=hint)
    if plan is not None and plan.policy.dialect != "adaption":
        raise PlanError(f"expected a plan of the dialect adaption, got {plan.policy.dialect}")
    with open_caffemodel(caffemodel) as model:
        stored = {name: layer.blobs for name, layer in model.by_name.items() if layer.blobs}
        known = {layer.name for layer in net.message.layer}
        failures = [
            f'layer "{name}": the weights have {counted(len(blobs), "blob")}, the prototxt has no such layer'
            for name, blobs in stored.items()
            if name not in known
        ]
        quant_net = net.replace(net.message, {layer.name: stored.get(layer.name, ()) for layer in net.layers})
        wrong_formats = {layer.name: text for layer in quant_net.layers if (text := _wrong_format(layer))}
        failures += wrong_formats.values()
        failures += _blob_failures(quant_net)
        checks, failed, notes = _rounding(quant_net, set(wrong_formats), plan)
        failures += failed
        rows = [_row(layer, quant_net, set(wrong_formats)) for layer in quant_net.layers if layer.type in _LP]
    failed, more_notes = _placement(quant_net, set(wrong_formats), plan)
    failures = list(dict.fromkeys(failures + failed))  # two checks may find the same fault
    return VerifyReport(quant_net.name, rows, checks, failures, notes + more_notes)


def _row(layer: Layer, quant_net: Net, wrong_formats: set[str]) -> dict[str, Any]:
    lpfp = layer.message.lpfp_param
    blobs = (quant_net.weights or {}).get(layer.name, ())
    known = layer.name not in wrong_formats
    bits = None if not known else format_of(lpfp).width
    if known and layer.type in LOW_TYPES and len(blobs) > 1:
        bits = effective_format(blobs[1], format_of(lpfp)).width
    return {
        "name": layer.name,
        "type": layer.type,
        "format": f"Q{lpfp.bd}.{lpfp.ad}",
        "bits": bits,
        "rounding": scheme_of(lpfp),
        "round_bias": None if layer.type == "LPAct" else bool(lpfp.round_bias),
    }


def _wrong_format(layer: Layer) -> str | None:
    """What is wrong with the format of an LP layer; None if nothing is, or it is none."""
    if layer.type not in _LP:
        return None
    try:
        with located(layer=layer.name):
            lpfp = layer.message.lpfp_param
            missing = [name for name in ("bd", "ad") if not lpfp.HasField(name)]
            if missing:
                raise NetError(f"lpfp_param lacks {' and '.join(missing)}", hint="neither bd nor ad has a default")
            format_of(lpfp).check_dtype("float32")
    except LpcaffeError as error:
        return _sentence(error)
    return None


def _blob_failures(quant_net: Net) -> Iterator[str]:
    """What is wrong with the number, the shapes and the values of the blobs."""
    # Shapes do not depend on formats, so a format that cannot be must not hide anything else.
    lp_names = {layer.name for layer in quant_net.layers if layer.type in _LP}
    shapes = infer_shapes(_with_formats(quant_net, lp_names), strict=False)
    yield from (_sentence(problem) for problem in shapes.problems)
    for layer in quant_net.layers:
        blobs = (quant_net.weights or {}).get(layer.name, ())
        try:
            known = all(shapes.tensors[top] is not None for top in layer.tops)
            if layer.name in shapes.params:
                check_blobs(quant_net, layer.name, shapes.params[layer.name])
            elif blobs and known:
                raise NetError(f"the weights have {counted(len(blobs), 'blob')} for a layer without", layer=layer.name)
            elif layer.type in LOW_TYPES and not blobs:
                raise NetError("the weights have no blobs for this layer", layer=layer.name)
        except LpcaffeError as error:
            yield _sentence(error)
        for index, blob in enumerate(blobs):
            if _idle(layer, index):
                continue
            try:
                with located(layer=layer.name):
                    for _ in finite_chunks(blob, index):
                        pass
            except LpcaffeError as error:
                yield _sentence(error)


def _idle(layer: Layer, index: int) -> bool:
    """Whether the blob is a rounded bias that the layer does not use: ADaPTION leaves there what it likes."""
    return layer.type in LOW_TYPES and index == 3 and not layer.message.lpfp_param.round_bias


def _rounding(
    quant_net: Net, wrong_formats: set[str], plan: BitPlan | None
) -> tuple[list[BlobCheck], list[str], list[str]]:
    """The odd blobs of every layer that has a format, what failed, and what is only noted."""
    checks: list[BlobCheck] = []
    failures, notes = [], []
    for layer in quant_net.layers:
        if layer.type not in LOW_TYPES or layer.name in wrong_formats or not (quant_net.weights or {})[layer.name]:
            continue
        isolated = _isolated(quant_net, layer)  # what is wrong in one layer does not end the check of the others
        for given in (plan, None) if plan is not None else (None,):
            try:
                with np.errstate(invalid="ignore"):  # signalling NaNs
                    checks += check_lp_layers(None, isolated, given)
                break
            except PlanError as error:
                failures.append(_sentence(error))
            except LpcaffeError as error:
                failures.append(_sentence(error))
                break
    if plan is not None:
        problems: list[LpcaffeError] = []
        try:
            with np.errstate(invalid="ignore"):
                checks += check_in_place(None, quant_net, plan, problems)
        except LpcaffeError as error:
            problems.append(error)
        failures += map(_sentence, problems)
    for check in checks:
        where = f'layer "{check.layer}" blob {check.blob}: {check.differing} of {check.count} values'
        wrong = f"not in {check.format}" if check.source is None else f"not round_fp of blob {check.source}"
        if not check.holds:
            failures.append(f"{where} are {wrong}, the first at {check.first}")
        elif check.differing:
            notes.append(f"{where} are {wrong}; no layer uses them (round_bias is false)")
    return checks, failures, notes


def _isolated(quant_net: Net, layer: Layer) -> Net:
    """One layer of a network, without what it reads, and without the phases that include or exclude it."""
    message = type(quant_net.message)()
    message.layer.add().CopyFrom(layer.message)
    for name in ("bottom", "include", "exclude"):
        message.layer[0].ClearField(name)
    return quant_net.replace(message, {layer.name: (quant_net.weights or {})[layer.name]})


def _placement(quant_net: Net, wrong_formats: set[str], plan: BitPlan | None) -> tuple[list[str], list[str]]:
    """What differs from the plan, and the LPActs that are not where a conversion puts them."""
    notes = [
        f'layer "{layer.name}": this LPAct is not in place'
        for layer in quant_net.layers
        if layer.type == "LPAct" and layer.raw_bottoms != layer.raw_tops
    ]
    try:
        found = read(_with_formats(quant_net, wrong_formats), plan)
    except LpcaffeError as error:
        return [], [*notes, f"where outputs are rounded could not be found: {_sentence(error)}"]
    placements = PLACEMENTS if plan is None else (plan.policy.act_placement,)
    places: dict[tuple[str, str], list[str]] = {}
    for placement in placements:
        for site in sites(found.base, dataclasses.replace(found.policy, act_placement=placement)):
            if site.role == "output":
                places.setdefault(site.key, []).append(site.tensor)
    for site in found.formats:
        if site.role == "output":
            expected = places.pop(site.key, [])  # a second LPAct of a layer has no place
            if site.tensor not in expected:
                wanted = f"a conversion rounds {expected[0]}" if expected else "where a conversion puts none"
                notes.append(f'layer "{site.act}": this LPAct rounds {site.tensor}, {wanted}')
    return ([] if plan is None else list(_against_plan(quant_net, found, plan, wrong_formats))), notes


def _with_formats(quant_net: Net, wrong_formats: set[str]) -> Net:
    """The network with some format in place of each that cannot be."""
    message = type(quant_net.message)()
    message.CopyFrom(quant_net.message)
    for layer in message.layer:
        if layer.name in wrong_formats:
            layer.lpfp_param.bd, layer.lpfp_param.ad = 1, 1
    return quant_net.replace(message, None)


def _against_plan(quant_net: Net, found: Quantized, plan: BitPlan, wrong_formats: set[str]) -> Iterator[str]:
    """Where the formats and schemes of the layers are not those of the plan."""
    try:
        # The sum is of the network before folding.
        dataclasses.replace(plan, sha256=None).check(found.base)
        expected = applied(found.base, plan)
    except PlanError as error:
        yield _sentence(error)
        return
    wanted = {site.key: DIALECTS["adaption"].written(fmt, site) for site, fmt in expected.formats.items()}
    has = {site.key for site in found.formats}
    for site in found.sites:
        ours, theirs = found.formats.get(site), wanted.get(site.key)
        elsewhere = ours is None and site.key in has
        if ours == theirs or elsewhere or site.role == "bias" or {site.layer, site.act} & wrong_formats:
            continue
        problem = f"{site.role}: the low-precision network has {ours or 'no format'}, the plan has {theirs or 'none'}"
        yield f'layer "{site.layer}": {problem}'
    for layer in quant_net.layers:
        if layer.type == "LPAct" and layer.name not in wrong_formats:
            scheme = scheme_of(layer.message.lpfp_param)
            if scheme != plan.policy.rounding:
                problem = f"rounding: the low-precision network has {scheme}, the plan has {plan.policy.rounding}"
                yield f'layer "{layer.name}": {problem}'


def _sentence(error: LpcaffeError) -> str:
    """The error without its file, which the report names already."""
    text = str(error)
    return text if error.path is None else text.removeprefix(f"{error.path}: ")
