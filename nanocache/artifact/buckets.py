"""Addresses of objects in a store's buckets: s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY.

Not the stores (`sources`). Pure. Invariant: a URL, so percent-encoded: a ? or # of a key is written %3F or %23. An
object's version stands in the query, as the store calls it, and is part of what the URL means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote

__all__ = ["VERSIONS", "BucketAddress", "parse", "pinned"]

VERSIONS = {"s3": "versionId", "gs": "generation", "az": "versionid"}  # scheme -> its name for an object's version
TOLD = {"s3": "x-amz-version-id", "gs": "x-goog-generation", "az": "x-ms-version-id"}  # the header that says it
NO_VERSION = "null"  # of S3, for what was stored before its bucket kept versions


@dataclass(frozen=True, slots=True)
class BucketAddress:
    scheme: str
    bucket: str
    key: str  # plain, not percent-encoded
    version: str | None


def parse(url: str) -> BucketAddress:
    """What `url` names. Raises ValueError."""
    address, mark, query = url.partition("?")
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    scheme = scheme.lower()
    name, _, version = query.partition("=")
    if not bucket or not key or key.endswith("/"):
        raise ValueError(f"an object's address is {scheme}://BUCKET/KEY")
    if mark and (name != VERSIONS[scheme] or not version or "&" in version):
        raise ValueError(f"the one parameter of {scheme}:// is ?{VERSIONS[scheme]}=; a ? in a key is written %3F")
    plain = unquote(key)
    if not {".", ".."}.isdisjoint(plain.split("/")):
        raise ValueError("a key with . or .. between slashes cannot be asked for: on the way it becomes another key")
    return BucketAddress(scheme, bucket, plain, unquote(version) if mark else None)


def pinned(url: str, headers: Mapping[str, str]) -> str | None:
    """The URL that means for ever what `headers` were answered with; None where the bucket keeps no versions."""
    address, _, _ = url.partition("?")
    scheme = address.partition("://")[0].lower()
    version = headers.get(TOLD[scheme], NO_VERSION)
    return None if version == NO_VERSION else f"{address}?{VERSIONS[scheme]}={quote(version, safe='')}"
