"""Every kind of data: what comes out, what it is called, and what is said when it is broken."""

import io
import pickle
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpcaffe.data.arrays import read_labels
from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.sources import open_data
from lpcaffe.errors import DataError, LpcaffeError, MissingExtraError
from lpcaffe.formats.schema import Datum

COLOR = {"data": (2, 3, 5, 7)}
GREY = {"data": (1, 1, 5, 7)}
PLAIN = Preprocessing(channels="rgb")


def images(count: int, height: int = 5, width: int = 7, channels: int | None = 3) -> np.ndarray:
    shape = (count, height, width) if channels is None else (count, height, width, channels)
    return np.random.default_rng(count).integers(0, 256, shape, np.uint8)


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def everything(data, size: int = 4, name: str = "data") -> np.ndarray:
    return np.concatenate([batch[name] for batch in data.batches(size)])


def save_pngs(folder: Path, names: list[str]) -> np.ndarray:
    pixels = images(len(names))
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name, format="PNG")
    return pixels.transpose(0, 3, 1, 2)


# Folders and lists


def test_a_folder_is_read_recursively_and_sorted(tmp_path):
    folder = tmp_path / "pictures"
    names = ["b/2.PNG", "a.png", "b/10.png", "b-c.png"]
    pixels = save_pngs(folder, names)
    (folder / "notes.txt").write_text("no image")
    (folder / "b" / "._2.png").write_bytes(b"what some systems leave beside a file")
    data = open_data(folder, COLOR, PLAIN)
    np.testing.assert_array_equal(everything(data), pixels[[1, 2, 0, 3]])
    assert (data.count, data.source, data.preprocessing, data.labels) == (4, "folder pictures, 4 files", PLAIN, None)


def test_batches_can_be_asked_for_again_and_at_any_size(tmp_path):
    pixels = save_pngs(tmp_path, [f"{i}.png" for i in range(5)])
    data = open_data(tmp_path, COLOR, PLAIN)
    assert [len(batch["data"]) for batch in data.batches(2)] == [2, 2, 1]
    for size in (1, 2, 5, 99):
        np.testing.assert_array_equal(everything(data, size), pixels)
    assert next(data.batches(2))["data"].dtype == np.float32
    with pytest.raises(DataError, match="batch"):
        next(data.batches(0))


def test_images_are_decoded_only_when_their_batch_is_asked_for(tmp_path):
    save_pngs(tmp_path, ["a.png", "b.png"])
    (tmp_path / "b.png").write_bytes(b"broken")
    batches = open_data(tmp_path, COLOR, PLAIN).batches(1)
    next(batches)
    with pytest.raises(DataError, match=r"b\.png: unreadable image"):
        next(batches)


def test_a_limit_keeps_the_first_images_and_the_source_says_so(tmp_path):
    pixels = save_pngs(tmp_path / "f", [f"{i}.png" for i in range(5)])
    data = open_data(tmp_path / "f", COLOR, PLAIN, limit=3)
    np.testing.assert_array_equal(everything(data, 2), pixels[:3])
    assert (data.count, data.available, data.source) == (3, 5, "folder f, first 3 of 5 files")
    assert open_data(tmp_path / "f", COLOR, PLAIN, limit=9).source == "folder f, 5 files"
    with pytest.raises(DataError, match="limit"):
        open_data(tmp_path / "f", COLOR, PLAIN, limit=0)


def test_a_single_image_is_data_too(tmp_path):
    pixels = save_pngs(tmp_path, ["cat.png"])
    np.testing.assert_array_equal(everything(open_data(tmp_path / "cat.png", COLOR, PLAIN)), pixels)


def test_a_folder_without_images_and_a_path_that_is_not_there_are_errors(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="no images in this folder"):
        open_data(tmp_path, COLOR, PLAIN)
    with pytest.raises(DataError, match=r"gone: no such file or folder"):
        open_data(tmp_path / "gone", COLOR, PLAIN)


def test_every_truncation_of_a_png_is_an_error_that_names_it_or_leaves_the_picture_whole(tmp_path):
    pixels = save_pngs(tmp_path, ["x.png"])
    whole = (tmp_path / "x.png").read_bytes()
    complete, said = [], []
    for length in range(len(whole)):
        (tmp_path / "x.png").write_bytes(whole[:length])
        try:
            np.testing.assert_array_equal(everything(open_data(tmp_path, COLOR, PLAIN)), pixels)
            complete.append(len(whole) - length)
        except DataError as error:
            said.append(str(error))
    assert all(text.startswith(f"{tmp_path / 'x.png'}: unreadable image: ") for text in said)
    assert max(complete, default=0) <= 12 + 4 + 4  # IEND, the checksums of IDAT and of zlib: no pixels there


def test_any_flipped_byte_of_an_image_is_an_error_of_one_line_or_an_image(tmp_path):
    save_pngs(tmp_path, ["x.png"])
    Image.fromarray(images(1)[0]).save(tmp_path / "y.jpg")
    errors = []
    for path in (tmp_path / "x.png", tmp_path / "y.jpg"):
        whole = bytearray(path.read_bytes())
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Pillow's
                    assert everything(open_data(path, COLOR, PLAIN)).shape == (1, 3, 5, 7)
            except DataError as error:
                errors.append(str(error).replace(str(tmp_path), ""))
    assert all(text.startswith(("/x.png: ", "/y.jpg: ")) and "\n" not in text for text in errors)
    assert len(errors) > 100


def test_pictures_of_any_mode_become_what_the_network_takes(tmp_path):
    pixels = images(1)[0]
    colored = Image.fromarray(pixels)
    transparent = colored.convert("RGBA")
    transparent.putalpha(7)
    transparent.save(tmp_path / "rgba.png")
    colored.quantize(4).save(tmp_path / "palette.png", transparency=bytes([0, 1, 2]))
    colored.convert("1").save(tmp_path / "bits.png")
    colored.convert("L").save(tmp_path / "grey.png")
    for path in tmp_path.iterdir():
        assert everything(open_data(path, COLOR, PLAIN)).shape == (1, 3, 5, 7)
        assert everything(open_data(path, GREY, Preprocessing(channels="gray"))).shape == (1, 1, 5, 7)
    np.testing.assert_array_equal(
        everything(open_data(tmp_path / "rgba.png", COLOR, PLAIN))[0], pixels.transpose(2, 0, 1)
    )


def test_a_photograph_is_turned_upright(tmp_path):
    pixels = images(1, 7, 5)[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn 90 degrees clockwise to show
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(
        everything(open_data(tmp_path / "p.png", COLOR, PLAIN))[0], np.rot90(pixels, -1).transpose(2, 0, 1)
    )


def test_an_image_of_16_bits_is_refused_rather_than_cut_off(tmp_path):
    Image.fromarray(np.full((5, 7), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png: expected an image of 8 bits"):
        everything(open_data(tmp_path, COLOR, PLAIN))


def test_a_list_gives_images_and_labels_in_its_order(tmp_path):
    pixels = save_pngs(tmp_path, ["a.png", "sub/my cat 1.png", "c.png"])
    listing = tmp_path / "val.txt"
    listing.write_text(f"sub/my cat 1.png 7\r\n\r\n{tmp_path / 'c.png'}\t-1\r\na.png   12", newline="")
    data = open_data(str(listing), COLOR, PLAIN)
    np.testing.assert_array_equal(everything(data), pixels[[1, 2, 0]])
    np.testing.assert_array_equal(data.labels, [7, -1, 12])
    assert data.source == "list val.txt, 3 files"
    np.testing.assert_array_equal(open_data(listing, COLOR, PLAIN, limit=2).labels, [7, -1])


def test_a_list_may_have_no_labels(tmp_path):
    pixels = save_pngs(tmp_path, ["a.png", "my cat.png"])
    (tmp_path / "val.txt").write_text("my cat.png\na.png\n")
    data = open_data(tmp_path / "val.txt", COLOR, PLAIN)
    np.testing.assert_array_equal(everything(data), pixels[::-1])
    assert data.labels is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.png 1\n\ngone.png 2\n", r"val\.txt:3: no such image: .*gone\.png"),
        ("a.png 1\na.png\n", r"val\.txt:2: this line has no label"),
        ("a.png\na.png\na.png 1\n", r"val\.txt:3: this line has a label"),
        ("\n\n", r"val\.txt: this list names no images"),
    ],
)
def test_a_list_that_is_wrong_names_the_line(tmp_path, text, says):
    save_pngs(tmp_path, ["a.png"])
    (tmp_path / "val.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        open_data(tmp_path / "val.txt", COLOR, PLAIN)


def test_a_file_of_another_kind_is_no_list(tmp_path):
    (tmp_path / "net.caffemodel").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"net\.caffemodel: this is no text; expected a folder"):
        open_data(tmp_path / "net.caffemodel", COLOR, PLAIN)


# Arrays


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_floats_are_prepared_blobs_and_never_preprocessed(tmp_path, dtype, order):
    values = np.asarray(floats(6, 3, 5, 7).astype(dtype), order=order)
    np.save(tmp_path / "x.npy", values)
    eager = Preprocessing(resize=(9, 9), crop=2, mean=(104, 117, 123), scale=0.017, transpose=True)
    data = open_data(tmp_path / "x.npy", COLOR, eager)
    np.testing.assert_array_equal(everything(data), values.astype(np.float32))
    assert everything(data).dtype == np.dtype(np.float32)
    assert (data.count, data.source, data.preprocessing) == (6, "array x.npy, 6 prepared blobs", None)


def test_prepared_blobs_may_have_any_rank():
    values = floats(6, 11)
    np.testing.assert_array_equal(everything(open_data(values, {"data": (1, 11)}, PLAIN)), values)


def test_uint8_arrays_are_images_in_rgb_and_preprocessed(tmp_path):
    pixels = images(6)
    np.save(tmp_path / "x.npy", pixels)
    data = open_data(tmp_path / "x.npy", COLOR, Preprocessing(mean=(1, 2, 3)))
    expected = pixels.astype(np.float32)[..., ::-1].transpose(0, 3, 1, 2) - np.array([1, 2, 3])[:, None, None]
    np.testing.assert_array_equal(everything(data), expected)
    assert data.source == "array x.npy, 6 images"
    assert data.preprocessing is not None


@pytest.mark.parametrize("channels", [None, 1])
def test_grey_uint8_arrays_may_have_a_channel_axis_or_none(channels):
    pixels = images(3, channels=channels)
    data = open_data(pixels, GREY, Preprocessing(channels="gray"))
    np.testing.assert_array_equal(everything(data), pixels.reshape(3, 1, 5, 7))


def test_a_npy_is_mapped_and_takes_the_memory_of_a_batch(tmp_path):
    values = np.zeros((64, 1 << 18), np.float32)  # 64 MiB
    values[:, 5] = np.arange(64)
    np.save(tmp_path / "x.npy", values)
    tracemalloc.start()
    try:
        for index, batch in enumerate(open_data(tmp_path / "x.npy", {"data": (1, 1 << 18)}, PLAIN).batches(2)):
            assert batch["data"][:, 5].tolist() == [2 * index, 2 * index + 1]
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


def test_an_npz_holds_x_and_labels_y(tmp_path):
    pixels, labels = images(6), np.array([3, 1, 4, 1, 5, 9], np.uint8)
    np.savez(tmp_path / "d.npz", x=pixels, y=labels, other=np.array(["kept"], object))
    data = open_data(tmp_path / "d.npz", COLOR, PLAIN, limit=4)
    np.testing.assert_array_equal(everything(data), pixels.transpose(0, 3, 1, 2)[:4])
    np.testing.assert_array_equal(data.labels, labels[:4])
    assert data.labels.dtype == np.int64


def test_an_npz_holds_one_array_for_each_input(tmp_path):
    inputs = {"data": (1, 3, 5, 7), "file": (1, 4), "y": (1, 2)}
    arrays = {"data": floats(6, 3, 5, 7), "file": floats(6, 4), "y": floats(6, 2)}
    save_npz(tmp_path / "d.npz", arrays)
    data = open_data(tmp_path / "d.npz", inputs, PLAIN)
    for name, array in arrays.items():
        np.testing.assert_array_equal(everything(data, 4, name), array)
    assert data.labels is None
    assert open_data(arrays, inputs, PLAIN).source == "arrays in memory, 6 prepared blobs"


def save_npz(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """np.savez cannot write a member called `file`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array)


def test_an_image_and_a_float_input_go_side_by_side():
    arrays = {"data": images(4), "info": floats(4, 2)}
    with pytest.raises(DataError, match="2 inputs"):
        open_data("random", {"data": (1, 3, 5, 7), "info": (1, 2)}, PLAIN)
    data = open_data(arrays, {"data": (1, 3, 5, 7), "info": (1, 2)}, PLAIN)
    np.testing.assert_array_equal(everything(data), arrays["data"].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(everything(data, name="info"), arrays["info"])
    assert data.preprocessing is not None


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (floats(2, 3, 7, 5), r'blob "data": expected blobs of N x 3 x 5 x 7, got 2 x 3 x 7 x 5'),
        (floats(3, 5, 7), r"expected blobs of N x 3 x 5 x 7, got 3 x 5 x 7"),
        (np.zeros((2, 5, 7, 3), np.int64), "expected floats .* or uint8 .*, got int64"),
        (np.zeros((2, 5, 7, 3), bool), "got bool"),
        (np.zeros((2, 5, 7, 3), np.complex64), "got complex64"),
        (np.zeros((2, 5), np.uint8), "expected images of N x H x W"),
        (np.zeros((2, 3, 5, 7), np.uint8), r"RGB.*got 2 x 3 x 5 x 7"),
        (np.zeros((0, 3, 5, 7), np.float32), "no images"),
        (np.array(1.5), "no images"),
        (np.zeros((2, 6, 7, 3), np.uint8), r"expected 3 x 5 x 7 .* the image has 3 x 6 x 7; give --resize 7x5"),
        (np.full((2, 3, 5, 7), np.nan), "blob 0 .* NaN or infinity"),
        (np.full((2, 3, 5, 7), 1e300), "blob 0 .* NaN or infinity"),
    ],
)
def test_arrays_that_do_not_fit_say_expected_and_got(tmp_path, array, says):
    with pytest.raises(DataError, match=says):
        everything(open_data(array, COLOR, PLAIN))
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(DataError, match=r"x\.npy: "):
        everything(open_data(tmp_path / "x.npy", COLOR, PLAIN))


@pytest.mark.parametrize("save", [np.save, lambda path, array: np.savez(path, x=array)], ids=["npy", "npz"])
def test_every_truncation_of_an_array_file_is_an_error_that_names_it(tmp_path, save):
    path = tmp_path / ("x.npz" if save is not np.save else "x.npy")
    save(path, floats(1, 3, 5, 7))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"{path.name}: .+"):
            open_data(path, COLOR, PLAIN)


def test_pickles_are_refused(tmp_path):
    pickled = np.array([{"a": 1}], object)
    np.save(tmp_path / "x.npy", pickled)
    np.savez(tmp_path / "x.npz", x=pickled)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(floats(2, 3)))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(DataError, match=rf"{path.name}: unreadable array file: .*(pickle|Python objects)"):
            open_data(path, COLOR, PLAIN)


def test_an_npz_without_x_says_what_it_holds_and_what_was_expected(tmp_path):
    np.savez(tmp_path / "d.npz", images=images(2), y=np.arange(2))
    with pytest.raises(DataError, match=r'd\.npz: expected the inputs "data", got .*; an \.npz holds'):
        open_data(tmp_path / "d.npz", COLOR, PLAIN)


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.arange(5), "expected 6 labels in y.* got 5"),
        (np.zeros(6), "integers, got float64"),
        (np.eye(6, dtype=int), r"of shape \(6, 6\)"),
    ],
)
def test_labels_that_do_not_fit_are_an_error(tmp_path, y, says):
    np.savez(tmp_path / "d.npz", x=images(6), y=y)
    with pytest.raises(DataError, match=says):
        open_data(tmp_path / "d.npz", COLOR, PLAIN)


def test_inputs_of_different_length_are_an_error():
    with pytest.raises(DataError, match="differ in their number"):
        open_data({"a": floats(4, 2), "b": floats(3, 2)}, {"a": (1, 2), "b": (1, 2)}, PLAIN)


def test_a_network_without_inputs_is_an_error():
    with pytest.raises(DataError, match="no input blob"):
        open_data("random", {}, PLAIN)


# What fits the network


@pytest.mark.parametrize(
    ("preprocessing", "hint"),
    [
        (Preprocessing(), "the image has 3 x 9 x 11; give --resize 7x5"),
        (Preprocessing(transpose=True), "the image has 3 x 11 x 9; give --resize 5x7"),
        (Preprocessing(resize=(5, 7)), "after --resize and --crop the image has 3 x 7 x 5; give --resize 7x5"),
        (Preprocessing(crop=6), "after --resize and --crop the image has 3 x 6 x 6; give --resize 7x5 and no --crop"),
    ],
)
def test_an_image_of_the_wrong_size_says_expected_and_got_and_what_to_give(tmp_path, preprocessing, hint):
    Image.fromarray(images(1, 9, 11)[0]).save(tmp_path / "x.png")
    with pytest.raises(DataError) as caught:
        everything(open_data(tmp_path, COLOR, preprocessing))
    assert str(caught.value) == f"{tmp_path / 'x.png'}: expected 3 x 5 x 7 (C x H x W), {hint}"


def test_following_the_hint_mends_it(tmp_path):
    Image.fromarray(images(1, 9, 11)[0]).save(tmp_path / "x.png")
    assert everything(open_data(tmp_path, COLOR, Preprocessing(resize=(7, 5)))).shape == (1, 3, 5, 7)
    assert everything(open_data(tmp_path, COLOR, Preprocessing(resize=(5, 7), transpose=True))).shape == (1, 3, 5, 7)


@pytest.mark.parametrize(
    ("shape", "preprocessing", "says"),
    [
        ((1, 1, 5, 7), Preprocessing(), "bgr do not fit the network's 1; give --channels gray"),
        ((1, 3, 5, 7), Preprocessing(channels="gray"), "gray do not fit the network's 3; give --channels bgr"),
        ((1, 6, 5, 7), Preprocessing(), "N x 1 or 3 x H x W, the network's is 1 x 6 x 5 x 7; give prepared"),
        ((1, 11), Preprocessing(), "the network's is 1 x 11"),
    ],
)
def test_images_for_a_network_that_takes_none_are_an_error(shape, preprocessing, says):
    for spec in ("random", images(2)):
        with pytest.raises(DataError, match=says):
            open_data(spec, {"data": shape}, preprocessing)


# Random images


@pytest.mark.parametrize(
    ("preprocessing", "size"),
    [
        (Preprocessing(), (6, 6)),
        (Preprocessing(crop=6), (6, 6)),
        (Preprocessing(resize=(9, 8), crop=6), (8, 9)),
        (Preprocessing(mean=np.full((3, 7, 11), 5, np.float32), crop=6), (7, 11)),
    ],
)
def test_random_is_32_uniform_uint8_images_of_the_size_preprocessing_needs(preprocessing, size):
    pixels = np.random.default_rng(0).integers(0, 256, (32, *size, 3), np.uint8)
    inputs = {"data": (1, 3, 6, 6)}
    data = open_data("random", inputs, preprocessing)
    np.testing.assert_array_equal(everything(data), np.stack([preprocessing.apply(image) for image in pixels]))
    assert (data.count, data.source) == (32, "random (32 uniform uint8 images, seed 0)")


def test_random_fits_grey_and_transposed_networks_and_a_limit():
    data = open_data("random", GREY, Preprocessing(channels="gray", transpose=True), limit=3, seed=5)
    pixels = np.random.default_rng(5).integers(0, 256, (32, 7, 5), np.uint8)
    np.testing.assert_array_equal(everything(data), pixels[:3, None].swapaxes(2, 3))
    assert data.source == "random (first 3 of 32 uniform uint8 images, seed 5)"


# Labels


def test_labels_are_read_one_a_line_or_from_npy(tmp_path):
    (tmp_path / "l.txt").write_text("3\n 1 \n\n-4\n")
    np.save(tmp_path / "l.npy", np.array([3, 1, 200], np.uint8))
    np.testing.assert_array_equal(read_labels(tmp_path / "l.txt"), [3, 1, -4])
    np.testing.assert_array_equal(read_labels(tmp_path / "l.npy"), [3, 1, 200])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"3\n1.5\n", r"l\.txt:2: expected one integer, got '1\.5'"),
        (b"3\na.png 4\n", r"l\.txt:2: "),
        (b"99999999999999999999\n", r"l\.txt:1: "),
        (b"", "no labels"),
        (b"\xff\xfe", "unreadable labels"),
    ],
)
def test_label_files_that_are_wrong_name_the_line(tmp_path, content, says):
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_labels(tmp_path / "l.txt")


def test_label_arrays_that_are_wrong_are_an_error(tmp_path):
    for array in (np.zeros(3), np.zeros((2, 3), int), np.array([{}], object)):
        np.save(tmp_path / "l.npy", array)
        with pytest.raises(DataError, match=r"l\.npy: "):
            read_labels(tmp_path / "l.npy")
    with pytest.raises(DataError, match="no such file"):
        read_labels(tmp_path / "gone.txt")


def test_labels_can_be_added_for_the_images_used_or_for_all():
    data = open_data(images(5), COLOR, PLAIN, limit=3)
    for labels in (np.arange(3), np.arange(5)):
        np.testing.assert_array_equal(data.with_labels(labels).labels, [0, 1, 2])
    np.testing.assert_array_equal(everything(data.with_labels(np.arange(3))), everything(data))
    with pytest.raises(DataError, match="expected 3 labels, one for each image, got 4"):
        data.with_labels(np.arange(4))


# Caffe's LMDB


def write_lmdb(folder: Path, datums: list[tuple[bytes, bytes]]) -> Path:
    lmdb = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'lpcaffe[lmdb]'")
    with lmdb.open(str(folder), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for key, value in datums:
            transaction.put(key, value)
    return folder


def raw_datum(image: np.ndarray, label: int = 0) -> bytes:
    planes = image[..., ::-1].transpose(2, 0, 1) if image.ndim == 3 else image[None]
    channels, height, width = planes.shape
    return Datum(channels=channels, height=height, width=width, data=planes.tobytes(), label=label).SerializeToString()


def encoded_datum(image: np.ndarray, label: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return Datum(data=buffer.getvalue(), encoded=True, label=label).SerializeToString()


@pytest.mark.parametrize("datum", [raw_datum, encoded_datum])
def test_an_lmdb_of_colour_images_is_read_in_key_order(tmp_path, datum):
    pixels = images(5)
    folder = write_lmdb(tmp_path / "db", [(b"%08d" % (9 - i), datum(pixels[i], 10 + i)) for i in range(5)])
    data = open_data(folder, COLOR, Preprocessing(mean=(1, 2, 3)))
    expected = np.stack([Preprocessing(mean=(1, 2, 3)).apply(image) for image in pixels[::-1]])
    np.testing.assert_array_equal(everything(data, 2), expected)
    np.testing.assert_array_equal(data.labels, [14, 13, 12, 11, 10])
    assert (data.count, data.source) == (5, "LMDB db, 5 entries")


def test_raw_bytes_of_a_datum_are_bgr_planes(tmp_path):
    datum = Datum(channels=3, height=1, width=2, data=bytes([1, 2, 3, 4, 5, 6]))
    folder = write_lmdb(tmp_path / "db", [(b"0", datum.SerializeToString())])
    inputs = {"data": (1, 3, 1, 2)}
    np.testing.assert_array_equal(
        everything(open_data(folder, inputs, Preprocessing())), [[[[1, 2]], [[3, 4]], [[5, 6]]]]
    )
    np.testing.assert_array_equal(everything(open_data(folder, inputs, PLAIN)), [[[[5, 6]], [[3, 4]], [[1, 2]]]])


def test_a_grey_lmdb_and_two_readers_at_once_and_a_limit(tmp_path):
    pixels = images(5, channels=None)
    folder = write_lmdb(tmp_path / "db", [(b"%d" % i, raw_datum(pixels[i], i)) for i in range(5)])
    gray = Preprocessing(channels="gray", scale=0.5)
    one, two = open_data(folder, GREY, gray), open_data(folder, GREY, gray, limit=2)
    np.testing.assert_array_equal(two.labels, [0, 1])
    for first, second in zip(one.batches(1), one.batches(1), strict=True):
        np.testing.assert_array_equal(first["data"], second["data"])
    np.testing.assert_array_equal(everything(two), pixels[:2, None] * np.float32(0.5))


def test_floats_of_a_datum_are_transformed_as_in_caffe(tmp_path):
    values = floats(3, 5, 7)
    datum = Datum(channels=3, height=5, width=7, float_data=values.ravel().tolist())
    folder = write_lmdb(tmp_path / "db", [(b"0", datum.SerializeToString())])
    np.testing.assert_array_equal(
        everything(open_data(folder, COLOR, Preprocessing(mean=(1,), scale=2)))[0], (values - 1) * np.float32(2)
    )
    with pytest.raises(DataError, match='key "0": floats cannot be resized'):
        everything(open_data(folder, COLOR, Preprocessing(resize=(9, 9), crop=5)))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"\xff\xff\xff", 'key "bad": the value is no Caffe Datum'),
        (
            Datum(channels=3, height=5, width=7, data=bytes(104)).SerializeToString(),
            '"bad": expected 3 x 5 x 7 values, got 104',
        ),
        (
            Datum(channels=2, height=5, width=7, data=bytes(70)).SerializeToString(),
            '"bad": expected an image of 1 or 3',
        ),
        (Datum(channels=-3, height=-5, width=7, data=bytes(105)).SerializeToString(), '"bad": expected -3 x -5'),
        (Datum(encoded=True, data=b"\x89PNG").SerializeToString(), '"bad": unreadable image'),
        (b"", '"bad": expected 0 x 0 x 0 values'),
    ],
)
def test_a_datum_that_is_wrong_names_the_key(tmp_path, value, says):
    folder = write_lmdb(tmp_path / "db", [(b"bad", value)])
    with pytest.raises(DataError, match=says) as caught:
        everything(open_data(folder, COLOR, PLAIN))
    assert caught.value.path == str(folder)


def test_a_database_that_is_broken_or_empty_is_an_error(tmp_path):
    with pytest.raises(DataError, match="empty"):
        open_data(write_lmdb(tmp_path / "none", []), COLOR, PLAIN)
    folder = write_lmdb(tmp_path / "db", [(b"%d" % i, raw_datum(images(1)[0])) for i in range(500)])
    whole = (folder / "data.mdb").read_bytes()
    for length in [*range(0, len(whole) - 1, 4096), len(whole) - 1, 100]:
        (folder / "data.mdb").write_bytes(whole[:length])
        with pytest.raises(DataError, match="LMDB"):
            everything(open_data(folder, COLOR, PLAIN))


def test_without_lmdb_the_error_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'lpcaffe\[lmdb\]'") as caught:
        open_data(tmp_path, COLOR, PLAIN)
    assert isinstance(caught.value, LpcaffeError)
