"""Write docs/layers.md, the list of layer types, from the registry, the schema and the docstrings of the layers.

    python tools/make_layer_table.py

tests/layers/test_layer_table.py checks that the committed file is current.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from lpcaffe.formats.schema import LayerParameter
from lpcaffe.layers import LAYERS, NEVER_RUN, LayerType
from lpcaffe.layers.registry import ANY

OUT = Path(__file__).resolve().parent.parent / "docs" / "layers.md"
WIDTH = 120

# Why no ONNX graph holds a type: every one that is `numpy_only`.
NO_GRAPH = {
    "Filter": "how many images stay is known only when it runs, and what follows depends on it",
    "PSROIPooling": "no operator averages such bins",
}
# Types that hold only part of what their parameters can say.
PART = {
    "ConvolutionRistretto": "NEAREST only",
    "DeconvolutionRistretto": "NEAREST only",
    "DetectionOutput": "not with `eta` below 1, nor before other layers",
    "FcRistretto": "NEAREST only",
    "LPAct": "deterministic only",
}
# Not known, though networks with them were released.
UNKNOWN = {
    "BN": "PSPNet, SegNet",
    "Convolution3D": "C3D",
    "Correlation": "FlowNet",
    "CReLU": "PVANet",
    "DeformableConvolution": "Deformable ConvNets",
    "FlowWarp": "FlowNet 2",
    "Proposal": "Faster R-CNN, R-FCN",
    "ROIAlign": "Mask R-CNN",
    "SpatialTransformer": "spatial transformer networks",
}

INTRODUCTION = """\
# Layer types

Written by `tools/make_layer_table.py`; a test fails when it is not current.

A layer's meaning is written once, as a function in [`lpcaffe/layers/`](../lpcaffe/layers), and every engine runs it
([architecture.md](architecture.md)). The sentences below are the docstrings of those functions.

| what runs a layer | gives |
|---|---|
| shapes | dimensions, multiply-accumulates and the shapes of the blobs, without weights |
| numpy | values, in float32 or float64 |
| onnxruntime, ONNX | values in float32 through an ONNX graph; the same graph is what `lpcaffe export` writes |

[engines.md](engines.md) says which engine to take, [export.md](export.md) what is exported. With `--engine pycaffe`,
Caffe runs what it was built with.

"""

PARAMETERS = """\
In the families, `name=value` is a parameter and its default, and `name[]` one that may be given several times. A name
alone has no default in the schema: left out, it is 0, or what is said of the layer holds. After the default of a
parameter with named values stand the others. Fillers, which only training reads, and `engine`, which has no effect
here, are left out.
"""

NEVER = """\
## Data and loss layers

These are understood, and never run: shapes are inferred through them, as far as the file says them. `run`,
`calibrate`, `convert` and `export` refuse them by name: they take deploy networks. `lpcaffe upgrade --deploy` makes one
of a training network: an `Input` layer takes the place of the data, and losses and evaluation go. A `Python` layer goes
when it reads labels or only fed what has gone; one that brings the data is refused; any other stays.

"""

LAST = """\
## Types that are not known

Whatever is not above, for example:

"""

LAST_RULES = """
`inspect` and `upgrade` go on: the layer and its parameters are kept as they are, fields that the schema lacks included,
and the shapes that depend on it are null. `run`, `calibrate`, `convert` and `export` name the layer and its type and
end. [extending.md](extending.md) says how a type is added.

A `Python` layer is code that the file only names. lpcaffe never executes it, whatever the verb.
"""


def page() -> str:
    """All of docs/layers.md."""
    lines = [INTRODUCTION + "\n".join(_overview(LAYERS)) + "\n\n" + PARAMETERS]
    lines += ["\n".join(_family(name, types)) + "\n" for name, types in _families(LAYERS)]
    lines.append(NEVER + "\n".join(_never_run()) + "\n")
    lines.append(
        LAST
        + "\n".join(_table(["type", "for example in"], [(f"`{name}`", where) for name, where in UNKNOWN.items()]))
        + "\n"
        + LAST_RULES
    )
    return "\n".join(lines)


def _families(table: Mapping[str, LayerType]) -> Iterator[tuple[str, list[LayerType]]]:
    """The types of each module, both in alphabetical order."""
    ordered = sorted(table.values(), key=lambda kind: (_module(kind), kind.name))
    for name, types in groupby(ordered, _module):
        yield name, list(types)


def _module(kind: LayerType) -> str:
    return kind.function.__module__.rpartition(".")[2]


def _title(family: str) -> str:
    return family.replace("_", " ").capitalize()


def _overview(table: Mapping[str, LayerType]) -> Iterator[str]:
    rows = [("`Input`", "(where the network begins)", "yes", "yes", "yes", "yes")]
    for family, types in _families(table):
        link = f"[{_title(family)}](#{_title(family).lower().replace(' ', '-')})"
        rows += [(f"`{kind.name}`", link, "yes", "yes", "yes", _graph(kind)) for kind in types]
    return _table(["type", "family", "shapes", "numpy float32", "numpy float64", "onnxruntime, ONNX"], rows)


def _graph(kind: LayerType) -> str:
    if kind.numpy_only:
        return f"no: {NO_GRAPH[kind.name]}"
    return f"yes, {PART[kind.name]}" if kind.name in PART else "yes"


def _family(name: str, types: Iterable[LayerType]) -> Iterator[str]:
    types = list(types)
    yield from [f"## {_title(name)}", "", inspect.cleandoc(sys.modules[types[0].function.__module__].__doc__ or ""), ""]
    yield from _table(["type", "bottoms", "what it gives"], [(f"`{k.name}`", _bottoms(k), _first(k)) for k in types])
    for kind in types:
        about = [*_parameters(kind), *_rest(kind)]
        if about:
            yield from ["", f"### {kind.name}", *about]


def _never_run() -> Iterator[str]:
    rows = []
    for _, types in _families(NEVER_RUN):
        for kind in types:
            fields = ", ".join(f"`{field.name}`" for field in _messages(kind)) or "none that counts"
            rows.append((f"`{kind.name}`", kind.role.split(" ", 1)[1], _bottoms(kind), fields, _first(kind)))
    return _table(["type", "what it is", "bottoms", "parameters", "what it gives"], rows)


def _bottoms(kind: LayerType) -> str:
    least, most = kind.bottoms
    return str(least) if least == most else f"{least} or more" if most == ANY else f"{least} to {most}"


def _paragraphs(kind: LayerType) -> list[str]:
    return inspect.cleandoc(kind.function.__doc__ or "").split("\n\n")


def _first(kind: LayerType) -> str:
    return " ".join(_paragraphs(kind)[0].split())


def _rest(kind: LayerType) -> list[str]:
    return [line for paragraph in _paragraphs(kind)[1:] for line in ("", paragraph)]


def _messages(kind: LayerType) -> list[Any]:
    """The fields of LayerParameter, of those that the function gets, that are parameter messages."""
    fields = [LayerParameter.DESCRIPTOR.fields_by_name[name] for name in kind.params]
    return [field for field in fields if field.message_type is not None]


def _parameters(kind: LayerType) -> list[str]:
    """Each parameter message with its fields, in the order of the schema."""
    lines = []
    for message in _messages(kind):
        fields = ", ".join(_field(field) for field in _shown(message.message_type))
        if fields:
            lines += ["", *textwrap.wrap(f"`{message.name}`: {fields}", WIDTH, break_on_hyphens=False)]
    return lines


def _shown(message: Any) -> list[Any]:
    hidden = [field for field in message.fields if field.message_type and field.message_type.name == "FillerParameter"]
    return [field for field in message.fields if field.name not in ("other", "engine") and field not in hidden]


def _field(field: Any) -> str:
    """A field with its default, or with its own fields."""
    if field.message_type is not None:
        return f"`{field.name}` {{ {', '.join(f'`{inner.name}`' for inner in _shown(field.message_type))} }}"
    if not field.has_presence:
        return f"`{field.name}[]`"
    if field.enum_type is not None:
        names: dict[int, str] = {}
        for value in field.enum_type.values:  # of two names for a number, the second is that of an older version
            names.setdefault(value.number, value.name)
        default = names.pop(field.default_value)
        return f"`{field.name}={default}` ({', '.join(names.values())})"
    if field.type == field.TYPE_BOOL:
        return f"`{field.name}={str(field.default_value).lower()}`"
    if field.is_required:
        return f"`{field.name}` (required)"
    if not field.has_default_value:
        return f"`{field.name}`"
    default = f"{field.default_value:.7g}" if field.type == field.TYPE_FLOAT else field.default_value
    return f"`{field.name}={default}`"


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


if __name__ == "__main__":
    OUT.write_text(page(), encoding="utf-8")
