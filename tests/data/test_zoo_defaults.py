"""Preprocessing of a released network is known by the checksum of its weights, unless the prototxt says it itself."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

import lpcaffe as lp
from lpcaffe.data import net_preprocessing, suspicious_range
from lpcaffe.zoo import Entry

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 5 dim: 5 } } %s }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param { num_output: 2 } }
"""
KNOWN = {"resize": (9, 7), "crop": 5, "mean": (10, 20, 30), "scale": 0.5, "channels": "rgb"}
IMAGES = np.random.default_rng(3).integers(0, 256, (4, 11, 8, 3), np.uint8)


@pytest.fixture
def known(monkeypatch, tmp_path):
    """A function that makes the zoo know KNOWN of the weights in net.caffemodel, by the checksum of an algorithm."""

    def tell(algorithm="sha256", size=None, preprocessing=KNOWN):
        data = (tmp_path / "net.caffemodel").read_bytes()
        entry = Entry(
            name="made_up",
            title="t",
            file="f",
            licence="l",
            prototxt=tmp_path,
            url="http://h/f",
            size=len(data) if size is None else size,
            preprocessing=preprocessing,
            **{algorithm: hashlib.new(algorithm, data).hexdigest()},
        )
        monkeypatch.setattr("lpcaffe.zoo.entries.zoo", lambda: {"made_up": entry})

    return tell


def applied(net, **given):
    """What is done to an image, and the words for where the data come from."""
    data = lp.images(IMAGES, net, **given)
    assert next(data.batches(2))["data"].shape == (2, 3, 5, 5)
    return SimpleNamespace(**vars(data.preprocessing), source=data.source)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
def test_the_zoo_is_obeyed_and_named(make_net, known, algorithm):
    net = make_net(NET % "")
    known(algorithm)
    used = applied(net)
    assert (used.resize, used.crop, used.mean, used.scale, used.channels) == ((9, 7), 5, (10, 20, 30), 0.5, "rgb")
    assert used.source == "arrays in memory, 4 images, preprocessed as the zoo says of made_up"
    assert net_preprocessing(net).to_json() == {
        "resize": [9, 7],
        "crop": 5,
        "mean": [10, 20, 30],
        "scale": 0.5,
        "channels": "rgb",
        "transpose": False,
    }


def test_what_the_user_gives_goes_before_the_zoo(make_net, known):
    net = make_net(NET % "")
    known()
    used = applied(net, mean=(1,), resize=(5, 6))
    assert (used.resize, used.crop, used.mean, used.scale, used.channels) == ((5, 6), 5, (1,), 0.5, "rgb")


def test_what_the_prototxt_says_goes_before_the_zoo(make_net, known):
    net = make_net(NET % "transform_param { crop_size: 5 mean_value: 7 }")
    known()
    used = applied(net)
    assert (used.resize, used.crop, used.mean, used.scale, used.channels) == (None, 5, (7,), 1, "bgr")
    assert "zoo" not in used.source


def test_other_weights_are_not_taken_for_the_released_ones(make_net, known, tmp_path):
    make_net(NET % "")
    known()
    other = make_net(NET % "", seed=1, folder=tmp_path / "other")
    assert net_preprocessing(other) is None
    assert "zoo" not in applied(other, crop=5).source


def test_a_size_that_differs_an_entry_without_words_and_a_net_without_weights_say_nothing(make_net, known):
    net = make_net(NET % "")
    known(size=1)
    assert net_preprocessing(net) is None
    known(preprocessing={})
    assert net_preprocessing(net) is None
    known()
    assert net_preprocessing(net) is not None
    assert net_preprocessing(lp.load_net(net.path)) is None


def test_prepared_blobs_are_fed_as_they_are_and_no_checksum_is_taken(make_net, known, monkeypatch):
    net = make_net(NET % "")
    known()
    monkeypatch.setattr("lpcaffe.data.for_net.digest", lambda *args: pytest.fail("a checksum was taken"))
    data = lp.images(np.ones((2, 3, 5, 5), np.float32), net)
    assert data.preprocessing is None
    assert data.source == "arrays in memory, 2 prepared blobs"


def test_the_range_that_the_zoo_knows_is_used_for_the_warning(make_net, known):
    net = make_net(NET % "")
    known()
    data = lp.images(np.ones((2, 3, 5, 5), np.float32), net)
    (text,) = suspicious_range(net, data, -200.0, 150.0)
    assert "the network expects -15 to 122.5" in text
    assert suspicious_range(net, data, -15.0, 120.0) == []
