"""The store: blobs, and the one step that makes an artifact visible.

What lies where is `layout`'s. Knows no network and no lock. Invariants: a path visible under `blobs-v1` holds complete
bytes with the digest in its name; nothing is visible before the rename in `publish`.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Literal

from ..callers import suppress
from ..cancel import Cancel
from ..disk import durable, files, hashing
from ..events import Counts
from ..room import UNLIMITED, Room
from . import partials, reading, seal
from .hits import Hits
from .layout import BaseDirectory
from .partials import Partial
from .recency import Recency

__all__ = ["Store", "Witness", "witness"]

logger = logging.getLogger("nanocache")

Witness = tuple[int, int, int, int]


class Store(BaseDirectory):
    """The blobs in one base directory, and what this process knows of them. Safe to share between threads."""

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.recency = Recency()
        self.counts = Counts()
        self.hits = Hits(self.recency)
        self._unsealed: dict[str, Witness] = {}  # blobs that this process hashed, right, which can't keep their seal
        self._wrong: set[Witness] = set()  # files under a blob's name that this process hashed, and that are wrong
        self._doubted: set[Witness] = set()  # the same, and that could not be read

    # what is there

    def intact(self, digest: str, path: str) -> bool:
        """Whether `path` is a blob of `digest` that was not written to: one lstat. UnsafeCache if it is not ours."""
        st = files.check_regular(path)
        if st is None:
            return False
        self.check_trusted(path, st)
        if self._is(self._wrong, st) or self._is(self._doubted, st):
            return False
        return seal.holds(st, digest) or self._unsealed.get(path) == witness(st)

    def _is(self, files: set[Witness], st: os.stat_result) -> bool:
        return bool(files) and witness(st) in files

    def names(self, digest: str) -> list[str]:
        """The names under which something is published for `digest`."""
        try:
            return sorted(os.listdir(self.blob_folder(digest)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def paths(self, digest: str, first: str = "") -> list[str]:
        """The paths of what is published for `digest`; the one under the name `first` before the others."""
        return [self.blob(digest, name) for name in sorted(self.names(digest), key=lambda name: name != first)]

    def any_intact(self, digest: str, name: str) -> str | None:
        """The path of an intact blob of `digest`, under `name` if possible."""
        return next((path for path in self.paths(digest, name) if self.intact(digest, path)), None)

    def hit(self, digest: str, name: str) -> Path | None:
        """The intact blob under `name`. A second name is made at once if a hard link can be; see `copy_name`."""
        path = self.blob(digest, name)
        if self.intact(digest, path):
            return Path(path)
        source = self.any_intact(digest, name)
        return None if source is None else self._link(source, path, digest)

    def _link(self, source: str, target: str, digest: str) -> Path | None:
        try:
            os.link(source, target, follow_symlinks=False)
        except FileNotFoundError:  # a person deleted it meanwhile
            return None
        except OSError as e:
            # EEXIST: something unsealed is there, or another thread was faster. EPERM: fs.protected_hardlinks on
            # another user's file. EMLINK; or no hard links at all.
            if self.intact(digest, target):
                return Path(target)
            read_only = e.errno in (errno.EROFS, errno.EACCES) or not self.writable()
            return Path(source) if read_only else None
        return Path(target)

    def copy_name(self, digest: str, name: str, cancel: Cancel, room: Room = UNLIMITED) -> Path | None:
        """Like `hit`, with a verified copy where no hard link can be made. Under the digest's lock.

        None if nothing is intact. A source that is wrong behind an intact seal is found by reading it.
        """
        if (path := self.hit(digest, name)) is not None:
            return path
        source = self.any_intact(digest, name)
        if source is None:
            return None
        # Through a partial: a copy straight into the blob's folder would be visible before it is complete.
        with partials.create(self, digest, room) as partial:
            if not self._copy(digest, source, partial, cancel):
                return None
            return self.publish(partial, digest, name, cancel)

    def _copy(self, digest: str, source: str, partial: Partial, cancel: Cancel) -> bool:
        size = 0
        with open(source, "rb") as file:
            while block := file.read(hashing.HASH_BLOCK):
                cancel.check()
                partial.write(block, size)
                size += len(block)
        if hashing.hash_file(partial.fd, cancel) == digest:
            return True
        self.judge(digest, source, cancel)
        return False

    # publishing

    def publish(self, partial: Partial, digest: str, name: str, cancel: Cancel | None = None) -> Path:
        """Make a verified partial visible as the blob of `digest`: the only door into `blobs-v1`.

        An intact blob that stands there already stays; a wrong one is replaced. The caller has hashed what is on disk.
        Synced before it is visible, or a power cut leaves an empty file under the final name; a lost seal only costs a
        re-hash. Raises OSError, and then nothing was published.
        """
        path = self.blob(digest, name)
        folder = self.blob_folder(digest)
        grown = self.folder(folder, new=True)  # before the fsync, whose commit takes the new folders along
        wrong = self._wrong_names(digest)
        self._sync(partial)
        files.set_mode(partial.fd, self.modes.blob)
        kept = seal.put(partial.fd, digest)
        if self._appear(partial, digest, path, cancel or Cancel()) and not kept:
            self._do_without_seal(path, digest)
        for changed in (folder, *grown):  # losing a name loses an entry, never a byte
            durable.sync_folder(changed)
        for other, st in wrong.items():  # not before there is a right one
            self._set_aside_inode(other, st)
        self.recency.was_marked(folder)
        return Path(path)

    def _sync(self, partial: Partial) -> None:
        try:
            durable.sync_file(partial.fd)
        except OSError:
            # Final: the kernel has marked the pages clean, so that a second one, and a read, would lie.
            # "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
            partial.state = None
            raise

    def _appear(self, partial: Partial, digest: str, path: str, cancel: Cancel) -> bool:
        """Whether the partial's bytes now stand at `path`; False if right bytes stood there already."""
        for _ in range(files.RACES):
            if self._took_place(partial, path):
                return True
            standing = files.check_regular(path)
            if standing is None:  # deleted meanwhile
                continue
            if self.intact(digest, path) or self._stands_right(digest, path, cancel):
                partial.state = None  # the same bytes are here: not worth keeping twice
                return False
            if files.same_file(standing, path):  # else another process has replaced it meanwhile
                partial.publish_over(path)
                return True
        raise FileExistsError(errno.EEXIST, "what stands there keeps changing", path)

    def _took_place(self, partial: Partial, path: str) -> bool:
        try:
            return partial.publish(path)
        except FileNotFoundError:
            if not os.path.lexists(partial.data):
                raise
            self.folder(os.path.dirname(path))  # it was evicted meanwhile
            return False

    def _stands_right(self, digest: str, path: str, cancel: Cancel) -> bool:
        try:
            return self.judge(digest, path, cancel) is True
        except OSError as e:
            if e.errno not in reading.PASSING:
                raise
            return False  # the bytes at hand are right

    def _wrong_names(self, digest: str) -> dict[str, os.stat_result]:
        """The paths of `digest` that are known to be wrong."""
        if not self._wrong:
            return {}
        found = {path: files.check_regular(path) for path in self.paths(digest)}
        return {path: st for path, st in found.items() if st is not None and self._is(self._wrong, st)}

    def _set_aside_inode(self, path: str, st: os.stat_result) -> None:
        """Take `path` out of sight and delete it, if it is still the file that `st` says; put back any other one."""
        aside = os.path.join(self.trash, files.random_name())
        if not files.same_file(st, path):
            return
        self.folder(self.trash)
        try:
            os.rename(path, aside)
        except OSError:  # gone, or not ours to rename: it stays what it is, no hit
            return
        if not files.same_file(st, aside):
            with suppress(OSError):  # a newer one may stand there already
                os.link(aside, path, follow_symlinks=False)
        files.remove(aside)

    # judging

    def judge(self, digest: str, path: str, cancel: Cancel) -> bool | None:
        """Read what stands at `path`. Right bytes are sealed again; wrong ones lose their seal and stay. None: gone.

        Raises Cancelled, UnsafeCache, and OSError for what can't be read: that is no verdict.
        """
        st = files.check_regular(path)
        if st is None:
            return None
        if self._is(self._wrong, st):
            return False
        try:
            with reading.read(path, digest, cancel) as read:
                return self._accept(read.fd, digest, path) if read.right else self._condemn(read.fd, digest, path)
        except FileNotFoundError:
            return None
        except OSError as e:
            if e.errno in reading.PASSING:
                self._doubted.add(witness(st))  # no hit in this process, until it could be read
                self.hits.forget()
                logger.warning("%s cannot be read (%s); it stays as it is", path, e.strerror)
            raise

    def _accept(self, fd: int, digest: str, path: str) -> Literal[True]:
        st = os.fstat(fd)
        self._doubted.discard(witness(st))
        if not seal.holds(st, digest) and self._unsealed.get(path) != witness(st) and not self._seal_again(fd, digest):
            self._do_without_seal(path, digest)
        return True

    def _seal_again(self, fd: int, digest: str) -> bool:
        if not self.writable():
            return False
        with suppress(OSError):  # another user's file, or a mount that keeps no modes
            os.fchmod(fd, self.modes.blob)  # a power cut that took the seal took the mode along
        return seal.put(fd, digest)

    def _condemn(self, fd: int, digest: str, path: str) -> Literal[False]:
        if seal.holds(os.fstat(fd), digest):  # bit rot, say: it must deceive no other process
            with suppress(OSError):  # not ours, or a read-only mount: then this process alone knows
                os.utime(fd)
        self._wrong.add(witness(os.fstat(fd)))
        self.hits.forget()
        logger.warning("%s was changed after it was published; it stays until it is replaced", path)
        return False

    def vouch(self, path: str, st: os.stat_result) -> None:
        """From now on, in this process, the blob at `path` is intact as long as it is what `st` says, sealed or not."""
        self._unsealed[path] = witness(st)

    def _do_without_seal(self, path: str, digest: str) -> None:
        """Vouch for a blob whose seal can't be set or kept, and say so."""
        self.vouch(path, os.lstat(path))
        logger.warning("%s cannot keep the seal of %s...: it is hashed once in each process", path, digest[:12])


def witness(st: os.stat_result) -> Witness:
    """What changes with every write, and can't be put back."""
    return st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
