"""What one download is asked for, and what it brings: plain values that never change.

Not what the caller of `fetch` asked (`artifact.request`): there is no cache and no hook in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Settings
from ..http.redirects import Source

__all__ = ["DownloadRequest", "Downloaded", "NotModified", "Source"]


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """The sources, at least one, are tried in order. `name` decides whether an HTML page can be meant."""

    sources: Sequence[Source]
    name: str
    settings: Settings
    digest: str | None = None
    size: int | None = None  # bytes
    condition: tuple[str | None, str | None] | None = None  # (ETag, Last-Modified) of what is here already

    @property
    def judged(self) -> bool:
        """Whether a digest tells right bytes from wrong ones."""
        return self.digest is not None

    @property
    def known(self) -> bool:
        """Whether the digest or the size tells a cut body from a whole one."""
        return self.digest is not None or self.size is not None


@dataclass(frozen=True, slots=True)
class Downloaded:
    """What a download brought. `etag` and `last_modified` as the server of `url` sent them."""

    digest: str  # of what lies on disk
    size: int  # bytes
    url: str  # of the source that gave it
    etag: str | None
    last_modified: str | None
    remember: bool  # False: the answer did not say where its body ends, so a cut one looks like a whole one
    content_encoding: str | None


class NotModified:
    """The server still has what the condition names."""
