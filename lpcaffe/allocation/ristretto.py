"""Allocation as Ristretto does it."""

from __future__ import annotations

import math

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.numbers.qformat import QFormat


@method("ristretto")
def ristretto(tensor: Tensor, width: int) -> QFormat:
    """Ristretto's dynamic fixed point: integer lengths from the largest magnitude, one bit less for outputs.

    il = ceil(log2(max |w|) + 1) for weights, il = ceil(log2(max |y|)) for outputs, bd = il and ad = width - il
    (Gysel et al. 2016, arXiv:1604.03168; `ristretto quantize`). The range of outputs ends between half their largest
    value and that value: Ristretto gives the top of the range away on purpose. Outputs are those after the ReLU, which
    is where its code, with ReLUs in place, reads them. The logarithm is exact here.
    """
    largest = tensor.read.abs_max
    if largest == 0:
        return QFormat(1, width - 1)
    mantissa, exponent = math.frexp(largest)
    rounded_up = exponent - 1 if mantissa == 0.5 else exponent  # ceil(log2(largest))
    il = rounded_up + 1 if tensor.role == "weights" else rounded_up
    return QFormat(il, width - il)
