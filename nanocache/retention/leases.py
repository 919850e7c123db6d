"""Leases: what a process holds while it works, so that no eviction takes it.

    leases-v1/<host>-<pid>-<random>    a lock of the holder's; in it the holder, and the digests, a line each; and
                                       EVICT_BEHIND where these go once no reader holds them

A lease ends with its process: what counts is the lock, and where locks let every process in, whether the process
lives. Invariants: a lease appears whole and locked, by one rename; it is there before what it holds is looked for, and
an eviction takes first and looks for leases then; a forked child holds nothing, and takes nothing back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..callers import let_pass, suppress
from ..coordination.lock import Lock, is_locked, try_lock
from ..coordination.process import Identity, me
from ..disk import files
from ..errors import UnsafeCache
from ..store.layout import LEASES, BaseDirectory
from . import walk

__all__ = ["Leases", "lease"]

BLOCK_READ = 1 << 20  # bytes
EVICT_BEHIND = "evict-behind"


@contextmanager
def lease(directory: BaseDirectory, digests: Iterable[str], *, passing: bool = False) -> Iterator[None]:
    """Hold `digests` while the block runs. Raises OSError where nothing can be written.

    `passing`: say that the process which holds them last is to evict them.
    """
    pid = os.getpid()
    path = _place(directory)
    lock: Lock | None = None
    try:
        lock = _appear(directory, path, [*digests, EVICT_BEHIND] if passing else digests)
        yield
    finally:
        if os.getpid() == pid:
            files.remove(path)
            if lock is not None:
                lock.release()


def _place(directory: BaseDirectory) -> str:
    directory.folder(directory.top(LEASES))
    directory.folder(directory.trash)
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in me().host)
    return f"{directory.top(LEASES)}/{host}-{os.getpid()}-{files.random_name()}"


def _appear(directory: BaseDirectory, path: str, digests: Iterable[str]) -> Lock | None:
    fresh = os.path.join(directory.trash, files.new_name())
    text = "\n".join([json.dumps(me().to_json()), *digests]) + "\n"
    files.create(fresh, text.encode(), directory.modes.lock)
    lock: Lock | None = None
    try:
        try:
            lock = try_lock(fresh, mode=directory.modes.lock)
        except UnsafeCache:
            raise
        except OSError as e:  # no locks here: that the process lives has to do
            let_pass(e)
        os.rename(fresh, path)
    except BaseException:  # Ctrl-C, too
        files.remove(fresh)
        raise
    return lock


@dataclass
class Leases:
    """The leases in one base directory, each read once."""

    directory: BaseDirectory
    _read: dict[str, frozenset[str]] = field(default_factory=dict)  # name -> digests; none of a dead process

    def held(self) -> frozenset[str]:
        """The digests that living processes hold now."""
        names = {entry.name for entry in walk.scan(walk.top(self.directory, LEASES))}
        self._read = {name: self._digests(name) for name in names}
        return frozenset().union(*self._read.values())

    def _digests(self, name: str) -> frozenset[str]:
        known = self._read.get(name)
        return self._look(f"{self.directory.top(LEASES)}/{name}") if known is None else known

    def _look(self, path: str) -> frozenset[str]:
        holder, digests = _parse(path)
        return digests if digests and _is_held(path, holder) else frozenset()

    def holders(self, digest: str) -> list[str]:
        """The living processes that hold a digest, each as "pid 4711 on node7"."""
        found = []
        for entry in walk.scan(walk.top(self.directory, LEASES)):
            holder, digests = _parse(entry.path)
            if digest in digests and _is_held(entry.path, holder):
                found.append("a process" if holder is None else str(holder))
        return sorted(set(found))

    def passing(self, digest: str) -> bool:
        """Whether a living process that holds it says that it is to go once no reader holds it any more."""
        for entry in walk.scan(walk.top(self.directory, LEASES)):
            with suppress(OSError, ValueError):
                lines = _text(entry.path).splitlines()
                if digest in lines and EVICT_BEHIND in lines and self._look(entry.path):
                    return True
        return False

    def clear_dead(self) -> None:
        """Delete the leases of processes that ended without a chance to."""
        for name in [name for name, digests in self._read.items() if not digests]:
            path = f"{self.directory.top(LEASES)}/{name}"
            if name.count("-") >= 2 and not self._look(path):
                with suppress(OSError):
                    os.unlink(path)


def _parse(path: str) -> tuple[Identity | None, frozenset[str]]:
    """The lease's process and digests; neither for a tag of ours, nor for what is gone."""
    try:
        holder, *digests = _text(path).splitlines()
        return Identity.parse(json.loads(holder)), frozenset(filter(walk.is_digest, digests))
    except (OSError, ValueError, TypeError, AttributeError) as e:
        let_pass(e)
        return None, frozenset()


def _text(path: str) -> str:
    fd = files.open_private(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(fd, BLOCK_READ), b"")).decode()
    finally:
        os.close(fd)


def _is_held(path: str, holder: Identity | None) -> bool:
    try:
        if is_locked(path):
            return True
    except OSError as e:  # no locks here
        let_pass(e)
    return holder is not None and holder.alive is True
