"""What the refusal of an object means, and what to do: a table of the codes of S3, Google and Azure.

An answer that refuses says why in its body, which a transfer does not read. So the address is asked once more, for one
byte, and that answer read. Invariant: of it only a code, a region and the date are used, because its text repeats what
was signed.

Sources: "Error responses", Amazon S3 API reference; "HTTP status and error codes for XML", Cloud Storage; "Blob service
error codes", Azure Storage.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from ..artifact.buckets import BucketAddress
from ..cancel import ambient
from ..http import inquiry
from ..http.failure import Failure
from ..http.inquiry import Reply
from .protocol import Resolved

__all__ = ["Refusal", "ask", "explain"]

CLOCKS_OFF = 300.0  # seconds; stores take signatures that are 15 minutes old at most, and none from the future
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9.]{1,80})\s*</Code>")
_REGION = re.compile(rb"<Region>\s*([a-z0-9-]{1,40})\s*</Region>")
_REGION_NAME = re.compile(r"[a-z0-9-]{1,40}")

_NO_BUCKET = ("there is no {container} {bucket}", "look at its name, and at the endpoint and account that are asked")
_NO_KEY = ("there is no object {key} in {bucket}", "")
_NO_VERSION = ("the object has no version {version}", "")
_EXPIRED = ("the session's token has expired", "log in again, or set the variables that hold the new token")
_WRONG_KEY = ("the store does not take these credentials", "look at the key and its secret: one of them is wrong")
_ENCRYPTED = (
    "the request lacks something",
    "an object that a customer's key encrypts needs x-amz-server-side-encryption-customer-algorithm, -key and -key-MD5",
)
_ARCHIVED = ("the object is archived", "restore it first")
_CODES: dict[str, tuple[str, str]] = {
    "NoSuchBucket": _NO_BUCKET,
    "ContainerNotFound": _NO_BUCKET,
    "NoSuchKey": _NO_KEY,
    "BlobNotFound": _NO_KEY,
    "NoSuchVersion": _NO_VERSION,
    "ExpiredToken": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "InvalidToken": _EXPIRED,
    "InvalidAccessKeyId": _WRONG_KEY,
    "SignatureDoesNotMatch": _WRONG_KEY,
    "AuthenticationFailed": _WRONG_KEY,
    "InvalidObjectState": _ARCHIVED,
    "BlobArchived": _ARCHIVED,
    "InvalidRequest": _ENCRYPTED,
    "UserProjectMissing": ("the bucket's readers pay", "give the header x-goog-user-project"),
}
_DENIED = ("these credentials may not read it", "{permission}; an object that does not exist is refused like this, too")
_NO_LOGIN = ("it was asked for without credentials, of which none were found", "{credentials}")
_CREDENTIALS = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; profiles and SSO are read where botocore is installed",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or run gcloud auth application-default login",
    "az": "set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
_PERMISSIONS = {
    "s3": "they need s3:GetObject, and kms:Decrypt for its key",
    "gs": "they need storage.objects.get",
    "az": "they need the role Storage Blob Data Reader",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """How one address is refused."""

    status: int
    code: str
    region: str | None  # where the store says that the bucket is
    behind: float | None  # seconds that this machine's clock is behind the store's

    def failure(self, address: BucketAddress, *, is_signed: bool) -> Failure:
        meaning, remedy = self._meaning(is_signed)
        facts = {
            "container": "container" if address.scheme == "az" else "bucket",
            "bucket": address.bucket,
            "key": address.key,
            "version": address.version,
            "credentials": _CREDENTIALS[address.scheme],
            "permission": _PERMISSIONS[address.scheme],
        }
        code = f" ({self.code})" if self.code else ""
        reason = f"{self.status}{code}: {meaning.format(**facts)}"
        return Failure(reason, lasting=True, status=self.status, remedy=remedy.format(**facts))

    def _meaning(self, is_signed: bool) -> tuple[str, str]:
        """(what it means, what to do)."""
        if self.status in (400, 401, 403) and is_signed and self._is_clock_off():
            way = "behind" if (self.behind or 0) > 0 else "ahead of"
            return f"this machine's clock is {abs(self.behind or 0):,.0f} s {way} the store's", "set it"
        if self.code in _CODES or (self.status == 404 and not self.code):
            return _CODES.get(self.code, _NO_KEY)
        if self.status in (401, 403, 409) or not is_signed:
            return _DENIED if is_signed else _NO_LOGIN
        if self.region is not None:
            return f"the bucket is in {self.region}", f"set AWS_DEFAULT_REGION={self.region}"
        return "the store refuses it", ""

    def _is_clock_off(self) -> bool:
        return self.behind is not None and abs(self.behind) > CLOCKS_OFF


def explain(address: BucketAddress, refused: Resolved) -> Failure | None:
    """What it means that `refused` is not answered; None if it is, now. Raises Failure, Cancelled."""
    refusal = ask(refused)
    return None if refusal is None else refusal.failure(address, is_signed=refused.expires is not None)


def ask(refused: Resolved) -> Refusal | None:
    """Why `refused` is not answered; None if it is, now. Raises Failure, Cancelled."""
    reply = inquiry.get(refused.url, (*refused.headers, ("Range", "bytes=0-0")), ambient())
    if reply.status < 300:
        return None
    code = _CODE.search(reply.body)
    name = reply.headers.get("x-ms-error-code", "") if code is None else code[1].decode()
    return Refusal(reply.status, name if name.isalnum() else "", _region(reply), _behind(reply))


def _region(reply: Reply) -> str | None:
    header = reply.headers.get("x-amz-bucket-region", "")
    if _REGION_NAME.fullmatch(header):
        return header
    said = _REGION.search(reply.body)
    return None if said is None else said[1].decode()


def _behind(reply: Reply) -> float | None:
    try:
        return parsedate_to_datetime(reply.headers["date"]).timestamp() - time.time()
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
