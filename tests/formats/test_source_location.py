"""Where a layer stands in a text, whatever the text looks like."""

import pytest

from lpcaffe.formats.source_location import layer_location

TEXTS = {
    'layer { name: "a" }\n  layer { name: "b" }': (2, 3),
    'name: "b" layer { name: "a" } layer: { type: "b" name: "b" }': (1, 31),
    "# layer { name: 'b' }\nlayer < name: 'b' >\nlayer { name: 'a' }": (2, 1),
    "layer { name: 'b' include { phase: TRAIN } }\nlayer { name: 'b' include { phase: TEST } }": None,
    "layers { name: 'a' } layer { name: 'x' }\nlayers { layer { name: 'b' } }": (2, 1),
    "input_shape { dim: 1 } unknown { name: 'b' } layer {\nname: 'a'}\n\t layer{ name: 'b' }": (3, 3),
    "layer: [ { name: 'a' }, { name: 'b' } ]": (1, 25),
    "\ufefflayer { name: 'b' }": (1, 1),
    "layer { name: 'a' }": None,
    "layer { name: 'b' ": None,
    "layers: {b: 1}": None,
    "\x01\x02": None,
    "": None,
}


@pytest.mark.parametrize("text", TEXTS)
def test_the_only_layer_of_a_name_is_found(tmp_path, text):
    (tmp_path / "net.prototxt").write_text(text, encoding="utf-8")
    assert layer_location(tmp_path / "net.prototxt", "b") == TEXTS[text]


def test_what_is_no_prototxt_has_no_layers(tmp_path):
    assert layer_location(tmp_path / "gone", "b") is None
    assert layer_location(tmp_path, "b") is None
    assert layer_location("nul\0byte", "b") is None
