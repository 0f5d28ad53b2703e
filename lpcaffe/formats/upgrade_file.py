"""Files of the V0 and V1 generations as files of today's, V2: text or binary, by content."""

from __future__ import annotations

from os import PathLike

from lpcaffe.errors import FileError
from lpcaffe.formats.caffemodel import BlobSource, open_caffemodel, write_caffemodel
from lpcaffe.formats.prototxt import dump, read
from lpcaffe.formats.upgrade import count_sign_bit, upgrade
from lpcaffe.io.kinds import HDF5_MAGIC, MAGIC, file_kind
from lpcaffe.io.outputs import write_file


def upgrade_file(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    old_bd: bool = False,
    hdf5: bool = False,
    force: bool = False,
) -> None:
    """Write the V2 form of a prototxt (as text) or of a caffemodel (its blobs copied as they stream).

    `hdf5`: the weights of a caffemodel are written as HDF5, which holds nothing else of it.
    `old_bd`: the file's lpfp_param is from before November 2016 and leaves out the sign bit; the new file counts it.
    """
    kind = file_kind(source)
    if kind == MAGIC[HDF5_MAGIC]:
        raise FileError(f"expected a prototxt or a binary caffemodel, got {kind}, which has no generation", path=source)
    if kind == "binary":
        with open_caffemodel(source) as model:
            blobs = {name: [BlobSource.copy(blob) for blob in layer.blobs] for name, layer in model.by_name.items()}
            net = count_sign_bit(model.net) if old_bd else model.net
            write_caffemodel(target, net, {name: own for name, own in blobs.items() if own}, hdf5=hdf5, force=force)
        return
    net = upgrade(read(source))
    text = dump(count_sign_bit(net) if old_bd else net)
    write_file(target, text.encode(), force=force)
