"""Which process is this, on which boot of which host, and does another process still live?

Not a lock. Invariants: a pid alone names no process (it is used again, and every container has its own pid 1), so it
counts together with its start time and only where its pid namespace is ours; a host's name is for people, its boot id
is what is compared.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Identity", "boot_time", "me"]

STOPPED = ("T", "t")  # states in /proc/<pid>/stat

# The clock that also runs while the machine is suspended, where there is one.
_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Seconds since this host booted. It never jumps, and all processes of a boot read the same clock."""
    return time.clock_gettime(_BOOT_CLOCK)


@dataclass(frozen=True, slots=True)
class Identity:
    """One process. Rebuilt from JSON by `parse`."""

    pid: int
    start: str  # the kernel's start time of the pid, in its own unit; "" where it does not say
    boot: str  # changes with every boot; on Linux the same in all containers of a host
    space: str  # pid namespace
    host: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def parse(cls, record: dict[str, Any]) -> Identity | None:
        """The identity in a record of ours, None if it holds none."""
        try:
            identity = cls(**{name: record[name] for name in cls.__slots__})
        except KeyError:
            return None
        return identity if identity._valid else None

    @property
    def _valid(self) -> bool:
        # 0 and below are groups of processes to kill(2), which would live for ever.
        if type(self.pid) is not int or self.pid <= 0:
            return False
        return all(isinstance(text, str) for text in (self.start, self.boot, self.space, self.host))

    @property
    def here(self) -> bool:
        """Whether it is of this boot of this host."""
        return self.boot == me().boot

    @property
    def alive(self) -> bool | None:
        """Whether it still runs; None if that can't be told (elsewhere, another pid namespace, hidden, stopped)."""
        if not self.here or self.space != me().space:
            return None
        exists = _exists(self.pid)
        if exists is False:
            return False
        start, state = _stat(self.pid)
        if exists is None and not start:  # hidepid=2 hides other users' processes: hidden is not dead
            return None
        if start != self.start:
            return False
        # Stopped (SIGSTOP, a debugger): it may go on, or never. Its signs of life decide, as those of another host.
        return None if state in STOPPED else True


def _exists(pid: int) -> bool | None:
    """Whether there is such a process; None if it is another user's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return None
    return True


def _read(path: str) -> str:
    try:  # not by open(), which makes twice as many calls: a waiter looks four times a second
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, 4096).decode(errors="replace").strip()
    except OSError:
        return ""
    finally:
        os.close(fd)


def _stat(pid: int) -> tuple[str, str]:
    """(start time, state) of a pid; empty where the kernel does not say, or of what is dead."""
    # Fields 22 and 3 of /proc/<pid>/stat; the second may hold spaces and parentheses, so count from its end.
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in "ZX":  # a zombie has let go of everything, and waits for its parent only
        return "", ""
    return fields[19], fields[0]


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


_me: Identity | None = None


def me() -> Identity:
    """This process; a forked child finds its own."""
    global _me
    pid = os.getpid()
    if _me is None or _me.pid != pid:
        host = platform.node()
        # macOS has no boot id to read: the host's name must do, and a reused pid is told by nothing else.
        boot = _read("/proc/sys/kernel/random/boot_id") or host
        _me = Identity(pid=pid, start=_stat(pid)[0], boot=boot, space=_space(), host=host)
    return _me
