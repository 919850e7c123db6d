"""A tree's manifest: which files a folder holds, as bytes whose own digest names the folder.

    [{"executable":false,"path":"sub/a.txt","sha256":"9f86d0...","size":2}, ...]    sorted by path, no spaces

Pure. Invariant: the same files give the same bytes, whatever order they came in; what is read back is checked, because
its paths become paths on this disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

__all__ = ["Manifest", "TreeFile", "is_inside"]


@dataclass(frozen=True, slots=True, order=True)
class TreeFile:
    """`path` is relative, and separated by slashes."""

    path: str
    sha256: str
    size: int  # bytes
    executable: bool = False


@dataclass(frozen=True)
class Manifest:
    """The files of one tree."""

    files: tuple[TreeFile, ...]  # sorted by path

    @classmethod
    def of(cls, files: Iterable[TreeFile]) -> Manifest:
        return cls(tuple(sorted(files)))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Raises ValueError for anything but what `to_bytes` gives."""
        try:
            manifest = cls.of(_file(**entry) for entry in json.loads(data))
        except (TypeError, ValueError) as e:
            raise ValueError(f"not the manifest of a tree: {e}") from None
        return manifest

    @cached_property
    def data(self) -> bytes:
        """What is stored."""
        text = json.dumps([asdict(file) for file in self.files], sort_keys=True, separators=(",", ":"))
        return text.encode()

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Relative paths of all folders, the tree itself ("") first, and each before those in it."""
        found = {""}
        for file in self.files:
            parts = file.path.split("/")[:-1]
            found.update("/".join(parts[: n + 1]) for n in range(len(parts)))
        return tuple(sorted(found))


def is_inside(path: str) -> bool:
    """Whether `path` is relative, and stays below the folder that it is joined to."""
    return {"", ".", ".."}.isdisjoint(path.split("/"))


def _file(path: Any, sha256: Any, size: Any, executable: Any) -> TreeFile:
    if not isinstance(path, str) or not is_inside(path):
        raise ValueError(f"{path!r} is no path in a tree")
    if not isinstance(sha256, str) or len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError(f"{sha256!r} is no SHA-256")
    if type(size) is not int or size < 0 or type(executable) is not bool:
        raise ValueError(f"{size!r} and {executable!r} are not a size and a flag")
    return TreeFile(path, sha256, size, executable)
