"""s3://BUCKET/KEY: Amazon S3 and what speaks like it. Where an object is, signed for an hour.

Signed by botocore where it is installed, else by obstore. The object is not asked about beforehand: the answer to its
plain GET has size, ETag and, where S3 vouches for one, SHA-256, so a HEAD would double the time of a small object and
tell nothing more. Source: Amazon S3 API reference, GetObject.

Invariants: every part is asked for with If-Match, because S3 has no If-Range; a customer's key is sent and signed, and
written nowhere; a bucket of another region is asked there, once it has said where it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..artifact import buckets
from ..artifact.buckets import BucketAddress
from ..artifact.headers import Pairs
from ..http.failure import Failure
from . import bucket_refusals, by_botocore, by_obstore
from .bucket_refusals import Refusal
from .protocol import Resolved
from .signed import Method, Signed, missing

__all__ = ["S3", "source"]

ASK_FOR_DIGEST = ("x-amz-checksum-mode", "ENABLED")  # the answer to a plain GET has it then: no second request
WRONG_REGION = (301, 307, 400)
REFUSED_ASKING = "InvalidArgument"  # Backblaze B2, which does not know the header


def source() -> S3:
    return S3()


class S3:
    """All buckets, at the endpoint that the environment names, Amazon's by default."""

    def __init__(self) -> None:
        self._regions: dict[str, str] = {}  # bucket -> where it said that it is
        self._without_digests: set[str] = set()  # buckets that are not to be asked for one

    def resolve_with(self, url: str, headers: Pairs) -> Resolved:
        """Where the object of `url` is. Raises Failure, Cancelled."""
        address = buckets.parse(url)
        to_sign, others = _split(headers)
        return self._sign(address, to_sign).resolved(others, address.version)

    def resolve_as(self, url: str, method: Literal["HEAD", "PUT"]) -> Resolved:
        """Where the object of `url` is asked about, or put. Raises Failure, Cancelled."""
        return self._sign(buckets.parse(url), (), method).resolved((), None)

    def _sign(self, address: BucketAddress, headers: Pairs, method: Method = "GET") -> Signed:
        region = self._regions.get(address.bucket)
        if by_botocore.is_installed():
            asking = () if method != "GET" or address.bucket in self._without_digests else (ASK_FOR_DIGEST,)
            return by_botocore.sign(address, (*asking, *headers), region, method)
        if not by_obstore.is_installed():
            raise missing("s3", "botocore or obstore")
        if headers or address.version is not None:
            raise Failure("obstore signs neither versions nor headers", lasting=True, remedy="pip install botocore")
        return by_obstore.sign(address, {} if region is None else {"region": region}, method)

    def pin(self, url: str, headers: Mapping[str, str]) -> str | None:
        """The URL of the version that was answered."""
        return buckets.pinned(url, headers)

    def explain(self, url: str, refused: Resolved, failure: Failure) -> Failure | None:
        """What a refusal means; None where the bucket is to be asked otherwise. Raises Failure, Cancelled."""
        refusal = bucket_refusals.ask(refused)
        if refusal is None:
            return failure
        address = buckets.parse(url)
        bucket = address.bucket
        if self._is_elsewhere(bucket, refusal, refused) or self._gives_no_digests(bucket, refusal, refused):
            return None
        return refusal.failure(address, is_signed=refused.expires is not None)

    def _is_elsewhere(self, bucket: str, refusal: Refusal, refused: Resolved) -> bool:
        """Whether the bucket is to be asked in another region than it was, and is so from now on."""
        region = refusal.region
        if region is None or refusal.status not in WRONG_REGION:
            return False
        self._regions[bucket] = region
        return f"%2F{region}%2F" not in refused.url and f".{region}." not in refused.url  # its signature, its host

    def _gives_no_digests(self, bucket: str, refusal: Refusal, refused: Resolved) -> bool:
        """Whether the bucket is not to be asked for digests from now on."""
        if refusal.code != REFUSED_ASKING or ASK_FOR_DIGEST not in refused.headers:
            return False
        self._without_digests.add(bucket)
        return True


def _split(headers: Pairs) -> tuple[Pairs, Pairs]:
    """(headers that S3 wants signed, names in lower case; all others). Raises Failure for what cannot be sent."""
    named = [(name.lower(), name, value) for name, value in headers]
    for lower, name, _ in named:
        is_unknown = lower.startswith("x-amz-") and lower not in by_botocore.SIGNED_HEADERS
        if is_unknown or lower == "authorization":
            raise Failure(
                f"the header {name} cannot be sent with a signed address", lasting=True, remedy="leave it off"
            )
    signed = tuple((lower, value) for lower, _, value in named if lower in by_botocore.SIGNED_HEADERS)
    of_key = [lower for lower, _ in signed if "-customer-" in lower]
    if of_key and len(set(of_key)) < 3:
        ending = "-algorithm, -key and -key-MD5"
        raise Failure(f"a customer's key is three headers: x-amz-server-side-encryption-customer{ending}", lasting=True)
    return signed, tuple((name, value) for lower, name, value in named if lower not in by_botocore.SIGNED_HEADERS)
