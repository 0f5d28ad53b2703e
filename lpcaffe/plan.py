"""BitPlan: which fixed-point format each layer gets, as a file that a person can read, edit and check in.

    version: 1                   # absent = 1
    network: LeNet
    sha256: 3f6c...              # of the network the plan was made for; absent = no check
    dialect: adaption            # adaption | plain
    rounding: deterministic      # deterministic | stochastic
    seed: 0
    round_bias: false
    fold_bn: true                # absent = false
    layers:                      # source order; output null or absent = the output is not rounded
      conv1: {type: Convolution, weights: Q1.15, output: Q3.13}
      ip2:   {type: InnerProduct, weights: Q1.15, output: null}

The file is YAML, so JSON is one too. Keys are text, whatever YAML 1.1 makes of it elsewhere: a layer called `on` or `1`
needs no quotes. It has at most `MAX_BYTES` bytes, and what its aliases and merge keys stand for is bounded too.
Conversion is a pure function of the network, its weights and the plan.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from lpcaffe.errors import FormatError, PlanError, located, reason
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.net import Net, learned_layers
from lpcaffe.net.placement import PLACEMENTS
from lpcaffe.numbers.qformat import QFormat

DIALECTS = ("adaption", "plain")
ROUNDINGS = ("deterministic", "stochastic")

# A plan of `schema.MAX_LAYERS` layers takes 0.6 MB; PyYAML takes 3 seconds and 100 MB for a megabyte.
MAX_BYTES = 1 << 20

# Characters of a name or value. PyYAML's integers of base 60 take quadratic time.
MAX_SCALAR = 1 << 16

# Entries that merge keys (`<<: *alias`) may add to all mappings together: what merges merged ones twice doubles them.
MAX_MERGED = 10_000


@dataclass(frozen=True)
class LayerPlan:
    """The formats of a layer: of its weights (in a prototxt, its bias too) and of its output. None: full precision."""

    type: str
    weights: QFormat | None
    output: QFormat | None = None


@dataclass(frozen=True)
class BitPlan:
    """Formats by layer name, in source order, and how to round. `check` it against a net before use."""

    layers: Mapping[str, LayerPlan]
    network: str = ""
    sha256: str | None = None
    dialect: str = "adaption"
    rounding: str = "deterministic"
    seed: int = 0
    round_bias: bool = False
    fold_bn: bool = False
    act_placement: str = "before-relu"
    comments: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("dialect", self.dialect, DIALECTS),
            ("rounding", self.rounding, ROUNDINGS),
            ("act_placement", self.act_placement, PLACEMENTS),
        ):
            if value not in known:
                raise PlanError(f"{name}: expected {' or '.join(known)}, got {value!r}")
        if not 0 <= self.seed < 1 << 64:
            raise PlanError(f"seed: expected 0 to 2^64 - 1, got {self.seed}")
        for name, layer in self.layers.items():
            for what, fmt in (("weights", layer.weights), ("output", layer.output)):
                if fmt is not None:
                    with located(layer=name):
                        check_dialect(fmt, self.dialect, what)

    def check(self, net: Net) -> None:
        """Raise PlanError, saying what differs, when the plan was not made for this network."""
        known = {layer.name: layer.type for layer in learned_layers(net)}
        for name, layer in self.layers.items():
            if name not in known:
                there = net.by_name.get(name)
                got = "has no such layer" if there is None else f'has type "{there.type}" there'
                raise PlanError(f'the plan says {layer.type}, the network "{net.name}" {got}', layer=name)
            if layer.type != known[name]:
                raise PlanError(f"the plan says {layer.type}, the network {known[name]}", layer=name)
        if self.sha256 is not None and self.sha256 != net.sha256:
            missing = [name for name in known if name not in self.layers]
            what = (
                f'layer "{missing[0]}" has no line in it'
                if missing
                else f'its layers have the same names and types, but "{net.name}" is not the file it was made for'
            )
            raise PlanError(
                f'the plan is for "{self.network}" with sha256 {self.sha256[:12]}..., this network has '
                f"{net.sha256[:12]}...: {what}",
                hint="make a new plan, or remove the sha256 line to use it anyway",
            )

    def to_json(self) -> dict[str, Any]:
        """The plan as plain values, in the order of the file."""
        head: dict[str, Any] = {"version": 1, "network": self.network}
        if self.sha256 is not None:
            head["sha256"] = self.sha256
        head |= {
            "dialect": self.dialect,
            "rounding": self.rounding,
            "seed": self.seed,
            "round_bias": self.round_bias,
            "fold_bn": self.fold_bn,
        }
        if self.act_placement != "before-relu":
            head["act_placement"] = self.act_placement
        head["layers"] = {
            name: {
                "type": layer.type,
                "weights": None if layer.weights is None else str(layer.weights),
                "output": None if layer.output is None else str(layer.output),
            }
            for name, layer in self.layers.items()
        }
        return head

    @classmethod
    def from_json(cls, values: Any) -> BitPlan:
        """The plan of such values. Raises PlanError that names the key, or the layer, at fault."""
        if not isinstance(values, dict):
            raise PlanError("expected a mapping with the keys version and layers")
        version = values.get("version", 1)
        if type(version) is not int or version != 1:
            raise PlanError(f"expected version: 1, got {_short(version)}")
        layers = values.get("layers")
        if not isinstance(layers, dict):
            raise PlanError("expected layers: a mapping of layer names")
        kinds = {
            "network": str,
            "sha256": str,
            "dialect": str,
            "rounding": str,
            "seed": int,
            "round_bias": bool,
            "fold_bn": bool,
            "act_placement": str,
        }
        options: dict[str, Any] = {}
        for key, value in values.items():
            if key in ("version", "layers") or value is None:
                continue
            if key not in kinds:
                raise PlanError(f"unknown key {_short(key)}", hint=f"known are version, {', '.join(kinds)}, layers")
            if type(value) is not kinds[key]:
                raise PlanError(f"{key}: expected {kinds[key].__name__}, got {_short(value)}")
            options[key] = value
        return cls({str(name): _layer_plan(str(name), line) for name, line in layers.items()}, **options)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> BitPlan:
        """Read a plan. Raises PlanError with the file's name, and the line for a syntax error."""
        import yaml

        with located(path=path):
            try:
                with Path(path).open("rb") as file:
                    data = file.read(MAX_BYTES + 1)  # a device has no end
                if len(data) > MAX_BYTES:
                    raise PlanError(f"expected at most {MAX_BYTES} bytes, got more")
                return cls.from_json(yaml.load(data.decode(), Loader=_strict_loader()))
            except OSError as error:
                raise PlanError(f"cannot be read: {reason(error)}") from error
            except UnicodeDecodeError as error:
                raise PlanError("is not text") from error
            except (ValueError, RecursionError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
                # A date that is none, an integer of 5,000 digits, brackets without end: PyYAML lets all errors pass.
                raise PlanError(f"is not YAML that a plan can hold ({_short(str(error))})") from error
            except yaml.YAMLError as error:
                mark = getattr(error, "problem_mark", None)
                line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
                said = [getattr(error, part, None) for part in ("context", "problem")]
                problem = ", ".join(filter(None, said)) or f"is not YAML ({str(error).splitlines()[0]})"
                raise PlanError(problem, path=path, line=line, column=column) from error

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write the plan for people: one line a layer, with comments. Raises PlanError for more than `load` reads."""
        with outputs([path], force=force) as out:
            self.stage(out, path)

    def stage(self, out: Outputs, path: str | PathLike[str]) -> str:
        """`save` into a transaction. Returns the SHA-256 of the file."""
        text = self.to_yaml()
        if len(text.encode()) > MAX_BYTES:
            raise PlanError(
                f"expected a plan of at most {MAX_BYTES} bytes, got {len(text.encode())}", path=out.path(path)
            )
        return out.write(path, text.encode())

    def to_yaml(self) -> str:
        """The text of the file."""
        notes = {
            "sha256": "of the network this plan was made for; without this line any network is taken",
            "dialect": "adaption: LP layers | plain: ordinary layers, weights already rounded",
            "rounding": "deterministic (ties away from zero) | stochastic",
            "seed": "of stochastic rounding",
            "round_bias": "whether layers compute with rounded biases",
            "fold_bn": "BatchNorm, Scale and Bias are folded into the layer before them",
            "act_placement": "where outputs are rounded: before-relu | after-relu",
        }
        values = self.to_json()
        layers = values.pop("layers")
        head = [
            f"{key}: {json.dumps(value) if type(value) is not str else _scalar(value)}" for key, value in values.items()
        ]
        lines = [
            "# Which fixed-point format each layer gets. Q2.14 has 2 bits before the point, the sign counted, 14 after."
        ]
        for key, line in zip(values, head, strict=True):
            gap = " " * (max(1, 24 - len(line)) if len(line) < 24 else 2)
            lines.append(f"{line}{gap}# {notes[key]}" if key in notes else line)
        lines.append("layers:  # output: null = not rounded" if layers else "layers: {}")
        width = max([len(_scalar(name)) for name in layers], default=0) + 1
        for name, layer in layers.items():
            shown = {"type": _scalar(layer["type"]), "weights": layer["weights"], "output": layer["output"]}
            body = ", ".join(f"{key}: {'null' if value is None else value}" for key, value in shown.items())
            note = f"  # {self.comments[name]}" if name in self.comments else ""
            lines.append(f"  {_scalar(name) + ':':<{width}} {{{body}}}{note}")
        return "\n".join(lines) + "\n"


def check_dialect(fmt: QFormat, dialect: str, what: str = "format") -> None:
    """Raise FormatError when a dialect cannot say the format, or its float32 blobs cannot hold it."""
    if dialect == "adaption" and (fmt.bd < 1 or fmt.ad < 0):
        raise FormatError(
            f"{what}: {fmt} cannot be written in the ADaPTION dialect, which needs bd >= 1 and ad >= 0",
            hint="--dialect plain allows it",
        )
    fmt.check_dtype("float32")


def _layer_plan(name: str, line: Any) -> LayerPlan:
    with located(layer=name):
        if not isinstance(line, dict) or not isinstance(line.get("type"), str):
            raise PlanError("expected {type: ..., weights: ..., output: ...}")
        unknown = [key for key in line if key not in ("type", "weights", "output")]
        if unknown:
            raise PlanError(f"unknown key {_short(unknown[0])}", hint="known are type, weights, output")
        return LayerPlan(line["type"], *(_format(key, line.get(key)) for key in ("weights", "output")))


def _format(key: str, value: Any) -> QFormat | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise PlanError(f"{key}: expected a format such as Q2.14, got {_short(value)}")
    try:
        return QFormat.parse(value)
    except FormatError as error:
        raise PlanError(f"{key}: {error.problem}", hint=error.hint) from error


def _short(value: Any) -> str:
    """A value in an error message. A few lines of YAML can stand for gigabytes of it."""
    text = reprlib.repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _scalar(text: str) -> str:
    """A YAML string, quoted where it would not be read back as the same string."""
    import yaml

    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_./-]*", text) and yaml.safe_load(text) == text:
        return text
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=1 << 30).rstrip("\n")


def _strict_loader() -> Any:
    """YAML's safe loader, with the keys of a mapping as they are written, and each of them once.

    YAML would read the layer names `on` and `1` as a boolean and a number, and let the second of two lines of one layer
    win.
    """
    import yaml

    def refuse(node: Any, problem: str) -> NoReturn:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)

    class Loader(yaml.SafeLoader):
        merged = 0

        def compose_scalar_node(self, anchor: Any) -> Any:
            node = super().compose_scalar_node(anchor)
            if len(node.value) > MAX_SCALAR:
                refuse(node, f"expected at most {MAX_SCALAR} characters in a value, got {len(node.value)}")
            if any("\ud800" <= char <= "\udfff" for char in node.value):
                refuse(node, "expected text, got half a surrogate pair")
            return node

        def flatten_mapping(self, node: Any) -> None:
            """Check the keys of a mapping, and put what its merge keys stand for in front of them: its own keys win."""
            own: dict[str, Any] = {}
            merged: dict[str, Any] = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    refuse(key, "expected a name as the key")
                if key.value in own:
                    refuse(key, f'"{_short(key.value)[1:-1]}" is given twice')
                own[key.value] = key, value
            for name, (key, value) in list(own.items()):
                if key.tag != "tag:yaml.org,2002:merge":
                    continue
                del own[name]
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(part, yaml.MappingNode):
                        refuse(part, "expected a mapping to merge")
                    self.flatten_mapping(part)
                    self.merged += len(part.value)
                    if self.merged > MAX_MERGED:
                        refuse(part, f"expected at most {MAX_MERGED} merged entries, got more")
                    for entry in part.value:
                        merged.setdefault(entry[0].value, entry)  # of several, the first wins
            node.value = list((merged | own).values())

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            if not isinstance(node, yaml.MappingNode):
                refuse(node, "expected a mapping")
            self.flatten_mapping(node)  # <<: *alias
            return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    return Loader
