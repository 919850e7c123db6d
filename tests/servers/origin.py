"""The loopback origin of demo, benchmarks and tests: an HTTP/1.1 server that behaves, counts and can be slow.

    /bytes/<size>/<seed>/<name>    generated: the same size and seed are the same bytes anywhere, `content(size, seed)`
    origin.add("/path", body)      whatever a test wants to serve
    /__stats__, /__reset__         the counters as JSON, for other processes; neither is counted

Range, If-Range, If-None-Match, If-Modified-Since and HEAD are honoured. `?rate=` (bytes per second of each connection)
and `?delay=` (seconds before the first byte) make one request slow. `Origin` serves from a thread of this process;
`OriginProcess` from a process of its own, which is what load generators want: no shared GIL.

Not a general server, and never a broken one: misbehaviour lives in `misbehave.py`. Invariants: a request is
recorded before its first byte is sent, so that whoever has an answer finds it counted; a body goes from one buffer to
the socket without a copy in Python; after `close` no thread and no socket is left.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from http import HTTPStatus
from itertools import count
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

MIB = 1 << 20
CACHE_BYTES = 2 << 30  # generated artifacts that are kept, so that a benchmark does not time their making
LAST_MODIFIED = formatdate(1_750_000_000, usegmt=True)
GENERATED = re.compile(r"/bytes/(\d+)/([^/]+)/[^/]+")
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def content(size: int, seed: int | str) -> bytes:
    """`size` bytes that only `seed` decides. No two of their MiB are alike, so misplaced pieces cannot go unnoticed."""
    base = random.Random(str(seed)).randbytes(min(size, MIB))
    if size <= MIB:
        return base
    # Rotations of one random MiB come at the speed of memcpy; fresh random bytes at 250 MB/s.
    double = memoryview(base + base)
    turns = (i * 40_503 % MIB for i in range(-(-size // MIB)))
    return b"".join(double[turn : turn + MIB] for turn in turns)[:size]


@lru_cache(maxsize=4096)
def digest(size: int, seed: int | str) -> str:
    """The SHA-256 of `content(size, seed)`, 64 hex digits."""
    return hashlib.sha256(content(size, seed)).hexdigest()


@dataclass(frozen=True, slots=True)
class Body:
    """Something to serve. `rate` in bytes per second, `delay` in seconds; an empty `etag` or date is not sent."""

    data: bytes
    etag: str
    last_modified: str = LAST_MODIFIED
    content_type: str = "application/octet-stream"
    rate: float = 0
    delay: float = 0


MISSING = Body(b"", "")


@dataclass(slots=True)
class Request:
    """One request as the origin saw it; header names in lower case. `sent` grows while the body is being sent."""

    method: str
    path: str  # without the query
    query: str
    headers: dict[str, str]
    connection: int  # counted from 0
    time: float  # time.time()
    status: int = 0
    sent: int = 0  # bytes of body

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass(slots=True)
class Answer:
    """What a request gets."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: memoryview = field(default_factory=lambda: memoryview(b""))


class Loopback:
    """A threaded server on 127.0.0.1 while its `with` block runs, which records requests. Subclasses answer them."""

    scheme = "http"

    def __init__(self, *, port: int = 0) -> None:
        self.port = port
        self.closing = threading.Event()
        self._lock = threading.Lock()  # guards what follows
        self._requests: list[Request] = []
        self._live: dict[socket.socket, threading.Thread] = {}

    def answer(self, connection: socket.socket, request: Request) -> bool:
        """Answer; True if the connection may carry another request."""
        raise NotImplementedError

    def prepare(self, connection: socket.socket) -> socket.socket:
        """The connection to serve; must not wait for the client."""
        return connection

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}{path}"

    def record(self, request: Request) -> None:
        with self._lock:
            self._requests.append(request)

    def requests(self, path: str | None = None, *, method: str | None = None) -> list[Request]:
        """The requests so far, in order of arrival."""
        with self._lock:
            return [r for r in self._requests if path in (None, r.path) and method in (None, r.method)]

    def gets(self, path: str | None = None) -> int:
        """How many GETs came, those for a range included."""
        return len(self.requests(path, method="GET"))

    def downloads(self, path: str | None = None) -> int:
        """How many GETs asked for the whole: a download begins with one, however many ranges join it."""
        return sum(request.range is None for request in self.requests(path, method="GET"))

    def reset(self) -> None:
        """Forget the requests so far."""
        with self._lock:
            self._requests = []

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self.port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="origin", daemon=True)
        self._acceptor.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every connection, in whatever state, and every thread."""
        self.closing.set()
        try:  # closing a listener wakes no accept on macOS; a connection wakes any
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            pass
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            live = list(self._live.items())
        for connection, _ in live:
            _shut(connection)
        for _, thread in live:
            thread.join()

    def _accept(self) -> None:
        for number in count():
            accepted, _ = self._listener.accept()
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = self.prepare(accepted)
            if self.closing.is_set():
                connection.close()
                break
            thread = threading.Thread(target=self._serve, args=(connection, number), name="origin", daemon=True)
            with self._lock:
                self._live[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        buffer = bytearray()
        try:
            while not self.closing.is_set() and (request := read_request(connection, buffer, number)):
                if not self.answer(connection, request):
                    break
        except OSError:
            pass  # the client went away, or we are closing
        finally:
            connection.close()
            with self._lock:
                self._live.pop(connection, None)


class Origin(Loopback):
    """The origin that behaves."""

    def __init__(self, *, port: int = 0) -> None:
        super().__init__(port=port)
        self._bodies: dict[str, Body] = {}
        self._generated: dict[str, Body] = {}
        self._making = threading.Lock()  # one thread makes an artifact, the others wait for it

    def add(
        self,
        path: str,
        body: bytes,
        *,
        etag: str | None = None,
        last_modified: str = LAST_MODIFIED,
        content_type: str = "application/octet-stream",
        rate: float = 0,
        delay: float = 0,
    ) -> str:
        """Serve `body` at `path`, in place of what was there; return its URL. Without `etag` the body decides it."""
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"' if etag is None else etag
        self._bodies[path] = Body(body, tag, last_modified, content_type, rate, delay)
        return self.url(path)

    def stats(self) -> dict[str, Any]:
        """Counters, and each request: the same as `GET /__stats__`."""
        seen = self.requests()
        return {
            "requests": len(seen),
            "gets": self.gets(),
            "downloads": self.downloads(),
            "bytes": sum(r.sent for r in seen),
            "connections": len({r.connection for r in seen}),
            "records": [asdict(r) for r in seen],
        }

    def answer(self, connection: socket.socket, request: Request) -> bool:
        if request.path.startswith("/__"):
            answer = self._control(request.path)
            connection.sendall(head(answer) + answer.body)
        else:
            self._artifact(connection, request)
        return request.headers.get("connection", "").lower() != "close"

    def _control(self, path: str) -> Answer:
        if path == "/__stats__":
            return Answer(200, {"Content-Type": "application/json"}, memoryview(json.dumps(self.stats()).encode()))
        if path == "/__reset__":
            self.reset()
            return Answer(200)
        return Answer(404)

    def _artifact(self, connection: socket.socket, request: Request) -> None:
        body = self._find(request.path) or MISSING
        if request.method not in ("GET", "HEAD"):
            answer = Answer(405)
        else:
            answer = respond(request, body) if body is not MISSING else Answer(404)
        request.status = answer.status
        self.record(request)
        asked = parse_qs(request.query)
        rate, delay = float(asked.get("rate", [body.rate])[0]), float(asked.get("delay", [body.delay])[0])
        if delay and self.closing.wait(delay):
            raise ConnectionAbortedError("the origin is closing")
        self._send(connection, request, head(answer), answer.body if request.method == "GET" else answer.body[:0], rate)

    def _find(self, path: str) -> Body | None:
        if (body := self._bodies.get(path)) or not (match := GENERATED.fullmatch(path)):
            return body
        with self._making:
            if (body := self._generated.get(path)) is None:
                size, seed = int(match[1]), match[2]
                body = self._generated[path] = Body(content(size, seed), f'"{size}-{seed}"')
                while len(self._generated) > 1 and sum(len(b.data) for b in self._generated.values()) > CACHE_BYTES:
                    del self._generated[next(iter(self._generated))]  # the oldest
            return body

    def _send(self, connection: socket.socket, request: Request, head: bytes, body: memoryview, rate: float) -> None:
        step = max(1, min(MIB, int(rate / 20))) if rate else MIB
        if len(body) <= step and not rate:  # one packet, one wake-up of the client
            request.sent = len(body)
            connection.sendall(head + body)
            return
        connection.sendall(head)
        start = time.monotonic()
        while request.sent < len(body):
            piece = body[request.sent : request.sent + step]
            if rate and self.closing.wait(max(0.0, start + (request.sent + len(piece)) / rate - time.monotonic())):
                raise ConnectionAbortedError("the origin is closing")
            request.sent += connection.send(piece)


def read_request(connection: socket.socket, buffer: bytearray, number: int) -> Request | None:
    """The next request of a connection, its body dropped; None at its end. What came after it stays in `buffer`."""
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if not (more := connection.recv(65_536)):
            return None
        buffer += more
    first, *lines = buffer[:end].decode("latin-1").split("\r\n")
    del buffer[: end + 4]
    method, target, _ = first.split(" ", 2)
    pairs = (line.split(":", 1) for line in lines)
    headers = {name.strip().lower(): value.strip() for name, value in pairs}
    length = int(headers.get("content-length", 0))
    while len(buffer) < length and (more := connection.recv(65_536)):
        buffer += more
    del buffer[:length]
    url = urlsplit(target)
    return Request(method, url.path, url.query, headers, number, time.time())


def respond(request: Request, body: Body) -> Answer:
    """The answer that RFC 9110 asks for: 200, 206, 304 or 416."""
    headers = {"Accept-Ranges": "bytes", "Content-Type": body.content_type}
    if body.etag:
        headers["ETag"] = body.etag
    if body.last_modified:
        headers["Last-Modified"] = body.last_modified
    data = memoryview(body.data)
    if _not_modified(request, body):
        return Answer(304, headers)
    match = RANGE.fullmatch(request.range or "")
    if not match or match[0] == "bytes=-" or not _if_range(request, body):
        return Answer(200, headers, data)
    first, last = _span(match, len(data))
    if first >= len(data) or last < first:
        return Answer(416, headers | {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
    return Answer(206, headers, data[first : last + 1])


def _span(match: re.Match[str], size: int) -> tuple[int, int]:
    if not match[1]:  # "-500": the last 500
        return max(0, size - int(match[2])), size - 1
    return int(match[1]), min(int(match[2]) if match[2] else size - 1, size - 1)


def _if_range(request: Request, body: Body) -> bool:
    wanted = request.headers.get("if-range")
    if wanted is None:
        return True
    return bool(wanted) and not wanted.startswith("W/") and wanted in (body.etag, body.last_modified)


def _not_modified(request: Request, body: Body) -> bool:
    if (tags := request.headers.get("if-none-match")) is not None:  # takes precedence over the date
        known = {tag.strip().removeprefix("W/") for tag in tags.split(",")}
        return tags == "*" or (body.etag.removeprefix("W/") or None) in known
    since = request.headers.get("if-modified-since")
    if not since or not body.last_modified:
        return False
    return parsedate_to_datetime(body.last_modified) <= parsedate_to_datetime(since)


def head(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if answer.status != 304:
        lines.append(f"Content-Length: {len(answer.body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it ended by itself


class OriginProcess:
    """The same origin in a process of its own, while the `with` block runs. It ends with us, even if we are killed."""

    def __enter__(self) -> Self:
        command = [sys.executable, __file__, "--until-eof"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base = self._process.stdout.readline().strip()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    def url(self, path: str) -> str:
        return self.base + path

    def stats(self) -> dict[str, Any]:
        return stats(self.base)

    def reset(self) -> None:
        reset(self.base)


def stats(base: str) -> dict[str, Any]:
    """The counters of the origin at `base`, from any process."""
    with urllib.request.urlopen(base + "/__stats__", timeout=30) as response:
        counters: dict[str, Any] = json.load(response)
    return counters


def reset(base: str) -> None:
    """Have the origin at `base` forget its requests."""
    urllib.request.urlopen(base + "/__reset__", timeout=30).close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve generated artifacts on 127.0.0.1 and count the requests.")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does, not at a signal")
    arguments = parser.parse_args()
    with Origin(port=arguments.port) as origin:
        print(origin.url(""), flush=True)
        wait: Callable[[], object] = sys.stdin.read if arguments.until_eof else signal.pause
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
