"""Number formats with a value for each channel, and the axis of an array along which they run.

The channels of a blob of weights are along axis 0, those of an activation along axis 1. Where they lie otherwise, the
caller gives a selected format (see `NumberFormat.select`), whose arrays broadcast as they are.
"""

from __future__ import annotations

import numpy as np

from lpcaffe.errors import NetError
from lpcaffe.layers.registry import Shape
from lpcaffe.numbers import NumberFormat
from lpcaffe.numbers.number_format import clipped


def aligned(fmt: NumberFormat, shape: Shape, site: int | str) -> NumberFormat:
    """A format that broadcasts against an array of this shape. Raises NetError for another number of channels."""
    if fmt.channels is None:
        return fmt
    axis = 0 if isinstance(site, int) else 1
    sizes = shape[axis : axis + 1]
    if sizes != (fmt.channels,):
        got = f"{sizes[0]} channels" if sizes else "no channels"
        raise NetError(f"expected {fmt.channels} channels, as {name_of(fmt)} has, got {got}")
    return fmt.select(np.arange(fmt.channels).reshape(-1, *[1] * (len(shape) - axis - 1)))


def is_selected(fmt: NumberFormat) -> bool:
    """Whether a format holds arrays, which cannot be hashed or printed."""
    return any(isinstance(getattr(fmt, name), np.ndarray) for name in fmt.VECTORS)


def name_of(fmt: NumberFormat) -> str:
    """A format in an error message."""
    return f"the selected {type(fmt).__name__}" if is_selected(fmt) else clipped(str(fmt))
