"""The partial of one transfer: private bytes, and from the first save on a folder that one rename claims whole.

    partials-v1/new-<random>                the bytes so far, mode 0600
    partials-v1/<key>/<random>/data         the same file, once something was saved
    partials-v1/<key>/<random>/state.json   what of them is right, and which process owns them
    partials-v1/<key>/<random>/lock         held by the owner

Invariants: a partial has one writer, since shared ones corrupt caches where locks do nothing; an owner that was stopped
for long leaves its partial, because its descriptor outlives the rename by which another process claims it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from typing import Any

from ..callers import let_pass, suppress
from ..coordination.lock import Lock, try_lock
from ..coordination.process import boot_time, me
from ..disk import files
from ..errors import NoSpace
from ..room import UNLIMITED, Room
from .layout import BaseDirectory

__all__ = ["DATA", "STATE", "Abandoned", "Partial", "create", "lock_folder", "lock_own", "owner_record"]

logger = logging.getLogger("nanocache")

LONGEST_PAUSE = 300.0  # seconds between two own writes after which another process may have claimed it
PAGE = 4096  # bytes, written as one
DATA = "data"
STATE = "state.json"
LOCK = "lock"


class Abandoned(Exception):
    """The partial is another process's, or may be: this one was stopped for long, or forked. Start a new one."""


class Partial:
    """One transfer's bytes. Made by `create` or `claim`; a context manager that closes, and keeps, them."""

    def __init__(
        self,
        directory: BaseDirectory,
        key: str,
        data: str,
        fd: int,
        *,
        lock: Lock | None = None,
        state: dict[str, Any] | None = None,
        room: Room = UNLIMITED,
    ) -> None:
        self.data = data
        self.fd = fd
        self.state = state
        self._room = room
        self._asked = False  # whether the room knows which file it is for
        self._reach = 0  # bytes of data that it has room for
        self._recorded = 0  # bytes of its state.json
        self._directory = directory
        self._key = key
        self._lock = lock
        self._written = boot_time()
        self._state_fd = -1
        self._pid = os.getpid()  # a forked child may unwind through our frames, or go on in them

    def __enter__(self) -> Partial:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno == errno.EIO:
            self.state = None  # a failing disk may have changed these bytes, and the page cache would not show it
        self.close()

    @property
    def base(self) -> str:
        return self._directory.base

    @property
    def folder(self) -> str | None:
        """Its own folder; None until something was saved."""
        folder, name = os.path.split(self.data)
        return folder if name == DATA else None

    def expect(self, total: int | None) -> None:
        """Have room for `total` bytes before they come. Raises NoSpace."""
        if total is not None and total > self._reach:
            self._asked_room().have(total)
            self._reach = total

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Write all of `data` at `offset`. Raises Abandoned, NoSpace, OSError."""
        self.check_owner()
        view = memoryview(data)
        if offset + len(view) > self._reach:
            self._asked_room().have(offset + len(view), known=False)
            self._reach = max(self._reach, offset + len(view))
        while view:
            count = os.pwrite(self.fd, view, offset)
            view, offset = view[count:], offset + count

    def _asked_room(self) -> Room:
        # Not when it is made: Ctrl-C in the look at the file would leave it open, with no `with` around it yet.
        if not self._asked:
            self._room.of_file(self.fd, self.data)
            self._asked = True
        return self._room

    def check_owner(self) -> None:
        """Raise Abandoned if this may be another process's by now."""
        now = boot_time()
        if now - self._written > LONGEST_PAUSE or os.getpid() != self._pid:
            raise Abandoned
        self._written = now
        self._room.renew(now)

    def renew(self) -> None:
        """After a wait for a server, which may be as long as it likes: Abandoned only if another process has it now.

        A claim renames the folder, so that the name no longer leads to these bytes.
        """
        if boot_time() - self._written <= LONGEST_PAUSE:
            return
        try:
            mine = os.path.samestat(os.lstat(self.data), os.fstat(self.fd))
        except OSError:
            mine = False
        if not mine:
            raise Abandoned
        self._written = boot_time()

    def save(self, state: dict[str, Any]) -> None:
        """Record what a later owner may build on: 20 us, not synced. From now on another process can claim it."""
        self.check_owner()
        folder = self.folder or self._settle()  # not before: most artifacts are small, and over before that
        try:
            self._record(folder, state, left=False)
        except NoSpace:  # of a cap: then no other process can build on the bytes
            return
        self.state = state

    def _settle(self) -> str:
        """Give the bytes a folder of their own."""
        folder = os.path.join(self._directory.partials(self._key), files.random_name())
        data = os.path.join(folder, DATA)
        try:
            self._directory.folder(folder)
            self._lock = lock_own(folder, self._directory)
            os.rename(self.data, data)
        except OSError:
            files.remove(folder)
            if self._lock is not None:
                self._lock.release()
            raise
        self.data = data
        return folder

    def _record(self, folder: str, state: dict[str, Any], *, left: bool) -> None:
        # In place, in one write of a whole page, which no kill can split. A power cut can: then it is unparsable, which
        # counts as absent. A rename each time took ext4 0.5 to 9 ms, since it flushes what replaces another file.
        text = owner_record(state, left=left)
        self._recorded = max(-(-len(text) // PAGE) * PAGE, self._recorded)
        self._asked_room().besides(self._recorded)
        if self._state_fd < 0:
            path = os.path.join(folder, STATE)
            files.remove(path)
            self._state_fd = files.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        size = max(self._recorded, os.fstat(self._state_fd).st_size)
        os.pwrite(self._state_fd, text.ljust(size), 0)

    def _forget_record(self) -> None:
        if self._state_fd < 0:
            return
        fd = self._state_fd
        self._state_fd = -1
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

    def publish(self, target: str) -> bool:
        """Give the bytes the name `target`; False if another file has it. Raises OSError, UnsafeCache."""
        try:
            os.link(self.data, target, follow_symlinks=False)
        except FileExistsError:  # NFS may say so of the link that it has just made
            if not files.same_file(os.fstat(self.fd), target):
                return False
        except OSError as e:  # no hard links here: then look, and rename
            let_pass(e)
            if os.path.lexists(target):
                return False
            self.publish_over(target)
            return True
        self.state = None
        with suppress(OSError):  # if that fails, `close` tries again
            os.unlink(self.data)
            self._forget_name()
        return True

    def publish_over(self, target: str) -> None:
        """Give the bytes the name `target`, whatever has it. Raises OSError, UnsafeCache."""
        files.move(self.data, target, base=self.base)
        self.state = None
        self._forget_name()

    def _forget_name(self) -> None:
        if self.folder is None:
            self.data = ""  # there is nothing left to discard

    def discard(self) -> None:
        """Delete it at once: on a full disk the space is needed more than the bytes."""
        self.state = None
        if (folder := self.folder) is not None:
            files.remove(folder)
            files.remove_empty(os.path.dirname(folder))
        elif self.data:
            files.remove(self.data)

    def close(self) -> None:
        """Let go of it. What can be resumed stays for the next owner; the rest is deleted."""
        if self.fd < 0:
            return
        fd = self.fd
        self.fd = -1
        # Ctrl-C may come anywhere here, and a notebook keeps what its traceback holds.
        try:
            with suppress(OSError):  # NFS reports a failed write only now; what counts was synced before
                os.close(fd)
            if os.getpid() == self._pid:
                self._leave()
        finally:
            try:
                self._let_go()
            finally:
                self._room.settle(self._recorded if self.state is not None else 0)

    def _let_go(self) -> None:
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


def lock_folder(folder: str, directory: BaseDirectory) -> Lock | None:
    """The lock of a partial's folder if it is free, else None. Raises OSError where locks can't be had."""
    return try_lock(os.path.join(folder, LOCK), mode=directory.modes.lock)


def lock_own(folder: str, directory: BaseDirectory) -> Lock | None:
    try:
        return lock_folder(folder, directory)
    except OSError as e:
        let_pass(e)
        logger.debug("partial %s has no lock (%s); a later call can claim it by its owner's pid only", folder, e)
        return None


def create(directory: BaseDirectory, key: str, room: Room = UNLIMITED) -> Partial:
    """A new, empty partial, filed under `key` once something is saved. Raises OSError, UnsafeCache."""
    directory.folder(directory.all_partials)
    data = os.path.join(directory.all_partials, files.new_name())
    fd = files.open_private(data, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    return Partial(directory, key, data, fd, room=room)


def owner_record(state: dict[str, Any], *, left: bool) -> bytes:
    """A `state.json` of this process."""
    return json.dumps({"owner": me().to_json(), "left": left, "state": state}, separators=(",", ":")).encode()
