"""The search from end to end: what it finds is converted and validated, its bits are counted from the plan."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.allocation import site_tensors
from lpcaffe.errors import DataError, LpcaffeWarning, PlanError, TargetNotReached
from lpcaffe.search import search as module
from lpcaffe.search.parts import FormatTable
from lpcaffe.search.target import Target

# Counted by hand from the text of the network `branches`: weights of each layer, values of each output that is rounded.
# Nothing that decides depends on its layer `aux`, which keeps full precision, and the search says so.
WEIGHTS = {"c1": 135, "c2": 8, "c3": 108, "ip": 540, "last": 70}
OUTPUTS = {"c1": 210, "c2": 168, "c3": 168, "ip": 10}
STRATEGIES = ("greedy", "ristretto")
pytestmark = pytest.mark.filterwarnings("ignore:.* does not depend on aux")


def validated(net, plan, data, folder, blob=None, metric=None):
    """The plan is written, read again, converted and validated: the figures of an output, and the metric."""
    plan.save(folder / "plan.yaml")
    plan = lp.BitPlan.load(folder / "plan.yaml")
    comparison = lp.validate(net, lp.convert(net, plan, folder / "out").net, data, plan=plan, metric=metric).comparison
    output = next(one for one in comparison.outputs if one.blob == blob or (blob is None and one.classifier))
    return output, comparison.metric


def same(score, output):
    """A score has the figures that validation counted."""
    assert (score.images, score.signal, score.noise) == (output.images, output.error.signal, output.error.noise)
    assert score.agreement == output.agreement
    assert (score.top1, score.top5) == tuple(None if (both := output.accuracy(k)) is None else both[1] for k in (1, 5))


def held(target, output):
    """Whether what validation counted keeps the bound, in exact integers where there are counts."""
    if target.measure == "sqnr_db":
        error = output.error
        return error.noise == 0 or 10 * math.log10(error.signal / error.noise) >= target.bound
    if target.measure == "agreement":
        return output.agreeing >= target.bound * output.decisions
    full, low = output.top1 if target.measure == "top1_loss" else output.top5
    return 100 * (full - low) <= target.bound * output.images


def widths(plan, kind):
    """The widths of the weights, or of the outputs, by layer."""
    formats = {name: getattr(line, kind) for name, line in plan.layers.items()}
    return {name: fmt.width for name, fmt in formats.items() if fmt is not None}


def unlabelled(net, data):
    """The same images without labels."""
    (arrays,) = data(net).batches(99)
    return lp.images(arrays, net)


def without_counts(report):
    """The JSON of a report, but for how many trials were known already."""
    return {key: value for key, value in report.to_json().items() if key != "trials"}


SQNR, AGREEMENT, LOSS = Target("sqnr_db", 24), Target("agreement", 0.9), Target("top1_loss", 6)


@pytest.mark.parametrize(
    ("name", "target", "dialect", "strategy"),
    [
        ("branches", SQNR, "adaption", "greedy"),
        ("branches", AGREEMENT, "plain", "ristretto"),
        ("branches", LOSS, "plain", "greedy"),
        ("normed", SQNR, "plain", "ristretto"),
        ("normed", SQNR, "plain", "greedy"),
        ("normed", AGREEMENT, "adaption", "greedy"),
        ("normed", LOSS, "plain", "ristretto"),
    ],
    ids=str,
)
def test_the_target_holds_in_the_network_that_the_plan_makes(request, data, tmp_path, name, target, dialect, strategy):
    net = request.getfixturevalue(name)
    images = data(net)
    found = lp.search_widths(
        net, images, policy=lp.Policy(dialect=dialect), scope=lp.Scope(strategy=strategy), target=target
    )
    output, _ = validated(net, found.plan, images, tmp_path)
    same(found.found.score, output)
    assert held(target, output)
    assert found.found.met
    for kind in ("weights", "output"):
        assert set() < set(widths(found.plan, kind).values()) <= set(range(2, 17))
    # Less than the most would do: this search had something to find.
    assert found.weight_bits < 12


@pytest.mark.parametrize(
    "policy",
    [
        {"round_bias": True, "dialect": "plain"},
        {"rounding": "stochastic", "seed": 3},
        {"act_placement": "after-relu", "dialect": "plain"},
        {"fold_bn": False},
        {"round_output": True, "dialect": "plain"},
        {"coverage": "all"},
        {"coverage": "all", "dialect": "plain"},
    ],
    ids=str,
)
def test_the_plan_has_the_policy_of_the_search(normed, data, tmp_path, policy):
    images, policy = data(normed), lp.Policy(**policy)
    found = lp.search_widths(normed, images, policy=policy, target=Target("sqnr_db", 15))
    assert found.plan.policy == policy
    output, _ = validated(normed, found.plan, images, tmp_path)
    same(found.found.score, output)
    assert held(found.target, output)
    assert ("ip" in widths(found.plan, "output")) == policy.round_output


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_formats_are_those_of_the_methods(normed, data, tmp_path, dialect):
    images, methods, policy = data(normed), lp.Methods("max", "percentile:99"), lp.Policy(dialect=dialect)
    found = lp.search_widths(normed, images, policy=policy, methods=methods, target=Target("sqnr_db", 15))
    output, _ = validated(normed, found.plan, images, tmp_path)
    same(found.found.score, output)
    assert held(found.target, output)
    _, tensors = site_tensors(normed, lp.calibrate(normed, images), policy)
    table = FormatTable(tensors, images.count, methods=methods, dialect=dialect)
    for site, width in found.found.widths.items():
        assert found.plan.format_of(site.layer, site.role) == table(site, width)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_kind_alone_and_the_other_in_full_precision_or_at_its_width(branches, data, tmp_path, strategy):
    images, target = data(branches), Target("sqnr_db", 12)
    bits = [None, 9] if strategy == "greedy" else [9, None]
    for only, other, other_bits in zip(("weights", "output"), ("output", "weights"), bits, strict=True):
        scope = lp.Scope(strategy=strategy, only=only, other_bits=other_bits, highest=12)
        found = lp.search_widths(branches, images, scope=scope, target=target)
        assert set(widths(found.plan, other).values()) == (set() if other_bits is None else {9})
        assert set(widths(found.plan, only)) == set(WEIGHTS if only == "weights" else OUTPUTS)
        (folder := tmp_path / only).mkdir()
        same(found.found.score, validated(branches, found.plan, images, folder)[0])


@pytest.mark.parametrize(
    "bits",
    [
        {"weights": 2 * 861},
        {"weights": 5 * 861 - 1},
        {"output": 4 * 556 + 11},
        {"output": 3000, "weights": 9000},
        {"weights": 10**9},
    ],
    ids=str,
)
def test_budgets_are_kept_to_the_bit(branches, data, tmp_path, bits):
    found = lp.search_widths(branches, data(branches), scope=lp.Scope(strategy="budget", budgets=bits))
    for kind, sizes in (("weights", WEIGHTS), ("output", OUTPUTS)):
        given = widths(found.plan, kind)
        if kind not in bits:
            assert given == {}
            continue
        used = sum(sizes[layer] * width for layer, width in given.items())
        assert given.keys() == sizes.keys()
        assert used <= bits[kind]
        assert found.found.met is None
        printed = {"weights": found.weight_bits, "output": found.activation_bits}[kind]
        assert printed == used / sum(sizes.values())
    same(found.found.score, validated(branches, found.plan, data(branches), tmp_path)[0])


def test_a_budget_with_a_target_and_the_other_kind_at_its_width(branches, data):
    scope = lp.Scope("budget", {"weights": 8 * 861}, other_bits=7)
    found = lp.search_widths(branches, data(branches), target=Target("sqnr_db", 10), scope=scope)
    assert found.found.met
    assert set(widths(found.plan, "output").values()) == {7}
    with pytest.raises(TargetNotReached, match=r"SQNR, dB >= 90, cannot be reached within the budget: the best of 1 "):
        lp.search_widths(branches, data(branches), target=Target("sqnr_db", 90), scope=scope)


class Stopped:
    """A progress function that interrupts after so many calls."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, done, total):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("strategy", "calls"), [("greedy", 17), ("ristretto", 17), ("budget", 1)])
def test_an_interrupted_search_goes_on_and_runs_only_what_is_missing(branches, data, tmp_path, strategy, calls):
    budgets = {"weights": 7 * 861, "output": 7 * 556} if strategy == "budget" else {}
    how = {"scope": lp.Scope(strategy, budgets), "target": Target("sqnr_db", 9)}
    whole = lp.search_widths(branches, data(branches), measure=lp.Measure(record=tmp_path / "whole.jsonl"), **how)
    if strategy == "ristretto":
        calls = min(calls, whole.run + whole.reused - 1)
    record = tmp_path / "t.jsonl"
    with pytest.raises(KeyboardInterrupt):
        lp.search_widths(branches, data(branches), measure=lp.Measure(record=record), progress=Stopped(calls), **how)
    written = [json.loads(line) for line in record.read_text().splitlines()[1:]]
    done = sum(line["engine"] != "baseline" for line in written)
    assert 0 < done <= calls < whole.run + whole.reused
    with record.open("a") as file:  # a power cut: the last line has no end
        file.write('{"engine": "num')
    again = lp.search_widths(branches, data(branches), measure=lp.Measure(record=record), **how)
    assert again.run == whole.run - done
    assert again.plan.to_yaml() == whole.plan.to_yaml()
    assert without_counts(again) == without_counts(whole)
    assert record.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    # And once more: nothing is left to run.
    last = lp.search_widths(branches, data(branches), measure=lp.Measure(record=record), **how)
    assert last.run == 0
    assert without_counts(last) == without_counts(whole)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_search_gives_the_same_bytes(normed, data, strategy):
    texts = set()
    for _ in range(2):
        found = lp.search_widths(
            normed, data(normed), scope=lp.Scope(strategy=strategy), target=Target("agreement", 0.8)
        )
        texts.add((found.plan.to_yaml(), json.dumps(found.to_json())))
    assert len(texts) == 1


def test_statistics_of_calibrate_give_the_same_as_none(branches, data):
    images, target = data(branches), Target("sqnr_db", 11)
    stats = lp.calibrate(branches, images)
    found = [lp.search_widths(branches, images, target=target, stats=given) for given in (None, stats)]
    assert found[0].to_json() == found[1].to_json()
    assert found[0].plan.to_yaml() == found[1].plan.to_yaml()


def test_folding_and_placement_are_those_of_the_statistics(normed, data, tmp_path):
    images = data(normed)
    stats = lp.calibrate(normed, images, policy=lp.Policy(fold_bn=False, act_placement="after-relu"))
    found = lp.search_widths(normed, images, target=Target("sqnr_db", 11), stats=stats)
    assert (found.plan.policy.fold_bn, found.plan.policy.act_placement) == (False, "after-relu")
    same(found.found.score, validated(normed, found.plan, images, tmp_path)[0])


def worst(full, low, labels):
    """Minus the largest error of the output."""
    return -float(np.abs(full["prob"] - low["prob"]).max())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_metric_of_the_users_can_be_the_target(branches, data, tmp_path, strategy):
    images = data(branches)
    found = lp.search_widths(
        branches,
        images,
        scope=lp.Scope(strategy=strategy),
        measure=lp.Measure(metric=worst),
        target=Target("metric_loss", 0.0625),
    )
    _, metric = validated(branches, found.plan, images, tmp_path, metric=worst)
    assert -0.0625 <= metric == found.found.score.metric < 0
    assert found.baseline.metric == 0


def test_another_output_can_decide(branches, data, tmp_path):
    images = unlabelled(branches, data)
    with pytest.warns(LpcaffeWarning, match="^aux does not depend on .*, which the search leaves in full precision"):
        found = lp.search_widths(branches, images, measure=lp.Measure(output="aux"), target=Target("sqnr_db", 14))
    output, _ = validated(branches, found.plan, images, tmp_path, blob="aux")
    same(found.found.score, output)
    assert held(found.target, output)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_target_out_of_reach_says_how_close_the_most_bits_came(branches, data, tmp_path, strategy):
    images = data(branches)
    stats = lp.calibrate(branches, images)
    plan = lp.allocate(branches, stats, bits=5, method="mse")
    error = validated(branches, plan, images, tmp_path)[0].error
    came = f"{10 * math.log10(error.signal / error.noise):.4g}"
    with pytest.raises(TargetNotReached) as caught:
        lp.search_widths(
            branches, images, scope=lp.Scope(strategy=strategy, highest=5), target=Target("sqnr_db", 70), stats=stats
        )
    assert str(caught.value) == (
        f"the target, SQNR, dB >= 70, cannot be reached with at most 5 bits: the best of 1 trial has {came}; "
        "relax the target, or allow more bits"
    )


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_curve_has_whole_assignments_only_and_what_was_found_is_on_it(branches, data, strategy):
    target = Target("sqnr_db", 8)
    found = lp.search_widths(branches, data(branches), scope=lp.Scope(strategy=strategy), target=target)
    report = found.to_json()
    assert report["found"] in report["curve"]
    assert report["found"]["met"]
    assert len(report["curve"]) == len(found.points) <= report["trials"]["run"] + report["trials"]["reused"]
    for point, row in zip(found.points, report["curve"], strict=True):
        used = dict.fromkeys(("weights", "output"), 0)
        for site, width in point.widths.items():
            used[site.role] += (WEIGHTS if site.role == "weights" else OUTPUTS)[site.layer] * width
        assert (row["weight_bits"], row["activation_bits"]) == (used["weights"] / 861, used["output"] / 556)
        assert row["met"] == (row["sqnr_db"] >= 8)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("width", [2, 9, 16])
def test_one_width_is_no_choice(branches, data, width, strategy):
    scope, policy = lp.Scope(strategy, lowest=width, highest=width), lp.Policy(dialect="plain")
    found = lp.search_widths(branches, data(branches), target=Target("agreement", 0), scope=scope, policy=policy)
    stats = lp.calibrate(branches, data(branches))
    plan = lp.allocate(branches, stats, policy=policy, bits=width, method="mse")
    assert found.plan.layers == {**plan.layers, "aux": lp.LayerPlan("InnerProduct", None)}


ONE = """name: "one"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "only" type: "InnerProduct" bottom: "data" top: "only" inner_product_param { num_output: 5 } }
layer { name: "prob" type: "Softmax" bottom: "only" top: "prob" }
"""
TWO = ONE.replace(
    'layer { name: "prob"',
    """layer { name: "relu" type: "ReLU" bottom: "only" top: "only" }
layer { name: "next" type: "InnerProduct" bottom: "only" top: "next" inner_product_param { num_output: 4 } }
layer { name: "prob\"""",
).replace('bottom: "only" top: "prob"', 'bottom: "next" top: "prob"')


def vectors(net):
    return lp.images(np.random.default_rng(8).normal(size=(11, 6)).astype(np.float32), net)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_network_of_one_learned_layer_has_weights_only(make_net, tmp_path, strategy):
    net = make_net(ONE)
    found = lp.search_widths(net, vectors(net), scope=lp.Scope(strategy=strategy), target=Target("sqnr_db", 30))
    assert widths(found.plan, "output") == {}
    assert found.activation_bits is None
    output, _ = validated(net, found.plan, vectors(net), tmp_path)
    same(found.found.score, output)
    assert held(found.target, output)
    with pytest.raises(PlanError, match="no layer has anything to give a width to"):
        lp.search_widths(
            net, vectors(net), scope=lp.Scope(strategy=strategy, only="output"), target=Target("sqnr_db", 30)
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("keep_bias", [False, True])
@pytest.mark.parametrize("target", [Target("sqnr_db", 60), Target("agreement", 1)], ids=str)
def test_weights_of_zero_and_constant_outputs_need_the_fewest_bits(make_net, tmp_path, target, keep_bias, strategy):
    def edit(weights):
        for own in weights.values():
            own[0][:] = 0
            # Outputs are the same for all images: 0, or a bias that two bits hold.
            own[1][:] = 0.5 if keep_bias else 0

    net = make_net(TWO, edit)
    found = lp.search_widths(net, vectors(net), scope=lp.Scope(strategy=strategy), target=target)
    assert widths(found.plan, "weights") == {"only": 2, "next": 2}
    assert widths(found.plan, "output") == {"only": 2}
    assert found.found.score.noise == 0
    same(found.found.score, validated(net, found.plan, vectors(net), tmp_path)[0])
    spread = lp.search_widths(
        net, vectors(net), scope=lp.Scope(strategy="budget", budgets={"weights": 4 * 50, "output": 4 * 5})
    )
    assert spread.found.score.noise == 0
    json.dumps(spread.to_json(), allow_nan=False)


def test_a_report_holds_no_nan_and_no_infinity(branches, data):
    found = lp.search_widths(branches, data(branches), scope=lp.Scope(highest=3), target=Target("agreement", 0))
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"strategy": "best"}, "there is no search strategy 'best'"),
        ({"strategy": "budget"}, "budgets and strategy budget need each other, got strategy budget and no budget"),
        ({"budgets": {"weights": 9999}}, "need each other, got strategy greedy and a budget"),
        ({"strategy": "budget", "budgets": {"bias": 9}}, "expected budgets for weights or output, got 'bias'"),
        (
            {"strategy": "budget", "budgets": {"weights": 9999}, "only": "output"},
            "only output is searched, and there is a budget for weights",
        ),
        ({"only": "bias"}, "expected only: weights or output"),
        ({"lowest": 1}, "got 1 and 16"),
        ({"highest": 26}, "got 2 and 26"),
        ({"lowest": 9, "highest": 8}, "got 9 and 8"),
        ({"other_bits": 8}, "there is no other kind"),
        ({"only": "weights", "other_bits": 1}, "other_bits: expected 2 to 25 bits, got 1"),
        ({"only": "weights", "other_bits": 26}, "other_bits: expected 2 to 25 bits, got 26"),
    ],
    ids=str,
)
def test_a_scope_that_makes_no_sense_is_an_error_of_one_line(how, text):
    with pytest.raises(PlanError, match=text) as caught:
        lp.Scope(**how)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"target": None}, "strategy greedy needs a target"),
        ({"scope": lp.Scope("budget", {"weights": 1721})}, r"1,721 bits are less than 2 for each of the 861 "),
        ({"scope": lp.Scope("budget", {"weights": -1})}, r"-1 bits are less than 2"),
        ({"methods": lp.Methods("best", "mse")}, "there is no allocation method 'best'"),
        ({"measure": lp.Measure(metric="nowhere:f")}, "there is no module 'nowhere'"),
        ({"measure": lp.Measure(output="nope")}, "the network has no such blob"),
        ({"target": Target("top1_loss", 1)}, "the target needs labels, and the data has none"),
        ({"target": Target("top5_loss", 1)}, "the target needs labels, and the data has none"),
        ({"target": Target("metric_loss", 1)}, "the target needs a metric"),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_said_in_one_line(branches, data, how, text):
    images = unlabelled(branches, data)
    with pytest.raises((PlanError, DataError), match=text) as caught:
        lp.search_widths(branches, images, **{"target": Target("sqnr_db", 9), **how})
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, TargetNotReached)


@pytest.mark.parametrize(
    ("target", "measure", "text"),
    [
        (Target("top1_loss", 1), {"output": "sum"}, "the target needs top1"),
        (Target("metric_loss", 1), {"metric": lambda full, low, labels: "high"}, "returned str, expected a number"),
        (Target("metric_loss", 1), {"metric": lambda full, low, labels: math.nan}, "returned nan, expected a finite"),
    ],
    ids=["no labels", "a word", "nan"],
)
def test_what_the_target_needs_and_is_not_there_is_said_before_calibrating(
    branches, data, monkeypatch, target, measure, text
):
    monkeypatch.setattr(module, "calibrate", None)
    with pytest.raises(DataError, match=text):
        lp.search_widths(branches, data(branches), target=target, measure=lp.Measure(**measure))


@pytest.mark.parametrize(
    ("measure", "bound", "text"),
    [
        ("speed", 1, "there is no measure 'speed'"),
        ("agreement", 1.01, "between 0 and 1, got 1.01"),
        ("agreement", -0.5, "between 0 and 1"),
        ("top1_loss", -0.1, "expected a loss of 0 or more, got -0.1"),
        ("metric_loss", -1, "expected a loss of 0 or more"),
        *(
            (measure, bound, "expected a finite number")
            for measure in ("sqnr_db", "top5_loss")
            for bound in (math.nan,)
        ),
        ("sqnr_db", math.inf, "expected a finite number, got inf"),
        ("agreement", math.nan, "expected a finite number, got nan"),
    ],
)
def test_a_target_that_makes_no_sense_is_an_error(measure, bound, text):
    with pytest.raises(PlanError, match=text):
        Target(measure, bound)


def test_a_loss_in_points_is_counted_in_images():
    """50 of 10,000 images are 0.5 points, 51 are more; an image gained is a loss below 0."""
    full = module.Score(10_000, 1.0, 0.0, 1.0, top1=0.9173)
    for lost, met in ((50, True), (51, False), (-7, True)):
        low = module.Score(10_000, 1.0, 0.1, 1.0, top1=(9173 - lost) / 10_000)
        assert Target("top1_loss", 0.5).met(low, full) == met
        assert Target("top1_loss", 0.5).value(low, full) == lost / 100


def test_statistics_of_another_network_are_refused(branches, normed, data):
    # Both fixtures write to one folder, so the first network is loaded by now.
    stats = lp.calibrate(normed, data(normed))
    with pytest.raises(DataError, match='statistics are of "normed"'):
        lp.search_widths(branches, data(branches), target=Target("sqnr_db", 9), stats=stats)


def test_the_record_of_a_search_with_another_seed_is_refused(branches, data, tmp_path):
    how = {"target": Target("sqnr_db", 3), "measure": lp.Measure(record=tmp_path / "t.jsonl")}
    one, other = (lp.Policy(rounding="stochastic", seed=seed) for seed in (1, 2))
    lp.search_widths(branches, data(branches), policy=one, **how)
    before = Path(tmp_path / "t.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"of other work: its seed is 1, here it is 2"):
        lp.search_widths(branches, data(branches), policy=other, **how)
    assert Path(tmp_path / "t.jsonl").read_bytes() == before
