"""Does the data's range look like what the network was trained on?

Calibration on wrongly scaled data gives formats that are wrong everywhere, silently. Only facts are used: the smallest
and largest value that are fed, and the mean and scale of the network's own preprocessing (its transform_param, or its
entry in the zoo), which map pixels 0..255 to a known range LOW..HIGH. They are known if there is a mean or a scale
other than 1; a transform_param with only a crop does not change values. Four rules, the first that holds:

- The network's mean and scale are known, and images were preprocessed with the same: no warning.
- They are known, and a value lies outside LOW..HIGH by more than a tenth of HIGH - LOW: no such pixel exists.
- They are known, and the data span less than 1/32 of HIGH - LOW: eight grey levels of 256.
- They are not known, the input has three channels, no value is negative and the largest exceeds 1: almost every
  released network for colour images subtracts a mean.

A grey input with nothing known is never warned about: there, both 0..1 and 0..255 are usual.
"""

from __future__ import annotations

import numpy as np

from lpcaffe.data.preprocessing import Preprocessing

TOLERANCE = 0.1  # of the expected span: bicubic resizing overshoots, mean images differ from mean values
NARROWEST = 1 / 32


def range_warnings(
    data_min: float,
    data_max: float,
    channels: int,
    preprocessing: Preprocessing | None,
    net_preprocessing: Preprocessing | None,
) -> list[str]:
    """Sentences for the user, none if nothing is suspicious.

    `data_min` and `data_max` are of the blob as it is fed, `channels` its C; `preprocessing` is what was applied to
    images, None for prepared blobs; `net_preprocessing` is what the network is known to expect, None if that is unknown
    or known in part only (its mean_file was not read).
    """
    fed = f"the data range over {data_min:.4g} to {data_max:.4g}"
    if net_preprocessing is None or net_preprocessing.same_values(Preprocessing()):
        if channels == 3 and data_min >= 0 and data_max > 1 and (preprocessing is None or preprocessing.mean is None):
            advice = "prepare the blobs with it" if preprocessing is None else "give --mean B,G,R (often 104,117,123)"
            return [f"{fed}: no mean was subtracted, which most networks for colour images expect; {advice}"]
        return []
    if preprocessing is not None and preprocessing.same_values(net_preprocessing):
        return []
    low, high = pixel_range(net_preprocessing)
    slack = TOLERANCE * (high - low)
    if data_min < low - slack or data_max > high + slack:
        problem = "lie outside it"
    elif data_max - data_min < NARROWEST * (high - low):
        problem = "fill little of it"
    else:
        return []
    advice = (
        "blobs in float arrays are fed as they are, so prepare them with the network's mean and scale"
        if preprocessing is None
        else "leave out --mean and --scale to use the network's own"
    )
    return [f"{fed}; the network expects {low:.4g} to {high:.4g} and the data {problem}: {advice}"]


def pixel_range(preprocessing: Preprocessing) -> tuple[float, float]:
    """The range to which the mean and the scale map pixels of 0 to 255, over all channels."""
    mean = np.zeros(1) if preprocessing.mean is None else np.asarray(preprocessing.mean)
    ends = (
        (0 - float(mean.max())) * preprocessing.scale,
        (255 - float(mean.min())) * preprocessing.scale,
    )
    return min(ends), max(ends)
