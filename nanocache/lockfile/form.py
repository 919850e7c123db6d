"""nanocache.lock as text: what a project needs, each artifact with its digest.

    version = 1

    [[artifact]]
    name = "weights.safetensors"
    url = "https://host/weights.safetensors"
    sha256 = "9f86d0..."
    size = 4                                            # bytes
    mirrors = ["https://mirror/weights.safetensors"]    # if there are any
    revision = "1f0c..."                                # of hf://: the commit that the URL meant

Pure. Invariants: what is written is a function of the set of artifacts, sorted by name, a table for each, so that
branches which add artifacts merge; it holds no credential; what is read is checked, since names become paths, and what
is wrong is a ValueError that says where.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..archives.names import folded, segments
from ..archives.refusal import ArchiveRefused
from ..artifact import digest, filenames, hub, urls
from ..artifact.artifact import Artifact

__all__ = ["MAIN_BRANCH", "Locked", "check_apart", "check_name", "parse", "render"]

FORM_VERSION = 1
MAIN_BRANCH = "main"  # what an address of a Hub means that names no revision
_HEAD = """\
# Made by nanocache: `nanocache lock` adds to it, `nanocache sync` fetches what it names.
"""
_TABLE = re.compile(r"\s*\[\[\s*artifact\s*\]\]")
_CONFLICT = re.compile(r"(?:<{7}|={7}|>{7})(?:\s|$)")


@dataclass(frozen=True, slots=True)
class Locked:
    """One artifact of a lock file. `name`: one or more segments of a path, as archives may have them."""

    name: str
    url: str
    sha256: str
    size: int | None = None  # bytes
    mirrors: tuple[str, ...] = ()
    revision: str | None = None

    @classmethod
    def of(cls, name: Any, artifact: Artifact, sha256: Any, size: int | None, revision: Any = None) -> Locked:
        """Check what a lock file is to say. Raises ValueError."""
        mirrors = tuple(map(urls.without_credentials, artifact.mirrors))
        url = urls.without_credentials(artifact.url)
        if revision is not None:
            _check_revision(url, revision)
        return cls(check_name(name), url, digest.parse(sha256), size, mirrors, revision)

    @property
    def artifact(self) -> Artifact:
        """What is fetched: the very version, under the last part of the name."""
        filename = self.name.rpartition("/")[2]
        if filename == filenames.from_url(self.url):
            return self._artifact(None)
        with suppress(ValueError):
            return self._artifact(filenames.check(filename))
        return self._artifact(None)  # a name that no cached file can have

    def _artifact(self, filename: str | None) -> Artifact:
        return Artifact(self.pinned, sha256=self.sha256, size=self.size, mirrors=self.mirrors, filename=filename)

    @property
    def pinned(self) -> str:
        """The URL that means this version, whatever became of the branch."""
        return self.url if self.revision is None else hub.parse(self.url).at(self.revision).url

    @property
    def spellings(self) -> tuple[str, ...]:
        """The URLs that mean this artifact."""
        if not self.url.startswith("hf://"):
            return (self.url,)
        address = hub.parse(self.url)
        is_main = address.revision in (None, MAIN_BRANCH)
        mains = tuple(replace(address, revision=revision).url for revision in (None, MAIN_BRANCH)) if is_main else ()
        return (self.url, self.pinned, *mains)


def _check_revision(url: str, revision: Any) -> None:
    if not url.startswith("hf://") or not isinstance(revision, str):
        raise ValueError(f"revision is the commit of an hf:// URL, got {revision!r}")
    if not hub.parse(url).at(revision).is_pinned:
        raise ValueError(f"revision must be a commit of 40 hex digits, got {revision!r}")


def check_name(name: Any) -> str:
    """`name` if it can be a path in a folder, on every system. Raises ValueError."""
    if not isinstance(name, str):
        raise ValueError(f"name must be a str, got {name!r}")
    try:
        parts = segments(name)
    except ArchiveRefused as e:
        raise ValueError(f"name must be a path that stays in its folder, got {name!r}: {e.reason}") from None
    if "/".join(parts) != name:
        raise ValueError(f"name must be a path without '.', '//' and a '/' at its end, got {name!r}")
    return name


def check_apart(names: Iterable[str]) -> None:
    """Raise ValueError if two names are one on some disk, or one is a file where another needs a folder."""
    spelled: dict[str, str] = {}
    for name in names:
        if (other := spelled.setdefault(folded(name), name)) is not name:
            raise ValueError(f"two artifacts are called {name!r}" + (f" and {other!r}" if other != name else ""))
    for key, name in spelled.items():
        for end in (n for n, character in enumerate(key) if character == "/"):
            if key[:end] in spelled:
                raise ValueError(f"{spelled[key[:end]]!r} is a file, and {name!r} needs a folder there")


# --- reading ----------------------------------------------------------------------------------------------------------


def parse(text: str) -> tuple[Locked, ...]:
    """The artifacts of a lock file. Raises ValueError that begins with the line where it can be told."""
    import tomllib

    for number, line in enumerate(text.split("\n"), start=1):
        if _CONFLICT.match(line):
            raise ValueError(f"line {number}: it has a merge conflict; keep the artifacts of both sides")
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as e:  # the latter for brackets in brackets
        raise ValueError(f"it is no TOML: {_brief(e)}") from None
    return _entries(found, text)


def _brief(error: Exception) -> str:
    return str(error).replace("\n", " ")[:200]


def _entries(found: Mapping[str, Any], text: str) -> tuple[Locked, ...]:
    version = found.get("version", FORM_VERSION)
    if version != FORM_VERSION or type(version) is not int:
        raise ValueError(f"it has version {version!r}, and this nanocache reads version {FORM_VERSION}: upgrade it")
    if unknown := found.keys() - {"version", "artifact"}:
        raise ValueError(f"it has the unknown key {min(unknown)!r}")
    tables = found.get("artifact", [])
    if not isinstance(tables, list):
        raise ValueError("its artifacts must be [[artifact]] tables")
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if _TABLE.match(line)]
    places = (
        [f"line {n}" for n in lines] if len(lines) == len(tables) else [f"artifact {n + 1}" for n in range(len(tables))]
    )
    entries = [_entry(table, place) for table, place in zip(tables, places, strict=True)]
    _check_unique(entries, places)
    return tuple(sorted(entries, key=_by_name))


def _entry(table: Any, place: str) -> Locked:
    try:
        return _checked(**table)
    except TypeError as e:  # a key too many or too few, whose name Python tells
        raise ValueError(f"{place}: {_key_fault(table, e)}") from None
    except ValueError as e:
        raise ValueError(f"{place}: {e}") from None


def _key_fault(table: Any, error: TypeError) -> str:
    if not isinstance(table, dict):
        return "an artifact must be a table"
    known = Locked.__dataclass_fields__
    faults = [f"unknown key {key!r}" for key in table if key not in known]
    faults += [f"it has no {key}" for key in ("name", "url", "sha256") if key not in table]
    return faults[0] if faults else _brief(error)


def _checked(*, name: Any, url: Any, sha256: Any, size: Any = None, mirrors: Any = (), revision: Any = None) -> Locked:
    if not isinstance(url, str) or "#" in url:
        raise ValueError("url must be a str without a fragment")
    return Locked.of(name, Artifact(url, size=size, mirrors=mirrors), sha256, size, revision)


def _check_unique(entries: Sequence[Locked], places: Sequence[str]) -> None:
    first: dict[str, str] = {}
    for entry, place in zip(entries, places, strict=True):
        if (other := first.setdefault(entry.name, place)) is not place:
            raise ValueError(f"{place}: another artifact is called {entry.name!r}, see {other}")
    check_apart(entry.name for entry in entries)


# --- writing ----------------------------------------------------------------------------------------------------------


def _by_name(entry: Locked) -> str:
    return entry.name


def render(entries: Iterable[Locked]) -> str:
    """The lock file of a set of artifacts."""
    tables = [f"\n[[artifact]]\n{_table(entry)}" for entry in sorted(entries, key=_by_name)]
    return f"{_HEAD}version = {FORM_VERSION}\n{''.join(tables)}"


def _table(entry: Locked) -> str:
    values = {name: getattr(entry, name) for name in Locked.__dataclass_fields__}
    return "".join(f"{name} = {_value(value)}\n" for name, value in values.items() if value not in (None, ()))


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[\n" + "".join(f"    {_value(one)},\n" for one in value) + "]"
    # JSON's escapes are TOML's. What TOML alone forbids, U+007F, is in no name and no URL.
    return json.dumps(value, ensure_ascii=False)
