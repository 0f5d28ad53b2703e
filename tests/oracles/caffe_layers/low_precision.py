"""ADaPTION's low-precision layers."""

import math
from typing import Any

import numpy as np

from caffe_layers.convolution import conv, convolution, inner_product, ip
from caffe_layers.core import CASES, Case, each, one, oracle


def rounded(x: np.ndarray, bd: int, ad: int) -> np.ndarray:
    """Nearest code, ties away from zero, clipped to +-(2^(width-1) - 1); exact for float32 values of moderate size."""
    limit = 2 ** (bd + ad - 1) - 1
    return each(x, lambda _, v: math.copysign(min(math.floor(abs(v) * 2**ad + 0.5), limit), v) / 2**ad + 0.0)[0]


def low(case: Case, text: str, **meaning: Any) -> Case:
    """The same layer in low precision: every blob twice."""
    doubled = [blob for blob in case.blobs for _ in range(2)]
    return case._replace(text=f"{case.text} lpfp_param {{ {text} }}", meaning=case.meaning | meaning, blobs=doubled)


@oracle("LPConvolution", "LPInnerProduct")
def low_precision(
    x: np.ndarray, *blobs: np.ndarray, bd: int, ad: int, round_bias: bool = False, **own: object
) -> list[np.ndarray]:
    w = rounded(blobs[0], bd, ad)
    b = blobs[2] if len(blobs) == 4 else None
    if b is not None and round_bias:
        b = rounded(b, bd, ad)
    return (convolution if "stride" in own else inner_product)(x, w, b, **own)


CASES["LPConvolution"] = [
    low(conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]), "bd: 2 ad: 3", bd=2, ad=3),
    low(conv("kernel_size: 3", [(6, 4, 3, 3), (6,)]), "bd: 1 ad: 5 round_bias: true", bd=1, ad=5, round_bias=True),
    low(
        conv("kernel_size: 2 group: 2 stride: 2 bias_term: false", [(6, 2, 2, 2)], group=2, stride=(2, 2)),
        "bd: 2 ad: 0 round_bias: true",
        bd=2,
        ad=0,
    ),
]


CASES["LPInnerProduct"] = [
    low(ip("", [(7, 40), (7,)]), "bd: 2 ad: 3", bd=2, ad=3),
    low(ip("", [(7, 40), (7,)]), "bd: 2 ad: 2 round_bias: true", bd=2, ad=2, round_bias=True),
    low(ip("transpose: true bias_term: false", [(40, 7)], transpose=True), "bd: 3 ad: 1", bd=3, ad=1),
]


@oracle("LPAct")
def lp_act(x: np.ndarray, *, bd: int, ad: int) -> list[np.ndarray]:
    return [rounded(x, bd, ad)]


CASES["LPAct"] = [
    one("lpfp_param", "bd: 2 ad: 3", bd=2, ad=3, exact=True),
    one("lpfp_param", "bd: 1 ad: 0 round_bias: true", bd=1, ad=0, exact=True),  # one bit: zero is all there is
    one("lpfp_param", "bd: 3 ad: 13 rounding_scheme: DETERMINISTIC", bd=3, ad=13, bottom=(5,), exact=True),
]
