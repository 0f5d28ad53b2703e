"""A training network (train_val.prototxt) as a deploy network: one that is fed with images and gives answers.

What `deploy` does, in this order:

1. The network is cut to the TEST phase and, where the file has such rules, to the stage "deploy". The rules, and what
   only training reads (`state`, `force_backward`, `debug_info`, `loss_weight`, `propagate_down`), are left out.
2. A data layer becomes an Input layer of the same name, with the shape that the file says and the data layer's
   `transform_param`, which Caffe ignores there and lpcaffe takes preprocessing from.
3. Labels go: all tops but the first of a layer that reads labelled images, and every layer that needs one of them.
4. SoftmaxWithLoss becomes Softmax, SigmoidCrossEntropyLoss becomes Sigmoid: the last one is called "prob", an earlier
   one BOTTOM_prob. There is none where the network has that Softmax or Sigmoid already. Other losses (any layer with a
   loss_weight is one), evaluation and HDF5Output go.
5. What only fed a layer that has gone goes too (a target, and what reshapes it), unless it depends on weights:
   predictions stay. A Silence layer keeps the bottoms that stay.

Everything else stays as it is, in its order: layer names, so that the caffemodel still matches; `param` and fillers,
which do no harm; fields of forks; layers of types that lpcaffe does not know; auxiliary classifiers of the TEST phase.
A deploy network comes out as it went in.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from lpcaffe.engines import Shapes, infer_shapes
from lpcaffe.errors import NetError, located
from lpcaffe.formats.phases import filter_phase
from lpcaffe.formats.prototxt import dump, read
from lpcaffe.formats.schema import TEST, LayerParameter, Message
from lpcaffe.formats.upgrade import count_sign_bit, upgrade
from lpcaffe.io.outputs import write_file
from lpcaffe.layers import LAYERS, NEVER_RUN
from lpcaffe.layers.data import is_data
from lpcaffe.net import Layer, Net

Shape = tuple[int, ...]

_ANSWERS = {"SoftmaxWithLoss": "Softmax", "SigmoidCrossEntropyLoss": "Sigmoid"}
_OF_TRAINING = ("include", "exclude", "phase", "loss_weight", "propagate_down")
# Data layers whose tops are whatever the user stored: which are labels shows only in what reads them.
_FREE_TOPS = ("DummyData", "HDF5Data")


def deploy_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    old_bd: bool = False,
    force: bool = False,
) -> None:
    """Write the deploy form of a prototxt of any generation; see `deploy`. `old_bd` as in `load_net`."""
    message = upgrade(read(source))
    with located(path=source):
        text = dump(deploy(count_sign_bit(message) if old_bd else message, input_shape=input_shape))
    write_file(target, text.encode(), force=force)


def deploy(message: Message, *, input_shape: Shape | None = None) -> Message:
    """A new NetParameter: the deploy form of a network of any generation, as the module says.

    `input_shape` is the shape of the first data layer's data, if the file does not say it, or another is wanted. Raises
    NetError for a network that cannot be resolved, for data of a shape that is not known, and where a Python layer
    brings the data.
    """
    result = upgrade(message)
    layers = filter_phase(result, TEST, stages=["deploy"]).layer
    written = {top for layer in result.layer for top in layer.top}
    for name in ("layer", "state", "force_backward", "debug_info"):
        result.ClearField(name)
    losses = {layer.name for layer in layers if any(layer.loss_weight)}
    for layer in layers:
        for name in _OF_TRAINING:
            layer.ClearField(name)
    result.layer.extend(layers)
    net = _resolved(result, written)
    labels, gone = _without_labels(net, losses)
    answers = _answers(net, labels, gone)
    gone -= answers.keys()
    dead = _left_over(net, labels, gone, answers)
    shapes = infer_shapes(net, strict=False)
    data_layers = [layer.index for layer in net.layers if is_data(layer.type) and layer.index not in gone]
    if input_shape is not None and not data_layers:
        raise NetError("there is no data layer that could take the input shape")
    kept: list[Message] = []
    for layer in net.layers:
        if layer.index in gone:
            continue
        with located(layer=layer.name):
            if layer.index in data_layers:
                kept.append(_input(layer, shapes, dead, input_shape if layer.index == data_layers[0] else None))
            elif layer.type == "Python" and not layer.bottoms:
                hint = "write an Input layer in its place"
                raise NetError("a Python layer brings the data, and only its code knows what that is", hint=hint)
            else:
                kept.append(answers.get(layer.index) or _without(layer, dead))
    result.ClearField("layer")
    result.layer.extend(kept)
    return result


def _resolved(message: Message, written: set[str]) -> Net:
    try:
        return Net.of(message)
    except NetError as error:
        lost = written - {top for layer in message.layer for top in layer.top}
        if any(bottom in lost for layer in message.layer for bottom in layer.bottom):
            error.hint = "layers of another phase or stage write it"
        raise


def _goes(layer: Layer) -> bool:
    """Whether the layer only has a meaning in training."""
    role = NEVER_RUN[layer.type].role if layer.type in NEVER_RUN else ""
    return role in ("a loss layer", "an evaluation layer") or layer.type == "HDF5Output"


def _without_labels(net: Net, losses: set[str]) -> tuple[set[str], set[int]]:
    """The tensors that need a label, and the layers that go because they compute, compare or write such."""
    labels: set[str] = set()
    gone: set[int] = set()
    for layer in net.layers:
        answers = layer.type in _ANSWERS and layer.bottoms and layer.bottoms[0] not in labels
        if is_data(layer.type):
            labels.update(() if layer.type in _FREE_TOPS else layer.tops[1:])
        elif layer.name in losses or _goes(layer) or (layer.type != "Silence" and labels.intersection(layer.bottoms)):
            gone.add(layer.index)
            # The second top of such a loss is the answer.
            labels.update(layer.tops[:1] if answers else layer.tops)
    return labels, gone


def _answers(net: Net, labels: set[str], gone: set[int]) -> dict[int, Message]:
    """For each loss whose layer gives an answer, by index: the layer that stands in its place."""
    have = {_question(layer, layer.type) for layer in net.layers if layer.type in _ANSWERS.values()}
    asked: dict[object, Layer] = {}
    for layer in net.layers:
        if layer.type in _ANSWERS and layer.bottoms and layer.bottoms[0] not in labels:
            question = _question(layer, _ANSWERS[layer.type])
            if question not in have or len(layer.tops) > 1:
                asked.setdefault((question, layer.raw_tops[1:]), layer)
    losses = list(asked.values())
    staying = [layer for layer in net.layers if layer.index not in gone]
    taken = {name for layer in staying for name in (layer.name, *layer.raw_tops)}
    answers: dict[int, Message] = {}
    for layer in reversed(losses):
        name = "prob" if layer is losses[-1] else f"{layer.raw_bottoms[0]}_prob"
        name = layer.raw_tops[1] if len(layer.tops) > 1 else _free(name, taken)
        taken.add(name)
        answer = LayerParameter(name=name, type=_ANSWERS[layer.type], bottom=layer.raw_bottoms[:1], top=[name])
        if layer.message.HasField("softmax_param"):
            answer.softmax_param.CopyFrom(layer.message.softmax_param)
        answers[layer.index] = answer
    return answers


def _question(layer: Layer, answer: str) -> tuple[str, str, int]:
    """What makes two Softmax or Sigmoid layers the same one."""
    return answer, layer.bottoms[0] if layer.bottoms else "", layer.message.softmax_param.axis


def _free(name: str, taken: set[str]) -> str:
    return next(free for free in (name, *(f"{name}_{i}" for i in range(2, len(taken) + 3))) if free not in taken)


def _left_over(net: Net, labels: set[str], gone: set[int], answers: dict[int, Message]) -> set[str]:
    """The tensors that are not there any more; layers all of whose tops only fed what has gone are added to `gone`."""
    learned = _learned(net)
    dead = set(labels)

    def reads(layer: Layer, tensor: str) -> bool:
        return layer.index not in gone and (layer.index not in answers or tensor == layer.bottoms[0])

    def left_over(tensor: str) -> bool:
        readers = [layer for layer in net.readers[tensor] if layer.type != "Silence"]
        return tensor not in learned and bool(readers) and not any(reads(layer, tensor) for layer in readers)

    for layer in reversed(net.layers):
        if layer.index in gone or layer.index in answers:
            continue
        over = [top for top in layer.tops if top in dead or left_over(top)]
        # Only the tops of an input can be left out one by one.
        if is_data(layer.type) or layer.type == "Input" or len(over) == len(layer.tops):
            dead.update(over)
        if layer.tops and dead.issuperset(layer.tops):
            gone.add(layer.index)
    silence = [layer for layer in net.layers if layer.type == "Silence" and layer.bottoms]
    gone.update(layer.index for layer in silence if dead.issuperset(layer.bottoms))
    return dead


def _learned(net: Net) -> set[str]:
    """The tensors that depend on weights; a layer of a type that is not known may have some."""
    learned: set[str] = set()
    for layer in net.layers:
        own = layer.type not in LAYERS or LAYERS[layer.type].blobs is not None
        if layer.bottoms and (own or learned.intersection(layer.bottoms)):
            learned.update(layer.tops)
    return learned


def _input(layer: Layer, shapes: Shapes, dead: set[str], given: Shape | None) -> Message:
    """The Input layer in the place of a data layer."""
    result = LayerParameter(name=layer.name, type="Input")
    for blob, tensor in zip(layer.raw_tops, layer.tops, strict=True):
        if tensor not in dead:
            shape = given or shapes.tensors[tensor]
            if shape is None:
                raise _unknown_shape(layer, blob, shapes)
            result.top.append(blob)
            result.input_param.shape.add(dim=shape)
            given = None
    if layer.message.HasField("transform_param"):
        result.transform_param.CopyFrom(layer.message.transform_param)
    return result


def _unknown_shape(layer: Layer, blob: str, shapes: Shapes) -> NetError:
    said = [problem.problem for problem in shapes.problems if problem.layer == layer.name]
    problem = next((text for text in said if f'"{blob}"' in text), f'the shape of "{blob}" is not known')
    return NetError(problem, hint="give --input-shape N,C,H,W")


def _without(layer: Layer, dead: Iterable[str]) -> Message:
    """A layer that stays, less the inputs that nobody reads any more or the bottoms that a Silence layer has lost."""
    result = LayerParameter()
    result.CopyFrom(layer.message)
    if layer.type == "Input":
        _keep(result.top, layer.tops, dead)
        if len(result.input_param.shape) == len(layer.tops):
            _keep(result.input_param.shape, layer.tops, dead)
    elif layer.type == "Silence":
        _keep(result.bottom, layer.bottoms, dead)
    return result


def _keep(field: Message, tensors: Sequence[str], dead: Iterable[str]) -> None:
    """Drop the entries of a repeated field whose tensors are dead."""
    for index in reversed(range(len(tensors))):
        if tensors[index] in dead:
            del field[index]
