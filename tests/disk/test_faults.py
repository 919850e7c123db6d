"""What an error of the disk becomes: the reason, and a remedy that fits it."""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.disk import faults
from nanocache.errors import NoSpace
from tests.servers.origin import Origin, digest

MIB = 1 << 20

Disk = Callable[..., None]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """`disk(room=..., inodes=..., free_inodes=...)`: what statvfs says from now on."""
    real = os.statvfs

    def say(*, room: int = MIB * 100, inodes: int = 1000, free_inodes: int = 900) -> None:
        def statvfs(path: Any) -> os.statvfs_result:
            st = real(path)
            counts = (1000 * MIB, room, room, inodes, free_inodes, free_inodes)
            return os.statvfs_result((1, 1, *counts, st.f_flag, st.f_namemax))

        monkeypatch.setattr(os, "statvfs", statvfs)

    return say


def full(base: Path, code: int) -> str:
    with pytest.raises(NoSpace) as e, faults.named(str(base)):
        raise OSError(code, os.strerror(code))
    assert e.value.errno == errno.ENOSPC
    assert str(base) in str(e.value)
    return str(e.value)


def test_a_full_disk_says_how_much_room_there_is_and_to_free_some(base: Path, disk: Disk) -> None:
    disk(room=5000)
    assert "no space left" in (said := full(base, errno.ENOSPC))
    assert "5,000 available" in said
    assert "free some" in said


@pytest.mark.parametrize("left", [0, 3])
def test_a_disk_without_inodes_says_inodes_and_not_to_free_some(base: Path, disk: Disk, left: int) -> None:
    """A few are left again when the call looks: its own partial is gone by then."""
    disk(inodes=24, free_inodes=left)
    assert "inodes" in (said := full(base, errno.ENOSPC))
    assert "df -i" in said
    assert "free some" not in said


def test_a_file_system_that_counts_no_inodes_is_full_of_bytes(base: Path, disk: Disk) -> None:
    disk(inodes=0, free_inodes=0)
    assert "inodes" not in full(base, errno.ENOSPC)


def test_a_file_too_large_for_its_file_system_says_so_and_not_to_free_some(base: Path) -> None:
    assert "ulimit -f" in (said := full(base, errno.EFBIG))
    assert "free some" not in said


def test_a_quota_that_is_used_up_is_named(base: Path) -> None:
    assert "quota" in full(base, errno.EDQUOT)


def test_another_error_of_the_disk_names_the_base_and_stays_what_it_is(base: Path) -> None:
    with pytest.raises(OSError, match="Input/output error") as e, faults.named(str(base)):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert e.value.filename == str(base)
    assert not isinstance(e.value, NoSpace)


def test_a_limit_on_the_size_of_files_is_named_by_a_fetch(origin: Origin, base: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    try:
        with pytest.raises(NoSpace, match="ulimit -f"):
            nanocache.fetch(origin.url(f"/bytes/{3 * MIB}/1/a.bin"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_artifact_over_the_limit_is_told_the_limit_and_not_to_free_some(
    origin: Origin, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_MAX_ARTIFACT", "1000")
    with pytest.raises(NoSpace, match="raise or unset NANOCACHE_MAX_ARTIFACT") as e:
        nanocache.fetch(origin.url("/bytes/2000/1/a.bin"))
    assert "free some" not in str(e.value)
    assert (e.value.needed, e.value.available) == (2000, 1000)


def test_a_mount_that_says_it_has_no_room_is_tried_after_one_warning(
    origin: Origin, base: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Some FUSE mounts and quotas say 0 whatever there is."""
    disk(room=0)
    faults.warn_of_no_room.cache_clear()
    with caplog.at_level(logging.WARNING, "nanocache"):
        for seed in (1, 2):
            url = origin.url(f"/bytes/{MIB}/{seed}/a.bin")
            assert nanocache.fetch(url, sha256=digest(MIB, seed)).stat().st_size == MIB
    assert len([r for r in caplog.records if "0 bytes" in r.getMessage()]) == 1


def test_room_that_is_known_and_too_little_is_refused(base: Path, disk: Disk) -> None:
    disk(room=10)
    faults.check_room(str(base), 10)
    with pytest.raises(NoSpace, match="needed 11 bytes, 10 available"):
        faults.check_room(str(base), 11)
