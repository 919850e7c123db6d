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
import errno
import functools
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from .cancel import Cancel
from .config import Settings
from .retry import Failure, Offline, Pace
from .urls import origin

__all__ = ["Response", "exchange"]

CONNECT_TIMEOUT = 10.0  # seconds for all addresses of a host together; less if the timeout is
IDLE = 15.0  # seconds that an idle connection may be used again; servers drop theirs after 60 as a rule
IDLE_CONNECTIONS = 64  # kept open at most
PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]
PROXY_VARIABLES += [*map(str.upper, PROXY_VARIABLES), "REQUEST_METHOD"]  # a CGI's HTTP_PROXY is a client's header
RECORD = 1 << 14  # bytes, the most that TLS gives at once
READ = 1 << 18  # bytes asked of the socket at once: httpcore's 64 KiB cost twice the CPU for each byte
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
    line = _take(url)
    try:
        with cancel.watch(line.backend.shutdown), line.ask(url, headers, settings.timeout, cancel) as response:
            yield response
    except BaseException:
        line.pool.close()
        raise
    _give_back(line)


# --- connections ------------------------------------------------------------------------------------------------------

_idle: dict[tuple[Any, ...], list[_Line]] = {}  # lists, whose append and pop are atomic, so that no fork meets a lock
_sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()


class _Line:
    """A connection to one origin (through one proxy), opened when needed and reopened when it was closed."""

    def __init__(self, key: tuple[Any, ...], scheme: str, proxy: str | None) -> None:
        import httpcore

        _register()
        self.key, self.backend, self.since, self.used = key, _Backend(), 0.0, False
        self.pool = httpcore.ConnectionPool(
            ssl_context=_certificates() if scheme == "https" else None,
            proxy=None if proxy is None else _proxy_of_httpcore(proxy),
            max_connections=1,
            keepalive_expiry=IDLE,
            network_backend=self.backend,  # type: ignore[arg-type]  # a subclass would import httpcore with this module
        )

    @contextmanager
    def ask(self, url: str, headers: Iterable[tuple[str, str]], timeout: float, cancel: Cancel) -> Iterator[Response]:
        with _failures(cancel, timeout), _quiet():
            request, asked = _request(url, headers, timeout), time.monotonic()
            answer = self._send(request)
            latency = time.monotonic() - asked
        try:
            body = _body(answer, cancel, timeout)
            yield Response(answer.status, url, _decoded(answer.headers), body, latency, lambda: self.backend.waited)
        finally:
            answer.close()

    def _send(self, request: Any) -> Any:
        import httpcore

        self.backend.pace, self.backend.waited = Pace(), 0.0
        used, self.used = self.used, True
        try:
            return self._ask_once(request)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if not used or self.backend.dead:
                raise
        # The server closed the connection that was kept, in the very moment we used it again. A GET may be repeated.
        return self._ask_once(request)

    def _ask_once(self, request: Any) -> Any:
        self.backend.head = LONGEST_HEAD
        answer = self.pool.handle_request(request)
        self.backend.head = None
        return answer


def _take(url: str) -> _Line:
    scheme, proxy = origin(url)[0], _proxy(url)
    key = (*origin(url), proxy, *_certificate_variables())
    while lines := _idle.get(key):
        with suppress(IndexError):  # another thread was faster
            line = lines.pop()
            if time.monotonic() - line.since < IDLE:
                return line
            line.pool.close()
    return _Line(key, scheme, proxy)


def _give_back(line: _Line) -> None:
    connections = line.pool.connections
    if line.backend.dead or not any(c.is_idle() and not c.is_closed() and not _unread(c) for c in connections):
        line.pool.close()
        return
    line.since = time.monotonic()
    _idle.setdefault(line.key, []).append(line)
    if sum(map(len, list(_idle.values()))) > IDLE_CONNECTIONS:
        _close_idle()


def _unread(connection: Any) -> bool:
    """Whether bytes came behind the answer: whoever asked next would take them for his own. So it is if nobody can tell:
    httpcore knows, but does not say."""
    while connection is not None:
        if (state := getattr(connection, "_h11_state", None)) is not None:
            return bool(state.trailing_data[0])
        connection = getattr(connection, "_connection", None)
    return True


def _close_idle() -> None:
    while _idle:
        with suppress(KeyError):
            for line in _idle.popitem()[1]:
                line.pool.close()


@functools.cache
def _register() -> None:
    atexit.register(_close_idle)
    os.register_at_fork(after_in_child=_forget)
    logging.getLogger("httpcore.http11").addFilter(_without_values)


def _forget() -> None:
    """In a forked child: let go of the parent's connections without a word to their servers."""
    _idle.clear()
    for sock in list(_sockets):
        sock.close()  # only this process's descriptor: a TLS session is ended by a message, which close doesn't send


# --- sockets ----------------------------------------------------------------------------------------------------------


class _Backend:
    """How httpcore reaches the network: sockets that another thread can shut down in whatever they are doing."""

    def __init__(self) -> None:
        self.sock: socket.socket | None = None
        self.pace, self.waited = Pace(), 0.0
        self.head: int | None = None  # bytes that the head may still have, while it comes
        self.dead = False

    def shutdown(self) -> None:
        """End what is going on and what is to come; any thread may call it."""
        self.dead = True
        if (sock := self.sock) is not None:
            with suppress(OSError):  # not connected yet, or not any more
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # past SSLSocket's own, which a reader must not meet

    def adopt(self, sock: socket.socket) -> None:
        self.sock = sock
        _sockets.add(sock)
        if self.dead:
            sock.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "called off")

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, *_: Any, **__: Any) -> _Stream:
        import httpcore

        try:
            return _Stream(self._connect(host, port, timeout or CONNECT_TIMEOUT), self)
        except TimeoutError as e:
            raise httpcore.ConnectTimeout(str(e)) from e
        except (OSError, UnicodeError) as e:  # a label of a host name that is empty or too long
            raise httpcore.ConnectError(str(e)) from e

    def _connect(self, host: str, port: int, timeout: float) -> socket.socket:
        deadline = time.monotonic() + timeout
        error: OSError = OSError(errno.EADDRNOTAVAIL, "the host has no address")
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = socket.socket(family, kind, protocol)
            try:
                self.adopt(sock)
                sock.settimeout(max(0.01, (deadline - time.monotonic()) / left))
                sock.connect(address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock
            except OSError as e:
                sock.close()
                error = e
        raise error


class _Stream:
    """One connection as httpcore wants to see it."""

    def __init__(self, sock: socket.socket, backend: _Backend) -> None:
        self._sock, self._backend = sock, backend
        self._pending: Callable[[], int] | None = None  # bytes that TLS has decrypted already
        self._buffer: memoryview | None = None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        import httpcore

        try:
            if self._sock.gettimeout() != timeout:
                self._sock.settimeout(timeout)
            idle_since = None if self._readable() else time.monotonic()
            data = self._sock.recv(READ) if self._pending is None else self._records()
            if idle_since is not None:
                self._backend.waited += time.monotonic() - idle_since
        except TimeoutError as e:
            raise httpcore.ReadTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.ReadError(str(e)) from e
        self._backend.pace.check(len(data))
        if self._backend.head is not None:
            self._backend.head -= len(data)
            if self._backend.head < 0:
                raise httpcore.RemoteProtocolError("the head has no end")
        return data

    def _records(self) -> bytes:
        """What TLS has: one record at a time, and a read of httpcore costs more than decrypting one."""
        self._buffer = self._buffer or memoryview(bytearray(READ))
        count = more = self._sock.recv_into(self._buffer)
        with suppress(OSError):  # it shows again when there is nothing else to give
            while more and count + RECORD <= READ and self._readable():
                more = self._sock.recv_into(self._buffer[count:])
                count += more
        return bytes(self._buffer[:count])

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:  # the body of a GET
            return
        import httpcore

        try:
            if self._sock.gettimeout() != timeout:
                self._sock.settimeout(timeout)
            self._sock.sendall(buffer)
        except TimeoutError as e:
            raise httpcore.WriteTimeout(str(e)) from e
        except OSError as e:
            raise httpcore.WriteError(str(e)) from e

    def close(self) -> None:
        self._sock.close()

    def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None) -> Any:
        import ssl

        import httpcore

        try:
            if isinstance(self._sock, ssl.SSLSocket):  # https through a proxy that itself speaks https
                from httpcore._backends.sync import TLSinTLSStream

                return TLSinTLSStream(self._sock, ssl_context, server_hostname, timeout)
            self._sock.settimeout(timeout)
            secured = ssl_context.wrap_socket(
                self._sock, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._sock, self._pending = (
                secured,
                secured.pending,
            )  # before the handshake, since it took the descriptor over
            self._backend.adopt(secured)
            secured.do_handshake()
        except TimeoutError as e:
            self.close()
            raise httpcore.ConnectTimeout(str(e)) from e
        except OSError as e:
            self.close()
            raise httpcore.ConnectError(e) from e  # as its argument, since httpcore drops the cause
        return self

    def get_extra_info(self, info: str) -> Any:
        import ssl

        if info == "ssl_object":
            return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
        if info == "is_readable":
            return self._readable()
        return self._sock if info == "socket" else None

    def _readable(self) -> bool:
        import select

        if self._sock.fileno() < 0 or (self._pending is not None and self._pending()):
            return True
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(0))


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


# --- the environment --------------------------------------------------------------------------------------------------


def _proxy(url: str) -> str | None:
    """The proxy that the environment asks for, from the variables that httpx and curl read."""
    return _proxy_for(*origin(url), *map(os.environ.get, PROXY_VARIABLES))


@functools.lru_cache(maxsize=64)
def _proxy_for(scheme: str, host: str, port: int, *_: str | None) -> str | None:
    from urllib.request import getproxies, proxy_bypass

    proxies = getproxies()  # looks at every variable there is, which took a tenth of a small artifact's time
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _proxy_of_httpcore(url: str) -> Any:
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
        ssl_context=_certificates() if target.scheme == "https" else None,
    )


def _certificate_variables() -> tuple[str | None, str | None]:
    return os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")


def _certificates() -> Any:
    return _context(*_certificate_variables())


@functools.lru_cache(maxsize=4)  # 20 ms each
def _context(file: str | None, folder: str | None) -> Any:
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
    # At DEBUG httpcore prints the answer's headers: a Location with its signature, a Set-Cookie; and h11's errors, which
    # quote a line that is no header, ours or theirs. Only lines of our own exchanges are cut, since the logger is
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
