"""Which files of a repository a snapshot takes: the caller's choice from its listing.

Invariant: a path of a listing leads nowhere but into the folder, and no two are one on any common disk; the rules are
those of archives, because a listing is as little to be trusted.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from ..archives.names import folded, segments
from ..archives.refusal import ArchiveRefused
from ..artifact import urls
from ..errors import UnsafeArchive
from ..sources.protocol import Listed, Listing

__all__ = ["choose"]


def choose(listing: Listing, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[Listed]:
    """The files that were asked for. Raises UnsafeArchive for a path that may not be made."""
    chosen = [file for file in listing.files if _is_wanted(file.path, include, exclude)]
    seen: set[str] = set()
    for file in chosen:
        if (reason := _fault(file.path, seen)) is not None:
            raise UnsafeArchive(archive=urls.redact(listing.pinned), member=file.path, reason=reason)
        seen.add(folded(file.path))
    return chosen


def _is_wanted(path: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    included = not include or any(_matches(path, pattern) for pattern in include)
    return included and not any(_matches(path, pattern) for pattern in exclude)


def _matches(path: str, pattern: str) -> bool:
    """As the Hub's own client has it: a * also takes slashes, and a pattern that ends in one means all below it."""
    return fnmatchcase(path, f"{pattern}*" if pattern.endswith("/") else pattern)


def _fault(path: str, seen: set[str]) -> str | None:
    try:
        if "/".join(segments(path)) != path:
            return "its name is spelled in another way than a path is"
    except ArchiveRefused as e:
        return str(e)
    return "two of its files are one on some disks" if folded(path) in seen else None
