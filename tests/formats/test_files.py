import errno
import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest

from lpcaffe.errors import FileError
from lpcaffe.formats.files import SYNC_BYTES, WRITE_BYTES, content_kind, hashed_file, move_whole, whole_file
from lpcaffe.formats.schema import LayerParameter, NetParameter


@pytest.fixture
def target(tmp_path):
    return tmp_path / "net.caffemodel"


def test_an_output_appears_when_the_block_ends_and_not_before(target):
    with whole_file(target) as file:
        file.write(b"\x00whole")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"\x00whole"
    assert list(target.parent.iterdir()) == [target]


def test_text_is_utf8_with_line_ends_as_written(target):
    with whole_file(target, mode="w") as file:
        file.write("ä\nb\r\n")
    assert target.read_bytes() == b"\xc3\xa4\nb\r\n"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_permissions_are_those_of_any_new_file(target, umask):
    before = os.umask(umask)
    try:
        with whole_file(target):
            pass
        plain = target.with_name("plain")
        plain.touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, FileNotFoundError])
@pytest.mark.parametrize("earlier", [None, b"earlier"])
def test_after_any_error_there_is_the_earlier_file_or_none(target, error, earlier):
    if earlier is not None:
        target.write_bytes(earlier)
    with pytest.raises(error), whole_file(target, force=True) as file:  # noqa: PT012
        file.write(b"half")
        raise error
    assert [path.read_bytes() for path in target.parent.iterdir()] == [earlier] * (earlier is not None)


def test_an_existing_file_is_replaced_only_by_force(target):
    target.write_bytes(b"earlier")
    with pytest.raises(FileError, match="the file exists; --force overwrites it"), whole_file(target):
        pytest.fail("the block must not run")
    assert target.read_bytes() == b"earlier"
    with whole_file(target, force=True) as file:
        file.write(b"later")
    assert target.read_bytes() == b"later"


def test_a_file_that_came_into_being_meanwhile_is_not_replaced(target):
    with pytest.raises(FileError, match="the file exists"), whole_file(target) as file:  # noqa: PT012
        file.write(b"mine")
        target.write_bytes(b"somebody else's")
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"somebody else's"]


def test_a_missing_directory_is_an_error(target):
    path = target.parent / "missing" / "net.caffemodel"
    with pytest.raises(FileError, match=r'net\.caffemodel: the directory ".*missing" does not exist'), whole_file(path):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("path", [".", "/dev/null"])
def test_only_an_ordinary_file_is_replaced(path):
    with pytest.raises(FileError, match="expected an ordinary file"), whole_file(path, force=True):
        pytest.fail("the block must not run")


def test_a_link_goes_on_pointing_at_what_was_written(target, tmp_path):
    (tmp_path / "store").mkdir()
    real = tmp_path / "store" / "real.caffemodel"
    target.symlink_to(real)
    with whole_file(target) as file:
        file.write(b"content")
    assert target.is_symlink()
    assert real.read_bytes() == b"content"


def test_a_full_disk_is_one_line_and_leaves_nothing(target):
    with pytest.raises(FileError) as caught, whole_file(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == f"{target}: cannot be written: no space left on device"
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("size", [5000, 1_000_000])
def test_a_write_that_the_system_refuses_is_one_line_and_leaves_nothing(target, size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(FileError, match="cannot be written: file too large"), whole_file(target) as file:
            file.write(b"x" * size)  # the small one reaches the disk only when the file is closed
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(target.parent.iterdir()) == []


def test_an_unwritable_place_is_one_line():
    with pytest.raises(FileError, match="cannot be written"), whole_file("/proc/net.caffemodel"):
        pytest.fail("the block must not run")


def test_a_missing_input_is_not_mistaken_for_the_output(target):
    with pytest.raises(FileNotFoundError), whole_file(target):
        (target.parent / "input").read_bytes()


def one_layer(**fields):
    return NetParameter(**fields, layer=[LayerParameter(name="conv1", type="Convolution")]).SerializeToString()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "empty"),
        (b'name: "LeNet"\r\nlayer {\n\ttype: "Data" }', "text"),
        (b"# caf\xe9, in Latin-1\n", "text"),
        (b"\xef\xbb\xbfname: 'x'", "text"),
        ("# 網".encode("iso2022_jp_2") + b"\n", "text"),
        (b"\x89HDF\r\n\x1a\n\x00\x00", "an HDF5 file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a Git LFS pointer"),
        (b"\n <!DOCTYPE html>\n<html>", "a web page"),
        (b"<html><head>", "a web page"),
        (b"<?xml version='1.0'?>", "a web page"),
        (b"\x1f\x8b\x08\x00", "a gzip file"),
        (b"PK\x03\x04\x14", "a zip file"),
        (one_layer(), "binary"),
        (one_layer(name="nine char"), "binary"),  # begins with two line breaks and letters
        (NetParameter(layers=[{"name": " " * 32}]).SerializeToString(), "binary"),
    ],
)
def test_the_first_bytes_say_what_a_file_is(head, kind):
    assert content_kind(head) == kind


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the disk, in order: "sync NAME" of a file or a folder, "NAME -> NAME" of a rename."""
    calls, sync, replace = [], os.fsync, Path.replace

    def noted_sync(descriptor):
        calls.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        sync(descriptor)

    def noted_replace(self, target):
        calls.append(f"{self.name} -> {target.name}")
        return replace(self, target)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to know what is synchronised")
    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return calls


def test_bytes_reach_the_disk_before_the_name_and_the_name_before_the_end(target, calls):
    with whole_file(target) as file:
        file.write(b"content")
        assert calls == []
    (part,) = {call.split()[1] for call in calls[:1]}
    assert part.startswith(".lpcaffe-")
    assert calls == [f"sync {part}", f"{part} -> {target.name}", f"sync {target.parent.name}"]


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_to_synchronise_leaves_the_earlier_file(target, monkeypatch, error):
    def failing(descriptor):
        raise OSError(error, os.strerror(error))

    target.write_bytes(b"earlier")
    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(FileError) as caught, whole_file(target, force=True) as file:
        file.write(b"later")
    assert str(caught.value) == f"{target}: cannot be written: {os.strerror(error).lower()}"
    assert contents(target.parent) == {target.name: b"earlier"}


def test_a_file_system_that_cannot_synchronise_is_written_to_all_the_same(target, monkeypatch):
    def useless(descriptor):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "fsync", useless)
    with whole_file(target) as file:
        file.write(b"content")
    assert contents(target.parent) == {target.name: b"content"}


def test_a_folder_that_cannot_be_read_is_written_to_all_the_same(target, monkeypatch):
    opened = os.open

    def refusing(path, flags, *more, **options):
        if Path(path) == target.parent:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refusing)  # root may read any folder
    with whole_file(target) as file:
        file.write(b"content")
    assert contents(target.parent) == {target.name: b"content"}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_moved_file_replaces_another_and_links_go_on_pointing_at_it(tmp_path, target, calls):
    (tmp_path / "store").mkdir()
    (tmp_path / "part").write_bytes(b"new")
    (tmp_path / "store" / "real").write_bytes(b"old")
    target.symlink_to(tmp_path / "store" / "real")
    move_whole(tmp_path / "part", target)
    assert target.is_symlink()
    assert contents(tmp_path / "store") == {"real": b"new"}
    assert not (tmp_path / "part").exists()
    assert calls == ["part -> real", "sync store"]


def test_a_file_is_moved_to_another_file_system_as_a_copy_that_appears_whole(tmp_path, target, monkeypatch):
    (tmp_path / "part").write_bytes(b"new")
    target.write_bytes(b"old")
    replace, seen = Path.replace, []

    def far(self, to):
        if self == tmp_path / "part":
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(self))
        seen.append((self.parent == target.parent, self.read_bytes(), target.read_bytes()))
        return replace(self, to)

    monkeypatch.setattr(Path, "replace", far)
    move_whole(tmp_path / "part", target)
    assert seen == [(True, b"new", b"old")]
    assert target.read_bytes() == b"new"


# Files that are hashed while they are written

SIZES = [0, 1, 4095, WRITE_BYTES - 1, WRITE_BYTES, WRITE_BYTES + 1, 3 * WRITE_BYTES + 7]


@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [0], [], [5] * 100])
def test_the_hash_is_that_of_the_bytes_whatever_the_pieces(target, sizes):
    pieces = [bytes([index % 251]) * size for index, size in enumerate(sizes)]
    with hashed_file(target) as file:
        for piece in pieces:
            file.write(piece)
            file.write(memoryview(bytearray(piece)))
        digest = file.sha256()
    whole = b"".join(piece * 2 for piece in pieces)
    assert target.read_bytes() == whole
    assert digest == hashlib.sha256(whole).hexdigest()


def test_what_a_hashed_file_passes_over_is_hashed_as_it_stands(target):
    with hashed_file(target) as file:
        Path(file.name).write_bytes(b"x" * 2 * WRITE_BYTES)
        for offset in (3, WRITE_BYTES):
            file.skip_to(offset)
            file.write(b"y" * (WRITE_BYTES - 5))
        digest = file.sha256()
    written = b"y" * (WRITE_BYTES - 5)
    assert target.read_bytes() == b"xxx" + written + b"xx" + written + b"x" * 5
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()


def test_a_fault_that_the_disk_tells_of_while_writing_leaves_no_file(target, monkeypatch):
    """The system tells of it once: the fsync at the end may well succeed."""
    faults = [OSError(errno.EIO, "Input/output error")]

    def fsync(descriptor):
        if faults:
            raise faults.pop()

    monkeypatch.setattr(os, "fsync", fsync)
    piece = bytes(SYNC_BYTES)
    with pytest.raises(FileError, match="be written: input/output error"), hashed_file(target) as file:  # noqa: PT012
        file.write(piece)
        file.sha256()
    assert not faults
    assert list(target.parent.iterdir()) == []
