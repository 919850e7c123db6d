"""From the artifact's URL to the answer that carries it: redirects by hand, and what each address may be told.

Not httpx's redirects: those read and decode the body of every redirect, follow https to http, and keep all headers but
Authorization across origins. Invariants: the caller's headers and the URL's userinfo go to the URL's own origin
(scheme, host, port), and once a chain has left it they are not sent again; the body of a redirect is never read.
"""

from __future__ import annotations

import base64
import functools
import logging
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import unquote, urljoin, urlsplit

from ..artifact.urls import origin, redact
from ..callers import let_pass
from ..cancel import Cancel
from ..config import Settings, version
from . import slots
from .exchange import Response, exchange
from .failure import Failure, parse_retry_after, retried

__all__ = ["Address", "Answer", "Target", "get"]

logger = logging.getLogger("nanocache")

MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
ANSWERS = (200, 206, 304, 416)  # what a transfer knows how to take; all else is a failure


@dataclass(frozen=True, slots=True)
class Target:
    """One address of the artifact before any redirect, and the headers meant for its origin alone."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a target's redirects led."""

    url: str
    own: bool = True  # every step so far stayed at the target's origin
    hops: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    response: Response
    address: Address


@contextmanager
def get(
    target: Target,
    asked: Iterable[tuple[str, str]] = (),
    *,
    at: Address | None = None,
    settings: Settings,
    cancel: Cancel,
    patient: bool = True,
) -> Iterator[Answer]:
    """The answer (200, 206, 304 or 416) to a GET with the headers `asked`, its body unread, while the block runs.

    `at`: begin where an earlier answer came from. Not `patient`: raise Busy rather than wait for a free connection.
    Raises Failure (any other status is one), Cancelled, Offline.
    """
    address = at or Address(target.url)
    for _ in range(MOST_REDIRECTS + 1):
        with (
            slots.slot(origin(address.url), limit=settings.connections, cancel=cancel, patient=patient),
            exchange(address.url, _headers(target, address, asked), settings=settings, cancel=cancel) as response,
        ):
            if response.status not in REDIRECTS or "location" not in response.headers:
                _check_status(target, address, response)
                yield Answer(response, address)
                return
        address = _next(address, response.headers["location"])
    raise Failure(f"more than {MOST_REDIRECTS} redirects", lasting=True)


def _next(address: Address, location: str) -> Address:
    try:
        url = urljoin(address.url, location.strip())
        before = origin(address.url)
        after = origin(url)
    except ValueError:
        raise Failure("it redirects to something that is not a URL", lasting=True) from None
    if after[0] not in ("http", "https") or not after[1]:
        raise Failure(f"it redirects to {redact(url)!r}, which is neither http nor https", lasting=True)
    if (before[0], after[0]) == ("https", "http"):
        raise Failure(
            f"it redirects from https to {redact(url)}, where others on the way can read and change it", lasting=True
        )
    return Address(url, own=address.own and before == after, hops=address.hops + 1)


def _check_status(target: Target, address: Address, response: Response) -> None:
    status = response.status
    if status in ANSWERS:
        return
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "of no known meaning"
    elsewhere = f" from {redact(address.url)}" if address.hops else ""
    raise Failure(
        f"{status} {phrase}{elsewhere}",
        lasting=not retried(status),
        status=status,
        retry_after=parse_retry_after(response.headers.get("retry-after"), time.time()),
        remedy=_remedy(target, address, status),
    )


def _remedy(target: Target, address: Address, status: int) -> str:
    if status not in (401, 403):
        return ""
    host = urlsplit(address.url).hostname
    netrc = f"~/.netrc (a machine named exactly {host})"
    if not address.own:
        return f"a redirect led to another origin, which gets no headers of yours, only what is in {netrc}"
    return f"credentials come from headers=, else user:password@ in the URL, else {netrc}"


# --- what is sent -----------------------------------------------------------------------------------------------------


def _headers(target: Target, address: Address, asked: Iterable[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    given = target.headers if address.own else ()
    names = {name.lower() for name, _ in given}
    headers = [(name, value) for name, value in _defaults().items() if name.lower() not in names]
    headers += [*given, *asked]
    if "authorization" not in names and (login := _login(target, address)):
        headers.append(("Authorization", "Basic " + base64.b64encode(":".join(login).encode()).decode()))
    return headers


@functools.cache
def _defaults() -> dict[str, str]:
    return {"Accept-Encoding": "identity", "Accept": "*/*", "User-Agent": f"nanocache/{version()}"}


def _login(target: Target, address: Address) -> tuple[str, str] | None:
    # Of the caller's URL alone: a redirect must not choose the login that another server is shown.
    parts = urlsplit(target.url)
    if address.own and parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    return _from_netrc(urlsplit(address.url).hostname or "")


def _from_netrc(host: str) -> tuple[str, str] | None:
    path = os.environ.get("NETRC") or os.path.expanduser("~/.netrc")
    try:
        st = os.stat(path)
    except OSError as e:
        let_pass(e)
        return None
    return _read_netrc(path, st.st_mtime_ns, st.st_size).get(host)


@functools.lru_cache(maxsize=4)
def _read_netrc(path: str, *_: int) -> dict[str, tuple[str, str]]:
    from netrc import NetrcParseError, netrc

    try:
        hosts = netrc(path).hosts
    except (NetrcParseError, OSError, UnicodeDecodeError) as e:
        line = f", line {e.lineno}" if isinstance(e, NetrcParseError) else ""  # its own text holds what stands there
        logger.warning("%s%s cannot be read, so no login is taken from it", path, line)
        return {}
    # Exactly this host: `default` would give its password to every server that a redirect leads to.
    return {host: (login, password or "") for host, (login, _, password) in hosts.items() if host != "default"}
