"""Partials without an owner: which process may take one over, and when one is swept.

Invariants: a partial is taken over only if its owner is provably gone, or let go of it; of all claimers one gets it,
also where locks let every process in; bytes of another boot or host are trusted only if a digest will judge them.
"""

from __future__ import annotations

import errno
import os
import time
from dataclasses import dataclass
from typing import Any

from ..callers import suppress
from ..coordination.lock import Lock
from ..coordination.process import Identity
from ..disk import files, folders
from ..errors import UnsafeCache
from ..room import UNLIMITED, Room
from . import partials, seal
from .layout import BaseDirectory
from .partials import DATA, STATE, Abandoned, Partial, create

__all__ = ["claim", "gone", "is_dead", "source_of"]

STILL = 900.0  # seconds without a movement after which a partial of another boot or host has no owner


def claim(directory: BaseDirectory, key: str, *, judged: bool, room: Room = UNLIMITED) -> Partial:
    """The best partial of `key` whose owner is gone, or a new one.

    `judged`: a digest will judge the bytes. Without one, a partial of another boot or host is not resumed. `room`: what
    it writes is written in there.
    """
    for path in _by_size(directory.partials(key)):
        partial = _claim_one(directory, key, path, judged, room)
        if partial is not None:
            return partial
    return create(directory, key, room)


def _by_size(folder: str) -> list[str]:
    paths = [os.path.join(folder, name) for name in folders.names(folder)]
    return sorted(paths, key=_size, reverse=True)


def _size(path: str) -> int:
    try:
        return os.lstat(os.path.join(path, DATA)).st_size
    except OSError:
        return 0


def _claim_one(directory: BaseDirectory, key: str, path: str, judged: bool, room: Room) -> Partial | None:
    record = _OwnerRecord.read(path, directory)
    lock = None if record is None else record.take_lock(path, directory)
    if record is None or lock is None:
        return None
    try:
        partial = _take_over(directory, key, path, record, lock, room)
    except OSError:
        lock.release()
        return None
    if judged or record.owner.here:
        with suppress(OSError, Abandoned):  # then only this process can resume it
            partial.save(record.state)
        return partial
    partial.state = None
    partial.close()  # deletes it
    return None


def _take_over(directory: BaseDirectory, key: str, path: str, record: _OwnerRecord, lock: Lock, room: Room) -> Partial:
    """Rename the partial at `path` to a name of this process's own. Raises OSError if another one was faster."""
    fd = files.open_private(os.path.join(path, DATA), os.O_RDWR)
    mine = os.path.join(directory.partials(key), files.random_name())
    try:
        _check_data(fd, path, directory)
        os.unlink(os.path.join(path, STATE))  # succeeds for one of its readers, even where locks let every process in
        os.rename(path, mine)
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise
    return Partial(directory, key, os.path.join(mine, DATA), fd, lock=lock, state=record.state, room=room)


def _check_data(fd: int, path: str, directory: BaseDirectory) -> None:
    st = os.fstat(fd)
    if st.st_nlink > 1:  # published, too: a power cut in the middle of a rename may leave both names
        raise FileExistsError(errno.EEXIST, "it has another name", path)
    if not directory.trusts(st):
        raise PermissionError(errno.EPERM, "it is a stranger's", path)


@dataclass(frozen=True, slots=True)
class _OwnerRecord:
    """A parsed `state.json`."""

    owner: Identity
    left: bool  # the owner let go of it, and may still run
    state: dict[str, Any]

    @classmethod
    def read(cls, path: str, directory: BaseDirectory) -> _OwnerRecord | None:
        record = files.read_json(os.path.join(path, STATE), trusts=directory.trusts) or {}
        owner = record.get("owner")
        state = record.get("state")
        identity = Identity.parse(owner) if isinstance(owner, dict) else None
        if identity is None or not isinstance(state, dict):
            return None
        return cls(identity, record.get("left") is True, state)

    def take_lock(self, path: str, directory: BaseDirectory) -> Lock | None:
        """The partial's lock if its owner is gone, else None."""
        if not self.left and self._may_live(path):
            return None
        try:
            return partials.lock_folder(path, directory)
        except UnsafeCache:
            return None
        except OSError:
            return Lock()  # no locks here: that its owner is gone has to do

    def _may_live(self, path: str) -> bool:
        if self.owner.alive:
            return True
        return not self.owner.here and _moved(path) < STILL


def _moved(path: str) -> float:
    """Seconds since anything in a partial moved; 0 if that can't be seen."""
    try:
        with os.scandir(path) as entries:
            moved = [seal.changed(entry.stat(follow_symlinks=False)) for entry in entries]
        newest = max(moved) if moved else os.lstat(path).st_mtime  # a kill may have left it empty
    except OSError:
        return 0.0
    return time.time() - newest


def is_dead(path: str, directory: BaseDirectory) -> bool:
    """Whether no process will go on with a partial: its owner is gone, or, where none is recorded, it lay still."""
    if not os.path.isdir(path):  # it has saved nothing yet
        return _lies_still(path)
    return gone(path, directory, age=STILL if _OwnerRecord.read(path, directory) is None else 0.0)


def source_of(path: str, directory: BaseDirectory) -> str | None:
    """The digest from which a living process builds something in the private folder `path`, if it is one."""
    record = _OwnerRecord.read(path, directory)
    source = None if record is None else record.state.get("source")
    return source if isinstance(source, str) and not is_dead(path, directory) else None


def _lies_still(path: str) -> bool:
    try:
        return time.time() - seal.changed(os.lstat(path)) >= STILL
    except OSError:
        return False


def gone(path: str, directory: BaseDirectory, *, age: float) -> bool:
    """Whether a partial has no owner, and nothing in it moved for `age` seconds: fit to be swept."""
    if _moved(path) < age:
        return False
    record = _OwnerRecord.read(path, directory)
    if record is None:
        return True
    lock = record.take_lock(path, directory)
    if lock is None:
        return False
    lock.release()
    return True
