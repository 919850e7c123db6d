# ruff: noqa: E501  # a table: one case a line
"""What an origin may do to us, as data: each `Case` is one named misbehaviour and how a fetch of it has to end.

A case sets its scene (which servers there are, what each path answers) and says what comes of it: the bytes that are
published, or the class of the error and what it says; how many requests it may cost at most. What every case has in
common (no secret anywhere, nothing outside the base directory, nothing left running, the next fetch is right) is
checked by the test, and not said here. Sources: RFC 9110 and 9112, and the CVEs of curl, wget, requests, urllib3, pip.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import socket
import ssl
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import count, cycle, repeat
from pathlib import Path
from typing import Any, Self

import pytest

import nanocache
from nanocache.errors import ChecksumMismatch, DownloadFailed, NanocacheError, NoSpace
from tests.servers import misbehave as m
from tests.servers.misbehave import FIN, KIB, RST, Handler, Misbehaving, Step
from tests.servers.origin import Request

__all__ = ["BODY", "CASES", "OURS", "THEIRS", "Case", "Scene"]

TLS = Path(__file__).parent.parent / "servers" / "tls"
RETRIES = 1
TRIES = RETRIES + 1
OURS = "s3cret"  # in the caller's headers, userinfo, query, netrc: for the URL's own origin alone, and for no eye
THEIRS = "hunter2"  # in what a server sends: signed addresses, cookies. For no eye either
MIB = 1 << 20
BODY, OTHER = (random.Random(seed).randbytes(300_017) for seed in (0, 1))
SMALL = BODY[:10_000]
BIG = random.Random(2).randbytes(20 * MIB)
CUT = 200_000
ESC = "\x1b[2J\x07"
PAGE = b"<!DOCTYPE html><title>Sign in</title>"


class Scene:
    """The servers of one case. `here` is the URL's own origin; every other server must see no secret of the caller."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch = patch
        self.servers: list[Misbehaving] = []
        self.others: list[Misbehaving] = []
        self.mirrors: list[str] = []

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self.here = self.start(Misbehaving())
        self.others.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self, server: Misbehaving, *, own: bool = False) -> Misbehaving:
        self.servers.append(self._stack.enter_context(server))
        if not own:
            self.others.append(server)
        return server

    def there(self) -> Misbehaving:
        """Another origin: another port is one."""
        return self.start(Misbehaving())

    def secure(
        self, certificate: str = "right", server: type[Certified] | None = None, *, own: bool = True
    ) -> Certified:
        """A server of https, whose authority is trusted; whether its certificate is, is another matter."""
        self.patch.setenv("SSL_CERT_FILE", str(TLS / "ca.pem"))
        made = (server or Certified)(certificate)
        self.start(made, own=own)
        return made

    def requests(self) -> int:
        return sum(len(server.requests()) for server in self.servers)


Stage = Callable[[Scene], "str | Handler"]


@dataclass(frozen=True)
class Case:
    """One misbehaviour. `stage` sets the scene, and returns the URL to fetch or the handler of `/f.bin` on `here`."""

    name: str
    stage: Stage
    ends: bytes | type[NanocacheError]  # what is published, or what is raised
    says: str = ""  # a pattern in the error's text
    requests: int = 1  # at most, over all servers
    digest: bytes | None = None  # the SHA-256 of these is asked for
    size: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = 10.0  # NANOCACHE_TIMEOUT
    window: float | None = None  # seconds over which the lowest speed is measured
    limit: int | None = None  # NANOCACHE_MAX_ARTIFACT
    named: str = "f.bin"  # the last segment of the path that is returned
    cached: bool = False  # BODY was fetched before, and the URL is asked again whether it changed
    heals: bytes | None = BODY  # what the origin serves once it behaves, to be fetched next; None: it can't
    seconds: float = 20.0  # at most
    waits: bool = False  # really, between attempts: the server is not faster for our impatience


def good(name: str, stage: Stage, ends: bytes = BODY, **options: Any) -> Case:
    return Case(name, stage, ends, **options)


def bad(name: str, stage: Stage, says: str, requests: int = TRIES, **options: Any) -> Case:
    ends = options.pop("ends", DownloadFailed)
    return Case(name, stage, ends, says, requests, **options)


def pinned(case: Case, **changes: Any) -> list[Case]:
    """The case as it is, and with a digest."""
    return [case, replace(case, **({"name": f"{case.name}, pinned", "digest": BODY} | changes))]


# --- what handlers are made of ----------------------------------------------------------------------------------------


def head(*lines: str, first: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("utf-8", "surrogateescape")


def answer(*lines: str, body: bytes = BODY, first: str = "HTTP/1.1 200 OK") -> Handler:
    """Exactly these lines, then `body`, then FIN."""
    return m.raw(head(*lines, first=first), body, FIN)


def whole(*lines: str, body: bytes = BODY, **options: Any) -> Handler:
    """A right answer, with these lines more."""
    return answer(f"Content-Length: {len(body)}", 'ETag: "v1"', *lines, body=body, **options)


def part(request: Request, *lines: str, body: bytes | None = None, total: int = len(BODY)) -> Iterable[Step]:
    """The range that was asked for, with these lines instead of its Content-Range."""
    first, last = asked(request)
    payload = BODY[first : last + 1] if body is None else body
    return m.status(206, headers=dict(line.split(": ", 1) for line in lines), body=payload)(request)


def asked(request: Request) -> tuple[int, int]:
    first, last = (request.range or "").removeprefix("bytes=").split("-")
    return int(first), int(last or len(BODY) - 1)


def forever(start: bytes, step: bytes) -> Handler:
    def handler(request: Request) -> Iterator[Step]:
        yield start
        yield from repeat(step)

    return handler


def dripping(start: bytes, step: bytes = b"a", seconds: float = 0.02) -> Handler:
    def handler(request: Request) -> Iterator[Step]:
        yield start
        for _ in repeat(None):
            yield step
            yield seconds

    return handler


def after_cut(lie: Handler, data: bytes = BODY) -> Stage:
    """The first answer breaks off; what comes next is a lie, about ranges or about all."""
    return lambda scene: m.in_turn(m.truncated(data, CUT), lie)


def always(lie: Handler, data: bytes = BODY) -> Stage:
    """Whole answers break off, and ranges are lied about, each time."""
    return lambda scene: lambda request: (lie if request.range else m.truncated(data, CUT))(request)


def to_range(*lines: str, **options: Any) -> Handler:
    """206 with these headers to a range, the whole file to a plain GET."""
    return lambda request: part(request, *lines, **options) if request.range else m.serve(BODY)(request)


def redirect(location: str, code: int = 302, *lines: str) -> Handler:
    return answer(f"Location: {location}", "Content-Length: 0", *lines, body=b"", first=f"HTTP/1.1 {code} Elsewhere")


def url_of(path: str, wire: str | None = None) -> Stage:
    def stage(scene: Scene) -> str:
        scene.here.route(wire or path, whole())
        return scene.here.url(path)

    return stage


class Certified(Misbehaving):
    """Speaks https with a certificate of `tests/servers/tls`."""

    def __init__(self, certificate: str) -> None:
        super().__init__(tls=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("DEFAULT:@SECLEVEL=0")  # a client has to refuse what is weak
        self._context.load_cert_chain(TLS / f"{certificate}.pem")


class Rude(Misbehaving):
    """Does its steps at the connection, before any request; each connection counts as a request."""

    def __init__(self, *steps: Step, scheme: str = "http") -> None:
        super().__init__()
        self.steps, self.scheme = steps, scheme

    def prepare(self, connection: socket.socket) -> socket.socket:
        return connection

    def _serve(self, connection: socket.socket, number: int) -> None:
        request = Request("CONNECTION", "", "", {}, number, 0.0)
        if not self.closing.is_set():
            self.record(request)
        with suppress(OSError):
            all(self._take(step, connection, request) for step in self.steps)
        connection.close()
        with self._lock:
            self._live.pop(connection, None)


def rude(*steps: Step, scheme: str = "http") -> Stage:
    return lambda scene: scene.start(Rude(*steps, scheme=scheme), own=True).url("/f.bin")


# --- names: no header and no redirect ever names a path ---------------------------------------------------------------

DISPOSITIONS = {
    "climbs": "attachment; filename=../../../../evil.sh",
    "absolute": "attachment; filename=/etc/cron.d/evil",
    "encoded climb": "attachment; filename*=UTF-8''..%2f..%2fevil",
    "drive": 'attachment; filename="C:\\Windows\\evil.dll"',
    "share": 'attachment; filename="\\\\host\\share\\evil"',
    "device": 'attachment; filename="CON"',
    "stream": 'attachment; filename="f.bin:evil"',
    "dot file": 'attachment; filename=".bashrc"',
    "option": 'attachment; filename="-rf"',
    "control characters": f'attachment; filename="{ESC}"',
    "right to left": 'attachment; filename="a\u202egnp.exe"',
    "60 KB": f'attachment; filename="{"a" * 60_000}"',
    "bad UTF-8": 'attachment; filename="\udcff\udcfe"',
    "twice": 'attachment; filename="a"; filename="../b"',
}
URL_NAMES = {
    "encoded climb": ("/..%2f..%2fetc%2fpasswd", "_.._etc_passwd"),
    "encoded dots": ("/x/%2e%2e%2f", "_"),
    "backslashes": ("/a%5C..%5Cb", "a_.._b"),
    "drive": ("/C%3A%5Cevil", "C__evil"),
    "NUL": ("/a%00b", "a_b"),
    "newline": ("/a%0d%0aX-Injected%3a%201", "a__X-Injected__1"),
    "device": ("/nul.bin", "_nul.bin"),
    "dot file": ("/.bashrc", "bashrc"),
    "option": ("/--output=x", "output=x"),
    "bad UTF-8": ("/%ff%fe.bin", "__.bin"),
    "right to left": ("/a%E2%80%AEb.bin", "a_b.bin"),
    "nothing": ("/", "artifact"),
    "decomposed": ("/e%CC%81.bin", "\u00e9.bin"),
    "encoded twice": ("/%252e%252e%252fx", "_2e_2e_2fx"),
}
LONG = "a" * 3000 + ".bin"


def renamed(location: str) -> Stage:
    """A redirect to another name, which is not taken."""

    def stage(scene: Scene) -> Handler:
        scene.here.route(location, whole())
        return redirect(location)

    return stage


NAMES = [
    *(good(f"Content-Disposition: {k}", lambda s, v=v: whole(f"Content-Disposition: {v}")) for k, v in DISPOSITIONS.items()),
    *(good(f"URL: {k}", url_of(path), named=name) for k, (path, name) in URL_NAMES.items()),
    good("URL: 3,000 characters", url_of("/" + LONG), named=f"{LONG[:72]}{hashlib.sha256(LONG.encode()).hexdigest()[:8]}{LONG[-40:]}"),
    good("redirect renames", renamed("/evil.exe"), requests=2),
    good("redirect renames, climbing", renamed("/x/..%2f..%2f.bashrc"), requests=2),
    good("redirect renames to a folder", renamed("/folder/"), requests=2),
    good("Content-Location climbs", lambda s: whole("Content-Location: ../../evil")),
    good("Link, Refresh and Alt-Svc are for browsers", lambda s: whole("Link: </evil>; rel=canonical", "Refresh: 0; url=/evil", 'Alt-Svc: h2=":1"')),
    good("X-Accel-Redirect and X-Sendfile", lambda s: whole("X-Accel-Redirect: /etc/passwd", "X-Sendfile: /etc/passwd")),
]  # fmt: skip

# --- ranges: what is not exactly what was asked for is not built on ---------------------------------------------------

REST = f"{CUT}-{len(BODY) - 1}"
V1 = 'ETag: "v1"'
RANGES: dict[str, Handler] = {
    "begins earlier": m.shifted_range(BODY, -1),
    "begins later": m.shifted_range(BODY, 1),
    "begins at a block": m.shifted_range(BODY, -(CUT % 4096)),
    "ends later": to_range(f"Content-Range: bytes {CUT}-{len(BODY)}/{len(BODY) + 1}", V1),
    "larger total": m.wrong_total(BODY, len(BODY) + 1),
    "smaller total": m.wrong_total(BODY, CUT + 1),
    "no Content-Range": to_range(V1),
    "two Content-Ranges": to_range(f"Content-Range: bytes {REST}/{len(BODY)}, bytes 0-9/{len(BODY)}", V1),
    "octets": m.bad_content_range(BODY),
    "backwards": m.bad_content_range(BODY, f"bytes {len(BODY) - 1}-{CUT}/{len(BODY)}"),
    "negative": m.bad_content_range(BODY, f"bytes -{REST}/{len(BODY)}"),
    "twenty digits": m.bad_content_range(BODY, f"bytes {CUT}-{'9' * 20}/{'9' * 20}"),
    "5,000 digits": m.bad_content_range(BODY, f"bytes {CUT}-{'9' * 5000}/{'9' * 5000}"),
    "unknown range": m.bad_content_range(BODY, f"bytes */{len(BODY)}"),
    "multipart": m.multipart(BODY),
    "compressed part": to_range(f"Content-Range: bytes {REST}/{len(BODY)}", V1, "Content-Encoding: gzip"),
    "another ETag": to_range(f"Content-Range: bytes {REST}/{len(BODY)}", 'ETag: "v2"'),
    "the ETag turned weak": to_range(f"Content-Range: bytes {REST}/{len(BODY)}", 'ETag: W/"v1"'),
    "part of another length": to_range(f"Content-Range: bytes {REST}/{len(BODY)}", V1, body=BODY[CUT:-5]),
    "416": m.refused_range(BODY),
    "416 without a word": lambda r: (m.status(416) if r.range else m.serve(BODY))(r),
}
CROWD: dict[str, Handler] = {
    "shifted": m.shifted_range(BIG),
    "another version": m.serve(BIG, etag='"v2"'),
    "the whole to each": m.ignored_range(BIG),
    "cut each time": m.truncated(BIG, 3 * MIB),
    "broken each time": m.dropped(BIG, 3 * MIB),
    "other bytes": m.wrong_bytes(BIG),
}


def slow(payload: bytes) -> Iterator[Step]:
    """Slow enough for others to be opened beside it."""
    for at in range(0, len(payload), MIB):
        yield payload[at : at + MIB]
        yield 0.02


def slowly(lie: Handler) -> Stage:
    return lambda scene: lambda request: (lie if request.range else m._spoilt(BIG, slow))(request)


def one_at_a_time(code: int) -> Stage:
    return lambda scene: m.crowded(1, m._spoilt(BIG, slow), refusal=m.status(code))


RANGE = [
    *(one for k, lie in RANGES.items() for one in pinned(good(f"range: {k}", after_cut(lie), requests=3))),
    *(bad(f"range: {k}, each time", always(lie), "", requests=6) for k, lie in RANGES.items()),
    *pinned(good("range: total unknown", after_cut(m.wrong_total(BODY, "*")), requests=2)),
    *pinned(good("range: short parts", after_cut(m.short_range(BODY, 30_000)), requests=6)),
    *pinned(good("range: the whole instead", after_cut(m.ignored_range(BODY)), requests=2)),
    *pinned(good("range: the whole of another version instead", after_cut(m.serve(OTHER, etag='"v2"')), OTHER, requests=2, heals=None), digest=OTHER),
    *pinned(good("range: more bytes than it says", after_cut(lambda r: m.raw(head("Transfer-Encoding: chunked", f"Content-Range: bytes {REST}/{len(BODY)}", first="HTTP/1.1 206 P"), b"%x\r\n" % (len(BODY) - CUT + 9), BODY[CUT:], b"junk jun\r\n0\r\n\r\n")(r)), requests=2)),
    good("range: other bytes, pinned", after_cut(m.wrong_bytes(BODY)), digest=BODY, requests=3),
    bad("range: other bytes each time, pinned", lambda s: m.in_turn(m.truncated(BODY, CUT), m.wrong_bytes(BODY), m.serve(OTHER)), "expected .* got", 3, ends=ChecksumMismatch, digest=BODY),
    bad("range: a page, each time", always(lambda r: m.html()(r)), "web page", 3),
    bad("range: parts of ten bytes", always(m.short_range(BODY, 10)), "10 bytes of what was asked for", 6),
    bad("range: empty parts", always(lambda r: m.raw(head("Transfer-Encoding: chunked", f"Content-Range: bytes {REST}/{len(BODY)}", first="HTTP/1.1 206 P"), b"0\r\n\r\n")(r)), "0 bytes of what was asked for", 6),
    bad("range: 304", after_cut(m.status(304)), "304", 2),
    bad("206 to a plain GET", lambda s: answer(f"Content-Range: bytes 0-9/{len(BODY)}", "Content-Length: 10", body=BODY[:10], first="HTTP/1.1 206 P"), "206 to a plain GET", 2),
    bad("416 to a plain GET", lambda s: m.status(416), "416 to a plain GET", 2),
    bad("304 to a plain GET", lambda s: m.status(304), "304", 2),
    *(good(f"many connections: {k}, pinned", slowly(lie), BIG, requests=40, digest=BIG, heals=None) for k, lie in CROWD.items()),
    *(good(f"many connections: {code} to the second", one_at_a_time(code), BIG, requests=40, heals=None, waits=True) for code in (403, 429, 503)),
]  # fmt: skip

# --- lengths, chunks --------------------------------------------------------------------------------------------------


def length(value: str, body: bytes = BODY) -> Stage:
    return lambda scene: answer(f"Content-Length: {value}", body=body)


def chunks(*pieces: bytes, lines: Iterable[str] = (), end: bytes = b"0\r\n\r\n") -> Stage:
    return lambda scene: m.raw(head("Transfer-Encoding: chunked", *lines), *pieces, end, FIN)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


LENGTHS = [
    good("length: one byte less", length(str(len(BODY) - 1)), BODY[:-1], heals=None),
    bad("length: one byte less, pinned", length(str(len(BODY) - 1)), "expected .* got", 1, ends=ChecksumMismatch, digest=BODY),
    *pinned(bad("length: one byte more", length(str(len(BODY) + 1)), "ended before|sent", TRIES + 1)),
    good("length: zero, with a body", length("0"), b"", heals=None),
    *(bad(f"length: {v[:9] or 'empty'}", length(v), "not valid HTTP") for v in ("-1", "0x10", "+5", "1.5", "1e9", "abc", "", "5 5")),
    bad("length: digits of another script", length("\u0663\u0660\u0660"), "not valid HTTP"),
    bad("length: 5,000 digits", length("9" * 5000), "not valid HTTP"),
    bad("length: 2^64", length(str(1 << 64)), "needed", 1, ends=NoSpace),
    bad("length: a petabyte", length(str(10**15)), "needed", 1, ends=NoSpace),
    bad("length: over the limit", length(str(10**9)), "MAX_ARTIFACT", 1, ends=NoSpace, limit=MIB),
    good("length: the same twice", length(f"{len(BODY)}, {len(BODY)}")),
    bad("length: two that differ", length(f"{len(BODY)}, {len(BODY) - 1}"), "not valid HTTP"),
    bad("length: two headers that differ", lambda s: answer("Content-Length: 5", "Content-Length: 6"), "not valid HTTP"),
    good("length: chunks win over it", chunks(chunk(BODY), lines=["Content-Length: 5"])),
    good("length: none, and HTTP/1.0", lambda s: answer(first="HTTP/1.0 200 OK")),
    bad("size: larger than said", length(str(len(BODY))), "bytes where", 1, size=5),
    bad("size: smaller than said", length(str(len(BODY))), "bytes where", 1, size=len(BODY) + 1),
    bad("size: chunks for ever", lambda s: forever(head("Transfer-Encoding: chunked"), chunk(bytes(64 * KIB))), "more than the 300,017 bytes", 1, size=len(BODY), heals=None),
    bad("size: no end", lambda s: m.endless(), "more than the 300,017 bytes", 1, size=len(BODY), heals=None),
    bad("size: ends too early", lambda s: answer(body=SMALL), "ended after 10,000 of", TRIES, size=len(BODY)),
]  # fmt: skip
CHUNKS = [
    *(bad(f"chunk: size {v.decode()[:9] or 'empty'}", chunks(v + b"\r\n" + BODY), "not valid HTTP") for v in (b"-5", b"0x5", b"zz", b"", b"f" * 21, b"5 5", b"+5")),
    bad("chunk: 16 EiB", chunks(b"f" * 16 + b"\r\n" + BODY), "ended before|sent", TRIES + 1),
    bad("chunk: shorter than said", chunks(b"9\r\nabc\r\n"), "", TRIES + 1),
    bad("chunk: longer than said", chunks(b"3\r\nabcdef\r\n"), "not valid HTTP", TRIES + 1),
    bad("chunk: no last one", chunks(chunk(SMALL), end=b""), "ended before", TRIES + 1),
    bad("chunk: reset in the middle", lambda s: m.raw(head("Transfer-Encoding: chunked"), chunk(SMALL)[:500], RST), "connection broke"),
    good("chunk: extension", chunks(chunk(BODY, b";name=" + b"x" * 50_000))),
    good("chunk: of one byte each", chunks(*(chunk(SMALL[i : i + 1]) for i in range(2000)), chunk(BODY[2000:]))),
    good("chunk: trailers that lie", chunks(chunk(BODY), end=b"0\r\nContent-Length: 5\r\nLocation: /evil\r\n\r\n")),
    bad("chunk: extension without end", lambda s: forever(head("Transfer-Encoding: chunked") + b"5;", b"x" * 4096), "not valid HTTP"),
    bad("chunk: trailers without end", lambda s: forever(head("Transfer-Encoding: chunked") + chunk(SMALL) + b"0\r\n", b"X: y\r\n" * 512), "not valid HTTP", TRIES + 1),
    *(bad(f"transfer coding: {v}", lambda s, v=v: answer(f"Transfer-Encoding: {v}", body=chunk(BODY) + b"0\r\n\r\n"), "not valid HTTP") for v in ("gzip, chunked", "identity", "chunked, chunked", "x-evil")),
    good("transfer coding: cHuNkEd", lambda s: answer("Transfer-Encoding: cHuNkEd", body=chunk(BODY) + b"0\r\n\r\n")),
]  # fmt: skip

# --- encodings: kept raw, never unpacked ------------------------------------------------------------------------------

BOMB = gzip.compress(bytes(64 * MIB), 9)


def encoded(name: str, data: bytes) -> Stage:
    return lambda scene: whole(f"Content-Encoding: {name}", body=data)


ENCODINGS = [
    good("encoding: gzip stays as it came", encoded("gzip", gz := gzip.compress(BODY, mtime=0)), gz, heals=None),
    bad("encoding: gzip, pinned", encoded("gzip", gz), "Content-Encoding: gzip", 1, ends=ChecksumMismatch, digest=BODY),
    good("encoding: bomb of 64 MiB", encoded("gzip", BOMB), BOMB, heals=None),
    good("encoding: bomb in a bomb", encoded("gzip, gzip", two := gzip.compress(BOMB, mtime=0)), two, heals=None),
    good("encoding: deflate", encoded("deflate", zz := zlib.compress(BODY)), zz, heals=None),
    good("encoding: br that is none", encoded("br", BODY)),
    *pinned(good("encoding: gzip that is none", encoded("gzip", BODY))),
    good("encoding: identity", encoded("IDENTITY", BODY)),
    good("encoding: gzip, cut, then plain", lambda s: m.in_turn(m.raw(head("Content-Encoding: gzip", V1, f"Content-Length: {len(gz)}"), gz[:CUT], FIN), m.serve(BODY)), requests=2),
    bad("encoding: terminal codes, pinned", encoded(f"gzip{ESC}", OTHER), "expected", 1, ends=ChecksumMismatch, digest=BODY),
    bad("encoding: 60 KB, pinned", encoded("x" * 60_000, OTHER), "expected", 1, ends=ChecksumMismatch, digest=BODY),
    bad("encoding: a secret, pinned", encoded(OURS, OTHER), "expected", 1, ends=ChecksumMismatch, digest=BODY),
]  # fmt: skip

# --- redirects --------------------------------------------------------------------------------------------------------


def unique(scene: Scene) -> Handler:
    """Each redirect leads to an address that was never seen before."""
    numbers = count()
    for number in range(200):
        scene.here.route(f"/{number}", lambda _: redirect(f"/{next(numbers)}")(_))
    return redirect("/199")


def ping_pong(scene: Scene) -> Handler:
    there = scene.there()
    there.route("/f.bin", redirect(scene.here.url("/f.bin")))
    return redirect(there.url("/f.bin"))


def chain(hops: int, code: int = 302) -> Stage:
    def stage(scene: Scene) -> str:
        scene.here.route("/end", whole())
        for hop in range(hops):
            scene.here.route(f"/{hop}", redirect(f"/{hop - 1}" if hop else "/end", code))
        return scene.here.url(f"/{hops - 1}")

    return stage


def across(handler: Handler, *lines: str) -> Stage:
    """Another origin, which no secret of ours may reach, answers with `handler`."""
    return lambda scene: redirect(scene.there().route("/real", handler) + f"?X-Amz-Signature={THEIRS}", 302, *lines)


def downgrade(scene: Scene) -> str:
    plain = scene.there().route("/f.bin", m.serve(BODY))
    return scene.secure().route("/f.bin", redirect(f"{plain}?sig={THEIRS}"))


def long_downgrade(scene: Scene) -> str:
    return scene.secure().route("/f.bin", redirect(f"http://127.0.0.1/{ESC}\u202e\x85" + "a" * 50_000))


def expires(scene: Scene) -> Handler:
    """A new signed address each time, which is good for a thousand bytes."""
    there, numbers = scene.there(), count()

    def sign(request: Request) -> Iterable[Step]:
        number = next(numbers)
        there.route(f"/{number}", m.expiring(m.truncated(BODY, 100)))
        return redirect(there.url(f"/{number}") + f"?sig={THEIRS}")(request)

    return sign


def then(location: str, handler: Handler) -> Stage:
    def stage(scene: Scene) -> Handler:
        scene.here.route("/real", handler)
        return redirect(location)

    return stage


def head_of_redirect(rest: Handler) -> Stage:
    def stage(scene: Scene) -> Handler:
        scene.here.route("/real", whole())
        return rest

    return stage


NOWHERE = ("file:///etc/passwd", "FILE:///etc/passwd", "data:,x", f"ftp://me:{THEIRS}@127.0.0.1/f", "gopher://127.0.0.1/f", "javascript:alert(1)", "ws://127.0.0.1/", "jar:http://127.0.0.1/!/", "unix:/run/docker.sock", f"mailto:me:{THEIRS}@127.0.0.1")  # fmt: skip
NO_URL = ("http://[::1", "http://127.0.0.1:port/", "http://127.0.0.1:99999/", f"http://me:{THEIRS[:3]}/{THEIRS}@127.0.0.1:x/", "http://127.0.0.1\uff0fevil/")  # fmt: skip

REDIRECTS = [
    bad("redirect: to itself", lambda s: redirect("/f.bin"), "more than 10 redirects", 11),
    bad("redirect: ping-pong", ping_pong, "more than 10 redirects", 11),
    bad("redirect: never the same twice", unique, "more than 10 redirects", 11),
    bad("redirect: eleven", chain(11), "more than 10 redirects", 11),
    good("redirect: ten", chain(10), requests=11, named="9"),
    *(good(f"redirect: {code}", chain(1, code), requests=2, named="0") for code in (301, 303, 307, 308)),
    *(bad(f"redirect: {code}, which is none", lambda s, c=code: redirect("/real", c), str(code), 1) for code in (300, 305, 306)),
    *(bad(f"redirect: to {where.split('/')[0][:20]} {n}", lambda s, w=where: redirect(w), "neither http nor https|not a URL", 1) for n, where in enumerate(NOWHERE)),
    *(bad(f"redirect: to no URL {n}", lambda s, w=where: redirect(w), "not a URL", 1) for n, where in enumerate(NO_URL)),
    bad("redirect: no host", lambda s: redirect("http:///real"), "404", 2),
    bad("redirect: no host and no path", lambda s: redirect("http://"), "more than 10", 11),
    bad("redirect: without a Location", lambda s: m.status(302), "302", 1),
    bad("redirect: empty Location", lambda s: redirect(""), "more than 10 redirects", 11),
    bad("redirect: two Locations", lambda s: answer("Location: /real", "Location: /real", first="HTTP/1.1 302 F"), "404", 2),
    bad("redirect: header injection", then("/real%0d%0aX-Injected:%20evil", whole()), "404", 2),
    bad("redirect: terminal codes", lambda s: redirect(f"ftp://127.0.0.1/{ESC}"), "neither", 1),
    bad("redirect: terminal codes in a path", lambda s: redirect(f"/{ESC}"), "", 2),
    bad("redirect: right to left and other lines", lambda s: redirect("/\u202e\x85\u2028x"), "404", 2),
    bad("redirect: 60 KB to ftp", lambda s: redirect("ftp://127.0.0.1/" + "a" * 60_000), "neither", 1),
    bad("redirect: 60 KB to a 404", lambda s: redirect("/" + "a" * 60_000), "404", 2),
    bad("redirect: https to http", downgrade, "from https to http", 1, heals=None),
    bad("redirect: https to http, long and with terminal codes", long_downgrade, "from https to http|not a URL", 1, heals=None),
    bad("redirect: to a certificate of nobody", lambda s: redirect(s.secure("self_signed").url("/f.bin")), "not trusted", 1, heals=None),
    bad("redirect: to nobody", lambda s: redirect(m.unreachable()), "refused", TRIES),
    bad("redirect: to a host that is none", lambda s: redirect("http://no.such.host.invalid/f"), "cannot connect", TRIES),
    bad("redirect: to port 0", lambda s: redirect("http://127.0.0.1:0/f"), "cannot connect", TRIES),
    bad("redirect: to a label of 80 letters", lambda s: redirect(f"http://{'a' * 80}.invalid/f"), "", TRIES),
    good("redirect: backslashes", renamed("/%5Cevil"), requests=2),
    good("redirect: another scheme's relative form", then("http:real", whole()), requests=2),
    good("redirect: blanks around it", then("   /real  ", whole()), requests=2),
    good("redirect: body without end", head_of_redirect(m.redirect_with_endless_body("/real")), requests=2),
    good("redirect: a bomb for a body", head_of_redirect(answer("Location: /real", "Content-Encoding: gzip", f"Content-Length: {len(BOMB)}", body=BOMB, first="HTTP/1.1 302 F")), requests=2),
    good("redirect: a body that stalls", head_of_redirect(m.raw(head("Location: /real", "Content-Length: 9", first="HTTP/1.1 302 F"), 3600.0)), requests=2),
    good("redirect: a length that is none's", head_of_redirect(m.raw(head("Location: /real", "Content-Length: 999999999", first="HTTP/1.1 302 F"), FIN)), requests=2),
    bad("redirect: at the head's end it stalls", then("/real", m.silent()), "not a byte", 2 * TRIES, timeout=0.25),
    bad("redirect: for ranges only, to a loop", lambda s: lambda r: (redirect("/f.bin") if r.range else m.truncated(BODY, CUT))(r), "more than 10", 12),
    bad("redirect: signed addresses that expire at once", expires, "100 bytes|ended before|403", 40, heals=None),
]  # fmt: skip

# --- credentials: ours to the URL's own origin alone, and neither ours nor theirs to any eye --------------------------


def there_and_back(scene: Scene) -> Handler:
    there = scene.there()
    there.route("/there", redirect(scene.here.route("/back", _none_of_ours(whole()))))
    return redirect(there.url("/there"))


def _none_of_ours(handler: Handler) -> Handler:
    return lambda request: (m.status(418) if OURS in str(request.headers) or "authorization" in request.headers else handler)(request)  # fmt: skip


def other_name(scene: Scene) -> Handler:
    there = scene.there()
    return redirect(there.route("/real", whole()).replace("127.0.0.1", "localhost"))


def to_https(scene: Scene) -> Handler:
    return redirect(scene.secure(own=False).route("/real", whole()))


def mirror(scene: Scene) -> Handler:
    scene.mirrors.append(scene.there().route("/f.bin", whole()))
    return m.status(404)


def no_cookie(scene: Scene) -> Handler:
    scene.here.route("/real", lambda r: (m.status(418) if "hunter2" in r.headers.get("cookie", "") else whole())(r))
    return redirect("/real", 302, f"Set-Cookie: id={THEIRS}; Path=/")


CREDENTIALS = [
    good("credentials: another port", across(whole()), requests=2),
    good("credentials: another port, with a cookie", across(whole(f"Set-Cookie: a={THEIRS}"), f"Set-Cookie: b={THEIRS}"), requests=2),
    good("credentials: another name of the host", other_name, requests=2),
    good("credentials: another scheme", to_https, requests=2, heals=None),
    good("credentials: there and back", there_and_back, requests=3),
    good("credentials: a mirror elsewhere", mirror, requests=2),
    good("credentials: a resume elsewhere", across(m.in_turn(m.truncated(BODY, CUT), m.serve(BODY))), requests=3),
    bad("credentials: the other origin asks for them", across(m.status(401, headers={"WWW-Authenticate": "Basic realm=x"})), "401", 2),
    bad("credentials: a proxy's challenge", lambda s: m.status(407, headers={"Proxy-Authenticate": "Basic realm=x"}), "407", 1),
    bad("credentials: negotiate", lambda s: m.status(401, headers={"WWW-Authenticate": "Negotiate, NTLM"}), "401", 1),
    good("credentials: cookies are not kept", no_cookie, requests=2),
    good("credentials: userinfo in a Location", lambda s: redirect(s.there().route("/real", whole()).replace("://", f"://evil:{THEIRS}@")), requests=2),
    bad("credentials: userinfo in a Location, 403", lambda s: redirect(s.there().route("/real", m.status(403)).replace("://", f"://evil:{THEIRS}@")), "403", 2),
    bad("credentials: a signature in a Location, 404", across(m.status(404)), "404", 2),
    bad("credentials: a secret as the reason", lambda s: answer("Content-Length: 0", body=b"", first=f"HTTP/1.1 403 {OURS}"), "403", 1),
    bad("credentials: a secret as the status", lambda s: answer(first=f"HTTP/1.1 {OURS}"), "not valid HTTP"),
    bad("credentials: a secret in a header that is none", lambda s: whole(f"Location https://h/?sig={THEIRS}"), "not valid HTTP"),
    bad("credentials: a secret in a broken cookie", lambda s: whole(f"Set-Cookie: a={THEIRS}\x00"), "not valid HTTP"),
    bad("credentials: a secret as a length", length(OURS), "not valid HTTP"),
    bad("credentials: a secret as a chunk's size", chunks(OURS.encode() + b"\r\n"), "not valid HTTP"),
    bad("credentials: a secret as a transfer coding", lambda s: answer(f"Transfer-Encoding: {OURS}"), "not valid HTTP"),
    bad("credentials: a secret as a Content-Range", always(m.bad_content_range(BODY, OURS)), "", 6),
    bad("credentials: a secret as Retry-After", lambda s: m.status(503, headers={"Retry-After": OURS}), "503"),
    bad("credentials: a secret in the page", lambda s: m.html(f"<title>{OURS}</title>".encode()), "web page", 1),
    bad("credentials: a signature of another scheme", lambda s: redirect(f"x:/f?a={THEIRS}"), "neither", 1),
]  # fmt: skip

# --- statuses ---------------------------------------------------------------------------------------------------------

LASTING = (201, 202, 203, 204, 205, 207, 226, 400, 402, 404, 405, 406, 409, 410, 411, 414, 417, 418, 421, 422, 423, 426, 428, 431, 451, 499, 600, 999)  # fmt: skip
PASSING = (408, 425, 429, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599)
LATER = ("soon", "-5", "1.5", "9" * 5000, "Mon, 01 Jan 0001 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 31 Feb 2025 25:61:61 +9999", "120, 120", "")  # fmt: skip

STATUSES = [
    *(bad(f"status: {code}", lambda s, c=code: m.status(c), str(code), 1) for code in LASTING),
    *(bad(f"status: {code}", lambda s, c=code: m.status(c), str(code)) for code in PASSING),
    *(good(f"status: {code} once", lambda s, c=code: m.in_turn(m.status(c), m.serve(BODY)), requests=2) for code in (408, 429, 503)),
    *(bad(f"Retry-After: {v[:16] or 'empty'}", lambda s, v=v: m.status(503, headers={"Retry-After": v}), "503") for v in LATER),
    bad("status: a page with 200", lambda s: m.html(PAGE), "web page", 1),
    bad("status: a page with 200, XHTML", lambda s: whole("Content-Type: APPLICATION/XHTML+XML ; charset=x", body=PAGE), "web page", 1),
    bad("status: a page with 200, pinned", lambda s: m.html(PAGE), "expected", 1, ends=ChecksumMismatch, digest=BODY),
    bad("status: a page with 503", lambda s: m.status(503, headers={"Content-Type": "text/html"}, body=PAGE), "503"),
]  # fmt: skip

# --- heads that make no sense, or no end ------------------------------------------------------------------------------

LINES = {
    "HTTP/1.1 abc Hm": "letters", "HTTP/1.1 20 OK": "two digits", "HTTP/1.1 2000 OK": "four digits", "HTTP/1.1 099 OK": "below 100",
    "HTTP/2 200": "HTTP/2", "HTTP/1.1200 OK": "no blank", "ICY 200 OK": "ICY", "SSH-2.0-OpenSSH_9.9": "SSH", "220 mail ESMTP": "SMTP",
    "<!DOCTYPE html>": "HTTP/0.9", "PRI * HTTP/2.0": "a preface", "GET / HTTP/1.1": "a request", "\x00\x01\x02": "binary", "": "nothing",
    "HTTP/1.1 -200 OK": "negative", "HTTP/1.1 200\x00OK": "NUL", "http/1.1 200 OK": "lower case",
}  # fmt: skip
FIELDS = {
    "no colon": "Nonsense", "a blank before the colon": "X-A : b", "no name": ": b", "a name of bytes": "X-\u00e9: b", "NUL": "X-A: a\x00b",
    "a bare return": "X-A: a\rX-B: b",
}  # fmt: skip


def endless(start: bytes, step: bytes) -> Stage:
    return lambda scene: forever(start, step)


HEADS = [
    *(bad(f"head: status line of {k}", lambda s, v=v: whole(first=v), "not valid HTTP") for v, k in LINES.items()),
    *(bad(f"head: field of {k}", lambda s, v=v: whole(v), "not valid HTTP") for k, v in FIELDS.items()),
    good("head: HTTP/9.9", lambda s: whole(first="HTTP/9.9 200 OK")),
    good("head: no reason", lambda s: whole(first="HTTP/1.1 200")),
    good("head: lines end in LF", lambda s: m.raw(f"HTTP/1.1 200 OK\nContent-Length: {len(BODY)}\n\n".encode() + BODY)),
    good("head: folded lines", lambda s: whole("X-Folded: a\r\n b\r\n\tc")),
    good("head: terminal codes", lambda s: whole(f"X-A: {ESC}", f"Server: {ESC}", f"Last-Modified: {ESC}")),
    good("head: an ETag of terminal codes", lambda s: answer(f"Content-Length: {len(BODY)}", f'ETag: "{ESC}\u202e\udcff"')),
    good("head: an ETag of 60 KB", lambda s: answer(f"Content-Length: {len(BODY)}", f'ETag: "{"a" * 60_000}"')),
    good("head: an ETag of 60 KB, resumed", lambda s: m.in_turn(m.truncated(BODY, CUT, etag=f'"{"a" * 60_000}"'), m.serve(BODY, etag=f'"{"a" * 60_000}"')), requests=2),
    good("head: dates that are none", lambda s: whole("Last-Modified: yesterday", "Date: Fri, 31 Feb 0000 99:99:99 +9999")),
    good("head: 3,000 fields", lambda s: whole(*(f"X-{i}: y" for i in range(3000)))),
    bad("head: one field of a MiB", lambda s: m.huge_head(), "not valid HTTP"),
    good("head: early hints", lambda s: m.raw(head("Link: </evil>; rel=preload", first="HTTP/1.1 103 Early Hints") * 3 + head(f"Content-Length: {len(BODY)}"), BODY)),
    good("head: continue", lambda s: m.raw(b"HTTP/1.1 100 Continue\r\n\r\n" + head(f"Content-Length: {len(BODY)}"), BODY)),
    bad("head: another protocol", lambda s: m.raw(head("Upgrade: h2c", first="HTTP/1.1 101 Switching Protocols"), FIN), "not valid HTTP"),
    bad("head: fields without end", endless(b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 512), "not valid HTTP"),
    bad("head: one field without end", endless(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 4096), "not valid HTTP"),
    bad("head: status line without end", endless(b"HTTP/1.1 200 ", b"a" * 4096), "not valid HTTP"),
    bad("head: empty lines without end", endless(b"\r\n", b"\r\n" * 2048), "not valid HTTP"),
    bad("head: early hints without end", endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n" * 150), "not valid HTTP"),
    bad("head: continue without end, slowly", lambda s: dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 500), "not valid HTTP"),
    bad("head: zeros without end", endless(b"", bytes(4096)), "not valid HTTP"),
    *(bad(f"head: cut, {end.name}", lambda s, e=end: m.cut_head(e), "ended before|connection broke") for end in (FIN, RST)),
    bad("head: none", lambda s: m.raw(FIN), "ended before"),
]  # fmt: skip

# --- stalls, drips, and what never ends -------------------------------------------------------------------------------


def sawtooth(**manners: str) -> Stage:
    """Cut at one place, then at another, then at the first: each second time more has come than the time before."""
    places = cycle((100_000, CUT))
    return lambda scene: lambda request: m.truncated(BODY, next(places), **manners)(_no_range(request))


def _no_range(request: Request) -> Request:
    request.headers.pop("range", None)
    return request


def new_each_time(scene: Scene) -> Handler:
    numbers, places = count(), cycle((100_000, CUT))
    return lambda request: m.truncated(BODY, next(places), etag=f'"{next(numbers)}"')(_no_range(request))


QUIET: dict[str, Any] = {"timeout": 0.25}
SLOW: dict[str, Any] = {"window": 0.3}
STALLS = [
    bad("stall: no answer", lambda s: m.silent(), "not a byte", **QUIET),
    bad("stall: in the head", lambda s: m.raw(b"HTTP/1.1 200 OK\r\nX-", 3600.0), "not a byte", **QUIET),
    bad("stall: before the body", lambda s: m.stalled(BODY, 0), "not a byte", **QUIET),
    bad("stall: in the body", lambda s: m.stalled(BODY, CUT, etag="", last_modified=""), "not a byte", TRIES + 1, **QUIET),
    bad("stall: in a chunk", chunks(b"9\r\nabc", 3600.0, end=b""), "not a byte", TRIES + 1, **QUIET),  # type: ignore[arg-type]
    bad("stall: before the last chunk", chunks(chunk(SMALL), 3600.0, end=b""), "not a byte", TRIES + 1, **QUIET),  # type: ignore[arg-type]
    bad("stall: after early hints", lambda s: m.raw(b"HTTP/1.1 103 E\r\n\r\n", 3600.0), "not a byte", **QUIET),
    good("stall: after the last byte", lambda s: m.raw(head(f"Content-Length: {len(BODY)}"), BODY, 3600.0), timeout=1.0),
    good("stall: once, in the body", lambda s: m.in_turn(m.stalled(BODY, CUT), m.serve(BODY)), requests=2, timeout=1.0),
    bad("drip: head", lambda s: m.dripped_head(seconds=0.02), "slower than", **SLOW),
    bad("drip: body", lambda s: m.dripped(BODY, seconds=0.02), "slower than", **SLOW),
    bad("drip: chunks", lambda s: dripping(head("Transfer-Encoding: chunked"), b"1\r\na\r\n"), "slower than", **SLOW),
    bad("drip: extension of a chunk", lambda s: dripping(head("Transfer-Encoding: chunked") + b"1;"), "slower than", **SLOW),
    bad("drip: trailers", lambda s: dripping(head("Transfer-Encoding: chunked") + b"0\r\nX: "), "slower than", **SLOW),
    bad("drip: early hints", lambda s: dripping(b"HTTP/1.1 103 Early Hints\r\nX: "), "slower than", **SLOW),
    bad("drip: empty lines", lambda s: dripping(b"", b"\r\n"), "", **SLOW),
    bad("drip: no length", lambda s: dripping(head("Connection: close")), "slower than", **SLOW),
    bad("drip: a byte for each connection", lambda s: m.truncated(BODY, 1), "sent 1|ended before", TRIES + 1),
    bad("cuts that go back and forth", sawtooth(), "ended before", 12, heals=None),
    bad("cuts that go back and forth, no validator", sawtooth(etag="", last_modified=""), "ended before", 12),
    bad("cuts that go back and forth, no validator, pinned", sawtooth(etag="", last_modified=""), "ended before", 12, digest=BODY),
    bad("cuts that go back and forth, another version each time", new_each_time, "ended before", 12),
    bad("endless: no length", lambda s: m.endless(), "MAX_ARTIFACT", 1, ends=NoSpace, limit=2 * MIB),
    bad("endless: chunks", endless(head("Transfer-Encoding: chunked"), chunk(bytes(64 * KIB))), "MAX_ARTIFACT", 1, ends=NoSpace, limit=2 * MIB),
    bad("endless: compressed", endless(head("Content-Encoding: gzip"), BOMB), "MAX_ARTIFACT", 1, ends=NoSpace, limit=2 * MIB),
    bad("endless: a page", endless(head("Content-Type: text/html"), PAGE * 100), "web page", 1),
    bad("endless: an error's page", endless(head(first="HTTP/1.1 404 No"), PAGE * 100), "404", 1),
    bad("endless: an error's page, 500", endless(head(first="HTTP/1.1 500 No"), PAGE * 100), "500"),
    good("endless: after the body's end", endless(head(f"Content-Length: {len(BODY)}") + BODY, bytes(64 * KIB))),
]  # fmt: skip

# --- connections, and what is left in them ----------------------------------------------------------------------------


def used(first: Handler, *, digest: bytes | None = BODY) -> Stage:
    """A connection that brought another file before, after which it holds a surprise."""

    def stage(scene: Scene) -> Handler:
        url = scene.here.route("/first.bin", first)
        with suppress(NanocacheError):
            nanocache.fetch(url, progress=False, sha256=digest and hashlib.sha256(digest).hexdigest())
        time.sleep(0.1)  # for what comes later, and unasked
        return m.serve(BODY)

    return stage


POISON = head("Content-Length: 1000", 'ETag: "poison"') + OTHER[:1000]


CONNECTIONS = [
    bad("connection: refused", lambda s: m.unreachable(), "refused", 0, heals=None),
    bad("connection: reset when it is made", rude(RST), "connection broke|ended before", heals=None),
    bad("connection: closed when it is made", rude(FIN), "ended before|connection broke", heals=None),
    bad("connection: silent when it is made", rude(3600.0), "not a byte", heals=None, **QUIET),
    bad("connection: garbage when it is made", rude(b"\x16\x03\x01 hello\r\n\r\n", 0.2, FIN), "not valid HTTP|broke|ended", heals=None),
    bad("connection: reset after the request", lambda s: m.raw(RST), "connection broke|ended before"),
    good("connection: reset in the body, once", lambda s: m.in_turn(m.dropped(BODY, CUT), m.serve(BODY)), requests=2),
    bad("connection: reset in the body, each time", lambda s: m.dropped(BODY, 100), "connection broke"),
    good("connection: reset after the body", lambda s: m.raw(head(f"Content-Length: {len(BODY)}"), BODY, RST)),
    good("connection: closed after the body, in spite of keep-alive", used(whole("Connection: keep-alive")), requests=3),
    good("connection: reset when it is used again", used(m.in_turn(m.serve(BODY))), requests=3),
    good("connection: a second answer behind the first", used(m.raw(head(f"Content-Length: {len(SMALL)}") + SMALL + POISON), digest=SMALL), requests=3),
    good("connection: a second answer, later", used(m.raw(head(f"Content-Length: {len(SMALL)}") + SMALL, 0.05, POISON), digest=SMALL), requests=3),
    good("connection: a second answer behind chunks", used(m.raw(head("Transfer-Encoding: chunked") + chunk(SMALL) + b"0\r\n\r\n" + POISON), digest=SMALL), requests=3),
    good("connection: a second answer behind a length that lies", used(m.raw(head("Content-Length: 5") + SMALL[:5] + POISON), digest=None), requests=3),
    good("connection: a second answer behind an empty one", used(m.raw(head("Content-Length: 0") + POISON), digest=None), requests=3),
    good("connection: a second answer behind an error", used(m.raw(head("Content-Length: 0", first="HTTP/1.1 404 No") + POISON)), requests=3),
    good("connection: a second answer behind a 304", used(m.raw(head(first="HTTP/1.1 304 No") + POISON)), requests=4),
    good("connection: junk behind the body", used(m.raw(head(f"Content-Length: {len(SMALL)}") + SMALL + b"junk"), digest=SMALL), requests=3),
]  # fmt: skip

# --- TLS --------------------------------------------------------------------------------------------------------------


class Old(Certified):
    """Speaks TLS 1.1 at most."""

    def __init__(self, certificate: str) -> None:
        super().__init__(certificate)
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            self._context.minimum_version, self._context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1


class Strict(Certified):
    """Wants a certificate of the client."""

    def __init__(self, certificate: str) -> None:
        super().__init__(certificate)
        self._context.verify_mode = ssl.CERT_REQUIRED
        self._context.load_verify_locations(TLS / "ca.pem")


class Ragged(Certified):
    """Ends connections without TLS's own goodbye, as an attacker who cuts the line does."""

    def _take(self, step: Step, connection: socket.socket, request: Request) -> bool:
        if step is FIN:
            socket.socket.shutdown(connection, socket.SHUT_RDWR)
        return super()._take(step, connection, request)


def tls(certificate: str, handler: Handler | None = None, server: type[Certified] | None = None) -> Stage:
    return lambda scene: scene.secure(certificate, server).route("/f.bin", handler or whole())


REFUSED = ("self_signed", "stranger_signed", "elsewhere", "nameless", "client_only", "expired", "not_yet", "weak", "old_digest", "by_a_leaf")  # fmt: skip
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal, handshake failure
NO_TLS = "cannot connect|connection broke|no connection"
TLS_CASES = [
    good("TLS: a right certificate", tls("right"), heals=None),
    *(bad(f"TLS: {one.replace('_', ' ')}", tls(one), "not trusted", 0, heals=None) for one in REFUSED),
    bad("TLS: 1.1", tls("right", server=Old), NO_TLS, heals=None),
    bad("TLS: wants to see ours", tls("right", server=Strict), NO_TLS + "|ended before", heals=None),
    bad("TLS: plain HTTP instead", rude(head("Content-Length: 0"), 0.1, FIN, scheme="https"), NO_TLS, heals=None),
    bad("TLS: an alert", rude(ALERT, 0.1, FIN, scheme="https"), NO_TLS, heals=None),
    bad("TLS: garbage", rude(bytes(range(256)), 0.1, FIN, scheme="https"), NO_TLS, heals=None),
    bad("TLS: closed", rude(FIN, scheme="https"), NO_TLS, heals=None),
    bad("TLS: reset", rude(RST, scheme="https"), NO_TLS, heals=None),
    bad("TLS: silent", rude(3600.0, scheme="https"), NO_TLS, heals=None, **QUIET),
    good("TLS: cut without a goodbye", tls("right", m.in_turn(m.truncated(BODY, CUT), m.serve(BODY)), Ragged), requests=2, heals=None),
    bad("TLS: no length, cut without a goodbye, pinned", tls("right", m.close_delimited(SMALL), Ragged), "expected", 2, ends=ChecksumMismatch, digest=BODY, heals=None),
]  # fmt: skip

# --- proxies ----------------------------------------------------------------------------------------------------------


class Proxy(Misbehaving):
    """Answers everything with one handler, CONNECT above all."""

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self.handler = handler

    def answer(self, connection: socket.socket, request: Request) -> bool:
        self.record(request)
        return all(self._take(step, connection, request) for step in self.handler(request))


def through(handler: Handler) -> Stage:
    def stage(scene: Scene) -> str:
        proxy = scene.start(Proxy(handler))
        scene.patch.setenv("HTTPS_PROXY", f"http://me:{THEIRS}@127.0.0.1:{proxy.port}")
        return "https://no.such.host.invalid/f.bin"

    return stage


TUNNEL = b"HTTP/1.1 200 Connected\r\n\r\n"
PROXIES = [
    bad("proxy: asks for a login, with terminal codes", through(m.raw(head("Content-Length: 0", first=f"HTTP/1.1 407 {ESC}"))), "407", 1, heals=None),
    bad("proxy: refuses with our secret", through(m.raw(head("Content-Length: 0", first=f"HTTP/1.1 403 {THEIRS}"))), "403", 1, heals=None),
    bad("proxy: refuses with 60 KB", through(m.raw(head("Content-Length: 0", first=f"HTTP/1.1 403 {'a' * 60_000}"))), "403", 1, heals=None),
    bad("proxy: 502", through(m.status(502)), "502", heals=None),
    bad("proxy: redirects", through(redirect("http://127.0.0.1/evil")), "302", heals=None),
    bad("proxy: no TLS in the tunnel", through(m.raw(TUNNEL, head("Content-Length: 5"), b"evil!", FIN)), NO_TLS, heals=None),
    bad("proxy: closes the tunnel", through(m.raw(TUNNEL, FIN)), NO_TLS, heals=None),
    bad("proxy: silent", through(m.silent()), "not a byte", heals=None, **QUIET),
    bad("proxy: silent tunnel", through(m.raw(TUNNEL, 3600.0)), NO_TLS, heals=None, **QUIET),
    bad("proxy: garbage", through(m.raw(b"\x05\x00garbage\r\n\r\n", FIN)), "not valid HTTP", heals=None),
]  # fmt: skip

# --- asked whether it changed -----------------------------------------------------------------------------------------


def changed(
    name: str, handler: Handler | Stage, ends: Any = BODY, says: str = "", requests: int = TRIES, **options: Any
) -> Case:
    stage: Stage = handler if options.pop("staged", False) else lambda scene: handler  # type: ignore[assignment]
    return Case(f"asked again: {name}", stage, ends, says, requests, cached=True, **options)


AGAIN = [
    changed("304", m.status(304), requests=1),
    changed("304 of another version", m.status(304, headers={"ETag": '"v2"'}), requests=1),
    changed("304 with a body", m.raw(head("Content-Length: 5", first="HTTP/1.1 304 No"), b"evil!", FIN), requests=1),
    changed("a new version", m.serve(OTHER, etag='"v2"'), OTHER, requests=1, heals=None),
    changed("500", m.status(500)),
    changed("nonsense", m.nonsense(), requests=TRIES + 1),
    changed("silence", m.silent(), **QUIET),
    changed("a loop", redirect("/f.bin"), requests=11),
    changed("a page", m.html(), requests=1),
    changed("cuts", m.truncated(OTHER, 100, etag='"v2"'), requests=TRIES + 1),
    changed("206", answer("Content-Range: bytes 0-4/5", "Content-Length: 5", body=b"evil!", first="HTTP/1.1 206 P"), requests=2),
    changed("a downgrade's secret", redirect(f"ftp://me:{THEIRS}@h/?sig={THEIRS}"), requests=1),
    changed("404", m.status(404), DownloadFailed, "404", 1),
    changed("410", m.status(410), DownloadFailed, "410", 1),
]  # fmt: skip

CASES = [
    *(*NAMES, *RANGE, *LENGTHS, *CHUNKS, *ENCODINGS, *REDIRECTS, *CREDENTIALS, *STATUSES, *HEADS, *STALLS),
    *(*CONNECTIONS, *TLS_CASES, *PROXIES, *AGAIN),
]
