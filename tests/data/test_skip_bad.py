"""Images that cannot be decoded are left out when that is asked for: counted, named, and never against their labels."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lpcaffe as lp
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.sources import open_data
from lpcaffe.errors import DataError, LpcaffeWarning
from lpcaffe.formats import prototxt
from lpcaffe.formats.schema import Datum
from lpcaffe.net import Net

INPUTS = {"data": (2, 3, 5, 7)}
PLAIN = Preprocessing(channels="rgb")
PIXELS = np.random.default_rng(3).integers(0, 256, (9, 5, 7, 3), np.uint8)


def folder_of(folder: Path, bad: set[int], count: int = 9) -> Path:
    """Files 0.png, 1.png, ... of which some are torn."""
    folder.mkdir()
    for index in range(count):
        Image.fromarray(PIXELS[index]).save(folder / f"{index}.png")
        if index in bad:
            (folder / f"{index}.png").write_bytes((folder / f"{index}.png").read_bytes()[:60])
    return folder


def list_of(folder: Path, bad: set[int], count: int = 9) -> Path:
    """A list of the files, the label of file i being 10 + i."""
    folder_of(folder, bad, count)
    listing = folder.parent / f"{folder.name}.txt"
    listing.write_text("".join(f"{folder.name}/{index}.png {10 + index}\n" for index in range(count)))
    return listing


def lmdb_of(folder: Path, bad: set[int], count: int = 9) -> Path:
    """The same as a database; bad entries are bad in turn: no Datum, too few bytes, a torn image."""
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'lpcaffe[lmdb]'")
    kinds = 0
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for index in range(count):
            buffer = io.BytesIO()
            Image.fromarray(PIXELS[index]).save(buffer, "PNG")
            value = Datum(data=buffer.getvalue(), encoded=True, label=10 + index).SerializeToString()
            if index in bad:
                value = [
                    b"\xff\xff\xff",
                    Datum(channels=3, height=5, width=7, data=bytes(104), label=77).SerializeToString(),
                    Datum(data=buffer.getvalue()[:60], encoded=True, label=78).SerializeToString(),
                ][kinds % 3]
                kinds += 1
            transaction.put(b"%08d" % index, value)
    return folder


def used(data) -> np.ndarray:
    return np.concatenate([batch["data"] for batch in data.batches(2)])


def expect(data, indices: list[int]) -> None:
    """The data are exactly these images, in this order, with their own labels if there are any."""
    np.testing.assert_array_equal(used(data), PIXELS[indices].transpose(0, 3, 1, 2))
    assert data.count == len(indices)
    if data.labels is not None:
        assert data.labels.tolist() == [10 + index for index in indices]


MAKERS = [folder_of, list_of, lmdb_of]


@pytest.mark.parametrize("make", MAKERS)
def test_the_good_images_stay_in_order_with_their_labels(tmp_path, make):
    with pytest.warns(LpcaffeWarning, match="skipped 3 of 9 images") as caught:
        data = open_data(make(tmp_path / "d", {0, 4, 8}), INPUTS, PLAIN).without_bad()
    assert len(caught) == 1
    expect(data, [1, 2, 3, 5, 6, 7])
    expect(data, [1, 2, 3, 5, 6, 7])  # again from the start
    assert data.available == 9
    assert data.source.endswith(", 3 skipped")


@pytest.mark.parametrize("make", MAKERS)
def test_a_limit_counts_good_images_only_and_nothing_beyond_it_is_looked_at(tmp_path, make):
    path = make(tmp_path / "d", {1, 2, 7})
    with pytest.warns(LpcaffeWarning, match="skipped 2 of 9 images"):
        data = open_data(path, INPUTS, PLAIN, limit=4).without_bad()
    expect(data, [0, 3, 4, 5])
    assert data.source.endswith("first 4 of 9 files, 2 skipped" if make is not lmdb_of else "of 9 entries, 2 skipped")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expect(open_data(path, INPUTS, PLAIN, limit=1).without_bad(), [0])


@pytest.mark.parametrize("make", MAKERS)
def test_a_limit_that_the_good_images_do_not_fill_takes_them_all(tmp_path, make):
    with pytest.warns(LpcaffeWarning, match="skipped 3 of 9"):
        data = open_data(make(tmp_path / "d", {1, 2, 7}), INPUTS, PLAIN, limit=8).without_bad()
    expect(data, [0, 3, 4, 5, 6, 8])
    assert data.source.endswith("3 skipped, 6 left")


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_bad_means_no_warning_and_the_same_data(tmp_path, make):
    data = open_data(make(tmp_path / "d", set()), INPUTS, PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert data.without_bad() is data


@pytest.mark.parametrize("make", MAKERS)
def test_a_set_without_a_good_image_is_an_error(tmp_path, make):
    with pytest.raises(DataError, match=r"none of 3 images can be read: "):
        open_data(make(tmp_path / "d", {0, 1, 2}, 3), INPUTS, PLAIN, limit=2).without_bad()


@pytest.mark.parametrize("make", MAKERS)
def test_without_being_asked_a_bad_image_stays_an_error(tmp_path, make):
    with pytest.raises(DataError, match=r"unreadable image|no Caffe Datum"):
        used(open_data(make(tmp_path / "d", {4}), INPUTS, PLAIN))


def test_the_warning_names_the_first_three_and_counts_the_others(tmp_path):
    folder = folder_of(tmp_path / "d", {1, 2, 4, 5, 7})
    with pytest.warns(LpcaffeWarning) as caught:
        open_data(folder, INPUTS, PLAIN).without_bad()
    text = str(caught[0].message)
    assert text.startswith("skipped 5 of 9 images, which cannot be read: ")
    assert [f"{index}.png: unreadable image" in text for index in range(9)] == [i in (1, 2, 4) for i in range(9)]
    assert text.endswith("; and 2 more")
    assert "\n" not in text


def test_images_of_another_size_are_no_bad_images(tmp_path):
    folder = folder_of(tmp_path / "d", {1})
    Image.fromarray(PIXELS[0].transpose(1, 0, 2)).save(folder / "3.png")
    with pytest.warns(LpcaffeWarning, match="skipped 1 of 9"):
        data = open_data(folder, INPUTS, PLAIN).without_bad()
    with pytest.raises(DataError, match=r"3\.png: expected 3 x 5 x 7"):
        used(data)


def test_a_file_that_a_list_names_in_vain_stays_an_error(tmp_path):
    listing = list_of(tmp_path / "d", {1})
    (tmp_path / "d" / "5.png").unlink()
    with pytest.raises(DataError, match=r"d\.txt:6: no such image"):
        open_data(listing, INPUTS, PLAIN)


def test_labels_from_elsewhere_are_one_for_each_image_there_is(tmp_path):
    folder = folder_of(tmp_path / "d", {1, 2, 7})
    with pytest.warns(LpcaffeWarning):
        whole = open_data(folder, INPUTS, PLAIN).without_bad()
    with pytest.warns(LpcaffeWarning):
        limited = open_data(folder, INPUTS, PLAIN, limit=4).without_bad()
    labels = np.arange(10, 19)
    expect(whole.with_labels(labels), [0, 3, 4, 5, 6, 8])
    expect(limited.with_labels(labels), [0, 3, 4, 5])
    for data, count in ((whole, 6), (limited, 4)):
        with pytest.raises(
            DataError, match=f"expected 9 labels, one for each image, skipped ones included, got {count}"
        ):
            data.with_labels(labels[:count])


@pytest.mark.parametrize("spec", ["random", PIXELS])
def test_arrays_have_nothing_to_skip(spec):
    data = open_data(spec, INPUTS, PLAIN)
    assert data.without_bad() is data


NET = Net.of(
    prototxt.parse(
        'name: "n" layer { name: "data" type: "Input" top: "data" '
        "input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }"
    )
)


def test_images_of_a_network_can_skip(tmp_path):
    folder = folder_of(tmp_path / "d", {4})
    with pytest.warns(LpcaffeWarning, match="skipped 1 of 9") as caught:
        data = lp.images(folder, NET, skip_bad=True, channels="rgb")
    assert [warning.filename for warning in caught] == [__file__]
    expect(data, [0, 1, 2, 3, 5, 6, 7, 8])
    with pytest.raises(DataError, match=r"4\.png: unreadable image"):
        used(lp.images(folder, NET, channels="rgb"))
