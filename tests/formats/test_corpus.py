"""Every public prototxt of ../shared: read, printed, upgraded. Skipped where the folder is absent."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import pytest
from google.protobuf import text_format

from lpcaffe.errors import FileError
from lpcaffe.formats.prototxt import dump, parse, read, unknown_fields
from lpcaffe.formats.schema import NetParameter
from lpcaffe.formats.upgrade import generation, upgrade

SHARED = Path(__file__).parents[3] / "shared"
FILES = sorted(
    path
    for pattern in ("corpus/*", "models/*/*.prototxt", "golden/**/*.prototxt")
    for path in SHARED.glob(pattern)
    if path.suffix != ".json" and not path.name.endswith(".solver.prototxt")
)
pytestmark = [
    pytest.mark.skipif(not FILES, reason="../shared is not beside the checkout"),
    pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning"),  # fields of forks
]

# What is no network, by the end of its name, and what `read` says of it.
NO_NETWORK = {
    "labelmap_ilsvrc_clsloc.prototxt": r": expected fields of a NetParameter, got only others: item$",
    "VGG16_980.log": r":1:7: expected .* after I0718, got 10$",
    "MobileNetSSD_deploy_template.prototxt": r':\d+:17: expected a whole number .* for "num_output", got cls3x$',
    "MobileNetSSD_test_template.prototxt": r':\d+:17: expected a whole number .* for "num_output", got cls3x$',
}
NETWORKS = [path for path in FILES if not path.name.endswith(tuple(NO_NETWORK))]
# protobuf's own parser of text is slow.
SMALL = 5_000


@functools.cache
def network(path: Path) -> tuple[NetParameter, list[str]]:
    """The network of a file, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return read(path), [str(warning.message) for warning in caught]


def short(path: Path) -> str:
    return str(path.relative_to(SHARED)).replace("__", "/")[-60:]


def test_the_corpus_is_whole():
    """The folder may grow; what is no network is in it once each, and protobuf can read many of the others."""
    assert len(NETWORKS) == len(FILES) - len(NO_NETWORK) >= 245
    assert sum(path.stat().st_size < SMALL for path in NETWORKS) > 90


@pytest.mark.parametrize("path", NETWORKS, ids=short)
def test_a_network_is_the_same_after_printing_and_parsing(path):
    """It is read with one warning at most, and protobuf's text format reads the same message in file and print."""
    net, said = network(path)
    names = unknown_fields(net)
    assert len(said) == bool(names)
    assert all(name in said[0] for name in names)
    text = dump(net)
    assert parse(text) == net
    if not names and path.stat().st_size < SMALL:
        for known in (path.read_bytes().decode("utf-8", "surrogateescape"), text):
            assert text_format.Parse(known, NetParameter()) == net


@pytest.mark.parametrize("path", NETWORKS, ids=short)
def test_nothing_is_lost_by_an_upgrade(path):
    """Every name, bottom and top of the file's layers, in their order; parameters of the newest generation entirely."""
    net, _ = network(path)
    new = upgrade(net)
    assert (generation(new), upgrade(new), list(new.input)) == ("V2", new, [])
    assert new == net or parse(dump(new)) == new
    layers = list(new.layer)
    assert any(layer.name for layer in layers)
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
