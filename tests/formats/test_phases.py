"""Rules of phases, levels and stages."""

import pytest

from lpcaffe.errors import NetError
from lpcaffe.formats.phases import filter_phase
from lpcaffe.formats.prototxt import parse
from lpcaffe.formats.schema import TEST, TRAIN

# rules of one layer, (phase, level, stages), whether the layer exists
CASES = [
    ("", (TEST, 0, ()), True),
    ("", (TRAIN, -3, ("s",)), True),
    ("include { phase: TEST }", (TEST, 0, ()), True),
    ("include { phase: TEST }", (TRAIN, 0, ()), False),
    ("exclude { phase: TEST }", (TEST, 0, ()), False),
    ("exclude { phase: TEST }", (TRAIN, 0, ()), True),
    # any of several rules
    ("include { phase: TRAIN } include { phase: TEST }", (TEST, 0, ()), True),
    ("exclude { phase: TRAIN } exclude { phase: TEST }", (TEST, 0, ()), False),
    ("include { phase: TRAIN } include { stage: 'deploy' }", (TEST, 0, ("deploy",)), True),
    ("include { phase: TRAIN } include { stage: 'deploy' }", (TEST, 0, ()), False),
    # all of one rule
    ("include { phase: TEST stage: 'deploy' }", (TEST, 0, ("deploy",)), True),
    ("include { phase: TEST stage: 'deploy' }", (TEST, 0, ()), False),
    ("include { phase: TEST stage: 'deploy' }", (TRAIN, 0, ("deploy",)), False),
    ("exclude { phase: TEST stage: 'deploy' }", (TEST, 0, ()), True),
    # stages: all of them; not_stage: none of them
    ("include { stage: 'a' stage: 'b' }", (TEST, 0, ("b", "a", "c")), True),
    ("include { stage: 'a' stage: 'b' }", (TEST, 0, ("b", "c")), False),
    ("include { not_stage: 'a' not_stage: 'b' }", (TEST, 0, ("c",)), True),
    ("include { not_stage: 'a' not_stage: 'b' }", (TEST, 0, ("c", "b")), False),
    ("include { stage: 'a' not_stage: 'b' }", (TEST, 0, ("a",)), True),
    ("include { stage: 'a' not_stage: 'b' }", (TEST, 0, ("a", "b")), False),
    # levels: both bounds belong to the range; the default level is 0
    ("include { min_level: 1 }", (TEST, 1, ()), True),
    ("include { min_level: 1 }", (TEST, 0, ()), False),
    ("include { max_level: 2 }", (TEST, 2, ()), True),
    ("include { max_level: 2 }", (TEST, 3, ()), False),
    ("include { min_level: 0 max_level: 0 }", (TEST, 0, ()), True),
    ("include { max_level: -1 }", (TEST, 0, ()), False),
    ("exclude { min_level: 1 max_level: 2 }", (TEST, 2, ()), False),
    ("exclude { min_level: 1 max_level: 2 }", (TEST, 3, ()), True),
    # an empty rule is always met
    ("include { }", (TRAIN, 5, ("s",)), True),
    ("exclude { }", (TRAIN, 5, ("s",)), False),
]


@pytest.mark.parametrize(("rules", "state", "exists"), CASES)
def test_a_layer_exists_when_its_rules_say_so(rules, state, exists):
    for text in (f"layer {{ name: 'a' {rules} }}", f"layers {{ name: 'a' {rules} }}"):
        net = parse(text)
        filtered = filter_phase(net, *state)
        assert len(filtered.layer) + len(filtered.layers) == exists
        assert net == parse(text)


def test_test_at_level_0_without_stages_is_the_default():
    net = parse("""
        layer { name: "a" include { phase: TRAIN } }
        layer { name: "b" include { phase: TEST min_level: 0 max_level: 0 } }
        layer { name: "c" exclude { stage: "s" } } layer { name: "d" include { stage: "s" } }
    """)
    assert [layer.name for layer in filter_phase(net).layer] == ["b", "c"]


def test_stages_of_the_network_count_and_its_phase_and_level_give_way():
    net = parse("""
        state { phase: TRAIN level: 7 stage: "own" }
        layer { name: "a" include { phase: TRAIN } } layer { name: "b" include { stage: "own" } }
        layer { name: "c" include { stage: "own" stage: "given" } } layer { name: "d" include { min_level: 7 } }
    """)
    assert [layer.name for layer in filter_phase(net, TEST).layer] == ["b"]
    assert [layer.name for layer in filter_phase(net, TRAIN, 8, ["given"]).layer] == ["a", "b", "c", "d"]


def test_everything_else_stays_and_filtering_twice_is_filtering_once():
    net = parse("""
        name: "n" input: "x" input_shape { dim: 2 dim: 3 } zork { a: 1 } state { stage: "s" }
        layer { name: "a" include { phase: TEST } include { stage: "q" } top: "t" zork: 2 }
        layer { name: "b" include { phase: TRAIN } }
    """)
    filtered = filter_phase(net)
    del net.layer[1]
    assert filtered == net == filter_phase(filtered)


def test_both_kinds_of_rules_are_an_error_that_names_the_layer():
    net = parse('layer { name: "a" } layer { name: "b" include { phase: TRAIN } exclude { stage: "s" } }')
    with pytest.raises(NetError) as caught:
        filter_phase(net)
    assert str(caught.value) == 'layer "b": expected include rules or exclude rules, got both'
