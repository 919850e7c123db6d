"""What a source is: the two small protocols by which a scheme joins the engine.

A `Source` says where an artifact can be asked for now, and the bytes come through the transfer, which brings ranges,
resume, mirrors, digest and progress. A `Reader` gives the bytes itself, for what is not HTTP. Not their registration
(`registry`). Invariant: nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from ..artifact.headers import Pairs
from ..http.failure import Failure

__all__ = [
    "Chooser",
    "Described",
    "Explainer",
    "HeaderSource",
    "Learner",
    "Listed",
    "Lister",
    "Listing",
    "Pinner",
    "Reader",
    "Resolved",
    "Source",
    "Writer",
]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where an artifact can be asked for now, and what its store says of it.

    `url`: http, https or file. `headers` go to that URL's own origin only, never across a redirect. `sha256` and
    `git_sha1` are enforced: give only what the store vouches for, of the whole object. `validator` names these bytes
    across addresses and runs, so that a later run may build on what an earlier one received. `pinned` is the URL that
    means this version for ever.
    """

    url: str
    headers: Pairs = ()
    size: int | None = None  # bytes
    sha256: str | None = None  # 64 hex digits
    git_sha1: str | None = None  # 40 hex digits: of a git blob
    validator: str | None = None
    condition: Literal["if-range", "if-match"] = "if-range"  # S3 has no If-Range: its 412 says that the object changed
    expires: float | None = None  # seconds since the epoch; resolved again before, once for all connections
    pinned: str | None = None
    as_stored: bool = False  # a Content-Encoding says how the artifact was stored, and the answer is the artifact


@dataclass(frozen=True, slots=True)
class Described:
    """What a Reader knows of an artifact before its bytes come."""

    size: int | None = None  # bytes
    version: str | None = None  # changes whenever the bytes do; None: there is nothing to tell by
    pinned: str | None = None  # the URL that means this version for ever


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a listing. `path` is relative, plain, and separated by slashes."""

    path: str
    size: int  # bytes
    sha256: str | None = None  # 64 hex digits
    git_sha1: str | None = None  # 40 hex digits: of a git blob


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of a repository at one version. `pinned`, a slash and a file's path are that file's URL."""

    pinned: str
    files: tuple[Listed, ...]


@runtime_checkable
class Source(Protocol):
    """A store that speaks HTTP."""

    def resolve(self, url: str) -> Resolved:
        """Where the artifact of `url` is now. May be called from any thread, and again for a new signature.

        An OSError is a failure that may pass, and asked for again; FileNotFoundError and PermissionError are final.
        """
        ...


@runtime_checkable
class HeaderSource(Protocol):
    """A Source that also takes the headers that the caller gave for the URL."""

    def resolve_with(self, url: str, headers: Pairs) -> Resolved: ...


@runtime_checkable
class Chooser(Protocol):
    """A source that knows several places of one artifact."""

    def distrust(self, resolved: Resolved) -> bool:
        """Resolve to `resolved` no more, which failed; whether there is another place to ask."""
        ...


@runtime_checkable
class Explainer(Protocol):
    """A source whose server says more than a status."""

    def explain(self, url: str, refused: Resolved, failure: Failure) -> Failure | None:
        """What it means that `refused` was answered by `failure`; None: resolve `url` again, and ask there."""
        ...


@runtime_checkable
class Pinner(Protocol):
    """A source whose server says with the bytes which version they are."""

    def pin(self, url: str, headers: Mapping[str, str]) -> str | None:
        """The URL that means this version for ever; names of headers in lower case. None where there is none."""
        ...


@runtime_checkable
class Lister(Protocol):
    """A source that can say which files a repository has."""

    def list(self, url: str) -> Listing:
        """All files of the repository at `url`, as it is now. Errors as for `Source.resolve`."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A source that need not ask about a file that it knows from a listing."""

    def learn(self, listing: Listing) -> None: ...


@runtime_checkable
class Writer(Protocol):
    """A source whose store takes objects, too."""

    def resolve_as(self, url: str, method: Literal["HEAD", "PUT"]) -> Resolved:
        """Where the object of `url` is asked about, or sent to, by `method`. Errors as for `Source.resolve`."""
        ...


@runtime_checkable
class Reader(Protocol):
    """A store that does not speak HTTP."""

    def describe(self, url: str) -> Described:
        """Size and version of the artifact as they are now. Errors as for `Source.resolve`."""
        ...

    def read(self, url: str, start: int, end: int | None) -> Iterable[bytes]:
        """The bytes from `start` to before `end`, None for the end of the artifact. Errors as for `Source.resolve`."""
        ...
