"""Data for calibration and validation: where it comes from, and batches of it as a network takes them.

`open_data` takes what `--data` takes: a folder of images, a list file, an image, .npy or .npz, a Caffe LMDB, the word
`random`, or arrays in memory. Images (files, uint8 arrays, databases) are preprocessed; floats in arrays are prepared
blobs and are fed as they are. What comes out must have the network's own C x H x W.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lpcaffe.data.arrays import load_arrays, select_inputs
from lpcaffe.data.caffe_lmdb import CaffeLmdb
from lpcaffe.data.image_files import EXTENSIONS, folder_images, list_images, read_image
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.errors import DataError, LpcaffeWarning, located

RANDOM_IMAGES = 32
_NAMED = 3  # skipped images that a warning names

Shape = tuple[int, ...]
Sample = dict[str, NDArray[np.float32]]  # one image: input blob name -> values, without the batch axis
Skip = frozenset[int]  # images left out, by their place among all, counted from 0
Labels = Callable[[int, Skip], NDArray[np.int64] | None]


@dataclass(frozen=True)
class Data:
    """Images for a network, read when they are asked for.

    `count` is the number of images, `source` says in words where they come from, without a folder's whole path, and
    `preprocessing` what is done to each; None when every input is fed as it was stored. `available` is the count
    of all there are: before a limit, and before any was skipped.
    """

    count: int
    available: int
    source: str
    preprocessing: Preprocessing | None
    _samples: Callable[[Skip], Iterator[Sample]] = field(repr=False)
    _labels: Labels = field(repr=False)
    _faults: Callable[[], Iterator[DataError | None]] = field(repr=False)
    _skip: Skip = field(default=frozenset(), repr=False)

    @cached_property
    def labels(self) -> NDArray[np.int64] | None:
        """One label for each image, or None. An LMDB is read through once for them."""
        return self._labels(self.count, self._skip)

    def batches(self, size: int) -> Iterator[Sample]:
        """All images in order, stacked by `size`, the last batch as long as it comes: blob name -> N x ..., float32.

        Every call starts anew. Raises DataError, naming the image, when one cannot be read or does not fit.
        """
        if size < 1:
            raise DataError(f"a batch needs 1 image or more, got {size}")
        samples = itertools.islice(self._samples(self._skip), self.count)
        while batch := list(itertools.islice(samples, size)):
            yield {name: np.stack([sample[name] for sample in batch]) for name in batch[0]}

    def with_labels(self, labels: NDArray[np.int64]) -> Data:
        """The same images with other labels, one for each image used or for each there is. Raises DataError.

        Where images were skipped, only labels for each there is are taken: others would say nothing of which is whose.
        """
        if self._skip and len(labels) != self.available:
            raise DataError(
                f"expected {self.available} labels, one for each image, skipped ones included, got {len(labels)}"
            )
        if len(labels) not in (self.count, self.available):
            raise DataError(f"expected {self.count} labels, one for each image, got {len(labels)}")
        return replace(self, _labels=_in_a_row(labels))

    def without_bad(self) -> Data:
        """The same data without the images that cannot be decoded, which one warning counts and names.

        Decodes every image once, until as many good ones are found as the limit allows. Images that decode but do not
        fit the network stay, and so stay errors. Raises DataError when none is left.
        """
        bad: dict[int, DataError] = {}
        for index, fault in enumerate(self._faults()):
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
        warnings.warn(text, LpcaffeWarning, stacklevel=3)
        count = min(self.count, self.available - len(bad))
        source = f"{self.source}, {len(bad)} skipped" + (
            f", {count} left" if count < self.count < self.available else ""
        )
        return replace(self, count=count, source=source, _skip=frozenset(bad))


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
    if isinstance(spec, np.ndarray):
        spec = {"x": spec}
    if isinstance(spec, Mapping):
        arrays, labels = select_inputs(spec, list(inputs))
        return _arrays(arrays, labels, None, inputs, preprocessing, limit)
    if spec == "":
        raise DataError("no data, the path is empty", hint="for this folder write .")
    if spec == "random":
        return _random(inputs, preprocessing, limit, seed)
    path = Path(spec)
    if not path.exists():
        raise DataError(
            "no such file or folder", path=path, hint="data is a folder, a list file, .npy, .npz, an LMDB or `random`"
        )
    if path.suffix.lower() in (".npy", ".npz") and path.is_file():
        arrays, labels = load_arrays(path, list(inputs))
        return _arrays(arrays, labels, path, inputs, preprocessing, limit)
    name, shape = _image_input(inputs, preprocessing)
    if (path / "data.mdb").is_file():
        return _lmdb(path, name, shape, preprocessing, limit)
    labels = None
    if path.is_dir():
        files, kind = folder_images(path), "folder"
    elif path.suffix.lower() in EXTENSIONS:
        files, kind = [path], "image"
    else:
        files, labels = list_images(path)
        kind = "list"

    def samples(skip: Skip) -> Iterator[Sample]:
        for index, file in enumerate(files):
            if index not in skip:
                with located(path=file):
                    yield {name: _fitting(preprocessing.apply(read_image(file)), shape, preprocessing)}

    def faults() -> Iterator[DataError | None]:
        return map(_fault, files)

    origin = f"{kind} {_last_name(path)}"
    return _data(origin, "files", len(files), limit, preprocessing, samples, _in_a_row(labels), faults)


def _fault(file: Path) -> DataError | None:
    """What is wrong with an image file."""
    try:
        read_image(file)
    except DataError as error:
        return error
    return None


def _in_a_row(labels: NDArray[np.int64] | None) -> Labels:
    """The labels of images in order, for `Data`."""
    return lambda count, skip: None if labels is None else np.delete(labels, sorted(skip))[:count]


def _data(
    origin: str,
    unit: str,
    available: int,
    limit: int | None,
    preprocessing: Preprocessing | None,
    samples: Callable[[Skip], Iterator[Sample]],
    labels: Labels,
    faults: Callable[[], Iterator[DataError | None]] = lambda: iter(()),
) -> Data:
    count = available if limit is None else min(limit, available)
    some = f"first {count} of " if count < available else ""
    return Data(count, available, f"{origin}, {some}{available} {unit}", preprocessing, samples, labels, faults)


def _arrays(
    arrays: Mapping[str, NDArray[Any]],
    labels: NDArray[np.int64] | None,
    path: Path | None,
    inputs: Mapping[str, Shape],
    preprocessing: Preprocessing,
    limit: int | None,
) -> Data:
    for name, array in arrays.items():
        with located(path=path, blob=name):
            _check_array(array, inputs[name], preprocessing)

    count = len(next(iter(arrays.values())))

    def samples(skip: Skip) -> Iterator[Sample]:  # nothing in an array needs decoding, so nothing is ever skipped
        for index in range(count):
            sample: Sample = {}
            for name, array in arrays.items():
                with located(path=path, blob=name):
                    sample[name] = _array_sample(array, index, inputs[name], preprocessing)
            yield sample

    origin = "arrays in memory" if path is None else f"array {path.name}"
    prepared = all(array.dtype.kind == "f" for array in arrays.values())
    unit = "prepared blobs" if prepared else "images"
    return _data(origin, unit, count, limit, None if prepared else preprocessing, samples, _in_a_row(labels))


def _check_array(array: NDArray[Any], shape: Shape, preprocessing: Preprocessing) -> None:
    if array.dtype.kind == "f":
        if array.shape[1:] != tuple(shape[1:]):
            raise DataError(f"expected blobs of {_times(('N', *shape[1:]))}, got {_times(array.shape)}")
        return
    if array.dtype != np.uint8:
        raise DataError(f"expected floats (prepared blobs) or uint8 (images), got {array.dtype}")
    _image_input({"": shape}, preprocessing)
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise DataError(f"expected images of N x H x W or N x H x W x 3 (RGB), got {_times(array.shape)}")


def _array_sample(array: NDArray[Any], index: int, shape: Shape, preprocessing: Preprocessing) -> NDArray[np.float32]:
    if array.dtype == np.uint8:
        image = np.asarray(array[index])
        return _fitting(preprocessing.apply(image[..., 0] if image.shape[2:] == (1,) else image), shape, preprocessing)
    with np.errstate(over="ignore"):
        blob: NDArray[np.float32] = array[index].astype(np.float32)
    if not np.isfinite(blob).all():
        raise DataError(
            f"blob {index} of the data (counted from 0) holds NaN or infinity, or a number too large for a float32"
        )
    return blob


def _random(inputs: Mapping[str, Shape], preprocessing: Preprocessing, limit: int | None, seed: int) -> Data:
    """Uniform uint8 images of the size at which preprocessing gives the network's input, one for every image input."""
    name, (_, channels, height, width) = _image_input(inputs, preprocessing)
    if preprocessing.transpose:
        height, width = width, height
    if preprocessing.resize is not None:
        width, height = preprocessing.resize
    elif isinstance(preprocessing.mean, np.ndarray):
        height, width = preprocessing.mean.shape[1:]
    elif preprocessing.crop is not None:
        height = width = preprocessing.crop
    size = (RANDOM_IMAGES, height, width) if channels == 1 else (RANDOM_IMAGES, height, width, channels)
    images = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    data = _arrays({name: images}, None, None, inputs, preprocessing, limit)
    some = f"first {data.count} of " if data.count < RANDOM_IMAGES else ""
    return replace(data, source=f"random ({some}{RANDOM_IMAGES} uniform uint8 images, seed {seed})")


def _lmdb(folder: Path, name: str, shape: Shape, preprocessing: Preprocessing, limit: int | None) -> Data:
    database = CaffeLmdb(folder)

    def samples(skip: Skip) -> Iterator[Sample]:
        with located(path=folder):
            for blob in database.blobs(preprocessing, skip):
                yield {name: _fitting(blob, shape, preprocessing)}

    origin = f"LMDB {_last_name(folder)}"
    return _data(origin, "entries", len(database), limit, preprocessing, samples, database.labels, database.faults)


def _image_input(inputs: Mapping[str, Shape], preprocessing: Preprocessing) -> tuple[str, Shape]:
    """The network's one input, to which images are fed. Raises DataError if it has others or takes no images."""
    if len(inputs) != 1:
        raise DataError(
            f"the network has {len(inputs)} inputs ({', '.join(inputs)}), images feed one",
            hint="give an .npz with one float array for each input",
        )
    name, shape = next(iter(inputs.items()))
    where = name or None
    if len(shape) != 4 or shape[1] not in (1, 3):
        raise DataError(
            f"images need an input of N x 1 or 3 x H x W, the network's is {_times(shape)}",
            blob=where,
            hint="give prepared float blobs as .npy or .npz",
        )
    if (preprocessing.channels == "gray") != (shape[1] == 1):
        hint = "--channels gray" if shape[1] == 1 else "--channels bgr or rgb"
        raise DataError(
            f"channels {preprocessing.channels} do not fit the network's {shape[1]}", blob=where, hint=f"give {hint}"
        )
    return name, shape


def _fitting(blob: NDArray[np.float32], shape: Shape, preprocessing: Preprocessing) -> NDArray[np.float32]:
    if blob.shape == tuple(shape[1:]):
        return blob
    height, width = shape[:1:-1] if preprocessing.transpose else shape[2:]
    what = "the image has"
    if preprocessing.resize is not None or preprocessing.crop is not None:
        what = "after --resize and --crop the image has"
    hint = f"give --resize {width}x{height}"
    if preprocessing.crop is not None:
        hint = f"give --crop {height}" if height == width else f"{hint} and no --crop"
    raise DataError(f"expected {_times(shape[1:])} (C x H x W), {what} {_times(blob.shape)}", hint=hint)


def _last_name(path: Path) -> str:
    return path.name or path.resolve().name


def _times(shape: Any) -> str:
    return " x ".join(str(size) for size in shape)
