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
from .tree import Allowance, ArchiveRefused, ExtractedTree, segments

__all__ = ["unpack_zip"]

_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_LONGEST_COMMENT = 0xFFFF
_SATURATED = 0xFFFF_FFFF

_ENCRYPTED, _LEVEL, _DESCRIPTOR, _UTF8 = 1, 6, 8, 0x800  # flag bits
_STORED = 0
_CODECS = {8: "deflate", 12: "bz2", 93: "zst", 95: "xz"}


class _Entry(NamedTuple):
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int  # bytes in the archive
    size: int  # bytes that come out
    offset: int  # of the local header
    mode: int  # Unix mode, 0 where the archiver knows none


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
    if members.position != directory.offset:
        raise ArchiveRefused("data that belongs to no member comes before the directory")


def _spans(entries: Iterator[_Entry], end: int) -> Iterator[tuple[_Entry, int]]:
    """Each entry and the offset where it must end: where the next one begins, and the last one at `end`."""
    previous = None
    for entry in entries:
        if previous:
            yield previous, entry.offset
        previous = entry
    if previous:
        yield previous, end


def _unpack(members: Stream, entry: _Entry, end: int, tree: ExtractedTree, allowance: Allowance) -> None:
    if members.position != entry.offset:
        raise ArchiveRefused("it overlaps with another member, or data that belongs to no member comes before it")
    parts = segments(_name(entry))
    _check_local(members, entry)
    if not 0 <= end - members.position - entry.packed <= 24:
        raise ArchiveRefused("it overlaps with the next member, or data that belongs to no member follows it")
    packed = members.pieces(entry.packed)
    if tree.wants(parts):
        _check_entry(entry)
        if entry.name.endswith(b"/"):
            tree.folder(parts)
        else:
            tree.file(parts, _checked(entry, packed, allowance), executable=bool(entry.mode & 0o100))
    for _ in packed:  # of a folder, or of a member that is not wanted
        pass
    if members.take(end - members.position) not in _descriptors(entry):
        raise ArchiveRefused("its data descriptor differs from the directory")


def _check_entry(entry: _Entry) -> None:
    if entry.flags & _ENCRYPTED:
        raise ArchiveRefused("it is encrypted")
    if unknown := entry.flags & ~(_LEVEL | _DESCRIPTOR | _UTF8):
        raise ArchiveRefused(f"it needs a feature that is not supported (flag bits {unknown:#x})")
    if entry.method != _STORED and entry.method not in _CODECS:
        raise ArchiveRefused(f"compression method {entry.method} is not supported; repack it with deflate")
    if stat.S_IFMT(entry.mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a symbolic link" if stat.S_ISLNK(entry.mode) else "no regular file"
        raise ArchiveRefused(f"it is {what}, and only files and folders are unpacked; choose others with members=")
    if entry.name.endswith(b"/") and entry.size:
        raise ArchiveRefused("it is a folder and yet has data")
    if entry.method == _STORED and entry.size != entry.packed:
        raise ArchiveRefused("it is stored, and yet its two sizes differ")


def _check_local(members: Stream, entry: _Entry) -> None:
    """Read the local header up to the data. Raises ArchiveRefused unless it agrees with the directory."""
    fields = _LOCAL.unpack(members.take(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    if signature != b"PK\3\4":
        raise ArchiveRefused("no local header where the directory says")
    name, extra = members.take(name_length), members.take(extra_length)
    size, packed = _wide(extra, size, packed)
    if name != entry.name or method != entry.method or (flags ^ entry.flags) & ~_LEVEL:
        raise ArchiveRefused("its local header differs from the directory")
    # A writer that could not seek back left zeros, and a descriptor behind the data; Info-ZIP knows the size by then.
    unknown = (0,) if entry.flags & _DESCRIPTOR else ()
    for local, central in ((crc, entry.crc), (packed, entry.packed), (size, entry.size)):
        if local not in (central, *unknown):
            raise ArchiveRefused("the sizes or the checksum in its local header differ from the directory")


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
    data = _stored(packed, allowance) if entry.method == _STORED else decoded(_CODECS[entry.method], packed, allowance)
    size = crc = 0
    for piece in data:
        size, crc = size + len(piece), crc32(piece, crc)
        if size > entry.size:
            raise ArchiveRefused(f"more comes out of it than the {entry.size:,} bytes it declares")
        yield piece
    if (size, crc) != (entry.size, entry.crc):
        raise ArchiveRefused(f"its checksum is wrong, or its size: {size:,} of {entry.size:,} bytes came out")


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


def _entries(stream: Stream, count: int) -> Iterator[_Entry]:
    for _ in range(count):
        fields = _CENTRAL.unpack(stream.take(_CENTRAL.size))
        signature, _, _, flags, method, _, _, crc, packed, size, *rest = fields
        name_length, extra_length, comment_length, disk, _, attributes, offset = rest
        if signature != b"PK\1\2" or disk not in (0, 0xFFFF):
            raise ArchiveRefused("the directory is damaged, or that of an archive in several parts")
        name, extra = stream.take(name_length), stream.take(extra_length)
        stream.skip(comment_length)
        size, packed, offset = _wide(extra, size, packed, offset)
        yield _Entry(name, flags, method, crc, packed, size, offset, attributes >> 16)
    if stream.some(1):
        raise ArchiveRefused("the directory holds more than the members it counts")


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
    found, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        record = extra[at + 4 : at + 4 + length]
        if kind == 1 and (found or len(record) < length):
            raise ArchiveRefused("its zip64 sizes are damaged, or there twice")
        found = record if kind == 1 else found
        at += 4 + length
    return found


def _directory(fd: int, size: int) -> _Directory:
    """Where the central directory lies. Raises ArchiveRefused unless it alone leads up to the end of the file."""
    start = max(0, size - _END.size - _LONGEST_COMMENT - _LOCATOR.size - _END64.size)
    tail = b"".join(chunks(fd, start, size))
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise ArchiveRefused("it has no end record: it is truncated, or no zip")
    _, disk, first_disk, here, count, length, offset, comment = _END.unpack_from(tail, at)
    if len(tail) - at - _END.size != comment:
        raise ArchiveRefused("data follows the end of the zip, or its comment is truncated")
    end = start + at
    if tail[max(0, at - _LOCATOR.size) :].startswith(b"PK\6\7"):
        narrow = (disk, first_disk, here, count, length, offset)
        end -= _LOCATOR.size + _END64.size
        disk, first_disk, here, count, length, offset = _end64(tail, at, end, narrow)
    if disk or first_disk or here != count:
        raise ArchiveRefused("it is one part of several")
    if offset + length != end:
        raise ArchiveRefused("data comes before the zip, or between its directory and its end, or it is truncated")
    return _Directory(offset, end, count)


def _end64(tail: bytes, at: int, where: int, narrow: tuple[int, ...]) -> tuple[int, ...]:
    """The end record's fields in 64 bits. `tail[at]` starts the narrow one; the wide one must stand at byte `where`."""
    _, disk, offset, disks = _LOCATOR.unpack_from(tail, at - _LOCATOR.size)
    at -= _LOCATOR.size + _END64.size
    # CVE-2025-8291: zipfile looked right before the locator, others where the locator points.
    if at < 0 or offset != where or disk or disks > 1:
        raise ArchiveRefused("its zip64 locator points elsewhere than right before itself")
    signature, length, _, _, *wide = _END64.unpack_from(tail, at)
    if signature != b"PK\6\6" or length != _END64.size - 12:
        raise ArchiveRefused("its zip64 end record is damaged")
    for small, large, most in zip(narrow, wide, (0xFFFF,) * 4 + (_SATURATED,) * 2, strict=True):
        if small not in (large, most):
            raise ArchiveRefused("its two end records differ")
    return tuple(wide)
