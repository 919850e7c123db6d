"""Archives byte by byte, for what no archiver would write: hostile ones as data, and the pieces they are made of.

`REFUSED` maps the name of a shape to its bytes and a fragment of the reason it must be refused for; `HARMLESS` maps
shapes that look suspicious and are not to what they must give. Names of attacks are those of the public reports.
"""

from __future__ import annotations

import bz2
import gzip
import importlib
import lzma
import struct
import sys
import unicodedata
import zlib
from dataclasses import dataclass, field
from typing import Any

TAR_BLOCK = 512
END = bytes(2 * TAR_BLOCK)
OUTSIDE = "/nanocache-was-here"  # what an absolute name would make

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

Bytes = bytes | str


def raw(text: Bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


# --- tar --------------------------------------------------------------------------------------------------------------


def header(
    name: Bytes = "file",
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    mode: bytes = b"0000644\0",
    link: Bytes = "",
    magic: bytes = b"ustar\x0000",
    prefix: Bytes = "",
    checksum: bytes | None = None,
) -> bytes:
    width = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(TAR_BLOCK)
    for at, value in ((0, raw(name)), (100, mode), (124, width), (148, b" " * 8), (156, kind), (157, raw(link))):
        block[at : at + len(value)] = value
    for at, value in ((257, magic), (345, raw(prefix))):
        block[at : at + len(value)] = value
    block[148:156] = checksum or b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: Bytes = "file", data: Bytes = b"", **fields: Any) -> bytes:
    body = raw(data)
    return header(name, **{"size": len(body), **fields}) + body + bytes(-len(body) % TAR_BLOCK)


def folder(name: Bytes) -> bytes:
    return member(name, kind=b"5", mode=b"0000755\0")


def symlink(name: Bytes, target: Bytes) -> bytes:
    return member(name, kind=b"2", link=target)


def hardlink(name: Bytes, target: Bytes, data: bytes = b"") -> bytes:
    return member(name, data, kind=b"1", link=target)


def record(key: str, value: Bytes) -> bytes:
    """One pax record; its length counts its own digits."""
    body = b" %s=%s\n" % (key.encode(), raw(value))
    length = len(body) + 1
    while len(b"%d" % length) + len(body) != length:
        length += 1
    return b"%d" % length + body


def pax(*records: tuple[str, Bytes], kind: bytes = b"x") -> bytes:
    return member("PaxHeader", b"".join(record(key, value) for key, value in records), kind=kind)


def gnu_long(name: Bytes, kind: bytes = b"L") -> bytes:
    return member("././@LongLink", raw(name) + b"\0", kind=kind, magic=b"ustar  \0")


def tar(*members: bytes, end: bytes = END) -> bytes:
    return b"".join(members) + end


# --- zip --------------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A member as the directory and the local header tell it; `local` and `central` are where they lie apart."""

    name: Bytes = "file"
    data: bytes = b""
    method: int = 8
    flags: int = 0
    mode: int = 0o100644
    packed: bytes | None = None
    descriptor: bytes = b""
    extra: bytes = b""
    before: bytes = b""  # bytes in front of the local header
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)

    def fields(self, **changes: Any) -> dict[str, Any]:
        packed = self.body()
        facts = {
            "name": raw(self.name),
            "method": self.method,
            "flags": self.flags,
            "crc": zlib.crc32(self.data),
            "packed": len(packed),
            "size": len(self.data),
            "extra": self.extra,
        }
        return facts | changes

    def body(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.data) if self.method == 8 else self.data

    def local_bytes(self) -> bytes:
        f = self.fields(**self.local)
        sums = (f["crc"], f["packed"], f["size"])
        lengths = (len(f["name"]), len(f["extra"]))
        fixed = struct.pack("<4s5H3I2H", b"PK\3\4", 20, f["flags"], f["method"], 0, 0x21, *sums, *lengths)
        return fixed + f["name"] + f["extra"] + self.body() + self.descriptor

    def central_bytes(self, offset: int) -> bytes:
        f = self.fields(**{"offset": offset, "disk": 0, "mode": self.mode, **self.central})
        sums = (f["crc"], f["packed"], f["size"])
        lengths = (len(f["name"]), len(f["extra"]), 0)
        start = struct.pack("<4s6H", b"PK\1\2", 3 << 8 | 20, 20, f["flags"], f["method"], 0, 0x21)
        rest = struct.pack("<3I5H2I", *sums, *lengths, f["disk"], 0, f["mode"] << 16, f["offset"])
        return start + rest + f["name"] + f["extra"]


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zipped(
    *entries: Entry,
    comment: bytes = b"",
    gap: bytes = b"",
    zip64: dict[str, int] | None = None,
    after: bytes = b"",
    **end: int,
) -> bytes:
    """`gap` stands before the directory; `zip64` adds the wide end records with these changes; `end` the narrow one."""
    out, directory = b"", b""
    for entry in entries:
        out += entry.before
        directory += entry.central_bytes(len(out))
        out += entry.local_bytes()
    out += gap
    facts = {"here": len(entries), "count": len(entries), "length": len(directory), "offset": len(out), "disk": 0}
    out += directory
    if zip64 is not None:
        out += _zip64_end(len(out), facts | zip64)
        facts |= {"here": 0xFFFF, "count": 0xFFFF, "length": 0xFFFFFFFF, "offset": 0xFFFFFFFF}
    facts |= {"comment": len(comment)} | end
    numbers = (facts["here"], facts["count"], facts["length"], facts["offset"], facts["comment"])
    return out + struct.pack("<4s4H2IH", b"PK\5\6", facts["disk"], 0, *numbers) + comment + after


def _zip64_end(at: int, facts: dict[str, int]) -> bytes:
    numbers = (facts["here"], facts["count"], facts["length"], facts["offset"])
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", facts.get("record", 44), 45, 45, facts["disk"], 0, *numbers)
    return wide + struct.pack("<4sIQI", b"PK\6\7", 0, facts.get("points", at), 1)


def quoted_overlap(count: int) -> bytes:
    """Fifield's bomb: each file's data begins with a stored block that quotes the next local header, then shares it."""
    kernel = deflated(bytes(1 << 20))
    size, crc = 1 << 20, zlib.crc32(bytes(1 << 20))
    inner = Entry(f"f{count:03}", bytes(size), packed=kernel)
    out = inner.local_bytes()
    entries = [(inner, 0)]
    for index in range(count - 1, -1, -1):
        quote = inner.local_bytes()[: 30 + 4]
        crc = zlib.crc32(quote + bytes(size))
        packed = struct.pack("<B2H", 0, len(quote), len(quote) ^ 0xFFFF) + out
        size += len(quote)
        inner = Entry(
            f"f{index:03}", packed=packed, central={"size": size, "crc": crc}, local={"size": size, "crc": crc}
        )
        grown = inner.local_bytes()
        entries = [(inner, 0)] + [(entry, offset + len(grown) - len(out)) for entry, offset in entries]
        out = grown
    directory = b"".join(entry.central_bytes(offset) for entry, offset in entries)
    return (
        out
        + directory
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, len(entries), len(entries), len(directory), len(out), 0)
    )


# --- compressed -------------------------------------------------------------------------------------------------------


def xz_with_dictionary(code: int) -> bytes:
    """An xz stream whose block header asks for the dictionary of this size code: 40 is 4 GiB."""
    data = bytearray(lzma.compress(b"x" * 100, check=lzma.CHECK_CRC32))
    length = (data[12] + 1) * 4
    data[12 + 4] = code
    data[12 + length - 4 : 12 + length] = struct.pack("<I", zlib.crc32(data[12 : 12 + length - 4]))
    return bytes(data)


def zst_with_window(log: int) -> bytes:
    """A zstd frame of one raw block whose header asks for a window of 2 ** log bytes."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + struct.pack("<I", 3 << 3 | 1)[:3] + b"abc"


PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}
TAR = tar(folder("d"), member("d/hello", "hello\n"), member("run", "#!/bin/sh\n", mode=b"0000755\0"))
TREE = {"d/": None, "d/hello": b"hello\n", "run": b"#!/bin/sh\n"}
ZIP = zipped(
    Entry("d/", mode=0o40755, method=0), Entry("d/hello", b"hello\n"), Entry("run", b"#!/bin/sh\n", mode=0o100755)
)
GZ = gzip.compress(TAR)
LONG = "n" * 255

# One name per rule, judged in tars and in zips alike.
NAMES: dict[str, tuple[str, str]] = {
    "parent: CVE-2007-4559": ("../evil", "may lead out"),
    "parent inside": ("a/../../evil", "may lead out"),
    "parent that stays inside": ("a/../b", "may lead out"),
    "parent at the end": ("a/..", "may lead out"),
    "parent of a folder": ("a/../", "may lead out"),
    "three dots, which old Windows climbs by": ("a/.../evil", "may lead out"),
    "parent with a blank, which Windows trims": (".. /evil", "may lead out"),
    "dot with a blank": (". ./evil", "may lead out"),
    "a blank only": ("a/ /evil", "may lead out"),
    "absolute: CVE-2025-12060": (OUTSIDE, "absolute"),
    "absolute, the root": ("/", "absolute"),
    "UNC with slashes: CVE-2026-15717": ("//server/share/evil", "absolute"),
    "UNC with backslashes": ("\\\\server\\share\\evil", "holds '\\\\'"),
    "device path": ("\\\\?\\C:\\evil", "holds '\\\\'"),
    "parent with a backslash": ("..\\evil", "holds '\\\\'"),
    "drive": ("C:/evil", "'C:'"),
    "drive-relative": ("c:evil", "'c:'"),
    "drive inside, which ntpath.join restarts at": ("a/D:evil", "'D:'"),
    "newline": ("a\nb", "holds '\\n'"),
    "escape sequence": ("\x1b[2Jevil", "holds '\\x1b'"),
    "C1 control": ("a\x9bb", "holds '\\x9b'"),
    "delete": ("a\x7f", "holds '\\x7f'"),
    "right-to-left override": ("a\u202egpj.exe", "holds '\\u202e'"),
    "line separator": ("a\u2028b", "holds '\\u2028'"),
    "segment of 256 bytes": ("n" * 256, "longer than"),
    "segment of 128 letters in 256 bytes": ("é" * 128, "longer than"),
    "name of 1,025 bytes": (f"{LONG}/{LONG}/{LONG}/{LONG}/a", "longer than"),
    "65 folders deep": ("d/" * 64 + "f", "64 folders deep"),
}

# Two members that are one to some file system.
TWINS: dict[str, tuple[str, str]] = {
    "twice the same": ("a", "a"),
    "twice the same, spelled apart": ("a/b", "./a//b"),
    "case": ("Readme", "README"),
    "case of a folder": ("A/x", "a/y"),
    "case beyond ASCII": ("straße", "STRASSE"),
    "composition": ("é", unicodedata.normalize("NFD", "é")),
    "composition of a folder": ("é/x", unicodedata.normalize("NFD", "é") + "/y"),
    "trailing dot": ("a", "a."),
    "trailing blank of a folder": ("a/x", "a /y"),
    "a file where a folder is": ("a/b", "a"),
    "a folder where a file is": ("a", "a/b"),
    "an empty folder where a file is": ("a", "a/"),
}


def _named_tar(name: str) -> bytes:
    return tar(pax(("path", name)), header("short"))


def _kind(name: str) -> bytes:
    return folder(name) if name.endswith("/") else member(name, b"x")


def _entry(name: str) -> Entry:
    return Entry(name, b"" if name.endswith("/") else b"x", flags=0x800)


def _tars() -> dict[str, tuple[bytes, str]]:
    escape = symlink("link", "..") + member("link/evil", b"x")
    deep = "d" * 247  # CVE-2025-4517: each step of the chain is short, and together they overrun PATH_MAX in realpath
    chain = b"".join(folder("/".join([deep] * n)) + symlink("/".join([deep] * n) + "l", deep) for n in (1, 2, 3))
    return {
        "name: NUL in a pax path": (_named_tar("a\0b"), "holds '\\x00'"),
        "name: NUL in a GNU long name": (tar(gnu_long(b"a\0../evil"), header("short")), "holds '\\x00'"),
        "name: not UTF-8": (tar(member(b"caf\xe9", b"x")), "not UTF-8"),
        "name: not UTF-8, in pax": (tar(pax(("path", b"caf\xe9")), header("short")), "not UTF-8"),
        "name: none": (tar(member("", b"x")), "empty"),
        "name: none in pax, python/cpython 149486": (tar(pax(("path", "")), header("short")), "empty"),
        "name: none in a GNU long name": (tar(gnu_long(""), header("short")), "empty"),
        "name: the root as a file": (tar(member("./.", b"x")), "without a name"),
        "name: parent in the ustar prefix": (tar(member("evil", b"x", prefix="..")), "may lead out"),
        "name: absolute by the ustar prefix": (tar(member("evil", b"x", prefix="/etc")), "absolute"),
        "link: out, and a file through it": (tar(escape), "a symbolic link"),
        "link: inside": (tar(member("a", b"x"), symlink("b", "a")), "a symbolic link"),
        "link: to an absolute path": (tar(symlink("link", "/etc")), "a symbolic link"),
        "link: CVE-2025-4517, a chain past PATH_MAX": (
            tar(chain, symlink("out", f"{deep}l/../../..")),
            "a symbolic link",
        ),
        "link: CVE-2025-4330, in disguise of a file": (
            tar(symlink("a/", "../.."), member("a/evil")),
            "a symbolic link",
        ),
        "link: CVE-2025-4138, dangling": (tar(symlink("x", "x/../../out"), symlink("y", "x")), "a symbolic link"),
        "link: long target by GNU": (tar(gnu_long("/etc/passwd", b"K"), symlink("a", "x")), "a symbolic link"),
        "link: long target by pax": (tar(pax(("linkpath", "/etc")), symlink("a", "x")), "a symbolic link"),
        "link: hard, out": (tar(hardlink("a", "../secret")), "a hard link"),
        "link: hard, absolute": (tar(hardlink("a", "/etc/passwd")), "a hard link"),
        "link: hard, to a member": (tar(member("a", b"x"), hardlink("b", "a")), "a hard link"),
        "link: hard, to a symlink, python/cpython 157190": (
            tar(symlink("s", ".."), hardlink("h", "s")),
            "a symbolic link",
        ),
        "link: hard, missing target, python/cpython 151558": (tar(hardlink("h", "gone")), "a hard link"),
        "link: hard, with data": (tar(hardlink("a", "b", b"data")), "yet has data"),
        "kind: character device": (tar(member("tty", kind=b"3")), "character device"),
        "kind: block device": (tar(member("sda", kind=b"4")), "block device"),
        "kind: fifo": (tar(member("pipe", kind=b"6")), "a fifo"),
        "kind: fifo with data": (tar(member("pipe", b"x", kind=b"6")), "yet has data"),
        "kind: GNU sparse": (tar(member("a", b"x", kind=b"S")), "yet has data"),
        "kind: GNU sparse without data": (tar(member("a", kind=b"S")), "a sparse file"),
        "kind: pax sparse 0.1": (tar(pax(("GNU.sparse.map", "0,1")), member("a", b"x")), "GNU.sparse.map"),
        "kind: pax sparse 1.0": (tar(pax(("GNU.sparse.major", "1")), member("a", b"x")), "GNU.sparse.major"),
        "kind: rest of another volume": (tar(member("a", kind=b"M")), "another volume"),
        "kind: GNU dump of a folder": (tar(member("a", b"Yx\0", kind=b"D")), "yet has data"),
        "kind: volume label": (tar(member("a", kind=b"V")), "unknown type b'V'"),
        "kind: unknown": (tar(member("a", kind=b"\xff")), "unknown type"),
        "kind: folder with data": (tar(member("a", b"x", kind=b"5")), "yet has data"),
        "kind: file with a slash and data": (tar(member("a/", b"x")), "yet has data"),
        "size: CVE-2025-8194, negative": (tar(header("a", size=b"\xff" * 12)), "where a number belongs"),
        "size: negative in octal": (tar(header("a", size=b"-0000000001\0")), "where a number belongs"),
        "size: with digits that are none": (tar(header("a", size=b"0000000008_\0")), "where a number belongs"),
        "size: with an underscore": (tar(header("a", size=b"0000001_000\0")), "where a number belongs"),
        "size: with a radix": (tar(header("a", size=b"0o000001000\0")), "where a number belongs"),
        "size: 2 ** 80": (tar(header("a", size=b"\x80\x01" + bytes(10))), "truncated"),
        "size: 1 EiB in a header": (tar(header("a", size=b"\x80" + (1 << 60).to_bytes(11, "big"))), "truncated"),
        "size: 9 EB in pax": (tar(pax(("size", "9" * 19)), header("a")), "truncated"),
        "size: negative in pax": (tar(pax(("size", "-512")), header("a")), "gives the size"),
        "size: 1e3 in pax": (tar(pax(("size", "1e3")), header("a")), "gives the size"),
        "size: empty in pax": (tar(pax(("size", "")), header("a")), "gives the size"),
        "size: of 5,000 digits in pax": (tar(pax(("size", "1" * 5000)), header("a")), "gives the size"),
        "mode: not a number": (tar(member("a", mode=b"rwxr-xr-")), "where a number belongs"),
        "pax: two headers in a row": (tar(pax(("path", "a")), pax(("size", "0")), header("x")), "two extended headers"),
        "pax: GHSA-w476-p2h3-79g9, two names": (
            tar(gnu_long("a"), pax(("path", "b")), header("x")),
            "two extended headers",
        ),
        "pax: two GNU long names": (tar(gnu_long("a"), gnu_long("b"), header("x")), "two extended headers"),
        "pax: a record twice": (tar(pax(("path", "a"), ("path", "../b")), header("x")), "twice"),
        "pax: a name for all": (tar(pax(("path", "a"), kind=b"g"), header("x")), "global header"),
        "pax: a size for all": (tar(pax(("size", "1"), kind=b"g"), header("x")), "global header"),
        "pax: for nobody": (tar(pax(("path", "a"))), "belongs to no member"),
        "pax: a length of zero": (tar(member("p", b"0 path=a\n", kind=b"x"), header("x")), "is damaged"),
        "pax: a length past its end": (tar(member("p", b"99 path=a\n", kind=b"x"), header("x")), "is damaged"),
        "pax: a length into the key": (tar(member("p", b"5 path=a\n", kind=b"x"), header("x")), "is damaged"),
        "pax: a length that is no number": (tar(member("p", b"-9 path=a\n", kind=b"x"), header("x")), "is damaged"),
        "pax: no newline": (tar(member("p", b"9 path=ab", kind=b"x"), header("x")), "is damaged"),
        "pax: zeros behind it": (tar(member("p", record("path", "a") + b"\0", kind=b"x"), header("x")), "is damaged"),
        "pax: 8 GiB": (tar(header("p", kind=b"x", size=(1 << 33) - 1)), "over the limit"),
        "pax: 2 MiB of records": (tar(pax(("comment", "c" * (1 << 21))), header("x")), "over the limit"),
        "pax: a GNU name of 8 GiB": (tar(header("p", kind=b"L", size=(1 << 33) - 1)), "over the limit"),
        "end: none": (tar(member("a", b"x"), end=b""), "truncated"),
        "end: one block": (tar(member("a", b"x"), end=bytes(TAR_BLOCK)), "truncated"),
        "end: one block, and another member": (tar(bytes(TAR_BLOCK), member("a", b"x")), "one block of zeros"),
        "end: data behind it": (tar(member("a", b"x")) + b"hidden", "follows the end"),
        "end: another tar behind it": (tar(member("a", b"x")) + tar(member("b", b"x")), "follows the end"),
        "head: wrong checksum": (tar(header("a", checksum=b"0000001\0")), "checksum is wrong"),
        "head: checksum that is no number": (tar(header("a", checksum=b"\xff" * 8)), "checksum is wrong"),
        "head: no archive": (b"<html>not found</html>".ljust(4096), "checksum is wrong"),
        "head: nothing": (b"", "neither a tar nor a zip"),
        "head: a script before the tar": (b"#!/bin/sh\nexit\n" + TAR, "checksum is wrong"),
    }


def _compressed() -> dict[str, tuple[bytes, str]]:
    damaged = bytearray(GZ)
    damaged[len(GZ) // 2] ^= 0xFF
    wrong_crc, wrong_size = bytearray(GZ), bytearray(GZ)
    wrong_crc[-5] ^= 1
    wrong_size[-1] ^= 1
    shapes: dict[str, tuple[bytes, str]] = {
        "gz: damaged": (bytes(damaged), "cannot be decoded"),
        "gz: wrong CRC": (bytes(wrong_crc), "incorrect data check"),
        "gz: wrong length": (bytes(wrong_size), "incorrect length check"),
        "gz: in gz": (gzip.compress(GZ), "truncated"),
        "gz: of no tar": (gzip.compress(b"text " * 400), "checksum is wrong"),
        "gz: header only": (GZ[:10], "truncated"),
        "xz: a dictionary of 4 GiB": (xz_with_dictionary(40), "emory"),
        "xz: a dictionary of 192 MiB": (xz_with_dictionary(31), "emory"),
        "zst: a window of 2 GiB": (zst_with_window(31), "memory"),
        "zst: a window of 256 MiB": (zst_with_window(28), "memory"),
        "zst: only skippable frames": (b"\x50\x2a\x4d\x18" + struct.pack("<I", 4) + b"skip", "truncated"),
        "zst: a skippable frame of 4 GiB": (b"\x50\x2a\x4d\x18" + b"\xff" * 4 + b"skip", "truncated"),
        "xz: lzma-alone": (lzma.compress(TAR, lzma.FORMAT_ALONE), "neither"),
    }
    for name, pack in PACK.items():
        shapes[f"{name}: garbage behind it"] = (pack(TAR) + b"garbage" * 9, f"no {name} data follow the end")
        shapes[f"{name}: cut in the middle"] = (pack(TAR)[:-20], "truncated")
        shapes[f"{name}: another stream cut"] = (pack(TAR) + pack(bytes(TAR_BLOCK))[:-9], "truncated")
        shapes[f"{name}: a tar cut before it was packed"] = (pack(TAR[:-600]), "truncated")
    return shapes


def _zips() -> dict[str, tuple[bytes, str]]:
    file, other = Entry("a", b"hello"), Entry("b", b"world")
    streamed = struct.pack("<4s3I", b"PK\7\x08", zlib.crc32(b"hello"), len(deflated(b"hello")), 6)
    one = file.local_bytes()
    wide = struct.pack("<2HQ", 1, 8, 5)
    twice = {"size": 0xFFFFFFFF, "extra": wide + wide}
    hidden = zipped(Entry("../evil", b"x"))
    return {
        "name: NUL": (zipped(Entry("a\0.txt", b"x")), "holds '\\x00'"),
        "name: none": (zipped(Entry("", b"x")), "empty"),
        "name: not UTF-8 and yet flagged": (zipped(Entry(b"caf\xe9", b"x", flags=0x800)), "not UTF-8"),
        "name: parent in cp437": (zipped(Entry(b"\x82/../../x", b"x")), "may lead out"),
        "link: symbolic": (zipped(Entry("a", b"/etc/passwd", mode=0o120777)), "a symbolic link"),
        "kind: fifo": (zipped(Entry("a", mode=0o010644)), "no regular file"),
        "kind: device": (zipped(Entry("a", mode=0o020666)), "no regular file"),
        "kind: socket": (zipped(Entry("a", mode=0o140666)), "no regular file"),
        "kind: folder with data": (zipped(Entry("a/", b"x")), "yet has data"),
        "secret: encrypted": (zipped(Entry("a", b"x", flags=1)), "encrypted"),
        "secret: strongly encrypted": (zipped(Entry("a", b"x", flags=0x41)), "encrypted"),
        "secret: masked headers": (zipped(Entry("a", b"x", flags=0x2000)), "not supported"),
        "method: deflate64": (zipped(Entry("a", b"x", method=9)), "method 9 is not supported"),
        "method: implode": (zipped(Entry("a", b"x", method=6)), "method 6 is not supported"),
        "method: AES": (zipped(Entry("a", b"x", method=99)), "method 99 is not supported"),
        "method: PKWARE patch data": (zipped(Entry("a", b"x", flags=0x20)), "not supported"),
        "differs: CVE-2025-54368, name": (zipped(Entry("a", b"x", local={"name": b"b"})), "local header differs"),
        "differs: name's length": (zipped(Entry("a", b"x", local={"name": b"aa"})), "local header differs"),
        "differs: method": (zipped(Entry("a", b"x", local={"method": 0})), "local header differs"),
        "differs: flags": (zipped(Entry("a", b"x", local={"flags": 0x800})), "local header differs"),
        "differs: CRC": (zipped(Entry("a", b"x", local={"crc": 1})), "in its local header differ"),
        "differs: size": (zipped(Entry("a", b"x", local={"size": 2})), "in its local header differ"),
        "differs: packed size": (zipped(Entry("a", b"x", local={"packed": 2})), "in its local header differ"),
        "differs: packed size in the directory": (zipped(Entry("a", b"x", central={"packed": 9})), "differ"),
        "differs: offset": (zipped(file, Entry("b", b"x", central={"offset": 9})), "overlaps"),
        "differs: no local header": (
            zipped(file, Entry("b", b"x", before=b"x" * 30, central={"offset": len(one)})),
            "no local header",
        ),
        "differs: descriptor": (
            zipped(Entry("a", b"hello", flags=8, local={"crc": 0, "packed": 0, "size": 0}, descriptor=streamed)),
            "data descriptor differs",
        ),
        "differs: descriptor without the flag": (
            zipped(Entry("a", b"x", descriptor=b"PK\7\x08" + bytes(12))),
            "descriptor",
        ),
        "differs: no descriptor in spite of the flag": (zipped(Entry("a", b"x", flags=8)), "descriptor"),
        "forged: CVE-2019-9674, more comes out": (
            zipped(Entry("a", bytes(5000), local={"size": 5}, central={"size": 5})),
            "more comes out",
        ),
        "forged: python/cpython 151307, 4 GiB declared": (
            zipped(Entry("a", b"x", local={"size": 0xFFFFFFFE}, central={"size": 0xFFFFFFFE})),
            "1 of 4,294,967,294 bytes",
        ),
        "forged: CRC": (zipped(Entry("a", b"x", local={"crc": 1}, central={"crc": 1})), "checksum is wrong"),
        "forged: stored in two sizes": (
            zipped(Entry("a", b"hello", method=0, local={"size": 3}, central={"size": 3})),
            "two sizes differ",
        ),
        "forged: deflate with bytes behind": (
            zipped(Entry("a", b"x", packed=deflated(b"x") + b"more")),
            "follow the end",
        ),
        "forged: deflate with zeros behind": (
            zipped(Entry("a", b"x", packed=deflated(b"x") + b"\0")),
            "follow the end",
        ),
        "forged: two deflate streams": (
            zipped(Entry("a", b"xy", packed=deflated(b"x") + deflated(b"y"))),
            "follow the end",
        ),
        "forged: deflate cut": (zipped(Entry("a", b"x" * 99, packed=deflated(b"x" * 99)[:-1])), "truncated"),
        "forged: deflate damaged": (zipped(Entry("a", b"x", packed=b"\xff" * 9)), "cannot be decoded"),
        "overlap: CVE-2024-0450, two of one": (zipped(file, Entry("a2", b"hello", central={"offset": 0})), "overlaps"),
        "overlap: Fifield's quoted": (quoted_overlap(9), "overlaps"),
        "overlap: into the directory": (
            zipped(Entry("a", b"x", local={"packed": 60}, central={"packed": 60})),
            "overlaps",
        ),
        "gap: before the first": (zipped(Entry("a", b"x", before=b"PK\3\4gap")), "belongs to no member"),
        "gap: between two": (zipped(file, Entry("b", b"x", before=bytes(30))), "belongs to no member"),
        "gap: of a member that is not listed": (
            zipped(file, Entry("b", b"x", before=other.local_bytes())),
            "no member",
        ),
        "gap: behind the last": (zipped(file, gap=bytes(40)), "belongs to no member"),
        "gap: of an empty zip": (zipped(gap=one), "belongs to no member"),
        "order: the directory's is another": (
            zipped(Entry("a", b"x", central={"offset": 32}), Entry("b", b"x", central={"offset": 0})),
            "overlaps",
        ),
        "around: a script before it": (b"#!/bin/sh\n" + ZIP, "neither"),
        "around: another zip before it": (hidden + ZIP, "before the zip"),
        "around: data before it": (one + ZIP, "before the zip"),
        "around: data behind it": (ZIP + b"data", "follows the end"),
        "around: a tar behind it": (ZIP + TAR, "follows the end"),
        "around: another zip behind it": (ZIP + hidden, "before the zip"),
        "around: another zip in its comment": (zipped(file, comment=hidden), "before the zip"),
        "around: an end record in its comment": (zipped(file, comment=b"PK\5\6" + bytes(18)), "belongs|before the zip"),
        "around: a comment cut": (zipped(file, comment=b"hello")[:-1], "comment is truncated"),
        "around: a comment longer than said": (zipped(file, after=b"x"), "follows the end"),
        "end: none": (one, "no end record"),
        "end: counts more": (zipped(file, here=2, count=2), "truncated"),
        "end: counts less": (zipped(file, other, here=1, count=1), "more than the members"),
        "end: two counts": (zipped(file, here=2), "one part of several"),
        "end: several parts": (zipped(file, disk=1), "one part of several"),
        "end: offset lies": (zipped(file, offset=0), "before the zip"),
        "end: length lies": (zipped(file, length=10), "before the zip"),
        "end: offset and length lie": (zipped(file, offset=0, length=len(zipped(file)) - 22), "directory is damaged"),
        "end: member on another disk": (zipped(Entry("a", b"x", central={"disk": 3})), "several parts"),
        "zip64: CVE-2025-8291, locator points elsewhere": (
            zipped(file, zip64={"points": 0}),
            "locator points elsewhere",
        ),
        "zip64: locator points past the end": (zipped(file, zip64={"points": 1 << 63}), "locator points elsewhere"),
        "zip64: end record of another length": (zipped(file, zip64={"record": 50}), "zip64 end record"),
        "zip64: counts apart": (zipped(file, zip64={}, count=7), "end records differ"),
        "zip64: offsets apart": (zipped(file, zip64={}, offset=7), "end records differ"),
        "zip64: offset past the end": (zipped(file, zip64={"offset": 1 << 60}), "before the zip"),
        "zip64: locator without a record": (
            b"PK\3\4"
            + one[4:]
            + _zip64_end(0, {"here": 0, "count": 0, "length": 0, "offset": 0, "disk": 0})[56:]
            + zipped()[-22:],
            "zip64",
        ),
        "zip64: sizes twice": (zipped(Entry("a", b"hello", local=twice, central=twice)), "there twice"),
        "zip64: sizes cut": (
            zipped(Entry("a", b"hello", central={"size": 0xFFFFFFFF, "extra": struct.pack("<2H", 1, 8) + b"cut"})),
            "zip64 sizes are damaged",
        ),
        "zip64: sizes missing": (
            zipped(Entry("a", b"x", local={"size": 0xFFFFFFFF}, central={"size": 0xFFFFFFFF})),
            "1 of 4,294,967,295 bytes",
        ),
        "zip64: local size differs": (
            zipped(Entry("a", b"hello", local={"size": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, 6)})),
            "in its local header differ",
        ),
    }


def _refused() -> dict[str, tuple[bytes, str]]:
    shapes = {f"tar: {name}": shape for name, shape in _tars().items()}
    shapes |= _compressed()
    shapes |= {f"zip: {name}": shape for name, shape in _zips().items()}
    for why, (name, reason) in NAMES.items():
        shapes[f"tar: name: {why}"] = (_named_tar(name), reason)
        shapes[f"tar.zst: name: {why}, GNU"] = (zstd.compress(tar(gnu_long(name), header("short"))), reason)
        shapes[f"zip: name: {why}"] = (zipped(_entry(name)), reason)
    for why, names in TWINS.items():
        shapes[f"tar: twins: {why}"] = (tar(*map(_kind, names)), "another member has its name")
        shapes[f"zip: twins: {why}"] = (zipped(*map(_entry, names)), "another member has its name")
    return shapes


def _streamed(descriptor: bytes) -> bytes:
    """A zip by a writer that could not seek back."""
    later = {"crc": 0, "packed": 0, "size": 0}
    return zipped(Entry("a", b"hello", flags=8, local=later, descriptor=descriptor), Entry("b", b"world"))


def _harmless() -> dict[str, tuple[bytes, dict[str, bytes | None]]]:
    long = "/".join(["é" * 100] * 3) + "/file"
    sums = (zlib.crc32(b"hello"), len(deflated(b"hello")), 5)
    a, ab = {"a": b"hello"}, {"a": b"hello", "b": b"world"}
    wide = {"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": struct.pack("<2H2Q", 1, 16, 5, sums[1])}
    return {
        "tar: empty": (tar(), {}),
        "tar: empty, as GNU pads it": (bytes(10240), {}),
        "tar: the root itself": (tar(folder("./"), member("./a", b"hello")), a),
        "tar: slashes and dots": (tar(folder("d//"), member(".//a", b"hello")), {"d/": None, **a}),
        "tar: a folder twice": (tar(folder("d"), folder("d/")), {"d/": None}),
        "tar: parents that were not listed": (
            tar(member("x/y/z", b"hello")),
            {"x/": None, "x/y/": None, "x/y/z": b"hello"},
        ),
        "tar: v7, no magic": (tar(member("a", b"hello", kind=b"\0", magic=b"")), a),
        "tar: v7, a folder with a slash": (tar(member("d/", kind=b"\0", magic=b"")), {"d/": None}),
        "tar: contiguous file": (tar(member("a", b"hello", kind=b"7")), a),
        "tar: numbers padded with blanks": (tar(member("a", b"hello", size=b"          5 ", mode=b"   644 \0")), a),
        "tar: size in base 256": (tar(member("a", b"hello", size=b"\x80" + (5).to_bytes(11, "big"))), a),
        "tar: GNU times where ustar has a prefix": (
            tar(member("a", b"hello", magic=b"ustar  \0", prefix="13421234123")),
            a,
        ),
        "tar: ustar prefix": (tar(member("a", b"hello", prefix="x")), {"x/": None, "x/a": b"hello"}),
        "tar: set-user-id": (tar(member("a", b"hello", mode=b"0006777\0")), a),
        "tar: long name by pax": (
            tar(pax(("path", long)), member("short", b"hello")),
            {**_parents(long), long: b"hello"},
        ),
        "tar: long name by GNU": (tar(gnu_long(long), member("short", b"hello")), {**_parents(long), long: b"hello"}),
        "tar: a name cut within a letter, and whole in pax": (
            tar(pax(("path", "né")), member(b"n\xc3", b"hello")),
            {"né": b"hello"},
        ),
        "tar: size by pax": (tar(pax(("size", "5")), member("a", b"hello", size=0)), a),
        "tar: pax size hides no member": (
            tar(pax(("size", "512")), header("a", size=0), header("../evil")),
            {"a": header("../evil")},
        ),
        "tar: extended attributes": (tar(pax(("SCHILY.xattr.user.x", b"\xff\n=")), member("a", b"hello")), a),
        "tar: comment for all, as git archive": (tar(pax(("comment", "c"), kind=b"g"), member("a", b"hello")), a),
        "tar: a first folder named as bzip2 begins": (
            tar(member("BZh1/a", b"hello")),
            {"BZh1/": None, "BZh1/a": b"hello"},
        ),
        "tar: a colon that is no drive": (tar(member("12:30", b"hello")), {"12:30": b"hello"}),
        "tar: names that only Windows cannot have": (
            tar(member("aux.c", b"hello"), member("q?", b"world")),
            {"aux.c": b"hello", "q?": b"world"},
        ),
        "tar: 64 folders deep": (
            _named_tar("d/" * 63 + "f"),
            {**_parents("d/" * 63 + "f"), "d/" * 63 + "f": b""},
        ),
        "gz: two members": (GZ[:0] + gzip.compress(TAR[:700]) + gzip.compress(TAR[700:]), TREE),
        "gz: zeros behind it": (GZ + bytes(700), TREE),
        "gz: an empty member behind it, as bgzip": (GZ + gzip.compress(b""), TREE),
        "bz2: two streams, as pbzip2": (bz2.compress(TAR[:700]) + bz2.compress(TAR[700:]), TREE),
        "xz: padding": (lzma.compress(TAR) + bytes(8), TREE),
        "zst: frames, as pzstd": (
            b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd.compress(TAR[:700]) + zstd.compress(TAR[700:]),
            TREE,
        ),
        "zip: empty": (zipped(), {}),
        "zip: with a comment": (zipped(Entry("a", b"hello"), comment=b"0" * 40), a),
        "zip: stored": (zipped(Entry("a", b"hello", method=0)), a),
        "zip: bzip2": (zipped(Entry("a", b"hello", method=12, packed=bz2.compress(b"hello"))), a),
        "zip: zstd": (zipped(Entry("a", b"hello", method=93, packed=zstd.compress(b"hello"))), a),
        "zip: xz": (zipped(Entry("a", b"hello", method=95, packed=lzma.compress(b"hello"))), a),
        "zip: no Unix modes": (zipped(Entry("a", b"hello", mode=0)), a),
        "zip: deflated folder": (zipped(Entry("d/", mode=0o40755)), {"d/": None}),
        "zip: level in the flags": (zipped(Entry("a", b"hello", flags=2, local={"flags": 0})), a),
        "zip: name in cp437": (zipped(Entry(b"caf\x82", b"hello")), {"café": b"hello"}),
        "zip: name in UTF-8 without the flag": (zipped(Entry("café", b"hello")), {"café": b"hello"}),
        "zip: zip in a zip, stored": (zipped(Entry("z", ZIP, method=0)), {"z": ZIP}),
        "zip: descriptor": (_streamed(b"PK\7\x08" + struct.pack("<3I", *sums)), ab),
        "zip: descriptor without signature": (_streamed(struct.pack("<3I", *sums)), ab),
        "zip: wide descriptor": (_streamed(b"PK\7\x08" + struct.pack("<I2Q", *sums)), ab),
        "zip: wide descriptor without signature": (_streamed(struct.pack("<I2Q", *sums)), ab),
        "zip: zip64 end": (zipped(Entry("a", b"hello"), zip64={}), a),
        "zip: zip64 sizes": (zipped(Entry("a", b"hello", local=wide, central=wide)), a),
        "zip: zip64 sizes in the local header": (zipped(Entry("a", b"hello", local=wide)), a),
    }


def _parents(name: str) -> dict[str, bytes | None]:
    parts = name.split("/")[:-1]
    return {"/".join(parts[:end]) + "/": None for end in range(1, len(parts) + 1)}


REFUSED = _refused()
HARMLESS = _harmless()
