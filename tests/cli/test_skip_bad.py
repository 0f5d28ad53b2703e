"""--skip-bad on the command line: what is left out, what the reports then say, and labels that do not match."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lpcaffe as lp

VALIDATE = ["out/lp.prototxt", "out/lp.caffemodel"]


@pytest.fixture
def pictures(small):
    """Six pictures, of which 1.png and 4.png are torn, and the arguments for the network."""
    Path("pictures").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (9, 8, 3), np.uint8)
        Image.fromarray(pixels).save(f"pictures/{index}.png")
    for index in (1, 4):
        path = Path(f"pictures/{index}.png")
        path.write_bytes(path.read_bytes()[:60])
    return small


@pytest.fixture
def good(pictures):
    """The other four."""
    Path("good").mkdir()
    for index in (0, 2, 3, 5):
        Path(f"good/{index}.png").write_bytes(Path(f"pictures/{index}.png").read_bytes())
    return pictures


def warned(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("lpcaffe: warning: skipped ")]


def test_calibrate_and_convert_see_the_good_images_only(lpcaffe, good):
    for name, options in (("a", ["pictures", "--skip-bad"]), ("b", ["good"])):
        status, _, err = lpcaffe("calibrate", *good, "--out", f"{name}.npz", "--data", *options)
        assert (status, len(warned(err))) == (0, name == "a")
        status, _, err = lpcaffe("convert", *good, "--out", name, "--data", *options)
        assert (status, len(warned(err))) == (0, name == "a")
    assert lp.Calibration.load("a.npz").layers == lp.Calibration.load("b.npz").layers
    ours, others = (json.loads(Path(f"{name}/report.json").read_text()) for name in "ab")
    assert ours["data"] == others["data"] | {"source": "folder pictures, 6 files, 2 skipped"}
    assert ours["data"]["images"] == 4
    assert ours["layers"] == others["layers"]


def test_the_limit_counts_good_images(lpcaffe, pictures):
    line = ["calibrate", *pictures, "--out", "s.npz", "--data", "pictures", "--skip-bad", "--limit", "3"]
    assert lpcaffe(*line)[0] == 0
    stats = lp.Calibration.load("s.npz")
    assert (stats.images, stats.source) == (3, "folder pictures, first 3 of 6 files, 1 skipped")


def test_labels_stay_with_their_images(lpcaffe, good):
    assert lpcaffe("convert", *good, "--out", "out")[0] == 0
    net = lp.load(*good)
    decided = [lp.run(net, next(lp.images("good", net).batches(4)))["prob"].argmax(1)]
    labels = np.full(6, 3)
    labels[[0, 2, 3, 5]] = decided
    labels[[1, 4]] = (labels[[0, 3]] + 1) % 4  # nothing that is right, should they be counted
    Path("labels.txt").write_text("\n".join(map(str, labels)))
    Path("list.txt").write_text("".join(f"pictures/{i}.png {label}\n" for i, label in enumerate(labels)))
    for options in (["pictures", "--labels", "labels.txt"], ["list.txt"]):
        line = ["validate", *good, *VALIDATE, "--skip-bad", "--json", "-", "--data", *options]
        status, out, _ = lpcaffe(*line)
        report = json.loads(out)
        assert (status, report["data"]["images"]) == (0, 4)
        assert report["outputs"][0]["top1"]["full"] == 1.0


def test_bad_images_and_labels_that_do_not_match_are_one_line(lpcaffe, pictures):
    assert lpcaffe("convert", *pictures, "--out", "out")[0] == 0
    for path in Path("pictures").iterdir():
        Path("torn").mkdir(exist_ok=True)
        (Path("torn") / path.name).write_bytes(path.read_bytes()[:60])
    Path("four.txt").write_text("0\n1\n2\n3\n")
    Path("range.txt").write_text("0\n1\n2\n4\n0\n0\n")
    Path("word.txt").write_text("0\n1\n2\nthree\n0\n0\n")
    np.save("floats.npy", np.zeros(6))
    said = {
        ("--data", "pictures"): "pictures/1.png: unreadable image",
        ("--data", "torn", "--skip-bad"): "none of 6 images can be read: unreadable image",
        ("--skip-bad",): "--skip-bad needs images; give --data",
        ("--data", "pictures", "--skip-bad", "--labels", "four.txt"): "four.txt: expected 6 labels, one for each image",
        ("--data", "pictures", "--skip-bad", "--labels", "range.txt"): 'blob "prob": expected labels of 0 to 3, got 4',
        ("--data", "pictures", "--skip-bad", "--labels", "word.txt"): "word.txt:4: expected one integer, got 'three'",
        ("--data", "pictures", "--skip-bad", "--labels", "floats.npy"): "floats.npy: labels must be a row of integers",
    }  # fmt: skip
    for options, sentence in said.items():
        status, out, err = lpcaffe("validate", *pictures, *VALIDATE, *options)
        errors = [line for line in err.splitlines() if not warned(line)]
        assert (status, out, len(errors)) == (2, "", 1), (options, err)
        assert sentence in errors[0]
