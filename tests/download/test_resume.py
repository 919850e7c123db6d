# ruff: noqa: F401, F811  # fixtures are imported by name
"""Bytes that came are not asked for again, within a call, after SIGKILL and in another process; and never mixed."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from nanocache.artifact.urls import url_key
from nanocache.download.download import Target
from nanocache.errors import ChecksumMismatch, DownloadFailed
from tests.download.downloads import MIB, Download, asked, body, download, paced, sha, slept
from tests.servers import misbehave as m
from tests.servers.fixtures import Nginx, nginx
from tests.servers.misbehave import Misbehaving, serve
from tests.servers.origin import Loopback, Origin

Servers = Callable[..., Misbehaving]
DATA, OTHER = body(3 * MIB + 17), body(3 * MIB + 17, seed=1)
CUT = 2 * MIB
REST = f"{CUT}-{len(DATA) - 1}"

pytestmark = pytest.mark.usefixtures("slept")

JUDGED = pytest.mark.parametrize("digest", [None, sha(DATA)], ids=["no digest", "digest"])


# --- within a call ----------------------------------------------------------------------------------------------------


@JUDGED
def test_after_a_cut_the_rest_is_asked_for_if_it_is_the_same_file(
    misbehaving: Servers, download: Download, digest: str | None
) -> None:
    server = misbehaving()
    assert download(server.route("/f", m.in_turn(m.truncated(DATA, CUT), m.serve(DATA))), digest=digest) == DATA
    assert asked(server) == [None, REST]
    assert server.requests()[1].headers["if-range"] == '"v1"'


@JUDGED
def test_a_last_modified_that_is_old_enough_is_as_good_as_a_strong_etag(
    misbehaving: Servers, download: Download, digest: str | None
) -> None:
    server = misbehaving()
    modified = "Wed, 01 Jan 2025 00:00:00 GMT"

    def dated(handler: m.Handler, date: str) -> m.Handler:
        def wrapped(request: Any) -> Any:
            for step in handler(request):
                yield (
                    step.replace(b"\r\n", f"\r\nDate: {date}\r\n".encode(), 1)
                    if isinstance(step, bytes) and step.startswith(b"HTTP/1.1")
                    else step
                )

        return wrapped

    manners = {"etag": "", "last_modified": modified}
    turns = m.in_turn(m.truncated(DATA, CUT, **manners), m.serve(DATA, **manners))
    assert download(server.route("/old", dated(turns, "Wed, 01 Jan 2025 00:01:00 GMT")), digest=digest) == DATA
    assert server.requests("/old")[1].headers["if-range"] == modified
    turns = m.in_turn(m.truncated(DATA, CUT, **manners), m.serve(DATA, **manners))
    assert download(server.route("/new", dated(turns, "Wed, 01 Jan 2025 00:00:59 GMT")), digest=digest) == DATA
    assert "if-range" not in server.requests("/new")[1].headers


@pytest.mark.parametrize("manners", [{"etag": "", "last_modified": ""}, {"etag": 'W/"v1"', "last_modified": ""}])
def test_without_a_strong_validator_only_a_digest_allows_a_resume(
    misbehaving: Servers, download: Download, manners: dict[str, str]
) -> None:
    server = misbehaving()

    def turns() -> m.Handler:
        return m.in_turn(m.truncated(DATA, CUT, **manners), m.serve(DATA, **manners))

    assert download(server.route("/blind", turns())) == DATA
    assert asked(server, "/blind") == [None, None]
    assert download(server.route("/judged", turns()), digest=sha(DATA)) == DATA
    assert asked(server, "/judged") == [None, REST]
    assert "if-range" not in server.requests("/judged")[1].headers


@JUDGED
def test_a_file_that_changed_meanwhile_starts_over_with_the_answer_that_says_so(
    misbehaving: Servers, download: Download, digest: str | None
) -> None:
    server = misbehaving()
    turns = m.in_turn(m.truncated(OTHER, CUT, etag='"v0"'), m.serve(DATA))
    assert download(server.route("/f", turns), digest=digest) == DATA
    assert asked(server) == [None, REST]  # 200: no third request


ODD: dict[str, Callable[[bytes], m.Handler]] = {
    "earlier range": lambda data: m.shifted_range(data, -1),
    "later range": lambda data: m.shifted_range(data, 1),
    "another total": lambda data: m.wrong_total(data, len(data) + 1),
    "no range that makes sense": m.bad_content_range,
    "multipart": m.multipart,
    "416": m.refused_range,
    "another version": lambda data: m.serve(data, etag='"v2"'),
}


@JUDGED
@pytest.mark.parametrize("lie", ODD)
def test_a_part_that_is_not_what_was_asked_for_starts_over_once_without_a_range(
    misbehaving: Servers, download: Download, lie: str, digest: str | None
) -> None:
    server = misbehaving()
    url = server.route("/f", m.in_turn(m.truncated(DATA, CUT), ODD[lie](DATA)))
    if lie == "another version":  # it ignores If-Range, too
        url = server.route("/f", _ignoring_if_range(m.in_turn(m.truncated(DATA, CUT), ODD[lie](DATA))))
    assert download(url, digest=digest) == DATA
    assert asked(server) == [None, REST, None]


def _ignoring_if_range(handler: m.Handler) -> m.Handler:
    def wrapped(request: Any) -> Any:
        request.headers.pop("if-range", None)
        return handler(request)

    return wrapped


@pytest.mark.parametrize("lie", ODD)
def test_a_server_whose_parts_are_always_wrong_gets_a_named_error_in_the_end(
    misbehaving: Servers, download: Download, lie: str
) -> None:
    server = misbehaving()

    def always_cut(request: Any) -> Any:
        return (ODD[lie](DATA) if request.range else m.truncated(DATA, CUT))(request)

    with pytest.raises(DownloadFailed):
        download(server.route("/f", _ignoring_if_range(always_cut)))
    assert server.gets() <= 6


@JUDGED
def test_a_total_that_is_not_told_is_no_contradiction(
    misbehaving: Servers, download: Download, digest: str | None
) -> None:
    server = misbehaving()
    turns = m.in_turn(m.truncated(DATA, CUT), m.wrong_total(DATA, "*"))
    assert download(server.route("/f", turns), digest=digest) == DATA
    assert asked(server) == [None, REST]


@JUDGED
def test_short_parts_are_gone_on_from(misbehaving: Servers, download: Download, digest: str | None) -> None:
    server = misbehaving()
    turns = m.in_turn(m.truncated(DATA, CUT), m.short_range(DATA, 300_000))
    assert download(server.route("/f", turns), digest=digest) == DATA
    assert len(server.requests()) == 5


def test_parts_of_a_few_bytes_end_in_an_error(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    turns = m.in_turn(m.truncated(DATA, CUT), m.short_range(DATA, 10))
    with pytest.raises(DownloadFailed, match="10 bytes of what was asked for"):
        download(server.route("/f", turns), retries=2)
    assert len(server.requests()) <= 12


def test_wrong_bytes_after_a_resume_are_thrown_away_and_it_is_tried_once_from_zero(
    misbehaving: Servers, download: Download
) -> None:
    server = misbehaving()
    url = server.route("/f", m.in_turn(m.truncated(DATA, CUT), m.wrong_bytes(DATA)))
    assert download(url, digest=sha(DATA)) == DATA
    assert asked(server) == [None, REST, None]
    url = server.route("/g", m.in_turn(m.truncated(DATA, CUT), m.wrong_bytes(DATA), m.serve(OTHER)))
    with pytest.raises(ChecksumMismatch):
        download(url, digest=sha(DATA))
    assert asked(server, "/g") == [None, REST, None]


def test_an_encoded_body_is_never_resumed(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    raw = m.gzipped(DATA)
    cut = m.raw(next(iter(raw(None)))[: CUT + 500], m.FIN)  # type: ignore[arg-type, index, operator]
    download(server.route("/f", m.in_turn(cut, raw)))
    assert asked(server) == [None, None]


def test_a_chunked_body_is_resumed_and_learns_its_length(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    turns = m.in_turn(m.chunked(DATA[:CUT], whole=False), m.serve(DATA))
    assert download(server.route("/f", turns)) == DATA
    assert asked(server) == [None, f"{CUT}-"]


# --- across calls and processes ---------------------------------------------------------------------------------------


def _cut_short(server: Misbehaving, download: Download, path: str = "/f", **options: Any) -> str:
    """A call that fails for good after CUT bytes; the URL then serves DATA."""
    turns = m.in_turn(m.truncated(DATA, CUT), m.status(404), m.serve(DATA))
    url = server.route(path, turns)
    with pytest.raises(DownloadFailed):
        download(url, **options)
    server.reset()
    return url


@JUDGED
def test_the_next_call_goes_on_where_the_failed_one_ended(
    misbehaving: Servers, download: Download, digest: str | None
) -> None:
    server = misbehaving()
    url = _cut_short(server, download, digest=digest)
    assert download(url, digest=digest) == DATA
    assert asked(server) == [REST]
    assert server.requests()[0].headers["if-range"] == '"v1"'


def test_the_state_holds_no_secret(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    url = server.route("/f", m.in_turn(m.truncated(DATA, CUT), m.status(404)))
    with pytest.raises(DownloadFailed):
        download(
            Target(url.replace("://", "://me:hunter2@") + "?X-Amz-Signature=hunter2", (("Authorization", "hunter2"),))
        )
    assert "hunter2" not in json.dumps(download.left())
    assert not any(b"hunter2" in path.read_bytes() for path in download.base.rglob("state.json"))


def test_another_url_builds_on_the_bytes_only_if_a_digest_judges_them(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    _cut_short(server, download)
    assert download(server.route("/other", m.serve(OTHER))) == OTHER
    assert asked(server) == [None]
    _cut_short(server, download, digest=sha(DATA))
    assert download(server.route("/other", m.serve(DATA)), digest=sha(DATA)) == DATA
    assert asked(server) == [REST]
    assert "if-range" not in server.requests()[0].headers


@pytest.mark.parametrize(
    "damage",
    [
        {"done": [[0, 1 << 40]]},
        {"done": "all of it"},
        {"done": [[0]]},
        {"total": 5},
        {"url": None},
        {"validator": None},
        {},
    ],
)
def test_a_state_that_makes_no_sense_is_a_new_start(
    misbehaving: Servers, download: Download, damage: dict[str, Any]
) -> None:
    server = misbehaving()
    url = _cut_short(server, download)
    with closing(download.partial()) as partial:
        assert partial.state is not None
        partial.save(partial.state | damage if damage else {"something": "else"})
    assert download(url) == DATA
    assert asked(server) == [None]


def test_a_file_that_lost_bytes_is_a_new_start(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    url = _cut_short(server, download)
    (data,) = download.base.rglob("data")
    with data.open("r+b") as file:
        file.truncate(1000)
    assert download(url) == DATA
    assert asked(server) == [None]


def test_bytes_that_were_spoilt_on_disk_are_found_by_the_digest(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    url = _cut_short(server, download, digest=sha(DATA))
    (data,) = download.base.rglob("data")
    with data.open("r+b") as file:
        file.write(b"spoilt")
    assert download(url, digest=sha(DATA)) == DATA
    assert asked(server) == [REST, None]


def test_what_is_complete_already_needs_no_request_if_a_digest_judges_it_and_one_byte_if_not(
    origin: Origin, download: Download
) -> None:
    url = origin.add("/f", DATA)
    for digest, requests in ((sha(DATA), []), (None, [f"{len(DATA) - 1}-{len(DATA) - 1}"])):
        assert download(url) == DATA  # leaves nothing
        origin.reset()
        with closing(download.partial()) as partial:
            partial.write(DATA, 0)
            state = {"validator": download.got.etag, "etag": None, "last-modified": None, "total": len(DATA)}
            partial.save(state | {"url": url_key(url), "done": [[0, len(DATA)]]})
        assert download(url, digest=digest) == DATA
        assert asked(origin) == requests
        origin.reset()


# --- killed -----------------------------------------------------------------------------------------------------------

CHILD = """
from pathlib import Path
from tests.download.downloads import Download
data = Download(Path(base))(url, digest=digest, connections=connections, timeout=30)
print(len(data))
"""
SETUP = "import tests.download.downloads, nanocache.http.exchange, httpcore, httpx, filelock"


def _killed(
    spawn: Any,
    origin: Loopback,
    url: str,
    download: Download,
    when: Callable[[int], bool],
    later: float = 0,
    **given: Any,
) -> None:
    child = spawn(CHILD, setup=SETUP, url=url, base=str(download.base), **given)
    deadline = time.monotonic() + 30
    while not when(sum(r.sent for r in origin.requests())):
        assert child.processes[0].poll() is None, child.finish()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(later)
    child.processes[0].send_signal(signal.SIGKILL)
    child.finish()


@pytest.mark.parametrize("connections", [1, 4])
def test_after_a_kill_at_nine_tenths_the_next_process_asks_for_the_rest_and_a_piece_per_connection_at_most(
    origin: Origin, download: Download, spawn: Any, connections: int
) -> None:
    data = body(40 * MIB)
    url = origin.add("/f", data, rate=40e6)
    _killed(spawn, origin, url, download, lambda sent: sent >= 0.9 * len(data), digest=None, connections=connections)
    sent = sum(r.sent for r in origin.requests())
    origin.reset()
    assert download(url, connections=connections) == data
    again = sum(r.sent for r in origin.requests())
    in_flight = connections * MIB  # what stood in the sockets' buffers was sent, and died with the process
    assert again <= len(data) - sent + connections * 4 * MIB + in_flight
    assert None not in asked(origin)


@pytest.mark.alone
def test_twenty_random_kills_cost_less_than_a_seventh(misbehaving: Servers, download: Download, spawn: Any) -> None:
    data, origin = body(100 * MIB), misbehaving()
    # Records take a fiftieth of the time at most: the faster the server, the more it sends between two on a slow disk.
    url = origin.route("/f", paced(data, rate=10e6))
    chance = random.Random(7)
    for _ in range(20):
        before = sum(r.sent for r in origin.requests())
        _killed(
            spawn, origin, url, download, lambda sent, b=before: sent > b, digest=None, connections=1,
            later=chance.uniform(0, 0.2),
        )  # fmt: skip
    origin.route("/f", serve(data))
    assert download(url) == data
    assert sum(r.sent for r in origin.requests()) <= 1.15 * len(data)


# --- a second opinion -------------------------------------------------------------------------------------------------


def test_nginx_agrees_about_ranges_and_if_range(nginx: Nginx, download: Download) -> None:
    data = body(8 * MIB)
    url = nginx.add("f.bin", data)
    download(url)
    etag = download.got.etag
    assert etag

    def left(content: bytes) -> None:
        with closing(download.partial()) as partial:
            partial.write(content, 0)
            state = {"validator": etag, "etag": etag, "last-modified": None, "total": len(data)}
            partial.save(state | {"url": url_key(url), "done": [[0, len(content)]]})

    left(data[: 5 * MIB])
    assert download(url) == data
    assert nginx.requests() == [(200, "-"), (206, f"bytes={5 * MIB}-{len(data) - 1}")]
    left(data[: 5 * MIB])
    changed = nginx.add("f.bin", body(8 * MIB, seed=3), age=10)
    assert changed == url
    assert download(url) == body(8 * MIB, seed=3)
    assert nginx.requests()[2:] == [(200, f"bytes={5 * MIB}-{len(data) - 1}")]
