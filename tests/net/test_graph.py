"""The resolved network: which layer reads which value."""

import pytest

from lpcaffe.errors import LpcaffeWarning, NetError
from lpcaffe.formats.caffemodel import BlobSource, write_caffemodel
from lpcaffe.formats.prototxt import dump, parse
from lpcaffe.formats.schema import TRAIN
from lpcaffe.net import Net, blob_of, load, load_net, match_weights


def layer(name: str, kind: str, bottoms: str, tops: str, text: str = "") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottoms.split()) + "".join(f'top: "{t}" ' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}" {names} {text} }}\n'


IN_PLACE = (
    layer("conv", "Convolution", "data", "c", "convolution_param { num_output: 3 kernel_size: 1 }")
    + layer("act", "LPAct", "c", "c", "lpfp_param { bd: 2 ad: 2 }")
    + layer("relu", "ReLU", "c", "c")
    + layer("pool", "Pooling", "c", "p", "pooling_param { kernel_size: 2 }")
    + layer("late", "TanH", "c", "t")
    + layer("drop", "Dropout", "c", "c")
    + layer("sum", "Eltwise", "c p c", "s")
)


def test_every_value_of_a_blob_has_a_name_and_readers_read_the_latest(net_of):
    net = net_of(IN_PLACE)
    assert [(item.name, item.bottoms, item.tops) for item in net.layers] == [
        ("data", (), ("data@data",)),
        ("conv", ("data@data",), ("c@conv",)),
        ("act", ("c@conv",), ("c@act",)),
        ("relu", ("c@act",), ("c@relu",)),
        ("pool", ("c@relu",), ("p@pool",)),
        ("late", ("c@relu",), ("t@late",)),
        ("drop", ("c@relu",), ("c@drop",)),
        ("sum", ("c@drop", "p@pool", "c@drop"), ("s@sum",)),
    ]
    assert [item.index for item in net.layers] == list(range(8))
    assert net.by_name["sum"].raw_bottoms == ("c", "p", "c")
    assert net.by_name["act"].raw_tops == ("c",)


def test_readers_of_a_value_are_listed_once_and_in_order(net_of):
    readers = {tensor: [item.name for item in layers] for tensor, layers in net_of(IN_PLACE).readers.items()}
    assert readers == {
        "data@data": ["conv"],
        "c@conv": ["act"],
        "c@act": ["relu"],
        "c@relu": ["pool", "late", "drop"],
        "p@pool": ["sum"],
        "t@late": [],
        "c@drop": ["sum"],
        "s@sum": [],
    }


def test_inputs_outputs_and_last_versions(net_of):
    net = net_of(IN_PLACE)
    assert net.inputs == ("data",)
    assert net.last_versions == {"data": "data@data", "c": "c@drop", "p": "p@pool", "t": "t@late", "s": "s@sum"}
    assert net.outputs == ("s", "t")


def test_outputs_are_sorted_as_in_caffe_and_an_unread_input_is_one(net_of):
    text = (
        layer("in", "Input", "", "y x", "input_param { shape { dim: 2 } }")
        + layer("z", "TanH", "data", "z")
        + layer("b", "TanH", "data", "b")
        + layer("y", "TanH", "y", "Y")
    )
    net = net_of(text)
    assert net.inputs == ("data", "y", "x")
    assert net.outputs == ("Y", "b", "x", "z")


@pytest.mark.parametrize("name", ["conv", "a@b", "a/b c"])
def test_the_blob_of_a_tensor_is_found_again_whatever_the_names(net_of, name):
    net = net_of(layer(name, "TanH", "data", "x@y"))
    assert net.layers[1].tops == (f"x@y@{name}",)
    assert blob_of(net.layers[1].tops[0], name) == "x@y"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (layer("a", "ReLU", "date", "a"), r'^layer "a": bottom "date" is not the top of an earlier layer$'),
        (layer("a", "ReLU", "b", "a") + layer("b", "ReLU", "data", "b"), r'^layer "a": bottom "b" is not the top'),
        (
            layer("a", "ReLU", "data", "x") + layer("b", "ReLU", "data", "x"),
            r'^layer "b": top "x" is written by an earlier layer too$',
        ),
        # In place only where bottom and top stand at the same position, as in Caffe.
        (
            layer("a", "ReLU", "data", "x") + layer("b", "Eltwise", "data x", "x"),
            r'^layer "b": top "x" is written by an earlier layer too$',
        ),
        (layer("a", "Slice", "data", "x x"), r'^layer "a": top "x" is named twice$'),
        (layer("a", "Slice", "data", "data data"), r'^layer "a": top "data" is named twice$'),
        (
            layer("a", "ReLU", "data", "x") + layer("a", "ReLU", "x", "y"),
            r'^layer "a": two layers have this name; weights are matched by name; rename one$',
        ),
    ],
)
def test_networks_that_caffe_could_not_build_name_the_layer(net_of, text, message):
    with pytest.raises(NetError, match=message):
        net_of(text)


def test_an_eltwise_may_be_in_place_on_its_first_bottom(net_of):
    net = net_of(layer("a", "ReLU", "data", "x") + layer("b", "Eltwise", "x data", "x"))
    assert net.by_name["b"].bottoms == ("x@a", "data@data")
    assert net.last_versions["x"] == "x@b"


PHASES = (
    layer("drop", "Dropout", "data", "d", "include { phase: TRAIN }")
    + layer("drop", "Power", "data", "d", "include { phase: TEST }")
    + layer("always", "ReLU", "d", "d")
    + layer("loss", "SoftmaxWithLoss", "d", "loss", "exclude { phase: TEST }")
)


def test_a_net_is_that_of_one_phase_and_its_message_that_of_both(net_of):
    test, train = net_of(PHASES), net_of(PHASES, phase=TRAIN)
    assert [(item.name, item.type) for item in test.layers[1:]] == [("drop", "Power"), ("always", "ReLU")]
    assert [item.type for item in train.layers[1:]] == ["Dropout", "ReLU", "SoftmaxWithLoss"]
    assert len(test.message.layer) == 5
    assert test.sha256 == train.sha256
    assert [item.type for item in train.replace(train.message, None).layers[1:]] == [
        "Dropout",
        "ReLU",
        "SoftmaxWithLoss",
    ]


def test_older_generations_resolve_to_the_same_layers_and_the_same_sha256():
    v1 = 'input: "data" input_dim: [1, 3, 5, 4] layers { name: "r" type: RELU bottom: "data" top: "data" }'
    v2 = 'input: "data" input_dim: [1, 3, 5, 4] layer { name: "r" type: "ReLU" bottom: "data" top: "data" }'
    old, new = Net.of(parse(v1)), Net.of(parse(v2))
    assert (old.generation, new.generation) == ("V1", "V2")
    assert [(item.type, item.bottoms, item.tops) for item in old.layers] == [
        ("Input", (), ("data@input",)),
        ("ReLU", ("data@input",), ("data@r",)),
    ]
    assert old.sha256 == new.sha256


def test_the_sha256_is_of_the_network_without_weights(net_of):
    net = net_of(IN_PLACE)
    other = net_of(IN_PLACE.replace("bd: 2", "bd: 3"))
    heavy = net_of(IN_PLACE)
    heavy.message.layer[1].blobs.add(data=[1, 2, 3])
    assert heavy.sha256 == net.sha256 != other.sha256
    assert len(heavy.message.layer[1].blobs) == 1


def test_old_bd_counts_the_sign_that_files_before_november_2016_left_out(tmp_path):
    path = tmp_path / "old.prototxt"
    text = (
        layer("in", "Input", "", "data", "input_param { shape { dim: 2 } }")
        + layer("q", "LPAct", "data", "q", "lpfp_param { bd: 2 ad: 13 }")
        + layer("zero", "LPAct", "data", "zero", "lpfp_param { bd: 0 ad: 15 }")
        + layer("none", "LPAct", "data", "none", "lpfp_param { ad: 4 }")
        + layer("tanh", "TanH", "data", "tanh")
    )
    path.write_text(text)
    old, new = load_net(path, old_bd=True), load_net(path)
    assert [old.by_name[name].message.lpfp_param.bd for name in ("q", "zero")] == [3, 1]
    assert [new.by_name[name].message.lpfp_param.bd for name in ("q", "zero")] == [2, 0]
    # A bd that is not there is not one bit less than one: it stays away, and the layer is refused.
    assert not old.by_name["none"].message.lpfp_param.HasField("bd")
    assert not old.by_name["tanh"].message.HasField("lpfp_param")


# ---------------------------------------------------------------------------------------------------- weights


def test_weights_are_matched_by_layer_name_and_left_out_ones_are_named(net_of):
    net = net_of(IN_PLACE + layer("train", "InnerProduct", "s", "ip", "include { phase: TRAIN }"))
    stored = {"conv": [1, 2], "fc": [3], "old": [4], "train": [5], "relu": []}
    with pytest.warns(LpcaffeWarning, match=r"^m: left out the weights of 2 layers that the prototxt lacks: fc, old$"):
        found = match_weights(net, stored, path="m")
    assert found == {"conv": [1, 2]}


def test_left_out_layers_without_blobs_and_those_of_the_other_phase_are_no_cause_for_a_warning(net_of):
    net = net_of(IN_PLACE + layer("train", "InnerProduct", "s", "ip", "include { phase: TRAIN }"))
    assert match_weights(net, {"train": [5], "c_relu_0_split": [], "label": []}) == {}


def test_many_left_out_layers_are_counted_and_the_first_five_named(net_of):
    with pytest.warns(
        LpcaffeWarning, match=r"weights of 7 layers that the prototxt lacks: l0, l1, l2, l3, l4, \.\.\.$"
    ):
        match_weights(net_of(""), {f"l{i}": [i] for i in range(7)})


def test_load_gives_a_net_the_blobs_of_the_file(net_of, tmp_path):
    net = net_of(IN_PLACE)
    (tmp_path / "n.prototxt").write_text(dump(net.message))
    values = [[[[[1.5]], [[2]], [[3]], [[4]]]] * 3, [5, 6, 7]]
    write_caffemodel(tmp_path / "n.caffemodel", net.message, {"conv": [BlobSource.of(v) for v in values]})
    loaded = load(tmp_path / "n.prototxt", tmp_path / "n.caffemodel")
    assert loaded.sha256 == net.sha256
    assert loaded.path == str(tmp_path / "n.prototxt")
    assert [blob.array().tolist() for blob in loaded.weights["conv"]] == values
