"""The name of a disk, and waiting for a file that another host published."""

from __future__ import annotations

import os
import stat
import threading
import time
import uuid
from pathlib import Path

import pytest

from nanodist import shared_disk
from nanodist.shared_disk import disk_name, wait_visible

JOB = uuid.uuid4().hex


def test_same_disk_has_one_name_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    name = disk_name(tmp_path / "disk", JOB)
    assert name
    assert disk_name(tmp_path / "link", JOB) == name
    assert len(name) == 32


def test_disks_and_jobs_have_names_of_their_own(tmp_path: Path) -> None:
    names = {disk_name(tmp_path / folder, job) for folder in "ab" for job in (JOB, uuid.uuid4().hex)}
    assert len(names) == 4


def test_racing_threads_agree(tmp_path: Path) -> None:
    names: list[str | None] = []
    threads = [threading.Thread(target=lambda: names.append(disk_name(tmp_path, JOB))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 1
    assert len(names) == 16
    assert sorted(os.listdir(tmp_path / shared_disk.FOLDER)) == sorted([JOB, "CACHEDIR.TAG", ".gitignore"])


def test_disk_that_cannot_be_named_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(shared_disk.os, "link", no_links)
    assert disk_name(tmp_path, JOB) is None
    (tmp_path / "file").touch()
    assert disk_name(tmp_path / "file", JOB) is None


def test_folder_has_the_base_directorys_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    disk_name(tmp_path, JOB)
    assert stat.S_IMODE((tmp_path / shared_disk.FOLDER).stat().st_mode) == 0o2775


def test_forgotten_names_are_removed_and_nothing_else(tmp_path: Path) -> None:
    old, recent = uuid.uuid4().hex, uuid.uuid4().hex
    for job in (old, recent):
        disk_name(tmp_path, job)
    stranger = tmp_path / shared_disk.FOLDER / "notes.txt"
    stranger.touch()
    for path in (tmp_path / shared_disk.FOLDER / old, stranger):
        os.utime(path, (0, 0))
    disk_name(tmp_path, JOB)
    assert set(os.listdir(tmp_path / shared_disk.FOLDER)) == {recent, JOB, "notes.txt", "CACHEDIR.TAG", ".gitignore"}


def test_file_that_shows_late_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "f"

    def publish() -> None:
        time.sleep(0.2)
        path.parent.mkdir(parents=True)
        path.touch()

    thread = threading.Thread(target=publish)
    thread.start()
    assert wait_visible(path, tmp_path, 10)
    thread.join()
    assert not wait_visible(tmp_path / "missing", tmp_path, 0)
