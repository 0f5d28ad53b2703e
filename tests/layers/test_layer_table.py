"""docs/layers.md: what tools/make_layer_table.py writes, and true of the registry."""

import importlib.util
from pathlib import Path

from lpcaffe.layers import LAYERS, NEVER_RUN

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("make_layer_table", ROOT / "tools" / "make_layer_table.py")
make_layer_table = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_layer_table)


def test_the_committed_page_is_what_the_tool_writes():
    page = (ROOT / "docs" / "layers.md").read_text(encoding="utf-8")
    assert page == make_layer_table.page(), "run python tools/make_layer_table.py"


def test_every_type_that_no_graph_holds_has_its_reason_and_no_other_type_has():
    assert set(make_layer_table.NO_GRAPH) == {name for name, kind in LAYERS.items() if kind.numpy_only}
    assert set(make_layer_table.PART) <= set(LAYERS) - set(make_layer_table.NO_GRAPH)


def test_types_that_are_called_not_known_are_not():
    assert not set(make_layer_table.UNKNOWN) & {*LAYERS, *NEVER_RUN, "Input"}
