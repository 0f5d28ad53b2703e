"""Readers: one for each kind of source, each a frozen value that another process can read too.

A reader holds what names the images (files, a database, arrays) and how they become blobs. It opens them when it is
first read. What it has opened is not pickled, and paths are pickled as absolute ones, so a reader that was sent to
another process opens the same files there. Arrays in memory are pickled as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpcaffe.data.arrays import load_arrays
from lpcaffe.data.caffe_lmdb import CaffeLmdb
from lpcaffe.data.image_files import read_image
from lpcaffe.data.image_input import ImageInput, Sample, Shape
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.errors import DataError, located, shape_text

Arrays = Mapping[str, NDArray[Any]]
Labels = NDArray[np.int64]
Skip = Collection[int]
"""Images to leave out, by their index among all, counted from 0."""

RANDOM_IMAGES = 32


class Reader(Protocol):
    """What `Data` reads from."""

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What is done to each image; None when every input is fed as it was stored."""

    def __len__(self) -> int:
        """The number of images."""

    def source(self, part: str) -> str:
        """Where the images come from, for reports. `part` is put before the number of images: "first 3 of "."""

    def samples(self, skip: Skip) -> Iterator[Sample]:
        """Every image but those of `skip`, in order. Raises DataError, naming the image."""

    def labels(self, count: int, skip: Skip) -> Labels | None:
        """The labels of the first `count` images but those of `skip`; None without labels."""

    def faults(self) -> Iterator[DataError | None]:
        """For every image, why it cannot be decoded; None where it can. Nothing at all where nothing is decoded."""


class Portable:
    """A frozen dataclass that is pickled without what it has opened, and with absolute paths."""

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: _absolute(getattr(self, f.name)) for f in fields(self)}  # type: ignore[arg-type]


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return value.absolute() if isinstance(value, Path) else value


@dataclass(frozen=True, eq=False)
class ImageFiles(Portable):
    """Image files. `origin` is the kind and name of what lists them, for reports."""

    files: tuple[Path, ...]
    origin: str
    input: ImageInput
    stored_labels: Labels | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to each image."""
        return self.input.preprocessing

    def __len__(self) -> int:
        return len(self.files)

    def source(self, part: str) -> str:
        """For example `list val.txt, first 3 of 5 files`."""
        return f"{self.origin}, {part}{len(self)} files"

    def samples(self, skip: Skip) -> Iterator[Sample]:
        """Each file decoded."""
        for index, file in enumerate(self.files):
            if index not in skip:
                with located(path=file):
                    yield {self.input.name: self.input.blob(read_image(file))}

    def labels(self, count: int, skip: Skip) -> Labels | None:
        """Those of a list file."""
        return select_labels(self.stored_labels, count, skip)

    def faults(self) -> Iterator[DataError | None]:
        """What is wrong with each file."""
        return map(_fault, self.files)


def _fault(file: Path) -> DataError | None:
    try:
        read_image(file)
    except DataError as error:
        return error
    return None


@dataclass(frozen=True, eq=False)
class LmdbEntries(Portable):
    """The entries of a Caffe LMDB."""

    folder: Path
    name: str
    input: ImageInput

    @cached_property
    def database(self) -> CaffeLmdb:
        """The database, opened."""
        return CaffeLmdb(self.folder)

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to each image."""
        return self.input.preprocessing

    def __len__(self) -> int:
        return len(self.database)

    def source(self, part: str) -> str:
        """For example `LMDB train_lmdb, 5 entries`."""
        return f"LMDB {self.name}, {part}{len(self)} entries"

    def samples(self, skip: Skip) -> Iterator[Sample]:
        """Each entry, in the order of the keys."""
        with located(path=self.folder):
            for blob in self.database.blobs(self.input.preprocessing, skip):
                yield {self.input.name: self.input.fitting(blob)}

    def labels(self, count: int, skip: Skip) -> Labels:
        """Those of the entries."""
        return self.database.labels(count, skip)

    def faults(self) -> Iterator[DataError | None]:
        """What is wrong with each entry."""
        return self.database.faults()


class ArraySource(Protocol):
    """Arrays by input name, and labels if there are any."""

    @property
    def path(self) -> Path | None:
        """The file that holds them; None for arrays in memory."""

    def load(self, inputs: list[str]) -> tuple[Arrays, Labels | None]:
        """One array for each input. Raises DataError."""

    def describe(self, what: str) -> str:
        """For reports; `what` is the number and kind of images."""


@dataclass(frozen=True, eq=False)
class MemoryArrays:
    """Arrays in memory, one for each input."""

    arrays: Arrays
    labels: Labels | None = None
    path: None = field(default=None, init=False)

    def load(self, inputs: list[str]) -> tuple[Arrays, Labels | None]:
        """The arrays themselves."""
        return self.arrays, self.labels

    def describe(self, what: str) -> str:
        """For example `arrays in memory, 6 images`."""
        return f"arrays in memory, {what}"


@dataclass(frozen=True, eq=False)
class ArrayFile(Portable):
    """A .npy, which is mapped, or a .npz."""

    path: Path

    def load(self, inputs: list[str]) -> tuple[Arrays, Labels | None]:
        """The arrays of the file."""
        return load_arrays(self.path, inputs)

    def describe(self, what: str) -> str:
        """For example `array x.npy, 6 prepared blobs`."""
        return f"array {self.path.name}, {what}"


@dataclass(frozen=True, eq=False)
class RandomImages:
    """Uniform uint8 images of a size, H x W or H x W x 3."""

    size: Shape
    seed: int
    path: None = field(default=None, init=False)

    def load(self, inputs: list[str]) -> tuple[Arrays, Labels | None]:
        """The images, the same for the same seed."""
        size = (RANDOM_IMAGES, *self.size)
        return {inputs[0]: np.random.default_rng(self.seed).integers(0, 256, size, np.uint8)}, None

    def describe(self, what: str) -> str:
        """For example `random (32 uniform uint8 images, seed 0)`."""
        return f"random ({what.replace('images', 'uniform uint8 images')}, seed {self.seed})"


@dataclass(frozen=True, eq=False)
class ArrayImages(Portable):
    """Arrays, one for each input: floats are prepared blobs, uint8 are images."""

    arrays: ArraySource
    inputs: Mapping[str, Shape]
    given: Preprocessing

    @cached_property
    def loaded(self) -> tuple[Arrays, Labels | None]:
        """The arrays and labels, checked against the shapes of the inputs. Raises DataError."""
        arrays, labels = self.arrays.load(list(self.inputs))
        for name, array in arrays.items():
            with located(path=self.arrays.path, blob=name):
                self._check(name, array)
        return arrays, labels

    @property
    def prepared(self) -> bool:
        """Whether all are floats, which are fed as they are."""
        return all(array.dtype.kind == "f" for array in self.loaded[0].values())

    @property
    def preprocessing(self) -> Preprocessing | None:
        """What is done to each image; None for prepared blobs."""
        return None if self.prepared else self.given

    def __len__(self) -> int:
        return len(next(iter(self.loaded[0].values())))

    def source(self, part: str) -> str:
        """For example `array x.npy, 6 prepared blobs`."""
        return self.arrays.describe(f"{part}{len(self)} {'prepared blobs' if self.prepared else 'images'}")

    def samples(self, skip: Skip) -> Iterator[Sample]:
        """Each index of axis 0. Nothing needs decoding, so nothing is ever skipped."""
        for index in range(len(self)):
            sample: Sample = {}
            for name, array in self.loaded[0].items():
                with located(path=self.arrays.path, blob=name):
                    sample[name] = self._blob(name, array, index)
            yield sample

    def labels(self, count: int, skip: Skip) -> Labels | None:
        """Those of an .npz."""
        return select_labels(self.loaded[1], count, skip)

    def faults(self) -> Iterator[DataError | None]:
        """Nothing: nothing is decoded."""
        return iter(())

    def _check(self, name: str, array: NDArray[Any]) -> None:
        if array.dtype.kind == "f":
            expected = self.inputs[name][1:]
            if array.shape[1:] != tuple(expected):
                problem = f"expected blobs of {shape_text(('N', *expected))}, got {shape_text(array.shape)}"
                raise DataError(problem)
            return
        if array.dtype != np.uint8:
            raise DataError(f"expected floats (prepared blobs) or uint8 (images), got {array.dtype}")
        ImageInput(name, self.inputs[name], self.given)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
            raise DataError(f"expected images of N x H x W or N x H x W x 3 (RGB), got {shape_text(array.shape)}")

    def _blob(self, name: str, array: NDArray[Any], index: int) -> NDArray[np.float32]:
        if array.dtype == np.uint8:
            image = np.asarray(array[index])
            pixels = image[..., 0] if image.shape[2:] == (1,) else image
            return ImageInput(name, self.inputs[name], self.given).blob(pixels)
        with np.errstate(over="ignore"):
            blob: NDArray[np.float32] = array[index].astype(np.float32)
        if not np.isfinite(blob).all():
            raise DataError(
                f"blob {index} of the data (counted from 0) holds NaN or infinity, or a number too large for a float32"
            )
        return blob


def select_labels(labels: Labels | None, count: int, skip: Skip) -> Labels | None:
    """The first `count` labels but those of `skip`, out of one for each image."""
    return None if labels is None else np.delete(labels, sorted(skip))[:count]
