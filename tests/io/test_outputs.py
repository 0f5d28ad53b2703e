import errno
import hashlib
import os
import resource
import stat
from pathlib import Path

import pytest

from lpcaffe.errors import FileError
from lpcaffe.io.outputs import check_outputs, outputs, whole_file, write_file


@pytest.fixture
def target(tmp_path):
    return tmp_path / "net.caffemodel"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_an_output_appears_when_the_block_ends_and_not_before(target):
    with whole_file(target) as file:
        file.write(b"\x00whole")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"\x00whole"
    assert list(target.parent.iterdir()) == [target]


def test_bytes_are_written_as_they_are_and_their_hash_returned(target):
    data = b"\xc3\xa4\nb\r\n"
    assert write_file(target, data) == hashlib.sha256(data).hexdigest()
    assert target.read_bytes() == data


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


# --------------------------------------------------------------------------------------------------- several files


def write(files, data, **options):
    """A transaction of `files`, each with the bytes `data`, in this order."""
    with outputs(files, **options) as out:
        for path in files:
            out.write(path, data)


def test_files_are_renamed_in_their_order_and_the_witness_comes_alone_and_last(tmp_path, calls):
    (tmp_path / "out").mkdir()
    files = ["a", "report", "b"]
    for _ in range(2):
        calls.clear()
        write(files, b"data", folder=tmp_path / "out", witness="report", force=True)
        parts = [call.split()[1] for call in calls[:3]]
        renamed = [f"{parts[0]} -> a", f"{parts[2]} -> b", "sync out", f"{parts[1]} -> report", "sync out"]
        removed = calls[3:-5]
        assert calls[-5:] == renamed
    assert removed == ["sync out"]  # the old report is gone before anything else changes


def test_a_witness_without_other_files_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "report"
    path.write_bytes(b"old")
    replace, seen = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda part, to: (seen.append(path.read_bytes()), replace(part, to))[1])
    write([path], b"new", force=True, witness=path)
    assert (seen, path.read_bytes()) == ([b"old"], b"new")


@pytest.fixture
def faults(monkeypatch):
    """A function that writes files again and again, with a fault of the disk in one call after the other.

    It yields the number of the call while there is one; what is in the folder then is to be looked at.
    """

    def run(owner, name, files, **options):
        true = getattr(owner, name)
        calls = []

        def faulty(*arguments):
            calls.append(name)
            if len(calls) == last:
                raise OSError(errno.EIO, "Input/output error", *arguments[:1])
            return true(*arguments)

        monkeypatch.setattr(owner, name, faulty)
        for last in range(1, 99):
            calls.clear()
            try:
                write(files, b"new", **options)
            except FileError as error:
                said = str(error)
            else:
                return
            assert said.endswith("cannot be written: input/output error")
            assert said.startswith(tuple(f"{path}: " for path in files))
            yield last

    return run


@pytest.mark.parametrize(("owner", "name", "calls"), [(os, "fsync", 4), (Path, "replace", 2)])
def test_a_fault_of_the_disk_leaves_none_of_two_new_files(faults, tmp_path, owner, name, calls):
    (tmp_path / "else").mkdir()
    (tmp_path / "b").symlink_to("else/where")  # a link to nowhere yet
    count = 0
    for _ in faults(owner, name, (tmp_path / "b", tmp_path / "a")):
        assert names(tmp_path) == ["b", "else"]
        assert (names(tmp_path / "else"), (tmp_path / "b").readlink()) == ([], Path("else/where"))
        count += 1
    assert count == calls
    assert (names(tmp_path), names(tmp_path / "else")) == (["a", "b", "else"], ["where"])


@pytest.mark.parametrize(("owner", "name", "calls", "gap"), [(os, "fsync", 3, None), (Path, "replace", 2, 2)])
def test_a_fault_of_the_disk_leaves_both_old_files_or_both_new(faults, tmp_path, owner, name, calls, gap):
    """But for the gap between two renames."""
    paths = tmp_path / "a", tmp_path / "b"
    for path in paths:
        path.write_bytes(b"old")
    found = {}
    for number in faults(owner, name, paths, force=True):
        assert names(tmp_path) == ["a", "b"]
        found[number] = [path.read_bytes() == b"new" for path in paths]
        for path in paths:
            path.write_bytes(b"old")
    assert len(found) == calls
    assert found.pop(gap, None) == (gap and [True, False])
    assert found[1] == [False, False]
    assert all(a == b for a, b in found.values())


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace"), (Path, "unlink")])
def test_a_fault_of_the_disk_never_leaves_a_witness_of_other_files(faults, tmp_path, owner, name):
    paths = tmp_path / "a", tmp_path / "b", tmp_path / "report"
    seen = set()
    write(paths, b"old")
    for _ in faults(owner, name, paths, force=True, witness=paths[2]):
        left = contents(tmp_path)
        assert {"a", "b"} <= set(left) <= {"a", "b", "report"}
        if "report" in left:
            assert len(set(left.values())) == 1
        seen.add(left.get("report"))
        for path in paths:
            path.write_bytes(b"old")
    assert (b"old" in seen) == (name != "replace")  # by then it is removed
    assert contents(tmp_path) == dict.fromkeys(["a", "b", "report"], b"new")


def test_what_fails_leaves_every_earlier_file_and_no_new_one(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), outputs(["a", "b"], folder=tmp_path, force=True, witness="a") as out:  # noqa: PT012
        out.write("a", b"new")
        out.write("b", b"new")
        out.remove("c")
        raise ZeroDivisionError
    assert contents(tmp_path) == {"a": b"old"}


def test_a_staged_file_can_be_read_and_errors_name_its_output(tmp_path):
    with pytest.raises(FileError) as caught, outputs(["a"], folder=tmp_path) as out:  # noqa: PT012
        out.write("a", b"data")
        assert out.staged("a").read_bytes() == b"data"
        raise FileError("is not what it should be", path=out.staged("a"))
    assert str(caught.value) == f"{tmp_path / 'a'}: is not what it should be"


def test_a_file_whose_block_failed_does_not_appear_though_the_error_is_caught(tmp_path):
    with outputs(["a", "b"], folder=tmp_path) as out:
        out.write("b", b"data")
        with pytest.raises(ZeroDivisionError), out.open("a") as file:  # noqa: PT012
            file.write(b"half")
            raise ZeroDivisionError
    assert contents(tmp_path) == {"b": b"data"}


def test_a_file_is_removed_at_the_end_and_a_link_without_what_it_leads_to(tmp_path):
    for name in ("a", "b", "kept"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "link").symlink_to("kept")
    with outputs(["a", "b", "link", "none"], folder=tmp_path, force=True) as out:
        out.write("a", b"new")
        for name in ("b", "link", "none"):
            out.remove(name)
        assert names(tmp_path)[-4:] == ["a", "b", "kept", "link"]
    assert contents(tmp_path) == {"a": b"new", "kept": b"old"}


def test_a_path_that_was_not_named_before_is_checked_when_it_is_opened(tmp_path):
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(FileError, match="b: the file exists"), outputs(["a"], folder=tmp_path) as out:  # noqa: PT012
        out.write("a", b"data")
        out.write("b", b"data")
    assert contents(tmp_path) == {"b": b"mine"}


def test_a_file_that_came_into_being_meanwhile_is_seen_in_a_relative_folder_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=r"^out/a: the file exists"), outputs(["a"], folder="out") as out:  # noqa: PT012
        out.write("a", b"data")
        assert out.staged("a").read_bytes() == b"data"
        Path("out/a").write_bytes(b"somebody else's")
    assert contents(tmp_path / "out") == {"a": b"somebody else's"}


def test_a_part_that_is_adopted_gets_the_name_and_survives_an_error(tmp_path, calls):
    part = tmp_path / "store" / "net.part"
    part.parent.mkdir()
    part.write_bytes(b"data")
    (tmp_path / "a").symlink_to("store/net")
    with pytest.raises(ZeroDivisionError), outputs(["a"], folder=tmp_path) as out:  # noqa: PT012
        out.adopt("a", part)
        raise ZeroDivisionError
    assert part.read_bytes() == b"data"
    with outputs(["a"], folder=tmp_path) as out:
        out.adopt("a", part)
    assert (tmp_path / "a").is_symlink()
    assert contents(tmp_path / "store") == {"net": b"data"}
    assert calls[-2:] == ["net.part -> net", "sync store"]


def test_outputs_are_files_of_their_own(tmp_path):
    (tmp_path / "in").write_bytes(b"input")
    (tmp_path / "link").symlink_to("in")
    for path in ("in", "link"):
        with pytest.raises(FileError, match=r"expected a file of its own for this output, got the input .*in$"):
            check_outputs([tmp_path / path], force=True, inputs=[None, tmp_path / "in"])
    with pytest.raises(
        FileError, match=r"link: expected a file of its own for this output, got the same file as .*in$"
    ):
        check_outputs(["in", "link"], force=True, folder=tmp_path)


def test_a_folder_is_made_for_its_files_and_gone_without_them(tmp_path):
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), outputs(["c"], folder=folder) as out:  # noqa: PT012
        out.write("c", b"data")
        raise ZeroDivisionError
    assert names(tmp_path) == []
    write(["c"], b"data", folder=folder)
    assert contents(folder) == {"c": b"data"}
    with pytest.raises(FileError, match="c: expected a folder for the output, got a file"):
        check_outputs(["d"], folder=folder / "c" / "e")


def test_the_holder_of_a_folder_removes_what_dead_holders_left(tmp_path):
    with outputs(["a"], folder=tmp_path) as out, out.open("a") as file:
        part = Path(file.name)
    part.write_bytes(b"half")
    other = tmp_path / part.name.replace("held-", "")
    other.write_bytes(b"half of a file that another verb writes")
    write(["b"], b"data", folder=tmp_path)
    assert names(tmp_path) == sorted([other.name, "a", "b"])
