"""Artifact: a URL and everything one may say about what it gives, checked once.

Not a download and not a file. Invariants: frozen, hashable, picklable; what is wrong with it is a ValueError when it is
made, before any I/O; no credential of it is ever shown by `repr`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import arguments, digest, filenames, urls
from . import headers as request_headers
from .headers import Headers
from .hooks import Postprocess

__all__ = ["Artifact"]


@dataclass(frozen=True, init=False, repr=False, slots=True)
class Artifact:
    """What `fetch` gets and where from: takes the same arguments, and stands in for them.

    `url`: http, https or file; `#sha256=<hex>` at its end is the digest, and no other fragment is taken.
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
        headers: Headers = None,
        postprocess: Postprocess | None = None,
    ) -> None:
        addresses = [urls.parse(address) for address in (url, *arguments.several("mirrors", mirrors))]
        values: dict[str, Any] = {
            "url": addresses[0][0],
            "sha256": _digest(sha256, [said for _, said in addresses]),
            "filename": None if filename is None else filenames.check(filename),
            "size": None if size is None else arguments.whole("size", size, "bytes", 0),
            "mirrors": tuple(address for address, _ in addresses[1:]),
            "headers": request_headers.check(headers),
            "postprocess": None if postprocess is None else arguments.hook(postprocess),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, url: object, **options: Any) -> Artifact:
        """The Artifact of `url` and `options`; an Artifact itself, which takes none of them. Raises ValueError."""
        if not isinstance(url, Artifact):
            return cls(url, **options)
        given = [value for name, value in options.items() if name != "mirrors" and value is not None]
        if given or tuple(options.get("mirrors", ())):
            raise ValueError(
                "an Artifact already says sha256, filename, mirrors, headers and postprocess: give them there"
            )
        return url

    @classmethod
    def each(cls, artifacts: object) -> list[Artifact]:
        """The Artifacts of several URLs or Artifacts, or of a mapping from them to digests. Raises ValueError."""
        if isinstance(artifacts, Artifact):
            raise ValueError("artifacts must be a list of URLs or Artifacts, not one Artifact: [artifact]")
        if isinstance(artifacts, Mapping):
            return [cls.of(url, sha256=sha256) for url, sha256 in artifacts.items()]
        return [cls.of(item) for item in arguments.several("artifacts", artifacts)]

    @property
    def name(self) -> str:
        """The name that the artifact has on disk."""
        return self.filename or filenames.from_url(self.url)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in ("sha256", "filename", "size")}
        shown["mirrors"] = tuple(map(urls.redact, self.mirrors)) or None
        options = [f"{name}={value!r}" for name, value in shown.items() if value is not None]
        if self.postprocess is not None:
            options.append(f"postprocess={getattr(self.postprocess, '__qualname__', self.postprocess)}")
        return f"Artifact({', '.join([repr(urls.redact(self.url)), *options])})"


def _digest(sha256: str | None, said: Iterable[str | None]) -> str | None:
    """The one digest that the caller gave, by `sha256` or at the end of a URL."""
    given = {digest.parse(text) for text in (sha256, *said) if text is not None}
    if len(given) > 1:
        raise ValueError(f"sha256 and #sha256= must be one digest, got {' and '.join(sorted(given))}")
    return given.pop() if given else None
