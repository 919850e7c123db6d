"""Zip, read strictly: the central directory and the bytes before it must tell one and the same story.

Not `zipfile`, which takes names from the directory and data from wherever it points: readers that believe different
parts of a crafted zip unpack different files (CVE-2025-54368, CVE-2025-8291), and members that share their data make
petabytes of megabytes (CVE-2024-0450). Invariants: the members lie end to end from the first byte to the directory, in
its order, and the directory ends at the end record, which ends the file; each local header says what its directory
entry says; sizes and checksums are those of the bytes that came out. One pass, front to back, in flat memory.

The format: PKWARE's APPNOTE.TXT 6.3.10, section 4.3.
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from .decoders import Stream, chunks, decoded
from .names import segments
from .refusal import Allowance, ArchiveRefused, refuse_if
from .tree import ExtractedTree

__all__ = ["unpack_zip"]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_LONGEST_COMMENT = 0xFFFF  # bytes
_LONGEST_END = _END.size + _LONGEST_COMMENT + _LOCATOR.size + _END64.size  # bytes
_SATURATED = 0xFFFF_FFFF  # "see the zip64 record"

# Flag bits.
_ENCRYPTED = 1
_LEVEL = 6
_DESCRIPTOR = 8
_UTF8 = 0x800
_KNOWN_FLAGS = _LEVEL | _DESCRIPTOR | _UTF8

_STORED = 0
_METHODS = {_STORED: "stored", 8: "deflate", 12: "bz2", 93: "zst", 95: "xz"}


class _Entry(NamedTuple):
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


class _Directory(NamedTuple):
    offset: int
    end: int
    members: int


def unpack_zip(fd: int, size: int, tree: ExtractedTree, allowance: Allowance) -> None:
    """Every member of the zip in `fd` that `tree` wants. Raises ArchiveRefused and OSError."""
    directory = _directory(fd, size)
    members = Stream(chunks(fd, 0, directory.offset))
    listing = Stream(chunks(fd, directory.offset, directory.end), directory.offset)
    for entry, end in _spans(_entries(listing, directory.members), directory.offset):
        try:
            _unpack(members, entry, end, tree, allowance)
        except ArchiveRefused as e:
            raise ArchiveRefused(e.reason, e.member or _display(entry.name)) from e.__cause__
    refuse_if(members.position != directory.offset, "data that belongs to no member comes before the directory")


def _spans(entries: Iterator[_Entry], end: int) -> Iterator[tuple[_Entry, int]]:
    """Each entry and the offset where it must end: where the next one begins, and the last one at `end`."""
    previous = None
    for entry in entries:
        if previous:
            yield previous, entry.offset
        previous = entry
    if previous:
        yield previous, end


# --- one member -------------------------------------------------------------------------------------------------------


def _unpack(members: Stream, entry: _Entry, end: int, tree: ExtractedTree, allowance: Allowance) -> None:
    refuse_if(
        members.position != entry.offset,
        "it overlaps with another member, or data that belongs to no member comes before it",
    )
    parts = segments(_name(entry))
    _check_local(members, entry)
    refuse_if(
        not 0 <= end - members.position - entry.packed <= 24,
        "it overlaps with the next member, or data that belongs to no member follows it",
    )
    packed = members.pieces(entry.packed)
    if tree.wants(parts):
        _write(entry, packed, parts, tree, allowance)
    for _ in packed:  # of a folder, or of a member that is not wanted
        pass
    refuse_if(
        members.take(end - members.position) not in _descriptors(entry),
        "its data descriptor differs from the directory",
    )


def _write(
    entry: _Entry, packed: Iterator[memoryview], parts: tuple[str, ...], tree: ExtractedTree, allowance: Allowance
) -> None:
    _check_entry(entry)
    if entry.is_folder:
        tree.folder(parts)
    else:
        tree.file(parts, _checked(entry, packed, allowance), executable=bool(entry.mode & 0o100))


def _check_entry(entry: _Entry) -> None:
    _check_method(entry)
    _check_type(entry.mode)
    refuse_if(entry.is_folder and entry.size, "it is a folder and yet has data")
    refuse_if(entry.method == _STORED and entry.size != entry.packed, "it is stored, and yet its two sizes differ")


def _check_method(entry: _Entry) -> None:
    refuse_if(entry.flags & _ENCRYPTED, "it is encrypted")
    unknown = entry.flags & ~_KNOWN_FLAGS
    if unknown:
        raise ArchiveRefused(f"it needs a feature that is not supported (flag bits {unknown:#x})")
    if entry.method not in _METHODS:
        raise ArchiveRefused(f"compression method {entry.method} is not supported; repack it with deflate")


def _check_type(mode: int) -> None:
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no regular file"
        raise ArchiveRefused(f"it is {what}, and only files and folders are unpacked; choose others with members=")


def _check_local(members: Stream, entry: _Entry) -> None:
    """Read the local header up to the data. Raises ArchiveRefused unless it agrees with the directory."""
    fields = _LOCAL.unpack(members.take(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    refuse_if(signature != b"PK\3\4", "no local header where the directory says")
    name = members.take(name_length)
    extra = members.take(extra_length)
    size, packed = _wide(extra, size, packed)
    # The level bits may differ: they say how hard the archiver tried.
    stated = (name, method, flags & ~_LEVEL)
    refuse_if(
        stated != (entry.name, entry.method, entry.flags & ~_LEVEL), "its local header differs from the directory"
    )
    _check_sums((crc, packed, size), entry)


def _check_sums(local: tuple[int, int, int], entry: _Entry) -> None:
    central = (entry.crc, entry.packed, entry.size)
    if local == central:
        return
    # A writer that could not seek back left zeros, and a descriptor behind the data; Info-ZIP knows the size by then.
    streamed = entry.flags & _DESCRIPTOR
    for ours, theirs in zip(local, central, strict=True):
        refuse_if(
            ours != theirs and not (streamed and ours == 0),
            "the sizes or the checksum in its local header differ from the directory",
        )


def _descriptors(entry: _Entry) -> tuple[bytes, ...]:
    """What may stand between a member's data and the next one: the sums again, with or without signature, in 32 or 64
    bits (APPNOTE 4.3.9 leaves both open)."""
    if not entry.flags & _DESCRIPTOR:
        return (b"",)
    wide = struct.pack("<I2Q", entry.crc, entry.packed, entry.size)
    if max(entry.packed, entry.size) > _SATURATED:
        return (b"PK\7\x08" + wide, wide)
    narrow = struct.pack("<3I", entry.crc, entry.packed, entry.size)
    return (b"PK\7\x08" + narrow, narrow, b"PK\7\x08" + wide, wide)


def _checked(
    entry: _Entry, packed: Iterator[memoryview], allowance: Allowance
) -> Iterator[bytes] | Iterator[memoryview]:
    """The member's bytes. Raises ArchiveRefused if they are more, or at the end others, than the archive declares."""
    size = 0
    crc = 0
    for piece in _plain(entry, packed, allowance):
        size += len(piece)
        crc = crc32(piece, crc)
        if size > entry.size:
            raise ArchiveRefused(f"more comes out of it than the {entry.size:,} bytes it declares")
        yield piece
    if (size, crc) != (entry.size, entry.crc):
        raise ArchiveRefused(f"its checksum is wrong, or its size: {size:,} of {entry.size:,} bytes came out")


def _plain(entry: _Entry, packed: Iterator[memoryview], allowance: Allowance) -> Iterator[bytes] | Iterator[memoryview]:
    if entry.method == _STORED:
        return _stored(packed, allowance)
    return decoded(_METHODS[entry.method], packed, allowance)


def _stored(packed: Iterator[memoryview], allowance: Allowance) -> Iterator[memoryview]:
    for piece in packed:
        allowance.spend(len(piece))
        yield piece


def _name(entry: _Entry) -> str:
    # Without the flag it is cp437 by the book, and UTF-8 by macOS and many others; words in cp437 are never UTF-8.
    try:
        return entry.name.decode()
    except UnicodeDecodeError:
        if entry.flags & _UTF8:
            raise ArchiveRefused("its name is not UTF-8") from None
        return entry.name.decode("cp437")


def _display(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


# --- the directory ----------------------------------------------------------------------------------------------------


def _entries(stream: Stream, count: int) -> Iterator[_Entry]:
    for _ in range(count):
        yield _entry(stream)
    refuse_if(stream.some(1), "the directory holds more than the members it counts")


def _entry(stream: Stream) -> _Entry:
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
    size, packed, offset = _wide(extra, size, packed, offset)
    return _Entry(name, flags, method, crc, packed, size, offset, attributes >> 16)


def _wide(extra: bytes, *fields: int) -> list[int]:
    """The fields, saturated ones replaced from the zip64 record in `extra`, which lists them in this order."""
    if _SATURATED not in fields:
        return list(fields)
    saturated = fields.count(_SATURATED)
    record = _zip64_record(extra)
    if len(record) < 8 * saturated:
        return list(fields)  # 4 GiB less a byte, to the byte; or it will not match
    values = iter(struct.unpack_from(f"<{saturated}Q", record))
    return [next(values) if field == _SATURATED else field for field in fields]


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


def _directory(fd: int, size: int) -> _Directory:
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
    return _Directory(offset, end, members)


def _end64(tail: bytes, index: int, where: int, narrow: tuple[int, ...]) -> tuple[int, ...]:
    """The end record's fields in 64 bits. `tail[index]` starts the narrow one; the wide one must stand at `where`."""
    _, disk, offset, disks = _LOCATOR.unpack_from(tail, index - _LOCATOR.size)
    start = index - _LOCATOR.size - _END64.size
    # CVE-2025-8291: zipfile looked right before the locator, others where the locator points.
    misplaced = start < 0 or offset != where
    refuse_if(misplaced or disk or disks > 1, "its zip64 locator points elsewhere than right before itself")
    signature, length, _, _, *wide = _END64.unpack_from(tail, start)
    refuse_if((signature, length) != (b"PK\6\6", _END64.size - 12), "its zip64 end record is damaged")
    for small, large, saturated in zip(narrow, wide, (0xFFFF,) * 4 + (_SATURATED,) * 2, strict=True):
        refuse_if(small not in (large, saturated), "its two end records differ")
    return tuple(wide)
