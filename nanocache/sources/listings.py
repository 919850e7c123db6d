"""Which files a repository has: asked of the source of its URL, if that can say.

Invariant: a listing is of one version, and each file's URL in it means that version.
"""

from __future__ import annotations

from urllib.parse import quote

from ..artifact import filenames, hub
from ..artifact.schemes import scheme_of
from ..cancel import Cancel, within
from ..http.failure import Failure
from . import registry
from .protocol import Lister, Listing

__all__ = ["check", "list_files", "name_of", "url_of"]


def check(url: object) -> str:
    """`url` if it names something whose files can be listed. Raises ValueError."""
    if not isinstance(url, str):
        raise ValueError(f"the URL of a repository must be a str, got {type(url).__name__}")
    if scheme_of(url) == "hf":
        try:
            hub.parse(url, repository=True)
        except ValueError as e:
            raise ValueError(f"cannot take a snapshot of {url!r}: {e}") from None
    elif not registry.is_registered(url):
        raise ValueError(f"cannot take a snapshot of {url!r}: it must be hf://[datasets/|spaces/]OWNER/NAME[@REVISION]")
    return url


def list_files(url: str, cancel: Cancel) -> Listing:
    """Raises Failure, Offline, and what else the source raises."""
    source: object = registry.find(url)
    if not isinstance(source, Lister):
        raise Failure("its source cannot list files", lasting=True)
    with within(cancel):
        return source.list(url)


def name_of(url: str) -> str:
    """What the folder of the files is called, as far as the URL tells: it is known before the network is asked."""
    if scheme_of(url) == "hf":
        return filenames.from_url(f"hf://{hub.parse(url, repository=True).repository}")
    return filenames.from_url(url.rstrip("/"))


def url_of(pinned: str, path: str) -> str:
    """The URL of one file of a listing."""
    return f"{pinned}/{quote(path)}"
