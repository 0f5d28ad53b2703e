"""Training networks as deploy networks: made-up ones with every trap, and every one of ../shared/corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpcaffe.conversion import deploy
from lpcaffe.data import net_preprocessing
from lpcaffe.engines import check_executable, infer_shapes
from lpcaffe.errors import LpcaffeError, NetError
from lpcaffe.formats.prototxt import dump, parse, read
from lpcaffe.formats.schema import LayerParameter
from lpcaffe.formats.upgrade import upgrade
from lpcaffe.layers import LAYERS, NEVER_RUN
from lpcaffe.net import Net

DATA = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { crop_size: 5 mirror: true mean_value: 1 mean_value: 2 mean_value: 3 } data_param { batch_size: 6 } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { scale: 0.5 crop_size: 5 mean_value: 1 mean_value: 2 mean_value: 3 } data_param { batch_size: 7 } }
"""
IP = """
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
"""
INPUT = """
layer { name: "data" type: "Input" top: "data"
  transform_param { scale: 0.5 crop_size: 5 mean_value: 1 mean_value: 2 mean_value: 3 }
  input_param { shape { dim: 7 dim: 3 dim: 5 dim: 5 } } }
"""
LOSS = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 2 }'
ACCURACY = 'layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" include { phase: TEST } }'
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }'

# what happens, what goes in, what comes out
CASES = {
    "a classifier": (DATA + IP + ACCURACY + LOSS, INPUT + IP + PROB),
    "fields of training go, everything else stays": (
        'name: "n" state { phase: TEST } force_backward: true debug_info: true zork: 3'
        + DATA
        + IP
        + 'layer { name: "r" type: "ReLU" bottom: "ip" top: "ip" propagate_down: true loss_weight: 0 zork { a: 1 } }'
        + 'layer { name: "s" type: "Splork" bottom: "ip" top: "s" exclude { phase: TRAIN } splork_param { a: 1 } }',
        'name: "n" zork: 3'
        + INPUT
        + IP
        + 'layer { name: "r" type: "ReLU" bottom: "ip" top: "ip" zork { a: 1 } }'
        + 'layer { name: "s" type: "Splork" bottom: "ip" top: "s" splork_param { a: 1 } }',
    ),
    "the loss has no top": (DATA + IP + LOSS.replace('top: "loss"', ""), INPUT + IP + PROB),
    "the loss's own Softmax parameters": (
        DATA + IP + LOSS.replace("loss_weight: 2", "softmax_param { axis: -1 } loss_param { ignore_label: 1 }"),
        INPUT + IP + PROB.replace('top: "prob"', 'top: "prob" softmax_param { axis: -1 }'),
    ),
    "the second top of the loss is the answer": (
        DATA
        + IP
        + LOSS.replace('top: "loss"', 'top: "loss" top: "p"')
        + 'layer { name: "argmax" type: "ArgMax" bottom: "p" top: "best" }',
        INPUT
        + IP
        + PROB.replace("prob", "p")
        + 'layer { name: "argmax" type: "ArgMax" bottom: "p" top: "best" }',
    ),
    "the same loss twice, once with the answer": (
        DATA
        + IP
        + LOSS
        + LOSS.replace('name: "loss"', 'name: "l2"').replace('top: "loss"', 'top: "loss2" top: "p"')
        + 'layer { name: "argmax" type: "ArgMax" bottom: "p" top: "best" }',
        INPUT
        + IP
        + 'layer { name: "ip_prob" type: "Softmax" bottom: "ip" top: "ip_prob" }'
        + PROB.replace("prob", "p")
        + 'layer { name: "argmax" type: "ArgMax" bottom: "p" top: "best" }',
    ),
    "there is a Softmax already": (
        DATA + IP + PROB.replace("prob", "p") + LOSS + ACCURACY,
        INPUT + IP + PROB.replace("prob", "p"),
    ),
    "prob is taken": (
        DATA + IP.replace('"ip"', '"prob"') + LOSS.replace('"ip"', '"prob"'),
        INPUT
        + IP.replace('"ip"', '"prob"')
        + 'layer { name: "prob_2" type: "Softmax" bottom: "prob" top: "prob_2" }',
    ),
    "prob is the loss itself": (DATA + IP + LOSS.replace('"loss"', '"prob"'), INPUT + IP + PROB),
    "auxiliary classifiers": (
        DATA + IP + IP.replace('"ip"', '"main"') + LOSS + LOSS.replace("loss", "l2").replace('"ip"', '"main"')
        .replace("l2_weight", "loss_weight"),
        INPUT
        + IP
        + IP.replace('"ip"', '"main"')
        + 'layer { name: "ip_prob" type: "Softmax" bottom: "ip" top: "ip_prob" }'
        + 'layer { name: "prob" type: "Softmax" bottom: "main" top: "prob" }',
    ),
    "sigmoids": (
        DATA + IP + 'layer { name: "l" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "label" top: "l" }',
        INPUT + IP + 'layer { name: "prob" type: "Sigmoid" bottom: "ip" top: "prob" }',
    ),
    "regression keeps the prediction": (
        DATA + IP + 'layer { name: "l" type: "EuclideanLoss" bottom: "label" bottom: "ip" top: "l" }',
        INPUT + IP,
    ),
    "labels are cut, reshaped and counted": (
        DATA
        + 'layer { name: "cut" type: "Slice" bottom: "label" top: "a" top: "b" }'
        + 'layer { name: "flat" type: "Flatten" bottom: "a" top: "flat" }'
        + 'layer { name: "mask" type: "Splork" bottom: "data" bottom: "b" top: "mask" }'
        + IP
        + LOSS.replace('"label"', '"flat"')
        + 'layer { name: "sum" type: "Eltwise" bottom: "loss" bottom: "mask" top: "sum" }',
        INPUT + IP + PROB,
    ),
    "a target made of the data goes, the data stay": (
        DATA
        + 'layer { name: "flat" type: "Flatten" bottom: "data" top: "flat" }'
        + IP
        + 'layer { name: "l" type: "EuclideanLoss" bottom: "ip" bottom: "flat" top: "l" }',
        INPUT + IP,
    ),
    "a loss by its weight": (
        DATA + IP + 'layer { name: "l" type: "Python" bottom: "ip" bottom: "data" top: "l" loss_weight: 1 }',
        INPUT + IP,
    ),
    "a loss by its weight that only the data feed": (
        DATA
        + 'layer { name: "norm" type: "Power" bottom: "data" top: "norm" }'
        + 'layer { name: "l" type: "Reduction" bottom: "norm" top: "l" loss_weight: 1 }'
        + IP,
        INPUT + IP,
    ),
    "silence": (
        DATA
        + 'layer { name: "s0" type: "Silence" bottom: "label" }'
        + IP
        + 'layer { name: "s" type: "Silence" bottom: "ip" bottom: "label" }',
        INPUT + IP + 'layer { name: "s" type: "Silence" bottom: "ip" }',
    ),
    "output files": (DATA + IP + 'layer { name: "h" type: "HDF5Output" bottom: "ip" bottom: "label" }', INPUT + IP),
    "the stage deploy": (
        DATA.replace("phase: TEST", 'phase: TEST not_stage: "deploy"')
        + 'layer { name: "in" type: "Input" top: "data" include { stage: "deploy" } '
        + "input_param { shape { dim: 1 dim: 2 } } }"
        + IP
        + LOSS.replace("loss_weight: 2", 'exclude { stage: "deploy" }')
        + PROB.replace('top: "prob"', 'top: "prob" include { stage: "deploy" }'),
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }' + IP + PROB,
    ),
    "filler data": (
        'layer { name: "d" type: "DummyData" top: "data" top: "cont" top: "y" dummy_data_param {'
        " shape { dim: 7 dim: 3 } shape { dim: 7 } shape { dim: 5 } } }"
        + IP
        + 'layer { name: "n" type: "Splork" bottom: "ip" bottom: "cont" top: "n" }'
        + 'layer { name: "l" type: "EuclideanLoss" bottom: "n" bottom: "y" top: "l" }',
        'layer { name: "d" type: "Input" top: "data" top: "cont"'
        " input_param { shape { dim: 7 dim: 3 } shape { dim: 7 } } }"
        + IP
        + 'layer { name: "n" type: "Splork" bottom: "ip" bottom: "cont" top: "n" }',
    ),
    "inputs for labels": (
        'layer { name: "in" type: "Input" top: "data" top: "y"'
        " input_param { shape { dim: 7 dim: 3 } shape { dim: 7 } } }"
        'layer { name: "w" type: "Input" top: "w" input_param { shape { dim: 7 } } }'
        + IP
        + LOSS.replace('bottom: "label"', 'bottom: "y" bottom: "w"'),
        'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 7 dim: 3 } } }' + IP + PROB,
    ),
    "old generations": (
        'layers { name: "d" type: MEMORY_DATA top: "data" top: "label" memory_data_param'
        " { batch_size: 7 channels: 3 height: 5 width: 5 } }"
        'layers { name: "ip" type: INNER_PRODUCT bottom: "data" top: "ip" inner_product_param { num_output: 4 } }'
        'layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" }',
        'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 7 dim: 3 dim: 5 dim: 5 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }'
        + PROB,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_training_network_becomes_a_deploy_network(case):
    before, after = (parse(text) for text in CASES[case])
    given = parse(CASES[case][0])
    found = deploy(given)
    assert dump(found) == dump(after)
    assert found == after
    assert given == before  # the message is copied, not changed
    assert deploy(found) == found


def test_the_shape_that_the_file_does_not_say_is_asked_for_and_taken():
    unknown = parse((DATA + IP + LOSS).replace("mean_value: 1 mean_value: 2 mean_value: 3", 'mean_file: "m"'))
    with pytest.raises(NetError) as caught:
        deploy(unknown)
    said = 'layer "data": the file does not say the whole shape of "data": 7 x ? x 5 x 5; give --input-shape N,C,H,W'
    assert str(caught.value) == said
    found = deploy(unknown, input_shape=(2, 3, 5, 5))
    assert list(found.layer[0].input_param.shape[0].dim) == [2, 3, 5, 5]
    assert found.layer[0].transform_param.mean_file == "m"
    assert infer_shapes(Net.of(found)).blobs == {"data": (2, 3, 5, 5), "ip": (2, 4), "prob": (2, 4)}
    # It replaces a known shape too, but there must be data that can take it.
    assert list(deploy(parse(DATA + IP), input_shape=(1, 9)).layer[0].input_param.shape[0].dim) == [1, 9]
    with pytest.raises(NetError, match="there is no data layer that could take the input shape"):
        deploy(found, input_shape=(2, 3, 5, 5))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'layer { name: "d" type: "Python" top: "data" top: "gt" }' + IP,
            'layer "d": a Python layer brings the data, and only its code knows what that is; '
            "write an Input layer in its place",
        ),
        (
            'layer { name: "d" type: "Data" top: "data" include { phase: TRAIN } }' + IP,
            'layer "ip": bottom "data" is not the top of an earlier layer; layers of another phase or stage write it',
        ),
        (IP, 'layer "ip": bottom "data" is not the top of an earlier layer'),
        (
            'layer { name: "d" type: "HDF5Data" top: "data" top: "more" hdf5_data_param { batch_size: 7 } }'
            + IP
            + IP.replace('"ip"', '"other"').replace('"data"', '"more"'),
            'layer "d": the file does not say the whole shape of "data": 7 x ?; give --input-shape N,C,H,W',
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_deploy_network_is_refused(text, said):
    with pytest.raises(NetError) as caught:
        deploy(parse(text))
    assert str(caught.value) == said


def test_the_preprocessing_is_that_of_the_test_phase():
    net = Net.of(deploy(parse(DATA + IP + LOSS)))
    found = net_preprocessing(net)
    assert (found.crop, found.mean, found.scale, found.channels) == (5, (1.0, 2.0, 3.0), 0.5, "bgr")
    check_executable(net)


# ---------------------------------------------------------------------------------------------------- public networks

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
NETWORKS = sorted(path for path in CORPUS.glob("*") if not path.name.endswith((".json", ".log", "_template.prototxt")))
ROLES = ("a data layer", "a loss layer", "an evaluation layer")


@pytest.mark.skipif(not NETWORKS, reason="../shared/corpus is not beside the checkout")
@pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning")  # fields of forks
@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.name.replace("__", "/")[-60:])
def test_every_public_network_has_a_deploy_form_or_a_reason(path):
    if "labelmap" in path.name:
        pytest.skip("the file is not a network (tests/formats/test_corpus.py says which and why)")
    before = upgrade(read(path))
    try:
        after = deploy(before)
    except NetError as error:
        said = str(error)
        if said.endswith("give --input-shape N,C,H,W"):
            after = deploy(before, input_shape=completed(said, path.name))
        elif "a Python layer brings the data" in said or "is not the top of an earlier layer" in said:
            return
        else:
            raise
    net = Net.of(after)
    assert net.inputs
    assert not [layer.name for layer in net.layers if layer.type in NEVER_RUN and layer.type != "Python"]
    assert not [blob for layer in net.layers for blob in layer.raw_bottoms if blob in ("label", "sim", "gt_boxes")]
    trained = any(_training(layer) for layer in before.layer)
    if after == before:
        assert not trained
        return
    assert trained or before.force_backward or before.HasField("state")
    assert deploy(after) == after
    assert parse(dump(after)) == after
    # Layers that compute are as they were, but for what only training reads.
    source = _resolved(before)
    there = {} if source is None else source.by_name
    for layer in net.layers:
        if layer.name in there and layer.type in LAYERS and there[layer.name].type == layer.type:
            assert layer.message == _bare(there[layer.name].message)
    kept = {layer.name for layer in net.layers}
    learned = [layer for layer in there.values() if layer.type in LAYERS and LAYERS[layer.type].blobs]
    assert kept.issuperset(layer.name for layer in learned)
    if trained and all(layer.type in LAYERS or layer.type == "Input" for layer in net.layers):
        infer_shapes(net)
    # Blobs of both have the same shape, where the training network's are known.
    if there and all(layer.type not in NEVER_RUN for layer in net.layers):
        shapes = infer_shapes(net, strict=False)
        given = infer_shapes(source, strict=False)
        for blob, shape in given.blobs.items():
            if blob in shapes.blobs and shape is not None:
                assert shapes.blobs[blob] == shape


def completed(said: str, name: str) -> tuple[int, ...]:
    """The shape in the message, with what only the data know of this network: 3 channels of 32 x 32, as a rule."""
    dims = said.rpartition('": ')[2].partition(";")[0].split(" x ")
    channels = 2 if "siamese" in name else 1 if "mnist" in name else 4 if len(dims) == 2 else 3
    size = 28 if "mnist" in name else 32
    unknown = [0, channels, size, size]
    return tuple(unknown[axis] if dim == "?" else int(dim) for axis, dim in enumerate(dims))


def _resolved(message) -> Net | None:
    try:
        return Net.of(message)
    except LpcaffeError:
        return None


def _bare(message):
    bare = LayerParameter()
    bare.CopyFrom(message)
    for name in ("include", "exclude", "phase", "loss_weight", "propagate_down"):
        bare.ClearField(name)
    return bare


def _training(layer) -> bool:
    role = NEVER_RUN[layer.type].role if layer.type in NEVER_RUN else ""
    return role in ROLES or layer != _bare(layer)
