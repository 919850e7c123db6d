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
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import quote, unquote, urljoin, urlsplit

from ..artifact.urls import origin, redact
from ..callers import let_pass
from ..cancel import Cancel
from ..config import Settings, version
from . import slots
from .exchange import Response, exchange
from .failure import Failure, parse_retry_after, retried

__all__ = ["Address", "Answer", "Target", "get", "headers_for"]

logger = logging.getLogger("nanocache")

MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
_AUTHORITY = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
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
    cookie: bool = False  # a redirect on the way set one


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
            slots.slot(
                origin(address.url),
                limit=settings.connections,
                budget=settings.budget,
                cancel=cancel,
                patient=patient,
            ),
            exchange(address.url, headers_for(target, address, asked), settings=settings, cancel=cancel) as response,
        ):
            if response.status not in REDIRECTS or "location" not in response.headers:
                _check_status(target, address, response)
                yield Answer(response, address)
                return
        address = _next(address, response.headers)
    raise Failure(f"more than {MOST_REDIRECTS} redirects", lasting=True, remedy=_about_cookie(address))


def _next(address: Address, headers: Mapping[str, str]) -> Address:
    try:
        url = urljoin(address.url, _in_ascii(headers["location"].strip()))
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
    cookie = address.cookie or "set-cookie" in headers
    return Address(url, own=address.own and before == after, hops=address.hops + 1, cookie=cookie)


def _in_ascii(location: str) -> str:
    """`location` with each byte beyond ASCII as %XX, as browsers and curl ask for it; a host's name has its own way."""
    authority = _AUTHORITY.match(location)
    end = authority.end() if authority else 0
    return location[:end] + _BEYOND_ASCII.sub(_escaped, location[end:])


def _escaped(found: re.Match[str]) -> str:
    return quote(found[0], errors="surrogateescape")


def _check_status(target: Target, address: Address, response: Response) -> None:
    status = response.status
    if status in ANSWERS:
        _warn_of_page(address, response)
        return
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "of no known meaning"
    elsewhere = f" from {redact(address.url)}" if address.hops else ""
    through = f", through {response.proxy}" if response.proxy is not None else ""
    raise Failure(
        f"{status} {phrase}{elsewhere}{through}",
        lasting=not retried(status),
        status=status,
        retry_after=parse_retry_after(response.headers.get("retry-after"), time.time()),
        remedy=_remedy(target, address, response),
    )


def _remedy(target: Target, address: Address, response: Response) -> str:
    if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and response.proxy is not None:
        return response.proxy.login
    cookie = _about_cookie(address)
    if response.status not in (401, 403):
        return cookie
    host = urlsplit(address.url).hostname
    netrc = f"~/.netrc (a machine named exactly {host})"
    if not address.own:
        remedy = f"a redirect led to another origin, which gets no headers of yours, only what is in {netrc}"
    else:
        remedy = f"credentials come from headers=, else user:password@ in the URL, else {netrc}"
    return "; ".join(filter(None, (remedy, cookie)))


def _about_cookie(address: Address) -> str:
    """What a person may have to know of a failure behind a redirect that set a cookie; empty without one."""
    if not address.cookie:
        return ""
    way = "headers={'Cookie': '...'}" if address.own else "the address behind the redirects, or another one"
    return f"a redirect set a cookie, and nanocache keeps none: if the site wants one, give {way}"


def _warn_of_page(address: Address, response: Response) -> None:
    if address.cookie and response.headers.get("content-type", "").lower().startswith("text/html"):
        logger.warning("%s came from a web page: %s", redact(address.url), _about_cookie(address))


# --- what is sent -----------------------------------------------------------------------------------------------------


def headers_for(target: Target, address: Address, asked: Iterable[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """All headers of a request at `address`: a target's own, with its login, only as long as the way there was."""
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
