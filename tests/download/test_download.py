# ruff: noqa: F401, F811  # fixtures are imported by name
"""One artifact over one connection: what comes, what is refused, what is asked again, and what every error says."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cancel import Cancel, Cancelled
from nanocache.coordination.process import boot_time
from nanocache.download.download import Condition, NotModified, Target
from nanocache.errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from nanocache.store import partials
from nanocache.store.layout import TAGS
from tests.download.downloads import MIB, Download, body, download, sha, slept
from tests.servers import misbehave as m
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import LAST_MODIFIED, Origin, Request

Servers = Callable[..., Misbehaving]
SMALL, LARGE = body(10_000), body(3 * MIB + 17)
BOTH = pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])


# --- what comes -------------------------------------------------------------------------------------------------------


@BOTH
def test_one_plain_get_brings_the_file(origin: Origin, download: Download, data: bytes) -> None:
    url = origin.add("/file.bin", data)
    assert download(url) == data
    assert download.got.digest == sha(data)
    assert download.got.size == len(data)
    assert download.got.url == url
    assert download.got.etag
    assert download.got.last_modified
    assert download.got.remember
    (request,) = origin.requests()
    assert request.range is None
    assert "if-range" not in request.headers


def test_what_is_sent_names_us_and_asks_for_the_bytes_as_they_are(origin: Origin, download: Download) -> None:
    download(origin.add("/f", SMALL))
    (request,) = origin.requests()
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("nanocache/")
    assert request.headers["host"] == f"127.0.0.1:{origin.port}"


def test_an_empty_file_is_a_file(origin: Origin, download: Download) -> None:
    assert download(origin.add("/empty", b"")) == b""
    assert download.got.digest == sha(b"")


@BOTH
def test_chunks_are_as_good_as_a_length(misbehaving: Servers, download: Download, data: bytes) -> None:
    assert download(misbehaving().route("/f", m.chunked(data))) == data
    assert download.got.remember


@BOTH
def test_a_body_without_an_end_is_not_remembered_unless_something_judges_it(
    misbehaving: Servers, download: Download, data: bytes
) -> None:
    url = misbehaving().route("/f", m.close_delimited(data))
    assert download(url) == data
    assert not download.got.remember
    assert download(url, digest=sha(data)) == data
    assert download.got.remember
    assert download(url, size=len(data)) == data
    assert download.got.remember


def test_progress_is_reported_from_the_calling_thread_and_ends_with_the_whole(
    origin: Origin, download: Download
) -> None:
    download(origin.add("/f", LARGE))
    assert download.reports[-1] == (len(LARGE), len(LARGE))
    done = [d for d, _ in download.reports]
    assert done == sorted(done)


def test_a_local_file_is_transferred_like_any_other(tmp_path: Path, download: Download) -> None:
    path = tmp_path / "a file.bin"
    path.write_bytes(LARGE)
    assert download(path.as_uri(), digest=sha(LARGE)) == LARGE
    with pytest.raises(DownloadFailed, match="No such file"):
        download((tmp_path / "none").as_uri())
    with pytest.raises(DownloadFailed, match="not a regular file"):
        download(tmp_path.as_uri())


def test_no_thread_outlives_the_call(origin: Origin, download: Download) -> None:
    url = origin.add("/f", body(32 * MIB))
    download(url)
    assert not [t for t in threading.enumerate() if t.name.startswith("nanocache")]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_wrong_bytes_are_named_with_both_digests(origin: Origin, download: Download) -> None:
    url = origin.add("/f", SMALL) + "?token=secret"
    with pytest.raises(ChecksumMismatch) as e:
        download(url.replace("http://", "http://me:pw@"), digest=sha(LARGE))
    assert (e.value.expected, e.value.got, e.value.size) == (sha(LARGE), sha(SMALL), len(SMALL))
    assert "secret" not in str(e.value)
    assert "pw@" not in str(e.value)
    assert origin.gets() == 1
    assert download.left() is None


def test_an_encoding_that_was_not_asked_for_is_kept_raw_and_named(misbehaving: Servers, download: Download) -> None:
    url = misbehaving().route("/f", m.gzipped(SMALL))
    with pytest.raises(ChecksumMismatch, match="Content-Encoding: gzip"):
        download(url, digest=sha(SMALL))
    assert download(url)[:2] == b"\x1f\x8b"
    assert download.got.content_encoding == "gzip"


def test_a_page_instead_of_the_file_is_refused_unless_it_may_be_meant(misbehaving: Servers, download: Download) -> None:
    page = b"<!DOCTYPE html><title>Sign in</title>"
    url = misbehaving().route("/f", m.html(page))
    with pytest.raises(DownloadFailed, match="a web page came instead of the file"):
        download(url)
    assert download(url, name="index.HTML") == page
    assert download(url, digest=sha(page)) == page
    assert download(url, size=len(page)) == page
    assert download(Target(url, (("Accept", "text/html"),))) == page


@BOTH
@pytest.mark.parametrize("by", [1, -1])
def test_another_size_than_expected_is_refused_before_the_body(
    origin: Origin, download: Download, data: bytes, by: int
) -> None:
    with pytest.raises(DownloadFailed, match="bytes where"):
        download(origin.add("/f", data), size=len(data) + by)
    assert origin.gets() == 1


def test_a_body_of_unknown_length_that_ends_too_early_is_asked_for_again(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    turns = m.in_turn(m.close_delimited(SMALL[:500]), m.close_delimited(SMALL))
    assert download(misbehaving().route("/f", turns), size=len(SMALL)) == SMALL
    with pytest.raises(DownloadFailed, match="ended after 500 of 10,000 bytes"):
        download(misbehaving().route("/f", m.close_delimited(SMALL[:500])), size=len(SMALL))
    with pytest.raises(DownloadFailed, match="more than the 500 bytes"):
        download(misbehaving().route("/f", m.close_delimited(SMALL)), size=500)


def test_a_cut_of_a_body_of_unknown_length_is_told_by_the_digest_and_asked_for_once_more(
    misbehaving: Servers, download: Download
) -> None:
    turns = m.in_turn(m.close_delimited(SMALL[:500]), m.close_delimited(SMALL))
    assert download(misbehaving().route("/f", turns), digest=sha(SMALL)) == SMALL


# --- what is asked again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451])
def test_what_will_not_pass_is_one_request(misbehaving: Servers, download: Download, status: int) -> None:
    server = misbehaving()
    with pytest.raises(DownloadFailed, match=str(status)) as e:
        download(server.route("/f", m.status(status)))
    assert e.value.status == status
    assert server.gets() == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_asked_again_as_often_as_set(
    misbehaving: Servers, download: Download, slept: list[float], status: int
) -> None:
    server = misbehaving()
    with pytest.raises(DownloadFailed, match=str(status)):
        download(server.route("/f", m.status(status)))
    assert server.gets() == 4  # one, and three retries
    assert len(slept) >= 3
    url = server.route("/g", m.in_turn(*[m.status(status)] * 3, m.serve(SMALL)))
    assert download(url) == SMALL


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_is_waited_for(misbehaving: Servers, download: Download, slept: list[float], date: bool) -> None:
    url = misbehaving().route("/f", m.in_turn(m.retry_after(17, date=date), m.serve(SMALL)))
    assert download(url) == SMALL
    assert 16 <= sum(slept) <= 18.5


@pytest.mark.parametrize("date", [False, True])
def test_a_very_long_retry_after_fails_at_once_and_says_when_to_come_back(
    misbehaving: Servers, download: Download, slept: list[float], date: bool
) -> None:
    server = misbehaving()
    url = server.route("/f", m.retry_after(86_400, code=429, date=date))
    with pytest.raises(
        DownloadFailed, match=r"86,(400|399) s; try again after 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    ) as e:
        download(url)
    assert e.value.status == 429
    assert (server.gets(), slept) == (1, [])
    assert download(url, server.route("/mirror", m.serve(SMALL))) == SMALL


def test_while_a_long_retry_after_runs_waiters_get_a_sign_of_life_each_second(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    url = misbehaving().route("/f", m.in_turn(m.retry_after(120, code=429), m.serve(SMALL)))
    assert download(url) == SMALL
    assert 120 <= sum(slept) <= 121.5
    assert max(slept) <= 1
    assert len(download.reports) >= 120


BROKEN: dict[str, Any] = {
    "cut": lambda data: m.truncated(data, len(data) // 2),
    "reset": lambda data: m.dropped(data, len(data) // 2),
    "cut at once": lambda data: m.truncated(data, 0),
    "half a head": lambda data: m.cut_head(),
    "half a head, reset": lambda data: m.cut_head(m.RST),
    "nonsense": lambda data: m.nonsense(),
    "huge head": lambda data: m.huge_head(),
    "no answer": lambda data: m.raw(m.FIN),
    "longer than it is": lambda data: m.lying_length(data, 1),
    "last chunk missing": lambda data: m.chunked(data, whole=False),
    "503": lambda data: m.status(503),
}


@BOTH
@pytest.mark.parametrize("fault", BROKEN)
def test_what_breaks_once_is_asked_for_again(
    misbehaving: Servers, download: Download, slept: list[float], fault: str, data: bytes
) -> None:
    server = misbehaving()
    url = server.route("/f", m.in_turn(BROKEN[fault](data), m.serve(data)))
    assert download(url) == data
    assert server.gets() == (3 if fault == "last chunk missing" else 2)  # there is no range beyond the last byte


@pytest.mark.parametrize("fault", [name for name in BROKEN if name not in ("cut", "reset")])
def test_what_breaks_every_time_ends_after_the_set_number_of_tries(
    misbehaving: Servers, download: Download, slept: list[float], fault: str
) -> None:
    server = misbehaving()
    url = server.route("/f", BROKEN[fault](SMALL))
    with pytest.raises(DownloadFailed):
        download(url, retries=2)
    assert server.gets() <= 4


def test_an_attempt_that_made_progress_is_not_counted(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    url = server.route("/f", m.truncated(SMALL, 1_000))
    assert download(url, retries=0, digest=sha(SMALL)) == SMALL
    assert server.gets() == 10


def test_a_byte_at_a_time_is_no_progress(misbehaving: Servers, download: Download, slept: list[float]) -> None:
    server = misbehaving()
    with pytest.raises(DownloadFailed):
        download(server.route("/f", m.truncated(SMALL, 1)), retries=2)
    assert server.gets() == 3


def test_silence_ends_with_the_timeout(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    start = time.monotonic()
    with pytest.raises(DownloadFailed, match=r"not a byte for 0.2 s"):
        download(server.route("/f", m.silent()), timeout=0.2, retries=0)
    with pytest.raises(DownloadFailed, match=r"not a byte for 0.2 s"):
        download(server.route("/g", m.stalled(LARGE, MIB, etag="")), timeout=0.2, retries=0)
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("handler", [m.dripped(SMALL, seconds=0.02), m.dripped_head(seconds=0.02)])
def test_a_drip_ends_though_each_byte_comes_in_time(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch, slept: list[float], handler: m.Handler
) -> None:
    monkeypatch.setattr("nanocache.http.failure.SPEED_WINDOW", 0.3)
    server = misbehaving()
    with pytest.raises(DownloadFailed, match="slower than"):
        download(server.route("/f", handler), retries=1, digest=sha(SMALL))
    assert server.gets() == 2  # the bytes that dripped are no progress


def test_a_refused_connection_is_an_error_that_says_so(download: Download, slept: list[float]) -> None:
    with pytest.raises(DownloadFailed, match="Connection refused") as e:
        download(m.unreachable())
    assert len(slept) >= 3
    assert e.value.status is None
    assert pickle.loads(pickle.dumps(e.value)).causes == e.value.causes


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIMEOUT", "inf"),
        ("TIMEOUT", "1e300"),
        ("TIMEOUT", "1e10"),
        ("LOCK_TIMEOUT", "inf"),
        ("LOCK_TIMEOUT", "1e300"),
        ("RETRIES", "2000"),
        ("RETRIES", "1" + "0" * 30),
        ("CONNECTIONS", "1" + "0" * 30),
        ("MAX_ARTIFACT", "1" + "0" * 30),
    ],
)
@BOTH
def test_a_setting_may_be_as_large_as_one_likes(
    misbehaving: Servers,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    slept: list[float],
    name: str,
    value: str,
    data: bytes,
) -> None:
    monkeypatch.setenv(f"NANOCACHE_{name}", value)
    url = misbehaving().route("/f", m.in_turn(m.status(503), m.serve(data)))
    assert nanocache.fetch(url).read_bytes() == data


# --- long waits -------------------------------------------------------------------------------------------------------


@pytest.fixture
def minutes_pass(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`minutes_pass(n)`: for the partial's clock it is n minutes later."""
    ahead = [0.0]
    monkeypatch.setattr(partials, "boot_time", lambda: boot_time() + ahead[0])

    def later(minutes: float) -> None:
        ahead[0] += 60 * minutes

    return later


@BOTH
def test_a_first_byte_may_take_as_long_as_the_timeout_allows(
    misbehaving: Servers, download: Download, minutes_pass: Callable[[float], None], data: bytes
) -> None:
    server = misbehaving()

    def slow(request: Request) -> Iterator[m.Step]:
        minutes_pass(20)
        yield from m.serve(data)(request)

    assert download(server.route("/f", slow)) == data
    assert server.gets() == 1


def test_a_small_body_may_stand_still_as_long_as_the_timeout_allows(
    misbehaving: Servers, download: Download, minutes_pass: Callable[[float], None]
) -> None:
    """While a large one does, the calling thread looks at the partial all the time."""
    server = misbehaving()

    def slow(request: Request) -> Iterator[m.Step]:
        for step in m.serve(SMALL)(request):
            yield step
            time.sleep(0.05)
            minutes_pass(20)

    assert download(server.route("/f", slow)) == SMALL
    assert server.gets() == 1


def test_a_partial_that_was_taken_over_meanwhile_is_left(
    misbehaving: Servers, download: Download, minutes_pass: Callable[[float], None], slept: list[float]
) -> None:
    def taken(request: Request) -> Iterator[m.Step]:
        if request.range:
            (folder,) = (download.base / "partials-v1" / "key").iterdir()
            folder.rename(folder.with_name("taken"))
            minutes_pass(20)
        yield from (m.serve(LARGE) if request.range else m.truncated(LARGE, MIB))(request)

    with pytest.raises(partials.Abandoned):
        download(misbehaving().route("/f", taken))


# --- mirrors ----------------------------------------------------------------------------------------------------------


def test_mirrors_are_tried_in_order_with_one_cause_for_each(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    urls = [server.route(f"/{code}", m.status(code)) + "?key=secret" for code in (404, 403, 410)]
    with pytest.raises(DownloadFailed) as e:
        download(*urls)
    assert [reason[:3] for _, reason in e.value.causes] == ["404", "403", "410"]
    assert "secret" not in str(e.value)
    assert len(e.value.causes) == 3


def test_the_next_mirror_gives_what_the_first_does_not(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    broken, good = server.route("/broken", m.status(404)), server.route("/good", m.serve(SMALL))
    assert download(broken, good) == SMALL
    assert download.got.url == good


def test_a_mirror_with_wrong_bytes_is_passed_over_and_if_all_have_them_it_is_a_mismatch(
    misbehaving: Servers, download: Download
) -> None:
    server = misbehaving()
    wrong, right = server.route("/wrong", m.serve(LARGE)), server.route("/right", m.serve(SMALL))
    assert download(wrong, right, digest=sha(SMALL)) == SMALL
    with pytest.raises(ChecksumMismatch):
        download(wrong, wrong, digest=sha(SMALL))
    with pytest.raises(DownloadFailed, match="sha256 mismatch"):
        download(wrong, server.route("/none", m.status(404)), digest=sha(SMALL))


def test_a_mirror_goes_on_from_the_bytes_of_the_first_if_a_digest_judges_them(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    first = server.route("/first", m.in_turn(m.truncated(LARGE, 2 * MIB), m.status(404)))
    second = server.route("/second", m.serve(LARGE, etag='"other"'))
    assert download(first, second, digest=sha(LARGE)) == LARGE
    (request,) = server.requests("/second")
    assert request.range == f"bytes={2 * MIB}-{len(LARGE) - 1}"
    assert "if-range" not in request.headers  # that is the first one's validator


def test_a_mirror_starts_from_zero_if_nothing_judges_the_bytes(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    first = server.route("/first", m.in_turn(m.truncated(LARGE, 2 * MIB), m.status(404)))
    second = server.route("/second", m.serve(body(len(LARGE), seed=2), etag='"other"'))
    assert download(first, second) == body(len(LARGE), seed=2)
    (request,) = server.requests("/second")
    assert request.range is None


# --- conditions -------------------------------------------------------------------------------------------------------


def test_a_condition_that_holds_brings_nothing(origin: Origin, download: Download) -> None:
    url = origin.add("/f", SMALL, etag='"v1"')
    assert download(url, condition=Condition('"v1"')) == b""
    assert isinstance(download.received, NotModified)
    assert download(url, condition=Condition(None, LAST_MODIFIED)) == b""
    assert isinstance(download.received, NotModified)
    assert [r.sent for r in origin.requests()] == [0, 0]


def test_a_condition_that_does_not_hold_brings_the_new_file(origin: Origin, download: Download) -> None:
    assert download(origin.add("/f", SMALL, etag='"v2"'), condition=Condition('"v1"')) == SMALL


def test_304_to_a_plain_get_is_an_error(misbehaving: Servers, download: Download) -> None:
    with pytest.raises(DownloadFailed, match="304"):
        download(misbehaving().route("/f", m.status(304)))


# --- room -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def size_limit() -> Any:
    """Files can grow to 2 MiB in this process: EFBIG, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * MIB, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_gives_the_space_back_and_says_what_was_needed(
    origin: Origin, download: Download, size_limit: None
) -> None:
    with pytest.raises(NoSpace) as e:
        download(origin.add("/f", LARGE))
    assert e.value.errno == errno.ENOSPC
    assert e.value.needed is not None
    assert 0 < e.value.needed <= len(LARGE)
    assert e.value.available is not None
    assert not [path for path in (download.base / "partials-v1").rglob("*") if path.name not in TAGS]


def test_room_is_looked_for_before_the_body(
    misbehaving: Servers, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def small(path: Any) -> Any:
        st = real(path)
        return os.statvfs_result((st.f_bsize, st.f_frsize, st.f_blocks, 1, 1, *tuple(st)[5:]))

    monkeypatch.setattr(os, "statvfs", small)
    with pytest.raises(NoSpace, match=f"needed {len(LARGE):,} bytes") as e:
        download(misbehaving().route("/f", m.stalled(LARGE, 0)))
    assert e.value.available is not None
    assert e.value.available < len(LARGE)


def test_a_mount_that_knows_no_numbers_is_not_asked(
    origin: Origin, download: Download, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs
    monkeypatch.setattr(
        os, "statvfs", lambda path: os.statvfs_result((*tuple(real(path))[:2], 0, 0, 0, *tuple(real(path))[5:]))
    )
    assert download(origin.add("/f", LARGE)) == LARGE


def test_an_endless_body_ends_at_the_limit(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    with pytest.raises(NoSpace, match="NANOCACHE_MAX_ARTIFACT") as e:
        download(server.route("/f", m.endless()), max_artifact=5 * MIB)
    assert e.value.available == 5 * MIB
    assert server.requests()[0].sent < 40 * MIB
    assert not [path for path in (download.base / "partials-v1").rglob("*") if path.name not in TAGS]


def test_an_announced_size_over_the_limit_is_refused_before_the_body(misbehaving: Servers, download: Download) -> None:
    with pytest.raises(NoSpace, match="NANOCACHE_MAX_ARTIFACT"):
        download(misbehaving().route("/f", m.stalled(LARGE, 0)), max_artifact=MIB)


# --- offline, called off ----------------------------------------------------------------------------------------------


def test_nothing_is_sent_while_offline(origin: Origin, download: Download) -> None:
    with pytest.raises(NotCached, match="offline") as e:
        download(origin.add("/f", SMALL) + "?sig=secret", offline=True)
    assert origin.gets() == 0
    assert e.value.base_dir == str(download.base)
    assert "secret" not in str(e.value)


HANGING: dict[str, Any] = {
    "no answer": m.silent(),
    "in the body": m.stalled(SMALL, 10),
    "in a large body": m.stalled(LARGE, 2 * MIB),
    "between attempts": m.retry_after(100),
}


@pytest.mark.parametrize("phase", HANGING)
def test_what_is_called_off_ends_at_once_and_leaves_what_came(
    misbehaving: Servers, download: Download, phase: str
) -> None:
    url, cancel = misbehaving().route("/f", HANGING[phase]), Cancel()
    timer = threading.Timer(0.3, cancel.set)
    timer.start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        download(url, cancel=cancel, timeout=30)
    assert time.monotonic() - start < 1.3
    timer.join()
    if phase == "in a large body":
        state = download.left()
        assert state is not None
        assert state["done"] == [[0, 2 * MIB]]
