"""Members of an archive become files under one folder, or the archive is refused.

Not a reader of any format, and no place for links, devices, owners or times: none of them is ever written. Invariants:

- A name is judged by the rules of POSIX and of Windows on every platform, and then opened relative to the descriptor of
  its folder with O_NOFOLLOW and O_EXCL. No path is resolved, so that what an archive wrote cannot redirect what it
  writes next: that was CVE-2025-4517 and its kin, through the standard library's own `data` filter.
- Two members never meet at one name, not even where case, composition or trailing dots don't count.
- What an archive declares is not believed; what comes out is counted.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path

from ..cancel import ambient

__all__ = ["Allowance", "ArchiveRefused", "ExtractedTree", "create", "segments"]

NAME_BYTES = 255  # one segment, as on ext4, xfs, APFS and NTFS
PATH_BYTES = 1024  # the whole name: macOS's PATH_MAX, the smallest one

# The backslash separates on Windows. Controls and the bidirectional overrides make a name look like another one.
_FORBIDDEN = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
# A segment of dots and spaces (`..`, and what Windows may trim to it), but for `.`; or a drive.
_LEADS_ELSEWHERE = re.compile(r"(?:^|/)((?!\.?(?:/|$))[. ]+(?=/|$)|[A-Za-z]:)")
_STRIPPED_BY_WINDOWS = re.compile("[. ]+(?=/|$)")


class ArchiveRefused(Exception):
    """Why an archive is refused, over which member; the hook knows the name of the archive and raises UnsafeArchive."""

    def __init__(self, reason: str, member: str | None = None) -> None:
        super().__init__(reason, member)
        self.reason, self.member = reason, member


class Allowance:
    """So many of something, and no more."""

    def __init__(self, most: float, reason: str) -> None:
        self._left, self._reason = most, reason
        self._cancel = ambient()

    def spend(self, amount: int = 1) -> None:
        """Raises ArchiveRefused with the reason once more is spent than there was."""
        self._cancel.check()  # here, since no byte and no member gets past it
        self._left -= amount
        if self._left < 0:
            raise ArchiveRefused(self._reason)


def segments(name: str) -> tuple[str, ...]:
    """The folders and the last name of a member, `./` and `//` dropped; empty for the root itself.

    Raises ArchiveRefused for whatever leads elsewhere on any system: absolute names, drives, UNC, backslashes, `..`
    (also as `...` or `.. `, which Windows trims), control characters, segments and names that are too long.
    """
    if found := _FORBIDDEN.search(name):
        raise ArchiveRefused(f"its name holds {found[0]!r}")
    if found := _LEADS_ELSEWHERE.search(name):
        raise ArchiveRefused(f"its name holds {found[1]!r}, which may lead out of its folder")
    if not name or name.startswith("/"):
        raise ArchiveRefused("its name is absolute" if name else "its name is empty")
    parts = tuple(part for part in name.split("/") if part and part != ".")
    length = len(name.encode())
    if length > PATH_BYTES or (length > NAME_BYTES and max(len(part.encode()) for part in parts) > NAME_BYTES):
        raise ArchiveRefused(f"its name is longer than {PATH_BYTES} bytes, or a segment of it than {NAME_BYTES}")
    return parts


def _folded(path: str) -> str:
    """What `path` is where case, composition (APFS) and trailing dots and spaces (NTFS) don't count: Unicode's D145."""
    bare = _STRIPPED_BY_WINDOWS.sub("", path)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", bare).casefold())


class _Seen:
    """A set of names in 8 bytes each, so that ten million members are 90 MB and not the gigabyte of a set of strings.

    It keeps 64-bit hashes in sorted arrays: among a million names two unlike ones meet once in 37 million archives.
    """

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(4096)]

    def add(self, name: str) -> bool:
        """True if it was not there yet."""
        key = hash(name) & 0xFFFF_FFFF_FFFF_FFFF
        bucket = self._buckets[key & 0xFFF]
        at = bisect_left(bucket, key)
        if at < len(bucket) and bucket[at] == key:
            return False
        bucket.insert(at, key)
        return True


def create(
    name: str, folder: int, pieces: Iterable[bytes | memoryview], written: Allowance, *, executable: bool = False
) -> None:
    """A new file `name` with `pieces` in the folder behind the descriptor, mode 0644 or 0755 whatever the umask.

    The cache's base directory decides who gets to it; a mode from an archive or a umask would lock its group out.
    Raises ArchiveRefused when `written` is spent, and OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o600, dir_fd=folder)
    try:
        for piece in pieces:
            rest = memoryview(piece)
            written.spend(len(rest))
            while rest:
                rest = rest[os.write(fd, rest) :]
        os.fchmod(fd, 0o755 if executable else 0o644)
    finally:
        os.close(fd)


def _open_folder(name: str | Path, *, dir_fd: int | None = None, fresh: bool) -> int:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if fresh:  # the set-group-id bit is the cache's own: it keeps what is in the folder in the group that shares it
            os.fchmod(fd, 0o755 | (os.fstat(fd).st_mode & stat.S_ISGID))
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise
    return fd


class ExtractedTree:
    """A new folder at `root` that is filled member by member; a context manager, for it holds two descriptors.

    `wanted` are names as `segments` joined them: only they, and all that is under them, are written. None is all.
    """

    def __init__(
        self, root: Path, *, wanted: Iterable[str] | None, members: Allowance, written: Allowance, depth: int
    ) -> None:
        os.mkdir(root, 0o700)
        self._root = self._folder = _open_folder(root, fresh=True)
        self._at: tuple[str, ...] = ()  # the folder behind self._folder: members come in runs
        self._wanted = None if wanted is None else frozenset(wanted)
        self._missing = set(self._wanted or ())
        self._members, self._written, self._depth = members, written, depth
        self._seen = _Seen()

    def __enter__(self) -> ExtractedTree:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()
        os.close(self._root)

    def wants(self, parts: tuple[str, ...]) -> bool:
        """Whether a member is to be written. One that is not needs only a harmless name, not a harmless type."""
        if self._wanted is None:
            return True
        names = {"/".join(parts[:end]) for end in range(1, len(parts) + 1)} & self._wanted
        self._missing -= names
        return bool(names)

    def complete(self) -> None:
        """Raises ArchiveRefused if a wanted member never came."""
        if self._missing:
            raise ArchiveRefused("members= asks for it, and the archive does not hold it", min(self._missing))

    def folder(self, parts: tuple[str, ...]) -> None:
        """The folder, made with its parents unless it is there."""
        self._enter(parts)

    def file(self, parts: tuple[str, ...], pieces: Iterable[bytes | memoryview], *, executable: bool = False) -> None:
        """A new file of `pieces`. Raises ArchiveRefused if anything has its name, or a limit is reached."""
        if not parts:
            raise ArchiveRefused("it is a file without a name")
        folder = self._enter(parts[:-1])
        self._claim(parts)
        try:
            create(parts[-1], folder, pieces, self._written, executable=executable)
        except FileExistsError:
            raise ArchiveRefused("its name is another member's to this file system") from None

    def _claim(self, parts: tuple[str, ...]) -> None:
        if len(parts) > self._depth:
            raise ArchiveRefused(f"it is more than {self._depth} folders deep; raise max_depth if it may be")
        self._members.spend()
        if not self._seen.add(_folded("/".join(parts))):
            raise ArchiveRefused(
                "another member has its name, or one that differs only in case, composition or trailing dots"
            )

    def _enter(self, folders: tuple[str, ...]) -> int:
        """The descriptor of the folder, valid until the next call."""
        if folders != self._at:
            self._leave()
            for end in range(1, len(folders) + 1):
                self._descend(folders[:end])
        return self._folder

    def _descend(self, folders: tuple[str, ...]) -> None:
        # A leading NUL is in no name: so one set holds both the folders as they are spelled and all names folded.
        made = self._seen.add("\0" + "/".join(folders))
        if made:
            self._claim(folders)
            try:
                os.mkdir(folders[-1], 0o700, dir_fd=self._folder)
            except FileExistsError:
                raise ArchiveRefused("its folder's name is another member's to this file system") from None
        fd = _open_folder(folders[-1], dir_fd=self._folder, fresh=made)
        self._leave()
        self._folder, self._at = fd, folders

    def _leave(self) -> None:
        # Forgotten first: closed twice, after Ctrl-C in between, it could be another's by then.
        folder, self._folder, self._at = self._folder, self._root, ()
        if folder != self._root:
            os.close(folder)
