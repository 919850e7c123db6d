"""Tar, read front to back and strictly: v7, ustar, GNU long names, pax names and sizes.

Not `tarfile`, which takes an archive that is cut within a header for a whole one, reads an extended header of any size
into memory, and resolves links through the file system. Invariants: every header's checksum holds; every member has
one name and one size to every reader; the two zero blocks at the end are there, and nothing but zeros follows.
Links, devices, fifos, sparse files and multi-volume parts are refused, unless `members=` leaves them out.

The format: POSIX.1-2024, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .decoders import Stream
from .names import segments
from .refusal import ArchiveRefused, refuse_if
from .tree import ExtractedTree

__all__ = ["TAR_BLOCK", "unpack_tar", "walk_tar"]

TAR_BLOCK = 512  # bytes
LONGEST_EXTENSION = 1 << 20  # bytes of an extended header; real ones hold names, and attributes of 64 KiB at most
_ZEROS = bytes(TAR_BLOCK)

_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n\0]+)=")
_PAX_SIZE = re.compile(rb"[0-9]{1,19}")
_PAX_USED = frozenset({b"path", b"size"})

_FILES = (b"0", b"\0", b"7")  # "7" is a contiguous file, which no system of today tells apart
_FOLDER = b"5"
_EXTENSIONS = {b"x": "pax", b"g": "global pax", b"L": "GNU long name", b"K": "GNU long link"}
_OTHERS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a fifo",
    b"S": "a sparse file",
    b"M": "the rest of a file from another volume",
}


class _Member(NamedTuple):
    name: bytes
    kind: bytes
    size: int  # bytes of data that follow the header
    executable: bool

    @property
    def is_file(self) -> bool:
        # Before pax and ustar a folder was a file with a slash at the end of its name.
        return self.kind in _FILES and not self.name.endswith(b"/")

    @property
    def is_folder(self) -> bool:
        return not self.is_file and self.kind in (_FOLDER, *_FILES)


def unpack_tar(stream: Stream, tree: ExtractedTree) -> None:
    """Every member of the tar in `stream` that `tree` wants. Raises ArchiveRefused and OSError."""
    while member := _next_member(stream):
        try:
            _unpack(stream, tree, member)
        except ArchiveRefused as e:
            raise _naming(member, e) from e.__cause__
    _check_end(stream)


def walk_tar(stream: Stream) -> Iterator[tuple[str, int]]:
    """Name and size of each file of a tar that holds nothing else; its data comes next in `stream`.

    The caller takes from it what it wants; the rest is skipped. Raises ArchiveRefused.
    """
    while member := _next_member(stream):
        try:
            parts = segments(_name(member))
            if not member.is_file:
                raise ArchiveRefused(f"it is {_what(member)}, and only files belong there")
            end = stream.position + member.size
            yield "/".join(parts), member.size
            stream.skip(end - stream.position)
            stream.skip(-member.size % TAR_BLOCK)
        except ArchiveRefused as e:
            raise _naming(member, e) from e.__cause__
    _check_end(stream)


def _naming(member: _Member, refused: ArchiveRefused) -> ArchiveRefused:
    return ArchiveRefused(refused.reason, refused.member or member.name.decode("utf-8", "backslashreplace"))


def _check_end(stream: Stream) -> None:
    refuse_if(stream.take(TAR_BLOCK) != _ZEROS, "the tar has one block of zeros where its end has two")
    # To the very end, also because a checksum of the compressed stream stands there.
    while rest := stream.some(TAR_BLOCK * TAR_BLOCK):
        refuse_if(bytes(rest).lstrip(b"\0"), "data follows the end of the tar")


def _unpack(stream: Stream, tree: ExtractedTree, member: _Member) -> None:
    parts = segments(_name(member))
    refuse_if(member.size and not member.is_file, "it is no regular file and yet has data")
    if tree.wants(parts):
        _write(stream, tree, member, parts)
    else:
        stream.skip(member.size)
    stream.skip(-member.size % TAR_BLOCK)


def _name(member: _Member) -> str:
    try:
        return member.name.decode()
    except UnicodeDecodeError:
        raise ArchiveRefused("its name is not UTF-8") from None


def _write(stream: Stream, tree: ExtractedTree, member: _Member, parts: tuple[str, ...]) -> None:
    if member.is_file:
        tree.file(parts, stream.pieces(member.size), executable=member.executable)
    elif member.is_folder:
        tree.folder(parts)
    else:
        raise ArchiveRefused(
            f"it is {_what(member)}, and only files and folders are unpacked; choose others with members="
        )


def _what(member: _Member) -> str:
    return "a folder" if member.is_folder else _OTHERS.get(member.kind, f"of the unknown type {member.kind!r}")


# --- headers ----------------------------------------------------------------------------------------------------------


def _next_member(stream: Stream) -> _Member | None:
    """The next header with what the extended headers before it say; None at the first block of zeros."""
    extended: dict[bytes, bytes] = {}
    while (block := stream.take(TAR_BLOCK)) != _ZEROS:
        header = _header(block)
        if header.kind not in _EXTENSIONS:
            return _extended(header, extended)
        records = _records(header.kind, _extension(stream, header))
        twice = extended.keys() & records.keys()
        if twice:
            raise ArchiveRefused(f"two extended headers give one member its {min(twice).decode()}")
        extended |= records
    refuse_if(extended, "an extended header belongs to no member")
    return None


def _header(block: bytes) -> _Member:
    _check_sum(block)
    executable = bool(_number(block[100:108]) & 0o100)
    return _Member(_header_name(block), block[156:157], _number(block[124:136]), executable)


def _check_sum(block: bytes) -> None:
    checksum = block[148:156]  # counted as spaces; zeros add nothing but take 3 us
    total = sum(block.translate(None, b"\0")) - sum(checksum) + 8 * ord(" ")
    stated = _OCTAL.fullmatch(checksum)
    if stated is None or int(b"0" + stated[1], 8) != total:
        raise ArchiveRefused("a header's checksum is wrong: it is damaged, or neither a tar nor a zip")


def _header_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:  # GNU's magic has a space there, and times in place of the prefix
        prefix = block[345:500].partition(b"\0")[0]
        return prefix + b"/" + name
    return name


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's base 256, for files of 8 GiB and more; 0xff starts a negative one: CVE-2025-8194
        return int.from_bytes(field[1:], "big")
    octal = _OCTAL.fullmatch(field)
    if octal is None:
        raise ArchiveRefused(f"a header holds {field!r} where a number belongs")
    return int(b"0" + octal[1], 8)


def _extended(header: _Member, extended: dict[bytes, bytes]) -> _Member:
    if not extended:
        return header
    size = extended.get(b"size", b"%d" % header.size)
    refuse_if(not _PAX_SIZE.fullmatch(size), f"an extended header gives the size {size[:40]!r}")
    return header._replace(name=extended.get(b"path", header.name), size=int(size))


def _extension(stream: Stream, header: _Member) -> bytes:
    if header.size > LONGEST_EXTENSION:
        raise ArchiveRefused(f"an extended header of {header.size:,} bytes, over the limit of {LONGEST_EXTENSION:,}")
    data = stream.take(header.size)
    stream.skip(-header.size % TAR_BLOCK)
    return data


def _records(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """What an extended header says of the next member: `path`, `size`, and its own kind, which may come once."""
    own_kind = {_EXTENSIONS[kind].encode() + b" header": b""}
    if kind == b"L":
        return own_kind | {b"path": data.rstrip(b"\0")}
    if kind == b"K":  # where a link leads; links are not unpacked
        return own_kind
    records = _pax(data)
    if kind == b"x":
        return own_kind | records
    if records:
        raise ArchiveRefused(f"a global header gives all members one {min(records).decode()}")
    return {}


def _pax(data: bytes) -> dict[bytes, bytes]:
    """`path` and `size` of the records `<length> <key>=<value>\\n`, the length that of the whole record."""
    records: dict[bytes, bytes] = {}
    offset = 0
    while offset < len(data):
        key, value, offset = _pax_record(data, offset)
        if key in records:
            raise ArchiveRefused(f"an extended header gives {key[:40]!r} twice")
        records[key] = value
    return {key: records[key] for key in records.keys() & _PAX_USED}


def _pax_record(data: bytes, offset: int) -> tuple[bytes, bytes, int]:
    """The record at `offset`: its key and value, and the offset of the next one."""
    start = _PAX_RECORD.match(data, offset)
    if start is None:
        raise ArchiveRefused("an extended header is damaged")
    end = offset + int(start[1])
    whole = start.end() < end <= len(data)
    refuse_if(not whole or data[end - 1 : end] != b"\n", "an extended header is damaged")
    if start[2].startswith(b"GNU.sparse."):
        raise ArchiveRefused(f"it holds a sparse file ({start[2].decode('utf-8', 'replace')})")
    return start[2], data[start.end() : end - 1], end
