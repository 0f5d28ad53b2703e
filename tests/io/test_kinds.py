"""The first bytes of a file, and what they make it."""

import pytest

from lpcaffe.formats.schema import LayerParameter, NetParameter
from lpcaffe.io.kinds import content_kind


def one_layer(**fields):
    return NetParameter(**fields, layer=[LayerParameter(name="conv1", type="Convolution")]).SerializeToString()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (b'name: "LeNet"\r\nlayer {\n\ttype: "Data" }', "text"),
        (b"# caf\xe9, in Latin-1\n", "text"),
        (b"\xef\xbb\xbfname: 'x'", "text"),
        ("# 網".encode("iso2022_jp_2") + b"\n", "text"),
        (b"\x89HDF\r\n\x1a\n\x00\x00", "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (b"\n <!DOCTYPE html>\n<html>", "a web page"),
        (b"<html><head>", "a web page"),
        (b"<?xml version='1.0'?>", "a web page"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"PK\x03\x04\x14", "a zip file"),
        (one_layer(), "binary"),
        (one_layer(name="nine char"), "binary"),  # begins with two line breaks and letters
        (NetParameter(layers=[{"name": " " * 32}]).SerializeToString(), "binary"),
    ],
)
def test_the_first_bytes_say_what_a_file_is(head, kind):
    assert content_kind(head) == kind
