"""A blob of weights in a number format, computed as it is read: chunk by chunk, never held."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from lpcaffe.errors import PlanError
from lpcaffe.net import Layer, WeightBlob
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.numbers import NumberFormat, QFormat
from lpcaffe.numbers.huffman import CodeCounts
from lpcaffe.numbers.number_format import Codes
from lpcaffe.numbers.rounding import round_fp_stats, stream_of
from lpcaffe.quant.error_stats import ErrorStats
from lpcaffe.quant.policy import Policy
from lpcaffe.quant.sites import Site


def channels_of(layer: Layer, site: Site, shape: tuple[int, ...]) -> np.ndarray:
    """The output channel of each value of a parameter or output, as an array that broadcasts against `shape`.

    Weights of a convolution have their output channels on axis 0, those of an InnerProduct too unless they are
    transposed. Those of a Deconvolution are C x O/group: input channel c is of group c group / C.
    """
    if site.role == "output":
        axis = len(shape) - 1 if layer.type == "InnerProduct" else min(1, len(shape) - 1)
    elif layer.type == "Deconvolution" and site.role == "weights":
        groups, per_group = layer.message.convolution_param.group, shape[1]
        group_of = np.arange(shape[0]) // (shape[0] // groups)
        index: np.ndarray = group_of[:, None] * per_group + np.arange(per_group)
        return index.reshape(*index.shape, *(1,) * (len(shape) - 2))
    else:
        transposed = layer.type == "InnerProduct" and layer.message.inner_product_param.transpose
        axis = 1 if transposed and site.role == "weights" else 0
    return np.arange(shape[axis] if shape else 1).reshape(-1, *(1,) * (max(len(shape), 1) - axis - 1))


def check_channels(fmt: NumberFormat, channels: np.ndarray, site: Site) -> None:
    """Raise PlanError for a format that has not one parameter for each channel."""
    count = int(channels.max()) + 1
    if fmt.channels not in (None, count):
        problem = f"{site.role}: expected parameters for {count} channels, got {fmt.channels}"
        raise PlanError(problem, layer=site.layer)


@dataclass(frozen=True)
class RoundedBlob:
    """Another blob in a number format.

    source    the blob in full precision, of the shape `shape`
    measured  takes up what rounding did, each time the blob is read; None for nobody
    counted   takes up how often each code occurs, in the same way
    """

    source: WeightBlob
    shape: tuple[int, ...]
    layer: Layer
    site: Site
    format: NumberFormat
    policy: Policy
    measured: ErrorStats | None = None
    counted: dict[Site, CodeCounts] | None = None
    legacy: bool = False

    @property
    def index(self) -> int:
        """Its place in the layer."""
        assert self.site.blob is not None
        return self.site.blob

    def array(self) -> np.ndarray:
        """All values, float32. Nothing is measured."""
        values = np.asarray(self.source.array(), np.float32).reshape(self.shape)
        channels = channels_of(self.layer, self.site, self.shape)
        check_channels(self.format, channels, self.site)
        return self._quantized(values, self.format.select(channels) if self.format.channels else self.format, 0)

    def chunks(self, max_elements: int) -> Iterator[np.ndarray]:
        """The rounded values, float32, cut as the source is."""
        for _, rounded in self.pairs():
            yield rounded

    def pairs(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The values as they were and as they are rounded, chunk by chunk."""
        for chunk, rounded, _ in self._pieces():
            yield chunk, rounded

    def codes(self) -> Iterator[Codes]:
        """The integer codes, chunk by chunk. Nothing is measured."""
        for _, rounded, fmt in replace(self, measured=None, counted=None)._pieces():
            yield _codes(rounded, fmt)

    def _pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray, NumberFormat]]:
        """Chunk by chunk: the values, the rounded ones, and the format with the parameters of their channels."""
        start = 0
        channels = channels_of(self.layer, self.site, self.shape)
        check_channels(self.format, channels, self.site)
        per_value = np.broadcast_to(channels, self.shape).flat
        for chunk in finite_chunks(self.source, self.index):
            stop = start + chunk.size
            fmt = self.format.select(per_value[start:stop]) if self.format.channels else self.format
            if self.measured is not None and isinstance(fmt, QFormat) and fmt.width <= _WIDEST_FLOAT32:
                seed, stream = self.policy.seed, stream_of(self.site.stream)
                rounded, stats = round_fp_stats(
                    chunk, fmt.bd, fmt.ad, self.policy.rounding, seed=seed, stream=stream, index=start
                )
                self.measured.add_stats(chunk, stats)
            else:
                rounded = self._quantized(chunk, fmt, start)
                if self.measured is not None:
                    self.measured.add(chunk[None], rounded[None], fmt)
            if self.counted is not None:
                found = CodeCounts.of(_codes(rounded, fmt))
                self.counted[self.site] = self.counted[self.site] + found if self.site in self.counted else found
            start = stop
            yield chunk, rounded, fmt

    def _quantized(self, values: np.ndarray, fmt: NumberFormat, start: int) -> np.ndarray:
        wide = fmt.width > _WIDEST_FLOAT32
        given = values.astype(np.float64) if wide else values
        seed, stream = self.policy.seed, stream_of(self.site.stream)
        rounded = fmt.quantize(given, self.policy.rounding, seed=seed, stream=stream, index=start)
        return _in_float32(rounded, fmt, self.site) if wide else rounded


def _codes(rounded: np.ndarray, fmt: NumberFormat) -> Codes:
    """The codes of values that are in the format, as any integers."""
    if isinstance(fmt, QFormat) and fmt.width <= _WIDEST_FLOAT32:  # the product is exact, and no value is checked
        return (rounded * np.float32(2.0**fmt.ad)).astype(np.int32)
    return fmt.codes(rounded)


# The widest Qm.f that a float32 holds. Wider ones, of biases, are rounded in float64.
_WIDEST_FLOAT32 = 25


def _in_float32(values: np.ndarray, fmt: NumberFormat, site: Site) -> np.ndarray:
    """Values that were rounded in float64, where float32 holds them all and none saturates.

    What was a float32 and is rounded to a grid is one again, unless it saturates: either it was on the grid, or its
    code has at most 24 bits.
    """
    narrow = values.astype(np.float32)
    if (wrong := (narrow != values) | (np.abs(values) >= fmt.max)).any():
        problem = f"{site.role}: {values[wrong][0]:g} does not fit {fmt}, the grid of the sums that it is added to"
        raise PlanError(problem, layer=site.layer, hint="give the bias a format of its own")
    return narrow
