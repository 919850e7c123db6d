"""The mounts of this host: which one a path is on, and which ones lie below it.

Read from /proc/self/mountinfo (Linux, Documentation/filesystems/proc.rst, 3.5); elsewhere nothing is known. Not what a
file system's name means (`known`). Invariant: no option or device is shown with a password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..callers import let_pass

__all__ = ["Mount", "below", "mount_of"]

MOUNTINFO = "/proc/self/mountinfo"
_ESCAPED = re.compile(r"\\([0-7]{3})")
_USERINFO = re.compile(r"(?<=://)[^/@]*@")
LONGEST_OPTION = 40  # characters shown: the layers of a container's overlay take thousands


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount."""

    point: str
    kind: str  # ext4, nfs4, fuse.sshfs, ...
    device: str
    options: tuple[str, ...]  # the mount's own, then the file system's

    def __str__(self) -> str:
        options = ",".join(o if len(o) <= LONGEST_OPTION else f"{o[:LONGEST_OPTION]}..." for o in self.options)
        return f"{self.kind} at {self.point} ({self.device}; {options})"

    def has(self, option: str) -> bool:
        """Whether `option` is set, as `name` or as `name=value`."""
        return option in self.options

    def value(self, option: str) -> str | None:
        """What stands behind `option=`."""
        values = (each.partition("=")[2] for each in self.options if each.startswith(f"{option}="))
        return next(values, None)


def mount_of(path: str) -> Mount | None:
    """The mount that `path` is on, which has no symlink in it. None if it is not known."""
    found = [mount for mount in _mounts() if _is_at_or_below(path, mount.point)]
    return max(enumerate(found), key=lambda one: (len(one[1].point), one[0]))[1] if found else None


def below(path: str) -> list[str]:
    """The mount points below `path`."""
    return sorted({mount.point for mount in _mounts() if mount.point != path and _is_at_or_below(mount.point, path)})


def _is_at_or_below(path: str, point: str) -> bool:
    return path == point or path.startswith(f"{point.rstrip('/')}/")


def _mounts() -> Iterator[Mount]:
    try:
        with open(MOUNTINFO, encoding="utf-8", errors="surrogateescape") as lines:
            yield from filter(None, map(_parse, lines))
    except OSError as e:
        let_pass(e)


def _parse(line: str) -> Mount | None:
    # 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
    left, _, right = line.rstrip("\n").partition(" - ")
    own, kind = left.split(" "), right.split(" ")
    if len(own) < 6 or len(kind) < 2:
        return None
    of_disk = (option for option in (kind[2] if len(kind) > 2 else "").split(",") if option not in ("ro", "rw"))
    options = dict.fromkeys([*own[5].split(","), *of_disk])  # what counts is whether the mount is read-only
    plain = tuple(_plain(option) for option in options if option)
    return Mount(_plain(own[4]), kind[0], _plain(kind[1]), plain)


def _plain(text: str) -> str:
    unescaped = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
    return _USERINFO.sub("", unescaped)
