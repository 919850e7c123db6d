"""The store of digests that NANOCACHE_REMOTE names: where an artifact is there, and which requests have to do with it.

Pure. Not how it is asked or filled (`download.remote`, `download.filling`).
"""

from __future__ import annotations

from functools import lru_cache

from ..config import REMOTE
from . import urls
from .schemes import LISTING

__all__ = ["object_url", "of_request"]


def of_request(base: str | None, url: str) -> str | None:
    """The remote that a request for `url` has to do with. Raises ValueError if it is none.

    None for what is on this machine already, and for lists of files, which no digest leads to.
    """
    return None if base is None or urls.is_file(url) or url.startswith(LISTING) else _checked(base)


@lru_cache(maxsize=4)
def _checked(base: str) -> str:
    if "?" in base or "#" in base:
        raise ValueError(f"{REMOTE} must be an address without ? and #, got {urls.redact(base)!r}")
    try:
        urls.check(object_url(base, "0" * 64))
    except ValueError as e:
        raise ValueError(f"{REMOTE}: {e}") from None
    return base


def object_url(base: str, digest: str) -> str:
    """Where the artifact of this digest is, or would be."""
    return f"{base.rstrip('/')}/cas/{digest}"
