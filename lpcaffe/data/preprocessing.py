"""Preprocessing: how an image becomes the blob that a Caffe network was trained on.

In this order, after Caffe's DataTransformer in its TEST phase:

1. an image in colours becomes grey for `channels: gray` (ITU-R 601 luma), a grey one is repeated for the others;
2. `resize`: Pillow's bilinear, to exactly W x H, on the 8-bit pixels;
3. channels come first, in the blob's order (`bgr`, `rgb` or `gray`), as float32;
4. `crop`: the centre N x N, from offset (H - N) // 2, (W - N) // 2;
5. `mean` is subtracted: a value for all channels, one a channel, or a mean image, cropped as the image is;
6. `scale` multiplies;
7. `transpose` swaps height and width (MTCNN was trained on transposed images).

All arithmetic is float32, so a blob equals Caffe's bit for bit when resizing does nothing.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from lpcaffe.errors import DataError, FileError, LpcaffeError, WeightsError, reason, shape_text
from lpcaffe.formats import wire
from lpcaffe.formats.blobproto import read_blob
from lpcaffe.formats.schema import TRAIN, Message
from lpcaffe.io.kinds import file_kind

Channels = Literal["bgr", "rgb", "gray"]

_MEAN = "a mean is values, as 104,117,123, or a .binaryproto"

_MOST_PIXELS = 1 << 27  # of an image after resizing; Pillow refuses to read images a little larger than that


# Compared by identity: a mean image has no truth value. Compare `to_json()` instead.
@dataclass(frozen=True, eq=False)
class Preprocessing:
    """The steps of the module's docstring; a step that is None (or scale 1) does nothing.

    `resize` is (W, H) in pixels, `crop` the side of a square in pixels, `mean` in the blob's channel order: a tuple of
    one value or one a channel, or a C x H x W array. Raises DataError for values that cannot be meant.
    """

    resize: tuple[int, int] | None = None
    crop: int | None = None
    mean: tuple[float, ...] | NDArray[np.float32] | None = None
    scale: float = 1.0
    channels: Channels = "bgr"
    transpose: bool = False

    def __post_init__(self) -> None:
        if self.resize is not None:
            object.__setattr__(self, "resize", tuple(self.resize))
            if len(self.resize) != 2 or min(self.resize) < 1 or math.prod(self.resize) > _MOST_PIXELS:
                raise DataError(
                    f"resize must be a width and a height of 1 or more, of at most {_MOST_PIXELS:,} pixels, got "
                    f"{shape_text(self.resize)}"
                )
        if self.crop is not None and self.crop < 1:
            raise DataError(f"crop must be 1 or more, got {self.crop}")
        if self.channels not in get_args(Channels):
            raise DataError(f"channels must be bgr, rgb or gray, got {self.channels!r}")
        with np.errstate(over="ignore"):
            factor = float(np.float32(self.scale))
        if not math.isfinite(factor) or factor == 0:
            raise DataError(f"scale must be a finite float32 other than 0, got {self.scale}")
        self._check_mean()

    def _check_mean(self) -> None:
        if self.mean is None:
            return
        if not isinstance(self.mean, np.ndarray):
            object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
            colors = 1 if self.channels == "gray" else 3
            if len(self.mean) not in (1, colors):
                raise DataError(
                    f"mean must have 1 value or {colors} for channels {self.channels}, got {len(self.mean)}"
                )
        elif self.mean.ndim != 3:
            raise DataError(f"a mean image must be C x H x W, got {shape_text(self.mean.shape)}")
        if not np.isfinite(self.mean).all():
            raise DataError("mean must be finite")

    def apply(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """A uint8 image, H x W x 3 in RGB or H x W grey, as a float32 blob of C x H x W.

        Raises DataError if the crop is larger than the image, or a mean image has another size.
        """
        if self.channels == "gray" and image.ndim == 3:
            image = np.asarray(_pillow(image).convert("L"))
        if self.resize is not None and image.shape[:2] != self.resize[::-1]:
            from PIL.Image import Resampling

            image = np.asarray(_pillow(image).resize(self.resize, Resampling.BILINEAR))
        if image.ndim == 2:
            planes = np.repeat(image[None], 1 if self.channels == "gray" else 3, axis=0)
        else:
            planes = image.transpose(2, 0, 1)[:: -1 if self.channels == "bgr" else 1]
        return self.transform(planes)

    def transform(self, planes: NDArray[Any]) -> NDArray[np.float32]:
        """Crop, mean, scale and transpose, for values that are C x H x W in the blob's channel order already."""
        height, width = planes.shape[1:]
        blob = planes
        mean = None if self.mean is None else np.asarray(self.mean, np.float32)
        if mean is not None and mean.ndim == 1:
            mean = mean[:, None, None]
        elif mean is not None and mean.shape != planes.shape:
            raise DataError(
                f"the mean image is {shape_text(mean.shape)} but the image {shape_text(planes.shape)} (C x H x W)",
                hint=f"resize images to the mean's size: --resize {mean.shape[2]}x{mean.shape[1]}",
            )
        if self.crop is not None:
            if self.crop > min(height, width):
                raise DataError(
                    f"cannot crop {self.crop}x{self.crop} out of an image {width} wide and {height} high",
                    hint="give --resize WxH with a larger size",
                )
            top, left = (height - self.crop) // 2, (width - self.crop) // 2
            window = (slice(None), slice(top, top + self.crop), slice(left, left + self.crop))
            blob = blob[window]
            if mean is not None and mean.shape == planes.shape:
                mean = mean[window]
        blob = blob.astype(np.float32)
        if mean is not None:
            blob -= mean
        if self.scale != 1:
            blob *= np.float32(self.scale)
        return np.ascontiguousarray(blob.swapaxes(1, 2) if self.transpose else blob)

    def same_values(self, other: Preprocessing) -> bool:
        """Whether both map pixels to the same values: equal mean and scale, whatever the size and the order."""
        mine, theirs = self.to_json(), other.to_json()
        return all(mine[key] == theirs[key] for key in ("mean", "scale"))

    def to_json(self) -> dict[str, Any]:
        """For reports: plain values, float32 ones as short as they can be written; a mean image as shape and sha256."""
        mean: Any = None
        if isinstance(self.mean, np.ndarray):
            values = np.ascontiguousarray(self.mean, "<f4")
            mean = {"shape": list(values.shape), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
        elif self.mean is not None:
            mean = [_shortest(value) for value in self.mean]
        return {
            "resize": None if self.resize is None else list(self.resize),
            "crop": self.crop,
            "mean": mean,
            "scale": _shortest(self.scale),
            "channels": self.channels,
            "transpose": self.transpose,
        }

    @classmethod
    def from_net(
        cls, net: Message, input_channels: int, *, folder: str | os.PathLike[str] = ".", read_mean: bool = True
    ) -> Self | None:
        """That of a network's `transform_param`, or None if no layer has one with any of these steps.

        `net` is an upgraded NetParameter; the first layer counts that is not for training only. Of the SSD fork,
        `crop_h` = `crop_w` and a `resize_param` that warps are read too. `mean_file` is looked for by its last name
        in `folder`, the prototxt's, and nowhere else: a file from elsewhere may name any path. `read_mean=False` leaves
        it unread, for a caller with a mean of its own. Raises DataError if it is not found or not a mean.
        """
        for layer in net.layer:
            if layer.HasField("transform_param") and not _training_only(layer):
                found = cls._from_transform(layer.transform_param, input_channels, Path(folder), read_mean)
                if found is not None:
                    return found
        return None

    @classmethod
    def _from_transform(cls, p: Message, input_channels: int, folder: Path, read_mean: bool) -> Self | None:
        crop = p.crop_size or (p.crop_h if p.crop_h == p.crop_w else 0)
        resize = None
        if p.HasField("resize_param") and p.resize_param.resize_mode == p.resize_param.WARP:
            resize = (p.resize_param.width, p.resize_param.height)
        if not (p.HasField("scale") or p.mean_value or p.mean_file or crop or resize):
            return None
        mean: tuple[float, ...] | NDArray[np.float32] | None = tuple(p.mean_value) or None
        if p.mean_file and read_mean:
            mean = read_binaryproto(_mean_file(folder, p.mean_file))
        return cls(
            resize=resize, crop=crop or None, mean=mean, scale=p.scale, channels=default_channels(input_channels)
        )


def default_channels(count: int) -> Channels:
    """Grey for a network of one input channel, else BGR, in which Caffe reads images."""
    return "gray" if count == 1 else "bgr"


def parse_size(text: str) -> tuple[int, int]:
    """`256x224` as (W, H). Raises DataError."""
    width, _, height = text.partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise DataError(f"a size is written WxH, as 256x256, got {text!r}")
    return int(width), int(height)


def parse_mean(text: str) -> tuple[float, ...] | NDArray[np.float32]:
    """`104,117,123` (or one value for all channels) as a tuple, anything else as a path to a binaryproto."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        return read_binaryproto(text)


def read_binaryproto(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """The mean image of a binaryproto, one serialized BlobProto, as float32 of C x H x W. Raises DataError.

    It is read as a blob of a caffemodel is, and leading dims of 1 are dropped.
    """
    try:
        if file_kind(path) == "empty":
            raise FileError("got an empty file")
        with Path(path).open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        values = read_blob(mapping, wire.Field(0, wire.BYTES, 0, 0, len(mapping))).array().copy()
    except (OSError, FileError, WeightsError) as error:
        why = error.problem if isinstance(error, LpcaffeError) else reason(error)
        raise DataError(f"this is not a mean image: {why}", path=path, hint=_MEAN) from error
    while values.ndim > 3 and values.shape[0] == 1:
        values = values[0]
    if values.ndim != 3 or not values.size:
        raise DataError(f"a mean image needs C x H x W values, got a shape of {shape_text(values.shape)}", path=path)
    return values


def _mean_file(folder: Path, name: str) -> Path:
    path = folder / Path(name).name
    if os.path.isfile(path):  # noqa: PTH113  Path.is_file raises for a name that no file can have
        return path
    hint = "put it there, or give --mean B,G,R or --mean FILE.binaryproto"
    raise DataError(f"mean_file {name!r} is not beside the prototxt", path=folder, hint=hint)


def _training_only(layer: Message) -> bool:
    return bool(layer.include) and all(rule.HasField("phase") and rule.phase == TRAIN for rule in layer.include)


def _pillow(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image))


def _shortest(value: float) -> float:
    return float(str(np.float32(value)))
