"""The origin tells the truth, or everything that is tested against it means nothing."""

from __future__ import annotations

import hashlib
import threading
import time

import httpx
import pytest

from tests.servers import misbehave
from tests.servers.misbehave import FIN, RST
from tests.servers.origin import LAST_MODIFIED, MIB, Origin, OriginProcess, content, digest

BODY = content(100_000, "body")


@pytest.mark.parametrize("size", [0, 1, 1024, MIB, 3 * MIB + 17])
def test_content_is_the_same_everywhere_and_differs_by_seed(size: int, origin: Origin) -> None:
    served = httpx.get(origin.url(f"/bytes/{size}/7/name.bin")).content
    assert served == content(size, 7)
    assert len(served) == size
    assert hashlib.sha256(served).hexdigest() == digest(size, 7)
    assert size == 0 or served != content(size, 8)


def test_no_two_mebibytes_of_an_artifact_are_alike() -> None:
    body = content(20 * MIB, 1)
    assert len({body[i : i + MIB] for i in range(0, len(body), MIB)}) == 20


@pytest.mark.parametrize(
    ("asked", "status", "first", "last"),
    [
        ("bytes=0-99", 206, 0, 99),
        ("bytes=99900-", 206, 99_900, 99_999),
        ("bytes=-10", 206, 99_990, 99_999),
        ("bytes=5-999999", 206, 5, 99_999),
        ("bytes=100000-", 416, 0, -1),
        ("lines=1-2", 200, 0, 99_999),
    ],
)
def test_ranges(origin: Origin, asked: str, status: int, first: int, last: int) -> None:
    answer = httpx.get(origin.add("/f", BODY), headers={"Range": asked})
    assert (answer.status_code, answer.content) == (status, BODY[first : last + 1])
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {first}-{last}/100000"
    if status == 416:
        assert answer.headers["Content-Range"] == "bytes */100000"


@pytest.mark.parametrize(("validator", "status"), [('"v1"', 206), (LAST_MODIFIED, 206), ('"v0"', 200), ('W/"v1"', 200)])
def test_a_range_of_another_version_is_the_whole_file(origin: Origin, validator: str, status: int) -> None:
    url = origin.add("/f", BODY, etag='"v1"')
    assert httpx.get(url, headers={"Range": "bytes=0-9", "If-Range": validator}).status_code == status


@pytest.mark.parametrize(
    "condition",
    [{"If-None-Match": '"x", W/"v1"'}, {"If-None-Match": "*"}, {"If-Modified-Since": LAST_MODIFIED}],
)
def test_unchanged_is_a_304_without_a_body(origin: Origin, condition: dict[str, str]) -> None:
    url = origin.add("/f", BODY, etag='"v1"')
    answer = httpx.get(url, headers=condition)
    assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", '"v1"')
    assert httpx.get(url, headers={"If-None-Match": '"v0"'} | condition | {"If-None-Match": '"v0"'}).status_code == 200


def test_every_request_is_counted_before_it_is_answered(origin: Origin) -> None:
    origin.add("/f", BODY)
    with httpx.Client(headers={"X-Rank": "3"}) as client:
        assert client.head(origin.url("/f")).headers["Content-Length"] == "100000"
        assert client.get(origin.url("/f?token=1")).content == BODY
        assert client.get(origin.url("/nothing")).status_code == 404
        assert client.get(origin.url("/__stats__")).json() == origin.stats()
    head, get, missing = origin.requests()
    assert (head.method, head.status, head.sent) == ("HEAD", 200, 0)
    assert (get.path, get.query, get.headers["x-rank"], get.sent) == ("/f", "token=1", "3", 100_000)
    assert missing.status == 404
    assert origin.gets("/f") == 1
    assert origin.stats()["connections"] == 1  # kept alive
    httpx.get(origin.url("/__reset__"))
    assert origin.requests() == []


def test_slow_is_as_slow_as_asked(origin: Origin) -> None:
    start = time.monotonic()
    httpx.get(origin.url("/bytes/20000/1/f?rate=100000&delay=0.1"))
    assert 0.29 < time.monotonic() - start < 5


def test_close_ends_connections_in_any_state() -> None:
    before = threading.active_count()
    with Origin() as origin, httpx.Client() as idle, httpx.Client() as reading:
        idle.get(origin.url("/bytes/1/1/f"))
        with reading.stream("GET", origin.url("/bytes/10000000/1/f?rate=1000")):
            start = time.monotonic()
            origin.close()
            assert time.monotonic() - start < 5
    assert threading.active_count() == before


def test_origin_in_a_process_of_its_own() -> None:
    with OriginProcess() as origin:
        assert httpx.get(origin.url("/bytes/1000/7/f")).content == content(1000, 7)
        assert origin.stats()["gets"] == 1
        origin.reset()
        assert origin.stats()["requests"] == 0


# --- the misbehaving one does what its handlers say -------------------------------------------------------------------


def test_handlers_serve_properly_but_for_their_fault(misbehaving) -> None:
    server = misbehaving()
    url = server.route("/f", misbehave.in_turn(misbehave.truncated(BODY, 1000), misbehave.serve(BODY)))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(url)
    assert httpx.get(url, headers={"Range": "bytes=1000-", "If-Range": '"v1"'}).content == BODY[1000:]
    assert [(r.range, r.status) for r in server.requests("/f")] == [(None, 200), ("bytes=1000-", 206)]


@pytest.mark.parametrize(
    "handler",
    [
        misbehave.dropped(BODY, 10),
        misbehave.cut_head(FIN),
        misbehave.cut_head(RST),
        misbehave.nonsense(),
        misbehave.lying_length(BODY, 1),
        misbehave.chunked(BODY, whole=False),
        misbehave.huge_head(),
    ],
)
def test_broken_answers_are_errors_to_a_client(misbehaving, handler) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(misbehaving().route("/f", handler))


@pytest.mark.parametrize(
    "handler",
    [
        misbehave.serve(BODY),
        misbehave.without_validator(BODY),
        misbehave.without_ranges(BODY),
        misbehave.gzipped(BODY),
        misbehave.close_delimited(BODY),
        misbehave.chunked(BODY),
    ],
)
def test_odd_but_whole_answers_are_whole(misbehaving, handler) -> None:
    assert httpx.get(misbehaving().route("/f", handler)).content == BODY


def test_a_held_body_waits_for_the_test(misbehaving) -> None:
    release = threading.Event()
    with httpx.stream("GET", misbehaving().route("/f", misbehave.stalled(BODY, 10, release))) as answer:
        chunks = answer.iter_raw()
        assert next(chunks) == BODY[:10]
        release.set()
        assert b"".join(chunks) == BODY[10:]


def test_a_crowd_is_refused(misbehaving) -> None:
    url = misbehaving().route("/f", misbehave.crowded(1, misbehave.stalled(BODY, 10)))
    with httpx.stream("GET", url) as first:
        assert first.status_code == 200
        assert httpx.get(url).status_code == 429


def test_redirects_lead_on_and_signed_addresses_expire(misbehaving) -> None:
    server, other = misbehaving(), misbehaving()
    final = other.route("/signed", misbehave.expiring(misbehave.serve(BODY)))
    first = misbehave.redirect_chain(server, 3, final)
    assert httpx.get(first, follow_redirects=True).content == BODY
    assert len(server.requests()) == 3
    assert httpx.get(first, follow_redirects=True).status_code == 403


def test_https_is_trusted_by_its_certificate_only(misbehaving, monkeypatch) -> None:
    url = misbehaving(tls=True).route("/f", misbehave.serve(BODY))
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(url)
    monkeypatch.setenv("SSL_CERT_FILE", str(misbehave.CERTIFICATE))
    assert httpx.get(url).content == BODY


def test_an_unreachable_port_refuses() -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(misbehave.unreachable())


def test_spawned_processes_start_together_and_are_reaped(spawn) -> None:
    group = spawn("print(INDEX, word, time.time())", 3, setup="", word="hi")
    lines = [out.split() for out in group.outputs()]
    assert [line[:2] for line in lines] == [[str(i), "hi"] for i in range(3)]
    stuck = spawn("time.sleep(600)", 2, setup="")
    assert all(process.poll() is None for process in stuck.processes)
