"""plan.yaml of version 2: every kind of format is read back, long vectors from the file beside it."""

import hashlib
import json
from contextlib import suppress
from itertools import pairwise

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcaffe.errors import PlanError
from lpcaffe.formats.npz import npz_bytes
from lpcaffe.numbers import QFormat, parse_format
from lpcaffe.quant import plan as plan_module
from lpcaffe.quant.plan import BitPlan, LayerPlan
from lpcaffe.quant.plan_vectors import INLINE
from lpcaffe.quant.policy import Policy

KINDS = {
    "Qm.f": "Q-2.10",
    "a fraction for each channel": {"bits": 8, "ad": [7, 8, 7]},
    "affine": {"bits": 4, "scale": 0.01, "zero": 7, "signed": True, "ties": "away"},
    "affine for each channel": {"bits": 4, "scale": [1e-08, 0.02], "zero": [7, 8]},
    "minifloat": "minifloat(4,3)",
    "Ristretto's minifloat": "minifloat(4,3)/ristretto",
    "OCP's": "e4m3fn",
    "powers of two": "pow2(-8,-1)",
    "powers of two and zero": "pow2z(-8,-1)",
    "powers of two with scales": {"pow2z": [-8, -1], "scale": [0.1, 3e-10]},
    "codebook": {"codebook": [-0.5, 0, 0.5]},
    "codebook with scales": {"codebook": [-0.5, 0.25], "scale": [0.1, 0.2]},
}
LONG = {
    "ad": parse_format({"bits": 8, "ad": [index % 5 for index in range(INLINE + 1)]}),
    "scale and zero": parse_format(
        {"bits": 4, "scale": [0.1 * (index + 1) for index in range(70)], "zero": [index % 16 for index in range(70)]}
    ),
    "levels": parse_format({"codebook": [index / 7 for index in range(INLINE + 6)]}),
    "scales": parse_format({"codebook": [-1, 1], "scale": [1e-07 * (index + 1) for index in range(65)]}),
}
POLICY = Policy(fold_bn=False, coverage="all")


def plan_of(fmt, name="ip", role="weights") -> BitPlan:
    return BitPlan({name: LayerPlan("InnerProduct", **{role: fmt})}, policy=POLICY, recipe="gptq")


def saved(tmp_path, plan):
    plan.save(tmp_path / "plan.yaml")
    return tmp_path / "plan.yaml"


def said(path) -> str:
    """The message of a plan that is refused, without the file's name."""
    with pytest.raises(PlanError) as caught:
        BitPlan.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("role", ["weights", "bias", "output"])
@pytest.mark.parametrize("given", KINDS.values(), ids=KINDS)
def test_every_kind_of_format_is_read_back(tmp_path, given, role):
    plan = plan_of(parse_format(given), role=role)
    path = saved(tmp_path, plan)
    assert BitPlan.load(path) == plan
    assert [file.name for file in tmp_path.iterdir()] == ["plan.yaml"]
    assert yaml.safe_load(path.read_text()) == plan.to_json()
    (tmp_path / "plan.json").write_text(json.dumps(plan.to_json()))
    assert BitPlan.load(tmp_path / "plan.json") == plan


# Names that a path or an archive could take for something else.
@pytest.mark.parametrize("name", ["ip", "a/b", "../up", "x/weights", "über", "file", "a.npy", "a: b"])
@pytest.mark.parametrize("fmt", LONG.values(), ids=LONG)
def test_long_vectors_are_read_back_from_the_file_beside(tmp_path, fmt, name):
    plan = plan_of(fmt, name)
    path = saved(tmp_path, plan)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan.npz", "plan.yaml"]
    line = yaml.safe_load(path.read_text())["vectors"]
    assert line == {"file": "plan.npz", "sha256": hashlib.sha256((tmp_path / "plan.npz").read_bytes()).hexdigest()}
    assert path.stat().st_size < 2000
    assert BitPlan.load(path) == plan
    assert plan.has_vectors


def test_64_values_stay_in_the_plan(tmp_path):
    plan = plan_of(parse_format({"bits": 8, "ad": [3] * INLINE}))
    saved(tmp_path, plan)
    assert not plan.has_vectors
    assert [file.name for file in tmp_path.iterdir()] == ["plan.yaml"]


def test_a_plan_and_its_vectors_are_the_same_bytes_twice(tmp_path):
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        saved(folder, plan_of(LONG["scale and zero"]))
    for name in ("plan.yaml", "plan.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_vectors_must_be_the_ones_that_the_plan_names(tmp_path):
    path, beside = saved(tmp_path, plan_of(LONG["ad"])), tmp_path / "plan.npz"
    data = beside.read_bytes()
    beside.write_bytes(data[:-1] + b"\1")
    expected, got = (hashlib.sha256(each).hexdigest()[:12] for each in (data, beside.read_bytes()))
    assert said(path) == f"vectors: expected plan.npz with sha256 {expected}..., got {got}..."
    beside.unlink()
    assert said(path) == "vectors: plan.npz cannot be read: no such file or directory"
    beside.mkdir()
    assert said(path) == "vectors: expected a file, plan.npz is none"
    beside.rmdir()
    beside.symlink_to("/dev/zero")
    assert said(path) == "vectors: expected a file, plan.npz is none"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (npz_bytes({}), "vectors: plan.npz has no 'ip/weights/ad'"),
        (b"PK\x03\x04", "vectors: plan.npz is not a whole .npy or .npz of numbers"),
        (npz_bytes({"ip/weights/ad": [[1, 2], [3, 4]]}), 'layer "ip": weights: ad: expected an integer, '),
        (npz_bytes({"ip/weights/ad": [0.5, 2]}), 'layer "ip": weights: ad: expected an integer, '),
    ],
)
def test_what_the_file_of_vectors_must_not_hold(tmp_path, data, problem):
    path, beside = saved(tmp_path, plan_of(LONG["ad"])), tmp_path / "plan.npz"
    before = hashlib.sha256(beside.read_bytes()).hexdigest()
    beside.write_bytes(data)
    path.write_text(path.read_text().replace(before, hashlib.sha256(data).hexdigest()))
    assert said(path).startswith(problem)


@pytest.mark.parametrize(
    "line", ["x", "{}", "{file: plan.npz}", "{file: ../plan.npz, sha256: a}", "{file: 1, sha256: a}"]
)
def test_the_line_of_vectors_names_a_file_beside_the_plan(tmp_path, line):
    (tmp_path / "plan.yaml").write_text(f"version: 2\nvectors: {line}\nlayers: {{}}\n")
    expected = "vectors: expected {file: NAME.npz, sha256: ...}, the file in the plan's folder"
    assert said(tmp_path / "plan.yaml") == expected


Q, WIDE = QFormat(1, 7), QFormat(3, 5)


@pytest.mark.parametrize(
    ("plan", "version"),
    [
        (BitPlan({}), 1),
        (BitPlan({"conv": LayerPlan("Convolution", Q, WIDE), "ip": LayerPlan("InnerProduct")}), 1),
        (BitPlan({"conv": LayerPlan("Convolution", QFormat(-2, 10))}), 1),
        (BitPlan({"conv": LayerPlan("Convolution", Q)}, policy=Policy(act_placement="after-relu", seed=3)), 1),
        (BitPlan({"conv": LayerPlan("Convolution", Q)}, policy=Policy(coverage="all")), 2),
        (BitPlan({"conv": LayerPlan("Convolution", Q)}, recipe="gptq"), 2),
        (BitPlan({"conv": LayerPlan("Convolution", Q, bias=WIDE)}), 2),
        (BitPlan({"data": LayerPlan("Input", output=Q)}), 2),
        (BitPlan({"conv": LayerPlan("Convolution", parse_format("pow2(-8,-1)"))}), 2),
    ],
)
def test_version_2_is_written_only_where_version_1_cannot_express_the_plan(tmp_path, plan, version):
    path = saved(tmp_path, plan)
    assert plan.version == yaml.safe_load(path.read_text())["version"] == version
    assert BitPlan.load(path) == plan


def rows(text: str) -> str:
    return f"version: 2\nlayers:\n{text}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("version: 3\nlayers: {}", "expected version: 1 or 2, got 3"),
        ("version: 2\nbits: 8\nlayers: {}", "unknown key 'bits'; known are version, network, sha256, dialect, "),
        ("version: 2\nrecipe: [a]\nlayers: {}", "recipe: expected str, got ['a']"),
        ("version: 1\nrecipe: gptq\nlayers: {}", "unknown key 'recipe'; known are "),
        (
            "version: 1\nlayers: {data: {type: Input, output: Q3.5}}",
            "layer \"data\": type: expected Convolution or InnerProduct in a plan of version 1, got 'Input'",
        ),
        (
            rows("  a: {type: X, wights: Q1.7}"),
            "layer \"a\": unknown key 'wights'; known are type, weights, bias, output",
        ),
        (rows("  a: {type: X, weights: 1.7}"), 'layer "a": weights: expected a format such as '),
        (rows("  a: {type: X, output: Q0.0}"), 'layer "a": output: Q0.0 has 0 bits'),
        (rows("  a: {type: X, bias: Q12.20}"), 'layer "a": bias: Q12.20 has 32 bits'),
        (rows("  a: {type: X, weights: {bits: 8}}"), 'layer "a": weights: expected the keys '),
        (
            rows("  a: {type: X, weights: {bits: 8, ad: [1], zero: 3}}"),
            'layer "a": weights: expected the keys bits, ad, ',
        ),
        (rows("  a: {type: X, weights: {bits: 8, ad: []}}"), 'layer "a": weights: ad: expected a list of integers'),
        (
            rows("  a: {type: X, weights: {bits: 4, scale: [1, 2], zero: [7]}}"),
            'layer "a": weights: expected one value a',
        ),
        (rows("  a: {type: X, weights: {bits: 4, scale: -1}}"), 'layer "a": weights: scale: expected a float32 number'),
        (
            rows("  a: {type: X, weights: {bits: 8, ad: {in: a}}}"),
            'layer "a": weights: ad: expected a list of integers',
        ),
        (
            "version: 2\nrounding: stochastic\n" + rows("  a: {type: X, weights: e4m3fn}")[11:],
            'layer "a": weights: e4m3fn ',
        ),
        ("version: 2\nround_bias: true\n" + rows("  a: {type: X, bias: Q1.7}")[11:], 'layer "a": bias: expected none '),
    ],
)
def test_what_a_plan_of_version_2_must_not_hold_is_one_line(tmp_path, text, problem):
    (tmp_path / "plan.yaml").write_text(text)
    assert said(tmp_path / "plan.yaml").startswith(problem)


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_any_line_of_vectors_loads_or_is_refused(tmp_path_factory, data):
    """Values of any shape where formats and the names of vectors are expected."""
    anything = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["in", "bits", "ad"]), inner),
        max_leaves=6,
    )
    folder = tmp_path_factory.mktemp("plan")
    saved(folder, plan_of(LONG["ad"]))
    values = yaml.safe_load((folder / "plan.yaml").read_text())
    values["layers"] = {"ip": {"type": "InnerProduct", "weights": data.draw(anything)}, "x": data.draw(anything)}
    if data.draw(st.booleans()):
        values["vectors"] = data.draw(anything)
    (folder / "plan.yaml").write_text(json.dumps(values))
    with suppress(PlanError):
        BitPlan.load(folder / "plan.yaml")


def test_aliases_of_mappings_are_visited_once(tmp_path):
    """Nine to the power of thirty mappings, if each alias were visited."""
    path = saved(tmp_path, plan_of(LONG["ad"]))
    head = path.read_text().partition("layers:")[0]
    names = [f"m{index}" for index in range(30)]
    bomb = "".join(
        f"  {name}: &{name} {{{', '.join(f'k{index}: *{before}' for index in range(9))}}}\n"
        for before, name in pairwise(names)
    )
    path.write_text(f"{head}layers:\n  m0: &m0 {{type: X, other: 1}}\n{bomb}")
    assert said(path) == "layer \"m0\": unknown key 'other'; known are type, weights, bias, output"
    path.write_text(f"{head}layers: &a {{x: {{type: X, weights: *a}}}}\n")
    assert said(path).startswith("is not YAML that a plan can hold")


def test_aliases_of_vectors_count_each_time(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "MAX_VALUES", 100)
    text = rows(f"  a: &a {{type: X, weights: {{bits: 8, ad: {[1] * 40}}}}}\n  b: *a")
    (tmp_path / "plan.yaml").write_text(text)
    assert list(BitPlan.load(tmp_path / "plan.yaml").layers) == ["a", "b"]
    (tmp_path / "plan.yaml").write_text(f"{text}  c: *a\n")
    assert said(tmp_path / "plan.yaml") == 'layer "c": expected at most 100 values in vectors, got more'
