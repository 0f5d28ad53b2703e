"""Whatever a user gives us that is wrong: one line that says where and what, status 2, and nothing left behind."""

import json
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lpcaffe as lp

CONVERT = ["convert", "net.prototxt", "net.caffemodel", "--out", "out"]
RUN = ["run", "net.prototxt", "net.caffemodel", "--input", "x.npy", "--out"]
VALIDATE = ["validate", "net.prototxt", "net.caffemodel", "out/lp.prototxt", "out/lp.caffemodel"]


@pytest.fixture
def refused(lpcaffe, small):
    """A function that runs a command which must fail, and returns its one line. No file may come into being by it."""

    def run(*arguments):
        before = snapshot()
        status, out, err = lpcaffe(*arguments)
        assert (status, out) == (2, ""), err
        assert err.startswith("lpcaffe: ")
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert snapshot() == before
        return err.removeprefix("lpcaffe: ").rstrip("\n")

    return run


def snapshot():
    """Every file and folder below the working directory, with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path().rglob("*")}


def replace(name, old, new):
    text = Path(name).read_text()
    assert old in text
    Path(name).write_text(text.replace(old, new))


def test_missing_files_are_named(refused, lpcaffe):
    for line in (
        "convert gone net.caffemodel --out out",
        "convert net.prototxt gone --out out",
        "convert net.prototxt net.caffemodel --out out --data gone",
        "convert net.prototxt net.caffemodel --out out --plan gone",
        "convert net.prototxt net.caffemodel --out out --data x.npy --mean gone.binaryproto",
        "inspect gone",
        "inspect net.prototxt gone",
        "upgrade gone new",
        "calibrate net.prototxt net.caffemodel --data gone --out s.npz",
        "allocate net.prototxt net.caffemodel --stats gone --out plan.yaml",
        "rewrite gone --plan gone --out lp.prototxt",
        "rewrite net.prototxt --plan gone --out lp.prototxt",
        "weights net.prototxt net.caffemodel --plan gone --out lp.caffemodel",
        "run net.prototxt net.caffemodel --input gone --out o.npz",
        "validate net.prototxt net.caffemodel gone gone",
        "round gone y.npy --format Q2.3",
    ):
        assert re.match(r"gone(\.binaryproto)?: .*no such file", refused(*line.split()).lower()), line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name: "x"\nlayer { name: "a" type: }\n', 'net.prototxt:2:25: expected a value, got "}"'),
        ('layer { name: "a"', "net.prototxt:1:"),
        ("", "net.prototxt: "),
        ("\x00\x01", "net.prototxt: expected text, got binary data"),
        ("layers:\n  conv1: {}\n", "net.prototxt:2:3: "),
        (
            'layer { name: "a" type: "ReLU" bottom: "gone" top: "b" }',
            'net.prototxt:1:1: layer "a": bottom "gone" is not',
        ),
    ],
)
def test_a_broken_prototxt_is_named_with_its_place(refused, text, said):
    Path("net.prototxt").write_text(text)
    assert said in refused(*CONVERT)


def test_an_unknown_layer_is_an_error_where_it_must_be_computed(refused, lpcaffe):
    replace("net.prototxt", '"Softmax"', '"Sofmax"')
    assert 'net.prototxt:9:1: layer "prob": layer type "Sofmax" is not known; did you mean Softmax?' in refused(
        *CONVERT
    )
    assert 'net.prototxt:9:1: layer "prob"' in refused(*RUN, "o.npz")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_output: 7", "num_output: 6", r'net.caffemodel: layer "ip" blob 0: expected .*6 x 245.* got 7 x 245'),
        ("num_output: 7", "num_output: 7 bias_term: false", 'net.caffemodel: layer "ip": expected 1 blobs?, got 2'),
        (
            "kernel_w: 2",
            "kernel_w: 3",
            r'net.caffemodel: layer "conv/1" blob 0: expected .*5 x 3 x 3 x 3, got 5 x 3 x 3',
        ),
    ],
)
def test_weights_that_do_not_fit_are_named_with_expected_and_got(refused, old, new, said):
    replace("net.prototxt", old, new)
    for line in (
        "convert net.prototxt net.caffemodel --out out",
        "convert net.prototxt net.caffemodel --out out --data x.npy",
        "calibrate net.prototxt net.caffemodel --data x.npy --out s.npz",
        "run net.prototxt net.caffemodel --input x.npy --out o.npz",
    ):
        assert re.search(said, refused(*line.split()))


def test_a_layer_without_weights_is_named(refused):
    replace(
        "net.prototxt", 'top: "prob" }', 'top: "prob" }\nlayer { name: "new" type: "Scale" bottom: "prob" top: "new" }'
    )
    assert 'net.caffemodel: layer "new"' in refused(*CONVERT)


def test_weights_without_a_layer_are_dropped_with_a_warning(lpcaffe, small):
    cut_after("relu2")
    status, _, err = lpcaffe(*CONVERT)
    assert status == 0
    assert err == "lpcaffe: warning: net.caffemodel: left out the weights of 1 layer that the prototxt lacks: last\n"


def cut_after(layer):
    """Drop the layers after this one from net.prototxt."""
    head, found, tail = Path("net.prototxt").read_text().partition(f'layer {{ name: "{layer}"')
    Path("net.prototxt").write_text(head + found + tail.partition("\n")[0])


def test_layers_of_the_file_without_blobs_are_dropped_silently(lpcaffe, small):
    cut_after("last")
    status, _, err = lpcaffe(*CONVERT)
    assert (status, err) == (0, "")


def set_weight(layer, blob, at, value):
    """Overwrite one float32 of net.caffemodel in place."""
    net = lp.load("net.prototxt", "net.caffemodel")
    span = net.weights[layer][blob].spans[0]
    data = bytearray(Path("net.caffemodel").read_bytes())
    data[span.offset + 4 * at : span.offset + 4 * at + 4] = np.float32(value).tobytes()
    Path("net.caffemodel").write_bytes(data)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("options", [[], ["--data", "x.npy"], ["--dialect", "plain"], ["--round-bias"]])
@pytest.mark.parametrize(("layer", "blob", "at", "index"), [("ip", 0, 250, "[1, 5]"), ("conv/1", 1, 3, "[3]")])
def test_a_weight_that_is_no_number_is_named_with_its_first_index(refused, value, options, layer, blob, at, index):
    set_weight(layer, blob, at, value)
    set_weight(layer, blob, at + 1, value)
    said = f'net.caffemodel: layer "{layer}" blob {blob}: the value at {index} is {value}, expected a finite number'
    assert refused(*CONVERT, *options) == said


def test_every_prefix_of_a_caffemodel_is_refused_and_named(refused, lpcaffe, make_net, tmp_path):
    make_net(
        """layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 1 dim: 2 } } }
        layer { name: "i" type: "InnerProduct" bottom: "d" top: "i" inner_product_param { num_output: 3 } }"""
    )
    whole = Path("net.caffemodel").read_bytes()
    for length in range(len(whole)):
        Path("net.caffemodel").write_bytes(whole[:length])
        assert refused(*CONVERT).startswith("net.caffemodel: "), length
    Path("net.caffemodel").write_bytes(whole)
    assert lpcaffe(*CONVERT)[0] == 0


def test_a_plan_for_another_network_is_refused(refused, lpcaffe):
    lpcaffe(*CONVERT)
    Path("out/plan.yaml").rename("plan.yaml")
    for path in Path("out").iterdir():
        path.unlink()
    commands = [
        [*CONVERT, "--plan", "plan.yaml"],
        ["rewrite", "net.prototxt", "--plan", "plan.yaml", "--out", "lp.prototxt"],
        ["weights", "net.prototxt", "net.caffemodel", "--plan", "plan.yaml", "--out", "lp.caffemodel"],
    ]
    replace("net.prototxt", 'name: "small"', 'name: "other"')
    for command in commands:
        said = refused(*command)
        assert said.startswith('plan.yaml: the plan is for "small" with sha256 ')
        assert '"other" is not the file it was made for' in said
    replace("net.prototxt", '"InnerProduct" bottom: "conv/1"', '"Dropout" bottom: "conv/1"')
    for command in commands:
        assert refused(*command) == ('plan.yaml: layer "ip": the plan has InnerProduct, the network Dropout')


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{type: Convolution, output: Q0.8}", "output: Q0.8 cannot be written in the dialect adaption"),
        ("{type: Convolution, weights: Q-5.30}", "weights: Q-5.30 cannot be written in the dialect adaption"),
        ("{type: Convolution, weights: Q2.24}", "weights: Q2.24 has 26 bits"),
        ("{type: Convolution, weights: 8}", "weights: expected a format such as Q2.14, got 8"),
    ],
)
def test_a_format_that_cannot_be_written_is_refused(refused, line, said):
    Path("plan.yaml").write_text(f"layers:\n  conv/1: {line}\n")
    assert refused(*CONVERT, "--plan", "plan.yaml").startswith(f'plan.yaml: layer "conv/1": {said}')


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--bits 1", "expected 2 to 25 bits"),
        ("--bits 26", "expected 2 to 25 bits"),
        ("--bits many", "Invalid value for '--bits'"),
        ("--method best", "there is no allocation method 'best'; known are aciq-gauss"),
        ("--seed -1", "seed: expected 0 to 2^64 - 1, got -1"),
        ("--rounding up", "Invalid value for '--rounding'"),
        ("--dialect ristretto", "Invalid value for '--dialect'"),
        ("--data x.npy --limit 0", "limit must be 1 image or more, got 0"),
        ("--data x.npy --resize big", "a size is written WxH"),
        ("--data x.npy --crop 0", "crop must be 1 or more, got 0"),
        ("--no-such-option", "No such option: --no-such-option"),
    ],
)
def test_a_wrong_option_is_named(refused, options, said):
    assert said in refused(*CONVERT, *options.split())


def test_a_wrong_verb_or_a_missing_option_points_to_the_help(refused):
    assert refused("convrt").endswith("; see lpcaffe --help")
    assert refused(*CONVERT[:3]) == "Missing option '--out'; see lpcaffe convert --help"
    assert refused("round", "x.npy", "y.npy", "--format", "16") == "expected a format such as Q2.14, got '16'"
    assert refused("round", "x.npy", "y.npy", "--format", "Q2.30").startswith("x.npy: Q2.30 has 32 bits")


def write_data():
    """Files that are no data for the network, by name."""
    np.save("rank.npy", np.zeros((3, 9, 8), np.float32))
    np.save("channels.npy", np.zeros((2, 4, 9, 8), np.float32))
    np.save("size.npy", np.zeros((2, 10, 8, 3), np.uint8))
    np.save("int.npy", np.zeros((2, 3, 9, 8), np.int32))
    np.save("complex.npy", np.zeros((2, 3, 9, 8), np.complex64))
    np.save("objects.npy", np.array([{}]), allow_pickle=True)
    np.save("none.npy", np.zeros((0, 3, 9, 8), np.float32))
    np.save("nan.npy", np.full((2, 3, 9, 8), np.nan, np.float32))
    np.savez("other.npz", foo=np.zeros((2, 3, 9, 8), np.float32))
    np.savez("labels.npz", x=np.zeros((2, 3, 9, 8), np.float32), y=np.zeros(3, np.int64))
    Path("cut.npy").write_bytes(Path("x.npy").read_bytes()[:200])
    Path("cut.npz").write_bytes(Path("other.npz").read_bytes()[:200])
    for folder in ("empty", "sizes", "torn"):
        Path(folder).mkdir()
    Image.new("RGB", (8, 9)).save("sizes/a.png")
    Image.new("RGB", (8, 10)).save("sizes/b.png")
    Path("torn/c.png").write_bytes(Path("sizes/a.png").read_bytes()[:40])
    Path("list.txt").write_text("sizes/a.png\nsizes/gone.png\n")


DATA = {
    "rank.npy": "expected blobs of N x 3 x 9 x 8, got 3 x 9 x 8",
    "channels.npy": "expected blobs of N x 3 x 9 x 8, got 2 x 4 x 9 x 8",
    "size.npy": "expected 3 x 9 x 8 (C x H x W), the image has 3 x 10 x 8; give --resize 8x9",
    "int.npy": "expected floats (prepared blobs) or uint8 (images), got int32",
    "complex.npy": "got complex64",
    "objects.npy": "objects.npy: ",
    "none.npy": "the array holds no images",
    "nan.npy": "holds NaN or infinity",
    "": "expected a value after --data, got none",
    "other.npz": "expected the inputs",
    "labels.npz": "expected 2 labels in y, one for each image, got 3",
    "cut.npy": "cut.npy: ",
    "cut.npz": "cut.npz: ",
    "empty": "no images in this folder",
    "sizes": "sizes/b.png: expected 3 x 9 x 8 (C x H x W), the image has 3 x 10 x 8",
    "torn": "torn/c.png: unreadable image",
    "list.txt": "list.txt:2: no such image: sizes/gone.png",
    "net.prototxt": "net.prototxt",
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_does_not_fit_is_named(refused, name):
    write_data()
    for command in (CONVERT, ["calibrate", "net.prototxt", "net.caffemodel", "--out", "s.npz"]):
        said = refused(*command, "--data", name)
        assert DATA[name] in said
        assert said.startswith(name)


@pytest.mark.parametrize(
    "name", ["rank.npy", "complex.npy", "objects.npy", "none.npy", "other.npz", "cut.npy", "empty"]
)
def test_input_that_cannot_be_run_is_refused(refused, name):
    write_data()
    refused("run", "net.prototxt", "net.caffemodel", "--input", name, "--out", "o.npz")


def test_run_needs_weights_where_there_are_layers_with_weights(refused):
    said = refused("run", "net.prototxt", "--input", "x.npy", "--out", "o.npz")
    assert said.startswith('net.prototxt:3:1: layer "conv/1": no weights were given')


def test_a_plan_with_a_layer_that_is_not_there_is_refused_without_a_warning_about_the_others(refused):
    Path("plan.yaml").write_text("layers:\n  gone: {type: InnerProduct, weights: Q1.7}\n")
    said = 'plan.yaml: layer "gone": the plan has InnerProduct, the network "small" has no such layer'
    assert refused(*CONVERT, "--plan", "plan.yaml") == said
    assert refused(*CONVERT, "--plan", "plan.yaml", "--data", "x.npy") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0\n1\n2\n", "labels.txt: expected 5 labels, one for each image, got 3"),
        ("0\n1\n2\n3\nfour\n", "labels.txt:5: expected one integer, got 'four'"),
        ("0\n1\n2\n3\n4\n", 'blob "prob": expected labels of 0 to 3, got 4'),
        ("0\n1\n2\n3\n-1\n", 'blob "prob": expected labels of 0 to 3, got -1'),
        ("", "labels.txt: no labels in this file"),
    ],
)
def test_wrong_labels_are_refused(refused, lpcaffe, text, said):
    lpcaffe(*CONVERT)
    Path("labels.txt").write_text(text)
    command = [*VALIDATE, "--labels", "labels.txt"]
    assert refused(*command, "--data", "x.npy", "--json", "proof.json") == said
    assert refused(*command) == "labels.txt: labels need data; give --data"


def test_validate_wants_the_right_networks_in_the_right_places(refused, lpcaffe):
    lpcaffe(*CONVERT)
    net, low = ["net.prototxt", "net.caffemodel"], ["out/lp.prototxt", "out/lp.caffemodel"]
    assert refused("validate", *net, *net) == "net.prototxt: the network has no LP layers; give its plan with --plan"
    assert 'out/lp.prototxt:15:1: layer "conv/1": expected a full-precision network' in refused("validate", *low, *low)
    assert refused("validate", *net, low[0], net[1]) == 'net.caffemodel: layer "conv/1": expected 4 blobs, got 2'
    assert refused("validate", net[0], low[1], *low) == 'out/lp.caffemodel: layer "conv/1": expected 2 blobs, got 4'
    assert refused("validate", *net, *low, "--min-agreement", "0.9") == "--min-agreement needs data; give --data"
    assert "between 0 and 1, got 1.5" in refused("validate", *net, *low, "--data", "x.npy", "--min-agreement", "1.5")
    plan = Path("out/plan.yaml").read_text()
    Path("plan.yaml").write_text(
        plan.replace("weights: Q", "weights: q").replace("round_bias: false", "round_bias: true")
    )
    said = refused("validate", *net, *low, "--plan", "plan.yaml")
    assert said == 'plan.yaml: layer "conv/1": round_bias: the low-precision network has False, the plan has True'
    assert refused("convert", *low, "--out", "again").startswith("out/lp.prototxt:15:1: ")
    said = refused("convert", *low, "--out", "again", "--plan", "out/plan.yaml")
    assert said.startswith('out/lp.prototxt:15:1: layer "conv/1": expected a full-precision network, got LPConvolution')


def test_statistics_of_something_else_are_refused(refused, lpcaffe):
    command = ["allocate", "net.prototxt", "net.caffemodel", "--out", "plan.yaml", "--stats"]
    np.savez("s.npz", x=np.zeros(3))
    assert refused(*command, "s.npz") == "s.npz: is not a statistics file of lpcaffe calibrate"
    assert refused(*command, "x.npy") == "x.npy: is not a statistics file of lpcaffe calibrate"
    assert refused(*command, "net.prototxt").startswith("net.prototxt: ")
    lpcaffe(*["calibrate", "net.prototxt", "net.caffemodel", "--data", "x.npy", "--out", "good.npz"])
    replace("net.prototxt", 'name: "small"', 'name: "other"')
    assert refused(*command, "good.npz").startswith('good.npz: the statistics are of "small" with sha256')


def test_outputs_in_impossible_places_are_refused(refused):
    Path("file").write_text("")
    Path("folder").mkdir()
    assert refused(*CONVERT[:4], "file") == "file: expected a folder for the output, got a file"
    assert refused(*CONVERT[:4], "file/below") == "file: expected a folder for the output, got a file"
    assert refused(*RUN, "gone/o.npz").startswith("gone/o.npz: the directory ")
    for place in ("folder", "/dev/full"):
        for force in ([], ["--force"]):
            assert (
                refused(*RUN, place, *force)
                == f"{place}: expected an ordinary file to write, got a directory or a device"
            )
    assert "file name too long" in refused(*CONVERT[:4], "a" * 300)
    assert "file name too long" in refused(*RUN, "a" * 300)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("convert net.prototxt net.caffemodel --out out", "out/lp"),
        ("convert net.prototxt net.caffemodel --out out/put --data x.npy", "out/put/lp"),
        ("run net.prototxt net.caffemodel --input x.npy --out o.npz", "o.npz"),
        ("weights net.prototxt net.caffemodel --plan plan.json --out w.caffemodel", "w.caffemodel"),
        ("rewrite net.prototxt --plan plan.json --out lp.prototxt", "lp.prototxt"),
        ("calibrate net.prototxt net.caffemodel --data x.npy --out s.npz", "s.npz"),
        ("round x.npy y.npy --format Q2.3", "y.npy"),
        ("upgrade net.caffemodel u.caffemodel", "u.caffemodel"),
    ],
)
def test_a_disk_that_takes_no_more_leaves_nothing_behind(refused, line, target):
    Path("plan.json").write_text(json.dumps({"layers": {"ip": {"type": "InnerProduct", "weights": "Q1.7"}}}))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        said = refused(*line.split())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.startswith(target)
    assert said.endswith("cannot be written: file too large")


def test_a_name_with_control_characters_stays_on_one_line(refused):
    replace("net.prototxt", '"prob" type: "Softmax"', r'"a\nb" type: "So\033[2Jftmax"')
    assert r'layer "a\nb": layer type "So\x1b[2Jftmax" is not known' in refused(*CONVERT)


TRAIN_VAL = """
layer { name: "data" type: "Data" top: "data" top: "y" data_param { batch_size: 5 } transform_param { crop_size: 9 } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "y" top: "loss" }
"""  # fmt: skip


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (
            TRAIN_VAL,
            [],
            'train.prototxt:2:1: layer "data": the file does not say the whole shape of "data": 5 x ? x 9 x 9; '
            "give --input-shape N,C,H,W",
        ),
        (TRAIN_VAL, ["--input-shape", "5,3,9,"], "a shape is written N,C,H,W, as 1,3,224,224, got '5,3,9,'"),
        (TRAIN_VAL, ["--input-shape", "5,0,9,9"], "a shape is written N,C,H,W, as 1,3,224,224, got '5,0,9,9'"),
        (TRAIN_VAL.replace('bottom: "data"', 'bottom: "d"', 1), [], 'train.prototxt:3:1: layer "relu": bottom "d"'),
        ('layer { name: "a" type: "ReLU" ', [], "train.prototxt:1:"),
        ('item { name: "cat" }', [], "train.prototxt: expected fields of a NetParameter, got only others: item"),
        ('layer { name: "p" type: "Python" top: "x" }', [], 'train.prototxt:1:1: layer "p": a Python layer brings the'),
        (
            'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 3 } } }',
            ["--input-shape", "4"],
            "train.prototxt: there is no data layer that could take the input shape",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_turned_into_a_deploy_network_is_one_line(refused, text, options, said):
    Path("train.prototxt").write_text(text)
    assert refused("upgrade", "train.prototxt", "deploy.prototxt", "--deploy", *options).startswith(said)


def test_deploy_is_for_prototxts_and_keeps_what_is_there(refused):
    Path("train.prototxt").write_text(TRAIN_VAL)
    shape = ["--deploy", "--input-shape", "5,3,9,9"]
    said = refused("upgrade", "net.caffemodel", "deploy.prototxt", "--deploy")
    assert said.startswith("net.caffemodel: expected text, got binary data")
    assert "the network is in its prototxt" in said
    said = refused("upgrade", "train.prototxt", "net.prototxt", *shape)
    assert said == "net.prototxt: the file exists; --force overwrites it"
    assert refused("upgrade", "train.prototxt", "deploy.prototxt", *shape[1:]) == "--input-shape needs --deploy"
    assert refused("upgrade", "gone", "deploy.prototxt", *shape).startswith("gone: ")


def test_layers_of_training_are_refused_where_they_would_be_run(refused, lpcaffe):
    head, data, rest = Path("net.prototxt").read_text().partition('layer { name: "conv/1"')
    trained = [
        TRAIN_VAL.splitlines()[1] + data + rest,
        head + data + rest + 'layer { name: "loss" type: "EuclideanLoss" bottom: "prob" bottom: "prob" top: "loss" }',
        head + data + rest + 'layer { name: "acc" type: "Accuracy" bottom: "prob" bottom: "prob" top: "acc" }',
        head + data + rest + 'layer { name: "py" type: "Python" bottom: "prob" top: "py" }',
    ]
    deploy = "is not part of a deploy network; lpcaffe upgrade --deploy makes one"
    expected = [
        f'net.prototxt:1:1: layer "data": a data layer (Data) {deploy}',
        f'net.prototxt:10:1: layer "loss": a loss layer (EuclideanLoss) {deploy}',
        f'net.prototxt:10:1: layer "acc": an evaluation layer (Accuracy) {deploy}',
        'net.prototxt:10:1: layer "py": a Python layer is code that lpcaffe never executes',
    ]
    for text, said in zip(trained, expected, strict=True):
        Path("net.prototxt").write_text(text)
        for line in (
            CONVERT,
            [*CONVERT, "--data", "x.npy"],
            [*RUN, "o.npz"],
            ["calibrate", "net.prototxt", "net.caffemodel", "--data", "x.npy", "--out", "s.npz"],
        ):
            assert refused(*line) == said
        status, out, _ = lpcaffe("inspect", "net.prototxt", "--json")
        assert status == 0
    seen = json.loads(out)
    assert (seen["blobs"]["prob"], seen["blobs"]["py"]) == ([2, 4], None)
    assert seen["problems"] == [
        'layer "py": a Python layer is code that lpcaffe never executes; only it knows its shapes'
    ]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("rank.npy", 'rank.npy: blob "data": expected N x 3 x 9 x 8 as in the file, got 3 x 9 x 8'),
        (
            "channels.npy",
            'channels.npy: blob "data": expected N x 3 x 9 x 8 as in the file, got 2 x 4 x 9 x 8, '
            'which does not fit layer "conv/1" blob 0: expected the shape 5 x 4 x 3 x 2, got 5 x 3 x 3 x 2',
        ),
    ],
)
def test_an_input_of_another_shape_is_to_blame_not_the_weights(refused, name, said):
    write_data()
    assert refused("run", "net.prototxt", "net.caffemodel", "--input", name, "--out", "o.npz") == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('type: "Sofmax"', 'layer type "Sofmax" is not known; did you mean Softmax? '),
        ('type: "Softmax" softmax_param { axis: 2 }', "axis 2 does not exist: the bottom has 2 axes"),
        ('type: "Reshape" reshape_param { shape { dim: 3 dim: -1 } }', "cannot reshape 5 x 4 to 3 x -1"),
        ('type: "Pooling" pooling_param { kernel_size: 9 }', "Pooling needs N x C x H x W, got 2 axes"),
        ('type: "Eltwise" bottom: "conv/1"', "bottoms differ in shape: 5 x 5 x 7 x 7, 5 x 4"),
        ('type: "ReLU" bottom: "gone"', 'bottom "gone" is not the top of an earlier layer'),
    ],
)
def test_a_layer_that_cannot_be_is_named(refused, text, said):
    replace("net.prototxt", 'type: "Softmax"', text)
    assert refused(*RUN, "o.npz").startswith(f'net.prototxt:9:1: layer "prob": {said}')
    convert = refused(*CONVERT)
    assert convert.startswith('net.prototxt:9:1: layer "prob": ')


def test_a_window_larger_than_its_padded_input_is_named(refused):
    replace("net.prototxt", 'type: "ReLU" bottom: "conv/1" top: "conv/1"', 'type: "Pooling" bottom: "conv/1" top: "p"'
            " pooling_param { kernel_size: 10 pad: 1 }")  # fmt: skip
    assert refused(*RUN, "o.npz") == 'net.prototxt:5:1: layer "relu": kernel 10 is larger than the padded image, 9'
