"""The three generations of Caffe's networks, and how the older ones become the current one.

    V0  until 2013       layers { bottom: "a" top: "b" layer { name: "c" type: "conv" kernelsize: 3 blobs_lr: 1 } }
    V1  2013 to 2014     layers { bottom: "a" top: "b" name: "c" type: CONVOLUTION blobs_lr: 1 ... }
    V2  since then       layer { name: "c" type: "Convolution" bottom: "a" top: "b" param { lr_mult: 1 } ... }

The steps and their order are those of Caffe 1.0 (src/caffe/util/upgrade_proto.cpp): V0 to V1, old data parameters into
`transform_param`, V1 to V2, `input` fields into an Input layer, and no learning rates for the three blobs of BatchNorm.
Caffe loses what it does not know on the way; here a fork's field with a name survives: it is read again by the schema
of the new layer, and what that lacks as well stays in `other`. One of which a binary file has the number only is lost
when it stands in a V0 or V1 layer itself, with a warning: a number means something else in a V2 layer.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.unknown_fields import UnknownFieldSet

from lpcaffe.errors import FileError, NetError, warn
from lpcaffe.formats.schema import (
    LayerParameter,
    Message,
    NetParameter,
    V1LayerParameter,
    message_class,
)
from lpcaffe.formats.text_parser import parse_fields
from lpcaffe.formats.text_writer import dump

_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
}

# V0 names that are not the V1 name in small letters.
_V0_TYPES = {"conv": "CONVOLUTION", "images": "IMAGE_DATA", "innerproduct": "INNER_PRODUCT", "pool": "POOLING"}
_V0_SAME = (
    "accuracy bnll concat data dropout euclidean_loss flatten hdf5_data hdf5_output im2col infogain_loss lrn "
    "multinomial_logistic_loss relu sigmoid softmax softmax_loss split tanh window_data"
)
_V0_TO_V1 = _V0_TYPES | {name: name.upper() for name in _V0_SAME.split()}

# Where the parameters of a V0 layer of a given type go: field -> {type: (block, field)}.
_CONV, _FULL, _POOL = "convolution_param", "inner_product_param", "pooling_param"
_DATA, _IMAGES, _WINDOW, _HDF5 = "data_param", "image_data_param", "window_data_param", "hdf5_data_param"
_V0_PARAMETERS: dict[str, dict[str, tuple[str, str]]] = {
    "num_output": {"conv": (_CONV, "num_output"), "innerproduct": (_FULL, "num_output")},
    "biasterm": {"conv": (_CONV, "bias_term"), "innerproduct": (_FULL, "bias_term")},
    "weight_filler": {"conv": (_CONV, "weight_filler"), "innerproduct": (_FULL, "weight_filler")},
    "bias_filler": {"conv": (_CONV, "bias_filler"), "innerproduct": (_FULL, "bias_filler")},
    "pad": {"conv": (_CONV, "pad"), "pool": (_POOL, "pad")},
    "kernelsize": {"conv": (_CONV, "kernel_size"), "pool": (_POOL, "kernel_size")},
    "group": {"conv": (_CONV, "group")},
    "stride": {"conv": (_CONV, "stride"), "pool": (_POOL, "stride")},
    "pool": {"pool": (_POOL, "pool")},
    "dropout_ratio": {"dropout": ("dropout_param", "dropout_ratio")},
    "local_size": {"lrn": ("lrn_param", "local_size")},
    "alpha": {"lrn": ("lrn_param", "alpha")},
    "beta": {"lrn": ("lrn_param", "beta")},
    "k": {"lrn": ("lrn_param", "k")},
    "source": {
        "data": (_DATA, "source"),
        "hdf5_data": (_HDF5, "source"),
        "images": (_IMAGES, "source"),
        "window_data": (_WINDOW, "source"),
        "infogain_loss": ("infogain_loss_param", "source"),
    },
    "batchsize": {
        "data": (_DATA, "batch_size"),
        "hdf5_data": (_HDF5, "batch_size"),
        "images": (_IMAGES, "batch_size"),
        "window_data": (_WINDOW, "batch_size"),
    },
    "rand_skip": {"data": (_DATA, "rand_skip"), "images": (_IMAGES, "rand_skip")},
    "shuffle_images": {"images": (_IMAGES, "shuffle")},
    "new_height": {"images": (_IMAGES, "new_height")},
    "new_width": {"images": (_IMAGES, "new_width")},
    "concat_dim": {"concat": ("concat_param", "concat_dim")},
    "det_fg_threshold": {"window_data": (_WINDOW, "fg_threshold")},
    "det_bg_threshold": {"window_data": (_WINDOW, "bg_threshold")},
    "det_fg_fraction": {"window_data": (_WINDOW, "fg_fraction")},
    "det_context_pad": {"window_data": (_WINDOW, "context_pad")},
    "det_crop_mode": {"window_data": (_WINDOW, "crop_mode")},
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}

_OLD_DATA = {"Data": _DATA, "ImageData": _IMAGES, "WindowData": _WINDOW}
_V1_COPIED = [
    field.name
    for field in V1LayerParameter.DESCRIPTOR.fields
    if (new := LayerParameter.DESCRIPTOR.fields_by_name.get(field.name)) is not None
    and (field.type, field.message_type) == (new.type, new.message_type)
    and field.name != "other"
]


def generation(net: Message) -> str:
    """ "V0", "V1" or "V2": the oldest generation of which `net` has a layer. A net without layers is V2."""
    if any(layer.HasField("layer") for layer in net.layers):
        return "V0"
    return "V1" if net.layers else "V2"


def upgrade(net: Message) -> Message:
    """A new NetParameter of generation V2 with the layers of `net`, blobs included; V2 comes out as it went in.

    - V0 padding layers are folded into the convolution or pooling that reads them.
    - `input` with `input_shape` or `input_dim` becomes one Input layer named "input", before all others. As in Caffe,
      `input` without shapes is dropped: old caffemodels carry it. Shapes that do not suffice for the inputs are left
      out of the Input layer, with a warning.
    - In a net with both generations the `layers` come first, with a warning. Only binary files get here: `parse` has
      merged those of a text in the order of the file.

    Raises NetError for a padding layer that cannot be folded.
    """
    result = NetParameter()
    result.CopyFrom(net)
    result.ClearField("layers")
    result.ClearField("layer")
    if net.layers and net.layer:
        text = f'network "{net.name}" has both "layers" and "layer"; the {len(net.layers)} "layers" are taken first'
        warn(text)
    result.layer.extend(upgrade_layer(layer) for layer in _fold_padding(net.layers) if layer is not None)
    result.layer.extend(net.layer)
    _upgrade_inputs(result)
    for layer in result.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0
    return result


def upgrade_layer(layer: Message) -> Message:
    """The LayerParameter that a V1LayerParameter, or the V0 layer inside it, means; blobs are carried along.

    A type that Caffe does not have keeps its spelling. A V0 padding layer comes out as a layer of type "padding": only
    `upgrade`, which sees the whole net, can fold it. V0 parameters that do not belong to the layer's type are left out
    with a warning, as in Caffe.

    Raises NetError when a field of a fork does not fit the schema of the new layer.
    """
    result = LayerParameter()
    numbers = sorted(_unknown_numbers(layer) | _unknown_numbers(layer.layer))
    if numbers:
        text = f'layer "{layer.name or layer.layer.name}": left out the unknown fields {numbers} of an old layer'
        warn(text, stacklevel=3)
    for name in _V1_COPIED:
        _copy(layer, name, result, name)
    unknown_type = [entry.value for entry in layer.other if entry.name == "type"]
    if layer.HasField("type"):
        result.type = _V1_TYPES[layer.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[layer.type].name]
    elif unknown_type:
        result.type = unknown_type[0]
    for index, shared_name in enumerate(layer.param):
        _param(result, index).name = shared_name
    for index, mode in enumerate(layer.blob_share_mode):
        _param(result, index).share_mode = mode
    _upgrade_rates(layer, result)
    _adopt((entry for entry in layer.other if entry.name != "type"), result)
    if layer.HasField("layer"):
        _upgrade_v0(layer.layer, result)
    block = _OLD_DATA.get(result.type)
    for name in ("scale", "mean_file", "crop_size", "mirror"):
        if block and result.HasField(block) and getattr(result, block).HasField(name):
            _copy(getattr(result, block), name, result.transform_param, name)
            getattr(result, block).ClearField(name)
    return result


def _unknown_numbers(message: Message) -> set[int]:
    fields = UnknownFieldSet(message)
    return {fields[index].field_number for index in range(len(fields))}


def _upgrade_v0(v0: Message, result: Message) -> None:
    """The fields of a V0 layer into the LayerParameter `result`."""
    kind = v0.type
    if v0.HasField("type"):
        result.type = _V1_TYPES[_V0_TO_V1[kind]] if kind in _V0_TO_V1 else kind
    misplaced = []
    for field, _ in v0.ListFields():
        name = field.name
        if name in ("name", "blobs", "hdf5_output_param"):
            _copy(v0, name, result, name)
        elif name in _V0_TRANSFORM:
            _copy(v0, name, result.transform_param, _V0_TRANSFORM[name])
        elif kind in _V0_PARAMETERS.get(name, {}):
            block, new = _V0_PARAMETERS[name][kind]
            _copy(v0, name, getattr(result, block), new)
        elif name not in ("type", "blobs_lr", "weight_decay", "other") and kind != "padding":
            misplaced.append(name)
    _upgrade_rates(v0, result)
    _adopt(v0.other, result)
    if misplaced:
        text = (
            f'layer "{result.name}": left out {", ".join(misplaced)}, which a V0 layer of type "{kind}" does not have'
        )
        warn(text, stacklevel=3)


def _upgrade_rates(old: Message, result: Message) -> None:
    for index, rate in enumerate(old.blobs_lr):
        _param(result, index).lr_mult = rate
    for index, decay in enumerate(old.weight_decay):
        _param(result, index).decay_mult = decay


def _param(layer: Message, index: int) -> Message:
    """The ParamSpec of blob `index`, made if need be."""
    while len(layer.param) <= index:
        layer.param.add()
    return layer.param[index]


def _copy(source: Message, name: str, target: Message, new: str) -> None:
    """Copy one field if it is set. A single number may become the only one of a repeated field."""
    field = source.DESCRIPTOR.fields_by_name[name]
    value = getattr(source, name)
    if not field.has_presence:
        getattr(target, new).extend(value)
    elif source.HasField(name):
        if field.message_type is not None:
            getattr(target, new).CopyFrom(value)
        elif target.DESCRIPTOR.fields_by_name[new].has_presence:
            setattr(target, new, value)
        else:
            getattr(target, new).append(value)


def _adopt(entries: Iterable[Message], result: Message) -> None:
    """Read fields that an older schema lacks by the schema of `result`; what that lacks too goes into its `other`."""
    unknown = message_class("OtherBlock")()
    unknown.other.extend(entries)
    if not unknown.other:
        return
    try:
        result.MergeFrom(parse_fields(dump(unknown), type(result))[0])
    except FileError as error:
        raise NetError(error.problem, layer=result.name, hint=error.hint) from None


def merge_generations(net: Message, order: Iterable[str]) -> None:
    """Make the `layers` and `layer` blocks of `net` one list of V2 layers, in place; `order` names each one's field."""
    old, new = iter(_fold_padding(net.layers)), iter(list(net.layer))
    merged = [next(new) if name == "layer" else next(old) for name in order]
    layers = [upgrade_layer(layer) if isinstance(layer, V1LayerParameter) else layer for layer in merged]
    net.ClearField("layers")
    net.ClearField("layer")
    net.layer.extend(layer for layer in layers if layer is not None)


def _fold_padding(layers: Iterable[Message]) -> list[Message | None]:
    """The V1 layers, None in place of V0 padding layers: whoever reads one gets its padding and its bottom."""
    producers: dict[str, Message] = {}
    kept: list[Message | None] = []
    for layer in layers:
        if layer.layer.type == "padding":
            kept.append(None)
        else:
            folded = V1LayerParameter()
            folded.CopyFrom(layer)
            kept.append(folded)
            for index, bottom in enumerate(layer.bottom):
                padding = producers.get(bottom)
                if padding is None or padding.layer.type != "padding":
                    continue
                if layer.layer.type not in ("conv", "pool") or len(layer.bottom) != 1 or len(padding.bottom) != 1:
                    problem = (
                        f'the padding layer "{padding.layer.name}" needs one bottom and may only feed the one bottom'
                    )
                    raise NetError(f"{problem} of a conv or pool layer", layer=layer.layer.name)
                folded.layer.pad = padding.layer.pad
                folded.bottom[index] = padding.bottom[0]
        for top in layer.top:
            producers[top] = layer
    return kept


def count_sign_bit(net: Message) -> Message:
    """The V2 net of a file whose `lpfp_param.bd` leaves out the sign bit, as ADaPTION had it before November 2016."""
    counted = NetParameter()
    counted.CopyFrom(net)
    for layer in counted.layer:
        if layer.lpfp_param.HasField("bd"):
            layer.lpfp_param.bd += 1
    return counted


def _upgrade_inputs(net: Message) -> None:
    """Turn the fields `input`, `input_shape` and `input_dim` of a V2 net into an Input layer before all others."""
    if not net.input:
        return
    count = len(net.input)
    if net.input_shape or net.input_dim:
        layers = list(net.layer)
        first = LayerParameter(name="input", type="Input", top=net.input)
        first.input_param.SetInParent()
        if len(net.input_shape) >= count:
            first.input_param.shape.extend(net.input_shape[:count])
        elif not net.input_shape and len(net.input_dim) >= 4 * count:
            for index in range(count):
                first.input_param.shape.add(dim=net.input_dim[4 * index : 4 * index + 4])
        else:
            got = f"{len(net.input_shape)} input_shape and {len(net.input_dim)} input_dim"
            text = f'network "{net.name}" has {got} for {count} inputs, whose shapes are left open'
            warn(text, stacklevel=3)
        net.ClearField("layer")
        net.layer.append(first)
        net.layer.extend(layers)
    else:
        names = ", ".join(net.input)
        text = f'network "{net.name}" gives its inputs ({names}) no input_shape and no input_dim; they are left out'
        warn(text, stacklevel=3)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)
