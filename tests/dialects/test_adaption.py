"""ADaPTION's dialect where the plan asks for more than LP layers say: formats with bd < 1, biases of their own."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.dialects import dialect_named
from lpcaffe.dialects.adaption import HIGHEST_AD, clip_even, effective_format, written_format
from lpcaffe.errors import PlanError
from lpcaffe.net import ArrayBlob
from lpcaffe.numbers import QFormat, parse_format
from lpcaffe.numbers.rounding import round_fp
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site
from lpcaffe.report.conversion_report import replaced_values

NET = """name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_h: 3 kernel_w: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
layer { name: "up" type: "PReLU" bottom: "ip" top: "up" }
"""
TIGHT, OWN = QFormat(-1, 6), QFormat(2, 9)
ROUNDINGS = ["deterministic", "stochastic"]


def plan_of(conv, ip=None, **policy) -> BitPlan:
    rows = {"conv": conv} if ip is None else {"conv": conv, "ip": ip}
    return BitPlan(rows, policy=Policy(fold_bn=False, **policy))


def blobs_of(net, name="conv") -> list[np.ndarray]:
    return [blob.array() for blob in net.weights[name]]


# bd below 1, far below it, and a width of one bit, whose only value is 0.
@pytest.mark.parametrize("fmt", [QFormat(0, 5), TIGHT, QFormat(-5, 8), QFormat(-20, 24), QFormat(-3, 4)], ids=str)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_written_format_rounds_the_even_values_as_the_plan_s_rounds_the_given_ones(fmt, rounding):
    """At ties, at the limit and on both sides of it, and far away; no code is wider than the plan's."""
    rng = np.random.default_rng(3)
    limits = np.array([fmt.max, fmt.max + fmt.step / 2, fmt.max + fmt.step, 0, fmt.step / 2, 1], np.float32)
    ties = (np.arange(-40, 41) * np.float32(fmt.step / 2)).astype(np.float32)
    values = np.concatenate([limits, ties, rng.normal(0, 4 * max(fmt.max, fmt.step), 400).astype(np.float32)])
    values = np.concatenate(
        [values, np.nextafter(values, np.float32(9)), np.nextafter(values, np.float32(-9)), -values]
    )
    even, written = clip_even(values, fmt, rounding), written_format(fmt)
    assert (written.bd, written.ad) == (1, fmt.ad)
    expected = round_fp(values, fmt.bd, fmt.ad, rounding, seed=6, stream=2)
    np.testing.assert_array_equal(round_fp(even, written.bd, written.ad, rounding, seed=6, stream=2), expected)
    assert np.abs(expected).max() == fmt.max
    inside = np.abs(values) <= fmt.max
    np.testing.assert_array_equal(even[inside], values[inside])


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("round_bias", [False, True])
def test_a_pair_of_formats_below_one_bit(make_net, tmp_path, rounding, round_bias):
    """Odd is round_fp of even, codes fit the plan's width, and every check holds without a changed value."""
    net, plan = (
        make_net(NET),
        plan_of(LayerPlan("Convolution", TIGHT), rounding=rounding, round_bias=round_bias, seed=4),
    )
    done = lp.convert(net, plan, tmp_path / "out")
    lpfp = done.net.by_name["conv"].message.lpfp_param
    assert (lpfp.bd, lpfp.ad) == (1, 6)
    assert BitPlan.load(tmp_path / "out/plan.yaml").layers["conv"].weights == TIGHT
    w, odd, b, odd_bias = blobs_of(done.net)
    given = [blob.array() for blob in net.weights["conv"]]
    loaded = lp.run(done.net, np.ones((2, 3, 9, 8), np.float32), seed=4)
    assert loaded["conv"].shape == (2, 5, 7, 7)
    assert TIGHT.holds(odd).all()
    assert TIGHT.holds(odd_bias).all() == round_bias
    np.testing.assert_array_equal(w, clip_even(given[0], TIGHT, rounding))
    np.testing.assert_array_equal(b, clip_even(given[1], TIGHT, rounding) if round_bias else given[1])
    row = done.report.to_json()["layers"][0]
    assert row["weights"]["format"] == "Q-1.6"
    assert row["weights"]["even_clipped"] == np.count_nonzero(w != given[0]) > 0
    assert row["bias"].get("even_clipped", 0) == np.count_nonzero(b != given[1])
    assert lp.verify(tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel", plan=plan).failures == []
    proof = lp.validate(net, done)
    assert proof.failures == []
    assert [check.changed for check in proof.rounding] == [0, 0]
    (shown,) = lp.verify(tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel").layers
    assert (shown["format"], shown["bits"]) == ("Q1.6", TIGHT.width)


def test_a_value_that_was_not_clipped_by_the_dialect_is_changed(make_net, tmp_path):
    net, plan = make_net(NET), plan_of(LayerPlan("Convolution", TIGHT))
    done = lp.convert(net, plan, tmp_path / "out")
    blobs = [blob.copy() for blob in blobs_of(done.net)]
    at = np.flatnonzero(np.abs(blobs[0]) < TIGHT.max / 2)[0]
    blobs[0].flat[at] = TIGHT.max
    blobs[1].flat[at] = TIGHT.max
    low = done.net.replace(done.net.message, {**done.net.weights, "conv": [ArrayBlob(blob) for blob in blobs]})
    assert [check.changed for check in lp.validate(net, low, plan=plan).rounding] == [1, 0]


@pytest.mark.parametrize(
    ("largest", "expected"),
    [
        (0, QFormat(-4, 6)),
        (1, QFormat(-4, 6)),
        (3, QFormat(-3, 6)),
        (4, QFormat(-2, 6)),
        (15, QFormat(-1, 6)),
        (63, QFormat(1, 6)),
    ],
)
def test_the_effective_format_is_the_narrowest_that_holds_every_code(largest, expected):
    codes = np.array([[0, -largest, largest // 2]], np.float32)
    assert effective_format(ArrayBlob(codes / 64), QFormat(1, 6)) == expected
    assert effective_format(ArrayBlob(codes / 64), QFormat(2, 6)) == QFormat(2, 6)


CONV, IP = Site("a", "weights", "Convolution", blob=0), Site("a", "weights", "InnerProduct", blob=0)
OUT, UP = Site("a", "output", "Convolution", tensor="a"), Site("a", "weights", "Deconvolution", blob=0)
BIAS = Site("a", "bias", "Convolution", blob=1)


@pytest.mark.parametrize(
    ("site", "given", "expected"),
    [
        (CONV, QFormat(-2, 10), QFormat(-2, 10)),
        (IP, QFormat(-20, 28), QFormat(8 - HIGHEST_AD, HIGHEST_AD)),
        (CONV, QFormat(9, -1), QFormat(8, 0)),
        (OUT, QFormat(-2, 10), QFormat(1, 7)),
        (OUT, QFormat(9, -1), QFormat(8, 0)),
        (OUT, QFormat(3, 5), QFormat(3, 5)),
        (UP, QFormat(-20, 28), QFormat(-20, 28)),
        (BIAS, QFormat(12, -4), QFormat(12, -4)),
        (UP, parse_format("e4m3fn"), parse_format("e4m3fn")),
    ],
    ids=str,
)
def test_the_nearest_format_that_the_files_express(site, given, expected):
    adaption = dialect_named("adaption")
    fitted = adaption.fit(given, site)
    assert fitted == expected
    assert fitted.width == given.width
    assert adaption.fit(fitted, site) == fitted


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            LayerPlan("Convolution", QFormat(-20, 28)),
            "weights: Q-20.28 cannot be written in the dialect adaption; the nearest is Q-16.24",
        ),
        (
            LayerPlan("Convolution", QFormat(9, -1)),
            "weights: Q9.-1 cannot be written in the dialect adaption; the nearest is Q8.0",
        ),
        (
            LayerPlan("Convolution", output=TIGHT),
            "output: Q-1.6 cannot be written in the dialect adaption; the nearest is Q1.4",
        ),
        (LayerPlan("Convolution", parse_format("e4m3fn")), "weights: ADaPTION's layers express Qm.f alone, got e4m3fn"),
        (
            LayerPlan("Convolution", parse_format("q6[5,4,3,2,1]")),
            "weights: ADaPTION's layers express Qm.f alone, got q6[",
        ),
    ],
    ids=range(5),
)
def test_what_the_dialect_cannot_express_is_refused_when_it_is_written(make_net, tmp_path, row, problem):
    """And not before: the same plan is one of the plain dialect."""
    net, plan = make_net(NET), plan_of(row)
    with pytest.raises(PlanError) as caught:
        lp.convert(net, plan, tmp_path / "out")
    assert str(caught.value).startswith(f'layer "conv": {problem}')
    assert str(caught.value).endswith("; --dialect plain expresses it")
    assert not list(tmp_path.glob("out/*"))
    lp.convert(net, replace(plan, policy=replace(plan.policy, dialect="plain")), tmp_path / "out")


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_bias_of_its_own_is_rounded_in_the_even_blob(make_net, tmp_path, rounding):
    net = make_net(NET)
    plan = plan_of(LayerPlan("Convolution", TIGHT, bias=OWN), rounding=rounding, seed=2)
    done = lp.convert(net, plan, tmp_path / "out")
    bias, odd = blobs_of(done.net)[2:]
    assert OWN.holds(bias).all()
    assert not done.net.by_name["conv"].message.lpfp_param.round_bias
    given = net.weights["conv"][1].array()
    assert (np.abs(bias - given) < OWN.step).all()
    assert (bias != given).any()
    # Blob 3 is round_fp of blob 2 in the written format, as ADaPTION's own layer would fill it.
    if rounding == "deterministic":
        np.testing.assert_array_equal(odd, round_fp(bias, 1, TIGHT.ad))
    low, high = (sign * round_fp(sign * bias, 1, TIGHT.ad, "floor") for sign in (1, -1))
    assert ((odd == low) | (odd == high)).all()
    assert QFormat(1, 6).holds(odd).all()
    row = done.report.to_json()["layers"][0]["bias"]
    assert (row["format"], row["count"], row["even_rounded"]) == (str(OWN), 5, True)
    error = np.abs(bias.astype(np.float64) - given).max()
    assert row["max_abs_error"] == error
    assert lp.verify(tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel", plan=plan).failures == []
    assert lp.validate(net, done).failures == []
    np.testing.assert_array_equal(blobs_of(lp.extract(done.net))[1], bias)


def test_a_bias_of_its_own_excludes_round_bias():
    problem = 'layer "conv": bias: expected none beside round_bias, which rounds it in the format of the weights'
    with pytest.raises(PlanError, match=problem):
        plan_of(LayerPlan("Convolution", TIGHT, bias=OWN), round_bias=True)


def test_a_bias_of_its_own_without_weights_is_in_an_ordinary_layer(make_net, tmp_path):
    net, plan = make_net(NET), plan_of(LayerPlan("Convolution", bias=OWN), LayerPlan("InnerProduct", TIGHT))
    done = lp.convert(net, plan, tmp_path / "out")
    assert done.net.by_name["conv"].type == "Convolution"
    weights, bias = blobs_of(done.net)
    np.testing.assert_array_equal(weights, net.weights["conv"][0].array())
    np.testing.assert_array_equal(bias, OWN.quantize(net.weights["conv"][1].array()))
    assert lp.verify(tmp_path / "out/lp.prototxt", tmp_path / "out/lp.caffemodel", plan=plan).failures == []


def test_the_report_beside_a_pair_names_what_is_not_full_precision(make_net, tmp_path):
    net = make_net(NET)
    rows = {"conv": LayerPlan("Convolution", TIGHT, bias=OWN), "up": LayerPlan("PReLU", QFormat(1, 4))}
    done = lp.convert(net, BitPlan(rows, policy=Policy(fold_bn=False, coverage="all")), tmp_path / "out")
    clipped = done.report.to_json()["layers"][0]["weights"]["even_clipped"]
    assert replaced_values(tmp_path / "out/lp.caffemodel") == [
        "the biases of conv are rounded",
        "the weights of up are rounded",
        f"{clipped} values are at the limit of their format",
    ]


def test_a_pair_with_all_of_full_precision_has_nothing_to_name(make_net, tmp_path):
    lp.convert(make_net(NET), plan_of(LayerPlan("Convolution", QFormat(1, 6))), tmp_path / "out")
    assert replaced_values(tmp_path / "out/lp.caffemodel") == []


def test_the_report_of_another_caffemodel_is_not_believed(make_net, tmp_path):
    plan = plan_of(LayerPlan("Convolution", TIGHT, bias=OWN))
    lp.convert(make_net(NET), plan, tmp_path / "out")
    weights = tmp_path / "out/lp.caffemodel"
    assert replaced_values(weights)
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert replaced_values(weights) == []


HOSTILE = [
    [],
    {"layers": 3},
    {"layers": [{"name": "a", "weights": [1], "bias": None}], "plan": {"layers": {}}},
    {"layers": [{"name": "a", "weights": {"even_clipped": "many"}, "bias": None}], "plan": {"layers": {}}},
    {"layers": [{"name": "a", "weights": {"even_clipped": [1]}, "bias": None}], "plan": {"layers": {}}},
    {"layers": [], "plan": {"layers": [1]}},
    {"layers": [], "plan": {"layers": {"a": 1}}},
    {"layers": [], "plan": None},
]


@pytest.mark.parametrize("report", HOSTILE, ids=range(len(HOSTILE)))
def test_a_report_of_any_content_ends_nothing(tmp_path, report):
    (tmp_path / "lp.caffemodel").write_bytes(b"weights")
    if isinstance(report, dict):
        report = report | {"files": {"lp.caffemodel": hashlib.sha256(b"weights").hexdigest()}}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert replaced_values(tmp_path / "lp.caffemodel") == []
