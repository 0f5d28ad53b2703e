"""When a user is warned about the range of the data, and when not."""

import numpy as np
import pytest

from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.range_check import pixel_range, range_warnings

MEAN = Preprocessing(mean=(104, 117, 123))  # -123 .. 151
UNIT = Preprocessing(scale=0.00390625, channels="gray")  # 0 .. 0.996
MTCNN = Preprocessing(mean=(127.5,), scale=0.0078125, channels="rgb", transpose=True)  # -0.996 .. 0.996
NOTHING = Preprocessing()


@pytest.mark.parametrize("preprocessing", [MEAN, UNIT, MTCNN, NOTHING, Preprocessing(mean=(9,), scale=-2)])
def test_the_range_is_that_of_black_and_white_and_all_channels(preprocessing):
    colors = (4, 5) if preprocessing.channels == "gray" else (4, 5, 3)
    ends = [preprocessing.apply(np.full(colors, pixel, np.uint8)) for pixel in (0, 255)]
    low, high = pixel_range(preprocessing)
    assert np.min(ends) == np.float32(low)
    assert np.max(ends) == np.float32(high)


def test_the_range_of_a_mean_image_is_that_of_its_extremes():
    assert pixel_range(Preprocessing(mean=np.array([[[90, 130, 100]]], np.float32), scale=0.5)) == (-65, 82.5)


@pytest.mark.parametrize(
    ("low", "high", "channels", "used", "net"),
    [
        (0, 255, 1, None, UNIT),  # pixels into a network that was trained on 0..1
        (0, 255, 1, Preprocessing(channels="gray"), UNIT),  # the same from images, with --scale 1
        (0, 255, 3, None, MEAN),  # no mean subtracted
        (0, 255, 3, NOTHING, MEAN),
        (0, 1, 3, None, MEAN),  # scaled to 0..1 for a network that takes -123..151
        (-1, 1, 3, None, MEAN),
        (-123, 151, 3, None, MTCNN),  # a mean but no scale
        (0, 255, 3, None, None),  # colours without a mean, nothing known
        (0, 255, 3, NOTHING, None),
        (0, 255, 3, NOTHING, Preprocessing(crop=5)),
        (0, 4.335, 3, Preprocessing(scale=0.017), None),
    ],
)
def test_a_range_that_does_not_fit_gives_one_warning(low, high, channels, used, net):
    (text,) = range_warnings(low, high, channels, used, net)
    assert text.startswith(f"the data range over {low:.4g} to {high:.4g}")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("low", "high", "channels", "used", "net"),
    [
        (0, 0.99609375, 1, None, UNIT),
        (0, 1, 1, None, UNIT),  # 1/255 in place of 1/256
        (-123, 151, 3, None, MEAN),
        (-130, 160, 3, None, MEAN),  # a mean image in place of mean values
        (-40, 60, 3, None, MEAN),  # dull images
        (-1, 1, 3, None, MTCNN),
        (-123, 151, 3, MEAN, Preprocessing(crop=5)),  # the network's crop says nothing of its mean
        (-104, -104, 3, MEAN, MEAN),  # black images, but as the network wants them
        (0, 255, 3, MEAN, Preprocessing(mean=(104, 117, 123), crop=5)),  # mean and scale are the network's
        (0, 255, 1, None, None),  # grey with nothing known: both are usual
        (0, 255, 1, Preprocessing(channels="gray"), None),
        (0, 1, 3, None, None),
        (-123, 151, 3, None, None),
        (2, 255, 3, Preprocessing(mean=(0,)), None),  # the user gave a mean
        (0, 60, 7, None, None),  # features, no image
    ],
)
def test_a_range_that_may_be_right_gives_none(low, high, channels, used, net):
    assert range_warnings(low, high, channels, used, net) == []


def test_the_advice_fits_the_kind_of_data():
    assert "float arrays" in range_warnings(0, 255, 1, None, UNIT)[0]
    assert "leave out --mean and --scale" in range_warnings(0, 255, 3, NOTHING, MEAN)[0]
    assert "--mean B,G,R" in range_warnings(0, 255, 3, NOTHING, None)[0]
    assert "prepare the blobs" in range_warnings(0, 255, 3, None, None)[0]
