"""Caffe's LMDB: a folder with data.mdb, a serialized Datum under every key, in the order of the keys.

A Datum holds an encoded image file, or raw bytes C x H x W with colours as BGR, or C x H x W floats in the blob's own
order. All go through crop, mean and scale, the floats too, as in Caffe; only floats cannot be resized.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lpcaffe.data.image_files import decode_image
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.errors import DataError, MissingExtraError, reason, shape_text
from lpcaffe.formats.schema import Datum, Message

# LMDB forbids a process to open an environment twice; an entry lives as long as somebody reads from it.
_ENVIRONMENTS: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()


class CaffeLmdb:
    """A database open for reading; `len()` is its number of entries. Raises DataError, or MissingExtraError."""

    def __init__(self, folder: Path) -> None:
        try:
            import lmdb
        except ImportError as error:
            raise MissingExtraError(
                "reading an LMDB needs the package lmdb", path=folder, hint="pip install 'lpcaffe[lmdb]'"
            ) from error
        self.folder = folder
        key = str(folder.resolve())
        try:
            self._environment = _ENVIRONMENTS.get(key) or lmdb.open(key, readonly=True, lock=False)
            _ENVIRONMENTS[key] = self._environment
            stat, info = self._environment.stat(), self._environment.info()
        except lmdb.Error as error:
            raise DataError(f"unreadable LMDB: {reason(error)}", path=folder) from error
        # A page beyond the end of the file is no exception but a bus error, so look before reading.
        expected, got = (info["last_pgno"] + 1) * stat["psize"], (folder / "data.mdb").stat().st_size
        if got < expected:
            raise DataError(f"this LMDB is truncated: expected {expected} bytes, got {got}", path=folder / "data.mdb")
        self._entries = int(stat["entries"])
        if not self._entries:
            raise DataError("this LMDB is empty", path=folder)

    def __len__(self) -> int:
        return self._entries

    def blobs(self, preprocessing: Preprocessing, skip: Collection[int] = frozenset()) -> Iterator[NDArray[np.float32]]:
        """Every entry but those of `skip`, preprocessed, C x H x W."""
        for key, value in self._values(skip):
            with self._naming(key):
                blob = _blob(_datum(value), preprocessing)
            yield blob

    def labels(self, count: int, skip: Collection[int] = frozenset()) -> NDArray[np.int64]:
        """The labels of the first `count` entries but those of `skip`; a Datum without one counts as 0, as in Caffe."""
        labels = np.zeros(count, np.int64)
        for index, (key, value) in enumerate(itertools.islice(self._values(skip), count)):
            with self._naming(key):
                labels[index] = _datum(value).label
        return labels

    def faults(self) -> Iterator[DataError | None]:
        """For every entry, why there is no image in it; None where there is one."""
        for key, value in self._values():
            fault = None
            try:
                with self._naming(key):
                    _pixels(_datum(value))
            except DataError as error:
                fault = error
            yield fault

    def _values(self, skip: Collection[int] = frozenset()) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values in order, but those of `skip`."""
        import lmdb

        try:
            with self._environment.begin() as transaction:
                for index, (key, value) in enumerate(transaction.cursor()):
                    if index not in skip:
                        yield key, value
        except lmdb.Error as error:
            raise DataError(f"unreadable LMDB: {reason(error)}", path=self.folder) from error

    @contextmanager
    def _naming(self, key: bytes) -> Iterator[None]:
        """Errors with the key that they are about."""
        try:
            yield
        except DataError as error:
            name = key.decode(errors="backslashreplace")
            raise DataError(f'key "{name}": {error.problem}', path=self.folder, hint=error.hint) from error


def _datum(value: bytes) -> Message:
    try:
        return Datum.FromString(value)
    except DecodeError as error:
        raise DataError("the value is no Caffe Datum") from error


def _pixels(datum: Message) -> NDArray[Any]:
    """What a Datum holds: an image, uint8, H x W x 3 in RGB or H x W; or floats, C x H x W."""
    if datum.encoded:
        return decode_image(datum.data)
    shape = (datum.channels, datum.height, datum.width)
    values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
    if min(shape) < 1 or values.size != shape[0] * shape[1] * shape[2]:
        raise DataError(f"expected {shape_text(shape)} values, got {values.size}")
    planes = values.reshape(shape)
    if values.dtype != np.uint8:
        return planes
    if shape[0] not in (1, 3):
        raise DataError(f"expected an image of 1 or 3 channels, got {shape[0]}")
    return planes[0] if shape[0] == 1 else planes[::-1].transpose(1, 2, 0)


def _blob(datum: Message, preprocessing: Preprocessing) -> NDArray[np.float32]:
    pixels = _pixels(datum)
    if pixels.dtype == np.uint8:
        return preprocessing.apply(pixels)
    if preprocessing.resize not in (None, pixels.shape[:0:-1]):
        raise DataError("floats cannot be resized", hint="give no --resize")
    return preprocessing.transform(pixels)
