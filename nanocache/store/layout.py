"""The base directory: what lies where, whose files are trusted there, and how its folders are made.

    <base>/                                              NANOCACHE_DIR
    ├── blobs-v1/sha256/9f/9f86d0…/weights.safetensors    published, sealed, mode 0444 at most
    ├── refs-v1/3a/<sha256 of the URL's key>.json         url -> digest, size, etag, last-modified, fetched-at
    ├── products-v1/<digest>/<hook key>/<name>            what postprocess built
    ├── products-v1/<digest>/<hook key>-<hash>.json       how many files and bytes that is
    ├── trees-v1/<manifest digest>/<name>/...             folders of hard links to blobs
    ├── partials-v1/new-<random>                          the bytes of a transfer that has saved nothing yet
    ├── partials-v1/<key>/<random>/{data,state.json,lock} the same bytes from the first save on; private to one transfer
    ├── locks-v1/9f/<key>.lock, <key>.json                the lock; its holder, progress and failure
    ├── pins-v1/<digest>.json                             what is never evicted, and why
    ├── leases-v1/<host>-<pid>-<random>                   what a living process holds: a lock, and which digests
    ├── usage-v1.json                                     what all of it takes, where there is a cap
    └── trash-v1/                                         renamed here first, deleted outside any lock

`<key>` is a digest, or `u-` and the hash of a URL, or `p-` and the hash of a product's path. Knows nothing of what a
blob, a ref or a partial holds. Invariants: every path of ours is built here; nothing but our own folders is listed,
counted or deleted; modes come from the base directory alone.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from itertools import islice
from pathlib import Path

from ..callers import let_pass, suppress
from ..coordination.lock import LockPlace
from ..disk import absence, durable, files, folders
from ..errors import UnsafeCache
from .facts import ABSENT, BaseFacts

__all__ = [
    "BLOBS",
    "FOLDERS",
    "LATER",
    "LEASES",
    "LOCKS",
    "PARTIALS",
    "PINS",
    "PRODUCTS",
    "REFS",
    "SWEPT",
    "TAGS",
    "TRASH",
    "TREES",
    "USAGE_FILE",
    "BaseDirectory",
    "lock_key",
    "product_lock_key",
]

logger = logging.getLogger("nanocache")

BLOBS = "blobs-v1"
REFS = "refs-v1"
PRODUCTS = "products-v1"
TREES = "trees-v1"
PARTIALS = "partials-v1"
LOCKS = "locks-v1"
TRASH = "trash-v1"
PINS = "pins-v1"
LEASES = "leases-v1"
USAGE_FILE = "usage-v1.json"
FOLDERS = (BLOBS, REFS, PRODUCTS, TREES, PARTIALS, LOCKS, TRASH)
LATER = (PINS, LEASES)  # made when they are first needed

URL_PREFIX = "u-"
PRODUCT_PREFIX = "p-"

# https://bford.info/cachedir/: the first 43 bytes say "a cache" to tar, borg and restic.
CACHEDIR_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Made by nanocache; safe to delete.\n"
TAGS = {"CACHEDIR.TAG": CACHEDIR_TAG, ".gitignore": b"*\n"}
SWEPT = "swept"  # in the trash; its mtime is when the last sweep began
LISTED = 100  # entries of a base directory that are looked at: people keep other things there
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def lock_key(digest: str | None, url_key: str) -> str:
    """What the lock and the partials of an artifact are filed under: its digest if that is known, else its URL."""
    return digest or URL_PREFIX + url_key


def product_lock_key(identity: str) -> str:
    """What the lock of a product is filed under. `identity` tells it from every other product of the base directory."""
    return PRODUCT_PREFIX + hashlib.sha256(identity.encode()).hexdigest()


class BaseDirectory:
    """One base directory. Cheap to make; creates nothing until something is written."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.swept = 0.0  # seconds since the epoch: when the last sweep began, as far as this process knows
        self._facts: BaseFacts | None = None
        self._prepared = False
        self._checked: set[str] = set()  # folders of ours that this process made, or saw to be no symlinks

    def _read_base(self) -> BaseFacts:
        try:
            self._facts = BaseFacts.of(os.stat(self.base))
        except FileNotFoundError:
            return ABSENT
        return self._facts

    def _known(self) -> BaseFacts:
        if self._facts is None:
            with suppress(OSError):  # unreadable: `prepare` says why
                self._read_base()
        return self._facts or ABSENT

    @property
    def modes(self) -> files.Modes:
        return self._known().modes

    def trusts(self, st: os.stat_result) -> bool:
        """Whether a file may be used: this user's, root's, the base's owner's; any user's in a group-writable base."""
        owners = self._known().owners
        return owners is None or st.st_uid in owners

    def look_again(self, path: str) -> None:
        """Have the mount ask anew for `path` if it may take it for absent although another host has made it."""
        if self._known().doubtful:
            absence.look_again(path, below=self.base)

    def check_trusted(self, path: str, st: os.stat_result) -> None:
        """Raises UnsafeCache for a file that may not be used."""
        if not self.trusts(st):
            raise UnsafeCache(path=path, reason=f"it belongs to user {st.st_uid}, a stranger to this cache")

    # paths

    def holds(self, path: str | os.PathLike[str]) -> bool:
        """Whether `path` is in one of our folders here, and in no other cache's."""
        folder, _, rest = os.fspath(path).removeprefix(f"{self.base}/").partition("/")
        return bool(rest) and folder in FOLDERS

    def top(self, name: str) -> str:
        """One of our folders in the base directory, by its name."""
        return f"{self.base}/{name}"

    def pin(self, digest: str) -> str:
        return f"{self.base}/{PINS}/{digest}.json"

    def blob(self, digest: str, name: str) -> str:
        return f"{self.blob_folder(digest)}/{name}"

    def blob_folder(self, digest: str) -> str:
        return f"{self.base}/{BLOBS}/sha256/{digest[:2]}/{digest}"

    def ref(self, url_key: str) -> str:
        return f"{self.base}/{REFS}/{url_key[:2]}/{url_key}.json"

    def product_folder(self, digest: str) -> str:
        return f"{self.base}/{PRODUCTS}/{digest}"

    def tree_folder(self, digest: str) -> str:
        return f"{self.base}/{TREES}/{digest}"

    def product(self, digest: str, hook_key: str, name: str) -> str:
        return f"{self.product_folder(digest)}/{hook_key}/{name}"

    def tree(self, digest: str, name: str) -> str:
        return f"{self.tree_folder(digest)}/{name}"

    @property
    def usage(self) -> str:
        return f"{self.base}/{USAGE_FILE}"

    @property
    def all_partials(self) -> str:
        return f"{self.base}/{PARTIALS}"

    def partials(self, key: str) -> str:
        return f"{self.all_partials}/{key}"

    @property
    def trash(self) -> str:
        return f"{self.base}/{TRASH}"

    @property
    def mark(self) -> str:
        """What the last sweep left."""
        return f"{self.trash}/{SWEPT}"

    def lock_place(self, key: str) -> LockPlace:
        """Where `key` is locked. Makes the folder of the lock."""
        hexadecimal = key.removeprefix(URL_PREFIX).removeprefix(PRODUCT_PREFIX)
        folder = f"{self.base}/{LOCKS}/{hexadecimal[:2]}"
        self.folder(folder)
        return LockPlace(f"{folder}/{key}.lock", f"{folder}/{key}.json", self.trash, self.modes.lock)

    # folders

    def prepare(self) -> bool:
        """Make the base directory, with the umask, and our top folders; False if nothing can be written there.

        Raises UnsafeCache, and OSError where the disk itself fails.
        """
        if self._prepared and self._may_write():
            return True
        try:
            if not self._prepared or not os.path.isdir(self.base):  # a person may have removed it meanwhile
                self._make()
        except UnsafeCache:
            raise
        except OSError as e:
            let_pass(e)
            self._check_way()
            if e.errno not in NOT_WRITABLE:
                raise
            return False
        return self.writable()

    def _check_way(self) -> None:
        """Raise UnsafeCache if something else stands where the base directory, or a folder above it, should be."""
        for path in [*reversed(Path(self.base).parents), Path(self.base)]:
            if os.path.lexists(path) and not os.path.isdir(path):
                raise UnsafeCache(path=str(path), reason=f"a folder should be there, not {files.what_is(path)}")

    def _make(self) -> None:
        mode = self._read_base().mode
        if not stat.S_ISDIR(mode):
            os.makedirs(self.base, exist_ok=True)
            mode = self._read_base().mode
        self._warn_if_open(mode)
        if self._was_swept():  # then a process has made and tagged all of them before
            self._look_at_all()
        else:
            made = [self.folder(f"{self.base}/{name}") for name in FOLDERS]
            for name in FOLDERS:
                self._tag(f"{self.base}/{name}")
            if any(made):
                with suppress(PermissionError):  # a base that may be written to but not read
                    durable.sync_folder(self.base)
        self._prepared = True

    def _look_at_all(self) -> None:
        """Check our top folders by one listing, where each by itself would be asked for."""
        with suppress(OSError), os.scandir(self.base) as entries:
            for entry in islice(entries, LISTED):
                if entry.name in FOLDERS and entry.is_dir(follow_symlinks=False):
                    self._checked.add(f"{self.base}/{entry.name}")

    def _was_swept(self) -> bool:
        try:
            self.swept = os.lstat(self.mark).st_mtime
        except OSError as e:
            let_pass(e)
            return False
        return True

    def _tag(self, folder: str) -> None:
        # In each of our folders and never in the base: with NANOCHAT_BASE_DIR people keep checkpoints there, and a
        # tag would silently take them out of their backups.
        for name, text in TAGS.items():
            with suppress(FileExistsError):
                files.create(f"{folder}/{name}", text, self.modes.lock)

    def _warn_if_open(self, mode: int) -> None:
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            logger.warning(
                "every user can replace files in %s (mode %04o); chmod o-w it", self.base, stat.S_IMODE(mode)
            )

    def writable(self) -> bool:
        """Whether this user may make files there. A base directory that was just deleted is made again."""
        return self._may_write() or not os.path.lexists(self.base)

    def _may_write(self) -> bool:
        return os.access(self.base, os.W_OK | os.X_OK)

    def folder(self, path: str, *, new: bool = False) -> list[str]:
        """Make the folder `path` of ours; the folders that now have a new one in them, innermost first."""
        grown = folders.make_folder(path, below=self.base, mode=self.modes.folder, checked=self._checked, new=new)
        if self.base in grown:
            self._tag(f"{self.base}/{path[len(self.base) + 1 :].split('/')[0]}")
        return grown

    # trash

    def set_aside(self, path: str) -> None:
        """Take `path` out of sight in one step, then delete it. It may be gone already."""
        self.folder(self.trash)
        aside = os.path.join(self.trash, files.random_name())
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return
        except OSError as e:
            if e.errno != errno.EXDEV:  # an image layer below an overlay: nothing in it can be renamed
                raise
            aside = path
        files.remove(aside)
