"""One HTTP exchange: a request goes out, the head of its answer comes back, the body waits to be read.

Not a policy: no redirect is followed here, no credential chosen, nothing tried again. It stands on httpcore, the engine
of httpx, rather than on `httpx.Client`, which keeps cookies, logs whole URLs, reads the bodies of redirects, and can't
end a connection attempt after its caller has left; a small file costs it half as much again. What httpx knows
about URLs, proxies and certificates is used from there.

Invariants: nothing else imports httpx, and httpcore only `network` below; one connection is used by one thread at a
time; a cancelled exchange ends at once in every phase but the look-up of the host's name; nothing is sent offline; a
forked child uses no connection of its parent; no text of this room or of httpcore's log holds a query, a password or a
header's value.
"""

from __future__ import annotations

import atexit
import functools
import importlib.util
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..artifact.urls import origin, redact
from ..cancel import Cancel
from ..config import Settings
from . import environment, socket
from .backend import CONNECT_TIMEOUT, LONGEST_HEAD, Network, failures, quiet, without_values
from .environment import Proxy
from .failure import Failure, Offline
from .idle import close_all as _close_idle
from .idle import give_back, take
from .idle import kept as _idle

__all__ = ["Response", "exchange"]

IDLE = 15.0  # seconds that an idle connection may be used again; servers drop theirs after 60 as a rule


@dataclass(slots=True)
class Response:
    """The head of an answer, and its body: raw bytes as they were sent, which come once."""

    status: int
    url: str  # may hold secrets: redact it before it is seen
    headers: dict[str, str]  # names in lower case; repeated ones joined by a comma
    body: Iterator[bytes]  # raises Failure and Cancelled
    latency: float = 0.0  # seconds from the request to the head, a new connection included
    waited: Callable[[], float] = lambda: 0.0  # seconds so far in which the socket had nothing to read
    proxy: Proxy | None = None  # that it came through


@contextmanager
def exchange(
    url: str,
    headers: Iterable[tuple[str, str]],
    *,
    settings: Settings,
    cancel: Cancel,
    method: str = "GET",
    content: Iterable[bytes] = (),
    connecting: float = CONNECT_TIMEOUT,
) -> Iterator[Response]:
    """GET `url`, or what else `method` says, with exactly these headers (and Host), for as long as the block runs.

    `content`: what is sent; iterated once more where a kept connection turns out to be closed. `connecting`: seconds.
    A body that was read to its end leaves the connection to the next exchange; any other end closes it.
    Raises Failure, Cancelled, Offline.
    """
    if settings.offline:
        raise Offline
    request = _request(method, url, headers, settings.timeout, connecting, content)
    connection = _take(environment.proxy(*origin(url)), request.url.origin)
    try:
        with (
            cancel.watch(connection.network.socket.shutdown),
            connection.ask(request, url, settings.timeout, cancel) as response,
        ):
            yield response
    except BaseException:
        connection.close()
        raise
    _give_back(connection)


# --- connections ------------------------------------------------------------------------------------------------------


class _KeptConnection:
    """A connection to one origin (through one proxy), opened when needed and reopened when it was closed."""

    def __init__(self, key: tuple[Any, ...], target: Any, proxy: Proxy | None) -> None:
        import httpcore

        _register()
        self.key = key
        self.proxy = proxy
        self.network = Network()
        self.since = 0.0  # monotonic seconds since which it is idle
        self.used = False
        options: dict[str, Any] = {
            "ssl_context": _trust(*environment.certificates()) if target.scheme == b"https" else None,
            "keepalive_expiry": IDLE,
            "network_backend": self.network,
        }
        self._open: Callable[[], Any]
        if proxy is None:  # without a pool around it: there is one connection, and nothing to share out
            self._open = lambda: httpcore.HTTPConnection(target, **options)
        else:
            through = _proxy(proxy)
            self._open = lambda: httpcore.ConnectionPool(proxy=through, max_connections=1, **options)
        self._connection: Any = None

    @contextmanager
    def ask(self, request: Any, url: str, timeout: float, cancel: Cancel) -> Iterator[Response]:
        asked = time.monotonic()
        with failures(cancel, timeout, self.proxy), quiet:
            answer = self._send(request)
        latency = time.monotonic() - asked
        body = _body(answer, cancel, timeout, self.proxy)
        waited = self.network.waited
        try:
            yield Response(answer.status, url, _decoded(answer.headers), body, latency, waited, self.proxy)
        finally:
            answer.close()

    def _send(self, request: Any) -> Any:
        import httpcore

        self.network.begin()
        used = self.used
        self.used = True
        try:
            return self._ask_once(request)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if not used or self.network.socket.dead:
                raise
        # The server closed the kept connection in the very moment of its next use. What we send may be repeated.
        return self._ask_once(request)

    def _ask_once(self, request: Any) -> Any:
        if not self._reusable:
            self.close()
            self._connection = self._open()
        self.network.head = LONGEST_HEAD
        answer = self._connection.handle_request(request)
        self.network.head = None
        return answer

    @property
    def _connections(self) -> list[Any]:
        return getattr(self._connection, "connections", [self._connection])

    @property
    def _reusable(self) -> bool:
        return self._connection is not None and self.idle and not any(c.has_expired() for c in self._connections)

    @property
    def idle(self) -> bool:
        """Whether it can carry another request: it is open, and nothing came behind the last answer."""
        return any(c.is_idle() and not c.is_closed() and not _unread(c) for c in self._connections)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _take(proxy: Proxy | None, target: Any) -> _KeptConnection:
    key = (target.scheme, target.host, target.port, proxy, *environment.certificates())
    connection: _KeptConnection | None = take(key, IDLE)
    return _KeptConnection(key, target, proxy) if connection is None else connection


def _give_back(connection: _KeptConnection) -> None:
    if connection.network.socket.dead or not connection.idle:
        connection.close()
    else:
        give_back(connection)


def _unread(connection: Any) -> bool:
    """Whether bytes came behind the answer: the next exchange would take them for its own answer.

    True also if that can't be told: httpcore knows, but does not say.
    """
    while connection is not None:
        if (state := getattr(connection, "_h11_state", None)) is not None:
            return bool(state.trailing_data[0])
        connection = getattr(connection, "_connection", None)
    return True


@functools.cache
def _register() -> None:
    atexit.register(_close_idle)
    os.register_at_fork(after_in_child=_forget)
    logging.getLogger("httpcore.http11").addFilter(without_values)


def _forget() -> None:
    socket.close_all()
    _idle.clear()


# --- requests and answers ---------------------------------------------------------------------------------------------


# A URL in whose path and query httpx has nothing to encode and no dot segment to resolve.
_PLAIN = re.compile(r"(https?://[^/?#]+)((?:/(?!\.)[\w!$&'()*+,;=:@~.-]*)+(?:\?[\w!$&()*+,;=:@~./-]*)?)", re.ASCII)


def _request(
    method: str,
    url: str,
    headers: Iterable[tuple[str, str]],
    timeout: float,
    connecting: float = CONNECT_TIMEOUT,
    content: Iterable[bytes] = (),
) -> Any:
    import httpcore
    import httpx

    try:
        server, target = _parsed(url)
    except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):  # its port and its characters were looked at before
        raise Failure(f"{redact(url)!r} names no host that can be asked, or is too long", lasting=True) from None
    raw = [_encoded(name, value) for name, value in headers]
    connect = min(connecting, timeout)
    return httpcore.Request(
        method,
        httpcore.URL(scheme=server.raw_scheme, host=server.raw_host, port=server.port, target=target),
        headers=[(b"Host", server.netloc), *raw],
        content=content,
        extensions={"timeout": {"connect": connect, "read": timeout, "write": timeout, "pool": connect}},
    )


def _parsed(url: str) -> tuple[Any, bytes]:
    """(httpx.URL of the server, what to ask it for). Raises httpx.InvalidURL."""
    if (plain := _PLAIN.fullmatch(url)) is not None:
        return _server(plain[1]), plain[2].encode()
    server = _server(url)
    return server, server.raw_path or b"/"


@functools.lru_cache(maxsize=64)  # 35 us each, a thirtieth of a small artifact
def _server(url: str) -> Any:
    import httpx

    return httpx.URL(url)


def _encoded(name: str, value: str) -> tuple[bytes, bytes]:
    try:
        return name.encode("ascii"), value.encode("utf-8")
    except UnicodeError:
        raise Failure(f"the header {name!r} of the request is not valid", lasting=True) from None


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    read: dict[str, str] = {}
    for name, value in headers:
        key = name.decode("latin-1").lower()
        # Of an address every byte counts; `redirects` writes those beyond ASCII as %XX.
        text = value.decode("utf-8", "surrogateescape" if key == "location" else "replace")
        read[key] = f"{read[key]}, {text}" if key in read else text
    return read


def _body(answer: Any, cancel: Cancel, timeout: float, proxy: Proxy | None) -> Iterator[bytes]:
    chunks = answer.iter_stream()
    with failures(cancel, timeout, proxy):
        while (chunk := _next(chunks)) is not None:
            yield chunk
    cancel.check()  # a body that ends with its connection also ends when the socket is shut down


def _next(chunks: Iterator[bytes]) -> bytes | None:
    with quiet:
        return next(chunks, None)


# --- proxies and trust ------------------------------------------------------------------------------------------------


def check_environment() -> list[str]:
    """What the environment says of proxies and certificates, in words. Raises Failure for what cannot be used."""
    through = [environment.proxy(scheme, "host.invalid", port) for scheme, port in (("http", 80), ("https", 443))]
    proxies = [proxy for proxy in dict.fromkeys(through) if proxy is not None]
    for proxy in proxies:
        _proxy(proxy)
    trusted = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    if trusted:
        _trust(*environment.certificates())
    return [*map(str, proxies), *(f"certificates of {name}" for name in trusted)]


def _proxy(given: Proxy) -> Any:
    import httpcore
    import httpx

    try:
        proxy = httpx.Proxy(given.url)
        origin(given.url)
    except (httpx.InvalidURL, ValueError):
        raise Failure(f"{given} is not a valid URL of one", lasting=True, remedy=given.remedy) from None
    target = proxy.url
    if not target.raw_host:
        raise Failure(f"{given} names no host", lasting=True, remedy=given.remedy)
    if target.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        remedy = f"pip install socksio, or {given.remedy}"
        raise Failure(f"{given} speaks SOCKS, which needs a package", lasting=True, remedy=remedy)
    return httpcore.Proxy(
        httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
        auth=proxy.raw_auth,
        ssl_context=_trust(*environment.certificates()) if target.scheme == "https" else None,
    )


@functools.lru_cache(maxsize=4)  # 20 ms each
def _trust(file: str | None, folder: str | None) -> Any:
    # httpx's own rule, but with the variables as they were read for the key: if they were read again, a change in
    # between would leave one pair's trust under the other's key for good.
    import ssl

    import httpx

    if not file and not folder:
        return httpx.create_ssl_context(trust_env=False)
    try:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    except OSError as e:  # ssl.SSLError is one: no PEM. An environment that is gone leaves its SSL_CERT_FILE behind
        reason = "holds no certificates" if isinstance(e, ssl.SSLError) else e.strerror or str(e)
        remedy = "let it name a file of certificates in PEM, or unset it"
        shown = "".join(c if c.isprintable() else "?" for c in file or "")
        raise Failure(f"SSL_CERT_FILE ({shown}) cannot be used: {reason}", lasting=True, remedy=remedy) from None
