"""Every public prototxt of ../shared/corpus: parsed, upgraded, printed and parsed again. Skipped where it is absent."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from lpcaffe.errors import FileError
from lpcaffe.formats.prototxt import dump, parse, read
from lpcaffe.formats.upgrade import generation, upgrade

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
FILES = sorted(path for path in CORPUS.glob("*") if path.suffix != ".json")
pytestmark = [
    pytest.mark.skipif(not FILES, reason="../shared/corpus is not beside the checkout"),
    pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning"),  # fields of forks
]

# What is no network, by the end of its name, and what `read` says of it.
NO_NETWORK = {
    "labelmap_ilsvrc_clsloc.prototxt": r": expected fields of a NetParameter, got only others: item$",
    "VGG16_980.log": r":1:7: expected .* after I0718, got 10$",
    "MobileNetSSD_deploy_template.prototxt": r'expected a whole number .* for "num_output", got cls3x$',
    "MobileNetSSD_test_template.prototxt": r'expected a whole number .* for "num_output", got cls3x$',
}
NETWORKS = [path for path in FILES if not path.name.endswith(tuple(NO_NETWORK))]


def short(path: Path) -> str:
    return path.name.replace("__", "/")[-60:]


def test_the_corpus_is_whole():
    """The folder may grow; what is no network is in it once each."""
    assert len(NETWORKS) == len(FILES) - len(NO_NETWORK) >= 205


@pytest.mark.parametrize("path", NETWORKS, ids=short)
def test_a_network_is_the_same_after_printing_and_parsing(path):
    net = read(path)
    text = dump(net)
    assert parse(text) == net
    assert dump(parse(text)) == text
    new = upgrade(net)
    assert (generation(new), upgrade(new)) == ("V2", new)
    assert parse(dump(new)) == new
    assert len(new.layer) > 0
    assert len({layer.name for layer in new.layer if layer.name}) > 0


@pytest.mark.parametrize("path", NETWORKS, ids=short)
def test_nothing_is_lost_by_an_upgrade(path):
    """Every name, bottom and top of the file's layers, in their order; parameters of the newest generation entirely."""
    net = read(path)
    new = upgrade(net)
    layers = list(new.layer)
    if net.input and (net.input_shape or net.input_dim):
        assert (layers[0].type, list(layers[0].top)) == ("Input", list(net.input))
        layers = layers[1:]
    old = net.layers or net.layer
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in layers] == [
        (layer.name or layer.layer.name if net.layers else layer.name, list(layer.bottom), list(layer.top))
        for layer in old
    ]
    if generation(net) == "V2":
        changed = {layer.type for layer, before in zip(layers, old, strict=True) if layer != before}
        assert changed <= {"BatchNorm"}  # its learning rates


@pytest.mark.parametrize("name", NO_NETWORK)
def test_what_is_no_network_is_refused_with_the_reason(name):
    (path,) = (path for path in FILES if path.name.endswith(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FileError, match=NO_NETWORK[name]):
            read(path)
