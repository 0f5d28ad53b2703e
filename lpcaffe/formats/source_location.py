"""The line and column of a layer in a prototxt, for an error that was found long after the text was read."""

from __future__ import annotations

import os
from pathlib import Path

from lpcaffe.errors import LpcaffeError
from lpcaffe.formats.schema import NetParameter
from lpcaffe.formats.text_parser import MAX_BYTES, Parser


def layer_location(path: str | os.PathLike[str], layer: str) -> tuple[int, int] | None:
    """Line and column of the layer of that name.

    None when the file has none or several (one for each phase, and the error may be of either), and when it is no
    prototxt.
    """
    try:
        if not Path(path).is_file():  # a pipe can be read only once
            return None
        with Path(path).open("rb") as file:
            parser = Parser(file.read(MAX_BYTES).decode("utf-8", "surrogateescape").removeprefix("\ufeff"), path)
        net = NetParameter()
        parser.fields(net, 0, -1, 1)
    except (OSError, ValueError, LpcaffeError):
        return None
    found = []
    blocks = {"layer": iter(net.layer), "layers": iter(net.layers)}
    for name, token in parser.outermost:
        block = next(blocks[name]) if name in blocks else None
        if block is not None and layer in (block.name, block.layer.name if name == "layers" else None):
            before = [token - 1, token - 2]  # `layer {` and `layer: {`
            found.append(next((at for at in before if parser.tokens[at] == name), token))
    return parser.location(found[0]) if len(found) == 1 else None
