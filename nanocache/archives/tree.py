"""Members of an archive become files under one folder, or the archive is refused.

Not a reader of any format, and no place for links, devices, owners or times: none of them is ever written. Invariants:

- A name is judged (`names`) and then opened relative to the descriptor of its folder with O_NOFOLLOW and O_EXCL. No
  path is resolved, so that what an archive wrote cannot redirect what it writes next: that was CVE-2025-4517 and its
  kin, through the standard library's own `data` filter.
- Two members never meet at one name, not even where case, composition or trailing dots don't count.
- What is written is counted, whatever the archive declares.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from ..callers import suppress
from ..room import ambient_room
from .names import NameSet, folded
from .refusal import Allowance, ArchiveRefused, refuse_if

__all__ = ["ExtractedTree", "create"]


def create(
    name: str, folder: int, pieces: Iterable[bytes | memoryview], written: Allowance, *, executable: bool = False
) -> None:
    """A new file `name` with `pieces` in the folder behind the descriptor, mode 0644 or 0755 whatever the umask.

    The cache's base directory decides which users get to it; an archive's mode or a umask would lock its group out.
    Raises ArchiveRefused when `written` is spent, NoSpace, and OSError.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, 0o600, dir_fd=folder)
    except UnicodeEncodeError as e:
        raise _not_encodable(name) from e
    try:
        for piece in pieces:
            rest = memoryview(piece)
            written.spend(len(rest))
            ambient_room().grow(len(rest))
            while rest:
                rest = rest[os.write(fd, rest) :]
        _set_mode(fd, 0o755 if executable else 0o644)
    finally:
        os.close(fd)


def _set_mode(fd: int, mode: int) -> None:
    with suppress(PermissionError):  # a mount with one permission for all (gcsfuse, SMB): it decides
        os.fchmod(fd, mode)


def _not_encodable(name: str) -> OSError:
    text = (
        f"the file-system encoding of this process, {sys.getfilesystemencoding()}, has no such name: set PYTHONUTF8=1"
    )
    return OSError(errno.EILSEQ, text, ascii(name)[1:-1])


def _open_folder(name: str | Path, *, dir_fd: int | None = None, fresh: bool) -> int:
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if fresh:  # the set-group-id bit is the cache's own: it keeps what is in the folder in the group that shares it
            _set_mode(fd, 0o755 | (os.fstat(fd).st_mode & stat.S_ISGID))
    except BaseException:  # Ctrl-C, too
        os.close(fd)
        raise
    return fd


class ExtractedTree:
    """A new folder at `root` that is filled member by member; a context manager, for it holds two descriptors.

    `wanted` are names as `segments` gives them, joined: only they and what is under them are written. None is all.
    """

    def __init__(
        self, root: Path, *, wanted: Iterable[str] | None, members: Allowance, written: Allowance, depth: int
    ) -> None:
        os.mkdir(root, 0o700)
        self._root = _open_folder(root, fresh=True)
        self._folder = self._root  # members come in runs, so the last one's folder stays open
        self._folder_parts: tuple[str, ...] = ()
        self._wanted = None if wanted is None else frozenset(wanted)
        self._missing = set(self._wanted or ())
        self._members = members
        self._written = written
        self._depth = depth
        self._seen = NameSet()

    def __enter__(self) -> ExtractedTree:
        return self

    def __exit__(self, *exc: object) -> None:
        self._leave()
        os.close(self._root)

    def wants(self, parts: tuple[str, ...]) -> bool:
        """Whether a member is to be written. If not, its name must be harmless all the same, but not its type."""
        if self._wanted is None:
            return True
        names = set(accumulate(parts, "{}/{}".format)) & self._wanted
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
        refuse_if(not parts, "it is a file without a name")
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
        refuse_if(
            not self._seen.add(folded("/".join(parts))),
            "another member has its name, or one that differs only in case, composition or trailing dots",
        )

    def _enter(self, folders: tuple[str, ...]) -> int:
        """The descriptor of the folder, valid until the next call."""
        if folders != self._folder_parts:
            self._leave()
            for end in range(1, len(folders) + 1):
                self._descend(folders[:end])
        return self._folder

    def _descend(self, folders: tuple[str, ...]) -> None:
        # A leading NUL is in no name: so one set holds both the folders as they are spelled and all names folded.
        fresh = self._seen.add("\0" + "/".join(folders))
        if fresh:
            self._make(folders)
        fd = _open_folder(folders[-1], dir_fd=self._folder, fresh=fresh)
        self._leave()
        self._folder = fd
        self._folder_parts = folders

    def _make(self, folders: tuple[str, ...]) -> None:
        self._claim(folders)
        try:
            os.mkdir(folders[-1], 0o700, dir_fd=self._folder)
        except FileExistsError:
            raise ArchiveRefused("its folder's name is another member's to this file system") from None
        except UnicodeEncodeError as e:
            raise _not_encodable(folders[-1]) from e

    def _leave(self) -> None:
        # Forgotten first: if Ctrl-C comes in between, a second close could hit a descriptor that was used again.
        folder, self._folder = self._folder, self._root
        self._folder_parts = ()
        if folder != self._root:
            os.close(folder)
