"""V0 and V1 networks become V2 as in Caffe 1.0; what Caffe would lose survives.

The expected texts follow src/caffe/util/upgrade_proto.cpp of Caffe 1.0 by hand; the layers of real networks are those
that real Caffe built (corpus/*.shapes.json).
"""

import json
import warnings
from pathlib import Path

import pytest
from google.protobuf.descriptor import FieldDescriptor

from lpcaffe.errors import LpcaffeWarning, NetError
from lpcaffe.formats.phases import filter_phase
from lpcaffe.formats.prototxt import dump, parse
from lpcaffe.formats.schema import LayerParameter, NetParameter, V0LayerParameter, V1LayerParameter
from lpcaffe.formats.upgrade import generation, upgrade, upgrade_layer

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
SHAPES = [path.with_suffix("").with_suffix("") for path in sorted(SHARED.glob("corpus/*.shapes.json"))]
needs_shared = pytest.mark.skipif(not SHAPES, reason="needs the corpus of public networks beside the checkout")


def v2(text):
    """The upgraded network, after checking that upgrading is idempotent and leaves its argument alone."""
    net = parse(text)
    upgraded = upgrade(net)
    assert net == parse(text)
    assert generation(upgraded) == "V2"
    assert upgrade(upgraded) == upgraded
    assert parse(dump(upgraded)) == upgraded
    return upgraded


# ---------------------------------------------------------------------------------------------------- generations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "V2"),
        ('input: "x" input_dim: [1, 2, 3, 4]', "V2"),
        ("layer { }", "V2"),
        ("layers { }", "V1"),
        ("layers { layer { } }", "V0"),
        ("layers { } layers { layer { } }", "V0"),
    ],
)
def test_the_oldest_layer_names_the_generation(text, expected):
    assert generation(parse(text)) == expected


def test_a_current_network_comes_out_as_it_went_in():
    text = """
        name: "n" force_backward: true state { level: 2 } zork: 1
        layer { name: "a" zork { b: 2 } include { min_level: 3 } }
    """
    assert v2(text) == parse(text)


# ---------------------------------------------------------------------------------------------------- V1


def test_a_v1_layer_becomes_a_v2_layer():
    assert v2("""
        name: "n"
        layers {
          name: "c" type: CONVOLUTION bottom: "x" top: "y" include { phase: TRAIN } exclude { stage: "s" }
          param: "shared" blob_share_mode: STRICT blob_share_mode: PERMISSIVE
          blobs_lr: 1 blobs_lr: 2 weight_decay: 3 weight_decay: 0 weight_decay: 5 loss_weight: 0.5
          convolution_param { num_output: 6 kernel_size: 3 engine: CAFFE zork: 1 } zork { a: 1 }
          loss_param { normalize: true }
        }
    """) == parse("""
        name: "n"
        layer {
          name: "c" type: "Convolution" bottom: "x" top: "y" include { phase: TRAIN } exclude { stage: "s" }
          param { name: "shared" share_mode: STRICT lr_mult: 1 decay_mult: 3 }
          param { share_mode: PERMISSIVE lr_mult: 2 decay_mult: 0 }
          param { decay_mult: 5 }
          loss_weight: 0.5
          convolution_param { num_output: 6 kernel_size: 3 engine: CAFFE zork: 1 } zork { a: 1 }
          loss_param { normalize: true }
        }
    """)


# Caffe's class names have the words of the enum, but for these.
IRREGULAR = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "IM2COL": "Im2col",
    "LRN": "LRN",
    "MVN": "MVN",
    "RELU": "ReLU",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "TANH": "TanH",
}


def test_every_v1_type_has_its_name():
    values = V1LayerParameter.DESCRIPTOR.fields_by_name["type"].enum_type.values
    assert len(values) == 40
    for value in values:
        regular = "".join(word.capitalize() for word in value.name.split("_"))
        assert upgrade_layer(V1LayerParameter(type=value.number)).type == IRREGULAR.get(value.name, regular)
    assert not upgrade_layer(V1LayerParameter()).HasField("type")


def test_every_parameter_block_of_v1_survives():
    for field in V1LayerParameter.DESCRIPTOR.fields:
        if field.name.endswith("_param"):
            block = "zork: 1"  # every message keeps what it does not know
            layer = parse(f"{field.name} {{ {block} }}", V1LayerParameter)
            assert upgrade_layer(layer) == parse(f"{field.name} {{ {block} }}", LayerParameter), field.name


@pytest.mark.parametrize(
    ("old", "new", "block"),
    [
        ("DATA", "Data", "data_param"),
        ("IMAGE_DATA", "ImageData", "image_data_param"),
        ("WINDOW_DATA", "WindowData", "window_data_param"),
    ],
)
def test_old_data_parameters_become_the_transformation(old, new, block):
    assert v2(f"""
        layers {{ name: "d" type: {old} transform_param {{ mean_value: 7 scale: 9 }}
          {block} {{ source: "s" scale: 0.25 mean_file: "m" crop_size: 227 mirror: false batch_size: 3 }} }}
    """) == parse(f"""
        layer {{ name: "d" type: "{new}" {block} {{ source: "s" batch_size: 3 }}
          transform_param {{ scale: 0.25 mean_file: "m" crop_size: 227 mirror: false mean_value: 7 }} }}
    """)


def test_data_parameters_of_other_layers_and_of_v2_stay():
    text = '{0} {{ name: "d" type: {1} data_param {{ scale: 2 mirror: true }} }}'
    assert v2(text.format("layers", "DUMMY_DATA")) == parse(text.format("layer", '"DummyData"'))
    assert v2(text.format("layer", '"Data"')) == parse(text.format("layer", '"Data"'))


def test_what_only_the_newer_schema_knows_is_read_by_it():
    """Forks of the V1 age had PRELU layers; V2 has their block, so it is no longer unknown."""
    upgraded = v2("""
        layers { name: "p" type: PRELU prelu_param { channel_shared: true zork: 3 } phase: TEST zork: 4 top: "x" }
        layers { name: "s" type: SCALE scale_param { bias_term: true } pooling_param { pool: AVG } }
    """)
    assert upgraded == parse("""
        layer { name: "p" type: "PRELU" prelu_param { channel_shared: true zork: 3 } phase: TEST zork: 4 top: "x" }
        layer { name: "s" type: "SCALE" scale_param { bias_term: true } pooling_param { pool: AVG } }
    """)
    assert upgraded.layer[0].prelu_param.channel_shared


def test_a_fork_field_that_does_not_fit_is_an_error_that_names_the_layer():
    with pytest.raises(NetError) as caught:
        upgrade(parse('layers { name: "p" prelu_param: 3 }'))
    assert str(caught.value) == 'layer "p": expected "{" after "prelu_param", got 3'


def test_blobs_go_with_their_layer():
    v1 = parse('name: "c" type: RELU blobs { num: 1 channels: 2 data: [0.5, -3] } blobs { data: 7 }', V1LayerParameter)
    assert upgrade_layer(v1) == parse(
        'name: "c" type: "ReLU" blobs { num: 1 channels: 2 data: [0.5, -3] } blobs { data: 7 }', LayerParameter
    )


# ---------------------------------------------------------------------------------------------------- V0


def test_a_v0_network_becomes_v2():
    assert v2("""
        name: "Old" input: "x" input_dim: [1, 3, 24, 25]
        layers { layer { name: "pad1" type: "padding" pad: 2 } bottom: "x" top: "pad1" }
        layers {
          layer {
            name: "conv1" type: "conv" num_output: 96 biasterm: false kernelsize: 11 group: 2 stride: 4
            weight_filler { type: "gaussian" std: 0.01 } bias_filler { value: 0.5 }
            blobs_lr: 1 blobs_lr: 2 weight_decay: 1 weight_decay: 0
          }
          bottom: "pad1" top: "conv1"
        }
        layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
        layers { layer { name: "pad2" type: "padding" pad: 1 } bottom: "conv1" top: "pad2" }
        layers { layer { name: "pool1" type: "pool" pool: AVE kernelsize: 3 stride: 2 } bottom: "pad2" top: "pool1" }
        layers { layer { name: "norm1" type: "lrn" local_size: 5 alpha: 0.25 beta: 0.5 k: 2 }
          bottom: "pool1" top: "norm1" }
        layers { layer { name: "ip" type: "innerproduct" num_output: 10 biasterm: true } bottom: "norm1" top: "ip" }
        layers { layer { name: "drop" type: "dropout" dropout_ratio: 0.25 } bottom: "ip" top: "ip" }
        layers { layer { name: "cat" type: "concat" concat_dim: 0 } bottom: "ip" bottom: "norm1" top: "cat" }
        layers { layer { name: "loss" type: "softmax_loss" } bottom: "cat" bottom: "label" }
    """) == parse("""
        name: "Old"
        layer { name: "input" type: "Input" top: "x" input_param { shape { dim: [1, 3, 24, 25] } } }
        layer {
          name: "conv1" type: "Convolution" bottom: "x" top: "conv1"
          param { lr_mult: 1 decay_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
          convolution_param {
            num_output: 96 bias_term: false kernel_size: 11 group: 2 stride: 4 pad: 2
            weight_filler { type: "gaussian" std: 0.01 } bias_filler { value: 0.5 }
          }
        }
        layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
        layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
          pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 } }
        layer { name: "norm1" type: "LRN" bottom: "pool1" top: "norm1"
          lrn_param { local_size: 5 alpha: 0.25 beta: 0.5 k: 2 } }
        layer { name: "ip" type: "InnerProduct" bottom: "norm1" top: "ip"
          inner_product_param { num_output: 10 bias_term: true } }
        layer { name: "drop" type: "Dropout" bottom: "ip" top: "ip" dropout_param { dropout_ratio: 0.25 } }
        layer { name: "cat" type: "Concat" bottom: "ip" bottom: "norm1" top: "cat" concat_param { concat_dim: 0 } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cat" bottom: "label" }
    """)


V0_DATA = 'source: "s" batchsize: 3'
V0_LAYERS = {
    f'type: "data" {V0_DATA} rand_skip: 2': 'type: "Data" data_param { source: "s" batch_size: 3 rand_skip: 2 }',
    f'type: "hdf5_data" {V0_DATA}': 'type: "HDF5Data" hdf5_data_param { source: "s" batch_size: 3 }',
    f'type: "images" {V0_DATA} rand_skip: 2 shuffle_images: true new_height: 5 new_width: 6': 'type: "ImageData" '
    'image_data_param { source: "s" batch_size: 3 rand_skip: 2 shuffle: true new_height: 5 new_width: 6 }',
    f'type: "window_data" {V0_DATA} det_fg_threshold: 0.25 det_bg_threshold: 0.125 det_fg_fraction: 0.5 '
    'det_context_pad: 16 det_crop_mode: "square"': 'type: "WindowData" window_data_param { source: "s" batch_size: 3 '
    'fg_threshold: 0.25 bg_threshold: 0.125 fg_fraction: 0.5 context_pad: 16 crop_mode: "square" }',
    'type: "infogain_loss" source: "s"': 'type: "InfogainLoss" infogain_loss_param { source: "s" }',
    'type: "hdf5_output" hdf5_output_param { file_name: "f" }': 'type: "HDF5Output" '
    'hdf5_output_param { file_name: "f" }',
    # transformations move whatever the type
    'type: "data" scale: 0.5 meanfile: "m" cropsize: 7 mirror: true': 'type: "Data" '
    'transform_param { scale: 0.5 mean_file: "m" crop_size: 7 mirror: true }',
    'type: "relu" mirror: true': 'type: "ReLU" transform_param { mirror: true }',
    # forks
    'type: "zorking" zork: 3 prelu_param { channel_shared: true }': 'type: "zorking" zork: 3 '
    "prelu_param { channel_shared: true }",
    'type: "conv" blobs { num: 2 data: [1, 2] } blobs { data: 3 }': 'type: "Convolution" '
    "blobs { num: 2 data: [1, 2] } blobs { data: 3 }",
}


@pytest.mark.parametrize("old", V0_LAYERS)
def test_every_v0_parameter_finds_its_block(old):
    v1 = parse(f'bottom: "b" top: "t" layer {{ name: "n" {old} }}', V1LayerParameter)
    assert upgrade_layer(v1) == parse(f'name: "n" bottom: "b" top: "t" {V0_LAYERS[old]}', LayerParameter)


def test_every_v0_type_has_its_name():
    regular = (
        "accuracy concat data dropout euclidean_loss flatten infogain_loss multinomial_logistic_loss sigmoid softmax "
        "split"
    )
    names = {name: "".join(word.capitalize() for word in name.split("_")) for name in regular.split()} | {
        "bnll": "BNLL",
        "conv": "Convolution",
        "hdf5_data": "HDF5Data",
        "hdf5_output": "HDF5Output",
        "im2col": "Im2col",
        "images": "ImageData",
        "innerproduct": "InnerProduct",
        "lrn": "LRN",
        "pool": "Pooling",
        "relu": "ReLU",
        "softmax_loss": "SoftmaxWithLoss",
        "tanh": "TanH",
        "window_data": "WindowData",
    }
    assert len(names) == 24
    for old, new in names.items():
        assert upgrade_layer(parse(f'layer {{ type: "{old}" }}', V1LayerParameter)).type == new


def test_every_field_of_v0_goes_somewhere_or_is_warned_of():
    homes = {}
    for field in V0LayerParameter.DESCRIPTOR.fields:
        if field.name in ("type", "other"):
            continue
        value = {
            FieldDescriptor.TYPE_STRING: ': "s"',
            FieldDescriptor.TYPE_BOOL: ": true",
            FieldDescriptor.TYPE_MESSAGE: " { zork: 1 }",
        }.get(field.type, ": 1")
        homes[field.name] = set()
        for kind in ("conv", "pool", "innerproduct", "dropout", "lrn", "data", "images", "window_data", "concat"):
            layer = parse(f'layer {{ type: "{kind}" {field.name}{value} }}', V1LayerParameter, path=field.name)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                upgraded = upgrade_layer(layer)
            upgraded.ClearField("type")
            assert (upgraded == LayerParameter()) == bool(caught), (field.name, kind)
            if not caught:
                homes[field.name].add(kind)
    # Caffe never read these two.
    assert {name for name, kinds in homes.items() if not kinds} == {"new_num", "new_channels"}


def test_v0_parameters_of_another_type_are_left_out_with_a_warning():
    net = parse('layers { layer { name: "r" type: "relu" kernelsize: 3 stride: 2 } }')
    with pytest.warns(
        LpcaffeWarning, match=r'^layer "r": left out kernelsize, stride, which .* type "relu" does not have$'
    ):
        upgraded = upgrade(net)
    assert upgraded == parse('layer { name: "r" type: "ReLU" }')


def test_a_padding_layer_alone_is_a_padding_layer():
    v1 = parse('layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "y"', V1LayerParameter)
    assert upgrade_layer(v1) == parse('name: "p" type: "padding" bottom: "x" top: "y"', LayerParameter)


def test_padding_read_by_two_layers_is_folded_into_both():
    upgraded = v2("""
        layers { layer { name: "p" type: "padding" pad: 2 } bottom: "x" top: "y" }
        layers { layer { name: "c" type: "conv" } bottom: "y" top: "c" }
        layers { layer { name: "q" type: "pool" } bottom: "y" top: "q" }
        layers { layer { name: "r" type: "relu" } bottom: "c" top: "y" }
        layers { layer { name: "s" type: "relu" } bottom: "y" top: "s" }
    """)
    assert [(layer.name, layer.bottom[0]) for layer in upgraded.layer] == [
        ("c", "x"),
        ("q", "x"),
        ("r", "c"),
        ("s", "y"),
    ]
    assert (upgraded.layer[0].convolution_param.pad[0], upgraded.layer[1].pooling_param.pad) == (2, 2)


@pytest.mark.parametrize(
    ("bottoms", "reader"),
    [
        ('bottom: "x"', 'layer { name: "r" type: "relu" } bottom: "y"'),
        ('bottom: "x"', 'layer { name: "r" type: "conv" } bottom: "y" bottom: "z"'),
        ('bottom: "x" bottom: "z"', 'layer { name: "r" type: "conv" } bottom: "y"'),
        ("", 'layer { name: "r" type: "pool" } bottom: "y"'),
    ],
)
def test_padding_that_cannot_be_folded_is_an_error_that_names_the_layer(bottoms, reader):
    net = parse(f'layers {{ layer {{ name: "p" type: "padding" }} {bottoms} top: "y" }} layers {{ {reader} top: "t" }}')
    with pytest.raises(NetError, match=r'^layer "r": the padding layer "p" needs one bottom'):
        upgrade(net)


# ---------------------------------------------------------------------------------------------------- both


def test_a_text_with_both_generations_keeps_its_order():
    text = """
        layer { name: "a" type: "Input" } layers { name: "b" type: RELU } layer { name: "c" }
        layers { layer { name: "d" type: "padding" pad: 3 } bottom: "x" top: "y" }
        layers { layer { name: "e" type: "conv" } bottom: "y" } layer { name: "f" }
    """
    with pytest.warns(LpcaffeWarning, match="^the network: mixes"):
        net = parse(text)
    assert (
        net
        == upgrade(net)
        == parse("""
        layer { name: "a" type: "Input" } layer { name: "b" type: "ReLU" } layer { name: "c" }
        layer { name: "e" type: "Convolution" bottom: "x" convolution_param { pad: 3 } } layer { name: "f" }
    """)
    )


def test_a_message_with_both_generations_has_the_older_first():
    net = NetParameter(name="n", layer=[LayerParameter(name="b")], layers=[V1LayerParameter(name="a", type=18)])
    with pytest.warns(LpcaffeWarning, match='^network "n" has both'):
        upgraded = upgrade(net)
    assert upgraded == parse('name: "n" layer { name: "a" type: "ReLU" } layer { name: "b" }')


# ---------------------------------------------------------------------------------------------------- inputs, BatchNorm


def test_inputs_become_one_input_layer_at_the_start():
    expected = parse("""
        layer { name: "input" type: "Input" top: "x" top: "y"
          input_param { shape { dim: [1, 2, 3, 4] } shape { dim: [5, 6, 7, 8] } } }
        layer { name: "a" } layer { name: "b" }
    """)
    layers = 'layer { name: "a" } layer { name: "b" }'
    assert v2(f'input: "x" input: "y" input_dim: [1, 2, 3, 4, 5, 6, 7, 8] {layers}') == expected
    shapes = "input_shape { dim: [1, 2, 3, 4] } input_shape { dim: [5, 6, 7, 8] }"
    assert v2(f'input: "x" input: "y" {shapes} {layers}') == expected
    assert v2(f'input: "x" input: "y" {shapes} input_dim: [9, 9, 9, 9, 9, 9, 9, 9] {layers}') == expected


def test_an_input_may_have_any_rank():
    shape = v2('input: "x" input_shape { dim: 2 dim: 3 }').layer[0].input_param.shape
    assert [list(one.dim) for one in shape] == [[2, 3]]


def test_inputs_without_shapes_are_dropped_as_caffe_does_with_a_warning():
    with pytest.warns(LpcaffeWarning, match=r"inputs \(x\) no input_shape and no input_dim; they are left out"):
        assert v2('input: "x" layers { name: "a" type: RELU }') == parse('layer { name: "a" type: "ReLU" }')


@pytest.mark.parametrize(
    ("shapes", "got"),
    [
        ("input_shape { dim: 2 } input_dim: [1, 2, 3]", "1 input_shape and 3 input_dim"),
        ("input_dim: [1, 2, 3, 4, 5, 6, 7]", "0 input_shape and 7 input_dim"),
    ],
)
def test_shapes_that_do_not_suffice_are_left_open_with_a_warning(shapes, got):
    net = parse(f'name: "n" input: "x" input: "y" {shapes} layer {{ name: "a" }}')
    with pytest.warns(LpcaffeWarning, match=f'^network "n" has {got} for 2 inputs'):
        upgraded = upgrade(net)
    assert upgraded == parse("""
        name: "n" layer { name: "input" type: "Input" top: "x" top: "y" input_param { } } layer { name: "a" }
    """)


def test_three_specs_of_a_batch_norm_never_learn():
    rates = "param { lr_mult: 2 name: 'w' } param { decay_mult: 3 } param { }"
    still = "lr_mult: 0 decay_mult: 0"
    assert v2(f'layer {{ type: "BatchNorm" {rates} }} layer {{ type: "Scale" {rates} }}') == parse(
        f'layer {{ type: "BatchNorm" param {{ {still} name: "w" }} param {{ {still} }} param {{ {still} }} }}'
        f'layer {{ type: "Scale" {rates} }}'
    )
    two = 'layer { type: "BatchNorm" param { lr_mult: 2 } param { lr_mult: 3 } }'
    assert v2(two) == parse(two)


# ---------------------------------------------------------------------------------------------------- real networks


@needs_shared
def test_the_layers_are_those_that_real_caffe_built():
    assert len(SHAPES) > 30
    for path in SHAPES:
        net = filter_phase(upgrade(parse(path.read_text(encoding="utf-8"), path=path)))
        built = json.loads(Path(f"{path}.shapes.json").read_text(encoding="utf-8"))["layers"]
        expected = [layer for layer in built if layer[1] != "Split"]  # Caffe inserts these where a blob has two readers
        assert [[layer.name, layer.type] for layer in net.layer] == expected, path.name


def test_unknown_numbers_in_an_old_layer_are_left_out_with_a_warning():
    layer = V1LayerParameter(name="a")
    layer.MergeFromString(b"\xc0\x3e\x07")  # field 1000, a varint
    layer.layer.MergeFromString(b"\xc8\x3e\x07")  # field 1001
    with pytest.warns(LpcaffeWarning, match=r'layer "a": left out the unknown fields \[1000, 1001\]'):
        assert upgrade_layer(layer) == LayerParameter(name="a")
