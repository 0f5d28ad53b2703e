"""VGG16 and VGG19 with the formats that ADaPTION published become the networks that ADaPTION published.

Compared are the learned layers, LPAct, ReLU and Pooling in order, with num_output, kernel, stride, pad and lpfp_param,
defaults filled in. The published networks differ from ours elsewhere, by intention: they start at a Data layer and end
in Accuracy where ours keep what the source has; layers are called conv_lp_1 and act_lp_2 where ours keep the source's
names; an LPAct has a top of its own where ours works in place; a learned layer has two `param` blocks where ours has
four, or none if its source has none. Neither has an LPAct after the last learned layer. LP_VGG16_16_bit_train and
LP_VGG19_16_bit_train are known by their formats only, so their sequences are spelled out here. The files are compared
if ../shared/corpus is beside the checkout.
"""

import warnings
from itertools import pairwise
from pathlib import Path

import pytest

import lpcaffe as lp
from lpcaffe.formats import prototxt
from lpcaffe.net import Net, load_net

ROOT = Path(__file__).parents[2]
ADAPTION = "NeuromorphicProcessorProject+ADaPTION__examples__low_precision__imagenet__models__"
CORPUS = ROOT.parent / "shared" / "corpus"
VGG16_DEPLOY = ROOT / "models" / "vgg16" / "deploy.prototxt"

DETERMINISTIC, STOCHASTIC = 0, 1
MAX = 0

# Convolutions with their outputs, and after which of them the image is pooled.
VGG16 = [64, 64, "pool", 128, 128, "pool", *3 * [256], "pool", *3 * [512], "pool", *3 * [512], "pool"]
VGG19 = [64, 64, "pool", 128, 128, "pool", *4 * [256], "pool", *4 * [512], "pool", *4 * [512], "pool"]
FULLY_CONNECTED = [4096, 4096, 1000]

# Name: layout, formats of the weights, formats of the outputs (bd.ad), scheme of both.
PUBLISHED = {
    "LP_VGG16_16_bit_deploy": (
        VGG16,
        16 * ["2.14"],
        "3.13 6.10 7.9 8.8 8.8 9.7 9.7 8.8 8.8 7.9 6.10 5.11 5.11 5.11 4.12",
        DETERMINISTIC,
    ),
    "LP_VGG16_16_bit_train": (
        VGG16,
        ["3.13", *11 * ["1.15"], "5.11", "1.15", "2.14", "1.15"],
        "7.9 9.7 10.6 10.6 11.5 11.5 11.5 10.6 9.7 8.8 8.8 7.9 5.11 4.12 3.13",
        STOCHASTIC,
    ),
    "LP_VGG19_16_bit_train": (
        VGG19,
        ["2.14", *13 * ["1.15"], "2.14", "5.11", "1.15", "2.14", "1.15"],
        "3.13 6.10 6.10 7.9 8.8 8.8 8.8 9.7 9.7 9.7 9.7 8.8 7.9 6.10 5.11 5.11 4.12 4.12",
        STOCHASTIC,
    ),
    "LP_VGG16_3_13_deploy": (VGG16, 16 * ["3.13"], " ".join(15 * ["3.13"]), DETERMINISTIC),
    "LP_VGG16_3_13_train": (VGG16, 16 * ["3.13"], " ".join(15 * ["3.13"]), DETERMINISTIC),
    "LP_VGG16_2_6_train": (VGG16, 16 * ["2.6"], " ".join(15 * ["2.6"]), DETERMINISTIC),
    "LP_VGG16_2_14_14_2_deploy": (VGG16, 16 * ["2.14"], " ".join(15 * ["14.2"]), DETERMINISTIC),
    "LP_VGG16_2_14_noAct_deploy": (VGG16, 16 * ["2.14"], "", DETERMINISTIC),
    "LP_VGG16_3_13_noAct_deploy": (VGG16, 16 * ["3.13"], "", DETERMINISTIC),
}
IN_CORPUS = [name for name in PUBLISHED if (CORPUS / f"{ADAPTION}{name}.prototxt").is_file()]


def as_published(name: str) -> list[tuple]:
    """The sequence of a published network, out of the table."""
    layout, weights, outputs, scheme = PUBLISHED[name]
    weights, outputs = iter(weights), iter(outputs.split())

    def lpfp(fmt: str) -> tuple:
        bd, ad = fmt.split(".")
        return int(bd), int(ad), False, scheme

    def learned(*first: object) -> list[tuple]:
        rows = [(*first, lpfp(next(weights)))]
        output = next(outputs, None)
        return rows if output is None else [*rows, ("LPAct", lpfp(output))]

    rows = []
    for step in layout:
        if step == "pool":
            rows.append(("Pooling", MAX, [2], [2], [0]))
        else:
            rows += [*learned("LPConvolution", step, [3], [1], [1]), ("ReLU",)]
    for outputs_here in FULLY_CONNECTED:
        rows += learned("LPInnerProduct", outputs_here)
        if outputs_here != 1000:
            rows.append(("ReLU",))
    return rows


def sequence(net: Net) -> list[tuple]:
    """What a network has of the layers that count, each as a row with Caffe's defaults filled in."""
    rows = []
    for layer in net.layers:
        message = layer.message
        p = message.lpfp_param
        lpfp = (p.bd, p.ad, p.round_bias, p.rounding_scheme)
        match layer.type:
            case "LPConvolution":
                p = message.convolution_param
                window = list(p.kernel_size), list(p.stride) or [1], list(p.pad) or [0]
                rows.append(("LPConvolution", p.num_output, *window, lpfp))
            case "LPInnerProduct":
                rows.append(("LPInnerProduct", message.inner_product_param.num_output, lpfp))
            case "LPAct":
                rows.append(("LPAct", lpfp))
            case "ReLU":
                rows.append(("ReLU",))
            case "Pooling":
                p = message.pooling_param
                rows.append(("Pooling", p.pool, [p.kernel_size], [p.stride], [p.pad]))
            case "Convolution" | "InnerProduct":
                pytest.fail(f"{layer.name} was not converted")
    return rows


def plan_of(name: str, net: Net) -> lp.BitPlan:
    """The table's formats, by the layers of a full-precision network in order."""
    _, weights, outputs, scheme = PUBLISHED[name]
    outputs = outputs.split()
    outputs += [None] * (len(weights) - len(outputs))
    learned = [layer for layer in net.layers if layer.type in ("Convolution", "InnerProduct")]
    lines = {
        layer.name: lp.LayerPlan(
            layer.type, lp.QFormat.parse(f"Q{w}"), None if a is None else lp.QFormat.parse(f"Q{a}")
        )
        for layer, w, a in zip(learned, weights, outputs, strict=True)
    }
    return lp.BitPlan(lines, policy=lp.Policy(rounding=["deterministic", "stochastic"][scheme], fold_bn=False))


def v1_release(layout: list) -> str:
    """A VGG network as it was released: V1 layers, an input_dim, activations and dropout in place."""
    text, bottom, block, number = (
        'name: "VGG" input: "data" input_dim: 10 input_dim: 3 input_dim: 224 input_dim: 224\n',
        "data",
        1,
        1,
    )
    for step in layout:
        if step == "pool":
            top = f"pool{block}"
            text += (
                f'layers {{ bottom: "{bottom}" top: "{top}" name: "{top}" type: POOLING '
                "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }\n"
            )
            block, number = block + 1, 1
        else:
            top = f"conv{block}_{number}"
            text += (
                f'layers {{ bottom: "{bottom}" top: "{top}" name: "{top}" type: CONVOLUTION '
                f"convolution_param {{ num_output: {step} pad: 1 kernel_size: 3 }} }}\n"
                f'layers {{ bottom: "{top}" top: "{top}" name: "relu{block}_{number}" type: RELU }}\n'
            )
            number += 1
        bottom = top
    for top, count in zip(("fc6", "fc7", "fc8"), FULLY_CONNECTED, strict=True):
        text += (
            f'layers {{ bottom: "{bottom}" top: "{top}" name: "{top}" type: INNER_PRODUCT '
            f"inner_product_param {{ num_output: {count} }} }}\n"
        )
        if top != "fc8":
            text += (
                f'layers {{ bottom: "{top}" top: "{top}" name: "relu{top}" type: RELU }}\n'
                f'layers {{ bottom: "{top}" top: "{top}" name: "drop{top}" type: DROPOUT '
                "dropout_param { dropout_ratio: 0.5 } }\n"
            )
        bottom = top
    return text + f'layers {{ bottom: "{bottom}" top: "prob" name: "prob" type: SOFTMAX }}\n'


def corpus_net(name: str) -> Net:
    path = CORPUS / f"{name}.prototxt"
    if not path.is_file():
        pytest.skip("../shared/corpus is not beside the checkout")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fields of forks
        return load_net(path)


VGG16_NAMES = [name for name, row in PUBLISHED.items() if row[0] is VGG16]


@pytest.mark.parametrize("name", VGG16_NAMES)
def test_vgg16_with_published_formats_is_the_published_sequence(name):
    net = load_net(VGG16_DEPLOY)
    assert sequence(lp.rewrite(net, plan_of(name, net))) == as_published(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_release_of_the_v1_generation_becomes_the_same(tmp_path, name):
    path = tmp_path / "v1.prototxt"
    path.write_text(v1_release(PUBLISHED[name][0]))
    net = load_net(path)
    assert sequence(lp.rewrite(net, plan_of(name, net))) == as_published(name)


@pytest.mark.parametrize("layout", [VGG16, VGG19], ids=["VGG16", "VGG19"])
def test_every_layer_reads_what_the_one_before_wrote(tmp_path, layout):
    path = tmp_path / "v1.prototxt"
    path.write_text(v1_release(layout))
    net = load_net(path)
    name = "LP_VGG16_16_bit_deploy" if layout is VGG16 else "LP_VGG19_16_bit_train"
    low = lp.rewrite(net, plan_of(name, net))
    assert all(list(after.bottoms) == list(before.tops) for before, after in pairwise(low.layers))
    assert low.outputs == ("prob",)


@pytest.mark.parametrize("name", IN_CORPUS or ["LP_VGG16_16_bit_deploy"])
def test_the_published_files_have_the_sequence_of_the_table(name):
    assert sequence(corpus_net(ADAPTION + name)) == as_published(name)


def test_adaptions_own_vgg16_becomes_what_adaption_made_of_it():
    net, published = corpus_net(f"{ADAPTION}VGG16_deploy"), corpus_net(f"{ADAPTION}LP_VGG16_16_bit_deploy")
    low = lp.rewrite(net, plan_of("LP_VGG16_16_bit_deploy", net))
    assert sequence(low) == sequence(published)
    # What is left of the source is left as it was: the Data layer and both Accuracies.
    others = [layer.message for layer in low.layers if layer.type in ("Data", "Dropout", "Accuracy")]
    assert others == [layer.message for layer in net.layers if layer.type in ("Data", "Dropout", "Accuracy")]
    assert [message.type for message in others] == ["Data", "Dropout", "Dropout", "Accuracy", "Accuracy"]


def test_another_vgg19_becomes_the_published_sequence_too():
    net = corpus_net("soeaver+caffe-model__cls__vgg__deploy_vgg19-pytorch")
    name = "LP_VGG19_16_bit_train"
    assert sequence(lp.rewrite(net, plan_of(name, net))) == as_published(name)


def test_the_written_prototxt_reads_back_as_the_same_sequence(tmp_path):
    net = load_net(VGG16_DEPLOY)
    low = lp.rewrite(net, plan_of("LP_VGG16_16_bit_deploy", net))
    path = tmp_path / "lp.prototxt"
    path.write_text(prototxt.dump(low.message))
    assert sequence(load_net(path)) == as_published("LP_VGG16_16_bit_deploy")
