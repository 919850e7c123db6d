"""Every file call below one folder, counted: what a test wants to fail, to die at, or to write down.

    with Calls(base) as calls:                      # counts
    with Calls(base, before=fail(errno.EIO, at=7)): # the seventh raises
    Calls(base, before=die(at=7)).install()         # in a process of its own: SIGKILL just before the seventh

Wraps the functions of `os` (and flock, and the built-in open) in this process, for all threads: the standard library
calls them through `os`, too. What C code does by itself (the writes of a file object, a sendfile) is not seen. Calls
elsewhere (sources, /proc, sockets) are neither counted nor touched.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from os import fstat
from typing import Any, Self

__all__ = ["Call", "Calls", "die", "fail"]

# What changes something, what opens or closes, and what only looks.
CHANGING = (
    *("write", "pwrite", "fsync", "ftruncate", "truncate", "fchmod", "chmod", "utime"),
    *("mkdir", "rmdir", "rename", "replace", "link", "symlink", "unlink", "remove"),
)
LOOKING = ("read", "pread", "preadv", "lstat", "stat", "fstat", "listdir", "scandir", "access", "statvfs")
CLEANING = {
    "discard",
    "remove",
    "remove_empty",
    "rmtree",
    "set_aside",
    "_sweep_trash",
    "_sweep_partials",
}  # functions that take leftovers away


@dataclass(frozen=True, slots=True)
class Call:
    """One call. `paths`: as far as it named any; `fd` the descriptor it was given."""

    number: int  # from 1
    name: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    paths: tuple[str, ...]
    fd: int | None

    @property
    def changes(self) -> bool:
        return self.name in CHANGING or (self.name == "open" and bool(self.args[1] & os.O_CREAT))

    @property
    def cleaning(self) -> bool:
        """Whether it is there to take something away; to be asked from `before` only."""
        frame = sys._getframe(1)
        while frame := frame.f_back:  # type: ignore[assignment]
            if frame.f_code.co_name in CLEANING:
                return True
        return False


Before = Callable[[Call], None]
After = Callable[[Call, Any], None]


class Calls:
    """The file calls below `base` while the block runs. `before` may raise; `after` is told what came of it."""

    def __init__(self, base: str | os.PathLike[str], *, before: Before | None = None, after: After | None = None):
        self.base = os.fspath(base)
        self.seen: list[str] = []
        self._before, self._after = before, after
        self._fds: set[int] = set()
        self._folders: set[int] = set()  # those of them that are open on a folder: closing one never fails
        self._lock = threading.RLock()
        self._originals: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *_: object) -> None:
        for module, name, original in reversed(self._originals):
            setattr(module, name, original)
        self._originals.clear()

    def install(self) -> None:
        for name in ("open", "close", *CHANGING, *LOOKING):
            self._wrap(os, name)
        self._wrap(builtins, "open")
        self._wrap(io, "open")  # pathlib's
        self._wrap(fcntl, "flock")

    def _wrap(self, module: Any, name: str) -> None:
        original = getattr(module, name)
        label = f"{module.__name__}.{name}" if module is not os else name

        def wrapped(*args: Any, **options: Any) -> Any:
            ours, paths, fd = self._ours(name, args, options)
            if not ours or (label == "close" and args[0] in self._folders):
                result = original(*args, **options)
                if label in ("open", "close"):
                    self._forget(args[0] if label == "close" else result)  # a number that may be used again
                return result
            return self._call(label, original, args, options, paths, fd)

        self._originals.append((module, name, original))
        setattr(module, name, wrapped)

    def _call(
        self,
        name: str,
        original: Callable[..., Any],
        args: tuple[Any, ...],
        options: dict[str, Any],
        paths: tuple[str, ...],
        fd: int | None,
    ) -> Any:
        with self._lock:
            self.seen.append(name)
            call = Call(len(self.seen), name, args, options, paths, fd)
            try:
                if self._before is not None:
                    self._before(call)
            except OSError:
                if name == "close":  # whatever it says, the descriptor is gone
                    original(*args, **options)
                    self._forget(args[0])
                raise
            result = original(*args, **options)
            if name == "open":
                self._fds.add(result)
                if stat.S_ISDIR(fstat(result).st_mode):
                    self._folders.add(result)
            elif name == "close":
                self._forget(args[0])
            if self._after is not None:
                self._after(call, result)
            return result

    def _forget(self, fd: int) -> None:
        self._fds.discard(fd)
        self._folders.discard(fd)

    def _ours(
        self, name: str, args: tuple[Any, ...], options: dict[str, Any]
    ) -> tuple[bool, tuple[str, ...], int | None]:
        named = args[:2] if name in ("rename", "replace", "link", "symlink") else args[:1]
        paths = tuple(os.fsdecode(arg) for arg in named if isinstance(arg, (str, os.PathLike)))
        fds = [arg for arg in args[:1] if type(arg) is int]
        given = options.get("dir_fd")
        ours = any(path == self.base or path.startswith(self.base + "/") for path in paths)
        return ours or any(fd in self._fds for fd in [*fds, given]), paths, fds[0] if fds else None


def fail(code: int, *, at: int, lasting: bool = False) -> Before:
    """The call number `at` raises; with `lasting` each one from it on that changes something."""

    def before(call: Call) -> None:
        if call.number == at or (lasting and call.number > at and call.changes):
            raise OSError(code, os.strerror(code), *call.paths[:1])

    return before


def die(*, at: int) -> Before:
    """The process is killed just before the call number `at`."""

    def before(call: Call) -> None:
        if call.number == at:
            os.kill(os.getpid(), signal.SIGKILL)

    return before
