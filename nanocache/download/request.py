"""What one download is asked for: where the artifact is, what is known of it, and the settings that hold.

Plain values, fixed for the whole call. Not what the caller of `fetch` asked (`artifact.request`): no cache, no hook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import Settings
from ..http.redirects import Source

__all__ = ["DownloadRequest", "Source"]


@dataclass(frozen=True, slots=True)
class DownloadRequest:
    """The sources are tried in order. `name` decides whether an HTML page can be meant."""

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
