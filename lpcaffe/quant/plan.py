"""BitPlan: which number format sits where, as a file that a person can read, edit and check in.

    version: 1                   # absent = 1
    network: LeNet
    sha256: 3f6c...              # of the network the plan was made for; absent = no check
    dialect: adaption            # see lpcaffe.dialects
    rounding: deterministic      # deterministic | stochastic; version 2: any scheme of numbers/rounding
    seed: 0
    round_bias: false
    fold_bn: true                # absent = false
    layers:                      # source order; output null or absent = the output is not rounded
      conv1: {type: Convolution, weights: Q1.15, output: Q3.13}
      ip2:   {type: InnerProduct, weights: Q1.15, output: null}

Version 2 has rows for any layer, a format for each of weights, bias and output, formats of any kind, and more settings:

    version: 2
    coverage: all                # learned (absent) | all
    recipe: gptq                 # what was done to the weights before they were rounded; absent = nothing
    layers:
      data:  {type: Input, output: Q9.0}
      conv1: {type: Convolution, weights: Q-2.10, bias: Q4.20, output: Q5.3}
      ip1:   {type: InnerProduct, weights: {bits: 4, scale: [0.01, 0.02], zero: [7, 8]}}

A plan that version 1 can express is written as version 1. Vectors of more than `INLINE` values are in an .npz beside
the plan, and the key `vectors` holds its name and SHA-256.

The file is YAML, so JSON is one too. Keys are text, whatever YAML 1.1 makes of it elsewhere: a layer called `on` or `1`
needs no quotes. It has at most `MAX_BYTES` bytes, and what its aliases and merge keys stand for is bounded too.
Conversion is a pure function of the network, its weights and the plan.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from os import PathLike
from pathlib import Path
from typing import Any

from lpcaffe.errors import FormatError, PlanError, located, reason
from lpcaffe.formats.npz import npz_bytes
from lpcaffe.io.outputs import Outputs, outputs
from lpcaffe.layers.low_precision import LPFP_SCHEMES
from lpcaffe.net import LOW_PRECISION, Net
from lpcaffe.numbers import ChannelQFormat, NumberFormat, QFormat, parse_format
from lpcaffe.quant import plan_vectors
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import ROLES
from lpcaffe.quant.yaml_text import scalar, short, strict_loader

# A plan of `schema.MAX_LAYERS` layers takes 0.6 MB; PyYAML takes 3 seconds and 100 MB for a megabyte.
MAX_BYTES = 1 << 20

# Values of all vectors of a plan, those that aliases repeat counted each time: a vector is a number a channel.
MAX_VALUES = 1 << 21

# In place of the suffix of a plan: the name of the file of its long vectors.
VECTORS = ".npz"

_IN_FILE = ("dialect", "rounding", "seed", "round_bias", "fold_bn")
_SETTINGS = {each.name: type(each.default) for each in fields(Policy) if each.name != "round_output"}
_NOTES = {
    "sha256": "of the network this plan was made for; without this line any network is taken",
    "dialect": "adaption: LP layers | plain: ordinary layers, weights already rounded",
    "rounding": "deterministic (ties away from zero) | stochastic",
    "seed": "of stochastic rounding",
    "round_bias": "whether layers compute with rounded biases",
    "fold_bn": "BatchNorm, Scale and Bias are folded into the layer before them",
    "act_placement": "where outputs are rounded: before-relu | after-relu",
    "coverage": "learned: convolutions and inner products | all: every value that a multiplication reads",
    "recipe": "what was done to the weights before they were rounded",
}


@dataclass(frozen=True)
class LayerPlan:
    """The formats of a layer: of its weights, its output and its bias. None: full precision.

    The format of the weights is that of the bias too where the policy has `round_bias`.
    """

    type: str
    weights: NumberFormat | None = None
    output: NumberFormat | None = None
    bias: NumberFormat | None = None

    def formats(self) -> dict[str, NumberFormat]:
        """The formats by role, those that there are."""
        return {role: fmt for role in ROLES if (fmt := getattr(self, role)) is not None}


_UNFOLDED = Policy(fold_bn=False)  # what a file without the line fold_bn means


@dataclass(frozen=True)
class BitPlan:
    """Formats by layer name, in source order, and the policy. `check` it against a net before use."""

    layers: Mapping[str, LayerPlan]
    policy: Policy = _UNFOLDED
    network: str = ""
    sha256: str | None = None
    recipe: str = ""
    comments: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, layer in self.layers.items():
            with located(layer=name):
                for role, fmt in layer.formats().items():
                    _check_format(role, fmt, self.policy)
                if layer.bias is not None and self.policy.round_bias:
                    raise PlanError(
                        "bias: expected none beside round_bias, which rounds it in the format of the weights"
                    )

    @property
    def version(self) -> int:
        """The first version of the file that can express the plan."""
        policy = self.policy
        plain = policy.coverage == "learned" and policy.rounding in LPFP_SCHEMES and not self.recipe
        old = all(
            layer.type in LOW_PRECISION and all(type(fmt) is QFormat for fmt in layer.formats().values())
            for layer in self.layers.values()
        )
        return 1 if plain and old and all(layer.bias is None for layer in self.layers.values()) else 2

    def format_of(self, layer: str, role: str) -> NumberFormat | None:
        """The format of a site; None for full precision."""
        row = self.layers.get(layer)
        return None if row is None else row.formats().get(role)

    def naming_inputs(self, net: Net) -> Net:
        """A network that was written with this plan, its inputs named as the plan names them.

        A written network has an Input layer where its source had `input:` fields, whose sites have the names of blobs.
        """
        names = {name for name, row in self.layers.items() if row.type == "Input"} - set(net.by_name)
        fields = [blob for layer in net.layers if layer.type == "Input" for blob in layer.raw_tops]
        return dataclasses.replace(net, input_fields=tuple(fields)) if names and names <= set(fields) else net

    def check(self, net: Net) -> None:
        """Raise PlanError, with what differs, when the plan was not made for this network."""
        types = dict.fromkeys(net.input_fields, "Input") | {layer.name: layer.type for layer in net.layers}
        for name, layer in self.layers.items():
            if name not in types:
                problem = f'the plan has {layer.type}, the network "{net.name}" has no such layer'
                raise PlanError(problem, layer=name)
            if layer.type != types[name]:
                raise PlanError(f"the plan has {layer.type}, the network {types[name]}", layer=name)
        if self.sha256 is not None and self.sha256 != net.sha256:
            missing = [
                layer.name for layer in net.layers if layer.type in LOW_PRECISION and layer.name not in self.layers
            ]
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
        version = self.version
        head: dict[str, Any] = {"version": version, "network": self.network}
        if self.sha256 is not None:
            head["sha256"] = self.sha256
        head |= {name: getattr(self.policy, name) for name in _IN_FILE}
        if self.policy.act_placement != "before-relu":
            head["act_placement"] = self.policy.act_placement
        if self.policy.coverage != "learned":
            head["coverage"] = self.policy.coverage
        if self.recipe:
            head["recipe"] = self.recipe
        head["layers"] = {name: _row(layer, version) for name, layer in self.layers.items()}
        return head

    @classmethod
    def from_json(cls, values: Any) -> BitPlan:
        """The plan of such values. Raises PlanError that names the key, or the layer, at fault."""
        if not isinstance(values, dict):
            raise PlanError("expected a mapping with the keys version and layers")
        version = values.get("version", 1)
        if type(version) is not int or version not in (1, 2):
            raise PlanError(f"expected version: 1 or 2, got {short(version)}")
        layers = values.get("layers")
        if not isinstance(layers, dict):
            raise PlanError("expected layers: a mapping of layer names")
        kinds = {"network": str, "sha256": str, **_SETTINGS} | ({"recipe": str} if version == 2 else {})
        if version == 1:
            del kinds["coverage"]
        options: dict[str, Any] = {}
        for key, value in values.items():
            if key in ("version", "layers") or value is None:
                continue
            if key not in kinds:
                raise PlanError(f"unknown key {short(key)}", hint=f"known are version, {', '.join(kinds)}, layers")
            if type(value) is not kinds[key]:
                raise PlanError(f"{key}: expected {kinds[key].__name__}, got {short(value)}")
            options[key] = value
        if version == 1 and options.get("rounding", LPFP_SCHEMES[0]) not in LPFP_SCHEMES:
            expected = " or ".join(LPFP_SCHEMES)
            raise PlanError(f"rounding: expected {expected} in a plan of version 1, got {short(options['rounding'])}")
        policy = Policy(**{"fold_bn": False} | {key: options.pop(key) for key in _SETTINGS if key in options})
        rows: dict[str, LayerPlan] = {}
        count = 0
        for name, row in layers.items():
            rows[str(name)] = _layer_plan(str(name), row, version)
            count += sum(map(_vector_values, row.values()))
            if count > MAX_VALUES:
                raise PlanError(f"expected at most {MAX_VALUES} values in vectors, got more", layer=str(name))
        return cls(rows, policy, **options)

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
                values = yaml.load(data.decode(), Loader=strict_loader())
                return cls.from_json(plan_vectors.inlined(values, Path(path)))
            except OSError as error:
                raise PlanError(f"cannot be read: {reason(error)}") from error
            except UnicodeDecodeError as error:
                raise PlanError("is not text") from error
            except (ValueError, RecursionError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
                # A date that is none, an integer of 5,000 digits, brackets without end: PyYAML lets all errors pass.
                raise PlanError(f"is not YAML that a plan can hold ({short(str(error))})") from error
            except yaml.YAMLError as error:
                mark = getattr(error, "problem_mark", None)
                line, column = (mark.line + 1, mark.column + 1) if mark else (None, None)
                parts = [getattr(error, part, None) for part in ("context", "problem")]
                problem = ", ".join(filter(None, parts)) or f"is not YAML ({str(error).splitlines()[0]})"
                raise PlanError(problem, path=path, line=line, column=column) from error

    @property
    def has_vectors(self) -> bool:
        """Whether a part of the plan is in a file beside it."""
        return bool(plan_vectors.outlined(self.to_json())[1])

    def save(self, path: str | PathLike[str], *, force: bool = False) -> None:
        """Write the plan for people: one line a layer, with comments. Raises PlanError for more than `load` reads.

        Long vectors go to a file beside it, of the plan's name with the suffix VECTORS.
        """
        with outputs([path], force=force) as out:
            self.stage(out, path)

    def stage(self, out: Outputs, path: str | PathLike[str]) -> str:
        """`save` into a transaction. Returns the SHA-256 of the file."""
        values, vectors = plan_vectors.outlined(self.to_json())
        if vectors:
            beside = Path(path).with_suffix(VECTORS)
            values = plan_vectors.named(values, beside.name, out.write(beside, npz_bytes(vectors)))
        text = self._text(values)
        if len(text.encode()) > MAX_BYTES:
            got = len(text.encode())
            raise PlanError(f"expected a plan of at most {MAX_BYTES} bytes, got {got}", path=out.path(path))
        return out.write(path, text.encode())

    def to_yaml(self) -> str:
        """The text of the file, all vectors in it."""
        return self._text(self.to_json())

    def _text(self, values: dict[str, Any]) -> str:
        layers = values.pop("layers")
        head = [f"{key}: {_flow(value)}" for key, value in values.items()]
        lines = [
            "# Which fixed-point format each layer gets. Q2.14 has 2 bits before the point, the sign counted, 14 after."
        ]
        for key, line in zip(values, head, strict=True):
            gap = " " * (max(1, 24 - len(line)) if len(line) < 24 else 2)
            lines.append(f"{line}{gap}# {_NOTES[key]}" if key in _NOTES else line)
        lines.append("layers:  # output: null = not rounded" if layers else "layers: {}")
        width = max([len(scalar(name)) for name in layers], default=0) + 1
        for name, layer in layers.items():
            body = ", ".join(f"{key}: {_flow(value)}" for key, value in layer.items())
            note = f"  # {self.comments[name]}" if name in self.comments else ""
            lines.append(f"  {scalar(name) + ':':<{width}} {{{body}}}{note}")
        return "\n".join(lines) + "\n"


def _check_format(role: str, fmt: NumberFormat, policy: Policy) -> None:
    """Raise PlanError for a format that float32 blobs cannot hold, or that does not round as the plan asks."""
    try:
        fmt.check_dtype("float32")
    except FormatError as error:
        raise PlanError(f"{role}: {error.problem}", hint=error.hint) from error
    if policy.rounding != "deterministic" and not isinstance(fmt, QFormat | ChannelQFormat):
        raise PlanError(f"{role}: {fmt} rounds to nearest, the plan has rounding: {policy.rounding}")


def _row(layer: LayerPlan, version: int) -> dict[str, Any]:
    if version == 1:
        return {
            "type": layer.type,
            "weights": None if layer.weights is None else str(layer.weights),
            "output": None if layer.output is None else str(layer.output),
        }
    return {"type": layer.type} | {role: fmt.to_plain() for role, fmt in layer.formats().items()}


def _layer_plan(name: str, row: Any, version: int) -> LayerPlan:
    known = ("type", "weights", "output") if version == 1 else ("type", *ROLES)
    with located(layer=name):
        if not isinstance(row, dict) or not isinstance(row.get("type"), str):
            raise PlanError("expected {type: ..., weights: ..., output: ...}")
        if unknown := [key for key in row if key not in known]:
            raise PlanError(f"unknown key {short(unknown[0])}", hint=f"known are {', '.join(known)}")
        if version == 1 and row["type"] not in LOW_PRECISION:
            expected = " or ".join(LOW_PRECISION)
            raise PlanError(f"type: expected {expected} in a plan of version 1, got {short(row['type'])}")
        return LayerPlan(row["type"], **{role: _format(role, row.get(role), version) for role in known[1:]})


def _vector_values(value: Any) -> int:
    """How many numbers the lists of a format hold."""
    return sum(len(one) for one in value.values() if isinstance(one, list)) if isinstance(value, dict) else 0


def _format(role: str, value: Any, version: int) -> NumberFormat | None:
    if value is None:
        return None
    if version == 1 and not isinstance(value, str):
        raise PlanError(f"{role}: expected a format such as Q2.14, got {short(value)}")
    try:
        return QFormat.parse(value) if version == 1 else parse_format(value)
    except FormatError as error:
        raise PlanError(f"{role}: {error.problem}", hint=error.hint) from error


def _flow(value: Any) -> str:
    """A plain value in YAML's flow style, on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if type(value) is float:  # YAML 1.1 takes 1e-08 for text
        text = repr(value)
        return text if "." in text or "e" not in text else text.replace("e", ".0e")
    return scalar(value) if type(value) is str else json.dumps(value)
