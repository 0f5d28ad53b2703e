"""plan.yaml: what is written is read back, and what nobody should write is refused with the place."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from lpcaffe.errors import FileError, LpcaffeError, PlanError
from lpcaffe.formats import prototxt
from lpcaffe.net import Net
from lpcaffe.numbers.qformat import QFormat
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.policy import Policy

SHARED = Path(__file__).parents[3] / "shared"
GOLDEN_PLANS = sorted(SHARED.glob("golden/lp_nets/*/plan.json"))

NET = """
name: "little"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 7 } }
"""

PLAN = BitPlan(
    {
        "conv": LayerPlan("Convolution", QFormat(1, 15), QFormat(3, 13)),
        "ip": LayerPlan("InnerProduct", QFormat(2, 6)),
    },
    network="little",
)

# Layer names that YAML 1.1 reads as something else, or that need quotes.
AWKWARD = ["on", "1", "null", "~", "a: b", "<<", "y", "0x10", "1e3", "2001-01-01", "-", "a#b", "a #b", "*a", "&a", "!a"]
AWKWARD += [
    "'",
    '"',
    "[a]",
    "{a}",
    "inception_3a/1x1",
    "über/层",
    "\U0001f600",
    "a\nb",
    "\x7f",
    "\u2028",
    " a ",
    "=",
    "",
]


def net(text: str = NET) -> Net:
    return Net.of(prototxt.parse(text))


def load(path: Path, text: str) -> BitPlan:
    path.write_text(text, encoding="utf-8")
    return BitPlan.load(path)


def lines(text: str) -> str:
    """The text of a plan with these lines under `layers`."""
    return f"version: 1\nlayers:\n{text}"


def plans(names):
    """Plans of any content, with layers and networks called by `names`."""
    formats = st.none() | st.builds(QFormat, st.integers(1, 12), st.integers(0, 13))
    types = st.sampled_from(["Convolution", "InnerProduct", "a} # b", "1"])
    return st.builds(
        BitPlan,
        st.dictionaries(names, st.builds(LayerPlan, types, formats, formats), max_size=4),
        network=names,
        sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64) | st.just("0" * 64),
        policy=st.builds(
            Policy,
            rounding=st.sampled_from(["deterministic", "stochastic"]),
            seed=st.integers(0, 2**64 - 1),
            round_bias=st.booleans(),
            fold_bn=st.booleans(),
            act_placement=st.sampled_from(["before-relu", "after-relu"]),
            coverage=st.sampled_from(["learned", "all"]),
        ),
    )


any_text = st.sampled_from(AWKWARD) | st.text(st.characters(codec="utf-8"), max_size=200)
# JSON escapes these so that YAML reads them alike; beyond U+FFFF it writes halves, and DEL it does not escape.
json_text = st.text(
    st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs"], exclude_characters="\x7f"), max_size=40
)


@given(plans(any_text))
@example(replace(PLAN, layers=dict.fromkeys(AWKWARD, PLAN.layers["conv"])))
def test_every_plan_survives_its_text(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    plan.save(path)
    again = BitPlan.load(path)
    assert again == plan
    assert list(again.layers) == list(plan.layers)


@given(plans(json_text))
def test_json_is_yaml(tmp_path_factory, plan):
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_text(json.dumps(plan.to_json(), indent=1))
    assert BitPlan.load(path) == plan


def test_the_plain_dialect_round_trips_formats_with_negative_parts(tmp_path):
    plan = BitPlan(
        {"conv": LayerPlan("Convolution", QFormat(-1, 3), QFormat(20, -4))},
        policy=Policy(dialect="plain", fold_bn=False),
    )
    plan.save(tmp_path / "plan.yaml")
    text = (tmp_path / "plan.yaml").read_text()
    assert "weights: Q-1.3, output: Q20.-4" in text
    assert BitPlan.load(tmp_path / "plan.yaml") == plan


def test_a_plan_is_one_line_a_layer_in_source_order():
    text = PLAN.to_yaml()
    assert [line.split("#")[0].strip() for line in text.splitlines()[-2:]] == [
        "conv: {type: Convolution, weights: Q1.15, output: Q3.13}",
        "ip:   {type: InnerProduct, weights: Q2.6, output: null}",
    ]


def test_comments_are_for_people_and_not_in_the_data(tmp_path):
    commented = replace(PLAN, comments={"conv": "|weights| <= 0.5"})
    assert commented.to_yaml().splitlines()[-2].endswith("# |weights| <= 0.5")
    assert commented.to_yaml() != PLAN.to_yaml()
    assert commented == PLAN
    assert commented.to_json() == PLAN.to_json()
    assert load(tmp_path / "plan.yaml", commented.to_yaml()) == PLAN


def test_the_contract_example_is_what_any_yaml_reader_makes_of_our_text():
    values = yaml.safe_load(replace(PLAN, sha256="ab" * 32, policy=Policy()).to_yaml())
    assert values == {
        "version": 1,
        "network": "little",
        "sha256": "ab" * 32,
        "dialect": "adaption",
        "rounding": "deterministic",
        "seed": 0,
        "round_bias": False,
        "fold_bn": True,
        "layers": {
            "conv": {"type": "Convolution", "weights": "Q1.15", "output": "Q3.13"},
            "ip": {"type": "InnerProduct", "weights": "Q2.6", "output": None},
        },
    }


def test_everything_but_the_layers_may_be_absent(tmp_path):
    plan = load(tmp_path / "plan.yaml", "layers: {ip: {type: InnerProduct, weights: q2.6}}")
    assert plan == BitPlan({"ip": LayerPlan("InnerProduct", QFormat(2, 6), None)})
    assert (plan.policy.dialect, plan.policy.rounding, plan.policy.seed) == ("adaption", "deterministic", 0)
    assert (plan.policy.round_bias, plan.policy.fold_bn, plan.policy.act_placement) == (False, False, "before-relu")
    plan.check(net())


@pytest.mark.skipif(not GOLDEN_PLANS, reason="shared/golden is not beside the checkout")
def test_golden_plans_load_as_they_are():
    for path in GOLDEN_PLANS:
        plan, values = BitPlan.load(path), json.loads(path.read_text())
        assert {name: (line.type, str(line.weights), str(line.output)) for name, line in plan.layers.items()} == {
            name: (line["type"], line["weights"], line["output"]) for name, line in values["layers"].items()
        }
        assert plan.policy.round_bias == values["round_bias"]


@pytest.mark.parametrize("name", ["on", "1", "null", "0x10", "1e3", "2001-01-01", "yes", "3.0"])
def test_a_layer_name_needs_no_quotes_whatever_yaml_takes_it_for(tmp_path, name):
    line = "{type: InnerProduct, weights: Q2.6}"
    assert list(load(tmp_path / "plan.yaml", lines(f"  {name}: {line}\n")).layers) == [name]
    text = lines(f'  {name}: {line}\n  "{name}": {line}\n')
    with pytest.raises(PlanError, match="given twice"):
        load(tmp_path / "plan.yaml", text)


def test_merge_keys_of_yaml_still_work(tmp_path):
    text = lines("  conv: &c {type: Convolution, weights: Q1.7}\n  b: {<<: *c, weights: Q2.6}\n")
    assert load(tmp_path / "plan.yaml", text).layers["b"] == LayerPlan("Convolution", QFormat(2, 6))


CONV = "{type: Convolution, weights: Q1.15}"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = [
    ("", "expected a mapping"),
    ("[]", "expected a mapping"),
    ("version: 1", "expected layers: a mapping"),
    ("layers: []", "expected layers: a mapping"),
    ("version: 3\nlayers: {}", "expected version: 1 or 2, got 3"),
    ("coverage: all\nlayers: {}", "unknown key 'coverage'"),
    ("version: 2\ncoverage: some\nlayers: {}", "coverage: expected learned or all, got 'some'"),
    ("version: '1'\nlayers: {}", "expected version: 1 or 2, got '1'"),
    ("version: true\nlayers: {}", "expected version: 1 or 2, got True"),
    ("version: 1.0\nlayers: {}", "expected version: 1 or 2, got 1.0"),
    ("version: null\nlayers: {}", "expected version: 1 or 2, got None"),
    ("bits: 16\nlayers: {}", "unknown key 'bits'"),
    ("on: 16\nlayers: {}", "unknown key 'on'"),
    ("seed: 1.5\nlayers: {}", "seed: expected int, got 1.5"),
    ("seed: true\nlayers: {}", "seed: expected int, got True"),
    ("seed: -1\nlayers: {}", "seed: expected 0 to 2^64 - 1, got -1"),
    (f"seed: {2**64}\nlayers: {{}}", "seed: expected 0 to 2^64 - 1"),
    (f"seed: {'9' * 5000}\nlayers: {{}}", "is not YAML that a plan can hold"),
    ("round_bias: 1\nlayers: {}", "round_bias: expected bool, got 1"),
    (
        "rounding: floor\nlayers: {}",
        "rounding: expected deterministic or stochastic in a plan of version 1",
    ),
    ("act_placement: nowhere\nlayers: {}", "act_placement: expected before-relu or after-relu"),
    (lines(f"  a: {CONV}\n  a: {CONV}\n"), 'plan.yaml:4:3: "a" is given twice'),
    (lines("  a: {type: Convolution, weights: Q1.7, weights: Q1.6}\n"), '"weights" is given twice'),
    ("seed: 1\nseed: 2\nlayers: {}", '"seed" is given twice'),
    (lines("  a: null\n"), 'layer "a": expected {type'),
    (lines("  a: {weights: Q1.7}\n"), 'layer "a": expected {type'),
    (lines("  a: {type: 1, weights: Q1.7}\n"), 'layer "a": expected {type'),
    (lines("  a: {type: Convolution, bias: Q1.7}\n"), "layer \"a\": unknown key 'bias'"),
    (
        lines("  a: {type: Convolution, weights: 1.15}\n"),
        'layer "a": weights: expected a format such as Q2.14, got 1.1',
    ),
    (lines("  a: {type: Convolution, output: Q1}\n"), "layer \"a\": output: expected a format such as Q2.14, got 'Q1'"),
    (lines("  a: {type: Convolution, weights: [Q1.7]}\n"), 'layer "a": weights: expected a format'),
    (lines("  a: {type: Convolution, weights: Q0.0}\n"), 'layer "a": weights: Q0.0 has 0 bits'),
    (lines("  a: {type: Convolution, weights: Q9999.9999}\n"), 'layer "a": weights: Q9999.9999'),
    (lines("  a: {type: Convolution, weights: Q2.24}\n"), 'layer "a": weights: Q2.24 has 26 bits'),
    ("dialect: plain\n" + lines("  a: {type: Convolution, weights: Q30.-25}\n"), 'layer "a": weights: Q30.-25'),
    (lines("  ? [a, b]\n  : 1\n"), "plan.yaml:3:5: expected a name as the key"),
    (lines("  ? {a: b}\n  : 1\n"), "plan.yaml:3:5: expected a name as the key"),
    ("layers: !!map [a]", "expected a mapping"),
    (lines("  a: 2001-99-99\n"), "is not YAML that a plan can hold"),
    (lines("  a: !!int x\n"), "is not YAML that a plan can hold"),
    (lines("  a: !!python/object/apply:os.system [exit]\n"), "could not determine a constructor"),
    (lines("  a: !unknown {}\n"), "could not determine a constructor"),
    ("layers: [a", "plan.yaml:1:"),
    ("layers: {}\n---\nlayers: {}\n", "expected a single document"),
    ("[" * 5000, "is not YAML that a plan can hold"),
    ("a: \x01", "is not YAML"),
    ("layers: &a {x: *a}", 'layer "x": expected {type'),
    (f"{BOMB}layers: {{}}", "unknown key 'a'"),
    (f"layers: {{}}\nnetwork: {BOMB.splitlines()[0][3:]}", "network: expected str, got ['x'"),
]


@pytest.mark.parametrize(("text", "problem"), HOSTILE, ids=range(len(HOSTILE)))
def test_what_a_plan_must_not_be_is_one_sentence_with_the_place(tmp_path, text, problem):
    path = tmp_path / "plan.yaml"
    with pytest.raises(PlanError) as caught:
        load(path, text)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert problem in message
    assert len(message) < len(str(path)) + 400
    assert "\n" not in message.replace(problem, "")


def test_aliases_that_stand_for_gigabytes_make_a_short_message(tmp_path):
    expanded = BOMB.replace("i: &i", "version: &i")
    with pytest.raises(PlanError) as caught:
        load(tmp_path / "plan.yaml", "layers: {}\n" + expanded)
    assert len(str(caught.value)) < 400


def test_what_is_no_text_is_said_to_be_none(tmp_path):
    path = tmp_path / "plan.yaml"
    for data in (b"\xff\xfe\x00", b"\x80"):
        path.write_bytes(data)
        with pytest.raises(PlanError, match=r"plan\.yaml: is not text"):
            BitPlan.load(path)
    with pytest.raises(PlanError, match="cannot be read: is a directory"):
        BitPlan.load(tmp_path)
    with pytest.raises(PlanError, match=r"gone\.yaml: cannot be read: no such file"):
        BitPlan.load(tmp_path / "gone.yaml")


@given(st.text(max_size=60))
def test_any_text_loads_or_is_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    with suppress(LpcaffeError):
        BitPlan.load(path)


def test_a_plan_is_not_overwritten_without_force(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("mine")
    with pytest.raises(FileError, match="the file exists"):
        PLAN.save(path)
    assert path.read_text() == "mine"
    PLAN.save(path, force=True)
    assert BitPlan.load(path) == PLAN


def test_check_accepts_its_own_network_and_plans_of_fewer_layers():
    replace(PLAN, sha256=net().sha256).check(net())
    BitPlan({"ip": PLAN.layers["ip"]}).check(net())
    BitPlan({}).check(net())


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        (
            {"fc": LayerPlan("InnerProduct", None)},
            'layer "fc": the plan has InnerProduct, the network "little" has no',
        ),
        ({"data": LayerPlan("Convolution", None)}, 'layer "data": the plan has Convolution, the network Input'),
        ({"ip": LayerPlan("Convolution", None)}, 'layer "ip": the plan has Convolution, the network InnerProduct'),
    ],
)
def test_check_says_which_layer_is_not_the_networks(layers, problem):
    with pytest.raises(PlanError, match=problem):
        BitPlan(layers).check(net())


def test_check_says_what_differs_when_the_sha256_does():
    other = net(NET.replace("num_output: 7", "num_output: 8"))
    assert other.sha256 != net().sha256
    with pytest.raises(PlanError) as caught:
        replace(PLAN, sha256=net().sha256).check(other)
    message = str(caught.value)
    assert net().sha256[:12] in message
    assert other.sha256[:12] in message
    assert "the same names and types" in message
    assert "remove the sha256 line" in message
    with pytest.raises(PlanError, match='layer "ip" has no line in it'):
        BitPlan({"conv": PLAN.layers["conv"]}, sha256="0" * 64).check(net())


def test_the_sha256_is_that_of_the_upgraded_weight_free_network():
    v1 = """name: "little" input: "data" input_dim: 2 input_dim: 3 input_dim: 5 input_dim: 4
    layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
             convolution_param { num_output: 6 kernel_size: 3 } }"""
    v2 = """name: "little"
    layer { name: "input" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 4 } } }
    layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
            convolution_param { num_output: 6 kernel_size: 3 } }"""
    assert net(v1).sha256 == net(v2).sha256
    commented = v2.replace("layer {", "layer { # a comment\n")
    assert net(commented).sha256 == net(v2).sha256
    blobs = v2.replace("convolution_param", "blobs { data: 1 shape { dim: 1 } } convolution_param")
    assert net(blobs).sha256 == net(v2).sha256


def test_a_plan_that_would_not_be_read_again_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lpcaffe.quant.plan.MAX_BYTES", 50_000)
    layers = {f"{index:04}{'x' * 600}": LayerPlan("InnerProduct", QFormat(1, 7)) for index in range(80)}
    with pytest.raises(PlanError, match=r"plan\.yaml: expected a plan of at most 50000 bytes, got 5\d{4}"):
        BitPlan(layers).save(tmp_path / "plan.yaml")
    assert list(tmp_path.iterdir()) == []
    half = BitPlan(dict(list(layers.items())[:73]))
    half.save(tmp_path / "plan.yaml")
    assert BitPlan.load(tmp_path / "plan.yaml") == half
