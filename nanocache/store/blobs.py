"""The store: what lies where on disk, and the one step that makes an artifact visible.

    <base>/                                              NANOCACHE_DIR
    ├── blobs-v1/sha256/9f/9f86d0…/weights.safetensors    published, sealed, mode 0444 at most
    ├── refs-v1/3a/<sha256 of the URL's key>.json         url -> digest, size, etag, last-modified, fetched-at
    ├── products-v1/<digest>/<hook key>/<name>            what postprocess built
    ├── partials-v1/<key>/<random>/{data,state.json,lock} private to one transfer
    ├── locks-v1/9f/<key>.lock, <key>.json                the lock; who holds it, how far, how it failed
    └── trash-v1/                                         renamed here first, deleted outside any lock

Knows no network and no lock. Invariants: a path visible under `blobs-v1` holds complete bytes with the digest in its
name; nothing before the rename in `publish` is visible; nothing but our own folders is listed, counted or deleted.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..coordination.lock import LockPlace
from ..disk import durable, files, hashing
from ..errors import UnsafeCache
from . import partials, seal
from .partials import Partial

__all__ = ["Store", "witness"]

logger = logging.getLogger("nanocache")

BLOBS, REFS, PRODUCTS = "blobs-v1", "refs-v1", "products-v1"
PARTIALS, LOCKS, TRASH = "partials-v1", "locks-v1", "trash-v1"
FOLDERS = (BLOBS, REFS, PRODUCTS, PARTIALS, LOCKS, TRASH)

RECENT = 3600.0  # seconds between two marks of recency on one blob by one process
# https://bford.info/cachedir/: the first 43 bytes say "a cache" to tar, borg and restic.
CACHEDIR_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by nanocache; safe to delete.\n"

Witness = tuple[int, int, int, int]


class Store:
    """One base directory. Cheap to make; creates nothing until something is written."""

    def __init__(self, base: str) -> None:
        self.base = base
        self._witnesses: dict[str, Witness] = {}  # files hashed here whose seal can't be kept
        self._recent: dict[str, float] = {}
        self._prepared = False
        self._read_base()

    def _read_base(self) -> None:
        try:
            st = os.stat(self.base)
        except OSError:  # not there, or not to be seen: `prepare` says why
            self.modes, self._owners = files.Modes.of(0o755), None
            return
        self.modes = files.Modes.of(st.st_mode)
        # In a group-writable base anybody's files are used; else ours, root's and the owner's of the base.
        self._owners = None if st.st_mode & 0o022 else frozenset({os.geteuid(), 0, st.st_uid})

    # paths

    def blob(self, digest: str, name: str) -> str:
        return f"{self.base}/{BLOBS}/sha256/{digest[:2]}/{digest}/{name}"

    def ref(self, url_key: str) -> str:
        return f"{self.base}/{REFS}/{url_key[:2]}/{url_key}.json"

    def product(self, digest: str, hook_key: str, name: str) -> str:
        return f"{self.base}/{PRODUCTS}/{digest}/{hook_key}/{name}"

    def partials(self, key: str) -> str:
        return f"{self.base}/{PARTIALS}/{key}"

    def lock_place(self, key: str) -> LockPlace:
        """`<key>` is a digest, or `u-` or `p-` and 64 hex digits. Makes the folder of the lock."""
        folder = f"{self.base}/{LOCKS}/{key.removeprefix('u-').removeprefix('p-')[:2]}"
        self.folder(folder)
        return LockPlace(f"{folder}/{key}.lock", f"{folder}/{key}.json", f"{self.base}/{TRASH}", self.modes.lock)

    # folders

    def prepare(self) -> bool:
        """Make the base directory, with the umask, and our top folders; False if nothing can be written there.

        Raises UnsafeCache, and OSError where the disk itself fails.
        """
        if not self._prepared or not os.path.isdir(self.base):  # somebody may have removed it by hand meanwhile
            try:
                self._make()
            except OSError as e:
                if isinstance(e, UnsafeCache) or e.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                return False
        return self.writable()

    def _make(self) -> None:
        os.makedirs(self.base, exist_ok=True)
        self._read_base()
        self._warn_if_open()
        fresh = [self.folder(f"{self.base}/{name}") for name in FOLDERS]
        for name in FOLDERS:
            self._tag(f"{self.base}/{name}")
        if any(fresh):
            with suppress(PermissionError):  # a base that may be written to and not be read
                durable.sync_folder(self.base)
        self._prepared = True

    def _tag(self, folder: str) -> None:
        # In each of our folders and never in the base: with NANOCHAT_BASE_DIR people keep checkpoints there, and a
        # tag would silently take them out of their backups.
        for name, text in (("CACHEDIR.TAG", CACHEDIR_TAG), (".gitignore", b"*\n")):
            with suppress(FileExistsError):
                files.create(f"{folder}/{name}", text, self.modes.lock)

    def _warn_if_open(self) -> None:
        mode = os.stat(self.base).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            logger.warning("anybody can replace files in %s (mode %04o); chmod o-w it", self.base, stat.S_IMODE(mode))

    def writable(self) -> bool:
        """Whether this user may make files there."""
        # Deleted by hand a moment ago, it is made again.
        return os.access(self.base, os.W_OK | os.X_OK) or not os.path.lexists(self.base)

    def folder(self, path: str) -> list[str]:
        """Make the folder `path` of ours; the folders that now have a new one in them, innermost first."""
        return files.make_folder(path, below=self.base, mode=self.modes.folder)

    @contextmanager
    def private(self, key: str) -> Iterator[str]:
        """A folder of this process's own, beside the key's partials. It goes after the block, with what is in it."""
        folder, pid = os.path.join(self.partials(key), files.random_name()), os.getpid()
        try:
            self.folder(folder)
            yield folder
        finally:
            if os.getpid() == pid:  # not by a forked child that unwinds through it
                files.remove(folder)
                files.remove_empty(os.path.dirname(folder))

    def trusted(self, st: os.stat_result) -> bool:
        return self._owners is None or st.st_uid in self._owners

    # blobs

    def intact(self, digest: str, path: str) -> bool:
        """Whether `path` is a blob of `digest` that nobody wrote to: one lstat. UnsafeCache if it is not ours."""
        st = files.check_regular(path)
        if st is None:
            return False
        if not self.trusted(st):
            raise UnsafeCache(path=path, reason=f"it belongs to user {st.st_uid}, a stranger to this cache")
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
        with partials.create(self.partials(digest), base=self.base, modes=self.modes) as partial:
            with open(source, "rb") as file, open(partial.fd, "wb", closefd=False) as copy:
                shutil.copyfileobj(file, copy, hashing.BLOCK)
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
        self._recent[digest] = time.monotonic()  # the rename left the mark
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

    def mark_recent(self, digest: str) -> None:
        """Leave a mark for eviction: the mtime of the blob's folder, at most once an hour, errors ignored.

        Never the blob's own times: that would launder a write, and in a container copy the whole file up.
        """
        now = time.monotonic()
        if now - self._recent.get(digest, -RECENT) >= RECENT:
            self._recent[digest] = now
            with suppress(OSError):
                os.utime(os.path.dirname(self.blob(digest, "")))

    # trash

    def set_aside(self, path: str) -> None:
        """Take `path` out of sight in one step, and delete it then. Gone already is fine."""
        self.folder(trash := f"{self.base}/{TRASH}")
        aside = os.path.join(trash, files.random_name())
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno != errno.EXDEV:  # an image layer below an overlay: nothing there can be renamed
                raise
            aside = path
        files.remove(aside)


def witness(st: os.stat_result) -> Witness:
    """What changes with every write, and can't be put back."""
    return st.st_ino, st.st_size, st.st_mtime_ns, st.st_ctime_ns
