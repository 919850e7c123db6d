"""File names: which the caller may choose, and which a URL gets.

Not paths: a name is one segment, and no header of any server ever has a say in it. Invariant: a name made here is
legal on Linux, macOS and Windows, and is the same on all of them, because it decides where an artifact lies for ever.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from pathlib import PurePath
from urllib.parse import unquote, urlsplit

from .schemes import is_address

__all__ = ["check", "from_url", "stem"]

LONGEST_GIVEN = 200  # bytes of a name that the caller chose
LONGEST_MADE = 120  # bytes of a name made from a URL
_HEAD = 72  # bytes kept of a longer one, before 8 hex digits
_TAIL = 40  # and after them

_KEPT = frozenset("._+=@-")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in "123456789¹²³"],
)
# Longest first, so that `.tar.gz` goes before `.gz`.
_PACKED = (
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
    *(".tgz", ".tbz2", ".txz", ".tzst", ".tar", ".zip", ".gz", ".bz2", ".xz", ".zst"),
)


# What a name must do -> whether it fails to.
_FAULTS: dict[str, Callable[[str], bool]] = {
    "name a file": lambda name: name in ("", ".", ".."),
    "be one path segment without separators": lambda name: "/" in name or "\\" in name,
    "hold no control characters": lambda name: any(unicodedata.category(c) == "Cc" for c in name),
}


def check(name: object) -> str:
    """`name` if it is one path segment. Raises ValueError naming what is wrong with it."""
    if isinstance(name, PurePath):
        raise ValueError(f"filename must be a str, got {type(name).__name__}: give str(path), or path.name")
    if not isinstance(name, str):
        raise ValueError(f"filename must be a str, got {type(name).__name__}")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise ValueError(f"filename must be valid Unicode, got {name!r}") from None
    for rule, broken in _FAULTS.items():
        if broken(name):
            raise ValueError(f"filename must {rule}, got {name!r}")
    if size > LONGEST_GIVEN:
        raise ValueError(f"filename must be at most {LONGEST_GIVEN} bytes, got {size}: {name[:40]!r}...")
    return name


def from_url(url: str) -> str:
    """The name that an artifact of `url` gets: its last segment made safe; `artifact` if nothing is left of it."""
    parts = urlsplit(url)
    segment = parts.path.rsplit("/", 1)[-1]
    if not parts.path and not is_address(url):  # memory://weights.bin
        segment = parts.netloc
    text = unicodedata.normalize("NFC", unquote(segment, errors="replace"))
    name = "".join(map(_legal, text)).lstrip(".-").rstrip(".")
    if name.split(".", 1)[0].lower() in _DEVICES:
        name = "_" + name
    return _shorten(name) or "artifact"


def _legal(character: str) -> str:
    return character if character.isalnum() or character in _KEPT else "_"


def _shorten(name: str) -> str:
    data = name.encode()
    if len(data) <= LONGEST_MADE:
        return name
    head = data[:_HEAD].decode(errors="ignore")
    tail = data[-_TAIL:].decode(errors="ignore")
    return head + hashlib.sha256(data).hexdigest()[:8] + tail


def stem(name: str) -> str:
    """`name` without its archive or compression suffix: what a hook that unpacks it builds."""
    for suffix in _PACKED:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name
