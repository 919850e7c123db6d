"""The origin that misbehaves: each path has a handler that says, step by step, what goes over the wire.

    server = misbehaving()                                   # the fixture
    url = server.route("/model.bin", in_turn(truncated(body, 1000), serve(body)))

A handler takes the request and yields steps: `bytes` are sent as they are, a number is a pause in seconds, a
`threading.Event` is waited for, `FIN` ends the connection and `RST` breaks it. A handler that just ends keeps the
connection alive. Every request is recorded with its headers: `server.requests(path)`.

Below the server: ready-made handlers, in families. A body given to one of them is served with `serve`'s manners
(Range, validators) except for the one fault in the handler's name, so that a resume can be watched.
"""

from __future__ import annotations

import gzip
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from email.utils import formatdate
from enum import Enum
from itertools import repeat
from pathlib import Path
from typing import Any

from tests.servers.origin import Body, Loopback, Request, head, respond

CERTIFICATE = Path(__file__).with_name("loopback.pem")  # key and certificate for 127.0.0.1; it guards nothing
KIB = 1024


class End(Enum):
    FIN = "the connection ends, as after a whole answer"
    RST = "the connection breaks: ECONNRESET at the client"


FIN, RST = End.FIN, End.RST
Step = bytes | float | threading.Event | End
Handler = Callable[[Request], Iterable[Step]]


class Misbehaving(Loopback):
    """A server of handlers; a path without one is a 404. With `tls` it speaks https, trusted by `CERTIFICATE`."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.scheme = "https" if tls else "http"
        self._handlers: dict[str, Handler] = {}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)

    def route(self, path: str, handler: Handler) -> str:
        """Answer requests for `path` with `handler` from now on; return the URL."""
        self._handlers[path] = handler
        return self.url(path)

    def prepare(self, connection: socket.socket) -> socket.socket:
        if self.scheme == "http":
            return connection
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def answer(self, connection: socket.socket, request: Request) -> bool:
        self.record(request)
        handler = self._handlers.get(request.path, status(404))
        with closing(_generator(handler(request))) as steps:  # a handler's `finally` runs when the client leaves, too
            return all(self._take(step, connection, request) for step in steps)

    def _take(self, step: Step, connection: socket.socket, request: Request) -> bool:
        """Do one step; False if it ended the connection."""
        match step:
            case bytes():
                if not request.sent and step[9:12].isdigit():  # "HTTP/1.1 206 ..."
                    request.status = int(step[9:12])
                connection.sendall(step)
                request.sent += len(step)
            case End.FIN:
                return False
            case End.RST:
                time.sleep(0.02)  # what was sent arrives first; a reset may overtake it otherwise
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            case threading.Event():
                while not step.wait(0.01):
                    self._unless_closing(0)
            case _:
                self._unless_closing(step)
        return True

    def _unless_closing(self, seconds: float) -> None:
        if self.closing.wait(seconds):
            raise ConnectionAbortedError("the server is closing")


def _generator(steps: Iterable[Step]) -> Generator[Step, None, None]:
    yield from steps


def unreachable() -> str:
    """A URL whose port refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/nobody"


# --- what handlers are made of ----------------------------------------------------------------------------------------


def _lines(first: str, headers: dict[str, Any]) -> bytes:
    return "\r\n".join([first, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("latin-1")


def _spoilt(body: bytes, spoil: Callable[[bytes], Iterable[Step]], **manners: Any) -> Handler:
    """Serve `body` with `serve`'s manners, the payload (the asked range) going through `spoil`."""

    def handler(request: Request) -> Iterator[Step]:
        answer = respond(request, Body(body, **({"etag": '"v1"'} | manners)))
        yield head(answer)
        if request.method != "HEAD":
            yield from spoil(bytes(answer.body))

    return handler


def in_turn(*handlers: Handler) -> Handler:
    """The first request gets the first handler, and so on; the last handler stays."""
    turns = iter(handlers)
    lock = threading.Lock()

    def handler(request: Request) -> Iterable[Step]:
        with lock:
            chosen = next(turns, handlers[-1])
        return chosen(request)

    return handler


def crowded(most: int, handler: Handler, *, refusal: Handler | None = None) -> Handler:
    """`handler` for `most` requests at a time, `refusal` (a 429) for each one beyond."""
    places = threading.BoundedSemaphore(most)

    def admitted(request: Request) -> Iterator[Step]:
        if not places.acquire(blocking=False):
            yield from (refusal or status(429))(request)
            return
        try:
            yield from handler(request)
        finally:
            places.release()

    return admitted


def raw(*steps: Step) -> Handler:
    """Exactly these steps, whatever the request."""
    return lambda _: steps


def status(code: int, *, headers: dict[str, Any] | None = None, body: bytes = b"") -> Handler:
    """A whole answer with a status of your choice: 304 without a body, 401, 403, 404, 410, 416, 503..."""
    length: dict[str, Any] = {} if code == 304 else {"Content-Length": len(body)}
    return raw(_lines(f"HTTP/1.1 {code} Because", length | (headers or {})) + body)


# --- a whole file, with some manners missing --------------------------------------------------------------------------


def serve(body: bytes, **manners: Any) -> Handler:
    """The file, properly. `manners`: etag, last_modified (empty: not sent) and content_type of `Body`."""
    return _spoilt(body, lambda payload: [payload], **manners)


def without_validator(body: bytes) -> Handler:
    return serve(body, etag="", last_modified="")


def with_weak_etag(body: bytes) -> Handler:
    return serve(body, etag='W/"v1"', last_modified="")


def without_ranges(body: bytes) -> Handler:
    """Announces no ranges and answers 200 to each."""
    return status(200, headers={"ETag": '"v1"'}, body=body)


def gzipped(body: bytes) -> Handler:
    """Content-Encoding: gzip, which `identity` did not ask for."""
    return status(200, headers={"Content-Encoding": "gzip", "ETag": '"v1"'}, body=gzip.compress(body))


def html(page: bytes = b"<!DOCTYPE html><title>Sign in</title>") -> Handler:
    """A page instead of the file, with status 200."""
    return status(200, headers={"Content-Type": "text/html; charset=utf-8"}, body=page)


# --- a body that breaks off, stalls or never ends ---------------------------------------------------------------------


def truncated(body: bytes, at: int, **manners: Any) -> Handler:
    """At most `at` bytes of what was asked for, then FIN."""
    return _spoilt(body, lambda payload: [payload[:at], FIN] if len(payload) > at else [payload], **manners)


def dropped(body: bytes, at: int, **manners: Any) -> Handler:
    """At most `at` bytes of what was asked for, then RST."""
    return _spoilt(body, lambda payload: [payload[:at], RST] if len(payload) > at else [payload], **manners)


def stalled(body: bytes, at: int, until: float | threading.Event = 3600.0, **manners: Any) -> Handler:
    """`at` bytes, then silence for `until` seconds, or until that event is set, then the rest."""
    return _spoilt(body, lambda payload: [payload[:at], until, payload[at:]], **manners)


def dripped(body: bytes, *, seconds: float = 1.0, **manners: Any) -> Handler:
    """One byte every `seconds`."""
    return _spoilt(body, lambda payload: (s for i in range(len(payload)) for s in (payload[i : i + 1], seconds)))


def endless(body: bytes = bytes(64 * KIB)) -> Handler:
    """No length, and `body` again and again for as long as the client reads."""

    def handler(request: Request) -> Iterator[Step]:
        yield _lines("HTTP/1.1 200 OK", {"Connection": "close"})
        yield from repeat(body)

    return handler


# --- heads that break off, stall or make no sense ---------------------------------------------------------------------


def silent(until: float | threading.Event = 3600.0, then: Handler | None = None) -> Handler:
    """Nothing at all for `until` seconds or until that event is set; then `then`, or FIN."""

    def handler(request: Request) -> Iterator[Step]:
        yield until
        yield from then(request) if then else [FIN]

    return handler


def cut_head(end: End = FIN) -> Handler:
    """The connection ends in the middle of a header."""
    return raw(b"HTTP/1.1 200 OK\r\nContent-Len", end)


def dripped_head(*, seconds: float = 1.0) -> Handler:
    """A header that grows by one byte every `seconds`, forever."""

    def handler(request: Request) -> Iterator[Step]:
        yield b"HTTP/1.1 200 OK\r\nX-Slow: "
        while True:
            yield b"a"
            yield seconds

    return handler


def huge_head(size: int = 1 << 20) -> Handler:
    """One header of `size` bytes."""
    return raw(_lines("HTTP/1.1 200 OK", {"X-Huge": "a" * size, "Content-Length": 0}))


def nonsense(line: bytes = b"HTTP/1.1 abc Hm") -> Handler:
    """A status line that is none, then FIN."""
    return raw(line + b"\r\n\r\n", FIN)


# --- lengths ----------------------------------------------------------------------------------------------------------


def close_delimited(body: bytes, **headers: str) -> Handler:
    """Neither Content-Length nor chunks: the body ends with the connection, whole or not."""
    return raw(_lines("HTTP/1.1 200 OK", {"Connection": "close"} | headers) + body, FIN)


def lying_length(body: bytes, by: int) -> Handler:
    """Content-Length is off by `by`; what comes is `body`, then FIN."""
    return raw(_lines("HTTP/1.1 200 OK", {"Content-Length": len(body) + by}) + body, FIN)


def chunked(body: bytes, *, size: int = 64 * KIB, whole: bool = True) -> Handler:
    """Chunks of `size` bytes; unless `whole`, FIN comes instead of the chunk that ends the body."""
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    start = _lines("HTTP/1.1 200 OK", {"Transfer-Encoding": "chunked", "ETag": '"v1"'})
    return raw(start + framed + b"0\r\n\r\n") if whole else raw(start + framed, FIN)


# --- ranges -----------------------------------------------------------------------------------------------------------


def _to_ranges(body: bytes, lie: Callable[[int, int], Handler]) -> Handler:
    """`serve`, but a Range (that If-Range lets through) is answered by `lie(first, last)`."""

    def handler(request: Request) -> Iterable[Step]:
        answer = respond(request, Body(body, '"v1"'))
        if answer.status != 206:
            return serve(body)(request)
        first, last = answer.headers["Content-Range"].removeprefix("bytes ").split("/")[0].split("-")
        return lie(int(first), int(last))(request)

    return handler


def _partial(content_range: str, payload: bytes, **headers: str) -> Handler:
    return status(206, headers={"Content-Range": content_range, "ETag": '"v1"'} | headers, body=payload)


def shifted_range(body: bytes, by: int = 1) -> Handler:
    """Another range than the asked one, and it says so."""
    return _to_ranges(
        body,
        lambda first, last: _partial(
            f"bytes {max(0, first + by)}-{last}/{len(body)}", body[max(0, first + by) : last + 1]
        ),
    )


def short_range(body: bytes, size: int) -> Handler:
    """At most `size` bytes of each range, and it says so, which is legal."""

    def lie(first: int, last: int) -> Handler:
        last = min(last, first + size - 1)
        return _partial(f"bytes {first}-{last}/{len(body)}", body[first : last + 1])

    return _to_ranges(body, lie)


def wrong_total(body: bytes, total: int | str) -> Handler:
    """The right bytes with another total, `"*"` for one that is not known."""
    return _to_ranges(body, lambda first, last: _partial(f"bytes {first}-{last}/{total}", body[first : last + 1]))


def wrong_bytes(body: bytes) -> Handler:
    """The right Content-Range with other bytes: only a digest can tell."""
    return _to_ranges(body, lambda first, last: _partial(f"bytes {first}-{last}/{len(body)}", bytes(last + 1 - first)))


def bad_content_range(body: bytes, text: str = "octets abc") -> Handler:
    """A Content-Range that nobody can read."""
    return _to_ranges(body, lambda first, last: _partial(text, body[first : last + 1]))


def multipart(body: bytes) -> Handler:
    """multipart/byteranges to a single range."""

    def lie(first: int, last: int) -> Handler:
        part = _lines("--SEP", {"Content-Range": f"bytes {first}-{last}/{len(body)}"}) + body[first : last + 1]
        kind = {"Content-Type": "multipart/byteranges; boundary=SEP"}
        return status(206, headers=kind, body=part + b"\r\n--SEP--\r\n")

    return _to_ranges(body, lie)


def ignored_range(body: bytes) -> Handler:
    """Announces ranges and answers 200 with the whole file to each."""
    return status(200, headers={"Accept-Ranges": "bytes", "ETag": '"v1"'}, body=body)


def refused_range(body: bytes, code: int = 416) -> Handler:
    """Announces ranges and answers 416 (403, 503...) to each."""
    return _to_ranges(body, lambda *_: status(code, headers={"Content-Range": f"bytes */{len(body)}"}))


# --- come back later, go elsewhere ------------------------------------------------------------------------------------


def retry_after(seconds: int, *, code: int = 503, date: bool = False) -> Handler:
    """503 (429) with Retry-After, in seconds or as the date that is `seconds` from the request."""
    return lambda request: status(
        code, headers={"Retry-After": formatdate(time.time() + seconds, usegmt=True) if date else seconds}
    )(request)


def redirect(location: str, *, code: int = 302, body: bytes = b"", headers: dict[str, Any] | None = None) -> Handler:
    """Go to `location`. To its own URL it is a loop, to another scheme a downgrade, to another port another origin."""
    return status(code, headers={"Location": location} | (headers or {}), body=body)


def redirect_with_endless_body(location: str) -> Handler:
    """A redirect whose body never ends: who reads it hangs."""

    def handler(request: Request) -> Iterator[Step]:
        yield _lines("HTTP/1.1 302 Found", {"Location": location, "Connection": "close"})
        yield from repeat(bytes(64 * KIB))

    return handler


def redirect_chain(server: Misbehaving, hops: int, location: str) -> str:
    """The URL of the first of `hops` redirects, of which the last leads to `location`."""
    for hop in range(hops, 0, -1):
        location = server.route(f"/hop/{hop}", redirect(location))
    return location


def expiring(handler: Handler, *, uses: int = 1, code: int = 403) -> Handler:
    """`handler` for the first `uses` requests, then `code`: a signed address whose time is over."""
    return in_turn(*repeat(handler, uses), status(code))
