"""Allocation as ADaPTION's tools propose it, defects included, for those who need the formats of that time."""

from __future__ import annotations

from lpcaffe.allocation.registry import Tensor, method
from lpcaffe.errors import PlanError
from lpcaffe.numbers.qformat import QFormat


@method("adaption")
def adaption(tensor: Tensor, width: int, *, threshold: float = 0.0) -> QFormat:
    """What `distribute_bits` of ADaPTION (python/caffe/quantization/qmf_check.py, July 2017) proposes, bit for bit.

    m is the smallest integer from 0 to `width` with max(x) <= 2^m. As long as the fraction of x > 2^m - 1 that was
    measured last is below `threshold` (so never for 0), it is measured, and m lowered by one unless m < 2. The format
    is Q(m + 1).(width - m - 1).

    Its defects are kept: only positive values are looked at; a maximum of exactly 2^m saturates by one step; m is
    lowered once more after the fraction that is too large, so the range is a quarter of what the threshold allows;
    weights get the format of the **bias**, which is the blob that the tool reads; outputs are looked at after an
    in-place ReLU. Without a bias the tool fails, and so does this: PlanError.
    """
    if not 0 <= threshold <= 1:
        raise PlanError(f"threshold: expected 0 <= threshold <= 1, got {threshold}", hint="0.01 is 1 %")
    seen = tensor.bias if tensor.role == "weights" else tensor.read
    if seen is None:
        raise PlanError(
            "the method adaption takes the format of the weights from the bias, and this layer has none",
            hint="ADaPTION's tool fails here too; take another method for the weights (--weight-method max)",
        )
    m = next((m for m in range(width) if seen.max <= 2**m), width)
    fraction = 0.0
    while fraction < threshold:
        fraction = int(seen.exceed_counts[m]) / max(seen.count, 1)
        if m < 2:
            break
        m -= 1
    return QFormat(m + 1, width - m - 1)
