"""Is this the disk that another rank means? A file on it names the disk, and ranks that read the same name share it.

    <base>/nanodist-v1/<job>    32 hex digits: the disk's name for this job

The first rank links it into place, which one of many can do, on NFS too (the server decides, and no client's cached
view is asked). No rank waits for another to find out, path texts may differ, and a cluster of several shared
disks is no special case. Not a lock. Invariants: the name counts for one job only, because disks are cloned with what
is on them; a disk that can't be named (read-only, no hard links) is None, and counts as this rank's alone.
"""

from __future__ import annotations

import errno
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["disk_name", "wait_visible"]

FOLDER = "nanodist-v1"
OLD = 7 * 86_400  # seconds after which a job's name of a disk is taken for forgotten
VISIBLE = 65.0  # seconds: NFS clients believe in a missing name for up to 60 (acdirmax), Lustre and Ceph for less
_DISK_NAME = re.compile(r"[0-9a-f]{32}(\.|$)")  # a job's name of the disk, or one that was never linked
TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# https://bford.info/cachedir/\n"


def disk_name(base: Path, job: str) -> str | None:
    """The name of the disk under `base` in this job, the same on all ranks that share it; None if it can't be named."""
    path = base / FOLDER / job
    try:
        return path.read_text() if path.exists() else _name(path)
    except OSError:
        return None


def _name(path: Path) -> str:
    _make_folder(path.parent)
    _forget_old(path.parent)
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    own.write_text(uuid.uuid4().hex)
    try:
        os.link(own, path)
    except FileExistsError:
        pass  # another was first: its name counts
    finally:
        own.unlink()
    return path.read_text()


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    folder.mkdir(parents=True, exist_ok=True)
    # As in the cache's own folders: the base directory decides which users may write, whatever the umask.
    with suppress(PermissionError):
        folder.chmod(folder.parent.stat().st_mode & 0o7777)
    (folder / "CACHEDIR.TAG").write_text(TAG)
    (folder / ".gitignore").write_text("*\n")


def _forget_old(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):  # another rank was faster, or it belongs to another user
                if _DISK_NAME.match(entry.name) and entry.stat().st_mtime < time.time() - OLD:
                    os.unlink(entry.path)


def wait_visible(path: Path, base: Path, seconds: float) -> bool:
    """Whether `path`, published elsewhere, shows here within `seconds`; at least one look.

    Listing the folders above it makes an NFS client ask the server, and forget that it once found the name missing.
    """
    deadline = time.monotonic() + seconds
    for pause in _backoff():
        if path.exists():
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        for folder in reversed([parent for parent in path.parents if parent.is_relative_to(base)]):
            try:
                os.listdir(folder)
            except OSError as e:
                if e.errno not in (errno.ENOENT, errno.ESTALE):
                    raise
                break
    raise AssertionError("the backoff never ends")


def _backoff() -> Iterator[float]:
    pause = 0.05
    while True:
        yield pause
        pause = min(2 * pause, 1.0)
