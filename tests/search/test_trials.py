"""Trials against conversions that were written, loaded and validated; sharing against computing anew."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.errors import DataError, FormatError, NetError, PlanError, WeightsError
from lpcaffe.net import ArrayBlob
from lpcaffe.quant.plan import BitPlan
from lpcaffe.quant.sites import Site
from lpcaffe.search import trials as module
from lpcaffe.search.trials import Trials

IMAGES_AT_ONCE = 64
FOLDED = lp.Policy()


def random_formats(sites, rng, share=0.8):
    """Formats of some of the sites, of 2 to 6 bits; those of weights may have no bit before the point."""
    chosen = {}
    for site in sites:
        width, before = int(rng.integers(2, 7)), int(rng.integers(1, 3))
        if rng.random() < share:
            before -= 2 * (site.role == "weights")
            chosen[site] = lp.QFormat(before, width - before)
    return chosen


def plan_of(net, formats, policy=FOLDED):
    layers = {}
    for site, fmt in formats.items():
        old = layers.get(site.layer, lp.LayerPlan(site.type))
        layers[site.layer] = dataclasses.replace(old, **{site.role: fmt})
    return BitPlan(layers, policy, net.name)


def validated(net, formats, data, folder, policy):
    """The figures of the deciding output as convert and validate give them."""
    plan = plan_of(net, formats, policy)
    low = lp.convert(net, plan, folder).net
    output = lp.validate(net, low, data, plan=plan).classifier
    top1, top5 = (None if output.accuracy(k) is None else output.accuracy(k)[1] for k in (1, 5))
    return output.images, output.error.signal, output.error.noise, output.agreement, top1, top5


def figures(score):
    return score.images, score.signal, score.noise, score.agreement, score.top1, score.top5


NETS = ["branches", "normed", "normed, BatchNorm kept"]
HOW = [{}, {"round_bias": True}, {"act_placement": "after-relu"}, {"coverage": "all"}]
WAYS = list(itertools.product(["adaption", "plain"], ["deterministic", "stochastic"]))


@pytest.mark.parametrize(
    ("name", "how", "dialect", "rounding"),
    # Each network in all four ways, each `how` in three.
    [(name, how, *WAYS[(i + k) % 4]) for k, name in enumerate(NETS) for i, how in enumerate(HOW)],
    ids=str,
)
def test_a_trial_is_bit_for_bit_what_convert_and_validate_say(
    request, tmp_path, data, searchable, name, how, dialect, rounding
):
    net = request.getfixturevalue(name.split(",")[0])
    policy = lp.Policy(dialect=dialect, fold_bn="kept" not in name, rounding=rounding, seed=5, **how)
    images = data(net)
    trials = Trials(net, images, policy=policy)
    every = searchable(net, policy) if policy.coverage == "learned" else [s for s in trials.sites if s.covered]
    rng = np.random.default_rng(11)
    for number in range(2):
        formats = random_formats(every, rng)
        expected = validated(net, formats, images, tmp_path / f"out{number}", policy)
        score = trials(formats)
        assert figures(score) == expected
        assert score.noise > 0


def test_the_baseline_has_no_noise_and_the_networks_own_accuracy(branches, data):
    images = data(branches)
    trials = Trials(branches, images)
    x = {blob: np.concatenate([batch[blob] for batch in images.batches(8)]) for blob in branches.inputs}
    prob = lp.run(branches, x, engine="numpy")["prob"]
    order = np.argsort(-prob, axis=1, kind="stable")
    hits = order == images.labels[:, None]
    assert trials.output == "prob"
    assert trials.baseline.noise == 0
    assert trials.baseline.sqnr_db is None
    assert trials.baseline.agreement == 1
    assert trials.baseline.top1 == hits[:, :1].sum() / len(prob)
    assert trials.baseline.top5 == hits[:, :5].sum() / len(prob) < 1


def test_a_score_is_what_its_definition_says(branches, data, searchable, tmp_path):
    images, formats = data(branches), random_formats(searchable(branches), np.random.default_rng(0))
    low = lp.convert(branches, plan_of(branches, formats), tmp_path / "out").net
    x = {blob: np.concatenate([batch[blob] for batch in images.batches(8)]) for blob in branches.inputs}
    full, got = (lp.run(net, x, engine="numpy")["last"].astype(np.float64) for net in (branches, low))
    score = Trials(branches, images, measure=lp.Measure(output="last"))(formats)
    # The sums here are over all images at once, there batch by batch: the last bits of both sums and products differ.
    assert score.signal == pytest.approx(np.sum(full**2), rel=1e-6)
    assert score.noise == pytest.approx(np.sum((full - got) ** 2), rel=1e-4)
    assert score.sqnr_db == pytest.approx(10 * np.log10(np.sum(full**2) / np.sum((full - got) ** 2)), abs=1e-3)
    assert score.agreement == np.mean(full.argmax(1) == got.argmax(1)) < 1
    assert score.top1 == np.mean(got.argmax(1) == images.labels)


@pytest.mark.parametrize(
    ("name", "memory"),
    [("branches", 0), ("branches", 512 << 20), ("branches", 20_000), ("normed, BatchNorm kept", 512 << 20)],
)
def test_sharing_changes_nothing(request, data, searchable, name, memory):
    net, kept = request.getfixturevalue(name.split(",")[0]), "kept" in name
    policy = lp.Policy(fold_bn=not kept, rounding="stochastic", seed=2, round_output=True)
    images, every = data(net), searchable(net, policy)
    shared = Trials(net, images, policy=policy, batch=4, memory=memory)
    rng = np.random.default_rng(4)
    current = random_formats(every, rng, share=1)
    for step in range(30):
        # As a search does: a site of the current assignment changes, and sometimes the change stays.
        site = every[int(rng.integers(len(every)))]
        changed = {**current, site: lp.QFormat(1, int(rng.integers(1, 7)))}
        if step % 5 == 4:
            del changed[site]
        fresh = Trials(net, images, policy=policy, batch=4, memory=0)
        assert shared(changed) == fresh(changed)
        if step % 3 == 0:
            current = changed
    assert (shared.layers_saved > 0) == (memory > 0)
    if memory > 1 << 20:
        assert shared.layers_saved > shared.layers_run / 4


def test_states_kept_stay_within_the_memory(branches, data, searchable):
    every, memory = searchable(branches), 30_000
    trials = Trials(branches, data(branches), memory=memory)
    rng, fed = np.random.default_rng(4), {id(x) for batch in trials._states.start for x in batch.values()}
    most = 0
    for _ in range(20):
        trials(random_formats(every, rng, share=0.5))
        for site in every[::3]:
            trials.isolated(site, [lp.QFormat(2, 3)])
            arrays = {id(x): x for state in trials._states._held.values() for batch in state for x in batch.values()}
            most = max(most, sum(x.nbytes for key, x in arrays.items() if key not in fed))
    assert 0 < most <= memory


def test_a_trial_starts_behind_what_it_has_in_common_with_an_earlier_one(branches, data, searchable, monkeypatch):
    ran = []
    original = module.run_layers

    def counted(ops, layers, *rest, **more):
        ran.extend(layer.name for layer in layers)
        original(ops, layers, *rest, **more)

    images = data(branches)
    trials = Trials(branches, images, batch=IMAGES_AT_ONCE)
    assert trials.baseline.images == len(images.labels)
    monkeypatch.setattr(module, "run_layers", counted)
    every = {site: lp.QFormat(2, 4) for site in searchable(branches)}
    last = next(site for site in trials.sites if site.key == ("last", "weights"))
    counts = []
    for bits in (4, 3, 2, 5):
        trials({**every, last: lp.QFormat(2, bits)})
        counts.append(list(ran))
        ran.clear()
    names = [layer.name for layer in branches.layers if layer.name not in ("aux", "in")]
    whole = [name for name in counts[0] if name != "in"]
    assert whole == names  # aux is computed by no one: nothing wanted depends on it
    assert counts[1] == counts[2] == counts[3] == ["last", "prob"]
    assert trials.layers_run == sum(map(len, counts))
    assert trials.layers_saved == 4 * len(counts[0]) - trials.layers_run


def test_isolated_computes_each_layer_before_the_site_once(normed, data, searchable, monkeypatch):
    ran = []
    original = module.run_layers

    def counted(ops, layers, *rest, **more):
        ran.extend(layer.name for layer in layers if layer.type != "Input")
        original(ops, layers, *rest, **more)

    policy = lp.Policy(fold_bn=False)
    trials = Trials(normed, data(normed), policy=policy, batch=IMAGES_AT_ONCE)
    assert trials.engine == "onnxruntime"
    assert trials.baseline.noise == 0
    monkeypatch.setattr(module, "run_layers", counted)
    for site in searchable(normed, policy):
        trials.isolated(site, [lp.QFormat(2, bits) for bits in range(3)])
    own = {"c1": ["c1", "n1", "s1"], "c2": ["c2", "n2"], "short": ["short"], "ip": ["ip"]}
    expected = []
    before = []
    for name, layers in own.items():
        index = [layer.name for layer in normed.layers].index(name)
        to = [layer.name for layer in normed.layers[1:index]]
        expected += [other for other in to if other not in before]  # advanced from the site before
        before = to + layers
        expected += 3 * layers  # the weights at three formats
        expected += layers  # up to the output, which is rounded at three formats
    assert ran == expected


@pytest.mark.parametrize(
    ("name", "how", "memory"),
    [
        ("branches", {}, 0),
        ("branches", {"coverage": "all"}, 512 << 20),
        ("normed", {"act_placement": "after-relu"}, 512 << 20),
        ("normed", {"coverage": "all"}, 0),
        ("normed, BatchNorm kept", {"coverage": "all"}, 512 << 20),
        ("normed, BatchNorm kept", {"act_placement": "after-relu"}, 0),
    ],
    ids=str,
)
def test_isolated_on_numpy_is_the_trial_of_that_site(request, data, searchable, name, memory, how):
    net = request.getfixturevalue(name.split(",")[0])
    policy = lp.Policy(rounding="stochastic", seed=9, round_bias=True, fold_bn="kept" not in name, **how)
    images, formats = data(net), [lp.QFormat(2, bits) for bits in (0, 4, 2, 4)]
    isolated = Trials(net, images, policy=policy, measure=lp.Measure(engine="numpy"), memory=memory)
    whole = Trials(net, images, policy=policy, memory=memory)
    every = searchable(net, policy) if policy.coverage == "learned" else [s for s in whole.sites if s.covered]
    for site in every:
        assert isolated.isolated(site, formats) == [whole({site: fmt}) for fmt in formats]
    assert (isolated.run, isolated.reused) == (3 * len(every), len(every))


BIASED = """name: "biased"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "relu" type: "ReLU" bottom: "data" top: "relu" }
layer { name: "bias" type: "Bias" bottom: "relu" top: "bias" }
layer { name: "ip" type: "InnerProduct" bottom: "bias" top: "ip" inner_product_param { num_output: 7 } }
"""


@pytest.mark.parametrize("engine", ["numpy", "onnxruntime"])
def test_isolated_rounds_a_bias_whose_format_follows_from_the_site(make_net, engine):
    net, policy = make_net(BIASED), lp.Policy(coverage="all")
    images = lp.images(np.random.default_rng(0).normal(size=(6, 3, 5, 4)).astype(np.float32), net)
    source = next(site for site in Trials(net, images, policy=policy).sites if site.key == ("data", "output"))
    (alone,) = Trials(net, images, policy=policy, measure=lp.Measure(engine=engine)).isolated(
        source, [lp.QFormat(3, 2)]
    )
    whole = Trials(net, images, policy=policy)({source: lp.QFormat(3, 2)})
    assert abs(alone.noise**0.5 - whole.noise**0.5) <= (0 if engine == "numpy" else 1e-6 * whole.signal**0.5)


@pytest.mark.parametrize("name", NETS)
def test_isolated_on_onnxruntime_is_near_numpy(request, data, searchable, name):
    net, policy = request.getfixturevalue(name.split(",")[0]), lp.Policy(fold_bn="kept" not in name)
    images, formats = data(net), [lp.QFormat(2, bits) for bits in (0, 4, 2)]
    ort, numpy = (
        Trials(net, images, policy=policy, measure=lp.Measure(engine=engine)) for engine in ("onnxruntime", "numpy")
    )
    for site in searchable(net, policy):
        for got, true in zip(ort.isolated(site, formats), numpy.isolated(site, formats), strict=True):
            assert got.signal == true.signal
            # onnxruntime adds in another order: its float32 sums differ by some 1e-7 of the output.
            assert abs(got.noise**0.5 - true.noise**0.5) <= 1e-6 * true.signal**0.5
            assert got.agreement == true.agreement


def test_a_site_on_which_nothing_depends_costs_nothing(branches, data):
    trials = Trials(branches, data(branches))
    aux = next(site for site in trials.sites if site.key == ("aux", "weights"))
    assert trials({aux: lp.QFormat(1, 1)}) == trials.baseline
    assert trials.isolated(aux, [lp.QFormat(1, 1), lp.QFormat(1, 2)]) == [trials.baseline] * 2


def test_another_output_decides_when_it_is_named(branches, data, searchable, tmp_path):
    images, formats = data(branches), random_formats(searchable(branches), np.random.default_rng(0))
    with pytest.raises(DataError, match='blob "aux": expected labels of 0 to 2'):
        _ = Trials(branches, images, measure=lp.Measure(output="aux")).baseline
    images = images.with_labels(images.labels % 3)
    trials = Trials(branches, images, measure=lp.Measure(output="aux"))
    plan = plan_of(branches, formats)
    report = lp.validate(branches, lp.convert(branches, plan, tmp_path / "out").net, images, plan=plan)
    (aux,) = [output for output in report.comparison.outputs if output.blob == "aux"]
    score = trials(formats)
    assert (score.signal, score.noise, score.agreement) == (aux.error.signal, aux.error.noise, aux.agreement)


def test_the_metric_sees_all_outputs_of_all_images(branches, data, searchable):
    seen = []

    def metric(full, low, labels):
        seen.append((full, low, labels))
        return -float(np.abs(full["aux"] - low["aux"]).max())

    images, formats = data(branches), {site: lp.QFormat(2, 2) for site in searchable(branches)}
    score = Trials(branches, images, measure=lp.Measure(metric=metric))(formats)
    ((full, low, labels),) = seen
    assert {blob: x.shape for blob, x in full.items()} == {"aux": (19, 3), "prob": (19, 7)}
    assert low.keys() == full.keys()
    assert labels is images.labels
    assert score.metric == -np.abs(full["aux"] - low["aux"]).max() < 0
    assert figures(score) == figures(Trials(branches, images)(formats))


def test_an_interrupted_search_goes_on_where_it_stopped(branches, data, searchable, tmp_path, monkeypatch):
    images, path = data(branches), tmp_path / "trials.jsonl"
    rng = np.random.default_rng(2)
    formats = [random_formats(searchable(branches), rng) for _ in range(3)]
    site = searchable(branches)[2]
    first = Trials(branches, images, measure=lp.Measure(record=path))
    scores = [first.baseline, *map(first, formats), *first.isolated(site, [lp.QFormat(1, 2), lp.QFormat(1, 3)])]
    assert len(path.read_text().splitlines()) == 1 + len(scores)
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_layers", None)  # nothing may run
        again = Trials(branches, images, measure=lp.Measure(record=path))
        found = [again.baseline, *map(again, formats), *again.isolated(site, [lp.QFormat(1, 2), lp.QFormat(1, 3)])]
    assert found == scores
    assert (again.run, again.reused) == (0, 5)
    new = random_formats(searchable(branches), rng)
    assert again(new) == Trials(branches, images)(new)
    assert again.run == 1


@pytest.mark.parametrize("left", [1, 20, -1])
def test_a_line_cut_off_is_dropped(branches, data, searchable, tmp_path, left):
    images, path = data(branches), tmp_path / "trials.jsonl"
    one, other = ({site: lp.QFormat(2, bits) for site in searchable(branches)} for bits in (3, 4))
    first = Trials(branches, images, measure=lp.Measure(record=path))
    scores = first(one), first(other)
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + last[:left])
    again = Trials(branches, images, measure=lp.Measure(record=path))
    assert (again(one), again(other)) == scores
    assert (again.run, again.reused) == (1, 1)
    assert path.read_bytes() == b"".join([*lines, last])
    # So is a header; all there was to lose is lost.
    path.write_bytes(lines[0][:left])
    assert Trials(branches, images, measure=lp.Measure(record=path))(one) == scores[0]
    assert path.read_bytes().splitlines()[0] == lines[0].strip()


@pytest.mark.parametrize(
    ("key", "policy", "measure"),
    [
        ("seed", lp.Policy(seed=1), {}),
        ("rounding", lp.Policy(rounding="stochastic"), {}),
        ("round_bias", lp.Policy(round_bias=True), {}),
        ("act_placement", lp.Policy(act_placement="after-relu"), {}),
        ("coverage", lp.Policy(coverage="all"), {}),
        ("fold_bn", lp.Policy(fold_bn=False), {}),
        ("output", lp.Policy(), {"output": "last"}),
        ("metric", lp.Policy(), {"metric": lambda full, low, labels: 0.0}),
    ],
)
def test_trials_of_other_work_are_refused(branches, data, tmp_path, key, policy, measure):
    path = tmp_path / "trials.jsonl"
    Trials(branches, data(branches), measure=lp.Measure(record=path))
    before = path.read_bytes()
    with pytest.raises(DataError, match=f"of other work: its {key} is"):
        Trials(branches, data(branches), policy=policy, measure=lp.Measure(record=path, **measure))
    assert path.read_bytes() == before


def test_trials_of_other_data_labels_or_weights_are_refused(branches, data, tmp_path):
    path, images = tmp_path / "trials.jsonl", data(branches)
    Trials(branches, images, measure=lp.Measure(record=path))
    for net, own, key in (
        (branches, data(branches, seed=4), "data"),
        (branches, images.with_labels(np.roll(images.labels, 1)), "data"),
        (other_weights(branches), images, "weights"),
    ):
        with pytest.raises(DataError, match=f"of other work: its {key} is"):
            Trials(net, own, measure=lp.Measure(record=path))
    assert Trials(branches, data(branches), measure=lp.Measure(record=path)).run == 0


def other_weights(net):
    changed = net.weights["c3"][0].array().copy()
    changed[0, 0, 0, 0] += 1
    return net.replace(net.message, {**net.weights, "c3": [ArrayBlob(changed)]})


def test_a_file_that_is_no_record_is_left_alone(branches, data, tmp_path):
    for content in (b"hello", b"hello\n", b"\xff\xfe\n", b'{"lpcaffe": 1}\n', b"[]\n"):
        path = tmp_path / "notes.txt"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"notes\.txt: is not a record of trials"):
            Trials(branches, data(branches), measure=lp.Measure(record=path))
        assert path.read_bytes() == content


def test_a_damaged_line_is_named(branches, data, searchable, tmp_path):
    path = tmp_path / "trials.jsonl"
    first = Trials(branches, data(branches), measure=lp.Measure(record=path))
    first({searchable(branches)[0]: lp.QFormat(1, 1)})
    first({searchable(branches)[0]: lp.QFormat(1, 2)})
    lines = path.read_text().splitlines()
    for wrong in ("{", "[]", "{}", json.dumps({**json.loads(lines[1]), "score": {"images": 1}})):
        path.write_text("\n".join([lines[0], wrong, lines[2]]) + "\n")
        with pytest.raises(DataError, match=r"trials\.jsonl:2: expected the line of a trial"):
            Trials(branches, data(branches), measure=lp.Measure(record=path))


def test_wrong_requests_are_errors_of_one_line(branches, data, make_net, tmp_path):
    images = data(branches)
    trials = Trials(branches, images)
    conv = next(site for site in trials.sites if site.key == ("c1", "output"))
    for site, fmt, error, text in (
        (
            Site("nope", "weights", ""),
            lp.QFormat(1, 1),
            PlanError,
            'layer "nope": the network has no such site: weights',
        ),
        (Site("r1", "output", "ReLU"), lp.QFormat(1, 1), PlanError, 'layer "r1": the network has no such site: output'),
        (conv, lp.QFormat(1, 25), FormatError, 'layer "c1": Q1.25 has 26 bits'),
    ):
        with pytest.raises(error, match=text):
            trials({site: fmt})
        with pytest.raises(error, match=text):
            trials.isolated(site, [fmt])
    with pytest.raises(DataError, match='blob "nope": the network has no such blob'):
        Trials(branches, images, measure=lp.Measure(output="nope"))
    with pytest.raises(NetError, match="pycaffe runs no trials"):
        Trials(branches, images, measure=lp.Measure(engine="pycaffe"))
    with pytest.raises(PlanError, match="rounding: expected"):
        Trials(branches, images, policy=lp.Policy(rounding="up"))
    with pytest.raises(WeightsError, match="trials need weights"):
        Trials(lp.load_net(tmp_path / "net.prototxt"), images)
    with pytest.raises(DataError, match="expected labels of 0 to 6, got 7"):
        _ = Trials(branches, images.with_labels(np.full(19, 7))).baseline


def test_progress_counts_trials(branches, data, searchable):
    seen = []
    trials = Trials(branches, data(branches), progress=lambda *numbers: seen.append(numbers))
    site = searchable(branches)[0]
    trials({site: lp.QFormat(1, 1)})
    trials.isolated(site, [lp.QFormat(1, 1), lp.QFormat(1, 2)])
    trials({site: lp.QFormat(1, 1)})
    assert seen == [(1, 0), (3, 0), (4, 0)]


CHOOSING = """name: "choosing"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 6 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 3 } }
layer { name: "pick" type: "InnerProduct" bottom: "data" top: "pick" inner_product_param { num_output: 1 } }
layer { name: "sign" type: "Threshold" bottom: "pick" top: "sign" }
layer { name: "few" type: "Filter" bottom: "a" bottom: "sign" top: "few" }
"""


def test_an_output_whose_shape_depends_on_the_values_cannot_decide(make_net):
    def edit(weights):
        weights["pick"] = [np.full((1, 6), 0.5, np.float32), np.zeros(1, np.float32)]

    net, x = make_net(CHOOSING, edit), np.full((5, 6), 0.25, np.float32)
    x[2] = -x[2]
    trials = Trials(net, lp.images(x, net))
    assert trials.engine == "numpy"
    gone = next(site for site in trials.sites if site.key == ("pick", "weights"))
    with pytest.raises(DataError, match=r'blob "few": its shape depends on the values: \(4, 3\).*\(0, 3\)'):
        trials({gone: lp.QFormat(1, 0)})  # its one value is 0: no row is above
    assert trials({gone: lp.QFormat(1, 1)}).noise == 0


def test_weights_that_are_not_finite_are_named(make_net, data, branches):
    def edit(weights):
        weights["c3"][0][1, 2, 0, 1] = np.nan

    net = make_net(Path(branches.path).read_text(), edit)
    with pytest.raises(WeightsError, match=r'layer "c3" blob 0: the value at \[1, 2, 0, 1\] is nan'):
        _ = Trials(net, data(net)).baseline
