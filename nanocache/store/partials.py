"""The partial of one transfer: private bytes, and from the first save on a folder that one rename claims whole.

    partials-v1/new-<random>                the bytes so far, mode 0600
    partials-v1/<key>/<random>/data         the same file, once something was saved
    partials-v1/<key>/<random>/state.json   what of them is right, and whose they are
    partials-v1/<key>/<random>/lock         held by the owner

Invariants: a partial has one writer, since a shared one is what corrupts caches where locks do nothing; an owner that
was stopped for long leaves it, because a descriptor outlives a rename.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from contextlib import suppress
from typing import Any, NamedTuple

from ..coordination.lock import Lock, try_lock
from ..coordination.process import me
from ..disk import files

__all__ = ["NEW", "Abandoned", "Home", "Partial", "create"]

logger = logging.getLogger("nanocache")

LONGEST_PAUSE = 300.0  # seconds between two own writes after which somebody else may have claimed it
PAGE = 4096  # bytes, written as one

# The clock that also runs while the machine is suspended, where there is one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


NEW, DATA, STATE = "new-", "data", "state.json"


class Abandoned(Exception):
    """The partial is another process's, or may be: this one was stopped for long, or forked. Start a new one."""


class Home(NamedTuple):
    """Where the partials of one artifact are kept: `partials-v1/<key>` in the base directory `base`."""

    folder: str
    base: str
    modes: files.Modes


class Partial:
    """One transfer's bytes. Made by `create` or `claim`; a context manager that closes, and keeps, them."""

    def __init__(
        self, data: str, fd: int, home: Home, *, lock: Lock | None = None, state: dict[str, Any] | None = None
    ):
        self.data, self.fd, self.state = data, fd, state
        self._home, self._lock = home, lock
        self._written = time.clock_gettime(_CLOCK)
        self._state_fd = -1
        self._pid = os.getpid()  # a forked child may unwind through our frames, or go on in them

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            self.state = None  # what a failing disk made of these bytes nobody can say, the page cache least of all
        self.close()

    @property
    def base(self) -> str:
        return self._home.base

    @property
    def room(self) -> int | None:
        """Bytes that fit beside what is there; None if the mount doesn't know."""
        return files.available(self._home.base)

    @property
    def folder(self) -> str | None:
        """Its own; None until something was saved."""
        folder, name = os.path.split(self.data)
        return folder if name == DATA else None

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises Abandoned, OSError."""
        self.check_owner()
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count

    def check_owner(self) -> None:
        """Raise Abandoned unless this is still ours, to all that can be told."""
        now = time.clock_gettime(_CLOCK)
        if now - self._written > LONGEST_PAUSE or os.getpid() != self._pid:
            raise Abandoned
        self._written = now

    def save(self, state: dict[str, Any]) -> None:
        """Record what a later owner may build on: 20 us, not synced. From now on the partial can be claimed."""
        self.check_owner()
        if (folder := self.folder) is None:  # not before: most artifacts are small, and over before that
            folder = self._settle()
        self._record(folder, state, left=False)
        self.state = state

    def _settle(self) -> str:
        """Give the bytes a folder of their own."""
        folder = os.path.join(self._home.folder, files.random_name())
        try:
            files.make_folder(folder, below=self._home.base, mode=self._home.modes.folder)
            self._lock = _own(folder, self._home.modes)
            os.rename(self.data, data := os.path.join(folder, DATA))
        except OSError:
            files.remove(folder)
            raise
        self.data = data
        return folder

    def _record(self, folder: str, state: dict[str, Any], *, left: bool) -> None:
        # In place, one write of a whole page: no kill comes in between, and what a power cut tears is unparsable, which
        # is absent. A rename each time took ext4 0.5 to 9 ms, since it flushes what replaces another file.
        text = json.dumps({"owner": me().to_json(), "left": left, "state": state}, separators=(",", ":")).encode()
        if self._state_fd < 0:
            path = os.path.join(folder, STATE)
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
        """Forget the bytes and the state: they are known to be wrong. Raises Abandoned, OSError."""
        self.check_owner()
        os.ftruncate(self.fd, 0)
        self._forget_record()
        if (folder := self.folder) is not None:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, STATE))
        self.state = None

    def publish(self, target: str) -> None:
        """Rename the bytes to `target`; no state is kept. Raises OSError, UnsafeCache."""
        files.move(self.data, target, base=self._home.base)
        self.state = None
        if self.folder is None:
            self.data = ""  # nothing is left to discard

    def discard(self) -> None:
        """Delete it at once: on a full disk the space is needed more than the bytes."""
        if (folder := self.folder) is not None:
            files.remove(folder)
            files.remove_empty(self._home.folder)
        elif self.data:
            files.remove(self.data)

    def close(self) -> None:
        """Let go of it. What lies there stays for whoever comes next; what holds nothing worth keeping goes."""
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        try:
            with suppress(OSError):  # NFS says of a write that it failed; what counts was synced before
                os.close(fd)
            if os.getpid() == self._pid:
                self._leave()
        finally:  # Ctrl-C may come in any of it, and a notebook keeps what its traceback holds
            try:
                self._forget_record()
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _leave(self) -> None:
        if self.state is None or (folder := self.folder) is None:
            self.discard()
            return
        with suppress(OSError):  # then it is claimed once this process has ended
            self._record(folder, self.state, left=True)


def _own(folder: str, modes: files.Modes) -> Lock | None:
    try:
        return try_lock(os.path.join(folder, "lock"), mode=modes.lock)
    except OSError as e:
        logger.debug("partial %s has no lock (%s); a later call can claim it by its owner's pid only", folder, e)
        return None


def create(folder: str, *, base: str, modes: files.Modes) -> Partial:
    """A new, empty partial, later in `folder`, which is `partials-v1/<key>`. Raises OSError, UnsafeCache."""
    top = os.path.dirname(folder)
    files.make_folder(top, below=base, mode=modes.folder)
    data = os.path.join(top, NEW + files.random_name())
    fd = files.open_private(data, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    return Partial(data, fd, Home(folder, base, modes))
