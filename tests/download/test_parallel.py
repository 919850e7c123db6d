# ruff: noqa: F401, F811  # fixtures are imported by name
"""Many connections for one artifact: where they help, never where they are not wanted, and never mixed up."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nanocache.cancel import Cancel, Cancelled
from nanocache.errors import ChecksumMismatch
from nanocache.http import slots
from tests.download.downloads import MIB, Counting, Download, asked, body, download, paced, sha, slept
from tests.servers import misbehave as m
from tests.servers.fixtures import Nginx, nginx
from tests.servers.misbehave import Misbehaving
from tests.servers.origin import Origin, Request

Servers = Callable[..., Misbehaving]
DATA = body(24 * MIB + 5)
RATE = 20e6  # bytes per second and request: slow enough that more requests help
JUDGED = pytest.mark.parametrize("digest", [None, sha(DATA)], ids=["no digest", "digest"])


def _spans(requests: list[str | None]) -> list[tuple[int, int]]:
    return [(int(a), int(b) + 1) for a, b in (r.split("-") for r in requests if r is not None)]


# --- where they help --------------------------------------------------------------------------------------------------


def test_pieces_come_from_the_front_with_the_validator_while_the_first_stream_runs(
    misbehaving: Servers, download: Download
) -> None:
    server = misbehaving()
    counting = Counting(paced(DATA, RATE))
    assert download(server.route("/f", counting)) == DATA
    assert 1 < counting.peak <= 5  # four, and one that was closed a moment before
    first, *others = server.requests()
    assert first.range is None
    assert all(r.headers["if-range"] == '"v1"' for r in others)
    spans = _spans(asked(server))
    starts = [start for start, _ in spans]
    assert all(max(starts[: i + 1]) - start <= 4 * 4 * MIB for i, start in enumerate(starts))  # requests race
    assert all(start % (4 * MIB) == 0 and end - start <= 16 * MIB for start, end in spans)
    assert sum(end - start for start, end in spans) < len(DATA)  # nothing is asked for twice


def test_one_connection_is_one_request(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    assert download(server.route("/f", paced(DATA, 100e6)), connections=1) == DATA
    assert asked(server) == [None]


@pytest.mark.parametrize(
    "manners",
    [{"etag": 'W/"v1"', "last_modified": ""}, {"etag": "", "last_modified": ""}],
    ids=["weak validator", "no validator"],
)
def test_without_a_strong_validator_there_is_one_connection_even_with_a_digest(
    misbehaving: Servers, download: Download, manners: dict[str, str]
) -> None:
    server = misbehaving()
    assert download(server.route("/f", paced(DATA, 60e6, **manners)), digest=sha(DATA)) == DATA
    assert asked(server) == [None]


def test_without_announced_ranges_there_is_one_connection(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()

    def quiet(request: Request) -> Iterator[m.Step]:
        for step in paced(DATA, 60e6)(request):
            yield step.replace(b"Accept-Ranges: bytes\r\n", b"") if isinstance(step, bytes) else step

    assert download(server.route("/f", quiet)) == DATA
    assert asked(server) == [None]


def test_a_small_file_is_one_request_however_slow(misbehaving: Servers, download: Download) -> None:
    server, data = misbehaving(), body(8 * MIB)
    assert download(server.route("/f", paced(data, RATE))) == data
    assert asked(server) == [None]


def test_connections_that_cannot_help_are_not_opened(nginx: Nginx, download: Download) -> None:
    data = body(MIB) * 256
    url = nginx.add("f.bin", data)
    assert download(url, digest=sha(data), connections=16) == data
    # One as a rule. On a machine that is busy with other things this process waits, too, and tries a second one, which
    # takes over from the first; never a third.
    assert nginx.connections() <= 3


def test_a_resume_goes_on_in_parallel(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    counting = Counting(paced(DATA, RATE))
    cut = m.truncated(DATA, 2 * MIB)
    assert download(server.route("/f", m.in_turn(cut, counting))) == DATA
    assert counting.peak > 1
    assert asked(server)[:2] == [None, f"{2 * MIB}-{len(DATA) - 1}"]


def test_gaps_of_an_interrupted_parallel_download_are_filled_and_nothing_else(
    misbehaving: Servers, download: Download
) -> None:
    server, cancel = misbehaving(), Cancel()
    url = server.route("/f", m.in_turn(paced(DATA, RATE / 10), paced(DATA, RATE)))  # others run ahead of the first

    def cut_in() -> None:
        while sum(request.sent > MIB for request in server.requests()[1:]) < 3:
            time.sleep(0.005)
        cancel.set()

    threading.Thread(target=cut_in, daemon=True).start()
    with pytest.raises(Cancelled):
        download(url, cancel=cancel)
    state = download.left()
    assert state is not None
    done = [tuple(span) for span in state["done"]]
    assert len(done) > 1
    server.reset()
    assert download(url, connections=1) == DATA
    gaps = list(zip([end for _, end in done], [start for start, _ in done[1:]] + [len(DATA)], strict=True))
    assert _spans(asked(server)) == [gap for gap in gaps if gap[0] < gap[1]]


# --- where they are not wanted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [m.status(429), m.status(503), m.status(403), m.raw(m.RST), m.cut_head()])
def test_a_refused_connection_fails_nothing_and_is_the_last_one(
    misbehaving: Servers, download: Download, refusal: m.Handler
) -> None:
    server = misbehaving()
    url = server.route("/f", m.crowded(1, paced(DATA, RATE), refusal=refusal))
    assert download(url, retries=0) == DATA
    assert len(server.requests()) <= 4  # two, unless the refusal comes after the first stream has met the piece


@pytest.mark.alone  # a connection that we closed is counted until the server's thread has its turn
def test_a_server_that_allows_two_gets_two(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()
    refused: list[float] = []

    def refuse(request: Request) -> Iterator[m.Step]:
        refused.append(time.monotonic())
        yield from m.status(429)(request)

    counting = Counting(paced(DATA, RATE))
    assert download(server.route("/f", m.crowded(2, counting, refusal=refuse)), retries=0, connections=8) == DATA
    assert counting.peak == 2
    assert len(refused) <= 3  # two new ones, and the first where it met the others: closed, but still counted
    spans = _spans(asked(server))
    assert len(spans) > 4


ODD: dict[str, Callable[[bytes], m.Handler]] = {
    "ignored": m.ignored_range,
    "earlier": lambda data: m.shifted_range(data, -1),
    "another total": lambda data: m.wrong_total(data, len(data) + 1),
    "multipart": m.multipart,
    "416": m.refused_range,
    "nonsense": m.bad_content_range,
}


@pytest.mark.parametrize("lie", ODD)
def test_a_server_that_does_ranges_wrong_gives_the_file_by_its_first_stream(
    misbehaving: Servers, download: Download, slept: list[float], lie: str
) -> None:
    server = misbehaving()

    def handler(request: Request) -> Any:
        return (ODD[lie](DATA) if request.range else paced(DATA, 40e6))(request)

    assert download(server.route("/f", handler), retries=0) == DATA
    anew = [r for r in asked(server) if r is None][1:]
    assert anew in ([], [None])
    # On a busy machine more are opened before the first lie is seen, and the first stream meets their pieces, twice.
    assert len(server.requests()) <= 4 + 2 + len(anew)


def test_wrong_bytes_in_a_piece_are_found_by_the_digest_and_it_comes_in_one_stream(
    misbehaving: Servers, download: Download
) -> None:
    server = misbehaving()

    def handler(request: Request) -> Any:
        return (m.wrong_bytes(DATA) if request.range else paced(DATA, 40e6))(request)

    assert download(server.route("/f", handler), digest=sha(DATA)) == DATA
    assert asked(server)[-1] is None
    with pytest.raises(ChecksumMismatch):
        download(server.route("/f", handler), digest=sha(b"something else"))


def test_short_parts_are_gone_on_from_by_each_connection(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()

    def handler(request: Request) -> Any:
        return (m.short_range(DATA, MIB) if request.range else paced(DATA, RATE))(request)

    assert download(server.route("/f", handler), digest=sha(DATA)) == DATA


# --- where threads are few --------------------------------------------------------------------------------------------


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`few_threads(n)`: only n more connections find a thread, as under `ulimit -u` or in a pids cgroup."""
    start = threading.Thread.start

    def limit(left: int) -> None:
        turns = iter(range(left))

        def limited(thread: threading.Thread) -> None:
            if thread.name == "nanocache-connection" and next(turns, None) is None:
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", limited)

    return limit


@pytest.mark.parametrize("threads", [0, 1, 2])
@JUDGED
def test_a_connection_that_finds_no_thread_is_done_without(
    misbehaving: Servers, download: Download, few_threads: Callable[[int], None], threads: int, digest: str | None
) -> None:
    server = misbehaving()
    counting = Counting(paced(DATA, RATE))
    few_threads(threads)
    assert download(server.route("/f", counting), digest=digest, retries=0) == DATA
    assert counting.peak <= threads + 1  # one may have been closed a moment before
    assert download.reports[-1] == (len(DATA), len(DATA))
    assert not [t for t in threading.enumerate() if t.name.startswith("nanocache")]


def test_without_a_thread_the_calling_one_saves_reports_and_can_be_called_off(
    misbehaving: Servers, download: Download, few_threads: Callable[[int], None]
) -> None:
    server, cancel = misbehaving(), Cancel()
    few_threads(0)
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        download(server.route("/f", paced(DATA, RATE)), cancel=cancel)
    timer.join()
    assert len(download.reports) > 10
    state = download.left()
    assert state is not None
    assert state["done"][0][1] > MIB


NPROC = """
import os, resource
nanocache.fetch(warm, base_dir=base + "/warm", progress=False)  # imports what this user's home may hide from another
os.setgid(54322), os.setuid(54322)
resource.setrlimit(resource.RLIMIT_NPROC, (threads + 1, threads + 1))
print(len(nanocache.fetch(url, base_dir=base + "/cold", progress=False).read_bytes()))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="becomes another user, with a limit of its own")
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_user_who_may_start_few_threads_gets_the_file(misbehaving: Servers, spawn: Any, threads: int) -> None:
    server = misbehaving()
    url, warm = server.route("/f", paced(DATA, RATE)), server.route("/warm", m.serve(b"warm"))
    with tempfile.TemporaryDirectory() as base:
        os.chown(base, 54322, 54322)
        setup = "import nanocache, encodings.ascii, encodings.idna"
        group = spawn(NPROC, setup=setup, url=url, warm=warm, base=base, threads=threads)
        assert group.outputs() == [str(len(DATA))]


# --- while it goes on -------------------------------------------------------------------------------------------------


def test_what_a_silent_connection_holds_is_fetched_by_an_idle_one(misbehaving: Servers, download: Download) -> None:
    server = misbehaving()

    def handler(request: Request) -> Any:
        return (paced(DATA, 40e6) if request.range else m.stalled(DATA, 2 * MIB))(request)

    start = time.monotonic()
    assert download(server.route("/f", handler), timeout=30) == DATA
    assert time.monotonic() - start < 10


def test_a_connection_that_breaks_after_some_bytes_goes_on_by_itself(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    chance = iter([True, False, True, False, True, False])

    def handler(request: Request) -> Any:
        if request.range and next(chance, False):
            return m.truncated(DATA, MIB)(request)
        return paced(DATA, RATE)(request)

    assert download(server.route("/f", handler), retries=0) == DATA
    assert slept == []


def test_all_connections_breaking_at_once_is_one_failure_and_costs_no_byte_twice(
    misbehaving: Servers, download: Download, slept: list[float]
) -> None:
    server = misbehaving()
    struck: list[Request] = []  # what was under way when it went down

    def handler(request: Request) -> Iterator[m.Step]:
        if struck and len(server.requests()) < len(struck) + 8:
            yield m.RST
        for step in paced(DATA, RATE)(request):
            if not struck and len(server.requests()) >= 4 and request.sent > MIB:
                struck.extend(server.requests())
            if request in struck:
                yield m.RST
            yield step

    assert download(server.route("/f", handler), retries=20) == DATA
    assert 1 <= len(slept) <= 12


def test_an_expired_address_is_resolved_again_once_for_all(misbehaving: Servers, download: Download) -> None:
    entry, store = misbehaving(), misbehaving()
    signed = iter(range(100))

    def resolve(request: Request) -> Any:
        number = next(signed)
        served = iter(range(3 if number == 0 else 1000))

        def expiring(request: Request) -> Any:
            if next(served, None) is None:
                return m.status(403)(request)
            return paced(DATA, RATE)(request)

        return m.redirect(store.route(f"/signed/{number}", expiring))(request)

    assert download(entry.route("/f", resolve), digest=sha(DATA)) == DATA
    assert 2 <= entry.gets() <= 5  # at most one for each connection that met the old address
    assert store.gets("/signed/1") > 0


def test_an_address_that_is_refused_again_is_an_error(misbehaving: Servers, download: Download) -> None:
    entry, store = misbehaving(), misbehaving()
    served = m.in_turn(m.truncated(DATA, 2 * MIB), m.status(403))
    url = entry.route("/f", m.redirect(store.route("/signed", served)))
    with pytest.raises(OSError, match="403"):
        download(url)
    assert store.gets() == 3
    assert entry.gets() == 2


# --- one limit for each host ------------------------------------------------------------------------------------------


def at_once(threads: int, urls: list[str], folder: Path, *, connections: int) -> list[bytes]:
    """What downloads into as many caches give, `threads` of them at a time."""
    downloads = [Download(folder / f"base{i}") for i in range(len(urls))]
    for each in downloads:
        each.base.mkdir()
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda each, url: each(url, connections=connections), downloads, urls))


def test_all_transfers_of_a_process_share_one_limit_per_host(
    misbehaving: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = misbehaving()
    used: list[int] = []
    leave = slots._Slots.leave

    def spied(self: Any, one: object, origin: Any) -> None:
        used.append(len(self.used[origin]))
        leave(self, one, origin)

    monkeypatch.setattr(slots._Slots, "leave", spied)
    urls = [server.route(f"/{i}", paced(DATA, RATE)) for i in range(6)]
    assert at_once(6, urls, tmp_path, connections=4) == [DATA] * 6
    assert max(used) == 4


def test_small_files_use_the_same_connections_again(misbehaving: Servers, tmp_path: Path) -> None:
    server = misbehaving()
    small = body(100_000)
    urls = [server.route(f"/{i}", paced(small, 5e6)) for i in range(24)]
    assert at_once(12, urls, tmp_path, connections=3) == [small] * 24
    assert len({r.connection for r in server.requests()}) == 3


def test_a_transfer_without_a_connection_goes_before_one_that_wants_another(
    misbehaving: Servers, base: Path, tmp_path: Path
) -> None:
    server = misbehaving()
    large = server.route("/large", paced(DATA, RATE))
    small = server.route("/small", m.serve(b"small"))
    first, second = Download(tmp_path / "one"), Download(tmp_path / "two")
    for each in (first, second):
        each.base.mkdir()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: first(large, connections=2) == DATA)
        time.sleep(0.4)
        assert second(small, connections=2) == b"small"
        assert not running.done()
        assert running.result()


def test_waiting_for_a_slot_can_be_called_off(misbehaving: Servers, tmp_path: Path) -> None:
    server, cancel = misbehaving(), Cancel()
    release = threading.Event()
    stalled = server.route("/f", m.silent(release))
    first, second = Download(tmp_path / "one"), Download(tmp_path / "two")
    for each in (first, second):
        each.base.mkdir()
    with ThreadPoolExecutor(2) as pool:
        blocking = Cancel()
        one = pool.submit(lambda: first(stalled, connections=1, cancel=blocking))
        time.sleep(0.1)
        two = pool.submit(lambda: second(stalled, connections=1, cancel=cancel))
        time.sleep(0.1)
        start = time.monotonic()
        cancel.set()
        with pytest.raises(Cancelled):
            two.result(timeout=5)
        assert time.monotonic() - start < 1
        assert server.gets() == 1
        blocking.set()
        with pytest.raises(Cancelled):
            one.result(timeout=5)


# --- and stays small --------------------------------------------------------------------------------------------------

MEASURE = """
from pathlib import Path
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) // 1024
before = peak()
from nanocache.cancel import Cancel
with download.partial() as partial:
    request = DownloadRequest([Target(url)], "f", settings(connections=16))
    run_download(request, partial, Cancel(), lambda done, total: None)
    partial.state = None
print(peak() - before)
"""


@pytest.mark.alone
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads VmHWM, which Linux keeps")
def test_memory_stays_flat_with_sixteen_connections(origin: Origin, download: Download, spawn: Any) -> None:
    url = origin.add("/f", body(MIB) * 128, rate=20e6)
    setup = (
        "from pathlib import Path; from tests.download.downloads import *; from nanocache.http import exchange; "
        f"import httpcore, httpx, filelock; download = Download(Path({str(download.base)!r}))"
    )
    (grown,) = spawn(MEASURE, setup=setup, url=url).outputs()
    assert len({r.connection for r in origin.requests()}) > 4
    assert int(grown) <= 64
