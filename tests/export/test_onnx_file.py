"""Exported files: what is in them in each profile, and what any ONNX runtime computes with them."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest

import lpcaffe as lp
from lpcaffe.engines import onnx_model
from lpcaffe.errors import PlanError, WeightsError
from lpcaffe.export import PROFILES
from lpcaffe.net import ArrayBlob

NET = """name: "small"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 9 dim: 7 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "fc" type: "InnerProduct" bottom: "pool" top: "fc" inner_product_param { num_output: 4 } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }
"""


@pytest.fixture
def net(make_net):
    return make_net(NET)


@pytest.fixture
def x():
    return np.random.default_rng(3).integers(-64, 64, (2, 3, 9, 7)).astype(np.float32) / 32


def plan_of(net, weights="Q3.5", output="Q5.3", **policy):
    lines = {
        layer.name: lp.LayerPlan(
            layer.type, lp.QFormat.parse(weights), lp.QFormat.parse(output) if layer.name == "conv" else None
        )
        for layer in net.layers
        if layer.type in ("Convolution", "InnerProduct")
    }
    return lp.BitPlan(lines, policy=lp.Policy(**policy), network=net.name, sha256=net.sha256)


@pytest.fixture
def low(net, tmp_path):
    return lp.convert(net, plan_of(net), tmp_path / "lp").net


def computed(path, feeds):
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def initializers(path):
    model = onnx.load(path)
    return [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_float_folds_batch_norm_and_computes_what_the_network_does(net, x, tmp_path):
    done = lp.export_onnx(net, tmp_path / "m.onnx")
    assert (done.profile, done.inputs, done.outputs) == ("float", {"data": ("N", 3, 9, 7)}, {"prob": ("N", 4)})
    assert operators(done.files[0]) == ["Conv", "Relu", "MaxPool", "Reshape", "MatMul", "Add", "Softmax"]
    onnx.checker.check_model(str(done.files[0]), full_check=True)
    reference = lp.run(net, x, engine="numpy")["prob"]
    np.testing.assert_allclose(computed(done.files[0], {"data": x})["prob"], reference, rtol=0, atol=1e-6)
    three = np.concatenate([x, x[:1]])
    assert computed(done.files[0], {"data": three})["prob"].shape == (3, 4)


def test_tensors_have_the_names_of_blobs(net, tmp_path):
    done = lp.export_onnx(net, tmp_path / "m.onnx")
    named = {name for node in onnx.load(done.files[0]).graph.node for name in node.output}
    assert {"conv", "pool", "fc", "prob"} <= named


def test_exact_computes_the_bits_of_the_numpy_engine(low, x, tmp_path):
    """On a grid, with few bits, every sum is exact in float32, whatever its order."""
    done = lp.export_onnx(low, tmp_path / "m.onnx")
    assert done.profile == "exact"
    onnx.checker.check_model(str(done.files[0]), full_check=True)
    reference = lp.run(low, x)
    found = computed(done.files[0], {"data": x})
    np.testing.assert_allclose(found["prob"], reference["prob"], rtol=0, atol=1e-6)
    weights = max(initializers(done.files[0]), key=lambda values: values.size)
    np.testing.assert_array_equal(weights, lp.round_fp(weights, 3, 5))  # rounded already


def test_the_formats_travel_in_the_metadata(net, low, tmp_path):
    done = lp.export_onnx(low, tmp_path / "m.onnx")
    facts = metadata(done.files[0])
    assert facts["lpcaffe.profile"] == "exact"
    assert (facts["lpcaffe.network"], facts["lpcaffe.sha256"]) == ("small", low.sha256)
    assert json.loads(facts["lpcaffe.plan"])["layers"] == {
        "conv": {"type": "Convolution", "weights": "Q3.5", "output": None},
        "conv_lpact": {"type": "LPAct", "weights": None, "output": "Q5.3"},
        "fc": {"type": "InnerProduct", "weights": "Q3.5", "output": None},
    }
    plan = plan_of(net)
    planned = lp.export_onnx(net, tmp_path / "p.onnx", plan=plan)
    (tmp_path / "plan.yaml").write_text(metadata(planned.files[0])["lpcaffe.plan"])
    assert lp.BitPlan.load(tmp_path / "plan.yaml") == plan


@pytest.mark.parametrize("placement", ["before-relu", "after-relu"])
@pytest.mark.parametrize("weights", ["Q3.5", "Q-1.6"])
def test_a_full_precision_network_with_a_plan_is_the_low_precision_network(net, x, tmp_path, weights, placement):
    plan = plan_of(net, weights, act_placement=placement)
    planned = lp.export_onnx(net, tmp_path / "a.onnx", plan=plan)
    converted = lp.export_onnx(lp.convert(net, plan, tmp_path / "lp").net, tmp_path / "b.onnx")
    np.testing.assert_array_equal(
        computed(planned.files[0], {"data": x})["prob"], computed(converted.files[0], {"data": x})["prob"]
    )


@pytest.mark.parametrize("profile", ["exact", "qdq", "qonnx"])
def test_a_plan_of_the_plain_dialect_rounds_weights_and_activations(net, tmp_path, profile):
    plan = plan_of(net, dialect="plain")
    done = lp.export_onnx(net, tmp_path / "m.onnx", profile=profile, plan=plan)
    adaption = lp.export_onnx(net, tmp_path / "a.onnx", profile=profile, plan=plan_of(net))
    assert operators(done.files[0]) == operators(adaption.files[0])
    for one, other in zip(initializers(done.files[0]), initializers(adaption.files[0]), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("profile", ["exact", "qdq", "qonnx"])
@pytest.mark.parametrize("round_bias", [False, True])
def test_a_plain_network_and_the_plan_it_was_made_with_are_its_source_and_that_plan(net, tmp_path, profile, round_bias):
    """Folding changed the prototxt, so the plan's sha256 is not of the network given."""
    plan = plan_of(net, dialect="plain", round_bias=round_bias)
    done = lp.convert(net, plan, tmp_path / "plain").net
    assert done.sha256 != net.sha256 == plan.sha256
    one = lp.export_onnx(net, tmp_path / "a.onnx", profile=profile, plan=plan).files[0]
    two = lp.export_onnx(done, tmp_path / "b.onnx", profile=profile, plan=plan).files[0]
    assert operators(one) == operators(two)
    for a, b in zip(initializers(one), initializers(two), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_plan_is_refused_for_what_is_not_its_plain_network(net, make_net, tmp_path):
    plan = plan_of(net, dialect="plain")
    done = lp.convert(net, plan, tmp_path / "plain").net

    def refused(given, plan):
        with pytest.raises(PlanError, match="the plan is for"):
            lp.export_onnx(given, tmp_path / "m.onnx", plan=plan)

    moved = np.array(done.weights["fc"][0].array())
    moved[3, 2] += 2.0**-9  # off the grid: the weights are not those of this plan
    refused(done.replace(done.message, {**done.weights, "fc": [ArrayBlob(moved), done.weights["fc"][1]]}), plan)
    refused(done, plan_of(net))  # a plan of the dialect adaption is for the source alone
    # Nothing was rounded here, whatever the names.
    refused(make_net(NET.replace("stride: 2", "stride: 1"), folder=tmp_path / "other"), plan)
    folded = lp.fold_batch_norm(net)
    refused(folded, plan)
    refused(
        done, dataclasses.replace(plan, policy=dataclasses.replace(plan.policy, fold_bn=False))
    )  # then folding cannot be why its sha256 differs


@pytest.mark.parametrize(
    ("weights", "kind"),
    [("Q2.2", ml_dtypes.int4), ("Q1.4", np.int8), ("Q3.5", np.int8), ("Q2.7", np.int16), ("Q2.18", np.int32)],
)
def test_qdq_holds_the_codes_of_the_weights_as_integers(make_net, tmp_path, weights, kind):
    net = make_net(NET)
    done = lp.export_onnx(net, tmp_path / "m.onnx", profile="qdq", plan=plan_of(net, weights=weights))
    onnx.checker.check_model(str(done.files[0]), full_check=True)
    q = lp.QFormat.parse(weights)
    folded = lp.fold_batch_norm(net)
    expected = {
        (lp.round_fp(folded.weights[name][0].array(), q.bd, q.ad) * 2.0**q.ad).astype(np.int64).tobytes()
        for name in ("conv", "fc")
    }
    integers = [values for values in initializers(done.files[0]) if values.dtype == kind and values.size > 1]
    assert {values.astype(np.int64).tobytes() for values in integers} == expected


def test_qdq_rounds_activations_as_round_fp_does_but_ties(net, x, tmp_path):
    """QuantizeLinear takes ties to even: with them apart, the values are those of the exact profile."""
    low = lp.convert(net, plan_of(net, output="Q7.9"), tmp_path / "fine").net
    done = lp.export_onnx(low, tmp_path / "m.onnx", profile="qdq")
    codes = [t for t in initializers(done.files[0]) if t.dtype == np.int16]
    assert [t.size for t in codes] == [1]  # the zero point of the activations
    found = computed(done.files[0], {"data": x})["prob"]
    np.testing.assert_allclose(found, lp.run(low, x)["prob"], rtol=0, atol=2e-3)


def test_qdq_saturates_in_the_symmetric_range(make_net, tmp_path):
    net = make_net(
        """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 7 } } }
           layer { name: "q" type: "LPAct" bottom: "x" top: "y" lpfp_param { bd: 3 ad: 1 } }""",
        edit=lambda weights: None,
    )
    path = lp.export_onnx(net.replace(net.message, None), tmp_path / "m.onnx", profile="qdq").files[0]
    x = np.float32([-100, -4, -3.6, 0.25, 0.75, 3.6, 100])
    np.testing.assert_array_equal(computed(path, {"x": x})["y"], [-3.5, -3.5, -3.5, 0, 1, 3.5, 3.5])


@pytest.mark.parametrize("bd", [1, 2, 3])
def test_qdq_of_activations_of_few_bits_can_be_loaded(make_net, tmp_path, bd):
    """onnxruntime merges a Clip with the QuantizeLinear after it, and ends where that has four bits."""
    net = make_net(
        """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 7 dim: 5 } } }
           layer { name: "c" type: "LPConvolution" bottom: "x" top: "c"
                   convolution_param { num_output: 4 kernel_size: 3 bias_term: false } lpfp_param { bd: 2 ad: 2 } }
           layer { name: "q" type: "LPAct" bottom: "c" top: "y" lpfp_param { bd: BD ad: 1 } }""".replace("BD", str(bd))
    )
    path = lp.export_onnx(net, tmp_path / "m.onnx", profile="qdq").files[0]
    x = 2 * np.random.default_rng(3).integers(-1, 2, (2, 3, 7, 5)).astype(np.float32)  # sums on the grid: no ties
    np.testing.assert_array_equal(computed(path, {"x": x})["y"], lp.run(net, x)["y"])


def test_qonnx_says_width_scale_and_rounding_of_everything_that_is_rounded(low, tmp_path):
    done = lp.export_onnx(low, tmp_path / "m.onnx", profile="qonnx")
    model = onnx.load(done.files[0])
    onnx.checker.check_model(model)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantizers = [node for node in model.graph.node if node.op_type == "IntQuant"]
    assert {node.domain for node in quantizers} == {"qonnx.custom_op.general"}
    said = [tuple(float(constants[name]) for name in node.input[1:]) for node in quantizers]
    assert sorted(said) == sorted([(2.0**-5, 0, 8), (2.0**-5, 0, 8), (2.0**-3, 0, 8)])
    for node in quantizers:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        assert attributes == {"signed": 1, "narrow": 1, "rounding_mode": b"HALF_UP"}


def test_weights_too_large_for_one_message_go_into_a_file_beside_the_model(net, x, tmp_path, monkeypatch):
    inline = lp.export_onnx(net, tmp_path / "a.onnx")
    monkeypatch.setattr(onnx_model, "INLINE_LIMIT", 100)
    done = lp.export_onnx(net, tmp_path / "b.onnx")
    assert [path.name for path in done.files] == ["b.onnx", "b.onnx.data"]
    onnx.checker.check_model(str(done.files[0]), full_check=True)
    np.testing.assert_array_equal(
        computed(done.files[0], {"data": x})["prob"], computed(inline.files[0], {"data": x})["prob"]
    )
    with pytest.raises(lp.LpcaffeError, match=r"b\.onnx: the file exists"):
        lp.export_onnx(net, tmp_path / "b.onnx")
    done.files[0].unlink()
    with pytest.raises(lp.LpcaffeError, match=r"b\.onnx\.data: the file exists"):
        lp.export_onnx(net, tmp_path / "b.onnx")
    assert [path.name for path in tmp_path.glob("b*")] == ["b.onnx.data"]


def test_the_same_network_gives_the_same_bytes(net, tmp_path):
    one, two = (lp.export_onnx(net, tmp_path / name).files[0].read_bytes() for name in ("a.onnx", "b.onnx"))
    assert one == two


@pytest.mark.parametrize(
    ("profile", "low_precision", "problem"),
    [
        ("float", True, "the network rounds, which the profile float cannot say; use exact, qdq or qonnx"),
        ("exact", False, "nothing in the network rounds, which exact is for; give --plan, or use float"),
        ("qdq", False, "nothing in the network rounds, which qdq is for; give --plan, or use float"),
        ("int8", True, "there is no profile 'int8'; known are float, exact, qdq, qonnx"),
    ],
)
def test_a_profile_that_does_not_fit_is_refused(net, low, tmp_path, profile, low_precision, problem):
    with pytest.raises(lp.LpcaffeError) as caught:
        lp.export_onnx(low if low_precision else net, tmp_path / "m.onnx", profile=profile)
    assert str(caught.value) == problem
    assert not list(tmp_path.glob("m.onnx*"))


def test_formats_that_a_profile_cannot_say_are_refused_by_layer(net, tmp_path):
    wide = plan_of(net, output="Q5.13")
    with pytest.raises(lp.LpcaffeError, match=r'layer "conv": .* at most 16 bits, Q5\.13 has 18'):
        lp.export_onnx(net, tmp_path / "m.onnx", profile="qdq", plan=wide)
    one_bit = plan_of(net, weights="Q1.0")
    with pytest.raises(lp.LpcaffeError, match='layer "conv": QONNX takes one bit for'):
        lp.export_onnx(net, tmp_path / "m.onnx", profile="qonnx", plan=one_bit)


@pytest.mark.parametrize(
    ("formats", "profile", "problem"),
    [
        ({"weights": "Q1.0"}, "qonnx", "QONNX takes one bit"),
        ({"output": "Q5.13"}, "qdq", "QuantizeLinear has at most 16 bits"),
        ({"output": "Q5.3", "rounding": "stochastic"}, "exact", "an ONNX graph cannot round stochastic"),
    ],
)
def test_what_a_plain_plan_cannot_have_is_refused_by_layer_too(net, tmp_path, formats, profile, problem):
    with pytest.raises(lp.LpcaffeError, match=f'^layer "conv": {problem}'):
        lp.export_onnx(net, tmp_path / "m.onnx", profile=profile, plan=plan_of(net, dialect="plain", **formats))


def test_a_plan_for_a_network_that_has_its_formats_is_refused(low, net, tmp_path):
    with pytest.raises(lp.LpcaffeError, match="expected a full-precision network, got LPConvolution"):
        lp.export_onnx(low, tmp_path / "m.onnx", plan=plan_of(net))


def test_a_stochastic_plan_is_refused_and_a_network_without_its_weights_too(net, tmp_path):
    with pytest.raises(lp.LpcaffeError, match="an ONNX graph cannot round stochastic"):
        lp.export_onnx(net, tmp_path / "m.onnx", plan=plan_of(net, rounding="stochastic"))
    bare = net.replace(net.message, None)
    for options in ({}, {"plan": plan_of(net)}, {"plan": plan_of(net, dialect="plain"), "profile": "qdq"}):
        with pytest.raises(WeightsError, match=r'^layer "conv": no weights were given, expected 2$'):
            lp.export_onnx(bare, tmp_path / "m.onnx", **options)


def test_a_network_without_outputs_is_refused(make_net, tmp_path):
    net = make_net(
        """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
           layer { name: "nothing" type: "Silence" bottom: "x" }"""
    )
    with pytest.raises(lp.LpcaffeError, match="the network has no outputs"):
        lp.export_onnx(net, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


def test_every_profile_has_a_rounding():
    assert set(PROFILES) == {"float", "exact", "qdq", "qonnx"}


def test_the_number_of_detections_is_left_open(make_net, tmp_path):
    sizes = {"loc": (1, 20), "conf": (1, 10), "prior": (1, 2, 20)}
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }\n"
        for name, shape in sizes.items()
    )
    net = make_net(
        text
        + """layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
             detection_output_param { num_classes: 2 nms_param { top_k: 5 } keep_top_k: 3 } }"""
    )
    assert lp.export_onnx(net, tmp_path / "m.onnx").outputs == {"out": (1, 1, "out.2", 7)}


def test_what_follows_detections_is_refused_as_its_dimensions_cannot_be_said(make_net, tmp_path):
    net = make_net(
        """layer { name: "in" type: "Input" top: "loc" top: "conf" top: "prior" input_param {
                   shape { dim: 1 dim: 20 } shape { dim: 1 dim: 10 } shape { dim: 1 dim: 2 dim: 20 } } }
           layer { name: "out" type: "DetectionOutput" bottom: "loc" bottom: "conf" bottom: "prior" top: "out"
                   detection_output_param { num_classes: 2 } }
           layer { name: "rows" type: "Flatten" bottom: "out" top: "rows" }"""
    )
    with pytest.raises(lp.LpcaffeError, match='layer "rows": an ONNX graph cannot go on after DetectionOutput'):
        lp.export_onnx(net, tmp_path / "m.onnx")


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_no_numbers_are_refused_in_every_profile(net, low, tmp_path, value):
    """Only the odd blobs of a low-precision layer may hold anything: they are computed anew."""
    for given, profile in ((net, "float"), (low, "exact"), (low, "qdq"), (low, "qonnx")):
        for index, refused in ((0, True), (1, profile == "float")):
            blobs = [ArrayBlob(blob.array().copy()) for blob in given.weights["fc"]]
            blobs[index].values.flat[2] = value
            broken = given.replace(given.message, {**given.weights, "fc": blobs})
            path = tmp_path / f"{profile}{index}.onnx"
            if refused:
                with pytest.raises(lp.LpcaffeError, match=rf'^layer "fc" blob {index}: the value at .* finite'):
                    lp.export_onnx(broken, path, profile=profile)
            else:
                lp.export_onnx(broken, path, profile=profile)
            assert path.exists() != refused
