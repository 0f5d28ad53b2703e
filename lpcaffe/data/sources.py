"""Data for calibration and validation: where it comes from, and batches of it as a network takes them.

`open_data` takes what `--data` takes: a folder of images, a list file, an image, .npy or .npz, a Caffe LMDB, the word
`random`, or arrays in memory. Images (files, uint8 arrays, databases) are preprocessed; floats in arrays are prepared
blobs and are fed as they are. What comes out must have the network's own C x H x W.

`Data` is a value: it can be pickled, and another process reads the same batches from it (see `lpcaffe.data.readers`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.data.arrays import select_inputs
from lpcaffe.data.image_files import EXTENSIONS, folder_images, list_images
from lpcaffe.data.image_input import ImageInput, Sample, Shape
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.readers import (
    ArrayFile,
    ArrayImages,
    ImageFiles,
    LmdbEntries,
    MemoryArrays,
    RandomImages,
    Reader,
    select_labels,
)
from lpcaffe.errors import DataError, warn

_NAMED = 3  # skipped images that a warning names


# Compared by identity: arrays have no truth value.
@dataclass(frozen=True, eq=False)
class Data:
    """Images for a network, read when they are asked for.

    count           the number of images
    available       the number of all there are: before a limit, and before any was skipped
    source          where they come from, in words, without a folder's whole path
    preprocessing   what is done to each; None when every input is fed as it was stored
    reader          reads them
    given_labels    labels that replace those of the source, one for each image used, or for each there is
    skip            images left out, by their index among all, counted from 0
    """

    count: int
    available: int
    source: str
    preprocessing: Preprocessing | None
    reader: Reader = field(repr=False)
    given_labels: NDArray[np.int64] | None = field(default=None, repr=False)
    skip: frozenset[int] = field(default=frozenset(), repr=False)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """One label for each image, or None. An LMDB is read through once for them."""
        if self.given_labels is not None:
            return select_labels(self.given_labels, self.count, self.skip)
        return self.reader.labels(self.count, self.skip)

    def batches(self, size: int) -> Iterator[Sample]:
        """All images in order, stacked by `size`, the last batch as long as it comes: blob name -> N x ..., float32.

        Every call begins at the first image. Raises DataError, naming the image, when one cannot be read or does not
        fit.
        """
        if size < 1:
            raise DataError(f"a batch needs 1 image or more, got {size}")
        samples = itertools.islice(self.reader.samples(self.skip), self.count)
        while batch := list(itertools.islice(samples, size)):
            yield {name: np.stack([sample[name] for sample in batch]) for name in batch[0]}

    def with_labels(self, labels: NDArray[np.int64]) -> Data:
        """The same images with other labels, one for each image used or for each there is. Raises DataError.

        Where images were skipped, there must be a label for each image there is: no others can be matched to images.
        """
        if self.skip and len(labels) != self.available:
            raise DataError(
                f"expected {self.available} labels, one for each image, skipped ones included, got {len(labels)}"
            )
        if len(labels) not in (self.count, self.available):
            raise DataError(f"expected {self.count} labels, one for each image, got {len(labels)}")
        return replace(self, given_labels=labels)

    def without_bad(self) -> Data:
        """The same data without the images that cannot be decoded, which one warning counts and names.

        Decodes every image once, until as many good ones are found as the limit allows. Images that decode but do not
        fit the network stay, and so stay errors. Raises DataError when none is left.
        """
        bad: dict[int, DataError] = {}
        for index, fault in enumerate(self.reader.faults()):
            if fault is not None:
                bad[index] = fault
            elif index + 1 - len(bad) == self.count:
                break
        if not bad:
            return self
        first = next(iter(bad.values()))
        if len(bad) == self.available:
            raise DataError(f"none of {self.available} images can be read: {first.problem}", path=first.path)
        named = "; ".join(str(fault) for fault in itertools.islice(bad.values(), _NAMED))
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        text = f"skipped {len(bad)} of {self.available} images, which cannot be read: {named}{more}"
        warn(text, stacklevel=3)
        count = min(self.count, self.available - len(bad))
        source = f"{self.source}, {len(bad)} skipped" + (
            f", {count} left" if count < self.count < self.available else ""
        )
        return replace(self, count=count, source=source, skip=frozenset(bad))


def open_data(
    spec: str | os.PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]],
    inputs: Mapping[str, Shape],
    preprocessing: Preprocessing,
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Data:
    """Open data for a network.

    `spec` is what `--data` takes (contract: folder, list file, .npy, .npz, LMDB, `random`), or an array, or arrays by
    input name. `inputs` are the network's input blobs with their shapes, batch axis included. `limit` keeps the first
    images only; `seed` is for `random`.

    Files are found and arrays checked now; images are decoded in `Data.batches`. Raises DataError for everything that
    cannot be read or does not fit, MissingExtraError for an LMDB without lmdb.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be 1 image or more, got {limit}")
    if not inputs:
        raise DataError("the network has no input blob to feed")
    reader = _reader(spec, dict(inputs), preprocessing, seed)
    available = len(reader)
    count = available if limit is None else min(limit, available)
    source = reader.source(f"first {count} of " if count < available else "")
    return Data(count, available, source, reader.preprocessing, reader)


def _reader(
    spec: str | os.PathLike[str] | NDArray[Any] | Mapping[str, NDArray[Any]],
    inputs: dict[str, Shape],
    preprocessing: Preprocessing,
    seed: int,
) -> Reader:
    if isinstance(spec, np.ndarray):
        spec = {"x": spec}
    if isinstance(spec, Mapping):
        return ArrayImages(MemoryArrays(*select_inputs(spec, list(inputs))), inputs, preprocessing)
    if spec == "":
        raise DataError("no data, the path is empty", hint="for this folder write .")
    if spec == "random":
        size = ImageInput.of(inputs, preprocessing).random_size()
        return ArrayImages(RandomImages(size, seed), inputs, preprocessing)
    path = Path(spec)
    if not path.exists():
        raise DataError(
            "no such file or folder", path=path, hint="data is a folder, a list file, .npy, .npz, an LMDB or `random`"
        )
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        return ArrayImages(ArrayFile(path), inputs, preprocessing)
    image_input = ImageInput.of(inputs, preprocessing)
    name = path.name or path.resolve().name
    if (path / "data.mdb").is_file():
        return LmdbEntries(path, name, image_input)
    if path.is_dir():
        return ImageFiles(tuple(folder_images(path)), f"folder {name}", image_input)
    if path.suffix.lower() in EXTENSIONS:
        return ImageFiles((path,), f"image {name}", image_input)
    files, labels = list_images(path)
    return ImageFiles(tuple(files), f"list {name}", image_input, labels)
