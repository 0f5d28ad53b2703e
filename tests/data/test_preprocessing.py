"""Preprocessing against loops over single pixels, and against the pixels that Pillow gives."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from lpcaffe.data.preprocessing import Preprocessing, default_channels, parse_mean, parse_size, read_binaryproto
from lpcaffe.errors import DataError
from lpcaffe.formats.schema import TEST, TRAIN, BlobProto, NetParameter


def an_image(height: int, width: int, channels: int | None = 3) -> np.ndarray:
    shape = (height, width) if channels is None else (height, width, channels)
    return np.random.default_rng(height * 1000 + width).integers(0, 256, shape, np.uint8)


def mean_image(channels: int, height: int, width: int) -> np.ndarray:
    values = np.random.default_rng(channels).uniform(90, 130, (channels, height, width))
    return values.astype(np.float32)


def naive(image, crop, mean, scale, order, transpose):
    """Caffe's DataTransformer in words: one pixel at a time, in float32."""
    height, width = image.shape[:2]
    side_y, side_x = (crop, crop) if crop else (height, width)
    top, left = ((height - crop) // 2, (width - crop) // 2) if crop else (0, 0)
    out = np.zeros((len(order), side_y, side_x), np.float32)
    for c, color in enumerate(order):
        for y in range(side_y):
            for x in range(side_x):
                value = np.float32(image[top + y, left + x, "rgb".index(color)])
                if isinstance(mean, np.ndarray):
                    value = value - mean[c, top + y, left + x]
                elif mean is not None:
                    value = value - np.float32(mean[c if len(mean) > 1 else 0])
                out[c, y, x] = value * np.float32(scale)
    if transpose:
        swapped = np.zeros((len(order), side_x, side_y), np.float32)
        for y in range(side_y):
            for x in range(side_x):
                swapped[:, x, y] = out[:, y, x]
        return swapped
    return out


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("crop", [None, 4, 5])
@pytest.mark.parametrize("mean", [None, (101.5,), (103.939, 116.779, 123.68), "image"])
@pytest.mark.parametrize("scale", [1.0, 0.017])
@pytest.mark.parametrize("transpose", [False, True])
def test_every_combination_equals_the_naive_loop_bit_for_bit(order, crop, mean, scale, transpose):
    image = an_image(7, 10)
    mean = mean_image(3, 7, 10) if mean == "image" else mean
    blob = Preprocessing(crop=crop, mean=mean, scale=scale, channels=order, transpose=transpose).apply(image)
    assert blob.dtype == np.float32
    assert blob.flags.c_contiguous
    np.testing.assert_array_equal(
        blob.view(np.uint32), naive(image, crop, mean, scale, order, transpose).view(np.uint32)
    )


def test_doing_nothing_gives_the_pixels_in_bgr():
    image = np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8)
    np.testing.assert_array_equal(Preprocessing().apply(image), [[[3, 6]], [[2, 5]], [[1, 4]]])


def test_mean_is_subtracted_before_scaling():
    assert Preprocessing(mean=(127.5,), scale=0.0078125).apply(np.full((1, 2, 3), 255, np.uint8)).max() == 0.99609375


def test_resize_is_pillows_bilinear_to_width_and_height():
    image = an_image(9, 14)
    expected = np.asarray(Image.fromarray(image).resize((6, 5), Image.Resampling.BILINEAR))
    blob = Preprocessing(resize=(6, 5), channels="rgb").apply(image)
    np.testing.assert_array_equal(blob, expected.transpose(2, 0, 1))
    assert blob.shape == (3, 5, 6)


def test_crop_follows_resize_and_comes_before_transpose():
    image = an_image(9, 14)
    resized = np.asarray(Image.fromarray(image).resize((8, 7), Image.Resampling.BILINEAR))
    blob = Preprocessing(resize=(8, 7), crop=3, channels="rgb", transpose=True).apply(image)
    np.testing.assert_array_equal(blob, resized[2:5, 2:5].transpose(2, 1, 0))


def test_a_grey_network_takes_luma_of_colours_and_grey_as_it_is():
    colored, grey = an_image(4, 6), an_image(4, 6, None)
    luma = np.asarray(Image.fromarray(colored).convert("L"))
    assert abs(luma - colored @ [0.299, 0.587, 0.114]).max() < 1
    np.testing.assert_array_equal(Preprocessing(channels="gray").apply(colored), luma[None])
    np.testing.assert_array_equal(Preprocessing(channels="gray").apply(grey), grey[None])


def test_a_grey_image_is_repeated_for_a_network_of_three_channels():
    grey = an_image(4, 6, None)
    np.testing.assert_array_equal(Preprocessing().apply(grey), np.stack([grey] * 3))


def test_preprocessing_leaves_image_and_mean_alone():
    image, mean = an_image(4, 6), mean_image(3, 4, 6)
    before = image.copy(), mean.copy()
    Preprocessing(mean=mean, scale=2).apply(image)
    Preprocessing(mean=mean, scale=2).transform(mean)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mean, before[1])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"resize": (0, 5)}, "resize"),
        ({"resize": (100_000, 100_000)}, "of at most 134,217,728 pixels, got 100000 x 100000"),
        ({"crop": 0}, "crop"),
        ({"scale": float("nan")}, "scale"),
        ({"scale": 0.0}, "scale"),
        ({"channels": "grey"}, "bgr, rgb or gray"),
        ({"mean": (1.0, 2.0)}, "1 value or 3"),
        ({"mean": (1.0, 2.0, 3.0), "channels": "gray"}, "1 value or 1"),
        ({"mean": (float("inf"),)}, "finite"),
        ({"mean": np.zeros((2, 3), np.float32)}, "C x H x W"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(arguments, says):
    with pytest.raises(DataError, match=says):
        Preprocessing(**arguments)


def test_a_crop_larger_than_the_image_is_an_error_with_both_sizes():
    with pytest.raises(DataError, match=r"crop 5x5 .* 6 wide and 4 high"):
        Preprocessing(crop=5).apply(an_image(4, 6))


def test_a_mean_image_of_another_size_is_an_error_that_names_the_size_to_resize_to():
    with pytest.raises(DataError, match=r"3 x 4 x 7 .* 3 x 4 x 6 .*--resize 7x4"):
        Preprocessing(mean=mean_image(3, 4, 7)).apply(an_image(4, 6))


# What a network says


def from_text(text: str, channels: int = 3, **options) -> Preprocessing | None:
    from google.protobuf import text_format

    return Preprocessing.from_net(text_format.Parse(text, NetParameter()), channels, **options)


def test_transform_param_gives_the_defaults():
    found = from_text(
        """layer { name: "d" type: "Data" transform_param { scale: 0.017 mean_value: 103.94 mean_value: 116.78
           mean_value: 123.68 crop_size: 224 mirror: false } }"""
    )
    assert found.to_json() == {
        "resize": None,
        "crop": 224,
        "mean": [103.94, 116.78, 123.68],
        "scale": 0.017,
        "channels": "bgr",
        "transpose": False,
    }


def test_one_mean_value_serves_all_channels():
    found = from_text('layer { name: "d" transform_param { mean_value: 128 } }')
    assert (found.apply(np.full((2, 3, 3), 128, np.uint8)) == 0).all()


def test_a_network_of_one_channel_is_grey():
    assert from_text('layer { name: "d" transform_param { scale: 0.00390625 } }', 1).channels == "gray"
    assert default_channels(1) == "gray"
    assert default_channels(3) == "bgr"


@pytest.mark.parametrize("text", ["", 'layer { name: "d" }', 'layer { name: "d" transform_param { mirror: true } }'])
def test_a_network_that_says_nothing_gives_none(text):
    assert from_text(text) is None


def test_the_training_layer_is_passed_over():
    text = f"""layer {{ name: "a" include {{ phase: {TRAIN} }} transform_param {{ scale: 3 }} }}
               layer {{ name: "b" include {{ phase: {TEST} }} transform_param {{ scale: 5 }} }}"""
    assert from_text(text).scale == 5


def test_ssd_fields_resize_and_crop():
    text = """layer { name: "d" transform_param { crop_h: 12 crop_w: 12
              resize_param { resize_mode: WARP height: 20 width: 30 } } }"""
    assert from_text(text).resize == (30, 20)
    assert from_text(text).crop == 12


def test_a_mean_file_is_found_beside_the_prototxt(tmp_path):
    values = mean_image(3, 4, 6)
    blob = BlobProto(num=1, channels=3, height=4, width=6, data=values.ravel().tolist())
    (tmp_path / "m.binaryproto").write_bytes(blob.SerializeToString())
    for name in ("m.binaryproto", "data/ilsvrc12/m.binaryproto"):
        found = from_text(f'layer {{ name: "d" transform_param {{ mean_file: "{name}" }} }}', folder=tmp_path)
        np.testing.assert_array_equal(found.mean, values)
    assert found.to_json()["mean"] == {"shape": [3, 4, 6], "sha256": hashlib.sha256(values.tobytes()).hexdigest()}


def test_a_mean_file_is_not_opened_elsewhere(tmp_path):
    blob = BlobProto(num=1, channels=3, height=4, width=6, data=[1.0] * 72).SerializeToString()
    (tmp_path / "m.binaryproto").write_bytes(blob)
    folder = tmp_path / "net"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "m.binaryproto").write_bytes(blob)
    for name in ("../m.binaryproto", str(tmp_path / "m.binaryproto"), "below/m.binaryproto", "..", "/", "x" * 300):
        with pytest.raises(DataError, match="not beside the prototxt"):
            from_text(f'layer {{ name: "d" transform_param {{ mean_file: "{name}" }} }}', folder=folder)


def test_a_mean_file_that_is_missing_is_an_error_unless_the_caller_has_a_mean(tmp_path):
    text = 'layer { name: "d" transform_param { mean_file: "gone.binaryproto" crop_size: 8 } }'
    with pytest.raises(DataError, match=r"gone\.binaryproto.*--mean"):
        from_text(text, folder=tmp_path)
    assert from_text(text, folder=tmp_path, read_mean=False).crop == 8


# Mean images and texts


@pytest.mark.parametrize("field", ["data", "double_data"])
@pytest.mark.parametrize("dims", [(3, 4, 6), (1, 3, 4, 6)])
def test_a_binaryproto_with_a_shape_is_read(tmp_path, field, dims):
    values = mean_image(3, 4, 6)
    blob = BlobProto(shape={"dim": dims}, **{field: values.ravel().tolist()})
    path = tmp_path / "m.binaryproto"
    path.write_bytes(blob.SerializeToString())
    np.testing.assert_array_equal(parse_mean(str(path)), values)


def test_a_binaryproto_with_raw_data_is_read_and_double_data_goes_before_data(tmp_path):
    values = mean_image(3, 4, 6)
    path = tmp_path / "m.binaryproto"
    half = BlobProto(shape={"dim": (3, 4, 6)}, raw_data=values.astype("<f2").tobytes(), raw_data_type=2)
    path.write_bytes(half.SerializeToString())
    np.testing.assert_array_equal(read_binaryproto(path), values.astype(np.float16))
    both = BlobProto(shape={"dim": (3, 4, 6)}, data=[0.0] * 72, double_data=values.ravel().tolist())
    path.write_bytes(both.SerializeToString())
    np.testing.assert_array_equal(read_binaryproto(path), values)


def test_a_truncated_binaryproto_is_an_error_that_names_it(tmp_path):
    whole = BlobProto(num=1, channels=3, height=4, width=6, data=[1.0] * 72).SerializeToString()
    path = tmp_path / "m.binaryproto"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"m\.binaryproto: "):
            read_binaryproto(path)
    with pytest.raises(DataError, match="no such file"):
        read_binaryproto(tmp_path / "gone")
    with pytest.raises(DataError, match="a pipe or a device"):
        read_binaryproto("/dev/zero")


def test_a_binaryproto_whose_count_is_not_its_shape_says_both(tmp_path):
    path = tmp_path / "m.binaryproto"
    path.write_bytes(BlobProto(num=1, channels=3, height=4, width=6, data=[1.0] * 71).SerializeToString())
    with pytest.raises(DataError, match=r"72 values for shape 1 x 3 x 4 x 6, got 71"):
        read_binaryproto(path)


def test_values_and_sizes_are_parsed():
    assert parse_mean("104,117.5,123") == (104, 117.5, 123)
    assert parse_mean("128") == (128,)
    assert parse_size("256x224") == (256, 224)
    for text in ("256", "256x", "x3", "256X224", "-1x2", "1x2x3", "²x3"):
        with pytest.raises(DataError, match="WxH"):
            parse_size(text)


def test_the_report_is_plain_json_and_rereads_as_the_same_preprocessing():
    given = Preprocessing(resize=(5, 4), crop=3, mean=(1.5, 2, 3), scale=0.017, channels="rgb", transpose=True)
    again = Preprocessing(**json.loads(json.dumps(given.to_json())))
    assert again.to_json() == given.to_json()
    assert again.resize == (5, 4)
    np.testing.assert_array_equal(again.apply(an_image(6, 7)), given.apply(an_image(6, 7)))


def test_same_values_ignores_sizes_but_not_mean_or_scale():
    net = Preprocessing(mean=(1.0, 2.0, 3.0), scale=0.5, crop=4)
    assert net.same_values(Preprocessing(mean=(1.0, 2.0, 3.0), scale=0.5, resize=(9, 9)))
    assert not net.same_values(Preprocessing(mean=(1.0, 2.0, 3.0)))
    assert not net.same_values(Preprocessing(scale=0.5))
