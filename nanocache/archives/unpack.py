"""Ready-made hooks for `postprocess`: Unpack makes a folder of an archive, Decompress a file of a compressed one.

Not a general archive tool: no links, no owners, no times, no passwords, no rar or 7z. The first bytes tell the format,
never the name. Invariants: only the `dst` that the caller gave is written; a hook is a value (equal options,
equal hooks, one key); a fault of the archive is an UnsafeArchive, and a fault of the disk the OSError that it was.
Nothing is synced here: the caller does that before it publishes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import UnsafeArchive
from .decoders import INPUT_CHUNK, OUTPUT_CHUNK, Stream, chunks, decoded
from .names import segments
from .refusal import Allowance, ArchiveRefused, refuse_if
from .tar import TAR_BLOCK, unpack_tar
from .tree import ExtractedTree, create

__all__ = ["Decompress", "Unpack"]

Compression = Literal["gz", "bz2", "xz", "zst"]
Archive = Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"]

# Real text stays under 50:1. Bombs sit where their codec ends: deflate at 1,032:1, the others above 5,000:1.
MAX_RATIO = 100.0
FREE = 1 << 30  # bytes: up to a GiB no ratio is a bomb, and a small file of zeros may well have 1,000:1
MAX_MEMBERS = 10_000_000  # iNaturalist 2021 has 2.7 million in one tar
LARGEST_COUNT = (1 << 63) - 1  # what files and offsets can have
MAX_DEPTH = 64  # segments of a name; deeper trees overrun the stack of programs that walk them by recursion

_MAGIC = re.compile(
    rb"(?P<gz>\x1f\x8b\x08)"
    rb"|(?P<bz2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))"  # in full: a tar may begin with a folder BZh1
    rb"|(?P<xz>\xfd7zXZ\0)"
    rb"|(?P<zst>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"  # pzstd begins with a skippable frame
    rb"|(?P<zip>PK(?:\x03\x04|\x05\x06))"
)


# What an archive is called whose first bytes show this.
_ARCHIVES = {None: "tar", "zip": "zip", "gz": "tar.gz", "bz2": "tar.bz2", "xz": "tar.xz", "zst": "tar.zst"}


class _Hook:
    """A value made of its options. The key and the repr show only those that differ from the defaults."""

    __slots__ = ()

    def _chosen(self) -> dict[str, Any]:
        chosen = {}
        for option in fields(self):  # type: ignore[arg-type]
            value = getattr(self, option.name)
            if value != option.default:
                chosen[option.name] = value
        return chosen

    @property
    def key(self) -> str:
        """The hook's identity in a product's path: the same in every process and release for the same options.

        Defaults stay out of it, so that neither a new option nor a new default limit unpacks everything anew.
        """
        return f"nanocache.{type(self).__name__}/1 {json.dumps(self._chosen(), sort_keys=True)}"

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._chosen().items())
        return f"{type(self).__name__}({options})"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Unpack(_Hook):
    """Make a folder at `dst` of a tar (plain, gz, bz2, xz, zst) or a zip: `fetch(url, postprocess=Unpack()) / "train"`.

    Files are 0644, or 0755 where the archive says executable; folders 0755; times are those of unpacking. Links,
    devices, fifos and sparse files are refused, as is any archive that is damaged, truncated, encrypted, ambiguous, or
    names a member in a way that leads elsewhere on any system. Memory is flat.

    *format*: refuse all others; None tells by the first bytes.
    *members*: write only these, and what is under them; each must be there. Other members may then be links.
    *max_size*: bytes to write at most; None for no limit but the disk and the ratio.
    *max_ratio*: how many times the archive's size may come out of its decoder, once that is over 1 GiB.
    *max_members*: files and folders to make at most. *max_depth*: segments of a member's name.

    Called, it raises UnsafeArchive, ModuleNotFoundError (zst without its decoder), and the disk's own OSErrors; what
    it had written by then is the caller's to remove. Options that make no sense are a ValueError at once.
    """

    format: Archive | None = None
    members: Collection[str] | None = None
    max_size: int | None = None
    max_ratio: float = MAX_RATIO
    max_members: int = MAX_MEMBERS
    max_depth: int = MAX_DEPTH

    def __post_init__(self) -> None:
        _check_format(self.format, Archive)
        if self.members is not None:
            object.__setattr__(self, "members", _member_names(self.members))
        _check_size(self.max_size)
        _check_count("max_members", self.max_members)
        _check_count("max_depth", self.max_depth)
        object.__setattr__(self, "max_ratio", _checked_ratio(self.max_ratio))

    def __call__(self, src: Path, dst: Path) -> None:
        with _opened(src) as (fd, size, found):
            # v7 tars have no magic, so the tar reader gets whatever is of no other format, and says what is wrong.
            too_short = not found and size < TAR_BLOCK
            refuse_if(too_short, f"it is neither a tar nor a zip, or truncated: it has {size} bytes")
            _expect(self.format, _ARCHIVES[found])
            with self._tree(dst) as tree:
                self._fill(tree, fd, size, found)
                tree.complete()

    def _fill(self, tree: ExtractedTree, fd: int, size: int, found: str | None) -> None:
        if found is None:
            unpack_tar(Stream(chunks(fd, 0, size, OUTPUT_CHUNK)), tree)
            return
        allowance = _ratio(self.max_ratio, size)
        if found == "zip":
            from .zip import unpack_zip

            unpack_zip(fd, size, tree, allowance)
            return
        packed = chunks(fd, 0, size, INPUT_CHUNK)
        unpack_tar(Stream(decoded(found, packed, allowance)), tree)

    def _tree(self, dst: Path) -> ExtractedTree:
        return ExtractedTree(
            dst,
            wanted=self.members,
            members=Allowance(self.max_members, f"it has more than {self.max_members:,} members; raise max_members"),
            written=_written(self.max_size),
            depth=self.max_depth,
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Decompress(_Hook):
    """Make a file at `dst` of one that is compressed with gz, bz2, xz or zst; streams may follow one another.

    *format*, *max_size*, *max_ratio*: as for `Unpack`, and the same errors. The file's mode is 0644.
    """

    format: Compression | None = None
    max_size: int | None = None
    max_ratio: float = MAX_RATIO

    def __post_init__(self) -> None:
        _check_format(self.format, Compression)
        _check_size(self.max_size)
        object.__setattr__(self, "max_ratio", _checked_ratio(self.max_ratio))

    def __call__(self, src: Path, dst: Path) -> None:
        with _opened(src) as (fd, size, found):
            refuse_if(found == "zip", "it is a zip: use Unpack")
            if found is None:
                raise ArchiveRefused("it is not gz, bz2, xz or zst")
            _expect(self.format, found)
            pieces = decoded(found, chunks(fd, 0, size, INPUT_CHUNK), _ratio(self.max_ratio, size))
            self._write(pieces, dst)

    def _write(self, pieces: Iterator[bytes], dst: Path) -> None:
        parent, name = os.path.split(dst)
        folder = os.open(parent or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            create(name, folder, pieces, _written(self.max_size))
        finally:
            os.close(folder)


@contextmanager
def _opened(src: Path) -> Iterator[tuple[int, int, str | None]]:
    """Descriptor, size and format (None if it shows none) of an archive; a refusal in the block names it."""
    fd = os.open(src, os.O_RDONLY | os.O_CLOEXEC)
    try:
        magic = _MAGIC.match(os.pread(fd, 16, 0))
        yield fd, os.fstat(fd).st_size, magic.lastgroup if magic else None
    except ArchiveRefused as e:
        raise UnsafeArchive(archive=os.path.basename(src), reason=e.reason, member=_shown(e.member)) from e.__cause__
    finally:
        os.close(fd)


def _shown(member: str | None) -> str | None:
    """A member's name, cut where an error would be unreadable."""
    if member is None or len(member) < 200:
        return member
    return member[:200] + "..."


def _expect(wanted: str | None, found: str) -> None:
    refuse_if(wanted not in (None, found), f"expected {wanted}, got {found}")


def _ratio(limit: float, size: int) -> Allowance:
    total = max(FREE, limit * size)
    return Allowance(total, f"more than {total:,.0f} bytes come out of {size:,} (over {limit:g}:1); raise max_ratio")


def _written(limit: int | None) -> Allowance:
    total = math.inf if limit is None else limit
    return Allowance(total, f"it holds more than {limit} bytes; raise max_size")


# --- options ----------------------------------------------------------------------------------------------------------


def _check_format(name: str | None, known: Any) -> None:
    if name is not None and name not in get_args(known):
        raise ValueError(f"format must be one of {', '.join(get_args(known))}, got {name!r}")


def _check_size(value: object) -> None:
    if value is not None:
        _check_count("max_size", value)


def _check_count(name: str, value: object) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < 1:  # type: ignore[operator]
        raise ValueError(f"{name} must be a whole number above 0, got {_brief(value)}")
    if value > LARGEST_COUNT:  # type: ignore[operator]
        raise ValueError(f"{name} must be below 2**63, got {_brief(value)}")


def _checked_ratio(value: object) -> float:
    """As a float: 100 and 100.0 are equal, and so must their keys be."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not value > 0:  # type: ignore[operator]  # `not >` also turns nan away
        raise ValueError(f"max_ratio must be a number above 0, got {_brief(value)}")
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        raise ValueError(f"max_ratio must be a number that a float can hold, got {_brief(value)}") from None


def _brief(value: object) -> str:
    """`value` in an error, where it may be of any length and type: an int of 5,000 digits has no repr."""
    try:
        text = repr(value)
    except ValueError:
        return f"a {type(value).__name__} of thousands of digits"
    return text if len(text) <= 200 else f"{text[:200]}..."


def _member_names(members: object) -> tuple[str, ...]:
    if isinstance(members, str):
        raise ValueError(f"members must be a collection of names, got the str {members!r}; write [{members!r}]")
    if type(members) is bytes or not isinstance(members, Iterable):
        raise ValueError(f"members must be a collection of names, got {_brief(members)}")
    names = {_member_name(name) for name in members}
    if not names or "" in names:
        raise ValueError(f"members must name files or folders of the archive, got {_brief(members)}")
    return tuple(sorted(names))


def _member_name(name: object) -> str:
    if not isinstance(name, str):
        raise ValueError(f"members must be names, each a str, got {_brief(name)}")
    try:
        return "/".join(segments(name))
    except ArchiveRefused as e:
        raise ValueError(f"members: {e.reason}: {_brief(name)}") from None
