import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lpcaffe.errors import FileError, LpcaffeError, LpcaffeWarning, WeightsError
from lpcaffe.formats import wire
from lpcaffe.formats.caffemodel import open_caffemodel
from lpcaffe.formats.schema import NetParameter

HOSTILE = sorted((Path(__file__).parents[1] / "hostile" / "caffemodel").glob("*.hex"))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "net.caffemodel"


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.stem)
def test_a_hostile_file_is_one_line_that_says_where_and_what(path, hostile):
    lines = hostile.read_text().splitlines()
    expected = lines[1].removeprefix("# expect: ")
    path.write_bytes(bytes.fromhex(" ".join(lines[2:])))
    with pytest.raises((FileError, WeightsError)) as caught:
        open_caffemodel(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250


def test_the_hostile_files_are_there():
    assert len(HOSTILE) >= 40


def small_files():
    """One small file of each generation, with every kind of field in it."""
    blobs = [
        {"shape": {"dim": [2, 3]}, "data": [1, 2, 3, 4, 5, 6], "diff": [1, 1]},
        {"num": 1, "channels": 1, "height": 1, "width": 2, "double_data": [7, 8]},
        {"shape": {"dim": [3]}, "raw_data_type": 2, "raw_data": b"\x00\x3c" * 3},
    ]
    v2 = NetParameter(name="Tiny", force_backward=True)
    for name in ("conv1", "conv2"):
        v2.layer.add(name=name, type="Convolution", bottom=["data"], convolution_param={"num_output": 2}, blobs=blobs)
    v2.layer[1].blobs.add(shape={"dim": [300]}, data=range(300))
    unpacked = b"\x0a\x02ip" + wire.delimited(7, 24) + b"\x3a\x02\x08\x04" + b"\x2d\x00\x00\x80\x3f" * 4
    data = v2.SerializeToString() + wire.delimited(100, len(unpacked)) + unpacked + wire.delimited(10001, 3) + b"abc"
    v1 = NetParameter(name="Old")
    v1.layers.add(name="conv", type="CONVOLUTION", blobs=blobs[:2], blobs_lr=[1, 2])
    v1.layers.add(layer={"name": "ip", "type": "innerproduct", "num_output": 2, "blobs": blobs[:2]}, top=["ip"])
    return [data, v1.SerializeToString()]


@pytest.mark.parametrize("data", small_files(), ids=["V2", "V1 and V0"])
def test_every_prefix_is_an_error_unless_it_ends_between_two_fields_of_the_net(path, data):
    fields = list(wire.walk(data, 0, len(data)))
    shorter = {field.end: sum(f.number in (2, 100) for f in fields if f.end <= field.end) for field in fields}
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        if shorter.get(size):
            with open_caffemodel(path) as model:
                assert len(model.layers) == shorter[size]
            continue
        with pytest.raises(FileError) as caught:
            open_caffemodel(path)
        if size in shorter or size < 2:
            assert re.search("expected a caffemodel, got .*(without any layer|empty|text)", str(caught.value))
        else:
            # The part that is cut off lies at the end of the file, and the error names a place in it.
            (place, needed, got) = re.search(
                r": byte (\d+): expected (a whole varint|\d+ bytes for field \d+), got (\d+)", str(caught.value)
            ).groups()
            assert int(place) + int(got) == size
            assert needed.startswith("a whole") or int(needed.split()[0]) > int(got)
            assert str(caught.value).endswith("; the file is cut off or damaged")


def read_all(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LpcaffeWarning)  # a net with both V1 and V2 layers, say
        model = open_caffemodel(path)
    with model:
        for layer in model.layers:
            for blob in layer.blobs:
                assert sum(len(chunk) for chunk in blob.chunks(5)) == blob.count == blob.array(np.float64).size


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=120)
@given(st.sampled_from(small_files()), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1))
def test_damage_gives_another_net_or_one_line_and_nothing_else(path, data, damage):
    damaged = bytearray(data)
    for at, byte in damage:
        damaged[at % len(damaged)] = byte
    path.write_bytes(damaged)
    try:
        read_all(path)
    except LpcaffeError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.binary(max_size=60))
@example(b"\xa2\x06\x00")
@example(b"\x12\x02\x0a\x00")
def test_any_bytes_give_a_net_or_one_line_and_nothing_else(path, data):
    path.write_bytes(data)
    try:
        read_all(path)
    except LpcaffeError as error:
        assert str(error).startswith(str(path))  # noqa: PT017


@pytest.mark.parametrize(
    ("place", "problem"),
    [("missing.caffemodel", "cannot be read: no such file or directory"), ("", "cannot be read: is a directory")],
)
def test_what_cannot_be_opened_is_one_line(path, place, problem):
    with pytest.raises(FileError, match=f"{place}: {problem}$"):
        open_caffemodel(path.parent / place)


def test_a_device_is_one_line():
    with pytest.raises(FileError, match="/dev/null: expected an ordinary file, got a pipe or a device"):
        open_caffemodel("/dev/null")
