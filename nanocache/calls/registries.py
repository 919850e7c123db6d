"""Artifacts by name, from a list of digests that others publish: pooch's, TFDS's, or sha256sum's.

Not the forms (`artifact.checksums`), and nothing but the list itself is fetched. Invariants: every artifact has a
digest; a list that came over a network names no file of this machine.
"""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from .. import config
from ..artifact import checksums, filenames, urls
from ..artifact.artifact import Artifact
from ..artifact.checksums import Checksum
from ..cache import Cache, PathLike

__all__ = ["registry"]


def registry(
    source: object, *, base_url: str | None = None, max_age: float | None = None, base_dir: PathLike | None = None
) -> dict[str, Artifact]:
    """The artifacts of a list of digests, by their names in it: `fetch(registry(url)["data/a.csv"])`.

    `source`: the path or the URL of pooch's registry.txt, a checksum file of TFDS, or what sha256sum and BSD's sha256
    print. A URL is fetched through the cache, remembered for `max_age` seconds (None: for ever), and may say its own
    digest: #sha256=. `base_url`: where the files are, if not beside the list. An entry that gives its own URL alone is
    called by the last part of it, or by all of it where two would be called the same.

    Raises ValueError, naming the line of what is no SHA-256, and what `fetch` raises.
    """
    path, own_url = _found(source, max_age, base_dir)
    base = _base(own_url if base_url is None else base_url, explicit=base_url is not None)
    shown = urls.redact(own_url)
    try:
        entries = list(checksums.parse(path.read_text("utf-8")))
        return _named([(entry, _artifact(entry, base, own_url)) for entry in entries])
    except UnicodeDecodeError:
        raise ValueError(f"{shown} is no list of digests: it is not UTF-8") from None
    except ValueError as e:
        raise ValueError(f"{shown}, {e}") from None


def _found(source: object, max_age: float | None, base_dir: PathLike | None) -> tuple[Path, str]:
    """Where the list is on this disk, and its URL."""
    if isinstance(source, os.PathLike) or (isinstance(source, str) and "://" not in source):
        path = Path(config.expand(source, "source"))
        return path, path.as_uri()
    path = Cache(base_dir).fetch(source, max_age=max_age)
    return path, source.url if isinstance(source, Artifact) else urls.parse(source)[0]


def _base(url: str, *, explicit: bool) -> str:
    """What goes before a name. Raises ValueError."""
    address, _ = urls.parse(url)
    if explicit:
        if "?" in address:
            raise ValueError("base_url must end in a path: a query would come before the names")
        return address if address.endswith("/") else f"{address}/"
    return address.partition("?")[0].rpartition("/")[0] + "/"


def _artifact(entry: Checksum, base: str, list_url: str) -> Artifact:
    try:
        url = entry.url or base + quote(_relative(entry.name or ""), safe="/~")
        if urls.is_file(url) and not urls.is_file(list_url) and not urls.is_file(base):
            raise ValueError("it names a file of this machine, and the list came from another")
        return Artifact(url, sha256=entry.sha256, size=entry.size, filename=_filename(entry))
    except ValueError as e:
        raise ValueError(f"line {entry.line}: {e}") from None


def _relative(name: str) -> str:
    """Raises ValueError for a name that leads out of where the files are."""
    plain = posixpath.normpath(name)
    if plain.startswith(("/", "../")) or plain in (".", ".."):
        raise ValueError(f"the name must be relative and stay beside the list, got {name!r}")
    return plain


def _filename(entry: Checksum) -> str | None:
    """The name on disk, if the entry's can be one."""
    try:
        return None if entry.name is None else filenames.check(posixpath.basename(entry.name))
    except ValueError:
        return None


def _named(found: list[tuple[Checksum, Artifact]]) -> dict[str, Artifact]:
    """The artifacts by their names. Raises ValueError for a name that means two."""
    shared = Counter(_last_part(url) for url in {artifact.url for entry, artifact in found if entry.name is None})
    named: dict[str, Artifact] = {}
    for entry, artifact in found:
        name = entry.name or _last_part(artifact.url)
        if entry.name is None and shared[name] > 1:
            name = artifact.url
        if named.setdefault(name.removeprefix("./"), artifact) != artifact:
            raise ValueError(f"line {entry.line}: {name!r} is another artifact than the one of that name above it")
    return named


def _last_part(url: str) -> str:
    return posixpath.basename(unquote(urlsplit(url).path)) or url
