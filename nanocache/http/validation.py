"""What the head of an answer promises, and whether it is what was asked for.

Pure. Source: RFC 9110, above all 8.8 (validators), 13.1.5 (If-Range), 14.4 (Content-Range), 15.3.7 (206). Invariant:
bytes of two versions never end up in one file: a part is taken only at the place, of the length and of the version that
the first answer gave; on any doubt the transfer starts over.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from .failure import StartOver

__all__ = [
    "ResponseInfo",
    "check_part",
    "is_part",
    "parse_content_range",
    "part_headers",
    "read_info",
    "strong_validator",
]

ResponseHeaders = Mapping[str, str]  # names in lower case
PLAIN = ("", "identity")  # encodings of a body that is the artifact itself
PAGES = ("text/html", "application/xhtml+xml")
CODINGS = ("gzip", "x-gzip", "deflate", "br", "zstd", "compress")  # an error names them, and nothing else a server says
_OF_PARTS = re.compile(r'-\d+"?$')  # how S3's ETag of an object that was uploaded in parts ends
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ResponseInfo:
    """What the answer with status 200 says about the artifact. Sizes in bytes."""

    total: int | None = None
    validator: str | None = None  # strong, as If-Range wants it
    etag: str | None = None
    last_modified: str | None = None
    ranges: bool = False  # announced, and of use
    framed: bool = True  # the end can be told from a cut
    encoding: str | None = None  # sent in spite of `identity`: one of CODINGS, or "unknown"
    page: bool = False  # HTML
    sha256: str | None = None  # of the whole artifact, as the server vouches for it
    version: str | None = None  # as the artifact's source vouches for it, whatever the server sends


def read_info(headers: ResponseHeaders) -> ResponseInfo:
    """What the head of a 200 says."""
    chunked = "transfer-encoding" in headers
    length = headers.get("content-length", "").split(",")[0].strip()
    total = int(length) if length.isdigit() and not chunked else None
    encoding = _encoding(headers)
    plain = encoding in PLAIN
    units = {unit.strip().lower() for unit in headers.get("accept-ranges", "").split(",")}
    return ResponseInfo(
        total=total,
        # What was encoded on the way out may be encoded otherwise the next time: its offsets mean nothing.
        validator=strong_validator(headers) if plain else None,
        etag=headers.get("etag"),
        last_modified=headers.get("last-modified"),
        ranges=plain and "bytes" in units,
        framed=chunked or total is not None,
        encoding=None if plain else _known_coding(encoding),
        page=_media_type(headers) in PAGES,
        sha256=_vouched_sha256(headers) if plain else None,
    )


def _vouched_sha256(headers: ResponseHeaders) -> str | None:
    """The digest of a whole object, as S3 says it in the answer itself if it is asked to.

    Only where S3 calls it one: that of an object in parts is a hash of hashes, and some servers do not say which it is.
    """
    if headers.get("x-amz-checksum-type") != "FULL_OBJECT" or _OF_PARTS.search(headers.get("etag", "")):
        return None
    try:
        digest = base64.b64decode(headers.get("x-amz-checksum-sha256", ""), validate=True)
    except binascii.Error:
        return None
    return digest.hex() if len(digest) == 32 else None


def _known_coding(encoding: str) -> str:
    return encoding if encoding in CODINGS else "unknown"


def strong_validator(headers: ResponseHeaders) -> str | None:
    """The validator that proves two parts to be of one version, or None: a strong ETag, else a Last-Modified that is
    at least a minute older than the answer (RFC 9110 8.8.2.2; within it the file may have changed twice)."""
    etag = headers.get("etag", "").strip()
    if etag:
        return etag if len(etag) >= 2 and etag[0] == etag[-1] == '"' else None
    try:
        modified, date = (parsedate_to_datetime(headers[name]) for name in ("last-modified", "date"))
        return headers["last-modified"] if (date - modified).total_seconds() >= 60 else None
    except (KeyError, ValueError, TypeError, OverflowError):
        return None


def part_headers(start: int, end: int | None, validator: str | None, condition: str) -> list[tuple[str, str]]:
    """What to send for [start, end), to the end of the artifact if `end` is None. `condition`: If-Range or If-Match."""
    headers = [("Range", f"bytes={start}-{'' if end is None else end - 1}")]
    if validator is None:
        return headers
    if condition == "If-Match" and not validator.startswith('"'):  # If-Range alone takes a date as well
        condition = "If-Unmodified-Since"
    return [*headers, (condition, validator)]


def is_part(status: int, headers: ResponseHeaders) -> bool:
    """Whether an answer to a range is a part: some S3 servers give it with 200, and say which part it is."""
    return status == 206 or (status == 200 and "content-range" in headers)


def parse_content_range(text: str | None) -> tuple[int, int, int | None] | None:
    """(start, end, total) of a Content-Range, `end` exclusive, `total` None for `*`; None if it makes no sense."""
    if not text or not (match := _CONTENT_RANGE.fullmatch(text.strip())):
        return None
    start = int(match[1])
    end = int(match[2]) + 1
    total = None if match[3] == "*" else int(match[3])
    if start >= end or (total is not None and end > total):
        return None
    return start, end, total


def check_part(headers: ResponseHeaders, info: ResponseInfo, start: int, end: int | None) -> tuple[int, int | None]:
    """(where the part in a 206 ends, the artifact's size as far as known).

    Raises StartOver unless the part begins at `start` and is of the version that `info` tells of. It may be shorter
    than [start, end), which is legal.
    """
    if _media_type(headers).startswith("multipart/"):
        raise StartOver("it sent multipart ranges to one range")
    part = parse_content_range(headers.get("content-range"))
    if part is None:
        raise StartOver("it sent a part without saying which")
    got_start, got_end, total = part
    _check_place(got_start, got_end, start, end)
    _check_version(headers, info, total)
    _check_body(headers, got_end - got_start)
    return got_end, info.total if total is None else total


def _check_place(got_start: int, got_end: int, start: int, end: int | None) -> None:
    if got_start == start and (end is None or got_end <= end):
        return
    asked = f"{start:,}-{'' if end is None else end - 1}"
    raise StartOver(f"it sent bytes {got_start:,}-{got_end - 1:,} where {asked} was asked for")


def _check_version(headers: ResponseHeaders, info: ResponseInfo, total: int | None) -> None:
    if info.total is not None and total not in (None, info.total):
        raise StartOver(f"its size changed from {info.total:,} to {total:,} bytes")
    if info.validator is not None and not _same(headers, info.validator):
        raise StartOver("it changed meanwhile")


def _check_body(headers: ResponseHeaders, size: int) -> None:
    length = headers.get("content-length", "")
    if length.isdigit() and int(length) != size:
        raise StartOver("it sent a part of another length than it said")
    if _encoding(headers) not in PLAIN:
        raise StartOver("it sent a part in another encoding")


def _media_type(headers: ResponseHeaders) -> str:
    return headers.get("content-type", "").split(";")[0].strip().lower()


def _encoding(headers: ResponseHeaders) -> str:
    return headers.get("content-encoding", "").strip().lower()


def _same(headers: ResponseHeaders, validator: str) -> bool:
    # A server that let If-Range pass may leave out what it had to repeat (RFC 9110 15.3.7); another value is a no.
    name = "etag" if validator.startswith('"') else "last-modified"
    return headers.get(name, validator).strip() == validator
