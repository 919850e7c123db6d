"""The store: blobs, and the one step that makes an artifact visible.

What lies where is `layout`'s. Knows no network and no lock. Invariants: a path visible under `blobs-v1` holds complete
bytes with the digest in its name; nothing is visible before the rename in `publish`.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..disk import durable, files, hashing
from . import partials, seal
from .hits import Hits
from .layout import BaseDirectory
from .partials import Partial
from .recency import Recency

__all__ = ["Store", "witness"]

logger = logging.getLogger("nanocache")

Witness = tuple[int, int, int, int]


class Store(BaseDirectory):
    """The blobs in one base directory, and what this process knows of them. Safe to share between threads."""

    def __init__(self, base: str) -> None:
        super().__init__(base)
        self.recency = Recency(self)
        self.hits = Hits(self.recency)
        self._witnesses: dict[str, Witness] = {}  # files that were hashed here and can't keep their seal

    @contextmanager
    def private(self, key: str) -> Iterator[str]:
        """A folder of this process's own, beside the key's partials. It is deleted after the block."""
        folder = os.path.join(self.partials(key), files.random_name())
        pid = os.getpid()
        try:
            self.folder(folder)
            yield folder
        finally:
            if os.getpid() == pid:  # not by a forked child that unwinds through it
                files.remove(folder)
                files.remove_empty(os.path.dirname(folder))

    # blobs

    def intact(self, digest: str, path: str) -> bool:
        """Whether `path` is a blob of `digest` that nobody wrote to: one lstat. UnsafeCache if it is not ours."""
        st = files.check_regular(path)
        if st is None:
            return False
        self.check_trusted(path, st)
        return seal.holds(st, digest) or self._witnesses.get(path) == witness(st)

    def names(self, digest: str) -> list[str]:
        """The names under which something is published for `digest`."""
        try:
            return sorted(os.listdir(os.path.dirname(self.blob(digest, ""))))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def hit(self, digest: str, name: str) -> Path | None:
        """The intact blob under `name`; a second name is made from another one where the directory allows it."""
        path = self.blob(digest, name)
        if self.intact(digest, path):
            return Path(path)
        for other in self.names(digest):
            if other != name and self.intact(digest, source := self.blob(digest, other)):
                with suppress(FileNotFoundError):  # deleted by hand meanwhile
                    return self._link(source, path, digest)
        return None

    def _link(self, source: str, target: str, digest: str) -> Path | None:
        try:
            os.link(source, target, follow_symlinks=False)
            return Path(target)
        except FileNotFoundError:
            raise
        except FileExistsError:
            pass  # something unsealed is there, and is replaced in one step
        except OSError as e:
            # EPERM: fs.protected_hardlinks on another user's file; EMLINK; or no hard links at all.
            if e.errno in (errno.EROFS, errno.EACCES) or not self.writable():
                return Path(source)
        return self._copy(source, target, digest)

    def _copy(self, source: str, target: str, digest: str) -> Path | None:
        """A copy as `target`; None if the source is wrong behind an intact seal, which only reading it tells."""
        # Through a partial: a copy straight into the blob's folder would be visible before it is complete.
        with partials.create(self, digest) as partial:
            with open(source, "rb") as file, open(partial.fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(file, copy, hashing.HASH_BLOCK)
            if hashing.hash_file(partial.fd) != digest:
                return None
            return self.publish(partial, digest, os.path.basename(target))

    def publish(self, partial: Partial, digest: str, name: str) -> Path:
        """Make a verified partial visible as the blob of `digest`: the only door into `blobs-v1`.

        The caller has hashed what is on disk. Synced before the rename, or a power cut leaves an empty file under the
        final name; a lost seal only costs a re-hash. Raises OSError, and then nothing was published.
        """
        path = self.blob(digest, name)
        grown = self.folder(os.path.dirname(path))  # before the fsync, whose commit takes the new folders along
        files.check_regular(path)
        self._sync(partial)
        os.fchmod(partial.fd, self.modes.blob)
        kept = seal.put(partial.fd, digest)
        partial.publish(path)
        if not kept:
            self.do_without_seal(path, digest)
        for folder in (os.path.dirname(path), *grown):  # losing a name loses an entry, never a byte
            durable.sync_folder(folder)
        self.recency.was_marked(digest)
        return Path(path)

    def _sync(self, partial: Partial) -> None:
        try:
            os.fsync(partial.fd)
        except OSError:
            # Final: the kernel has marked the pages clean, so that a second one, and a read, would lie.
            # "Can Applications Recover from fsync Failures?", USENIX ATC 2020.
            partial.state = None
            raise

    def vouch(self, path: str, st: os.stat_result) -> None:
        """From now on, in this process, the blob at `path` is intact as long as it is what `st` says, sealed or not."""
        self._witnesses[path] = witness(st)

    def do_without_seal(self, path: str, digest: str) -> None:
        """Vouch for a blob whose seal can't be set or kept, and say so."""
        self.vouch(path, os.lstat(path))
        logger.warning("%s cannot keep the seal of %s...: it is hashed once in each process", path, digest[:12])


def witness(st: os.stat_result) -> Witness:
    """What changes with every write, and can't be put back."""
    return st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
