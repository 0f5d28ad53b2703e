"""Sites: what gets a format, where it is rounded, what the LPAct and its random numbers are called."""

import dataclasses

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import PlanError
from lpcaffe.formats.prototxt import parse
from lpcaffe.net import quantizable_layers
from lpcaffe.quant.apply import apply_plan, with_implied
from lpcaffe.quant.sites import OFF_GRID, grids, sites
from lpcaffe.search.trials import Trials

INPUT = 'layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 dim: 9 dim: 8 } } }\n'


def layer(name: str, kind: str, bottoms: str, tops: str, text: str = "") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottoms.split()) + "".join(f'top: "{t}" ' for t in tops.split())
    return f'layer {{ name: "{name}" type: "{kind}" {names} {text} }}\n'


def conv(name: str, bottom: str, top: str, kind: str = "Convolution") -> str:
    return layer(name, kind, bottom, top, "convolution_param { num_output: 6 kernel_size: 1 }")


def net_of(text: str, head: str = INPUT) -> lp.Net:
    return lp.Net.of(parse(head + text))


def covered(text: str, head: str = INPUT, **policy) -> list[str]:
    """The paths of the sites that the policy gives a format."""
    return [site.path for site in sites(net_of(text, head), lp.Policy(**policy)) if site.covered]


def outputs(text: str, head: str = INPUT, **policy) -> dict[str, tuple[str, str]]:
    """The tensor and the LPAct of each covered output."""
    found = sites(net_of(text, head), lp.Policy(**policy))
    return {site.layer: (site.tensor, site.act) for site in found if site.role == "output" and site.covered}


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        (conv("l", "data", "x"), "l", "l"),
        (conv("l", "data", "x") + layer("r", "ReLU", "x", "x"), "l", "r"),
        (conv("l", "data", "x") + layer("r", "PReLU", "x", "y"), "l", "r"),
        (conv("l", "data", "x") + layer("r", "Sigmoid", "x", "x"), "l", "l"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "x") + layer("s", "Scale", "x", "x"), "s", "s"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "y") + layer("r", "ReLU", "y", "y"), "b", "r"),
        # A second reader of the value: it must be rounded for both, so before the ReLU.
        (conv("l", "data", "x") + layer("r", "ReLU", "x", "y") + layer("t", "TanH", "x", "z"), "l", "l"),
        (conv("l", "data", "x") + layer("b", "BatchNorm", "x", "y") + layer("t", "TanH", "x", "z"), "l", "l"),
        (conv("l", "data", "x") + layer("p", "Pooling", "x", "y") + layer("r", "ReLU", "y", "y"), "l", "l"),
    ],
)
def test_the_lpact_follows_the_chain_or_the_relu_that_alone_reads_it(text, before, after):
    for placement, expected in (("before-relu", before), ("after-relu", after)):
        policy = lp.Policy(act_placement=placement, round_output=True, fold_bn=False)
        (site,) = [site for site in sites(net_of(text), policy) if site.role == "output" and site.covered]
        assert (site.layer, site.after, site.act) == ("l", expected, "l_lpact")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        (conv("a", "data", "a"), {"a"}),
        (conv("a", "data", "a") + layer("r", "ReLU", "a", "a") + conv("b", "a", "b"), {"b"}),
        (conv("a", "data", "a") + conv("b", "a", "b") + layer("p", "Softmax", "b", "p"), {"b"}),
        # two heads, one of them deeper
        (conv("a", "data", "a") + conv("b", "a", "b") + conv("c", "b", "c") + conv("d", "b", "d"), {"c", "d"}),
        # a branch that is read by nobody, and one that joins
        (
            conv("a", "data", "a")
            + conv("b", "a", "b")
            + conv("c", "a", "c")
            + layer("sum", "Eltwise", "a b", "sum")
            + conv("d", "sum", "d"),
            {"c", "d"},
        ),
        # reached only through a second bottom
        (
            conv("a", "data", "a")
            + conv("b", "data", "b")
            + layer("s", "Scale", "a b", "s", "scale_param { axis: 0 }")
            + conv("c", "s", "c"),
            {"c"},
        ),
        (layer("r", "ReLU", "data", "r"), set()),
    ],
)
def test_layers_that_lead_to_the_answers_alone_have_no_format(text, answers):
    learned = {item.name for item in quantizable_layers(net_of(text))}
    assert set(outputs(text)) == learned - answers
    assert set(outputs(text, round_output=True)) == learned


TAIL = conv("end", "x", "end") + layer("prob", "Softmax", "end", "prob")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (conv("l", "data", "x"), ["in/output", "l/weights", "l/bias", "l/output"]),
        (conv("l", "data", "x", "Deconvolution"), ["in/output", "l/weights", "l/bias", "l/output"]),
        (layer("l", "Eltwise", "data data", "x"), ["in/output", "l/output"]),
        (
            layer("l", "Eltwise", "data data", "x", "eltwise_param { coeff: 0.5 coeff: 1 }"),
            ["in/output", "l/weights", "l/output"],
        ),
        (layer("l", "Eltwise", "data data", "x", "eltwise_param { operation: PROD }"), ["in/output", "l/output"]),
        (layer("l", "Pooling", "data", "x", "pooling_param { pool: AVE kernel_size: 2 }"), ["in/output", "l/output"]),
        (layer("l", "PReLU", "data", "x"), ["in/output", "l/weights", "l/output"]),
        (layer("l", "ReLU", "data", "x", "relu_param { negative_slope: 0.1 }"), ["in/output", "l/weights", "l/output"]),
        (
            layer("b", "BatchNorm", "data", "b") + layer("l", "Scale", "b", "x", "scale_param { bias_term: true }"),
            ["in/output", "b/output", "l/weights", "l/bias"],
        ),
        (layer("l", "Scale", "data", "x"), ["in/output", "l/weights", "l/output"]),
        (layer("l", "Bias", "data", "x"), ["in/output", "l/bias", "l/output"]),
        (layer("l", "Interp", "data", "x", "interp_param { zoom_factor: 2 }"), ["in/output", "l/output"]),
        (layer("l", "Power", "data", "x", "power_param { scale: 2 }"), ["in/output", "l/output"]),
        (layer("l", "ReLU", "data", "x"), ["in/output"]),
        (layer("l", "Pooling", "data", "x", "pooling_param { kernel_size: 2 }"), ["in/output"]),
        (layer("l", "Dropout", "data", "x"), ["in/output"]),
        (layer("l", "Permute", "data", "x", "permute_param { order: 0 order: 1 order: 3 order: 2 }"), ["in/output"]),
        (layer("l", "Concat", "data data", "x"), ["in/output", "l/output"]),
        (layer("l", "Eltwise", "data data", "x", "eltwise_param { operation: MAX }"), ["in/output", "l/output"]),
        (layer("l", "Sigmoid", "data", "x"), ["l/output"]),
        (layer("l", "LRN", "data", "x"), ["l/output"]),
        (layer("l", "Normalize", "data", "x"), ["l/weights", "l/output"]),
    ],
    ids=lambda value: value.partition('type: "')[2].partition('"')[0] if isinstance(value, str) else "",
)
def test_coverage_all_is_the_table_of_the_contract(text, expected):
    """In front of a convolution that reads the value, whose own output leads to the answers alone."""
    end = ["end/weights", "end/bias"]
    assert covered(text + TAIL, coverage="all", fold_bn=False) == expected + end
    assert "end/output" in covered(text + TAIL, coverage="all", fold_bn=False, round_output=True)


def test_float_functions_that_no_arithmetic_reads_have_no_output():
    text = conv("a", "data", "a") + layer("s", "Sigmoid", "a", "s")
    assert covered(text, coverage="all") == ["in/output", "a/weights", "a/bias"]


def test_a_concat_has_a_format_only_where_those_of_its_inputs_differ(make_net, tmp_path):
    text = INPUT + conv("a", "data", "a") + conv("b", "data", "b") + layer("c", "Concat", "a b", "x") + TAIL
    for scale, differ in ((1.0, False), (16.0, True)):

        def edit(weights, scale=scale):
            weights["b"][0][:] = weights["a"][0] * scale
            weights["b"][1][:] = weights["a"][1] * scale

        net = make_net(text, edit, folder=tmp_path / str(scale))
        policy = lp.Policy(coverage="all", dialect="plain")
        np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(2, 6, 9, 8)).astype("f4"))
        data = lp.images(tmp_path / "x.npy", net)
        plan = lp.allocate(net, lp.calibrate(net, data, policy=policy), bits=8, policy=policy)
        assert ("c" in plan.layers) == differ
        assert [site.path for site in apply_plan(net, plan).float_sites] == ["end/output"]


def test_a_prelu_after_which_outputs_are_rounded_names_the_shared_site():
    text = conv("l", "data", "l") + layer("r", "PReLU", "l", "x") + TAIL
    assert outputs(text, coverage="all", act_placement="after-relu") == {
        "in": ("data@in", "data_lpact"),
        "r": ("x@r", "r_lpact"),
    }
    assert outputs(text, act_placement="after-relu") == {"l": ("x@r", "l_lpact")}


def test_inputs_of_old_fields_have_the_names_of_their_blobs():
    fields = 'input: "pixels" input: "more" input_shape { dim: 1 dim: 6 dim: 9 dim: 8 } '
    fields += "input_shape { dim: 1 dim: 6 dim: 9 dim: 8 }\n"
    text = layer("sum", "Eltwise", "pixels more", "x") + TAIL
    assert covered(text, fields, coverage="all")[:2] == ["pixels/output", "more/output"]
    assert outputs(text, fields, coverage="all")["more"] == ("more@input", "more_lpact")


def test_labels_have_no_format():
    data = 'layer { name: "d" type: "Data" top: "data" top: "label" }\n'
    text = conv("x", "data", "x") + conv("y", "x", "y")
    assert "label" not in str(outputs(text, data, coverage="all"))
    assert outputs(text, data, coverage="all")["d"] == ("data@d", "data_lpact")


@pytest.mark.parametrize(
    "text",
    [
        layer("p", "ROIPooling", "a boxes", "p", "roi_pooling_param { pooled_h: 3 pooled_w: 2 }"),
        layer("p", "PSROIPooling", "a boxes", "p", "psroi_pooling_param { output_dim: 1 group_size: 2 }"),
        layer("p", "Crop", "a boxes", "p", "crop_param { axis: 2 }"),
        layer("p", "BatchReindex", "a boxes", "p"),
        layer("p", "Filter", "a boxes", "p"),
        layer("p", "Interp", "a boxes", "p"),
    ],
    ids=["ROIPooling", "PSROIPooling", "Crop", "BatchReindex", "Filter", "Interp"],
)
def test_boxes_indices_and_shapes_to_cut_to_have_no_format_and_no_grid(text):
    boxes = layer("boxes", "Input", "", "boxes", "input_param { shape { dim: 3 dim: 5 dim: 1 dim: 1 } }")
    net = net_of(boxes + conv("a", "data", "a") + text + conv("b", "p", "b") + conv("c", "b", "c"))
    found = sites(net, lp.Policy(coverage="all"))
    outputs = {site.layer: site for site in found if site.role == "output" and site.covered}
    computes = ["p"] if "PSROIPooling" in text or "Interp" in text else []
    assert list(outputs) == ["in", "a", *computes, "b"]
    formatted = {site.tensor: None for site in outputs.values()}
    assert grids(net, found, formatted)["p@p"] == {outputs["p" if computes else "a"]}


def test_values_without_a_site_are_on_no_grid():
    """The second top of an input layer, which is a label in most networks."""
    head = INPUT.replace('top: "data"', 'top: "data" top: "more"').replace(
        "} }", "} shape { dim: 2 dim: 6 dim: 9 dim: 8 } }"
    )
    net = net_of(layer("join", "Concat", "data more", "x") + TAIL, head)
    found = sites(net, lp.Policy(coverage="all"))
    assert [site.path for site in found if site.covered][:2] == ["in/output", "join/output"]
    by_path = {site.path: site for site in found}
    lies_on = grids(net, found, {"data@in": None})
    assert lies_on["more@in"] == {OFF_GRID}
    assert lies_on["x@join"] == {by_path["in/output"], OFF_GRID}
    formats = {by_path["in/output"]: lp.QFormat(4, 4), by_path["end/weights"]: lp.QFormat(1, 7)}
    assert set(with_implied(net, found, formats, lp.Policy(coverage="all"))) == set(formats)  # no grid for a bias
    formats[by_path["join/output"]] = lp.QFormat(5, 3)
    implied = with_implied(net, found, formats, lp.Policy(coverage="all"))
    assert implied[by_path["end/bias"]] == lp.QFormat(32 - 10, 10)


def test_a_bias_that_layers_share_has_one_grid_or_is_refused():
    shared = 'param { name: "w" } param { name: "b" }'
    text = conv("a", "data", "a") + conv("b", "a", "b") + conv("end", "b", "end")
    net = net_of(text.replace("convolution_param", f"{shared} convolution_param", 2))
    policy = lp.Policy(coverage="all", dialect="plain")
    weights = lp.QFormat(1, 7)

    def plan(one, two):
        rows = {"in": lp.LayerPlan("Input", output=one), "a": lp.LayerPlan("Convolution", weights, two)}
        return lp.BitPlan(rows | {"b": lp.LayerPlan("Convolution", weights)}, policy)

    same = apply_plan(net, plan(lp.QFormat(4, 4), lp.QFormat(6, 4)))
    biases = [fmt for site, fmt in same.formats.items() if site.role == "bias"]
    assert biases == [lp.QFormat(21, 11)] * 2
    with pytest.raises(PlanError, match=r'layer "b": bias: Q22\.10, but layer "a" shares the blob "b" and has Q21\.11'):
        apply_plan(net, plan(lp.QFormat(4, 4), lp.QFormat(5, 3)))
    own = plan(lp.QFormat(4, 4), lp.QFormat(5, 3))
    own = {name: dataclasses.replace(row, bias=row.weights and lp.QFormat(4, 8)) for name, row in own.layers.items()}
    applied = apply_plan(net, lp.BitPlan(own, policy))
    assert [fmt for site, fmt in applied.formats.items() if site.role == "bias"] == [lp.QFormat(4, 8)] * 2


def test_a_taken_name_changes_the_lpact_and_its_random_numbers_alike(make_net, tmp_path):
    """A layer called conv_lpact is there already: every way to compute the plan draws the same numbers."""
    text = (
        INPUT + conv("conv", "data", "conv") + layer("conv_lpact", "ReLU", "conv", "conv") + conv("end", "conv", "end")
    )
    net = make_net(text)
    np.save(tmp_path / "x.npy", x := np.random.default_rng(0).normal(size=(2, 6, 9, 8)).astype("f4"))
    data = lp.images(tmp_path / "x.npy", net)
    policy = lp.Policy(rounding="stochastic", seed=3)
    plan = lp.allocate(net, lp.calibrate(net, data, policy=policy), bits=4, policy=policy)
    (site,) = [site for site in apply_plan(net, plan).formats if site.role == "output"]
    assert (site.act, site.stream) == ("conv_lpact_", "conv_lpact_/top")
    pair = lp.convert(net, plan, tmp_path / "out")
    assert [layer.name for layer in pair.net.layers if layer.type == "LPAct"] == ["conv_lpact_"]
    expected = lp.run(pair.net, x, seed=3)["end"]
    np.testing.assert_array_equal(lp.run(lp.quantize(net, plan), x, seed=3)["end"], expected)
    errors = []
    for dialect in ("adaption", "plain"):
        own = lp.BitPlan(plan.layers, lp.Policy(dialect=dialect, rounding="stochastic", seed=3))
        made = lp.convert(net, own, tmp_path / dialect, data=data)
        errors.append(lp.validate(net, made, data).classifier.error.noise)
        errors.append(made.report.to_json()["layers"][0]["output"]["sqnr_db"])
    assert errors[:2] == errors[2:]
    assert Trials(net, data, policy=policy)(apply_plan(net, plan).formats).noise == errors[0]
    assert errors[0] == np.square(expected.astype("f8") - lp.run(net, x, engine="numpy")["end"]).reshape(2, -1).sum()


def test_a_network_with_float_sites_names_them(make_net):
    net = make_net(INPUT + conv("a", "data", "a") + layer("r", "PReLU", "a", "r") + conv("b", "r", "b"))
    plan = lp.allocate(net, None, bits=8)
    assert [site.path for site in apply_plan(net, plan).float_sites] == [
        *("in/output", "a/bias", "a/output", "r/weights", "r/output", "b/bias", "b/output"),
    ]
