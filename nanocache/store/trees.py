"""Trees: folders of artifacts, made of hard links to blobs and named by the digest of their manifest.

    trees-v1/<manifest digest>/<name>/...

A folder's mtime is sealed with the manifest's digest, as a blob's is with its own: a name that comes or goes moves it.
Not how the blobs come here. Invariants: a tree is complete or not there, and appears by one rename; a file in it that
is lost or was written to is put back by a rename of its own, so that a path that was returned never vanishes; a hit
looks at no more than `FILES_SEEN` files and folders, so that ten thousand cost what ten do.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from ..callers import let_pass, suppress
from ..cancel import ambient
from ..disk import copying, durable, files
from ..errors import UnsafeCache
from ..room import UNLIMITED, Room
from . import partials, seal
from .blobs import Store
from .layout import product_lock_key
from .manifest import Manifest, TreeFile
from .private import private_folder

__all__ = [
    "MANIFEST",
    "find",
    "keep_manifest",
    "lacking",
    "lock_key_of",
    "publish",
    "read_manifest",
    "repair",
    "stands",
]

MANIFEST = "tree.json"
FOLDERS_SEEN = 1  # below the tree itself, at a hit
FILES_SEEN = 4  # these folders included; what a hit looks at besides is three records and the tree


def keep_manifest(store: Store, manifest: Manifest, room: Room = UNLIMITED) -> None:
    """Publish the manifest, which is a blob like any other. Raises OSError."""
    if store.any_intact(manifest.digest, MANIFEST) is None:
        with partials.create(store, manifest.digest, room) as partial:
            partial.expect(len(manifest.data))
            partial.write(manifest.data, 0)
            store.publish(partial, manifest.digest, MANIFEST)


def read_manifest(store: Store, digest: str) -> Manifest | None:
    """The manifest of this digest, None if it is not here or damaged."""
    path = store.any_intact(digest, MANIFEST)
    try:
        return None if path is None else _read_manifest(path, digest)
    except (OSError, ValueError) as e:
        let_pass(e)
        return None


@lru_cache(maxsize=64)
def _read_manifest(path: str, digest: str) -> Manifest:
    manifest = Manifest.from_bytes(_read(path))
    if manifest.digest != digest:
        raise ValueError(f"{path} is another manifest")  # raised, so that one that is put back is seen
    return manifest


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return b"".join(iter(lambda: os.read(fd, 1 << 20), b""))  # `open` would look at its size: one stat too many
    finally:
        os.close(fd)


def lock_key_of(manifest: Manifest, name: str) -> str:
    return product_lock_key(f"tree {manifest.digest}/{name}")


# --- looking ----------------------------------------------------------------------------------------------------------


def find(store: Store, manifest: Manifest, name: str) -> Path | None:
    """The tree if it is here and nothing seems to have touched it. UnsafeCache for a symlink or a stranger's."""
    root = store.tree(manifest.digest, name)
    st = _lstat(root)
    if st is None:
        return None
    if not stat.S_ISDIR(st.st_mode):
        raise UnsafeCache(path=root, reason=f"a folder should be there, not {files.kind(st.st_mode)}")
    store.check_trusted(root, st)
    return Path(root) if _is_sealed(st, manifest) and _seems_whole(root, manifest) else None


def _seems_whole(root: str, manifest: Manifest) -> bool:
    """Whether nothing shows in what a hit looks at: the first folder, and the largest files."""
    folders = manifest.folders[1 : 1 + FOLDERS_SEEN]
    largest = sorted(manifest.files, key=lambda file: -file.size)[: FILES_SEEN - len(folders)]
    sealed = all(_is_sealed(_lstat(_join(root, folder)), manifest) for folder in folders)
    return sealed and all(_is_right(_join(root, file.path), file) for file in largest)


def _is_sealed(st: os.stat_result | None, manifest: Manifest) -> bool:
    return st is not None and stat.S_ISDIR(st.st_mode) and st.st_mtime_ns % seal.DAY_NS == seal.of(manifest.digest)


def _is_right(path: str, file: TreeFile) -> bool:
    st = _lstat(path)
    return st is not None and st.st_size == file.size and seal.holds(st, file.sha256)


def lacking(store: Store, manifest: Manifest, name: str) -> list[TreeFile]:
    """The files that are missing in the tree or were written to. Each is looked at, none is read."""
    root = store.tree(manifest.digest, name)
    return [file for file in manifest.files if not stands(store, _join(root, file.path), file)]


def stands(store: Store, path: str, file: TreeFile) -> bool:
    """Whether `path` is what a tree has to have there, as far as a look tells."""
    if _is_right(path, file):
        return True
    # Where no seal can be kept, the blob's own verdict counts for each of its names.
    st = _lstat(path)
    blob = store.any_intact(file.sha256, os.path.basename(path))
    return st is not None and blob is not None and files.same_file(st, blob)


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _join(root: str, path: str) -> str:
    return f"{root}/{path}" if path else root


# --- publishing, under the tree's lock --------------------------------------------------------------------------------


def publish(store: Store, manifest: Manifest, name: str, blobs: Mapping[str, Path], room: Room = UNLIMITED) -> Path:
    """Make the tree of `blobs` (digest -> a path of it) visible, in one step and durable. Raises OSError."""
    target = store.tree(manifest.digest, name)
    with private_folder(store, lock_key_of(manifest, name), room) as private:
        built = os.path.join(private, name)
        for folder in manifest.folders:
            os.mkdir(_join(built, folder))
            files.set_mode(_join(built, folder), store.modes.folder)
        for file in manifest.files:
            _place(store, blobs[file.sha256], _join(built, file.path), file, room)
        _seal_folders(built, manifest)
        for folder in reversed(manifest.folders):
            durable.sync_folder(_join(built, folder))
        grown = store.folder(os.path.dirname(target))
        _appear(store, built, target)
        room.keep()
        for folder in (os.path.dirname(target), *grown):
            durable.sync_folder(folder)
    return Path(target)


def _appear(store: Store, built: str, target: str) -> None:
    try:
        files.move(built, target, base=store.base)
    except OSError as e:
        if isinstance(e, UnsafeCache) or not os.path.isdir(target):
            raise  # else another process, which had no lock either, published the same


def repair(
    store: Store,
    manifest: Manifest,
    name: str,
    blobs: Mapping[str, Path],
    lost: Iterable[TreeFile],
    room: Room = UNLIMITED,
) -> Path:
    """Put `lost` files back into a tree that is here, each in one step. Raises OSError."""
    root = store.tree(manifest.digest, name)
    store.folder(store.trash)
    for folder in manifest.folders:
        store.folder(_join(root, folder))
    for file in lost:
        fresh = os.path.join(store.trash, files.random_name())
        target = _join(root, file.path)
        _place(store, blobs[file.sha256], fresh, file, room)
        if (st := _lstat(target)) is not None and stat.S_ISDIR(st.st_mode):
            store.set_aside(target)
        os.replace(fresh, target)
        room.keep()
        with suppress(FileNotFoundError):  # it stays where both names are of one file already
            os.unlink(fresh)
        durable.sync_folder(os.path.dirname(target))
    _seal_folders(root, manifest)
    return Path(root)


def _place(store: Store, blob: Path, target: str, file: TreeFile, room: Room) -> None:
    """A further name of the blob at `target`; a sealed copy where no link can be, or one that is to be executable."""
    if not file.executable and store.holds(blob):  # of a read-only cache nothing is linked
        try:
            os.link(blob, target, follow_symlinks=False)
            return
        except OSError as e:
            if e.errno not in copying.NO_LINK:
                raise
    room.grow(file.size)
    _copy(store, blob, target, file)


def _copy(store: Store, blob: Path, target: str, file: TreeFile) -> None:
    with open(blob, "rb") as source, open(target, "xb") as copy:
        if not copying.share_blocks(source.fileno(), copy.fileno()):
            copying.copy_bytes(source.fileno(), copy.fileno(), ambient())
        mode = store.modes.blob
        files.set_mode(copy.fileno(), mode | (mode >> 2) if file.executable else mode)
        seal.put(copy.fileno(), file.sha256)
        durable.sync_file(copy.fileno())


def _seal_folders(root: str, manifest: Manifest) -> None:
    """So that one lstat tells whether a name came or went. Where it cannot be done, each call looks at each file."""
    for folder in reversed(manifest.folders):
        with suppress(OSError):
            fd = os.open(_join(root, folder), os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                seal.put(fd, manifest.digest)
            finally:
                os.close(fd)
