"""Data are a value: what is pickled reads the same batches, in this process and in another one in another folder."""

import io
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lpcaffe.data.preprocessing import Preprocessing
from lpcaffe.data.sources import open_data
from lpcaffe.errors import LpcaffeWarning
from lpcaffe.formats.schema import Datum

INPUTS = {"data": (2, 3, 5, 7)}
TWO = {"data": (2, 3, 5, 7), "info": (2, 4)}
PIXELS = np.random.default_rng(3).integers(0, 256, (6, 5, 7, 3), np.uint8)
FLOATS = {"data": PIXELS.transpose(0, 3, 1, 2) / np.float32(7), "info": np.arange(24, dtype=np.float32).reshape(6, 4)}
MEAN = Preprocessing(mean=np.arange(105, dtype=np.float32).reshape(3, 5, 7), scale=0.5)
BAD = {1, 4}


def png(index):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS[index]).save(buffer, "PNG")
    return buffer.getvalue()[: 60 if index in BAD else None]


def folder():
    Path("pictures").mkdir()
    for index in range(6):
        Path(f"pictures/{index}.png").write_bytes(png(index))
    return "pictures", INPUTS


def listing():
    folder()
    Path("val.txt").write_text("".join(f"pictures/{index}.png {10 + index}\n" for index in (5, 1, 0, 3, 4, 2)))
    return "val.txt", INPUTS


def npy():
    np.save("x.npy", FLOATS["data"])
    return "x.npy", INPUTS


def npz():
    np.savez("x.npz", **FLOATS, y=np.arange(6))
    return "x.npz", TWO


def lmdb():
    package = pytest.importorskip("lmdb", reason="lmdb is not installed: pip install 'lpcaffe[lmdb]'")
    with package.open("db", map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for index in range(6):
            datum = Datum(data=png(index), encoded=True, label=10 + index)
            transaction.put(b"%08d" % index, datum.SerializeToString())
    return "db", INPUTS


def random():
    return "random", INPUTS


def memory():
    return {"data": PIXELS, "info": FLOATS["info"], "y": np.arange(6)}, TWO


SOURCES = [folder, listing, npy, npz, lmdb, random, memory]
DECODED = (folder, listing, lmdb)


def opened(make, limit):
    spec, inputs = make()
    data = open_data(spec, inputs, MEAN, limit=limit)
    if make in DECODED:
        with pytest.warns(LpcaffeWarning, match="skipped"):
            return data.without_bad()
    return data


def content(data):
    """All that can be read from data, bit for bit."""
    batches = [(name, x.shape, x.tobytes()) for batch in data.batches(2) for name, x in batch.items()]
    labels = None if data.labels is None else data.labels.tolist()
    how = None if data.preprocessing is None else data.preprocessing.to_json()
    return batches, labels, data.count, data.available, data.source, how


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize("make", SOURCES)
def test_pickled_data_are_the_same(tmp_path, monkeypatch, make, limit):
    monkeypatch.chdir(tmp_path)
    data = opened(make, limit)
    expected = content(data)
    assert expected[2] == (limit or {random: 32, **dict.fromkeys(DECODED, 4)}.get(make, 6))
    assert content(pickle.loads(pickle.dumps(data))) == expected


def test_labels_from_elsewhere_are_pickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = opened(listing, 3).with_labels(np.arange(6) * 10)
    assert pickle.loads(pickle.dumps(data)).labels.tolist() == [0, 20, 30]


@pytest.mark.parametrize("make", [npy, npz])
def test_arrays_of_a_file_stay_in_the_file(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    data = opened(make, None)
    before = len(pickle.dumps(data))
    list(data.batches(4))
    assert before == len(pickle.dumps(data)) < FLOATS["data"].nbytes


OTHER = """if True:
    import pickle, sys
    found = [(list(data.batches(2)), data.labels) for data in pickle.load(sys.stdin.buffer)]
    pickle.dump(found, sys.stdout.buffer)
"""


def test_another_process_in_another_folder_reads_the_same_batches(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    sources = []
    for make in SOURCES:
        (tmp_path / make.__name__).mkdir()
        monkeypatch.chdir(tmp_path / make.__name__)
        with suppress(pytest.skip.Exception):
            sources.append(pickle.loads(pickle.dumps(opened(make, 5))))  # which makes the relative path absolute
    command = [sys.executable, "-c", OTHER]
    answer = subprocess.run(command, input=pickle.dumps(sources), stdout=-1, cwd=tmp_path / "elsewhere", check=True)
    found = pickle.loads(answer.stdout)
    for data, (batches, labels) in zip(sources, found, strict=True):
        for mine, theirs in zip(data.batches(2), batches, strict=True):
            assert {name: x.tobytes() for name, x in mine.items()} == {name: x.tobytes() for name, x in theirs.items()}
        np.testing.assert_array_equal(data.labels, labels)
