"""The one input of a network that takes images, and how an image becomes its blob."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.errors import DataError, shape_text

Shape = tuple[int, ...]
Sample = dict[str, NDArray[np.float32]]
"""One image: input blob name -> values, without the batch axis."""


@dataclass(frozen=True, eq=False)
class ImageInput:
    """An input blob, its shape N x 1 or 3 x H x W, and the preprocessing that gives it.

    Raises DataError for a shape that takes no images, and for channels that do not fit it.
    """

    name: str
    shape: Shape
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        channels = self.preprocessing.channels
        if len(self.shape) != 4 or self.shape[1] not in (1, 3):
            raise DataError(
                f"images need an input of N x 1 or 3 x H x W, the network's is {shape_text(self.shape)}",
                blob=self.name,
                hint="give prepared float blobs as .npy or .npz",
            )
        if (channels == "gray") != (self.shape[1] == 1):
            hint = "--channels gray" if self.shape[1] == 1 else "--channels bgr or rgb"
            problem = f"channels {channels} do not fit the network's {self.shape[1]}"
            raise DataError(problem, blob=self.name, hint=f"give {hint}")

    @classmethod
    def of(cls, inputs: Mapping[str, Shape], preprocessing: Preprocessing) -> ImageInput:
        """The network's only input. Raises DataError if it has others or takes no images."""
        if len(inputs) != 1:
            raise DataError(
                f"the network has {len(inputs)} inputs ({', '.join(inputs)}), images feed one",
                hint="give an .npz with one float array for each input",
            )
        return cls(*next(iter(inputs.items())), preprocessing)

    def blob(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """An image, uint8, H x W x 3 in RGB or H x W, preprocessed. Raises DataError if it does not fit."""
        return self.fitting(self.preprocessing.apply(pixels))

    def fitting(self, blob: NDArray[np.float32]) -> NDArray[np.float32]:
        """The blob, if it has the C x H x W of the input. Raises DataError otherwise."""
        if blob.shape == tuple(self.shape[1:]):
            return blob
        resize, crop = self.preprocessing.resize, self.preprocessing.crop
        height, width = self.shape[:1:-1] if self.preprocessing.transpose else self.shape[2:]
        what = "the image has" if resize is None and crop is None else "after --resize and --crop the image has"
        hint = f"give --resize {width}x{height}"
        if crop is not None:
            hint = f"give --crop {height}" if height == width else f"{hint} and no --crop"
        raise DataError(
            f"expected {shape_text(self.shape[1:])} (C x H x W), {what} {shape_text(blob.shape)}", hint=hint
        )

    def random_size(self) -> Shape:
        """The H x W, or H x W x 3, of an image from which preprocessing gives the input."""
        _, channels, height, width = self.shape
        if self.preprocessing.transpose:
            height, width = width, height
        if self.preprocessing.resize is not None:
            width, height = self.preprocessing.resize
        elif isinstance(self.preprocessing.mean, np.ndarray):
            height, width = self.preprocessing.mean.shape[1:]
        elif self.preprocessing.crop is not None:
            height = width = self.preprocessing.crop
        return (height, width) if channels == 1 else (height, width, channels)
