"""`inspect` on every network of ../shared/corpus, layers that no engine knows included. Skipped where it is absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from lpcaffe.errors import LpcaffeError, NetError
from lpcaffe.formats.prototxt import read
from lpcaffe.layers import LAYERS, NEVER_RUN
from lpcaffe.report import inspect

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
NO_NETWORK = ("labelmap_ilsvrc_clsloc.prototxt", ".log", "_template.prototxt")
NETWORKS = sorted(path for path in CORPUS.glob("*") if not path.name.endswith((".json", *NO_NETWORK)))
pytestmark = [
    pytest.mark.skipif(not NETWORKS, reason="../shared/corpus is not beside the checkout"),
    pytest.mark.filterwarnings("ignore::lpcaffe.errors.LpcaffeWarning"),  # fields of forks
]
# The file's own mistake: layer fc_lp_34 writes fc_lp_44, and the next one reads fc_lp_34.
BROKEN = "pascal_voc__LP_VGG16__faster_rcnn_alt_opt__faster_rcnn_test.pt"


@pytest.mark.parametrize("path", NETWORKS, ids=lambda path: path.name.replace("__", "/")[-60:])
def test_every_network_can_be_inspected(path):
    found = {}
    for phase in ("TEST", "TRAIN") if b"phase:" in path.read_bytes() else ("TEST",):
        try:
            found[phase] = inspect(path, phase=phase)
        except NetError as error:
            if not path.name.endswith(BROKEN) and error.hint != "layers of another phase or stage write it":
                raise
    assert found or path.name.endswith(BROKEN)
    for seen in found.values():
        known = {*LAYERS, *NEVER_RUN, "Input"}
        problems = " ".join(seen["problems"])
        missing = [layer for layer in seen["layers"] if layer["type"] not in known]
        assert all(f'layer "{layer["name"]}": layer type "{layer["type"]}"' in problems for layer in missing)
        dark = [blob for blob, shape in seen["blobs"].items() if shape is None]
        assert bool(dark) <= bool(seen["problems"])
        assert all(min(shape, default=1) > 0 for shape in seen["blobs"].values() if shape is not None)


def test_what_is_no_network_is_refused():
    for path in sorted(path for path in CORPUS.glob("*") if path.name.endswith(NO_NETWORK)):
        with pytest.raises(LpcaffeError):
            inspect(path)
        with pytest.raises(LpcaffeError):
            read(path)
