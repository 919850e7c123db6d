"""One attempt at a lock: which of several gets it, and when it is free again."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanocache.coordination.lock import Lock, try_lock
from nanocache.errors import UnsafeCache


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "key.lock")


def held(path: str) -> Lock:
    lock = try_lock(path, mode=0o644)
    assert lock is not None
    return lock


def test_of_two_attempts_in_one_process_one_gets_the_lock(path: str) -> None:
    lock = held(path)
    assert try_lock(path, mode=0o644) is None
    lock.release()
    lock.release()  # again is harmless
    held(path).release()


def test_a_lock_excludes_other_processes_and_every_filelock(path: str, spawn: Callable[..., Any]) -> None:
    lock = held(path)
    ours = "from nanocache.coordination.lock import try_lock; print(try_lock(path, mode=0o644) is None)"
    theirs = (
        "from filelock import FileLock, Timeout\ntry:\n    FileLock(path, blocking=False).acquire()\n"
        "except Timeout:\n    print(True)"
    )
    assert spawn(ours, path=path).outputs() == ["True"]
    assert spawn(theirs, path=path).outputs() == ["True"]
    lock.release()


def test_a_lock_to_which_nothing_refers_is_free(path: str) -> None:
    held(path)  # Ctrl-C may come before the caller has it
    held(path).release()


def test_a_forked_child_neither_holds_nor_frees_its_parents_lock(path: str) -> None:
    lock = held(path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(try_lock(path, mode=0o644) is not None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert try_lock(path, mode=0o644) is None
    lock.release()


def test_a_lock_file_has_the_mode_that_was_asked_for_whatever_the_umask(path: str) -> None:
    before = os.umask(0o077)
    try:
        held(path).release()
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: os.symlink("elsewhere", path)])
def test_what_is_no_file_is_not_locked(path: str, make: Callable[[str], None]) -> None:
    make(path)
    with pytest.raises(UnsafeCache):
        try_lock(path, mode=0o644)


def test_a_lock_file_that_is_deleted_while_it_is_locked_gives_no_lock(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    flock = fcntl.flock

    def late(fd: int, operation: int) -> None:
        flock(fd, operation)
        if operation & fcntl.LOCK_EX:
            os.unlink(path)

    monkeypatch.setattr(fcntl, "flock", late)
    assert try_lock(path, mode=0o644) is None


def test_a_folder_in_which_nothing_can_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        try_lock(str(tmp_path / "gone" / "key.lock"), mode=0o644)
