"""Data layers: what the prototxt says of the shapes they give. No engine runs them.

A data layer reads a database, a list of files or memory. Its first top is the data, a second one the labels, as a rule
one for each image. The number of images is in the file, the rest only in part (DataSetUp of each layer in Caffe 1.0 and
SSD):

    height, width   `crop_size` (SSD: `crop_h`, `crop_w`), else SSD's `resize_param`, else new_height and new_width
    channels        MemoryData and DummyData say them; image files are read in colour unless the file says otherwise; of
                    a database `force_color`, `force_gray`, `force_encoded_color` tell, or several `mean_value`, which
                    are one for each channel

A dimension of 0 is one that only the data know. Some tools write an `input_param` into a data layer, which Caffe
ignores; its shapes are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from lpcaffe.errors import NetError
from lpcaffe.formats.schema import Message
from lpcaffe.layers.registry import ANY, NEVER_RUN, Ops, Shape, layer

_ROLE = "a data layer"
_data_layer = partial(layer, bottoms=(0, 0), role=_ROLE)


def is_data(kind: str) -> bool:
    """Whether layers of this type bring data."""
    return kind in NEVER_RUN and NEVER_RUN[kind].role == _ROLE


def _size(p: Message, height: int = 0, width: int = 0) -> tuple[int, int]:
    """Height and width after a TransformationParameter, for images of height x width."""
    if p.crop_size or (p.crop_h and p.crop_w):
        return p.crop_size or p.crop_h, p.crop_size or p.crop_w
    resize = p.resize_param
    if p.HasField("resize_param") and resize.resize_mode in (resize.WARP, resize.FIT_LARGE_SIZE_AND_PAD):
        return resize.height, resize.width
    return height, width


def _channels(p: Message, force_encoded_color: bool) -> int:
    """Channels of the images of a database."""
    if p.force_gray:
        return 1
    return 3 if p.force_color or force_encoded_color else len(p.mean_value) if len(p.mean_value) > 1 else 0


def _tops(tops: Sequence[str], declared: Message, *shapes: Shape) -> list[Shape]:
    """The shapes of the tops: those of an InputParameter if it has some, else the first of `shapes`."""
    given = [tuple(shape.dim) for shape in declared.shape]
    return given * len(tops) if len(given) == 1 else given or list(shapes[: len(tops)])


@_data_layer("Data", "data_param", "transform_param", "input_param", "top")
@_data_layer("VideoData", "data_param", "transform_param", "input_param", "top")
def data(ops: Ops, p: Message, transform: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """Images out of a database or a video, and their labels."""
    shape = (p.batch_size, _channels(transform, p.force_encoded_color), *_size(transform))
    return _tops(tops, declared, shape, (p.batch_size,))


@_data_layer("AnnotatedData", "data_param", "transform_param", "input_param", "top")
def annotated_data(ops: Ops, p: Message, transform: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """Images out of a database, and a row of 8 values for each box in them (SSD)."""
    shape = (p.batch_size, _channels(transform, p.force_encoded_color), *_size(transform))
    return _tops(tops, declared, shape, (1, 1, 0, 8))


@_data_layer("ImageData", "image_data_param", "transform_param", "input_param", "top")
def image_data(ops: Ops, p: Message, transform: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """The image files of a list, and their labels."""
    shape = (p.batch_size, 3 if p.is_color else 1, *_size(transform, p.new_height, p.new_width))
    return _tops(tops, declared, shape, (p.batch_size,))


@_data_layer("ImageSegData", "image_data_param", "transform_param", "input_param", "top")
def image_seg_data(ops: Ops, p: Message, transform: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """The image files of a list, and a label for each pixel (DeepLab)."""
    size = _size(transform, p.new_height, p.new_width)
    return _tops(tops, declared, (p.batch_size, 3 if p.is_color else 1, *size), (p.batch_size, 1, *size))


@_data_layer("WindowData", "window_data_param", "transform_param", "input_param", "top")
def window_data(ops: Ops, p: Message, transform: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """Windows cut out of images, which are read in colour, and their labels."""
    return _tops(tops, declared, (p.batch_size, 3, transform.crop_size, transform.crop_size), (p.batch_size,))


@_data_layer("MemoryData", "memory_data_param", "input_param", "top")
def memory_data(ops: Ops, p: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """Arrays that a program hands over, and their labels."""
    return _tops(tops, declared, (p.batch_size, p.channels, p.height, p.width), (p.batch_size,))


@_data_layer("HDF5Data", "hdf5_data_param", "input_param", "top")
def hdf5_data(ops: Ops, p: Message, declared: Message, tops: Sequence[str]) -> list[Shape]:
    """Datasets of HDF5 files, one for each top, of any rank."""
    return _tops(tops, declared, *[(p.batch_size, 0)] * len(tops))


@_data_layer("DummyData", "dummy_data_param", "top")
def dummy_data(ops: Ops, p: Message, tops: Sequence[str]) -> list[Shape]:
    """Values of fillers: `shape`, or the old num, channels, height, width; each once for all tops or for each."""
    if p.shape:
        shapes = [tuple(shape.dim) for shape in p.shape]
    else:
        old = [list(getattr(p, name)) for name in ("num", "channels", "height", "width")]
        longest = max(map(len, old))
        shapes = list(zip(*(dims * longest if len(dims) == 1 else dims for dims in old), strict=False))
    if len(shapes) not in (1, len(tops)):
        raise NetError(f"expected a shape for all tops or one for each of {len(tops)}, got {len(shapes)}")
    return shapes * len(tops) if len(shapes) == 1 else shapes


@layer("Python", bottoms=(0, ANY), role="a Python layer")
def python(ops: Ops, *bottoms: Shape) -> list[Shape]:
    """Code of its own, which Caffe runs in Python."""
    raise NetError("a Python layer is code that lpcaffe never executes; only it knows its shapes")
