"""What one download is asked for, and what it brings: plain values that never change.

Not what the caller of `fetch` asked (`artifact.request`): there is no cache and no hook in it, but for one question to
the cache, whether a digest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..config import Settings
from ..http.redirects import Target
from ..sources.protocol import Resolved
from .turn import Turn

__all__ = ["Condition", "DownloadRequest", "Downloaded", "NotModified", "Report", "Target"]

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all or None


@dataclass(frozen=True, slots=True)
class Condition:
    """What is here already, as its server and its source called it."""

    etag: str | None = None
    last_modified: str | None = None
    version: str | None = None


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """The URLs, at least one, are tried in order. `name` decides whether an HTML page can be meant."""

    urls: Sequence[Target]
    name: str
    settings: Settings
    digest: str | None = None
    size: int | None = None  # bytes
    git_sha1: str | None = None  # of the bytes as a git blob
    condition: Condition | None = None
    turn: Turn | None = None  # None: it is the only one that its caller wants
    remembered: str | None = None  # the digest of what the URLs gave last, and are trusted to give still
    is_here: Callable[[str], bool] = lambda _: False  # whether the cache has the bytes of a digest

    @property
    def judged(self) -> bool:
        """Whether a digest tells right bytes from wrong ones."""
        return self.digest is not None

    @property
    def known(self) -> bool:
        """Whether the digest or the size tells a cut body from a whole one."""
        return self.digest is not None or self.size is not None

    def with_facts(self, resolved: Resolved) -> DownloadRequest:
        """The same for one URL, with what its source says of it. What the caller says comes first."""
        size = resolved.size if self.size is None else self.size
        return replace(self, digest=self.digest or resolved.sha256, size=size, git_sha1=resolved.git_sha1)


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought. `etag` and `last_modified` as the server of `url` sent them."""

    digest: str  # of what lies on disk
    size: int  # bytes
    url: str  # of those that were asked for, the one that gave it
    etag: str | None = None
    last_modified: str | None = None
    remember: bool = True  # False: the answer did not say where its body ends, so a cut one looks like a whole one
    content_encoding: str | None = None
    version: str | None = None  # as its source calls it
    pinned: str | None = None  # the URL that means this version for ever
    came: bool = True  # False: the source said its digest, and the bytes were here
    from_remote: bool = False  # that NANOCACHE_REMOTE names, which is no origin


class NotModified:
    """The server still has what the condition names."""
