"""Which files a repository has, as an artifact: so that a listing is cached, shared, revalidated and pinned like one.

    listing+hf://OWNER/NAME@REVISION    a JSON file: the version's own URL, and its files

What reads it is `listing_reader`. Invariant: a listing is of one version, and each file's URL in it means that version.
"""

from __future__ import annotations

import json
from urllib.parse import quote

from ..artifact import filenames, hub, schemes
from ..artifact.artifact import Artifact
from ..artifact.schemes import LISTING, scheme_of
from . import registry
from .protocol import Learner, Listed, Listing

__all__ = ["FILENAME", "artifact", "learn", "name_of", "parse", "url_of"]

FILENAME = "listing.json"


def artifact(url: object) -> Artifact:
    """The listing of the repository at `url`. Raises ValueError if that is none."""
    if not isinstance(url, str):
        raise ValueError(f"the URL of a repository must be a str, got {type(url).__name__}")
    scheme = scheme_of(url)
    if "://" not in url or (scheme in schemes.BUILT_IN and scheme != "hf"):
        raise ValueError(
            f"cannot take a snapshot of {scheme}://: it must be hf://[datasets/|spaces/]OWNER/NAME[@REVISION]"
        )
    return Artifact(LISTING + url, filename=FILENAME)


def name_of(url: str) -> str:
    """What the folder of the files is called, as far as the URL tells: it is known before the network is asked."""
    if scheme_of(url) == "hf":
        return filenames.from_url(f"hf://{hub.parse(url, repository=True).repository}")
    return filenames.from_url(url.rstrip("/"))


def url_of(listing: Listing, path: str) -> str:
    """The URL of one file of a listing."""
    return f"{listing.pinned}/{quote(path)}"


def parse(data: bytes) -> Listing:
    """A listing from what its Reader gave."""
    record = json.loads(data)
    return Listing(record["pinned"], tuple(Listed(**file) for file in record["files"]))


def learn(url: str, listing: Listing) -> None:
    """Tell the source of `url` what was listed, so that it need not ask about each file."""
    source: object = registry.find(url)
    if isinstance(source, Learner):
        source.learn(listing)
