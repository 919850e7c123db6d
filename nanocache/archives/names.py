"""Is a member's name harmless, and is it another member's name already?

A name is judged by the rules of POSIX and of Windows on every platform, so that an archive means the same everywhere.
Not a resolver of paths: no file system is asked. Invariant: two names that any common file system takes for one are
one here.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left

from .refusal import ArchiveRefused, refuse_if

__all__ = ["NameSet", "folded", "segments"]

SEGMENT_BYTES = 255  # as on ext4, xfs, APFS and NTFS
PATH_BYTES = 1024  # of the whole name: macOS's PATH_MAX, the smallest one

# The backslash separates on Windows. Controls and the bidirectional overrides make a name look like another one. Lone
# surrogates are no text: no archive holds them, but a caller's `members` may.
_FORBIDDEN = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# A segment of dots and spaces (`..`, and what Windows may trim to it), but for `.`; or a drive.
_LEADS_ELSEWHERE = re.compile(r"(?:^|/)((?!\.?(?:/|$))[. ]+(?=/|$)|[A-Za-z]:)")
_STRIPPED_BY_WINDOWS = re.compile("[. ]+(?=/|$)")


def segments(name: str) -> tuple[str, ...]:
    """The folders and the last name of a member, `./` and `//` dropped; empty for the root itself.

    Raises ArchiveRefused for whatever leads elsewhere on any system: absolute names, drives, UNC, backslashes, `..`
    (also as `...` or `.. `, which Windows trims), control characters, segments and names that are too long.
    """
    _check_characters(name)
    refuse_if(not name, "its name is empty")
    refuse_if(name.startswith("/"), "its name is absolute")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    _check_length(name, parts)
    return parts


def _check_characters(name: str) -> None:
    forbidden = _FORBIDDEN.search(name)
    if forbidden:
        raise ArchiveRefused(f"its name holds {forbidden[0]!r}")
    elsewhere = _LEADS_ELSEWHERE.search(name)
    if elsewhere:
        raise ArchiveRefused(f"its name holds {elsewhere[1]!r}, which may lead out of its folder")


def _check_length(name: str, parts: tuple[str, ...]) -> None:
    length = len(name.encode())
    if length <= SEGMENT_BYTES:  # nearly always
        return
    longest = max((len(part.encode()) for part in parts), default=0)  # `././.` has none, however long
    too_long = length > PATH_BYTES or longest > SEGMENT_BYTES
    refuse_if(too_long, f"its name is longer than {PATH_BYTES} bytes, or a segment of it than {SEGMENT_BYTES}")


def folded(path: str) -> str:
    """What `path` is where case, composition (APFS) and trailing dots and spaces (NTFS) don't count: Unicode's D145."""
    bare = _STRIPPED_BY_WINDOWS.sub("", path)
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", bare).casefold())


class NameSet:
    """A set of names in 8 bytes each, so that ten million members are 90 MB and not the gigabyte of a set of strings.

    It keeps 64-bit hashes in sorted arrays: among a million names two unlike ones meet once in 37 million archives.
    """

    def __init__(self) -> None:
        self._buckets = [array("Q") for _ in range(4096)]

    def add(self, name: str) -> bool:
        """True if it was not there yet."""
        key = hash(name) & 0xFFFF_FFFF_FFFF_FFFF
        bucket = self._buckets[key & 0xFFF]
        index = bisect_left(bucket, key)
        if index < len(bucket) and bucket[index] == key:
            return False
        bucket.insert(index, key)
        return True
