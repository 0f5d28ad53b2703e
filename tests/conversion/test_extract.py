"""Converting and extracting gives the network back: the message, and every blob to the bit."""

import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.conversion import rewrite
from lpcaffe.errors import FileError, LpcaffeError, LpcaffeWarning, NetError, WeightsError
from lpcaffe.formats import wire
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.prototxt import parse, read
from lpcaffe.formats.schema import NetParameter
from lpcaffe.io.kinds import content_kind
from lpcaffe.net import ArrayBlob, Net, quantizable_layers
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan

MODELS = Path(__file__).parents[3] / "shared" / "models"
# Each network, with the caffemodel of its name or the only one. A training network has data of no known shape, and
# Ristretto's types are no layers that a plan quantizes.
NETWORKS = {
    prototxt: min(prototxt.parent.glob("*.caffemodel"), key=lambda path: path.stem != prototxt.stem)
    for prototxt in sorted(MODELS.glob("*/*.prototxt"))
    if not prototxt.name.startswith(("train_test", "ristretto"))
}
GOLDEN = sorted(path.parent for path in MODELS.with_name("golden").glob("lp_nets/*/lp.prototxt"))

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }\n'
NET = f"""name: "small" force_backward: true
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         param {{ name: "w" lr_mult: 3 }} param {{ lr_mult: 2 decay_mult: 0.5 }}
         convolution_param {{ num_output: 5 kernel_h: 3 kernel_w: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" param {{ lr_mult: 0 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param {{ decay_mult: 7 }} include {{ phase: TEST }}
         inner_product_param {{ num_output: 7 bias_term: false }} }}
layer {{ name: "relu2" type: "ReLU" bottom: "ip" top: "ip" include {{ phase: TRAIN }} }}
layer {{ name: "deconv" type: "Deconvolution" bottom: "conv" top: "up"
         convolution_param {{ num_output: 2 kernel_size: 3 }} }}
layer {{ name: "last" type: "InnerProduct" bottom: "ip" top: "last" inner_product_param {{ num_output: 4 }} }}
"""


def plan_for(net, **options) -> BitPlan:
    lines = {
        layer.name: LayerPlan(layer.type, QFormat(2, 3 + i % 5), QFormat(4, 2 + i % 3))
        for i, layer in enumerate(quantizable_layers(net))
    }
    return BitPlan(lines, policy=lp.Policy(**{"fold_bn": False} | options))


def bits(blob) -> list[int]:
    return blob.array().ravel().view(np.uint32).tolist()


def there_and_back(net, folder, *, rounded=False, **options):
    """The paths of the network after a conversion and an extraction."""
    low = lp.convert(net, plan_for(net, **options), folder / "out").net
    paths = folder / "back.prototxt", folder / "back.caffemodel"
    assert lp.write_net(lp.extract(low, rounded=rounded), *paths) == tuple(map(str, paths))
    return paths


def assert_restored(net, caffemodel, paths):
    """The message is that of the source, upgraded; the blobs are those of its layers, to the bit."""
    assert read(paths[0]) == net.message
    with open_caffemodel(caffemodel) as before, open_caffemodel(paths[1]) as after:
        own = {layer.name for layer in net.layers}
        expected = {layer.name: layer.blobs for layer in before.layers if layer.blobs and layer.name in own}
        assert {layer.name for layer in after.layers if layer.blobs} == set(expected)
        for name, blobs in expected.items():
            assert [bits(blob) for blob in after.by_name[name].blobs] == [bits(blob) for blob in blobs], name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rounding": "stochastic", "seed": 5},
        {"round_bias": True},
        {"act_placement": "after-relu"},
    ],
)
def test_a_network_comes_back_to_the_bit(make_net, tmp_path, options):
    net = make_net(NET)
    assert_restored(net, tmp_path / "net.caffemodel", there_and_back(net, tmp_path, **options))


@pytest.mark.skipif(not NETWORKS, reason="../shared/models is not beside the checkout")
@pytest.mark.parametrize("prototxt", NETWORKS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_released_network_comes_back_to_the_bit(tmp_path, prototxt):
    caffemodel = NETWORKS[prototxt]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)
        net = lp.load(prototxt, caffemodel)
        paths = there_and_back(net, tmp_path)
        assert_restored(net, caffemodel, paths)


@pytest.mark.skipif(not GOLDEN, reason="../shared/golden is not beside the checkout")
@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_networks_that_another_writer_converted_come_back(tmp_path, folder):
    """Their names end in _lp, and the caffemodel of mtcnn_rnet has a layer that no prototxt of it has."""
    source = MODELS / {"lenet": "lenet_mnist"}.get(folder.name.rsplit("_", 1)[0], folder.name.rsplit("_", 1)[0])
    paths = tmp_path / "back.prototxt", tmp_path / "back.caffemodel"
    lp.write_net(lp.extract(lp.load(folder / "lp.prototxt", folder / "lp.caffemodel")), *paths)
    net = lp.diff(next(source.glob("*.prototxt")), paths[0])
    assert [field.field for field in net.fields] == ["name"]
    weights = lp.diff(next(source.glob("*.caffemodel")), paths[1])
    assert weights.compared["values"] > 6000
    assert (weights.only_b, weights.blobs, set(weights.only_a) <= {"conv5-3"}) == ((), (), True)


def test_low_precision_layers_are_in_between(make_net):
    net = make_net(NET)
    low = rewrite(net, plan_for(net))
    assert {"LPConvolution", "LPInnerProduct", "LPAct"} <= {layer.type for layer in low.layers}
    assert lp.extract(low).weights is None


@pytest.mark.parametrize("round_bias", [False, True])
def test_rounded_takes_the_blobs_that_the_layer_computes_with(make_net, tmp_path, round_bias):
    net = make_net(NET)
    paths = there_and_back(net, tmp_path, rounded=True, round_bias=round_bias)
    back, plan = lp.load(*paths), plan_for(net)
    assert back.message == net.message
    for name, line in plan.layers.items():
        source = [blob.array() for blob in net.weights[name]]
        fmt = line.weights
        expected = [lp.round_fp(source[0], fmt.bd, fmt.ad), *source[1:]]
        if round_bias:
            expected[1:] = [lp.round_fp(bias, fmt.bd, fmt.ad) for bias in source[1:]]
        for blob, values in zip(back.weights[name], expected, strict=True):
            np.testing.assert_array_equal(blob.array(), values)
    assert bits(back.weights["deconv"][0]) == bits(net.weights["deconv"][0])


def test_a_folded_network_comes_out_folded(make_net, tmp_path):
    net = make_net(NET)
    paths = there_and_back(net, tmp_path, fold_bn=True)
    folded = lp.fold_batch_norm(net)
    assert read(paths[0]) == folded.message
    assert "bn" not in {layer.name for layer in folded.message.layer}
    back = lp.load(*paths)
    for name in ("conv", "ip", "last"):
        assert [bits(blob) for blob in back.weights[name]] == [bits(blob) for blob in folded.weights[name]]


def test_unknown_fields_of_the_caffemodel_survive(make_net, tmp_path):
    make_net(NET)
    path = tmp_path / "net.caffemodel"
    model = NetParameter.FromString(path.read_bytes())
    strange = {name: wire.delimited(9999, 4) + name.encode() for name in ("netw", "conv", "relu")}
    model.MergeFromString(strange["netw"])
    for layer in model.layer:
        layer.MergeFromString(strange.get(layer.name, b""))
    path.write_bytes(model.SerializeToString())
    paths = there_and_back(lp.load(tmp_path / "net.prototxt", path), tmp_path)
    data = paths[1].read_bytes()
    assert [data.count(field) for field in strange.values()] == [1, 1, 1]
    with open_caffemodel(paths[1]) as back:
        assert strange["netw"] in back.net.SerializeToString()
        assert strange["conv"] in back.by_name["conv"].header.SerializeToString()
        assert strange["relu"] in back.by_name["relu"].header.SerializeToString()


BLOCKS = {
    # Blocks of the source -> those that come back. LP layers have no place for what is not there.
    "": "",
    "param { lr_mult: 3 }": "param { lr_mult: 3 }",
    "param { lr_mult: 3 } param { decay_mult: 0 }": "param { lr_mult: 3 } param { decay_mult: 0 }",
    "param { } param { lr_mult: 2 }": "param { } param { lr_mult: 2 }",
    "param { }": "param { }",
    'param { name: "w" } param { name: "b" }': 'param { name: "w" } param { name: "b" }',
    "param { lr_mult: 3 } param { }": "param { lr_mult: 3 }",
    "param { } param { }": "param { }",
}


@pytest.mark.parametrize("source", BLOCKS)
def test_param_blocks_come_back(source):
    def net(blocks):
        return Net.of(
            parse(f"""{INPUT} layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" {blocks}
                                         inner_product_param {{ num_output: 7 }} }}""")
        )

    own = net(source)
    back = lp.extract(rewrite(own, plan_for(own)))
    assert back.message == net(BLOCKS[source]).message


def test_layers_of_the_other_phase_come_back_too():
    twin = NET.replace("phase: TEST", "phase: TRAIN").split("layer {")[5]
    assert 'name: "ip"' in twin
    net = Net.of(parse(NET + "layer {" + twin))
    low = rewrite(net, plan_for(net))
    assert [layer.type for layer in low.message.layer].count("LPInnerProduct") == 3
    assert lp.extract(low).message == net.message


def test_without_a_bias_there_is_one_block():
    text = f"""{INPUT} layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param {{ lr_mult: 3 }}
               inner_product_param {{ num_output: 7 bias_term: false }} }}"""
    net = Net.of(parse(text))
    assert lp.extract(rewrite(net, plan_for(net))).message == net.message


def test_blocks_that_were_never_doubled_stay_as_they_are():
    """ADaPTION's own examples have two blocks where the layer has four blobs."""
    blocks = "param { lr_mult: 3 } param { lr_mult: 2 }"
    text = f"""{INPUT} layer {{ name: "ip" type: "LPInnerProduct" bottom: "data" top: "ip" {blocks}
               lpfp_param {{ bd: 2 ad: 6 }} inner_product_param {{ num_output: 7 }} }}"""
    expected = text.replace("LPInner", "Inner").replace("lpfp_param { bd: 2 ad: 6 }", "")
    assert lp.extract(Net.of(parse(text))).message == Net.of(parse(expected)).message


ACT = 'layer { name: "act" type: "LPAct" bottom: "data" top: "q" lpfp_param { bd: 2 ad: 6 } }\n'


def layer(name, bottom, top, kind="ReLU"):
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top}" }}\n'


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        (layer("a", "q", "a"), layer("a", "data", "a")),
        (layer("a", "q", "a") + layer("b", "q", "b"), layer("a", "data", "a") + layer("b", "data", "b")),
        # In place on the top: the blob is made anew, and the bottom stays what it is for others.
        (
            layer("a", "q", "q") + layer("b", "q", "b") + layer("c", "data", "c"),
            layer("a", "data", "q") + layer("b", "q", "b") + layer("c", "data", "c"),
        ),
        # An LPAct of an LPAct, and one in place on the top.
        (
            layer("act2", "q", "r", "LPAct") + layer("act3", "r", "r", "LPAct") + layer("a", "r", "a"),
            layer("a", "data", "a"),
        ),
        (
            layer("sum", 'q" bottom: "data', "sum", "Eltwise") + layer("a", "data", "data"),
            layer("sum", 'data" bottom: "data', "sum", "Eltwise") + layer("a", "data", "data"),
        ),
    ],
)
def test_an_lpact_that_is_not_in_place_is_read_past(rest, expected):
    assert lp.extract(Net.of(parse(INPUT + ACT + rest))).message == Net.of(parse(INPUT + expected)).message


def test_an_lpact_whose_bottom_is_overwritten_cannot_go():
    net = Net.of(parse(INPUT + ACT + layer("over", "data", "data") + layer("late", "q", "late")))
    with pytest.raises(NetError, match='layer "late": "q" comes from an LPAct whose bottom is overwritten before'):
        lp.extract(net)


def test_what_is_no_low_precision_network_is_refused(make_net):
    net = make_net(NET)
    with pytest.raises(NetError, match=r"net\.prototxt: expected a low-precision network, got one without LP layers"):
        lp.extract(net)
    with pytest.raises(NetError, match='layer "act": expected one bottom and one top'):
        lp.extract(Net.of(parse(INPUT + ACT.replace('top: "q"', 'top: "q" bottom: "data"'))))


def test_a_wrong_number_of_blobs_is_refused(make_net):
    net = make_net(NET)
    low = rewrite(net, plan_for(net))
    with pytest.raises(WeightsError, match='layer "conv": expected 4 blobs, got 2'):
        lp.extract(low.replace(low.message, net.weights))
    with pytest.raises(WeightsError, match='layer "conv": expected 4 blobs, got 0'):
        lp.extract(low.replace(low.message, {}))


def test_odd_values_are_copied_as_they_are(make_net, tmp_path):
    """NaN with its bits, infinity, -0.0 and subnormals: taking out is not the place to judge them."""
    net = make_net(NET)
    low = lp.convert(net, plan_for(net), tmp_path / "out").net
    strange = net.weights["conv"][0].array().copy()
    strange.flat[:5] = np.array([0x7F800001, 0xFFC00123, 0x7F800000, 0x80000000, 1], np.uint32).view(np.float32)
    weights = {**low.weights, "conv": [ArrayBlob(strange), *low.weights["conv"][1:]]}
    paths = tmp_path / "back.prototxt", tmp_path / "back.caffemodel"
    lp.write_net(lp.extract(low.replace(low.message, weights)), *paths)
    with open_caffemodel(paths[1]) as model:
        assert bits(model.by_name["conv"].blobs[0]) == strange.ravel().view(np.uint32).tolist()


# ------------------------------------------------------------------------------------------------ both files or none


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_both_files_appear_or_none(make_net, tmp_path, monkeypatch):
    net = make_net(NET, folder=tmp_path / "in")
    full = lp.extract(lp.convert(net, plan_for(net), tmp_path / "low").net)
    out = tmp_path / "out"
    out.mkdir()
    paths = out / "a.prototxt", out / "b.caffemodel"
    for path in paths:
        path.write_text("mine")
        with pytest.raises(FileError, match=f"{path.name}: the file exists"):
            lp.write_net(full, *paths)
        assert path.read_text() == "mine"
        assert names(out) == [path.name]
        path.unlink()
    with pytest.raises(FileError, match=r"a\.prototxt: expected a file of its own for this output"):
        lp.write_net(full, paths[0], out / "." / "a.prototxt")
    with pytest.raises(WeightsError, match="expected weights to write, got none"):
        lp.write_net(full.replace(full.message, None), *paths)
    broken = full.replace(full.message, {**full.weights, "gone": full.weights["conv"]})
    with pytest.raises(LpcaffeError, match='layer "gone"'):
        lp.write_net(broken, *paths)
    assert names(out) == []

    module = import_module("lpcaffe.conversion.write_net")  # the package has the function under this name
    write = module.stage_caffemodel

    def slow(*arguments, **options):
        write(*arguments, **options)
        paths[0].write_text("somebody else's")

    monkeypatch.setattr(module, "stage_caffemodel", slow)
    with pytest.raises(FileError, match=r"a\.prototxt: the file exists"):
        lp.write_net(full, *paths)
    assert names(out) == ["a.prototxt"]
    assert paths[0].read_text() == "somebody else's"


def test_force_overwrites_even_the_source(make_net, tmp_path):
    net = make_net(NET)
    out = tmp_path / "out"
    low = lp.convert(net, plan_for(net), out).net
    paths = out / "lp.prototxt", out / "lp.caffemodel"
    lp.write_net(lp.extract(low), *paths, force=True)
    assert_restored(net, tmp_path / "net.caffemodel", paths)
    assert names(out) == ["lp.caffemodel", "lp.prototxt", "plan.yaml", "report.json"]


def test_weights_go_into_hdf5_when_asked_for(make_net, tmp_path):
    pytest.importorskip("h5py", reason="h5py is not installed: pip install 'lpcaffe[hdf5]'")
    net = make_net(NET)
    low = lp.convert(net, plan_for(net), tmp_path / "low").net
    paths = tmp_path / "back.prototxt", tmp_path / "back.caffemodel.h5"
    lp.write_net(lp.extract(low), *paths, hdf5=True)
    assert content_kind(paths[1].read_bytes()) == "an HDF5 file"
    assert [bits(blob) for blob in lp.load(*paths).weights["conv"]] == [bits(blob) for blob in net.weights["conv"]]


def test_weights_that_do_not_fit_are_not_the_prototxt_s_fault(make_net):
    net = make_net(NET)
    low = rewrite(net, plan_for(net))
    with pytest.raises(WeightsError) as caught:
        lp.extract(low.replace(low.message, net.weights))
    assert caught.value.path == net.weights_path
    assert net.weights_path.endswith("net.caffemodel")
