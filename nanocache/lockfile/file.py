"""nanocache.lock on disk: read whole, replaced in one step, and changed by one process at a time.

Not its form (`form`). Invariants: a reader sees one version of it; of two processes that add to it neither loses what
the other added; bytes that would not change are not written; a kill leaves at most a hidden file beside it.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..callers import let_pass, suppress
from ..coordination.lock import Lock, try_lock
from ..disk import durable, files
from ..errors import LockTimeout
from . import form
from .form import Locked

__all__ = ["LOCK_FILE", "change", "parse", "read", "read_text", "replace"]

LOCK_FILE = "nanocache.lock"  # in the current folder
LARGEST_LOCK_FILE = 1 << 28  # bytes; a million artifacts
BUSY_PAUSE = 0.01  # seconds between two attempts at the lock beside it
LONGEST_BUSY = 30.0  # seconds; a holder reads and writes one small file
NEW_MODE = 0o666  # less the umask

Change = Callable[[tuple[Locked, ...]], tuple[Locked, ...]]


def read_text(path: str) -> str:
    """Raises OSError, and ValueError that names the file."""
    try:
        st = os.stat(path)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "no such lock file; `nanocache lock URL` makes one", path) from None
    if not stat.S_ISREG(st.st_mode):  # a fifo would be waited for
        raise ValueError(f"{path} is no lock file, but {files.kind(st.st_mode)}")
    if st.st_size > LARGEST_LOCK_FILE:
        raise ValueError(f"{path} is no lock file: it has {st.st_size:,} bytes")
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.read()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no lock file: it is not UTF-8") from None


def read(path: str) -> tuple[Locked, ...]:
    """The artifacts of the lock file at `path`. Raises FileNotFoundError, OSError, and ValueError that says where."""
    return parse(path, read_text(path))


def parse(path: str, text: str) -> tuple[Locked, ...]:
    """The artifacts of the lock file at `path`, which holds `text`. Raises ValueError that says where."""
    try:
        return form.parse(text)
    except ValueError as e:
        raise ValueError(f"{path}, {e}") from None


def change(path: str, step: Change) -> tuple[Locked, ...]:
    """Replace the file's artifacts by what `step` makes of them; absent, it has none. Raises as `read` and `step`."""
    path = os.path.realpath(path)  # a symlink stays one
    with _alone(path):
        before = read(path) if os.path.lexists(path) else ()
        after = tuple(step(before))
        form.check_apart(entry.name for entry in after)
        replace(path, form.render(after).encode())
    return after


def replace(path: str, data: bytes) -> None:
    """Have the file at `path` hold `data`, in one step and durable, unless it does. Raises OSError."""
    folder, name = os.path.split(path)
    mode = _mode_unless_same(path, data)
    if mode is None:
        return
    fresh = os.path.join(folder, f".{name}.{files.new_name()}")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, NEW_MODE)
    try:
        try:
            if mode:
                files.set_mode(fd, mode)
            with open(fd, "wb", closefd=False) as file:
                file.write(data)
            durable.sync_file(fd)
        finally:
            os.close(fd)
        os.rename(fresh, path)
    except BaseException:
        files.remove(fresh)
        raise
    durable.sync_folder(folder)


def _mode_unless_same(path: str, data: bytes) -> int | None:
    """The mode of the file that is to be replaced, 0 if there is none; None if it has these bytes already."""
    try:
        with open(path, "rb") as file:
            same = file.read() == data
            return None if same else stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError:
        return 0


@contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keep other processes from changing the file meanwhile. The lock beside it is gone afterwards. Raises OSError."""
    folder, name = os.path.split(path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "this user may not write a lock file there", folder)
    beside = os.path.join(folder, f".{name}.busy")
    lock = _acquired(beside)
    try:
        yield
    finally:
        if lock is not None:
            with suppress(OSError):  # by its holder, so that `try_lock` of another finds a new one, or tries again
                os.unlink(beside)
            lock.release()


def _acquired(beside: str) -> Lock | None:
    """The lock; None where there are no locks: then only two changes at one moment would lose one."""
    deadline = time.monotonic() + LONGEST_BUSY
    while time.monotonic() < deadline:
        try:
            if (lock := try_lock(beside, mode=0o600)) is not None:
                return lock
        except OSError as e:
            let_pass(e)
            return None
        time.sleep(BUSY_PAUSE)
    raise LockTimeout(path=beside, waited=LONGEST_BUSY)
