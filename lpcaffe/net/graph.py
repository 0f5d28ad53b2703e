"""The resolved network: a read-only view of a NetParameter.

The message is the truth. A `Net` holds an upgraded (V2) message, cut to one phase, and answers the question that the
message answers only implicitly: which layer reads which value. In Caffe a layer may write the blob it reads (in place),
so one blob name stands for several values. Every value gets a name of its own here, the **tensor** name

    BLOB@LAYER      the value that LAYER wrote into BLOB

and `Layer.bottoms` and `Layer.tops` are tensor names, while `raw_bottoms` and `raw_tops` are the names in the file.

A plan of the plain dialect rounds values that no layer of the message rounds. `Net.roundings` holds those by tensor
name, and whatever executes the net applies them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike

from lpcaffe.errors import NetError, counted, warn
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.phases import filter_phase
from lpcaffe.formats.prototxt import read
from lpcaffe.formats.schema import TEST, TRAIN, Message
from lpcaffe.formats.upgrade import count_sign_bit, generation, upgrade
from lpcaffe.net.blobs import WeightBlob, Weights
from lpcaffe.numbers import NumberFormat


@dataclass(frozen=True)
class Layer:
    """One layer: its LayerParameter, and the tensors it reads and writes."""

    index: int
    message: Message
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]

    @property
    def name(self) -> str:
        """The layer's name."""
        return str(self.message.name)

    @property
    def type(self) -> str:
        """The layer's type, for example "Convolution"."""
        return str(self.message.type)

    @property
    def raw_bottoms(self) -> tuple[str, ...]:
        """The blobs read, by their names in the file."""
        return tuple(self.message.bottom)

    @property
    def raw_tops(self) -> tuple[str, ...]:
        """The blobs written, by their names in the file."""
        return tuple(self.message.top)


@dataclass(frozen=True)
class Rounding:
    """A value that is rounded on the way, although no layer of the message does it.

    `stream` is the name of the LPAct that would do it ("conv1_lpact"): random numbers are those of its top,
    `stream_of(f"{stream}/top")`.
    """

    format: NumberFormat
    scheme: str
    stream: str


def blob_of(tensor: str, layer_name: str) -> str:
    """The blob's name in the file, from the tensor that `layer_name` wrote."""
    return tensor[: -len(layer_name) - 1]


@dataclass(frozen=True)
class Net:
    """A network as Caffe would build it for one phase, with its weights when they are known.

    `message` is the upgraded NetParameter of the whole file; `layers` are those of the phase. `weights` is None, or the
    blobs by layer name. `unknown` are the fields of the caffemodel that the schema lacks, serialised, by layer name
    (None for the network's own): they are written again with the weights. `path` and `weights_path` are the files, for
    errors. `roundings` are the tensors to round after the layer that writes them. `input_fields` are the input blobs
    that old `input:` fields declare, which the upgraded message has as one Input layer. Build one with `load` or
    `Net.of`.
    """

    message: Message
    generation: str = "V2"
    path: str | None = None
    weights: Weights | None = None
    phase: int = TEST
    unknown: Mapping[str | None, bytes] = field(default_factory=dict)
    weights_path: str | None = None
    roundings: Mapping[str, Rounding] = field(default_factory=dict)
    input_fields: tuple[str, ...] = ()
    layers: tuple[Layer, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", _resolve(filter_phase(self.message, self.phase), self.message))

    @classmethod
    def of(cls, message: Message, *, path: str | None = None, weights: Weights | None = None, phase: int = TEST) -> Net:
        """The net of a message of any generation."""
        fields = tuple(message.input)
        return cls(upgrade(message), generation(message), path, weights, phase, input_fields=fields)

    @property
    def name(self) -> str:
        """The name that the file gives the network; may be empty."""
        return str(self.message.name)

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """The layers by name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def readers(self) -> dict[str, tuple[Layer, ...]]:
        """For each tensor, the layers that read it."""
        readers: dict[str, list[Layer]] = {top: [] for layer in self.layers for top in layer.tops}
        for layer in self.layers:
            for bottom in dict.fromkeys(layer.bottoms):
                readers[bottom].append(layer)
        return {tensor: tuple(layers) for tensor, layers in readers.items()}

    @cached_property
    def readers_in_other_phase(self) -> dict[str, tuple[str, ...]]:
        """For each tensor, the names of layers that read it when the network is built for the other phase only."""
        if not any(layer.include or layer.exclude for layer in self.message.layer):
            return {}
        try:
            other = dataclasses.replace(self, phase=TRAIN if self.phase == TEST else TEST)
        except NetError:  # then nobody builds it
            return {}
        own = {tensor: {(layer.name, layer.tops) for layer in layers} for tensor, layers in self.readers.items()}
        return {
            tensor: tuple(layer.name for layer in layers if (layer.name, layer.tops) not in own.get(tensor, ()))
            for tensor, layers in other.readers.items()
        }

    @cached_property
    def redefined_in_other_phase(self) -> frozenset[str]:
        """The names of layers that another phase has too, as other layers than this one's."""
        counts = Counter(layer.name for layer in self.message.layer)
        return frozenset(
            layer.name
            for layer in self.message.layer
            if counts[layer.name] > 1
            and layer.name in self.by_name
            and _without_rules(layer) != _without_rules(self.by_name[layer.name].message)
        )

    @cached_property
    def blob_name_users(self) -> Counter[str]:
        """How many layers have a blob of each name (`param { name: ... }`); more than one share it."""
        return Counter(name for layer in self.layers for name in {spec.name for spec in layer.message.param})

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The input blobs: the tops of Input layers, in the order of the file."""
        return tuple(top for layer in self.layers if layer.type == "Input" for top in layer.raw_tops)

    @cached_property
    def last_versions(self) -> dict[str, str]:
        """For each blob of the file, the tensor that it holds at the end: the last layer that wrote it."""
        return {raw: top for layer in self.layers for raw, top in zip(layer.raw_tops, layer.tops, strict=True)}

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """The output blobs: those that no layer reads, sorted as in Caffe. An input that no one reads is one."""
        unread = {tensor for tensor, layers in self.readers.items() if not layers}
        return tuple(sorted(blob for blob, tensor in self.last_versions.items() if tensor in unread))

    @cached_property
    def sha256(self) -> str:
        """What a plan is tied to: SHA-256 of the upgraded, weight-free NetParameter, serialised deterministically."""
        bare = type(self.message)()
        bare.CopyFrom(self.message)
        for layer in bare.layer:
            layer.ClearField("blobs")
        return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()

    def replace(self, message: Message, weights: Weights | None) -> Net:
        """The same file's network after a rewrite, which must leave the tensors of `roundings` in it."""
        return dataclasses.replace(self, message=message, weights=weights)


def _without_rules(layer: Message) -> Message:
    bare = type(layer)()
    bare.CopyFrom(layer)
    bare.ClearField("include")
    bare.ClearField("exclude")
    return bare


def _resolve(message: Message, whole: Message) -> tuple[Layer, ...]:
    """The layers of one phase. `whole` is the network of all phases, to say why a blob is missing."""
    counts = Counter(layer.name for layer in message.layer)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise NetError("two layers have this name; weights are matched by name", layer=twice[0], hint="rename one")
    current: dict[str, str] = {}
    tensors: set[str] = set()
    layers = []
    for index, layer in enumerate(message.layer):
        bottoms = []
        for blob in layer.bottom:
            if blob not in current:
                hint = None
                if any(blob in later.top for later in message.layer):
                    hint = "a later layer writes it, and layers run in the order of the file"
                elif any(blob in excluded.top for excluded in whole.layer):
                    hint = "layers of another phase or stage write it"
                raise NetError(f'bottom "{blob}" is not the top of an earlier layer', layer=layer.name, hint=hint)
            bottoms.append(current[blob])
        tops = []
        written: set[str] = set()
        for position, blob in enumerate(layer.top):
            in_place = position < len(layer.bottom) and layer.bottom[position] == blob
            if blob in written:
                raise NetError(f'top "{blob}" is named twice', layer=layer.name)
            written.add(blob)
            if blob in current and not in_place:
                raise NetError(f'top "{blob}" is written by an earlier layer too', layer=layer.name)
            tops.append(f"{blob}@{layer.name}")
            if tops[-1] in tensors:
                raise NetError(f'two values would be called "{tops[-1]}"', layer=layer.name, hint="rename the layer")
        tensors.update(tops)
        current.update(zip(layer.top, tops, strict=True))
        layers.append(Layer(index, layer, tuple(bottoms), tuple(tops)))
    return tuple(layers)


def load_net(prototxt: str | PathLike[str], *, old_bd: bool = False, phase: int = TEST) -> Net:
    """The net of a prototxt of any generation, without weights.

    `old_bd`: the file's lpfp_param was written for ADaPTION before November 2016, when bd did not count the sign.
    Raises FileError with line and column for text that cannot be parsed, NetError for a network that cannot be
    resolved.
    """
    message = read(prototxt)
    net = Net.of(message, path=str(prototxt), phase=phase)
    return net.replace(count_sign_bit(net.message), None) if old_bd else net


def load(
    prototxt: str | PathLike[str], caffemodel: str | PathLike[str], *, old_bd: bool = False, phase: int = TEST
) -> Net:
    """The net of a prototxt with the weights of a caffemodel, which stay in the file until they are used."""
    return load_weights(load_net(prototxt, old_bd=old_bd, phase=phase), caffemodel)


def load_weights(net: Net, caffemodel: str | PathLike[str]) -> Net:
    """A net with the weights of a caffemodel, which stay in the file until they are used."""
    model = open_caffemodel(caffemodel)
    stored = _with_shared(net, {name: layer.blobs for name, layer in model.by_name.items()})
    weights = match_weights(net, stored, path=model.path)
    headers = {None: model.net} | {layer.name: layer.header for layer in model.layers}
    unknown = {name: fields for name, header in headers.items() if (fields := _unknown_fields(header))}
    return dataclasses.replace(net, weights=weights, unknown=unknown, weights_path=model.path)


def _with_shared(net: Net, stored: Weights) -> Weights:
    """The blobs of every layer, where a file has those that layers share (params of one name) with the first only.

    Caffe writes such files in HDF5, and takes them in both formats.
    """
    owners: dict[str, WeightBlob] = {}
    full = dict(stored)
    for layer in net.layers:
        names = [param.name for param in layer.message.param]
        if not full.get(layer.name) and names and all(name in owners for name in names):
            full[layer.name] = [owners[name] for name in names]
        for name, blob in zip(names, full.get(layer.name, ()), strict=False):
            if name:
                owners.setdefault(name, blob)
    return full


def _unknown_fields(header: Message) -> bytes:
    """The fields of a message that the schema lacks, as bytes."""
    rest = type(header)()
    rest.CopyFrom(header)
    for known, _ in header.ListFields():
        rest.ClearField(known.name)
    return bytes(rest.SerializeToString())


def match_weights(net: Net, stored: Weights, *, path: str | None = None) -> Weights:
    """The weights of the layers that the net has.

    Caffe matches by layer name and ignores the rest. So do we, with a warning when what is left out holds blobs; the
    layers of the file's other phase (data, loss) are no cause for one.
    """
    known = {layer.name for layer in net.message.layer}
    left_out = [name for name, blobs in stored.items() if blobs and name not in known]
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        where = f"{path}: " if path else ""
        warn(f"{where}left out the weights of {counted(len(left_out), 'layer')} that the prototxt lacks: {shown}")
    return {layer.name: stored[layer.name] for layer in net.layers if stored.get(layer.name)}
