"""The file calls that a cache needs and the standard library lacks: private, unfollowed, atomic.

Knows nothing of blobs or refs. Invariants: nothing here follows a symlink below the base directory; modes come from
the base directory alone, by chmod, so that no umask takes away what a group was promised; what is renamed into place
is complete.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..callers import let_pass, suppress
from ..errors import UnsafeCache

__all__ = [
    "NEW",
    "REFUSED",
    "Modes",
    "move",
    "new_name",
    "open_private",
    "random_name",
    "read_json",
    "remove",
    "remove_empty",
    "same_file",
    "set_mode",
    "stamp",
    "warn_once",
]

logger = logging.getLogger("nanocache")

NEW = "new-"  # how the names of files begin that are on their way to their place
RACES = 16  # rounds against another process that removes empty folders meanwhile
# What chmod(2) and utimensat(2) say on mounts with one permission for all (gcsfuse, S3, SMB), and of others' files.
REFUSED = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
LONGEST_RECORD = 1 << 20  # bytes; a record of ours is a few hundred, or a state with a few thousand pieces


@dataclass(frozen=True, slots=True)
class Modes:
    """What the base directory's mode makes of ours: folders get it whole, so that setgid is passed on."""

    folder: int
    lock: int
    blob: int

    @classmethod
    def of(cls, base_mode: int) -> Modes:
        bits = stat.S_IMODE(base_mode)
        return cls(folder=bits, lock=bits & 0o666, blob=bits & 0o444)


_warned: set[str] = set()  # what this process has warned of


def warn_once(what: str, consequence: str, error: OSError) -> None:
    """Warn, once in this process, of something that a mount does not do. `error` says where it was met first."""
    if what not in _warned:
        _warned.add(what)
        where = "" if error.filename is None else f" for {error.filename}"
        logger.warning("%s is not possible here%s (%s): %s", what, where, error.strerror, consequence)


def set_mode(target: int | str, mode: int) -> None:
    """chmod(2), which some mounts refuse: they decide themselves who may read and write. Raises OSError."""
    try:
        if isinstance(target, int):
            os.fchmod(target, mode)
        else:
            os.chmod(target, mode)
    except OSError as e:
        if e.errno not in REFUSED:
            raise
        warn_once("chmod", "files keep the mode that the mount gives them", e)


def random_name() -> str:
    """16 random hex digits, which no other process picks or can foresee."""
    return os.urandom(8).hex()  # `secrets` says no more, and imports hmac and base64 for it


def new_name() -> str:
    """The name of a file on its way to its place."""
    return NEW + random_name()


def kind(mode: int) -> str:
    """What a file of this mode is, for a person."""
    names = {stat.S_IFLNK: "a symlink", stat.S_IFDIR: "a folder", stat.S_IFREG: "a file", stat.S_IFIFO: "a fifo"}
    return names.get(stat.S_IFMT(mode), "a device or socket")


def what_is(path: str | os.PathLike[str]) -> str:
    """What stands at `path`, for a person; of a symlink, where it leads."""
    mode = os.lstat(path).st_mode
    if not stat.S_ISLNK(mode):
        return kind(mode)
    leads = kind(os.stat(path).st_mode) if os.path.exists(path) else "nothing"
    return f"a symlink to {leads} ({os.readlink(path)})"


def check_regular(path: str) -> os.stat_result | None:
    """lstat of the regular file at `path`, None if nothing is there; UnsafeCache if it is anything else."""
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(st.st_mode):
        raise _irregular(path, st.st_mode)
    return st


def _irregular(path: str, mode: int) -> UnsafeCache:
    return UnsafeCache(path=path, reason=f"a regular file should be there, not {kind(mode)}")


def stamp(path: str) -> tuple[int, int] | None:
    """Inode and mtime, which change whenever a file is replaced or rewritten: one stat. None if it is not there."""
    try:
        st = os.lstat(path)
    except OSError as e:
        let_pass(e)
        return None
    return st.st_ino, st.st_mtime_ns


def same_file(st: os.stat_result, path: str) -> bool:
    """Whether `path` is the file that `st` is of."""
    try:
        return os.path.samestat(st, os.lstat(path))
    except OSError as e:
        let_pass(e)
        return False


def open_private(path: str, flags: int, mode: int = 0o600) -> int:
    """os.open that follows no symlink at the last step and waits for no fifo; UnsafeCache if it is no regular file."""
    fd = _open_itself(path, flags, mode)
    if not flags & os.O_EXCL:
        _check_open(fd, path)
    return fd


def _open_itself(path: str, flags: int, mode: int = 0o600) -> int:
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode)
    except OSError as e:
        if e.errno in (errno.ELOOP, errno.ENXIO):
            check_regular(path)
        raise


def _check_open(fd: int, path: str) -> os.stat_result:
    try:
        st = os.fstat(fd)
        if not stat.S_ISREG(st.st_mode):  # a fifo opens for reading at once, without a word
            raise _irregular(path, st.st_mode)
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise
    return st


def create(path: str, data: bytes, mode: int) -> None:
    """Write a new file with exactly this mode, whole or not at all. Raises FileExistsError, OSError."""
    fd = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        try:
            set_mode(fd, mode)
            if os.write(fd, data) < len(data):  # cut where the disk was full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        finally:
            os.close(fd)
    except OSError:
        with suppress(OSError):
            os.unlink(path)
        raise


def _as_json(value: Any) -> bytes:
    return _ENCODER.encode(value).encode()


_ENCODER = json.JSONEncoder(separators=(",", ":"))  # json.dumps makes one for each call


def create_json(path: str, value: Any, *, mode: int) -> None:
    """Write a new file with `value` as JSON. Not synced: what is lost in a power cut is unparsable, which is absent.

    Raises FileExistsError, OSError.
    """
    create(path, _as_json(value), mode)


def write_json(path: str, value: Any, *, scratch: str, mode: int) -> None:
    """Replace `path` by `value` as JSON, atomically, through a new file in the folder `scratch`. Not synced."""
    fresh = os.path.join(scratch, new_name())
    create_json(fresh, value, mode=mode)
    try:
        os.rename(fresh, path)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise


def overwrite_json(path: str, value: Any) -> None:
    """Write `value` as JSON into a file that may be another user's. A reader may meet half of it. Raises OSError."""
    fd = open_private(path, os.O_WRONLY)
    try:
        os.ftruncate(fd, 0)
        os.write(fd, _as_json(value))
    finally:
        os.close(fd)


def read_json(path: str, *, trusts: Callable[[os.stat_result], bool] | None = None) -> dict[str, Any] | None:
    """The JSON object at `path`; None if it is absent, unreadable, unparsable, or of an owner that `trusts` denies.

    UnsafeCache if it is no file.
    """
    try:
        fd = _open_itself(path, os.O_RDONLY)
        st = _check_open(fd, path)
    except UnsafeCache:
        raise
    except OSError as e:
        let_pass(e)
        return None
    try:
        if trusts is not None and not trusts(st):
            return None
        text = os.read(fd, LONGEST_RECORD)
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as e:
        let_pass(e)
        return None
    finally:
        os.close(fd)
    return value if isinstance(value, dict) else None


def move(source: str, target: str, *, base: str) -> None:
    """os.rename between folders of ours. UnsafeCache, with the reason, if they are on two file systems."""
    try:
        os.rename(source, target)
    except OSError as e:
        if e.errno == errno.EXDEV:
            raise UnsafeCache(path=base, reason="the base directory must be one file system") from e
        raise


def remove(path: str) -> None:
    """Delete a file or a folder. What cannot be deleted is left to the next sweep."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as e:  # EISDIR on Linux, EPERM on macOS, EACCES where it isn't ours
        let_pass(e)
        with suppress(OSError):  # some come through in spite of ignore_errors
            shutil.rmtree(path, ignore_errors=True)


def remove_empty(folder: str) -> None:
    """rmdir, if nothing is in it and it may be removed."""
    with suppress(OSError):
        os.rmdir(folder)
