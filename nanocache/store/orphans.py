"""Partials without an owner: who takes one over, and when nobody will.

Invariants: a partial is taken over only if its owner is provably gone, or let go of it; of all who try, one gets it,
also where locks let everybody in; bytes of another boot or host are trusted only if a digest will judge them.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..coordination.lock import Lock, try_lock
from ..coordination.process import Identity
from ..disk import files
from ..errors import UnsafeCache
from .partials import DATA, STATE, Abandoned, Home, Partial, create

__all__ = ["claim", "gone"]

STILL = 900.0  # seconds without a movement after which a partial of another boot or host is nobody's


def claim(folder: str, *, base: str, modes: files.Modes, judged: bool) -> Partial:
    """The best partial in `folder` whose owner is gone, or a new one.

    `judged`: a digest will judge the bytes. Without one, a partial of another boot or host is not resumed.
    """
    for path in _by_size(folder):
        if (partial := _claim_one(path, Home(folder, base, modes), judged)) is not None:
            return partial
    return create(folder, base=base, modes=modes)


def _by_size(folder: str) -> list[str]:
    def size(path: str) -> int:
        try:
            return os.lstat(os.path.join(path, DATA)).st_size
        except OSError:
            return 0

    return sorted((os.path.join(folder, name) for name in files.names(folder)), key=size, reverse=True)


def _claim_one(path: str, home: Home, judged: bool) -> Partial | None:
    record = _Record.read(path, home.modes)
    if record is None or (lock := record.take(path, home.modes)) is None:
        return None
    mine, fd = os.path.join(home.folder, files.random_name()), -1
    try:
        fd = files.open_private(os.path.join(path, DATA), os.O_RDWR)
        st = os.fstat(fd)
        if st.st_nlink > 1:  # published, too: a power cut in the middle of a rename may leave both names
            raise FileExistsError(errno.EEXIST, "it has another name", path)
        if not home.modes.trusts(st):
            raise PermissionError(errno.EPERM, "it is a stranger's", path)
        os.unlink(os.path.join(path, STATE))  # for one of all who read it, even where locks let everybody in
        os.rename(path, mine)
    except OSError:
        if fd >= 0:
            os.close(fd)
        lock.release()
        return None
    partial = Partial(os.path.join(mine, DATA), fd, home, lock=lock, state=record.state)
    if judged or record.owner.here:
        with suppress(OSError, Abandoned):  # then it is resumed only by this process
            partial.save(record.state)
        return partial
    partial.state = None
    partial.close()  # throws it away
    return None


@dataclass(frozen=True, slots=True)
class _Record:
    """A parsed `state.json`."""

    owner: Identity
    left: bool  # the owner let go of it and may live on
    state: dict[str, Any]

    @classmethod
    def read(cls, path: str, modes: files.Modes) -> _Record | None:
        record = files.read_json(os.path.join(path, STATE), trusts=modes.trusts) or {}
        owner, state = record.get("owner"), record.get("state")
        identity = Identity.parse(owner) if isinstance(owner, dict) else None
        if identity is None or not isinstance(state, dict):
            return None
        return cls(identity, record.get("left") is True, state)

    def take(self, path: str, modes: files.Modes) -> Lock | None:
        """The partial's lock if its owner is gone, else None."""
        if not self.left and (self.owner.alive or (not self.owner.here and _moved(path) < STILL)):
            return None
        try:
            return try_lock(os.path.join(path, "lock"), mode=modes.lock)
        except UnsafeCache:
            return None
        except OSError:
            return Lock(None)  # no locks here: that its owner is gone must do, and to claim it takes none


def _moved(path: str) -> float:
    """Seconds since anything in a partial moved; 0 if that can't be seen."""
    try:
        with os.scandir(path) as entries:
            moved = [entry.stat(follow_symlinks=False).st_mtime for entry in entries]
        newest = max(moved) if moved else os.lstat(path).st_mtime  # a kill may have left it empty
    except OSError:
        return 0.0
    return time.time() - newest


def gone(path: str, *, modes: files.Modes, age: float) -> bool:
    """Whether a partial is nobody's and nothing in it moved for `age` seconds: fit to be swept."""
    if _moved(path) < age:
        return False
    record = _Record.read(path, modes)
    if record is None:
        return True
    lock = record.take(path, modes)
    if lock is not None:
        lock.release()
    return lock is not None
