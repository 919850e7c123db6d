"""A repository's listing, read like a file: canonical JSON, the same bytes for the same version.

{"files": [{"git_sha1": ..., "path": ..., "sha256": ..., "size": ...}, ...], "pinned": "hf://OWNER/NAME@COMMIT"}
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from ..artifact.schemes import LISTING
from .protocol import Described, Lister, Listing

__all__ = ["ListingReader", "encoded"]


def encoded(listing: Listing) -> bytes:
    """What is stored of a listing."""
    files = sorted(listing.files, key=lambda file: file.path)
    record = {"pinned": listing.pinned, "files": [asdict(file) for file in files]}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode()


class ListingReader:
    """Gives the listing of `source` as a file."""

    def __init__(self, source: Lister) -> None:
        self._source = source
        self._listed: dict[str, bytes] = {}  # pinned URL -> what was described, until it is read

    def describe(self, url: str) -> Described:
        listing = self._source.list(url.removeprefix(LISTING))
        data = encoded(listing)
        self._listed[pinned := LISTING + listing.pinned] = data
        return Described(len(data), listing.pinned, pinned=pinned)

    def read(self, url: str, start: int, end: int | None) -> Iterable[bytes]:
        if url not in self._listed:
            self.describe(url)
        yield self._listed.pop(url)[start:end]
