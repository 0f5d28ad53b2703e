"""What the writers of blobs share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lpcaffe.formats.caffemodel import BlobSource
from lpcaffe.net import WeightBlob
from lpcaffe.net.blobs import finite_chunks
from lpcaffe.quant.apply import Quantized
from lpcaffe.quant.rounded import RoundedBlob


def copied(blob: WeightBlob, shape: tuple[int, ...], index: int, judged: RoundedBlob | None = None) -> BlobSource:
    """A blob as it is. `judged` is the same blob in a format, and measures what rounding would do to it."""
    if judged is None:
        return BlobSource(shape, lambda: finite_chunks(blob, index))

    def chunks() -> Iterator[np.ndarray]:
        for chunk, _ in judged.pairs():
            yield chunk

    return BlobSource(shape, chunks)


def judged_bias(quantized: Quantized, layer: str, index: int, blob: WeightBlob) -> RoundedBlob | None:
    """A bias that stays in full precision, in the format of its weights: whether that would hold it is worth knowing.

    None for other blobs, and where the weights have no format that a bias can share.
    """
    weights = quantized.parameters.get(layer, {}).get(0)
    if index != 1 or weights is None or 1 in quantized.parameters[layer]:
        return None
    bias = quantized.site(layer, "bias")
    fmt = quantized.formats[weights]
    return quantized.rounded(bias, blob, quantized.shapes.params[layer][index], fmt)
