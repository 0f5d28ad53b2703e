"""Every rounded weight is checked against the reference: one wrong value anywhere is found."""

import dataclasses

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lpcaffe as lp
from lpcaffe.errors import LpcaffeError, NetError, PlanError, WeightsError
from lpcaffe.formats.schema import NetParameter
from lpcaffe.net import ArrayBlob
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy
from lpcaffe.validation import check_rounding

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 8 } } }\n'
SMALL = f"""name: "small"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_h: 3 kernel_w: 2 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
         inner_product_param {{ num_output: 7 bias_term: false }} }}
"""
NORMED = f"""name: "normed"
{INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
         convolution_param {{ num_output: 5 kernel_size: 3 bias_term: false }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "bn" scale_param {{ bias_term: true }} }}
"""
WIDE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def plan(**policy) -> BitPlan:
    layers = {
        "conv": LayerPlan("Convolution", QFormat(1, 4), QFormat(3, 5)),
        "ip": LayerPlan("InnerProduct", QFormat(1, 7)),
    }
    return BitPlan(layers, policy=Policy(fold_bn=False, **policy))


def with_blob(net, layer, index, values):
    """The net with one blob replaced."""
    blobs = list(net.weights[layer])
    blobs[index] = ArrayBlob(np.asarray(values))
    return net.replace(net.message, {**net.weights, layer: blobs})


def array(net, layer, index):
    return np.array(net.weights[layer][index].array())


@pytest.fixture
def small(make_net):
    return make_net(SMALL)


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
@pytest.mark.parametrize("round_bias", [False, True])
def test_what_we_write_holds(small, tmp_path, dialect, rounding, round_bias):
    own = plan(dialect=dialect, rounding=rounding, round_bias=round_bias, seed=5)
    proof = lp.validate(small, lp.convert(small, own, tmp_path / "out").net, plan=own)
    assert proof.holds
    assert sum(check.count for check in proof.rounding) == 90 + 5 + small.weights["ip"][0].array().size
    assert not any(check.differing or check.changed for check in proof.rounding)


@pytest.mark.parametrize("fold", [True, False])
def test_folded_and_kept_batch_norm_hold(make_net, tmp_path, fold):
    net = make_net(NORMED)
    own = BitPlan({"conv": LayerPlan("Convolution", QFormat(3, 9))}, policy=Policy(fold_bn=fold))
    proof = lp.validate(net, lp.convert(net, own, tmp_path / "out").net)
    assert proof.holds
    assert [check.changed for check in proof.rounding] == [0] * (2 if fold else 1)


PLACES = [("conv", 1, 90), ("ip", 1, 7 * 5 * 7 * 7)]


@WIDE
@given(st.sampled_from(PLACES), st.integers(0), st.sampled_from(["step", "ulp", "nan", "inf"]))
def test_one_wrong_value_anywhere_is_found(make_net, tmp_path_factory, place, position, kind):
    layer, index, size = place
    folder = tmp_path_factory.mktemp("net")
    net = make_net(SMALL, folder=folder / "in")
    low = lp.convert(net, plan(), folder / "out").net
    values = array(low, layer, index)
    assert values.size == size
    at = position % size
    wrong = {"step": values.flat[at] + 2**-4, "ulp": np.nextafter(values.flat[at], np.float32(9)), "nan": np.nan}
    values.flat[at] = wrong.get(kind, np.inf)
    proof = lp.validate(net, with_blob(low, layer, index, values), plan=plan())
    found = [(check.layer, check.blob, check.differing, check.first) for check in proof.rounding if check.differing]
    assert found == [(layer, index, 1, at)]
    said = f'layer "{layer}" blob {index}: 1 of {size} values are not round_fp of the full-precision ones, '
    assert proof.failures == [f"{said}the first at {at}"]


def test_blob_3_counts_only_with_round_bias(small, tmp_path):
    for round_bias in (False, True):
        own = plan(round_bias=round_bias)
        low = lp.convert(small, own, tmp_path / str(round_bias)).net
        filler = with_blob(low, "conv", 3, np.full(5, 0.7, np.float32))
        proof = lp.validate(small, filler, plan=own)
        check = next(check for check in proof.rounding if check.blob == 3)
        assert check.differing == 5
        assert (check.counts, proof.holds) == ((True, False) if round_bias else (False, True))


@pytest.mark.parametrize("rounding", ["deterministic", "stochastic"])
@pytest.mark.parametrize("round_bias", [False, True])
def test_values_at_the_limit_of_a_format_with_bd_below_1_are_not_changed(small, tmp_path, rounding, round_bias):
    fmt = QFormat(-1, 6)
    policy = Policy(fold_bn=False, rounding=rounding, seed=5, round_bias=round_bias)
    own = BitPlan({"conv": LayerPlan("Convolution", fmt)}, policy=policy)
    low = lp.convert(small, own, tmp_path / "out").net
    even = array(low, "conv", 0)
    clipped = np.count_nonzero(even != small.weights["conv"][0].array())
    assert clipped > 0
    for known in (own, None):
        proof = lp.validate(small, low, plan=known)
        assert proof.holds
        assert [check.changed for check in proof.rounding] == [0, 0]
    inside = np.flatnonzero(np.abs(even) < fmt.max)[:3]
    even.flat[inside] = 0
    tuned = with_blob(with_blob(low, "conv", 0, even), "conv", 1, lp.round_fp(even, 1, 6, rounding, seed=5))
    assert lp.validate(small, tuned, plan=own).rounding[0].changed == 3


def test_negative_zero_equals_zero(small, tmp_path):
    low = lp.convert(small, plan(), tmp_path / "out").net
    values = array(low, "conv", 1)
    assert np.count_nonzero(values == 0)
    values[values == 0] = -0.0
    assert lp.validate(small, with_blob(low, "conv", 1, values), plan=plan()).holds


def test_files_of_other_writers_are_read_by_value(small, tmp_path):
    """Doubles, unpacked floats, legacy dims, and blobs cut in other places."""
    done = lp.convert(small, plan(), tmp_path / "out")
    model = NetParameter()
    model.ParseFromString((tmp_path / "out" / "lp.caffemodel").read_bytes())
    for layer in model.layer:
        for index, blob in enumerate(layer.blobs):
            if index % 2:
                blob.double_data.extend(blob.data)
                blob.ClearField("data")
            dims = list(blob.shape.dim)
            blob.ClearField("shape")
            blob.num, blob.channels, blob.height, blob.width = [1] * (4 - len(dims)) + dims
    path = tmp_path / "other.caffemodel"
    path.write_bytes(model.SerializeToString())
    low = lp.load(tmp_path / "out" / "lp.prototxt", path)
    assert [blob.legacy for blob in low.weights["ip"]] == [True, True]
    assert low.weights["ip"][1].shape == (1, 1, 7, 245)
    assert lp.validate(small, low, plan=plan()).holds

    @dataclasses.dataclass(frozen=True)
    class Cut(ArrayBlob):
        """Pieces of 7 values."""

        def chunks(self, max_elements):
            return super().chunks(7)

    cut = dict(done.net.weights)
    cut["ip"] = [cut["ip"][0], Cut(cut["ip"][1].array())]
    assert lp.validate(small, done.net.replace(done.net.message, cut), plan=plan()).holds
    wrong = array(done.net, "ip", 1)
    wrong.flat[100] += 1
    cut["ip"][1] = Cut(wrong)
    check = lp.validate(small, done.net.replace(done.net.message, cut), plan=plan()).rounding[-1]
    assert (check.differing, check.first) == (1, 100)


def test_stochastic_weights_need_the_plan_for_their_seed(small, tmp_path):
    own = plan(rounding="stochastic", seed=5)
    low = lp.convert(small, own, tmp_path / "out").net
    assert lp.validate(small, low, plan=own).holds
    proof = lp.validate(small, low, plan=plan(rounding="stochastic", seed=6))
    assert not proof.holds
    assert proof.rounding[0].differing > 10


def test_without_the_plan_either_neighbour_will_do_and_nothing_else(small, tmp_path):
    low = lp.convert(small, plan(rounding="stochastic", seed=5), tmp_path / "out").net
    fmt, even = QFormat(1, 4), array(low, "conv", 0)
    below = np.clip(np.floor(even * 16) / 16, fmt.min, fmt.max)
    above = np.clip(np.ceil(even * 16) / 16, fmt.min, fmt.max)
    on_grid = even.copy()
    on_grid.flat[:20] = below.flat[:20]
    for values in (below, above):
        assert lp.validate(small, with_blob(low, "conv", 1, values)).holds
    for values in (above + fmt.step, below - fmt.step, even):
        assert lp.validate(small, with_blob(low, "conv", 1, values)).rounding[0].differing > 60
    # A weight on the grid has no second neighbour.
    moved = with_blob(
        with_blob(low, "conv", 0, on_grid), "conv", 1, np.where(on_grid == even, below, on_grid + fmt.step)
    )
    assert lp.validate(small, moved).rounding[0].differing >= 15


def test_fine_tuned_weights_are_reported_and_no_failure(small, tmp_path):
    low = lp.convert(small, plan(), tmp_path / "out").net
    even = array(low, "ip", 0)
    even[2, :3] += 0.25
    tuned = with_blob(with_blob(low, "ip", 0, even), "ip", 1, lp.round_fp(even, 1, 7))
    proof = lp.validate(small, tuned, plan=plan())
    assert proof.holds
    assert {check.layer: check.changed for check in proof.rounding} == {"conv": 0, "ip": 3}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"policy": {"rounding": "stochastic"}},
            'layer "conv": rounding: .* has deterministic, the plan has stochastic',
        ),
        ({"policy": {"round_bias": True}}, 'layer "conv": round_bias: .* has False, the plan has True'),
        ({"weights": QFormat(2, 3)}, 'layer "conv": weights: .* has Q1.4, the plan has Q2.3'),
        ({"weights": None}, 'layer "conv": weights: .* has Q1.4, the plan has none'),
        ({"output": QFormat(4, 4)}, 'layer "conv": output: .* has Q3.5, the plan has Q4.4'),
        ({"output": None}, 'layer "conv": output: .* has Q3.5, the plan has none'),
        ({"ip": QFormat(1, 2)}, 'layer "ip": output: .* has no format, the plan has Q1.2'),
        ({"layers": {}}, 'layer "conv": weights: .* has Q1.4, the plan has none'),
        ({"sha256": "0" * 64}, "the plan is for"),
    ],
)
def test_a_plan_that_disagrees_is_refused(small, tmp_path, change, problem):
    low = lp.convert(small, plan(), tmp_path / "out").net
    layers, options = dict(plan().layers), {}
    for what, value in change.items():
        if what in ("weights", "output"):
            layers["conv"] = dataclasses.replace(layers["conv"], **{what: value})
        elif what == "ip":
            layers["ip"] = dataclasses.replace(layers["ip"], output=value)
        elif what == "policy":
            options["policy"] = dataclasses.replace(plan().policy, **value)
        else:
            options[what] = value
    with pytest.raises(PlanError, match=problem):
        lp.validate(small, low, plan=dataclasses.replace(plan(), **({"layers": layers} | options)))


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            INPUT + 'layer { name: "relu" type: "ReLU" bottom: "data" top: "data" }',
            '"conv": the full-precision network',
        ),
        (
            SMALL.replace('"conv"', '"c"'),
            '"conv": the full-precision network has no',
        ),
        (SMALL.replace("num_output: 5", "num_output: 4"), '"conv": expected 72 values, got 90'),
        (
            SMALL.replace("num_output: 5", "num_output: 5 bias_term: false"),
            '"conv": expected 2 blobs, twice as many as the full-precision network has, got 4',
        ),
        (
            f"""{INPUT} layer {{ name: "conv" type: "InnerProduct" bottom: "data" top: "conv"
                inner_product_param {{ num_output: 5 }} }}""",
            '"conv": expected LPInnerProduct, got LPConvolution',
        ),
    ],
)
def test_a_network_that_is_not_the_source_is_refused_without_data_too(small, make_net, tmp_path, source, problem):
    low = lp.convert(small, plan(), tmp_path / "out").net
    other = make_net(source, folder=tmp_path / "other")
    with pytest.raises(LpcaffeError, match=f"layer {problem}"):
        lp.validate(other, low)


def test_outputs_rounded_on_a_layer_that_the_source_lacks_are_refused(small, make_net, tmp_path):
    """A network may have LPActs and no rounded weights at all."""
    own = BitPlan({"conv": LayerPlan("Convolution", None, QFormat(3, 5))})
    low = lp.convert(small, own, tmp_path / "out").net
    assert lp.validate(small, low).holds
    other = make_net(SMALL.replace('name: "conv"', 'name: "other"'), folder=tmp_path / "other")
    with pytest.raises(NetError, match='layer "conv": the full-precision network has no such layer'):
        lp.validate(other, low)


def test_weights_of_which_the_source_has_none_are_refused(small, tmp_path):
    low = lp.convert(small, plan(), tmp_path / "out").net
    bare = small.replace(small.message, {"ip": small.weights["ip"]})
    with pytest.raises(WeightsError, match=r'net\.caffemodel: layer "conv": the weights have no blobs for this layer'):
        lp.validate(bare, low)


def test_the_dialect_of_the_plan_is_that_of_the_network(small, tmp_path):
    adaption, plain = plan(), plan(dialect="plain")
    low = lp.convert(small, adaption, tmp_path / "adaption").net
    rounded = lp.convert(small, plain, tmp_path / "plain").net
    for net, own, other in ((low, adaption, plain), (rounded, plain, adaption)):
        assert lp.validate(small, net, plan=own).holds
        said = f"^dialect: the low-precision network has {own.policy.dialect}, the plan has {other.policy.dialect}$"
        with pytest.raises(PlanError, match=said):
            lp.validate(small, net, plan=other)


@pytest.mark.parametrize("dialect", ["adaption", "plain"])
def test_a_plan_without_formats_leaves_the_network_as_it_is_in_either_dialect(small, tmp_path, dialect):
    own = BitPlan({"conv": LayerPlan("Convolution", None)}, policy=Policy(dialect=dialect, fold_bn=False))
    assert lp.validate(small, lp.convert(small, own, tmp_path / "out").net, plan=own).holds


def test_a_plain_network_needs_its_plan(small, tmp_path):
    own = plan(dialect="plain")
    low = lp.convert(small, own, tmp_path / "out").net
    with pytest.raises(NetError, match=r"no LP layers; give its plan with --plan"):
        lp.validate(small, low)
    wrong = array(low, "ip", 0)
    wrong[3, 4] += 2**-7
    proof = lp.validate(small, with_blob(low, "ip", 0, wrong), plan=own)
    assert [(check.layer, check.blob, check.first) for check in proof.rounding if check.differing] == [
        ("ip", 0, 3 * 245 + 4)
    ]
    moved = with_blob(low, "conv", 1, array(low, "conv", 1) + 1)
    proof = lp.validate(small, moved, plan=own)
    assert proof.holds
    assert [check.changed for check in proof.rounding] == [0, 5, 0]


def test_blobs_of_the_wrong_number_or_size_are_refused(small, tmp_path):
    low = lp.convert(small, plan(), tmp_path / "out").net
    with pytest.raises(WeightsError, match=r'lp\.caffemodel: layer "conv": expected 4 blobs, got 2'):
        lp.validate(small, low.replace(low.message, {**low.weights, "conv": low.weights["conv"][:2]}))
    with pytest.raises(WeightsError, match='layer "ip": expected 2 blobs, got 0'):
        lp.validate(small, low.replace(low.message, {"conv": low.weights["conv"]}))
    with pytest.raises(WeightsError, match='layer "ip": expected 1715 values, got 5'):
        lp.validate(small, with_blob(low, "ip", 1, np.zeros(5, np.float32)))


def test_the_two_networks_must_be_what_they_are_called(small, tmp_path, make_net):
    low = lp.convert(small, plan(), tmp_path / "out").net
    with pytest.raises(NetError, match="expected a full-precision network, got LPConvolution"):
        lp.validate(low, low)
    other = make_net(SMALL.replace('"ip"', '"fc"'), folder=tmp_path / "other")
    with pytest.raises(NetError, match='layer "ip": the full-precision network has no such layer'):
        lp.validate(other, low, plan=None, data=lp.images(np.zeros((1, 3, 9, 8), np.float32), other))
    with pytest.raises(NetError, match='layer "ip": the full-precision network has no such layer'):
        lp.validate(other, low)
    for net, against in ((small.replace(small.message, None), low), (small, low.replace(low.message, None))):
        with pytest.raises(WeightsError, match="validation needs weights"):
            lp.validate(net, against)


def test_rounding_can_be_checked_without_the_source(small, tmp_path):
    low = lp.convert(small, plan(), tmp_path / "out").net
    checks = check_rounding(None, low, None)
    assert [check.changed for check in checks] == [0, 0, 0]
    assert all(check.holds for check in checks)
    with pytest.raises(LpcaffeError):
        check_rounding(None, small, plan())
