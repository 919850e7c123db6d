"""One stream in one file, or in parts of a size that a stick or a FAT file system takes: x.tar, or x.tar.000, ...

Knows no tar. Invariants: the parts one after another are the stream; none has its name before all are complete and
synced; a stream is read only from all of its parts, in their order.
"""

from __future__ import annotations

import os
import re
import stat
from bisect import bisect_right
from itertools import accumulate
from types import TracebackType
from typing import Self

from ..archives.decoders import OUTPUT_CHUNK, Stream
from ..archives.refusal import ArchiveRefused, refuse_if
from ..disk import durable, files

__all__ = ["PartReader", "PartStream", "PartWriter", "part_names"]

_PART = re.compile(r"(.+)\.([0-9]{3,6})")


class PartWriter:
    """Writes a stream to `path`, or with `split` to parts of so many bytes. A context manager: `finish` or nothing."""

    def __init__(self, path: str, split: int | None) -> None:
        self._path = path
        self._split = split
        self._mark = files.new_name()
        self._fd = -1
        self._room = 0  # bytes that the open part still takes
        self._parts: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        for part in self._parts:
            files.remove(self._hidden(part))

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`. Raises OSError."""
        view = memoryview(data)
        while view:
            if not self._room:
                self._begin_part()
            count = os.write(self._fd, view[: self._room])
            view = view[count:]
            self._room -= count

    def finish(self) -> list[str]:
        """Make all parts appear; their paths. Parts that a larger stream left under this path are deleted."""
        self._end_part()
        for part in self._parts:
            os.rename(self._hidden(part), part)
        if self._split is not None:
            for stale in part_names(self._path)[len(self._parts) :]:
                os.unlink(stale)
        durable.sync_folder(os.path.dirname(self._path))
        return list(self._parts)

    def _begin_part(self) -> None:
        self._end_part()
        part = self._path if self._split is None else f"{self._path}.{len(self._parts):03}"
        self._fd = os.open(self._hidden(part), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._parts.append(part)
        self._room = self._split or 1 << 62

    def _end_part(self) -> None:
        if self._fd >= 0:
            durable.sync_file(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _hidden(self, part: str) -> str:
        folder, name = os.path.split(part)
        return os.path.join(folder, f".{name}.{self._mark}")


def part_names(path: str) -> list[str]:
    """The paths of the parts of `path` that are there, by their numbers."""
    folder, base = os.path.split(path)
    found = [match for name in os.listdir(folder) if (match := _PART.fullmatch(name)) and match[1] == base]
    return [os.path.join(folder, match[0]) for match in sorted(found, key=lambda match: int(match[2]))]


def _places(path: str) -> list[str]:
    """The files that `path` means: itself, or the parts of a stream. Raises ArchiveRefused, FileNotFoundError."""
    match = _PART.fullmatch(path)
    is_part = match is not None and os.path.exists(f"{match[1]}.000")
    if os.path.exists(path) and not is_part:
        return [path]
    parts = part_names(path)
    if not parts and match is not None:
        parts = part_names(match[1])
    for number, part in enumerate(parts):
        refuse_if(not part.endswith(f".{number:03}"), f"part {number:03} is missing, or is there twice")
    return parts or [path]


class PartReader:
    """Reads the stream at `path`, wherever one likes. A context manager. Raises ArchiveRefused, OSError."""

    def __init__(self, path: str) -> None:
        self._fds: list[int] = []
        try:
            sizes = [self._open(place) for place in _places(path)]
        except BaseException:  # Ctrl-C, too
            self.close()
            raise
        if (odd := next((n for n, size in enumerate(sizes[:-1]) if size != sizes[0]), None)) is not None:
            self.close()
            raise ArchiveRefused(f"part {odd:03} has another size than the first one")
        self._starts = [0, *accumulate(sizes)]
        self.size = self._starts[-1]  # bytes

    def _open(self, place: str) -> int:
        fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._fds.append(fd)
        st = os.fstat(fd)
        refuse_if(not stat.S_ISREG(st.st_mode), f"it is {files.kind(st.st_mode)}")
        return st.st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def read(self, position: int, limit: int) -> bytes:
        """At most `limit` bytes from `position` on; none only at the end."""
        if position >= self.size:
            return b""
        part = bisect_right(self._starts, position) - 1
        return os.pread(self._fds[part], limit, position - self._starts[part])


class PartStream(Stream):
    """The stream from its beginning, in which skipping reads nothing."""

    def __init__(self, reader: PartReader) -> None:
        super().__init__(iter(()))
        self._reader = reader

    def some(self, limit: int) -> memoryview:
        piece = memoryview(self._reader.read(self.position, min(limit, OUTPUT_CHUNK)))
        self.position += len(piece)
        return piece

    def skip(self, size: int) -> None:
        end = self.position + size
        refuse_if(end > self._reader.size, f"the archive is truncated: it ends at byte {self._reader.size:,}")
        self.position = end
