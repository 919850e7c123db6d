"""A small question to a store: what it says of an artifact, and not the artifact.

    head     the head of the answer, a redirect's own head where it leads elsewhere
    get      a short body, JSON as a rule

Not a download: the answer is held in memory, and short. Invariants: headers go to the origin that was asked, and no
further; a redirect is followed within that origin only, since a store's answer elsewhere is not the store's.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin

from ..artifact.urls import origin, redact
from ..cancel import Cancel
from ..config import Settings, version
from . import slots
from .exchange import exchange
from .failure import Failure, parse_retry_after, retried
from .redirects import REDIRECTS

__all__ = ["Reply", "get", "head"]

MOST_HOPS = 5
LONGEST_REPLY = 64 << 20  # bytes

Asked = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """`headers`: names in lower case. `location`: the absolute address that a redirect out of the origin names."""

    status: int
    url: str
    headers: dict[str, str]
    body: bytes = b""
    location: str | None = None


def head(url: str, headers: Asked, cancel: Cancel) -> Reply:
    """Raises Failure for what may pass (429, 5xx, a broken connection), Cancelled, Offline."""
    return _ask("HEAD", url, headers, cancel)


def get(url: str, headers: Asked, cancel: Cancel) -> Reply:
    """Raises what `head` raises, and Failure for a body of more than 64 MiB."""
    return _ask("GET", url, headers, cancel)


def _ask(method: str, url: str, headers: Asked, cancel: Cancel) -> Reply:
    for _ in range(MOST_HOPS):
        reply = _once(method, url, headers, cancel)
        if reply.location is None or origin(reply.location) != origin(url):
            return reply
        url = reply.location
    raise Failure(f"more than {MOST_HOPS} redirects", lasting=True)


def _once(method: str, url: str, headers: Asked, cancel: Cancel) -> Reply:
    settings = Settings.read(offline=False)
    sent = [("User-Agent", f"nanocache/{version()}"), ("Accept-Encoding", "identity"), *headers]
    with (
        slots.slot(origin(url), limit=settings.connections, budget=settings.budget, cancel=cancel),
        exchange(url, sent, settings=settings, cancel=cancel, method=method) as response,
    ):
        status = response.status
        if retried(status):
            wait = parse_retry_after(response.headers.get("retry-after"), time.time())
            raise Failure(f"{status} from {redact(url)}", status=status, retry_after=wait)
        location = response.headers.get("location") if status in REDIRECTS else None
        return Reply(
            status,
            url,
            response.headers,
            b"" if method == "HEAD" or location else _short(response.body),
            None if location is None else _absolute(url, location),
        )


def _absolute(url: str, location: str) -> str:
    try:
        absolute = urljoin(url, location.strip())
        origin(absolute)
    except ValueError:
        raise Failure("it redirects to something that is not a URL", lasting=True) from None
    return absolute


def _short(chunks: Iterable[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > LONGEST_REPLY:
            raise Failure(f"it answered with more than {LONGEST_REPLY:,} bytes", lasting=True)
    return bytes(body)
