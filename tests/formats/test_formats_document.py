"""docs/formats.md: its examples are what the code writes and reads, byte for byte and letter for letter."""

import re
from pathlib import Path

import numpy as np
import pytest

from lpcaffe.formats import blobproto, hdf5
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.prototxt import dump, parse
from lpcaffe.formats.schema import NetParameter
from lpcaffe.io.kinds import HEAD_BYTES, MAGIC, content_kind

TEXT = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    return found


def rows():
    """(position, bytes, note) of every line of the annotated bytes."""
    lines = [re.fullmatch(r" *(\d+)  ((?:[0-9a-f]{2} )+) +(\S.*)", line) for line in block("hex").splitlines()]
    return [(int(line[1]), bytes.fromhex(line[2]), line[3]) for line in lines]


DATA = b"".join(data for _, data, _ in rows())
# What the last notes say, and not the bytes: the values to be written.
VALUES = [note for _, _, note in rows() if re.fullmatch(r"-?\d+\.\d+", note)]


def example():
    return parse(block("prototxt")), np.array(VALUES, np.float32).reshape(2, 3)


def test_the_bytes_of_the_example_are_what_is_written(tmp_path):
    net, values = example()
    path = tmp_path / "n.caffemodel"
    write_caffemodel(path, net, {"ip": [BlobSource.of(values)]})
    assert path.read_bytes().hex(" ") == DATA.hex(" ")
    assert f"the {len(DATA)} bytes below" in TEXT


def test_the_bytes_of_the_example_are_read_back(tmp_path):
    net, values = example()
    path = tmp_path / "n.caffemodel"
    path.write_bytes(DATA)
    with open_caffemodel(path) as model:
        (layer,) = model.layers
        (blob,) = layer.blobs
        assert (model.net, model.generation, blob.shape, blob.legacy) == (net, "V2", (2, 3), False)
        assert blob.array().tobytes() == values.tobytes()
        assert blob.spans == (blobproto.Span(len(DATA) - values.nbytes, values.size),)  # where the last six lines are


def test_the_bytes_of_the_example_are_what_protobuf_reads():
    net, values = example()
    net.layer[0].blobs.add(shape={"dim": values.shape}, data=values.reshape(-1))
    assert NetParameter.FromString(DATA) == net


def test_the_positions_in_the_example_are_those_of_the_bytes():
    at = 0
    for position, data, _ in rows():
        assert position == at
        at += len(data)


def test_the_example_of_text_is_printed_as_the_document_says():
    message = parse(block("prototxt-read"))
    assert dump(message) == block("prototxt-printed")
    assert parse(block("prototxt-printed")) == message


def test_every_first_bytes_that_are_known_have_a_line_and_every_line_is_true():
    table = re.findall(r"^\| begins with `([0-9a-f ]+)`.* \| (.+) \|$", TEXT, re.MULTILINE)
    assert {bytes.fromhex(head): kind for head, kind in table} == MAGIC
    assert {content_kind(bytes.fromhex(head) + b"\x00") for head, _ in table} == set(MAGIC.values())


def test_the_numbers_in_the_sentences_are_those_of_the_code():
    assert f"The first {HEAD_BYTES:,} bytes tell" in TEXT
    assert f"a layer has at most {hdf5.MAX_NAME_BYTES:,} bytes" in TEXT
    assert f"at most {hdf5.MAX_LINKS:,} groups and datasets" in TEXT


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)", TEXT))
def test_links_lead_to_files(link):
    assert (Path(__file__).parents[2] / "docs" / link).exists()
