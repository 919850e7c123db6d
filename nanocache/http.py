"""One HTTP exchange: a GET goes out, the head of its answer comes back, the body waits to be read.

Not a policy: no redirect is followed here, no credential chosen, nothing tried again. It stands on httpcore, the engine
of httpx, rather than on `httpx.Client`, which keeps cookies, logs whole URLs, reads the bodies of redirects, and can't
end a connection attempt that nobody waits for any more; a small file costs it half as much again. What httpx knows
about URLs, proxies and certificates is used from there.

Invariants: nothing else imports httpx or httpcore; one connection is used by one thread at a time; a cancelled
exchange ends at once in every phase but the look-up of the host's name; nothing is sent while offline; a forked child
uses no connection of its parent; no text of ours or of httpcore's log holds a query, a password or a header's value.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from . import environment, sockets
from .cancel import Cancel
from .config import Settings
from .retry import Failure, Offline, Pace
from .sockets import READ, Wire
from .urls import origin

__all__ = ["Response", "exchange"]

CONNECT_TIMEOUT = 10.0  # seconds for all addresses of a host together; less if the timeout is
IDLE = 15.0  # seconds that an idle connection may be used again; servers drop theirs after 60 as a rule
IDLE_CONNECTIONS = 64  # kept open at most, less one for each origin
LONGEST_HEAD = 2 * READ  # bytes until the head is whole; h11 bounds each head, but not how many 1xx come before it


@dataclass(slots=True)
class Response:
    """The head of an answer, and its body: raw bytes as they were sent, which come once."""

    status: int
    url: str  # may hold secrets: redact it before it is seen
    headers: dict[str, str]  # names in lower case; repeated ones joined by a comma
    body: Iterator[bytes]  # raises Failure and Cancelled
    latency: float = 0.0  # seconds from the request to the head, a new connection included
    waited: Callable[[], float] = lambda: 0.0  # seconds so far in which the socket had nothing to read


@contextmanager
def exchange(url: str, headers: Iterable[tuple[str, str]], *, settings: Settings, cancel: Cancel) -> Iterator[Response]:
    """GET `url` with exactly these headers (and Host), for as long as the block runs.

    A body that was read to its end leaves the connection to the next exchange; any other end closes it.
    Raises Failure, Cancelled, Offline.
    """
    if settings.offline:
        raise Offline
    request = _request(url, headers, settings.timeout)
    line = _take(environment.proxy(*origin(url)), request.url.origin)
    try:
        with cancel.watch(line.network.wire.shutdown), line.ask(request, url, settings.timeout, cancel) as response:
            yield response
    except BaseException:
        line.close()
        raise
    _give_back(line)


# --- connections ------------------------------------------------------------------------------------------------------

_idle: dict[tuple[Any, ...], list[_Line]] = {}  # lists, whose append and pop are atomic, so that no fork meets a lock


class _Line:
    """A connection to one origin (through one proxy), opened when needed and reopened when it was closed."""

    def __init__(self, key: tuple[Any, ...], target: Any, proxy: str | None) -> None:
        import httpcore

        _register()
        self.key, self.network, self.since, self.used = key, _Network(), 0.0, False
        options: dict[str, Any] = {
            "ssl_context": _trust(*environment.certificates()) if target.scheme == b"https" else None,
            "keepalive_expiry": IDLE,
            "network_backend": self.network,
        }
        self._open: Callable[[], Any]
        if proxy is None:  # without the pool of connections around it, which costs a small artifact a tenth of its time
            self._open = lambda: httpcore.HTTPConnection(target, **options)
        else:
            through = _proxy(proxy)
            self._open = lambda: httpcore.ConnectionPool(proxy=through, max_connections=1, **options)
        self._connection: Any = None

    @contextmanager
    def ask(self, request: Any, url: str, timeout: float, cancel: Cancel) -> Iterator[Response]:
        asked = time.monotonic()
        with _failures(cancel, timeout), _quiet():
            answer = self._send(request)
        latency = time.monotonic() - asked
        body, wire = _body(answer, cancel, timeout), self.network.wire
        try:
            yield Response(answer.status, url, _decoded(answer.headers), body, latency, lambda: wire.waited)
        finally:
            answer.close()

    def _send(self, request: Any) -> Any:
        import httpcore

        self.network.begin()
        used, self.used = self.used, True
        try:
            return self._ask_once(request)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if not used or self.network.wire.dead:
                raise
        # The server closed the connection that was kept, in the very moment we used it again. A GET may be repeated.
        return self._ask_once(request)

    def _ask_once(self, request: Any) -> Any:
        if self._connection is None or not self.idle or any(c.has_expired() for c in self._connections):
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
    def idle(self) -> bool:
        """Whether it can carry another request: it is open, and nothing came behind the last answer."""
        return any(c.is_idle() and not c.is_closed() and not _unread(c) for c in self._connections)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()


def _take(proxy: str | None, target: Any) -> _Line:
    key = (target.scheme, target.host, target.port, proxy, *environment.certificates())
    while lines := _idle.get(key):
        with suppress(IndexError):  # another thread was faster
            line = lines.pop()
            if time.monotonic() - line.since < IDLE:
                return line
            line.close()
    return _Line(key, target, proxy)


def _give_back(line: _Line) -> None:
    if line.network.wire.dead or not line.idle:
        line.close()
        return
    line.since = time.monotonic()
    _idle.setdefault(line.key, []).append(line)
    if sum(1 + len(lines) for lines in list(_idle.values())) > IDLE_CONNECTIONS:
        _close_some()


def _unread(connection: Any) -> bool:
    """Whether bytes came behind the answer: whoever asked next would take them for his own. So it is if nobody can
    tell: httpcore knows, but does not say."""
    while connection is not None:
        if (state := getattr(connection, "_h11_state", None)) is not None:
            return bool(state.trailing_data[0])
        connection = getattr(connection, "_connection", None)
    return True


def _close_some() -> None:
    """Close what is idle to the origin that was not asked for the longest."""
    newest = {key: max((line.since for line in list(lines)), default=0.0) for key, lines in list(_idle.items())}
    lines = _idle.pop(min(newest, key=lambda key: newest[key], default=()), [])
    while lines:
        with suppress(IndexError):  # another thread took it
            lines.pop().close()


def _close_idle() -> None:
    while _idle:
        _close_some()


@functools.cache
def _register() -> None:
    atexit.register(_close_idle)
    os.register_at_fork(after_in_child=_forget)
    logging.getLogger("httpcore.http11").addFilter(_without_values)


def _forget() -> None:
    _idle.clear()
    sockets.close_all()


class _Network:
    """How httpcore reaches the network: its backend and its stream in one, since there is one connection at a time.

    Not derived from httpcore's classes, which would import it with this module.
    """

    def __init__(self) -> None:
        self.wire, self.pace = Wire(), Pace()
        self.head: int | None = None  # bytes that the head may still have, while it comes

    def begin(self) -> None:
        self.pace, self.wire.waited = Pace(), 0.0

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> _Network:
        import httpcore

        try:
            self.wire.connect(host, port, timeout or CONNECT_TIMEOUT)
        except TimeoutError as e:
            raise httpcore.ConnectTimeout(str(e)) from e
        except (OSError, UnicodeError) as e:  # a label of a host name that is empty or too long
            raise httpcore.ConnectError(str(e)) from e
        return self

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        import httpcore

        if (outer := self.wire.secured) is not None:  # https through a proxy that itself speaks https
            from httpcore._backends.sync import TLSinTLSStream

            return TLSinTLSStream(outer, ssl_context, server_hostname, timeout)
        try:
            self.wire.secure(ssl_context, server_hostname, timeout)
        except TimeoutError as e:
            raise httpcore.ConnectTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.ConnectError(e) from e  # as its argument, since httpcore drops the cause
        return self

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        try:
            data = self.wire.read(timeout)
        except TimeoutError as e:
            raise httpcore.ReadTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.ReadError(str(e)) from e
        self.pace.check(len(data))
        if self.head is not None:
            self.head -= len(data)
            if self.head < 0:
                raise httpcore.RemoteProtocolError("the head has no end")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        import httpcore

        try:
            self.wire.write(buffer, timeout)
        except TimeoutError as e:
            raise httpcore.WriteTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.WriteError(str(e)) from e

    def close(self) -> None:
        self.wire.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self.wire.readable()
        return self.wire.secured if info == "ssl_object" else None


# --- requests, answers, failures --------------------------------------------------------------------------------------


def _request(url: str, headers: Iterable[tuple[str, str]], timeout: float) -> Any:
    import httpcore
    import httpx

    try:
        parsed = httpx.URL(url)
        raw = [(name.encode("ascii"), value.encode("utf-8")) for name, value in headers]
    except (httpx.InvalidURL, UnicodeError, TypeError, ValueError):
        raise Failure("the address or a header of the request is not valid", lasting=True) from None
    connect = min(CONNECT_TIMEOUT, timeout)
    return httpcore.Request(
        "GET",
        httpcore.URL(scheme=parsed.raw_scheme, host=parsed.raw_host, port=parsed.port, target=parsed.raw_path or b"/"),
        headers=[(b"Host", parsed.netloc), *raw],
        extensions={"timeout": {"connect": connect, "read": timeout, "write": timeout, "pool": connect}},
    )


def _decoded(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    read: dict[str, str] = {}
    for name, value in headers:
        key, text = name.decode("latin-1").lower(), value.decode("utf-8", "replace")
        read[key] = f"{read[key]}, {text}" if key in read else text
    return read


def _body(answer: Any, cancel: Cancel, timeout: float) -> Iterator[bytes]:
    chunks = answer.iter_stream()
    with _failures(cancel, timeout):
        while (chunk := _next(chunks)) is not None:
            yield chunk
    cancel.check()  # a body that ends with its connection also ends when the socket is shut down


def _next(chunks: Iterator[bytes]) -> bytes | None:
    with _quiet():
        return next(chunks, None)


@contextmanager
def _failures(cancel: Cancel, timeout: float) -> Iterator[None]:
    import httpcore

    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.ProxyError) as e:
        cancel.check()  # a socket that was shut down fails in one of these ways
        raise _failure(e, timeout) from None
    except httpcore.UnsupportedProtocol:
        raise Failure("the proxy of the environment has a scheme that cannot be used", lasting=True) from None


def _failure(e: Exception, timeout: float) -> Failure:
    import ssl

    import httpcore

    match e:
        case httpcore.ConnectTimeout():
            return Failure(f"no connection within {min(CONNECT_TIMEOUT, timeout):g} s")
        case httpcore.TimeoutException():
            return Failure(f"not a byte for {timeout:g} s")
        case httpcore.ConnectError(args=(ssl.SSLCertVerificationError(verify_message=reason),)):
            return Failure(f"its certificate is not trusted: {reason}; SSL_CERT_FILE names other ones", lasting=True)
        case httpcore.ConnectError():
            return Failure(f"cannot connect: {e}")
        case httpcore.NetworkError():
            return Failure(f"the connection broke: {e}")
        case httpcore.ProxyError():
            text = str(e)  # the status, and a reason in the proxy's own words, which are not ours to show
            status = text[:3] if text[:3].isdigit() else text
            return Failure(f"the proxy refused: {status}", lasting=status.startswith("4"))
        case httpcore.LocalProtocolError():
            return Failure("a header of the request is not valid", lasting=True)  # h11's own text holds its value
        case _:
            return Failure(_broken_off(str(e)))


def _broken_off(text: str) -> str:
    # h11's texts quote what the server sent, a Location perhaps.
    if "closed" in text or "disconnected" in text:
        return "the connection ended before the answer was complete"
    return "the answer is no valid HTTP"


# --- proxies and trust ------------------------------------------------------------------------------------------------


def _proxy(url: str) -> Any:
    import httpcore
    import httpx

    try:
        proxy = httpx.Proxy(url)
    except (httpx.InvalidURL, ValueError):
        raise Failure("the proxy of the environment is no address of a proxy", lasting=True) from None
    target = proxy.url
    return httpcore.Proxy(
        httpcore.URL(scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path),
        auth=proxy.raw_auth,
        ssl_context=_trust(*environment.certificates()) if target.scheme == "https" else None,
    )


@functools.lru_cache(maxsize=4)  # 20 ms each
def _trust(file: str | None, folder: str | None) -> Any:
    # httpx's own rule, but of the variables as they were read for the key: were they read again, a change in between
    # would leave one pair's trust under the other's name for good.
    import ssl

    import httpx

    if file or folder:
        return ssl.create_default_context(cafile=file or None, capath=None if file else folder)
    return httpx.create_ssl_context(trust_env=False)


# --- what httpcore logs -----------------------------------------------------------------------------------------------

_ours = threading.local()


@contextmanager
def _quiet() -> Iterator[None]:
    # At DEBUG httpcore prints the answer's headers: a Location with its signature, a Set-Cookie; and h11's errors,
    # which quote a line that is no header, ours or theirs. Only lines of our own exchanges are cut, since the logger is
    # everybody's.
    _ours.active = True
    try:
        yield
    finally:
        _ours.active = False


def _without_values(record: logging.LogRecord) -> bool:
    if getattr(_ours, "active", False):
        record.msg = str(record.msg).split(" return_value=")[0].split(" exception=")[0]
    return True
