"""Widths: whatever says it most closely decides."""

import re

import pytest

from lpcaffe.allocation.bits import Widths
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.sites import Site

TYPES = {
    "conv1": "Convolution",
    "conv2/3x3": "Convolution",
    "odd:name": "Convolution",
    "fc6": "InnerProduct",
    "fc7": "InnerProduct",
    "first": "InnerProduct",
}


def sites(types=TYPES, roles=("weights", "bias", "output")) -> list[Site]:
    return [Site(name, role, kind) for name, kind in types.items() for role in roles]


def pairs(*rules, types=TYPES, **options):
    """The widths of weights and output of each layer."""
    found = {site.key: width for site, width in Widths(rules=rules, **options).of(sites(types)).items()}
    return {name: (found[name, "weights"], found[name, "output"]) for name in types}


def changed(*rules, **options):
    """The layers whose widths differ from 16 and 16."""
    return {name: found for name, found in pairs(*rules, **options).items() if found != (16, 16)}


def test_bits_are_for_everything():
    assert set(pairs().values()) == {(16, 16)}
    assert set(pairs(bits=7).values()) == {(7, 7)}
    assert pairs(bits=9, types={"a": "Convolution"}) == {"a": (9, 9)}


def test_kinds_of_layers_and_of_tensors():
    assert set(pairs(bits=7, weights=5).values()) == {(5, 7)}
    assert set(pairs(bits=7, outputs=5).values()) == {(7, 5)}
    found = pairs(bits=7, weights=5, conv_weights=4)
    assert {name: w for name, (w, _) in found.items()} == {
        name: 4 if kind == "Convolution" else 5 for name, kind in TYPES.items()
    }
    found = pairs(inner_product_weights=3, outputs=9)
    assert {name: w for name, (w, _) in found.items()} == {
        name: 3 if kind == "InnerProduct" else 16 for name, kind in TYPES.items()
    }
    assert {output for _, output in found.values()} == {9}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (["conv1:8"], {"conv1": (8, 8)}),
        (["conv1:weights=8"], {"conv1": (8, 16)}),
        (["conv1:output=8"], {"conv1": (16, 8)}),
        (["odd:name:output=8"], {"odd:name": (16, 8)}),
        (["fc*:weights=6"], {"fc6": (6, 16), "fc7": (6, 16)}),
        (["conv2/*:4"], {"conv2/3x3": (4, 4)}),
        (["fc[67]:4", "fc7:5"], {"fc6": (4, 4), "fc7": (5, 5)}),
        (["fc7:5", "fc[67]:4"], {"fc6": (4, 4), "fc7": (4, 4)}),
        (["fc7:5", "fc7:output=3", "fc7:output=4"], {"fc7": (5, 4)}),
        (["type=InnerProduct:4"], {"fc6": (4, 4), "fc7": (4, 4), "first": (4, 4)}),
        (["last:output=8"], {"first": (16, 8)}),
        (["*:16", "last:16"], {}),
    ],
)
def test_rules(rules, expected):
    assert changed(*rules) == expected


def test_first_and_last_are_of_the_learned_layers_unless_a_layer_has_that_name():
    assert changed("first:8") == {"first": (8, 8)}
    types = {"a": "Convolution", "b": "Convolution", "c": "InnerProduct"}
    assert pairs("first:8", "last:4", types=types) == {"a": (8, 8), "b": (16, 16), "c": (4, 4)}
    assert pairs("first:8", "last:4", types={"a": "Convolution"}) == {"a": (4, 4)}
    others = {"data": "Input", **types, "sum": "Eltwise"}
    assert pairs("first:8", "last:4", types=others)["data"] == (16, 16)
    assert pairs("first:8", "last:4", types=others)["c"] == (4, 4)


def test_names_with_the_signs_of_a_glob_are_names_first():
    types = {"a[1]": "Convolution", "a1": "Convolution"}
    assert pairs("a[1]:8", types=types) == {"a[1]": (8, 8), "a1": (16, 16)}


def test_a_bias_has_a_width_where_one_is_given_for_it():
    def biases(*rules, **options):
        found = Widths(rules=rules, **options).of(sites())
        return {site.layer: width for site, width in found.items() if site.role == "bias"}

    assert biases("conv1:8", bits=9) == {}
    assert biases("conv1:bias=8") == {"conv1": 8}
    assert biases(bias=20) == dict.fromkeys(TYPES, 20)
    assert biases("fc*:bias=12", bias=20) == dict.fromkeys(TYPES, 20) | {"fc6": 12, "fc7": 12}
    plan = BitPlan({"fc6": LayerPlan("InnerProduct", QFormat(1, 7), bias=QFormat(4, 18))})
    assert biases(plan=plan) == {"fc6": 22}
    assert biases(plan=plan, bias=20) == dict.fromkeys(TYPES, 20) | {"fc6": 22}


def test_rules_beat_a_plan_beats_kinds_beat_bits():
    plan = BitPlan(
        {
            "conv1": LayerPlan("Convolution", QFormat(1, 8), QFormat(3, 7)),
            "fc6": LayerPlan("InnerProduct", QFormat(1, 10), None),
        }
    )
    options = {"bits": 12, "weights": 11, "conv_weights": 5, "outputs": 13, "plan": plan}
    found = pairs("conv1:output=4", **options)
    assert found["conv1"] == (9, 4)  # the plan, a rule
    assert found["fc6"] == (11, 13)  # the plan, activation_bits
    assert found["conv2/3x3"] == (5, 13)
    assert found["fc7"] == (11, 13)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("conv1", "expected a rule as conv1:8 or fc*:weights=6, got 'conv1'"),
        ("conv1:", "expected a rule"),
        (":8", "expected a rule"),
        ("conv1:8.5", "expected a rule"),
        ("conv1:-8", "expected a rule"),
        ("conv1:1", "rule 'conv1:1': expected 2 to 25 bits, which a float32 holds exactly, got 1"),
        ("conv1:weights=26", "rule 'conv1:weights=26': expected 2 to 25 bits"),
        ("con1:8", "the rule 'con1:8' matches nothing: no such layer gets a format; near are conv1"),
        ("conv2:8", "the rule 'conv2:8' matches nothing: no such layer gets a format; near are conv1"),
        ("gc*:8", "the rule 'gc*:8' matches nothing"),
        ("type=Conv:8", "no layer of that type gets a format; near are Convolution"),
        ("conv1:weight=8", "the rule 'conv1:weight=8' matches|expected a rule"),
    ],
)
def test_a_rule_that_matches_nothing_or_cannot_be_read_is_named(rule, problem):
    with pytest.raises(PlanError) as error:
        pairs(rule)
    assert re.search(problem.replace("(", r"\(").replace("*", r"\*"), str(error.value))


def test_a_bias_has_a_width_where_one_is_given():
    def biases(*rules, **options):
        found = Widths(rules=rules, **options).of(sites())
        return {site.layer: width for site, width in found.items() if site.role == "bias"}

    assert biases(bits=8) == {}
    assert biases(bias=12) == dict.fromkeys(TYPES, 12)
    assert biases("conv1:bias=9") == {"conv1": 9}
    assert biases("conv1:8") == {}
    plan = BitPlan({"fc6": LayerPlan("InnerProduct", QFormat(1, 10), None, QFormat(2, 9))})
    assert biases(plan=plan) == {"fc6": 11}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("bits", "bits"),
        ("weights", "weight_bits"),
        ("outputs", "activation_bits"),
        ("conv_weights", "conv_weight_bits"),
        ("inner_product_weights", "inner_product_weight_bits"),
        ("bias", "bias_bits"),
    ],
)
@pytest.mark.parametrize("width", [1, 26])
def test_widths_that_a_float32_does_not_hold_are_refused(name, option, width):
    problem = f"^{option}: expected 2 to 25 bits, which a float32 holds exactly, got {width}"
    with pytest.raises(PlanError, match=problem):
        pairs(**{name: width})


def test_no_sites_have_no_widths():
    assert Widths().of([]) == {}
