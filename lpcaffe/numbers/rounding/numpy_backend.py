"""The reference: the rounding rule in NumPy, piece by piece."""

from __future__ import annotations

import numpy as np

from lpcaffe.numbers.qformat import QFormat
from lpcaffe.numbers.rounding import philox
from lpcaffe.numbers.rounding.scheme import Floats, Scheme

PIECE = 1 << 14
"""Elements in a piece: 64 KiB of float32, so that temporaries stay in the cache and their memory is reused."""


def round_flat(
    x: Floats, out: Floats, scheme: Scheme, fmt: QFormat, seed: int, stream: int, index: int, threads: int | None = None
) -> None:
    """Round the contiguous 1-D array `x` into `out`, which may be `x`. `index` is that of the first element."""
    for start in range(0, x.size, PIECE):
        part = slice(start, start + PIECE)
        out[part] = rounded(x[part], scheme, fmt, seed, stream, index + start)


def rounded(x: Floats, scheme: Scheme, fmt: QFormat, seed: int, stream: int, index: int) -> Floats:
    """round_fp of a piece, as a new array."""
    real = x.dtype.type
    u = philox.uniforms(seed, stream, index, x.size) if scheme.random else np.zeros(1, np.float32)
    with np.errstate(all="ignore"):  # a signalling NaN is reported, and tiny numbers underflow: both are meant
        saturated = np.clip(x, real(fmt.min), real(fmt.max))
        y = saturated * real(2.0**fmt.ad)
        if fmt.ad < 0:  # a tiny x can underflow; any tiny number of its sign does
            np.copyto(y, saturated, where=y == 0)
        q = scheme.array(y, u)
        q *= real(fmt.step)
        q += real(0)  # -0.0 becomes +0.0
        nan = np.isnan(x)
    if nan.any():  # copied as integers, or a signalling NaN could be quieted
        bits = np.dtype(f"u{x.itemsize}")
        np.copyto(q.view(bits), x.view(bits), where=nan)
    return q
