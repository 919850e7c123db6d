"""Artifact: a URL and everything one may say about what it gives, checked once.

Not a download and not a file. Invariants: frozen, hashable, picklable; what is wrong with it is a ValueError when it is
made, before any I/O; no credential of it is ever shown by `repr`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import digest, filenames, urls
from .hooks import Postprocess

__all__ = ["Artifact"]


@dataclass(frozen=True, init=False, repr=False, slots=True)
class Artifact:
    """What `fetch` gets and where from: takes the same arguments, and stands in for them.

    `sha256`: 64 hex digits in any case, `"sha256:<hex>"` or SRI. `filename`: one path segment. `size`: bytes, if known.
    `mirrors`: further URLs of the same bytes, tried in order. `headers` go to each URL of the artifact's own origin
    only. `postprocess(src, dst)` builds what is returned. Raises ValueError.
    """

    url: str
    sha256: str | None
    filename: str | None
    size: int | None
    mirrors: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    postprocess: Postprocess | None = field(hash=False)  # a plain dataclass with a `key` is a hook, and has no hash

    def __init__(
        self,
        url: object,
        *,
        sha256: str | None = None,
        filename: str | None = None,
        size: int | None = None,
        mirrors: Iterable[object] = (),
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        postprocess: Postprocess | None = None,
    ) -> None:
        if isinstance(mirrors, str):
            raise ValueError(f"mirrors must be a list of URLs, not one str: [{urls.redact(mirrors)!r}]")
        if size is not None and (not isinstance(size, int) or size < 0):
            raise ValueError(f"size must be a number of bytes, got {size!r}")
        values: dict[str, Any] = {
            "url": urls.check(url),
            "sha256": None if sha256 is None else digest.parse(sha256),
            "filename": None if filename is None else filenames.check(filename),
            "size": size,
            "mirrors": tuple(urls.check(mirror) for mirror in mirrors),
            "headers": _pairs(headers),
            "postprocess": postprocess,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, url: object, **options: Any) -> Artifact:
        """The Artifact of `url` and `options`; an Artifact itself, which takes none of them. Raises ValueError."""
        if not isinstance(url, Artifact):
            return cls(url, **options)
        given = options | {"mirrors": tuple(options.get("mirrors", ()))}
        if any(value is not None and value != () for value in given.values()):
            raise ValueError(
                "an Artifact already says sha256, filename, mirrors, headers and postprocess: give them there"
            )
        return url

    @property
    def name(self) -> str:
        """The name that the artifact has on disk."""
        return self.filename or filenames.from_url(self.url)

    def __repr__(self) -> str:
        shown = [repr(urls.redact(self.url))]
        shown += [f"{k}={getattr(self, k)!r}" for k in ("sha256", "filename", "size") if getattr(self, k) is not None]
        if self.mirrors:
            shown.append(f"mirrors={tuple(urls.redact(mirror) for mirror in self.mirrors)!r}")
        if self.postprocess is not None:
            shown.append(f"postprocess={getattr(self.postprocess, '__qualname__', self.postprocess)}")
        return f"Artifact({', '.join(shown)})"


def _pairs(headers: Mapping[str, str] | Iterable[tuple[str, str]] | None) -> tuple[tuple[str, str], ...]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers or ()
    checked = []
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise ValueError("headers must map header names to values, both str")
        name, value = pair
        if not name or any(c in "\r\n\0" for c in name + value):
            raise ValueError(f"the header {name!r} is empty or holds a line break")
        checked.append((name, value))
    return tuple(checked)
