"""The partial of one transfer: a private folder that one rename claims whole.

    partials-v1/<key>/<random>/data         the bytes so far, mode 0600
    partials-v1/<key>/<random>/state.json   what of them is right, and whose they are; from the first save on
    partials-v1/<key>/<random>/lock         held by the owner; from the first save on

Invariants: a partial has one writer, since a shared one is what corrupts caches where locks do nothing; it is taken
over only if its owner is provably gone; an owner that was stopped for long leaves it, because a descriptor outlives
a rename; its bytes are trusted across a reboot only if a digest will judge them (their blocks may read as zeros).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import files
from .errors import UnsafeCache
from .identity import Identity, me
from .locks import Lock, try_lock

__all__ = ["Abandoned", "Partial", "claim", "create", "gone"]

logger = logging.getLogger("nanocache")

LONGEST_PAUSE = 300.0  # seconds between two own writes after which somebody else may have claimed it
PAGE = 4096  # bytes, written as one
STILL = 900.0  # seconds without a movement after which a partial of another boot or host is nobody's

# The clock that also runs while the machine is suspended, where there is one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Abandoned(Exception):
    """This process was stopped for so long that its partial may be another's: start a new one."""


class Partial:
    """One transfer's bytes. Made by `create` or `claim`; a context manager that closes, and keeps, them."""

    def __init__(self, path: str, fd: int, *, modes: files.Modes, lock: Lock | None, state: dict[str, Any] | None):
        self.path, self.fd, self.state = Path(path), fd, state
        self._modes, self._lock = modes, lock
        self._written = time.clock_gettime(_CLOCK)
        self._owned = lock is not None
        self._state_fd = -1

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            self.state = None  # what a failing disk made of these bytes nobody can say, the page cache least of all
        self.close()

    @property
    def data(self) -> Path:
        return self.path / "data"

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises Abandoned, OSError."""
        self._check_pause()
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count

    def _check_pause(self) -> None:
        now = time.clock_gettime(_CLOCK)
        if now - self._written > LONGEST_PAUSE:
            raise Abandoned
        self._written = now

    def save(self, state: dict[str, Any]) -> None:
        """Record what a later owner may build on: 20 us, not synced. From now on the partial can be claimed."""
        self._check_pause()
        if not self._owned:  # not before: most artifacts are small, and over before anything needs saving
            self._lock, self._owned = _own(self.path, self._modes), True
        self._record(state, left=False)
        self.state = state

    def _record(self, state: dict[str, Any], *, left: bool) -> None:
        # In place, one write of a whole page: no kill comes in between, and what a power cut tears is unparsable, which
        # is absent. A rename each time took ext4 0.5 to 9 ms, since it flushes what replaces another file.
        text = json.dumps({"owner": me().to_json(), "left": left, "state": state}, separators=(",", ":")).encode()
        if self._state_fd < 0:
            path = str(self.path / "state.json")
            files.remove(path)
            self._state_fd = files.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        size = max(-(-len(text) // PAGE) * PAGE, os.fstat(self._state_fd).st_size)
        os.pwrite(self._state_fd, text.ljust(size), 0)

    def _forget_record(self) -> None:
        if self._state_fd >= 0:
            fd, self._state_fd = self._state_fd, -1
            with suppress(OSError):
                os.close(fd)

    def reset(self) -> None:
        """Forget the bytes and the state: they are known to be wrong."""
        os.ftruncate(self.fd, 0)
        self._forget_record()
        with suppress(FileNotFoundError):
            os.unlink(self.path / "state.json")
        self.state = None

    def discard(self) -> None:
        """Delete it at once: on a full disk the space is needed more than the bytes."""
        try:
            os.rmdir(self.path)  # all that a small published one leaves is its folder
        except OSError:
            files.remove(str(self.path))
        files.remove_empty(str(self.path.parent))

    def close(self) -> None:
        """Let go of it. What lies there stays for whoever comes next; what holds nothing worth keeping goes."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            with suppress(OSError):  # NFS says of a write that it failed; what counts was synced before
                os.close(fd)
            if self.state is None:
                self.discard()
            else:
                with suppress(OSError):  # then it is claimed once this process has ended
                    self._record(self.state, left=True)
            self._forget_record()
        finally:
            if self._lock is not None:
                self._lock.release()


def _own(path: Path, modes: files.Modes) -> Lock | None:
    try:
        return try_lock(str(path / "lock"), mode=modes.lock)
    except OSError as e:
        logger.debug("partial %s has no lock (%s); a later call can claim it by its owner's pid only", path, e)
        return None


def create(folder: str, *, base: str, modes: files.Modes) -> Partial:
    """A new, empty partial in `folder`, which is `partials-v1/<key>`. Raises OSError, UnsafeCache."""
    path = os.path.join(folder, files.random_name())
    try:
        files.make_folder(path, below=base, mode=modes.folder)
        fd = files.open_private(os.path.join(path, "data"), os.O_RDWR | os.O_CREAT | os.O_EXCL)
    except OSError:
        files.remove_empty(path)
        raise
    return Partial(path, fd, modes=modes, lock=None, state=None)


def claim(folder: str, *, base: str, modes: files.Modes, judged: bool) -> Partial:
    """The best partial in `folder` whose owner is gone, or a new one.

    `judged`: a digest will judge the bytes. Without one, a partial of another boot or host is not resumed.
    """
    for path in _by_size(folder):
        if (partial := _claim_one(path, modes, judged)) is not None:
            return partial
    return create(folder, base=base, modes=modes)


def _by_size(folder: str) -> list[str]:
    def size(path: str) -> int:
        try:
            return os.lstat(os.path.join(path, "data")).st_size
        except OSError:
            return 0

    return sorted(_entries(folder), key=size, reverse=True)


def _entries(folder: str) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for name in names:
        yield os.path.join(folder, name)


def _claim_one(path: str, modes: files.Modes, judged: bool) -> Partial | None:
    record = _Record.read(path)
    if record is None or (lock := record.take(path, modes)) is None:
        return None
    mine, fd = os.path.join(os.path.dirname(path), files.random_name()), -1
    try:
        fd = files.open_private(os.path.join(path, "data"), os.O_RDWR)
        if os.fstat(fd).st_nlink > 1:  # published, too: a power cut in the middle of a rename may leave both names
            raise FileExistsError(errno.EEXIST, "it has another name", path)
        os.unlink(os.path.join(path, "state.json"))  # for one of all who read it, even where locks let everybody in
        os.rename(path, mine)
    except OSError:
        if fd >= 0:
            os.close(fd)
        lock.release()
        return None
    partial = Partial(mine, fd, modes=modes, lock=lock, state=record.state)
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
    def read(cls, path: str) -> _Record | None:
        record = files.read_json(os.path.join(path, "state.json")) or {}
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
    record = _Record.read(path)
    if record is None:
        return True
    lock = record.take(path, modes)
    if lock is not None:
        lock.release()
    return lock is not None
