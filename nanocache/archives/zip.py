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
from zlib import crc32

from .decoders import Stream, chunks, decoded
from .names import segments
from .refusal import Allowance, ArchiveRefused, refuse_if
from .tree import ExtractedTree
from .zip_directory import SATURATED, ZipEntry, entries, find_directory, wide

__all__ = ["unpack_zip"]

_LOCAL = struct.Struct("<4s5H3I2H")

# Flag bits.
_ENCRYPTED = 1
_LEVEL = 6
_DESCRIPTOR = 8
_UTF8 = 0x800
_KNOWN_FLAGS = _LEVEL | _DESCRIPTOR | _UTF8

_STORED = 0
_METHODS = {_STORED: "stored", 8: "deflate", 12: "bz2", 93: "zst", 95: "xz"}


def unpack_zip(fd: int, size: int, tree: ExtractedTree, allowance: Allowance) -> None:
    """Every member of the zip in `fd` that `tree` wants. Raises ArchiveRefused and OSError."""
    directory = find_directory(fd, size)
    members = Stream(chunks(fd, 0, directory.offset))
    listing = Stream(chunks(fd, directory.offset, directory.end), directory.offset)
    for entry, end in _spans(entries(listing, directory.members), directory.offset):
        try:
            _unpack(members, entry, end, tree, allowance)
        except ArchiveRefused as e:
            raise ArchiveRefused(e.reason, e.member or _display(entry.name)) from e.__cause__
    refuse_if(members.position != directory.offset, "data that belongs to no member comes before the directory")


def _spans(entries: Iterator[ZipEntry], end: int) -> Iterator[tuple[ZipEntry, int]]:
    """Each entry and the offset where it must end: where the next one begins, and the last one at `end`."""
    previous = None
    for entry in entries:
        if previous:
            yield previous, entry.offset
        previous = entry
    if previous:
        yield previous, end


# --- one member -------------------------------------------------------------------------------------------------------


def _unpack(members: Stream, entry: ZipEntry, end: int, tree: ExtractedTree, allowance: Allowance) -> None:
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
    entry: ZipEntry, packed: Iterator[memoryview], parts: tuple[str, ...], tree: ExtractedTree, allowance: Allowance
) -> None:
    _check_entry(entry)
    if entry.is_folder:
        tree.folder(parts)
    else:
        tree.file(parts, _checked(entry, packed, allowance), executable=bool(entry.mode & 0o100))


def _check_entry(entry: ZipEntry) -> None:
    _check_method(entry)
    _check_type(entry.mode)
    refuse_if(entry.is_folder and entry.size, "it is a folder and yet has data")
    refuse_if(entry.method == _STORED and entry.size != entry.packed, "it is stored, and yet its two sizes differ")


def _check_method(entry: ZipEntry) -> None:
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


def _check_local(members: Stream, entry: ZipEntry) -> None:
    """Read the local header up to the data. Raises ArchiveRefused unless it agrees with the directory."""
    fields = _LOCAL.unpack(members.take(_LOCAL.size))
    signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = fields
    refuse_if(signature != b"PK\3\4", "no local header where the directory says")
    name = members.take(name_length)
    extra = members.take(extra_length)
    size, packed = wide(extra, size, packed)
    # The level bits may differ: they say how hard the archiver tried.
    stated = (name, method, flags & ~_LEVEL)
    refuse_if(
        stated != (entry.name, entry.method, entry.flags & ~_LEVEL), "its local header differs from the directory"
    )
    _check_sums((crc, packed, size), entry)


def _check_sums(local: tuple[int, int, int], entry: ZipEntry) -> None:
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


def _descriptors(entry: ZipEntry) -> tuple[bytes, ...]:
    """What may stand between a member's data and the next one: the sums again, with or without signature, in 32 or 64
    bits (APPNOTE 4.3.9 leaves both open)."""
    if not entry.flags & _DESCRIPTOR:
        return (b"",)
    wide = struct.pack("<I2Q", entry.crc, entry.packed, entry.size)
    if max(entry.packed, entry.size) > SATURATED:
        return (b"PK\7\x08" + wide, wide)
    narrow = struct.pack("<3I", entry.crc, entry.packed, entry.size)
    return (b"PK\7\x08" + narrow, narrow, b"PK\7\x08" + wide, wide)


def _checked(
    entry: ZipEntry, packed: Iterator[memoryview], allowance: Allowance
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


def _plain(
    entry: ZipEntry, packed: Iterator[memoryview], allowance: Allowance
) -> Iterator[bytes] | Iterator[memoryview]:
    if entry.method == _STORED:
        return _stored(packed, allowance)
    return decoded(_METHODS[entry.method], packed, allowance)


def _stored(packed: Iterator[memoryview], allowance: Allowance) -> Iterator[memoryview]:
    for piece in packed:
        allowance.spend(len(piece))
        yield piece


def _name(entry: ZipEntry) -> str:
    # Without the flag it is cp437 by the book, and UTF-8 by macOS and many others; words in cp437 are never UTF-8.
    try:
        return entry.name.decode()
    except UnicodeDecodeError:
        if entry.flags & _UTF8:
            raise ArchiveRefused("its name is not UTF-8") from None
        return entry.name.decode("cp437")


def _display(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")
