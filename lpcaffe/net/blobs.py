"""Blobs of weights, wherever they are: in a file, in memory, or still to be computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lpcaffe.errors import WeightsError, located
from lpcaffe.formats.blobproto import convert

# How many values of a blob are read at a time: 4 MiB of float32.
CHUNK = 1 << 20


class WeightBlob(Protocol):
    """What every blob of weights answers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, as stored."""

    @property
    def legacy(self) -> bool:
        """Whether the shape is the four dimensions of files from before 2014, to be matched by element count."""

    def array(self) -> np.ndarray:
        """All values, float32, of `shape`."""

    def chunks(self, max_elements: int) -> Iterator[np.ndarray]:
        """The values in C order, as one-dimensional arrays of at most `max_elements` in their stored dtype."""


# The blobs of each layer, by layer name, in the order of the file.
Weights = Mapping[str, Sequence[WeightBlob]]


def finite_chunks(blob: WeightBlob, index: int) -> Iterator[np.ndarray]:
    """The values of a blob as float32, CHUNK at a time.

    Raises WeightsError, naming blob and first index, when one is NaN or infinite, or beyond the range of a float32.
    """
    start = 0
    for stored in blob.chunks(CHUNK):
        with located(blob=index):
            chunk = convert(stored, np.float32)
        # A sum of finite values is finite unless it overflows: only then look closer.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(np.sum(chunk))
        bad = np.flatnonzero(~np.isfinite(chunk)) if suspect else np.empty(0, np.intp)
        if bad.size:
            at = np.unravel_index(start + int(bad[0]), blob.shape or (1,))
            where = ", ".join(str(int(i)) for i in at)
            raise WeightsError(f"the value at [{where}] is {chunk[bad[0]]}, expected a finite number", blob=index)
        yield chunk
        start += chunk.size


def side_by_side(a: WeightBlob, b: WeightBlob) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The stored values of two blobs, piece by piece and both cut alike, as far as the shorter one goes.

    Files cut their blobs as they like. Memory holds one piece of each.
    """
    streams = [blob.chunks(CHUNK) for blob in (a, b)]
    left = [np.empty(0, np.float32), np.empty(0, np.float32)]
    while True:
        left = [piece if piece.size else next(stream, piece) for piece, stream in zip(left, streams, strict=True)]
        size = min(piece.size for piece in left)
        if not size:
            return
        yield left[0][:size], left[1][:size]
        left = [piece[size:] for piece in left]


@dataclass(frozen=True)
class ArrayBlob:
    """A blob of weights in memory."""

    values: np.ndarray
    legacy: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the array."""
        return tuple(self.values.shape)

    def array(self) -> np.ndarray:
        """The array itself."""
        return self.values

    def chunks(self, max_elements: int) -> Iterator[np.ndarray]:
        """The values in C order, cut."""
        flat = self.values.reshape(-1)
        for start in range(0, flat.size, max_elements):
            yield flat[start : start + max_elements]


@dataclass(frozen=True)
class ScaledBlob:
    """Another blob multiplied by a gain for each index of one axis, computed in float64 when it is read."""

    source: WeightBlob
    gain: np.ndarray
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions of the source."""
        return self.source.shape

    @property
    def legacy(self) -> bool:
        """As the source."""
        return self.source.legacy

    def array(self) -> np.ndarray:
        """All values, float32."""
        return np.concatenate([*self.chunks(1 << 20)]).reshape(self.shape)

    def chunks(self, max_elements: int) -> Iterator[np.ndarray]:
        """The scaled values, chunk by chunk of the source."""
        inner = int(np.prod(self.shape[self.axis + 1 :], dtype=np.int64))
        start = 0
        for chunk in self.source.chunks(max_elements):
            channel = np.arange(start, start + chunk.size) // inner % self.gain.size
            with np.errstate(over="ignore", invalid="ignore"):
                scaled = (chunk.astype(np.float64) * self.gain[channel]).astype(np.float32)
            yield scaled
            start += chunk.size
