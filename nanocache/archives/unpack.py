"""Ready-made hooks for `postprocess`: Unpack makes a folder of an archive, Decompress a file of a compressed one.

Not a general archive tool: no links, no owners, no times, no passwords, no rar or 7z. The format is told by the first
bytes, never by the name. Invariants: only the `dst` that the caller gave is written; a hook is a value (equal options,
equal hooks, one key); whatever is wrong with an archive is an UnsafeArchive, and whatever is wrong with the disk the
OSError that it was. Nothing is synced here: the caller does that before it publishes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import UnsafeArchive
from .decoders import INPUT_CHUNK, OUTPUT_CHUNK, Stream, chunks, decoded
from .tree import Allowance, ArchiveRefused, ExtractedTree, create, segments

__all__ = ["Decompress", "Unpack"]

Compression = Literal["gz", "bz2", "xz", "zst"]
Archive = Literal["zip", "tar", "tar.gz", "tar.bz2", "tar.xz", "tar.zst"]

# Real text stays under 50:1. Bombs sit where their codec ends: deflate at 1,032:1, the others above 5,000:1.
MAX_RATIO = 100.0
FREE = 1 << 30  # bytes: up to a GiB no ratio is a bomb, and a small file of zeros may well have 1,000:1
MAX_MEMBERS = 10_000_000  # iNaturalist 2021 has 2.7 million in one tar
MAX_DEPTH = 64  # segments of a name; deeper trees overrun the stack of whoever walks them by recursion
TAR_HEADER = 512  # bytes

_MAGIC = re.compile(
    rb"(?P<gz>\x1f\x8b\x08)"
    rb"|(?P<bz2>BZh[1-9](?:1AY&SY|\x17rE8P\x90))"  # in full: a tar may begin with a folder BZh1
    rb"|(?P<xz>\xfd7zXZ\0)"
    rb"|(?P<zst>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)"  # pzstd begins with a skippable frame
    rb"|(?P<zip>PK(?:\x03\x04|\x05\x06))"
)


class _Hook:
    """A value made of its options, of which only those that differ from the defaults show."""

    __slots__ = ()

    def _chosen(self) -> dict[str, Any]:
        options = ((option, getattr(self, option.name)) for option in fields(self))  # type: ignore[arg-type]
        return {option.name: value for option, value in options if value != option.default}

    @property
    def key(self) -> str:
        """The hook's identity in a product's path: the same in every process and release for the same options.

        Defaults stay out of it, so that neither a new option nor a new default limit unpacks everything anew.
        """
        return f"nanocache.{type(self).__name__}/1 {json.dumps(self._chosen(), sort_keys=True)}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._chosen().items())})"


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
        for name in ("max_size", "max_ratio", "max_members", "max_depth"):
            _check_limit(self, name)

    def __call__(self, src: Path, dst: Path) -> None:
        with _opened(src) as (fd, size, found):
            # What is nothing else is handed to the tar reader, for v7 tars have no magic; it says what is wrong.
            if not found and size < TAR_HEADER:
                raise ArchiveRefused(f"it is neither a tar nor a zip, or truncated: it has {size} bytes")
            _expect(self.format, "zip" if found == "zip" else f"tar.{found}" if found else "tar")
            with self._tree(dst) as tree:
                self._fill(tree, fd, size, found)
                tree.complete()

    def _fill(self, tree: ExtractedTree, fd: int, size: int, found: str | None) -> None:
        allowance = _ratio(self.max_ratio, size)
        if found == "zip":
            from .zip import unpack_zip

            unpack_zip(fd, size, tree, allowance)
        else:
            from .tar import unpack_tar

            packed = chunks(fd, 0, size, INPUT_CHUNK if found else OUTPUT_CHUNK)
            unpack_tar(Stream(decoded(found, packed, allowance) if found else packed), tree)

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
        for name in ("max_size", "max_ratio"):
            _check_limit(self, name)

    def __call__(self, src: Path, dst: Path) -> None:
        with _opened(src) as (fd, size, found):
            if found is None or found == "zip":
                raise ArchiveRefused(f"it is {'a zip: use Unpack' if found else 'not gz, bz2, xz or zst'}")
            _expect(self.format, found)
            folder = os.open(dst.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                pieces = decoded(found, chunks(fd, 0, size, INPUT_CHUNK), _ratio(self.max_ratio, size))
                create(dst.name, folder, pieces, _written(self.max_size))
            finally:
                os.close(folder)


@contextmanager
def _opened(src: Path) -> Iterator[tuple[int, int, str | None]]:
    """Descriptor, size and format (None if it shows none) of an archive, whose name a refusal in the block gets."""
    fd = os.open(src, os.O_RDONLY | os.O_CLOEXEC)
    try:
        magic = _MAGIC.match(os.pread(fd, 16, 0))
        yield fd, os.fstat(fd).st_size, magic.lastgroup if magic else None
    except ArchiveRefused as e:
        member = e.member if e.member is None or len(e.member) < 200 else e.member[:200] + "..."
        raise UnsafeArchive(archive=os.path.basename(src), reason=e.reason, member=member) from e.__cause__
    finally:
        os.close(fd)


def _expect(wanted: str | None, found: str) -> None:
    if wanted not in (None, found):
        raise ArchiveRefused(f"expected {wanted}, got {found}")


def _ratio(most: float, size: int) -> Allowance:
    limit = max(FREE, most * size)
    return Allowance(limit, f"more than {limit:,.0f} bytes come out of {size:,} (over {most:g}:1); raise max_ratio")


def _written(most: int | None) -> Allowance:
    return Allowance(math.inf if most is None else most, f"it holds more than {most} bytes; raise max_size")


def _check_format(name: str | None, known: Any) -> None:
    if name is not None and name not in get_args(known):
        raise ValueError(f"format must be one of {', '.join(get_args(known))}, got {name!r}")


def _check_limit(hook: Unpack | Decompress, name: str) -> None:
    value, kinds = getattr(hook, name), int | float if name == "max_ratio" else int
    if value is None and name == "max_size":
        return
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:  # also turns nan away
        raise ValueError(f"{name} must be {'a' if name == 'max_ratio' else 'a whole'} number above 0, got {value!r}")
    if name == "max_ratio":  # 100 and 100.0 are equal, and so must their keys be
        object.__setattr__(hook, name, float(value))


def _member_names(members: Collection[str]) -> tuple[str, ...]:
    if isinstance(members, str):
        raise ValueError(f"members must be a collection of names, got the str {members!r}; write [{members!r}]")
    try:
        names = {"/".join(segments(name)) for name in members}
    except ArchiveRefused as e:
        raise ValueError(f"members: {e.reason}: {sorted(members)!r}") from None
    if not names or "" in names:
        raise ValueError(f"members must name files or folders of the archive, got {members!r}")
    return tuple(sorted(names))
