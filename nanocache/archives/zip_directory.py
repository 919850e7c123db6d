"""The central directory of a zip: where it lies, and what it says of the members.

Not the members' data, nor what their local headers say (`zip`). Invariants: the directory ends at the end record, which
ends the file; it holds as many entries as the end record counts; where there are two end records, they agree.

The format: PKWARE's APPNOTE.TXT 6.3.10, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from .decoders import Stream, chunks
from .refusal import refuse_if

__all__ = ["SATURATED", "ZipDirectory", "ZipEntry", "entries", "find_directory", "wide"]

_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_LONGEST_COMMENT = 0xFFFF  # bytes
_LONGEST_END = _END.size + _LONGEST_COMMENT + _LOCATOR.size + _END64.size  # bytes
SATURATED = 0xFFFF_FFFF  # "see the zip64 record"


class ZipEntry(NamedTuple):
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes that come out
    offset: int  # of the local header
    mode: int  # Unix mode, 0 where the archiver knows none

    @property
    def is_folder(self) -> bool:
        return self.name.endswith(b"/")


class ZipDirectory(NamedTuple):
    offset: int
    end: int
    members: int


def entries(stream: Stream, count: int) -> Iterator[ZipEntry]:
    for _ in range(count):
        yield _entry(stream)
    refuse_if(stream.some(1), "the directory holds more than the members it counts")


def _entry(stream: Stream) -> ZipEntry:
    fields = _CENTRAL.unpack(stream.take(_CENTRAL.size))
    signature, _, _, flags, method, _, _, crc, packed, size, *rest = fields
    name_length, extra_length, comment_length, disk, _, attributes, offset = rest
    refuse_if(
        signature != b"PK\1\2" or disk not in (0, 0xFFFF),
        "the directory is damaged, or that of an archive in several parts",
    )
    name = stream.take(name_length)
    extra = stream.take(extra_length)
    stream.skip(comment_length)
    size, packed, offset = wide(extra, size, packed, offset)
    return ZipEntry(name, flags, method, crc, packed, size, offset, attributes >> 16)


def wide(extra: bytes, *fields: int) -> list[int]:
    """The fields, saturated ones replaced from the zip64 record in `extra`, which lists them in this order."""
    if SATURATED not in fields:
        return list(fields)
    saturated = fields.count(SATURATED)
    record = _zip64_record(extra)
    if len(record) < 8 * saturated:
        return list(fields)  # 4 GiB less a byte, to the byte; or it will not match
    values = iter(struct.unpack_from(f"<{saturated}Q", record))
    return [next(values) if field == SATURATED else field for field in fields]


def _zip64_record(extra: bytes) -> bytes:
    """The zip64 record among the records of an extra field; empty if there is none."""
    found = b""
    offset = 0
    while offset + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, offset)
        record = extra[offset + 4 : offset + 4 + length]
        offset += 4 + length
        if kind == 1:
            refuse_if(found or len(record) < length, "its zip64 sizes are damaged, or there twice")
            found = record
    return found


def find_directory(fd: int, size: int) -> ZipDirectory:
    """Where the central directory lies. Raises ArchiveRefused unless it alone leads up to the end of the file."""
    start = max(0, size - _LONGEST_END)
    tail = b"".join(chunks(fd, start, size))
    index = tail.rfind(b"PK\5\6")
    refuse_if(index < 0 or len(tail) - index < _END.size, "it has no end record: it is truncated, or no zip")
    _, *narrow, comment = _END.unpack_from(tail, index)
    refuse_if(len(tail) - index - _END.size != comment, "data follows the end of the zip, or its comment is truncated")
    end = start + index
    fields = tuple(narrow)
    if tail[max(0, index - _LOCATOR.size) :].startswith(b"PK\6\7"):
        end -= _LOCATOR.size + _END64.size
        fields = _end64(tail, index, end, fields)
    disk, first_disk, members_here, members, length, offset = fields
    refuse_if((disk, first_disk, members_here) != (0, 0, members), "it is one part of several")
    refuse_if(
        offset + length != end,
        "data comes before the zip, or between its directory and its end, or it is truncated",
    )
    return ZipDirectory(offset, end, members)


def _end64(tail: bytes, index: int, where: int, narrow: tuple[int, ...]) -> tuple[int, ...]:
    """The end record's fields in 64 bits. `tail[index]` starts the narrow one; the wide one must stand at `where`."""
    _, disk, offset, disks = _LOCATOR.unpack_from(tail, index - _LOCATOR.size)
    start = index - _LOCATOR.size - _END64.size
    # CVE-2025-8291: zipfile looked right before the locator, others where the locator points.
    misplaced = start < 0 or offset != where
    refuse_if(misplaced or disk or disks > 1, "its zip64 locator points elsewhere than right before itself")
    signature, length, _, _, *wide = _END64.unpack_from(tail, start)
    refuse_if((signature, length) != (b"PK\6\6", _END64.size - 12), "its zip64 end record is damaged")
    for small, large, saturated in zip(narrow, wide, (0xFFFF,) * 4 + (SATURATED,) * 2, strict=True):
        refuse_if(small not in (large, saturated), "its two end records differ")
    return tuple(wide)
