"""gs://BUCKET/KEY: Google Cloud Storage, by its XML API. Where an object is; its bytes are fetched as ever.

With a token of google-auth where that is installed, else signed by obstore. Source: "XML API reference" and
"Transcoding of gzip-compressed files", Cloud Storage.

Invariant: an object that was stored compressed is asked for as it is stored, because Google otherwise unpacks it on the
way, and then its length, its ranges and its ETag belong to other bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import quote

from ..artifact import buckets
from ..artifact.buckets import BucketAddress
from ..artifact.headers import Pairs
from ..http.failure import Failure
from . import bucket_refusals, by_google, by_obstore
from .protocol import Resolved
from .signed import Signed, missing

__all__ = ["GoogleStorage", "source"]

ENDPOINT = "https://storage.googleapis.com"
AS_STORED = ("Accept-Encoding", "gzip")


def source() -> GoogleStorage:
    return GoogleStorage()


class GoogleStorage:
    """All buckets of Google's, or those of the emulator that STORAGE_EMULATOR_HOST names."""

    def resolve_with(self, url: str, headers: Pairs) -> Resolved:
        """Where the object of `url` is. Raises Failure, Cancelled."""
        address = buckets.parse(url)
        return self._sign(address, headers).resolved((AS_STORED, *headers), address.version)

    def _sign(self, address: BucketAddress, headers: Pairs) -> Signed:
        if emulator := os.environ.get("STORAGE_EMULATOR_HOST"):
            return Signed(_at_emulator(emulator, address), is_signed=False)
        if any(name.lower() == "authorization" for name, _ in headers):
            return Signed(_plain(address))
        if by_google.is_installed():
            return _with_token(address)
        if not by_obstore.is_installed():
            raise missing("gs", "google-auth or obstore")
        return _by_obstore(address, headers)

    def pin(self, url: str, headers: Mapping[str, str]) -> str | None:
        """The URL of the version that was answered."""
        return buckets.pinned(url, headers)

    def explain(self, url: str, refused: Resolved, failure: Failure) -> Failure | None:
        """What a refusal means. Raises Failure, Cancelled."""
        return bucket_refusals.explain(buckets.parse(url), refused) or failure


def _at_emulator(host: str, address: BucketAddress) -> str:
    base = host if "://" in host else f"http://{host}"
    path = f"/download/storage/v1/b/{address.bucket}/o/{quote(address.key, safe='')}?alt=media"
    return base.rstrip("/") + path + ("" if address.version is None else f"&generation={quote(address.version)}")


def _plain(address: BucketAddress) -> str:
    version = "" if address.version is None else f"?generation={quote(address.version)}"
    return f"{ENDPOINT}/{address.bucket}/{quote(address.key)}{version}"


def _with_token(address: BucketAddress) -> Signed:
    got = by_google.token()
    if got is None:
        return Signed(_plain(address), is_signed=False)
    token, expires = got
    return Signed(_plain(address), (("Authorization", f"Bearer {token}"),), expires=expires)


def _by_obstore(address: BucketAddress, headers: Pairs) -> Signed:
    signed = by_obstore.sign(address, {})
    if not signed.is_signed:
        return Signed(_plain(address), is_signed=False)
    if address.version is not None or any(name.lower().startswith("x-goog-") for name, _ in headers):
        reason = "obstore signs neither generations nor headers"
        raise Failure(reason, lasting=True, remedy="pip install google-auth requests")
    return signed
