"""Tar, read front to back and strictly: v7, ustar, GNU long names, pax names and sizes.

Not `tarfile`, which takes an archive that is cut within a header for a whole one, reads an extended header of any size
into memory, and resolves links through the file system. Invariants: every header's checksum holds; every member has
one name and one size, whichever reader looks; the two zero blocks at the end are there, and nothing but zeros follows.
Links, devices, fifos, sparse files and multi-volume parts are refused, unless `members=` leaves them out.

The format: POSIX.1-2024, pax, "ustar Interchange Format"; GNU tar's manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from typing import NamedTuple

from .decoders import Stream
from .tree import ArchiveRefused, ExtractedTree, segments

__all__ = ["unpack_tar"]

TAR_BLOCK = 512
LONGEST_EXTENSION = 1 << 20  # bytes of an extended header; real ones hold names, and attributes of 64 KiB at most
_ZEROS = bytes(TAR_BLOCK)

_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")
_PAX_RECORD = re.compile(rb"([0-9]{1,7}) ([^=\n\0]+)=")
_PAX_SIZE = re.compile(rb"[0-9]{1,19}")

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


def unpack_tar(stream: Stream, tree: ExtractedTree) -> None:
    """Every member of the tar in `stream` that `tree` wants. Raises ArchiveRefused and OSError."""
    while member := _next_member(stream):
        try:
            _unpack(stream, tree, member)
        except ArchiveRefused as e:
            raise ArchiveRefused(e.reason, e.member or member.name.decode("utf-8", "backslashreplace")) from e.__cause__
    if stream.take(TAR_BLOCK) != _ZEROS:
        raise ArchiveRefused("the tar has one block of zeros where its end has two")
    # To the very end, also because a checksum of the compressed stream stands there.
    while rest := stream.some(TAR_BLOCK * TAR_BLOCK):
        if bytes(rest).lstrip(b"\0"):
            raise ArchiveRefused("data follows the end of the tar")


def _unpack(stream: Stream, tree: ExtractedTree, member: _Member) -> None:
    try:
        name = member.name.decode()
    except UnicodeDecodeError:
        raise ArchiveRefused("its name is not UTF-8") from None
    parts = segments(name)
    # Before pax and ustar a folder was a file with a slash at the end of its name.
    folder = member.kind == _FOLDER or (member.kind in _FILES and name.endswith("/"))
    if member.size and (folder or member.kind not in _FILES):
        raise ArchiveRefused("it is no regular file and yet has data")
    if not tree.wants(parts):
        stream.skip(member.size)
    elif folder:
        tree.folder(parts)
    elif member.kind in _FILES:
        tree.file(parts, stream.pieces(member.size), executable=member.executable)
    else:
        what = _OTHERS.get(member.kind, f"of the unknown type {member.kind!r}")
        raise ArchiveRefused(f"it is {what}, and only files and folders are unpacked; choose others with members=")
    stream.skip(-member.size % TAR_BLOCK)


def _next_member(stream: Stream) -> _Member | None:
    """The next header with what the extended headers before it say; None at the first block of zeros."""
    extended: dict[bytes, bytes] = {}
    while (block := stream.take(TAR_BLOCK)) != _ZEROS:
        header = _header(block)
        if header.kind not in _EXTENSIONS:
            return _extended(header, extended) if extended else header
        data = _extension(stream, header)
        records = _records(header.kind, data)
        if twice := extended.keys() & records.keys():
            raise ArchiveRefused(f"two extended headers give one member its {min(twice).decode()}")
        extended |= records
    if extended:
        raise ArchiveRefused("an extended header belongs to no member")
    return None


def _header(block: bytes) -> _Member:
    checksum = block[148:156]  # counted as spaces; zeros add nothing but take 3 us
    total = sum(block.translate(None, b"\0")) - sum(checksum) + 8 * ord(" ")
    if not (octal := _OCTAL.fullmatch(checksum)) or int(octal[1] or b"0", 8) != total:
        raise ArchiveRefused("a header's checksum is wrong: it is damaged, or neither a tar nor a zip")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:  # GNU's magic has a space there, and times in place of the prefix
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return _Member(name, block[156:157], _number(block[124:136]), bool(_number(block[100:108]) & 0o100))


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU's base 256, for files of 8 GiB and more; 0xff starts a negative one: CVE-2025-8194
        return int.from_bytes(field[1:], "big")
    if not (octal := _OCTAL.fullmatch(field)):
        raise ArchiveRefused(f"a header holds {field!r} where a number belongs")
    return int(octal[1] or b"0", 8)


def _extended(header: _Member, extended: dict[bytes, bytes]) -> _Member:
    size = extended.get(b"size", b"%d" % header.size)
    if not _PAX_SIZE.fullmatch(size):
        raise ArchiveRefused(f"an extended header gives the size {size[:40]!r}")
    return header._replace(name=extended.get(b"path", header.name), size=int(size))


def _extension(stream: Stream, header: _Member) -> bytes:
    if header.size > LONGEST_EXTENSION:
        raise ArchiveRefused(f"an extended header of {header.size:,} bytes, over the limit of {LONGEST_EXTENSION:,}")
    data = stream.take(header.size)
    stream.skip(-header.size % TAR_BLOCK)
    return data


def _records(kind: bytes, data: bytes) -> dict[bytes, bytes]:
    """What an extended header says of the next member: `path`, `size`, and its own kind, which may come once."""
    said = {_EXTENSIONS[kind].encode() + b" header": b""}
    if kind == b"L":
        return said | {b"path": data.rstrip(b"\0")}
    if kind == b"K":  # where a link leads; links are not unpacked
        return said
    pax = _pax(data)
    if sparse := [key for key in pax if key.startswith(b"GNU.sparse.")]:
        raise ArchiveRefused(f"it holds a sparse file ({sparse[0].decode('utf-8', 'replace')})")
    ours = {key: value for key, value in pax.items() if key in (b"path", b"size")}
    if kind == b"x":
        return said | ours
    if ours:
        raise ArchiveRefused(f"a global header gives all members one {min(ours).decode()}")
    return {}


def _pax(data: bytes) -> dict[bytes, bytes]:
    """The records `<length> <key>=<value>\\n`, the length that of the whole record."""
    records: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        start = _PAX_RECORD.match(data, at)
        end = at + int(start[1]) if start else 0
        if not start or not start.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise ArchiveRefused("an extended header is damaged")
        if start[2] in records:
            raise ArchiveRefused(f"an extended header gives {start[2][:40]!r} twice")
        records[start[2]] = data[start.end() : end - 1]
        at = end
    return records
