"""Errors layer by layer and agreement at the outputs, against a direct computation."""

import json

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import DataError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }\n'
TWO = f"""name: "two"
{INPUT}
layer {{ name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "a" top: "a" }}
layer {{ name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param {{ num_output: 7 }} }}
"""
NORMED = f"""name: "normed"
{INPUT.replace("dim: 6", "dim: 3 dim: 7 dim: 6")}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 bias_term: false }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "scaled" scale_param {{ bias_term: true }} }}
layer {{ name: "relu" type: "ReLU" bottom: "scaled" top: "relu" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "relu" top: "ip" inner_product_param {{ num_output: 4 }} }}
"""
WA, AA, WB, AB = QFormat(1, 2), QFormat(2, 1), QFormat(2, 3), QFormat(5, 2)


def plan(**policy) -> BitPlan:
    layers = {"a": LayerPlan("InnerProduct", WA, AA), "b": LayerPlan("InnerProduct", WB, AB)}
    return BitPlan(layers, policy=Policy(fold_bn=False, **policy))


def q(x, fmt):
    """round_fp in numpy, float64: ties away from zero."""
    steps = np.floor(np.abs(x) / fmt.step + 0.5) * fmt.step
    return np.copysign(np.minimum(steps, fmt.max), x)


def sixteenths(weights):
    """Sums of products of these are exact in float32, so BLAS may add in any order."""
    for own in weights.values():
        own[:] = [np.round(blob * 32) / 16 for blob in own]


def inputs(count=13):
    return np.round(np.random.default_rng(count).normal(size=(count, 6)) * 4).astype(np.float32) / 2


class Direct:
    """Both networks by hand, in float64: values of a before its ReLU, and of b."""

    def __init__(self, net, x, bias=lambda b, fmt: b):
        (wa, ba), (wb, bb) = ([blob.array().astype(np.float64) for blob in net.weights[name]] for name in "ab")
        x = x.astype(np.float64)
        self.a = x @ wa.T + ba
        self.b = np.maximum(self.a, 0) @ wb.T + bb
        self.raw_a = x @ q(wa, WA).T + bias(ba, WA)
        self.low_a = q(self.raw_a, AA)
        self.own_raw_b = np.maximum(self.a, 0) @ q(wb, WB).T + bias(bb, WB)
        self.own_b = q(self.own_raw_b, AB)
        self.raw_b = np.maximum(self.low_a, 0) @ q(wb, WB).T + bias(bb, WB)
        self.low_b = q(self.raw_b, AB)


def saturated(given, fmt):
    return np.mean(np.abs(given) >= fmt.max + fmt.step / 2)


def check(error, true, low, given, fmt):
    """The figures of an entry of the report against those of arrays."""
    assert error["max_abs_error"] == np.abs(true - low).max()
    sqnr = 10 * np.log10(np.sum(true**2) / np.sum((true - low) ** 2))
    assert error["sqnr_db"] == pytest.approx(sqnr, abs=6e-4)
    assert error["saturated_fraction"] == pytest.approx(saturated(given, fmt))
    assert error["zero_fraction"] == pytest.approx(np.mean(low == 0))


@pytest.mark.parametrize("batch", [1, 4, 13])
@pytest.mark.parametrize("dialect", ["adaption", "plain"])
@pytest.mark.parametrize("round_bias", [False, True])
def test_isolated_and_accumulated_errors_are_those_of_a_direct_computation(
    make_net, tmp_path, batch, dialect, round_bias
):
    net, x = make_net(TWO, sixteenths), inputs()
    own = plan(dialect=dialect, round_bias=round_bias)
    low = lp.convert(net, own, tmp_path / "out").net
    report = lp.validate(net, low, lp.images(x, net), plan=own, batch=batch).to_json()
    direct = Direct(net, x, q) if round_bias else Direct(net, x)
    first, second = report["layers"]
    assert [(row["name"], row["weights"], row["output"]) for row in (first, second)] == [
        ("a", "Q1.2", "Q2.1"),
        ("b", "Q2.3", "Q5.2"),
    ]
    check(first["isolated"], direct.a, direct.low_a, direct.raw_a, AA)
    check(second["isolated"], direct.b, direct.own_b, direct.own_raw_b, AB)
    check(second["accumulated"], direct.b, direct.low_b, direct.raw_b, AB)
    assert first["accumulated"] == first["isolated"]
    assert second["isolated"] != second["accumulated"]
    # What the LPAct is given clips elsewhere than the full-precision values would.
    assert saturated(direct.raw_a, AA) > 0
    assert saturated(direct.raw_a, AA) != saturated(direct.a, AA)
    (output,) = report["outputs"]
    assert output["blob"] == "b"
    assert output["max_abs_error"] == np.abs(direct.b - direct.low_b).max()
    assert output["agreement"] == np.mean(direct.b.argmax(1) == direct.low_b.argmax(1)) < 1
    assert report["data"] == {"images": 13, "source": "arrays in memory, 13 prepared blobs"}


def test_the_conversion_report_has_the_isolated_errors(make_net, tmp_path):
    net, x = make_net(TWO, sixteenths), inputs()
    done = lp.convert(net, plan(), tmp_path / "out", data=lp.images(x, net))
    direct = Direct(net, x)
    rows = done.report.to_json()["layers"]
    for row, true, low, given, fmt in (
        (rows[0], direct.a, direct.low_a, direct.raw_a, AA),
        (rows[1], direct.b, direct.own_b, direct.own_raw_b, AB),
    ):
        check(row["output"] | {"max_abs_error": np.abs(true - low).max()}, true, low, given, fmt)
        assert row["output"]["format"] == str(fmt)


def test_the_worst_layer_has_the_largest_error_relative_to_its_output(make_net, tmp_path):
    net, x = make_net(TWO, sixteenths), inputs()
    for bad, good in (("a", "b"), ("b", "a")):
        layers = {
            name: LayerPlan("InnerProduct", QFormat(3, 1) if name == bad else QFormat(3, 12), None) for name in "ab"
        }
        own = BitPlan(layers)
        low = lp.convert(net, own, tmp_path / bad).net
        report = lp.validate(net, low, lp.images(x, net), plan=own).to_json()
        assert report["worst_layer"] == bad != good
    exact = BitPlan({name: LayerPlan("InnerProduct", QFormat(4, 12)) for name in "ab"})
    low = lp.convert(net, exact, tmp_path / "exact").net
    report = lp.validate(net, low, lp.images(x, net), plan=exact).to_json()
    assert report["worst_layer"] is None
    assert report["layers"][0]["isolated"]["sqnr_db"] is None
    assert report["outputs"][0]["agreement"] == 1


@pytest.mark.parametrize("placement", ["before-relu", "after-relu"])
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_chains_are_compared_at_their_last_top(make_net, tmp_path, placement, fold, dialect):
    net = make_net(NORMED)
    x = np.random.default_rng(3).normal(size=(5, 3, 7, 6)).astype(np.float32)
    fmt = QFormat(3, 4)
    layers = {"conv": LayerPlan("Convolution", QFormat(4, 20), fmt), "ip": LayerPlan("InnerProduct", QFormat(4, 20))}
    own = BitPlan(layers, policy=Policy(fold_bn=fold, act_placement=placement, dialect=dialect))
    low = lp.convert(net, own, tmp_path / "out").net
    row = lp.validate(net, low, lp.images(x, net), plan=own).to_json()["layers"][0]
    blobs = lp.run(net, x)
    true = blobs["scaled" if placement == "before-relu" else "relu"]
    # The weights keep 20 bits after the point, so all the error is the rounding of the output.
    check_to = np.sum(true.astype(np.float64) ** 2) / np.sum((q(true.astype(np.float64), fmt) - true) ** 2)
    assert row["isolated"]["sqnr_db"] == pytest.approx(10 * np.log10(check_to), abs=0.05)
    zeros = np.mean(q(true, fmt) == 0)
    assert row["isolated"]["zero_fraction"] == pytest.approx(zeros, abs=0.01)
    assert row["output"] == "Q3.4"


SCORES = f"""name: "scores"
{INPUT.replace("dim: 6", "dim: 7")}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param {{ num_output: 7 }} }}
"""


def identity(weights):
    weights["ip"] = [np.eye(7, dtype=np.float32), np.zeros(7, np.float32)]


# The full-precision scores are these; an output format of whole numbers makes ties of them.
SCORE_ROWS = np.array(
    [
        [0.1, 0.3, 0.2, 5.1, 5.2, -1.0, -2.0],  # 5.1 and 5.2 tie at 5: the lower index wins
        [3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0],  # a tie in full precision too
        [9.0, 8.4, 8.3, 7.0, 6.0, 5.4, 5.3],
        [-3.4, -3.3, -3.2, -3.1, -3.0, -2.9, -2.8],
    ],
    np.float32,
)
LABELS = np.array([4, 4, 6, 1])


def ranks(scores, labels):
    """The place of each label when scores are sorted from the largest, equal ones by index."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.array([list(row).index(label) for row, label in zip(order, labels, strict=True)])


def scored(make_net, tmp_path):
    net = make_net(SCORES, identity)
    own = BitPlan({"ip": LayerPlan("InnerProduct", QFormat(2, 6), QFormat(8, 0))})
    return net, lp.convert(net, own, tmp_path / "out").net


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_top_1_and_top_5_decide_ties_as_argmax_does(make_net, tmp_path, batch):
    net, low = scored(make_net, tmp_path)
    data = lp.images(SCORE_ROWS, net).with_labels(LABELS)
    (output,) = lp.validate(net, low, data, batch=batch).to_json()["outputs"]
    whole = q(SCORE_ROWS.astype(np.float64), QFormat(8, 0))
    for k in (1, 5):
        assert output[f"top{k}"] == {
            "full": np.mean(ranks(SCORE_ROWS, LABELS) < k),
            "low": np.mean(ranks(whole, LABELS) < k),
        }
    assert output["top1"] == {"full": 0.25, "low": 0}
    assert output["top5"] == {"full": 0.5, "low": 0.75}
    assert output["agreement"] == np.mean(SCORE_ROWS.argmax(1) == whole.argmax(1)) == 0.5


def test_without_labels_there_is_no_accuracy(make_net, tmp_path):
    net, low = scored(make_net, tmp_path)
    (output,) = lp.validate(net, low, lp.images(SCORE_ROWS, net)).to_json()["outputs"]
    assert output["top1"] is output["top5"] is None


@pytest.mark.parametrize("wrong", [-1, 7, 2**40])
def test_labels_that_no_class_has_are_refused(make_net, tmp_path, wrong):
    net, low = scored(make_net, tmp_path)
    data = lp.images(SCORE_ROWS, net).with_labels(np.array([0, 1, wrong, 2]))
    with pytest.raises(DataError, match=f'blob "ip": expected labels of 0 to 6, got {wrong}'):
        lp.validate(net, low, data)


@pytest.mark.parametrize(("wanted", "holds"), [(0.0, True), (0.5, True), (0.5001, False), (1.0, False)])
def test_too_little_agreement_is_a_failure(make_net, tmp_path, wanted, holds):
    net, low = scored(make_net, tmp_path)
    proof = lp.validate(net, low, lp.images(SCORE_ROWS, net), min_agreement=wanted)
    assert proof.holds is holds
    assert (proof.failures == []) is holds
    if not holds:
        assert proof.failures == [f'"ip" agrees in 50.0000%, expected at least {wanted:.4%}']


def test_min_agreement_must_make_sense(make_net, tmp_path):
    net, low = scored(make_net, tmp_path)
    with pytest.raises(DataError, match="needs data"):
        lp.validate(net, low, min_agreement=0.5)
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(DataError, match="between 0 and 1"):
            lp.validate(net, low, lp.images(SCORE_ROWS, net), min_agreement=value)


def test_the_softmax_decides_where_there_is_one_else_the_last_output(make_net, tmp_path):
    text = SCORES + "\n".join(
        f'layer {{ name: "{name}" type: "{kind}" bottom: "ip" top: "{name}" }}'
        for name, kind in (("prob", "Softmax"), ("tail", "TanH"))
    )
    for source, decides in ((text, "prob"), (text.replace("Softmax", "Sigmoid"), "tail")):
        net = make_net(source, identity, folder=tmp_path / decides)
        low = lp.convert(net, BitPlan({"ip": LayerPlan("InnerProduct", QFormat(2, 6))}), tmp_path / decides / "out").net
        outputs = lp.validate(net, low, lp.images(SCORE_ROWS, net)).to_json()["outputs"]
        assert [(output["blob"], output["classifier"]) for output in outputs] == [
            ("prob", decides == "prob"),
            ("tail", decides == "tail"),
        ]


def test_dense_outputs_agree_position_by_position(make_net, tmp_path):
    text = f"""{INPUT.replace("dim: 6", "dim: 3 dim: 5 dim: 4")}
    layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
             convolution_param {{ num_output: 6 kernel_size: 2 }} }}"""
    net = make_net(text, sixteenths)
    x = np.round(np.random.default_rng(1).normal(size=(3, 3, 5, 4)) * 4).astype(np.float32)
    own = BitPlan({"conv": LayerPlan("Convolution", QFormat(2, 1), QFormat(4, 0))})
    low = lp.convert(net, own, tmp_path / "out").net
    (output,) = lp.validate(net, low, lp.images(x, net)).to_json()["outputs"]
    true, got = lp.run(net, x)["conv"], lp.run(low, x)["conv"]
    assert output["agreement"] == np.mean(true.argmax(1) == got.argmax(1))
    assert 0 < output["agreement"] < 1
    labelled = lp.images(x, net).with_labels(np.zeros(3, np.int64))
    assert lp.validate(net, low, labelled).to_json()["outputs"][0]["top1"] is None


def test_stochastic_figures_do_not_depend_on_the_batch_size(make_net, tmp_path):
    net, x = make_net(TWO, sixteenths), inputs()
    own = plan(rounding="stochastic", seed=11)
    low = lp.convert(net, own, tmp_path / "out").net
    reports = [lp.validate(net, low, lp.images(x, net), plan=own, batch=batch).to_json() for batch in (1, 5, 13)]
    assert reports[0] == reports[1] == reports[2]
    other = plan(rounding="stochastic", seed=12)
    again = lp.convert(net, other, tmp_path / "other").net
    assert lp.validate(net, again, lp.images(x, net), plan=other).to_json() != reports[0]


def test_infinity_on_the_way_is_an_error_and_no_figure(make_net, tmp_path):
    net = make_net(TWO)
    low = lp.convert(net, plan(), tmp_path / "out").net
    with pytest.raises(DataError, match='layer "a": a value is NaN or infinite'):
        lp.validate(net, low, lp.images(np.full((2, 6), 3e38, np.float32), net), plan=plan())


def test_the_report_is_json_with_the_documented_keys(make_net, tmp_path):
    net, x = make_net(TWO, sixteenths), inputs()
    low = lp.convert(net, plan(), tmp_path / "out").net
    report = json.loads(json.dumps(lp.validate(net, low, lp.images(x, net), plan=plan()).to_json(), allow_nan=False))
    assert set(report) == {
        *("version", "network", "holds", "failures", "data", "rounding", "layers", "worst_layer", "outputs", "metric"),
        "float_sites",
    }
    assert (report["version"], report["network"], report["holds"], report["failures"]) == (1, "two", True, [])
    assert report["float_sites"] == ["data/output", "a/bias", "b/bias"]
    keys = {"layer", "blob", "format", "count", "differing", "first", "counts", "changed"}
    assert all(set(check) == keys for check in report["rounding"])
    assert [(check["layer"], check["blob"]) for check in report["rounding"]] == [("a", 1), ("a", 3), ("b", 1), ("b", 3)]
    bare = lp.validate(net, low).to_json()
    assert (bare["data"], bare["layers"], bare["outputs"], bare["worst_layer"]) == (None, [], [], None)
    assert bare["float_sites"] is None


def test_a_report_prints_in_a_few_lines(make_net, tmp_path):
    net, low = scored(make_net, tmp_path)
    proof = lp.validate(net, low, lp.images(SCORE_ROWS, net), min_agreement=1.0)
    assert str(proof).splitlines() == [
        "scores: 49 rounded values, 0 differ from round_fp",
        "layer ip loses most",
        "output ip: largest change 0.4, agreement 50.000%",
        'FAILED: "ip" agrees in 50.0000%, expected at least 100.0000%',
    ]


def test_progress_counts_images(make_net, tmp_path):
    net, seen = make_net(TWO), []
    low = lp.convert(net, plan(), tmp_path / "out").net
    data = lp.images(inputs(), net)
    lp.validate(net, low, data, batch=5, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(5, 13), (10, 13), (13, 13)]
