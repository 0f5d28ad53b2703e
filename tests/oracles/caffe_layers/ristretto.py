"""Ristretto's layers, and Quant of Label-free compression."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from caffe_layers.convolution import conv, ip
from caffe_layers.core import CASES, ORACLES, Case, each, one, oracle

Rounds = Callable[[float], float]
Format = tuple[Any, ...]  # the name of a rounding below, and its numbers


def half_away(v: float) -> float:
    return math.copysign(math.floor(abs(v) + 0.5), v)


def fixed(bw: int, fl: int) -> Rounds:
    step = 2.0**-fl
    return lambda v: half_away(min(max(v, -(2 ** (bw - 1)) * step), (2 ** (bw - 1) - 1) * step) / step) * step


def minifloat(mantissa: int, exponent: int) -> Rounds:
    bias = 2 ** (exponent - 1) - 1

    def rounds(v: float) -> float:
        field = math.frexp(v)[1] - 1 + bias
        if v == 0 or field < 0 or field - bias < -126:
            return 0.0
        if field > 2**exponent - 1:
            return math.copysign((2 - 2.0**-mantissa) * 2.0 ** (2**exponent - 1 - bias), v)
        binade = 2.0 ** (field - bias)
        return math.copysign((1 + half_away((abs(v) / binade - 1) * 2**mantissa) / 2**mantissa) * binade, v)

    return rounds


def power_of_2(low: int, high: int) -> Rounds:
    def rounds(v: float) -> float:
        exponent = half_away(math.log2(abs(v))) if v else low
        return (1 if v >= 0 else -1) * 2.0 ** min(max(exponent, low), high)

    return rounds


ROUNDINGS = {"fixed": fixed, "minifloat": minifloat, "power of 2": power_of_2, "as it is": lambda: float}


def rounding(fmt: Format) -> Rounds:
    return ROUNDINGS[fmt[0]](*fmt[1:])


def apply(x: np.ndarray, fmt: Format) -> np.ndarray:
    rounds = rounding(fmt)
    return each(x, lambda _, v: rounds(v))[0]


def quantized(run: Callable[..., list[np.ndarray]]) -> Callable[..., list[np.ndarray]]:
    """The oracle of a layer on numbers of narrow formats."""

    def on_narrow(
        x: np.ndarray, *blobs: np.ndarray, bottom: Format, weights: Format, top: Format, bias: Format, **own: object
    ) -> list[np.ndarray]:
        narrow = [apply(blob, fmt) for blob, fmt in zip(blobs, (weights, bias), strict=False)]
        return [apply(run(apply(x, bottom), *narrow, **own)[0], top)]

    return on_narrow


for kind in ("Convolution", "Deconvolution"):
    oracle(f"{kind}Ristretto")(quantized(ORACLES[kind]))
oracle("FcRistretto")(quantized(ORACLES["InnerProduct"]))


def narrow(case: Case, text: str, bottom: Format, weights: Format, top: Format, bias: Format, **new: Any) -> Case:
    """The same layer on numbers of these formats."""
    meaning = case.meaning | {"bottom": bottom, "weights": weights, "top": top, "bias": bias}
    return case._replace(text=f"{case.text} quantization_param {{ {text} }}", meaning=meaning, **new)


def formats(base: Case, strided: Case) -> list[Case]:
    """A layer in each precision. With few bits every product and every sum is exact, and so is the top."""
    three = "bw_layer_in: 8 fl_layer_in: 5 bw_params: 5 fl_params: 4 bw_layer_out: 9 fl_layer_out: 3"
    plain = ("as it is",)
    mini, mini_m0, powers = ("minifloat", 3, 4), ("minifloat", 0, 3), ("power of 2", -4, 1)
    return [
        narrow(base, three, ("fixed", 8, 5), ("fixed", 5, 4), ("fixed", 9, 3), ("fixed", 5, 4), exact=True),
        narrow(
            strided,
            three.replace("5 fl_p", "7 fl_p"),
            ("fixed", 8, 5),
            ("fixed", 7, 4),
            ("fixed", 9, 3),
            ("fixed", 7, 4),
            exact=True,
        ),
        narrow(base, "", *[("fixed", 32, 16)] * 4),
        narrow(
            base,
            "bw_layer_in: 3 fl_layer_in: -1 bw_params: 1 fl_params: 0 bw_layer_out: 4 fl_layer_out: -2",
            ("fixed", 3, -1),
            ("fixed", 1, 0),
            ("fixed", 4, -2),
            ("fixed", 1, 0),
            exact=True,
        ),
        narrow(base, "precision: MINIFLOAT mant_bits: 3 exp_bits: 4", *[mini] * 4),
        narrow(strided, "precision: MINIFLOAT mant_bits: 0 exp_bits: 3", *[mini_m0] * 4),
        narrow(base, "precision: MINIFLOAT", *[("minifloat", 23, 8)] * 4),
        narrow(
            base,
            "precision: INTEGER_POWER_OF_2_WEIGHTS exp_min: -4 exp_max: 1 " + three,
            ("fixed", 8, 5),
            powers,
            ("fixed", 9, 3),
            plain,
            exact=len(base.blobs) == 1,
        ),
        narrow(
            strided,
            "precision: INTEGER_POWER_OF_2_WEIGHTS",
            ("fixed", 32, 16),
            ("power of 2", -8, -1),
            ("fixed", 32, 16),
            plain,
        ),
    ]


CASES["ConvolutionRistretto"] = formats(
    conv("kernel_size: 3 bias_term: false", [(6, 4, 3, 3)]),
    conv("kernel_size: 2 group: 2 stride: 2 pad: 1", [(6, 2, 2, 2), (6,)], group=2, stride=(2, 2), pad=(1, 1)),
)
CASES["DeconvolutionRistretto"] = formats(
    conv("kernel_size: 3", [(4, 6, 3, 3), (6,)], bottom=(2, 4, 5, 3)),
    conv("kernel_size: 2 group: 2 stride: 2 bias_term: false", [(4, 3, 2, 2)], group=2, stride=(2, 2)),
)
CASES["FcRistretto"] = formats(
    ip("", [(7, 40), (7,)]),
    ip("transpose: true bias_term: false axis: 2", [(10, 7)], transpose=True, axis=2),
)


@oracle("LRNRistretto")
def lrn(
    x: np.ndarray, *, fmt: Format, size: int = 5, alpha: float = 1.0, beta: float = 0.75, k: float = 1.0
) -> list[np.ndarray]:
    """Channel by channel at each pixel: the sum takes in the next channel, then lets the oldest go."""
    rounds, y = rounding(fmt), np.empty(x.shape)
    channels = x.shape[1]
    for n in range(x.shape[0]):
        for at in np.ndindex(x.shape[2:]):
            q = [rounds(float(x[(n, c, *at)])) for c in range(channels)]
            total = 0.0
            for head in range(channels + size // 2):
                if head < channels:
                    total = rounds(total + rounds(q[head] ** 2))
                if head >= size:
                    total = rounds(total - rounds(q[head - size] ** 2))
                c = head - size // 2
                if c >= 0:
                    scale = rounds(k + rounds(total * (alpha / size)))
                    y[(n, c, *at)] = rounds(q[c] * rounds(scale**-beta))
    return [y]


def mini(text: str, lrn_text: str, fmt: Format, bottom: tuple[int, ...] = (2, 7, 3, 4), **meaning: float) -> Case:
    text = f"lrn_param {{ {lrn_text} }} quantization_param {{ precision: MINIFLOAT {text} }}"
    return Case(text, [bottom], {"fmt": fmt, **meaning})


CASES["LRNRistretto"] = [
    mini("mant_bits: 5 exp_bits: 4", "", ("minifloat", 5, 4)),
    mini(
        "mant_bits: 3 exp_bits: 4",
        "local_size: 3 alpha: 0.75 beta: 0.5 k: 2",
        ("minifloat", 3, 4),
        size=3,
        alpha=0.75,
        beta=0.5,
        k=2,
    ),
    mini(
        "mant_bits: 7 exp_bits: 5", "local_size: 9", ("minifloat", 7, 5), (3, 4, 2, 5), size=9
    ),  # more than the channels
    mini("mant_bits: 2 exp_bits: 3", "local_size: 1", ("minifloat", 2, 3), size=1),  # sums beyond the largest number
]


@oracle("Quant")
def quant(x: np.ndarray, *, alpha: float) -> list[np.ndarray]:
    return each(x, lambda _, v: min(127, math.floor(v / alpha + 0.5) if v > 0 else 0) * alpha)


CASES["Quant"] = [
    one("relu_param", "negative_slope: 0.0625", exact=True, alpha=0.0625),
    one("relu_param", "negative_slope: 0.0078125", exact=True, alpha=0.0078125),  # most are beyond 127 steps
    one("relu_param", "negative_slope: 0.0937", alpha=float(np.float32(0.0937)), bottom=(2, 5, 3)),
    one("relu_param", "negative_slope: 3", exact=True, alpha=3),
]
