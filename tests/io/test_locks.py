"""One writer at a time, and no lock that outlives its holder."""

import errno
import os
import threading
import time
from contextlib import suppress

import pytest

from lpcaffe.errors import FileError
from lpcaffe.io import locks
from lpcaffe.io.locks import LOCK, held_folder, try_lock


def test_a_held_folder_is_refused_at_once_and_free_again_at_the_end(tmp_path):
    for _ in range(2):
        with held_folder(tmp_path) as locked:
            assert locked
            with pytest.raises(FileError) as caught, held_folder(tmp_path):
                pytest.fail("the block must not run")
            assert [path.name for path in tmp_path.iterdir()] == [LOCK]
        assert list(tmp_path.iterdir()) == []
    hint = "wait until it is done, or take another folder"
    assert str(caught.value) == f"{tmp_path}: another lpcaffe is writing into this folder; {hint}"


def test_an_error_in_the_block_frees_the_folder(tmp_path):
    with pytest.raises(KeyError), held_folder(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_of_a_killed_process_is_in_nobodys_way(tmp_path):
    (tmp_path / LOCK).touch()
    with held_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_made_and_stay_empty_are_removed(tmp_path):
    with held_folder(tmp_path / "a" / "b"):
        pass
    assert list(tmp_path.iterdir()) == []
    with held_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["file"]


@pytest.mark.parametrize("below", [False, True], ids=["one folder", "a folder that comes and goes"])
def test_there_is_never_more_than_one_holder(tmp_path, below):
    """Eight threads, each as a process of its own: a lock is that of the open file."""
    folder = tmp_path / "out" if below else tmp_path
    inside, most, held = [], [], []
    start = threading.Barrier(8)

    def hold():
        start.wait()
        for _ in range(150):
            with suppress(FileError), held_folder(folder):
                inside.append(1)
                held.append(1)
                time.sleep(1e-5)  # the others' turn
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=hold) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
    assert len(held) >= 8
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_lock_on_a_file_that_lost_its_name_does_not_count(tmp_path, monkeypatch):
    """The holder removes the file between our opening it and our locking it, and another makes a new one."""
    other = []

    def late(descriptor):
        if not other:
            other.append(None)
            (tmp_path / LOCK).unlink()
            other.append(os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT))
            assert try_lock(other[1])
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", late)
    with pytest.raises(FileError, match="another lpcaffe"), held_folder(tmp_path):
        pytest.fail("two holders")
    os.close(other[1])


def test_where_there_are_no_locks_nothing_is_held_and_work_goes_on(tmp_path, monkeypatch):
    import fcntl

    def without(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with held_folder(tmp_path) as one, held_folder(tmp_path) as other:
        assert (one, other) == (False, False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["/proc", "/proc/lpcaffe/out"])
def test_a_place_that_takes_no_files_is_one_line(folder):
    with pytest.raises(FileError, match=f"^{folder}: cannot be written: "), held_folder(locks.Path(folder)):
        pytest.fail("the block must not run")
