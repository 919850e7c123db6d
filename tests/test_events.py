"""What a listener is told, what is counted, and whose the errors of a listener are."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Cache, Progress, events
from nanocache.events import Evict, Heal, Hit, Miss, Publish, Retry, Start, Stats, Wait
from tests.servers.misbehave import Misbehaving, in_turn, serve, status
from tests.servers.origin import Origin

BODY = b"test"
DIGEST = hashlib.sha256(BODY).hexdigest()
KINDS = (Hit, Miss, Wait, Start, Progress, Retry, Publish, Heal, Evict)
Call = Callable[..., Path]


class Heard:
    """A listener that keeps what it is told, and in which thread."""

    def __init__(self, base: Path) -> None:
        self.events: list[Any] = []
        self.threads: list[int] = []
        self.cache = Cache(base, on_event=self)

    def __call__(self, event: events.Event) -> None:
        self.events.append(event)
        self.threads.append(threading.get_ident())

    def kinds(self, *, progress: bool = False) -> list[str]:
        return [event.kind for event in self.events if progress or event.kind != "progress"]

    def the(self, kind: type[Any]) -> Any:
        [event] = [event for event in self.events if type(event) is kind]
        return event


@pytest.fixture
def heard(base: Path) -> Heard:
    return Heard(base)


@pytest.fixture(params=["fetch", "afetch"])
def call(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """`cache.fetch`, then `cache.afetch` in a loop of its own: one test body for both."""

    def run(cache: Cache, *args: Any, **options: Any) -> Path:
        if request.param == "fetch":
            return cache.fetch(*args, **options)
        return asyncio.run(cache.afetch(*args, **options))

    return run


def test_events_are_small_frozen_values_of_nine_kinds() -> None:
    assert [kind.kind for kind in KINDS] == (
        ["hit", "miss", "wait", "start", "progress", "retry", "publish", "heal", "evict"]
    )
    for kind in KINDS:
        assert dataclasses.is_dataclass(kind)
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert not hasattr(kind, "__dict__") or "__slots__" in vars(kind)


def test_a_miss_is_told_step_by_step_and_then_hits(heard: Heard, origin: Origin, call: Call) -> None:
    url = origin.add("/a.bin", BODY)
    path = call(heard.cache, url, sha256=DIGEST)
    assert heard.kinds() == ["miss", "start", "publish"]
    assert heard.kinds(progress=True)[2:-1] == ["progress"] * (len(heard.events) - 3)
    assert heard.the(Miss) == Miss(url, DIGEST)
    assert heard.the(Start) == Start(url, None)
    published = heard.the(Publish)
    assert (published.url, published.digest, published.path, published.size) == (url, DIGEST, str(path), len(BODY))
    assert 0 < published.seconds < 60
    done = [event for event in heard.events if type(event) is Progress][-1]
    assert (done.name, done.done, done.total, done.holder) == ("a.bin", len(BODY), len(BODY), None)
    for _ in range(3):
        heard.events.clear()
        call(heard.cache, url, sha256=DIGEST)
        assert heard.events == [Hit(url, DIGEST, str(path))]


def test_a_hit_without_a_digest_tells_the_one_that_it_has(heard: Heard, origin: Origin, call: Call) -> None:
    url = origin.add("/a.bin", BODY)
    call(heard.cache, url)
    heard.events.clear()
    call(heard.cache, url)
    call(heard.cache, url)
    assert [event.digest for event in heard.events] == [DIGEST, DIGEST]


def test_what_a_hook_built_is_a_hit_too(heard: Heard, origin: Origin, call: Call) -> None:
    def double(src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes() * 2)

    url = origin.add("/a.bin", BODY)
    double.key = "double"  # type: ignore[attr-defined]
    path = call(heard.cache, url, postprocess=double)
    heard.events.clear()
    call(heard.cache, url, postprocess=double)
    assert set(heard.events) == {Hit(url, DIGEST, str(path))}


def test_the_functions_and_another_cache_tell_nothing(heard: Heard, base: Path, origin: Origin) -> None:
    url = origin.add("/a.bin", BODY)
    nanocache.fetch(url)
    Cache(base).fetch(url)
    assert heard.events == []


def test_a_lookup_is_no_hit(heard: Heard, origin: Origin) -> None:
    url = origin.add("/a.bin", BODY)
    heard.cache.fetch(url)
    heard.events.clear()
    before = heard.cache.stats()
    heard.cache.lookup(url)
    heard.cache.lookup(url + "x")
    assert heard.events == []
    assert heard.cache.stats() == before


def test_a_set_tells_of_each_of_its_files(heard: Heard, origin: Origin) -> None:
    files = [origin.add(f"/{n}.bin", b"%d" % n) for n in range(4)]
    heard.cache.fetch_many(files)
    assert sorted(heard.kinds()) == ["miss"] * 4 + ["publish"] * 4 + ["start"] * 4
    heard.events.clear()
    heard.cache.fetch_many(files)
    heard.cache.fetch_many(files)
    assert heard.kinds() == ["hit"] * 8


def test_no_credential_is_in_an_event(heard: Heard, origin: Origin) -> None:
    url = origin.add("/a.bin", BODY)
    secret = url.replace("http://", "http://me:hush@") + "?token=hush"
    for _ in range(3):
        heard.cache.fetch(secret)
    assert len(heard.events) > 4
    assert "hush" not in repr(heard.events)


def test_a_retry_says_why_and_how_long(
    heard: Heard, misbehaving: Callable[..., Misbehaving], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nanocache.download import retry

    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    url = misbehaving().route("/a.bin", in_turn(status(503), serve(BODY)))
    heard.cache.fetch(url)
    told = heard.the(Retry)
    assert "503" in told.reason
    assert 0 <= told.seconds <= 1
    assert heard.kinds() == ["miss", "start", "retry", "publish"]


def test_a_wait_for_another_process_names_it(base: Path, origin: Origin, spawn: Callable[..., Any]) -> None:
    size = 300_000
    url = origin.url(f"/bytes/{size}/1/a.bin?rate={size // 2}")
    first = spawn("nanocache.fetch(url)", url=url)
    while not origin.gets():
        time.sleep(0.01)
    heard = Heard(base)
    heard.cache.fetch(url)
    first.outputs()
    wait = heard.the(Wait)
    assert f"pid {first.processes[0].pid} on " in wait.holder
    assert 0 < wait.seconds < 60
    assert heard.kinds() == ["miss", "wait"]
    assert {event.holder for event in heard.events if type(event) is Progress} == {wait.holder}
    assert heard.cache.stats().waits == 1


def test_a_wait_for_another_call_of_this_process_is_told(heard: Heard, base: Path, origin: Origin) -> None:
    url = origin.url("/bytes/200000/1/a.bin?rate=400000")
    thread = threading.Thread(target=lambda: nanocache.fetch(url))
    thread.start()
    while not origin.gets():
        time.sleep(0.01)
    heard.cache.fetch(url)
    thread.join()
    assert f"pid {os.getpid()} on " in heard.the(Wait).holder
    assert heard.kinds() == ["miss", "wait"]


@pytest.mark.parametrize("right", [True, False])
def test_what_was_written_to_is_healed(heard: Heard, origin: Origin, right: bool) -> None:
    url = origin.add("/a.bin", BODY)
    path = heard.cache.fetch(url, sha256=DIGEST)
    path.chmod(0o644)
    path.write_bytes(BODY if right else b"evil")
    heard.events.clear()
    heard.cache.fetch(url, sha256=DIGEST)
    assert heard.the(Heal) == Heal(url, DIGEST, right)
    assert heard.kinds() == ["miss", "heal"] + ([] if right else ["start", "publish"])


def test_rehash_of_what_is_right_heals_nothing(heard: Heard, origin: Origin) -> None:
    url = origin.add("/a.bin", BODY)
    heard.cache.fetch(url, sha256=DIGEST)
    heard.events.clear()
    heard.cache.fetch(url, sha256=DIGEST, rehash=True)
    assert heard.kinds() == ["miss"]


def test_what_prune_takes_is_told(heard: Heard, origin: Origin) -> None:
    path = heard.cache.fetch(origin.add("/a.bin", BODY), sha256=DIGEST)
    long_ago = time.time() - 1e6
    os.utime(path.parent, (long_ago, long_ago))
    heard.events.clear()
    heard.cache.prune(older_than=1e5, dry_run=True)
    assert heard.events == []
    heard.cache.prune(older_than=1e5)
    gone = heard.the(Evict)
    assert (gone.what, gone.path, gone.size) == ("blob", str(path.parent), len(BODY))
    assert "unused for" in gone.reason
    stats = heard.cache.stats()
    assert (stats.evicts, stats.bytes_evicted) == (1, len(BODY))


def test_what_a_fetch_takes_to_make_room_is_told_to_its_caller(
    heard: Heard, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nanocache.fetch(origin.add("/a.bin", bytes(100_000)))
    long_ago = time.time() - 1e6
    os.utime(path.parent, (long_ago, long_ago))
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", "150kB")
    heard.cache.fetch(origin.add("/b.bin", b"b" * 100_000))
    assert heard.the(Evict) == Evict("blob", str(path.parent), 100_000, "to make room")
    assert heard.kinds() == ["miss", "start", "evict", "publish"]


# --- the thread, and the caller's errors ------------------------------------------------------------------------------


def test_the_thread_that_works_calls_it(heard: Heard, origin: Origin) -> None:
    heard.cache.fetch(origin.add("/a.bin", b"a"))
    assert set(heard.threads) == {threading.get_ident()}
    heard.threads.clear()
    url = origin.add("/b.bin", b"b")
    asyncio.run(heard.cache.afetch(url))
    assert threading.get_ident() not in heard.threads
    heard.threads.clear()
    asyncio.run(heard.cache.afetch(url))
    assert set(heard.threads) == {threading.get_ident()}


OWN = [KeyError("own"), TimeoutError("own"), FileNotFoundError("own"), nanocache.NotCached(url="u", base_dir="b")]


@pytest.mark.parametrize("error", OWN, ids=repr)
@pytest.mark.parametrize("kind", ["hit", "miss", "start", "progress", "publish"])
def test_an_error_of_a_listener_comes_out_as_it_was_raised(
    kind: str, error: Exception, base: Path, origin: Origin, call: Call
) -> None:
    def listen(event: events.Event) -> None:
        if event.kind == kind:
            raise error

    url = origin.add("/a.bin", BODY)
    if kind == "hit":
        nanocache.fetch(url)
    for _ in range(2 if kind == "hit" else 1):
        with pytest.raises(type(error)) as e:
            call(Cache(base, on_event=listen), url)
        assert e.value is error
    assert nanocache.fetch(url).read_bytes() == BODY
    assert origin.gets() <= 2


def test_an_error_of_a_listener_is_that_of_its_own_call_alone(base: Path, origin: Origin) -> None:
    url, joined = origin.add("/a.bin", BODY), threading.Event()
    failed: list[BaseException] = []

    def listen(event: events.Event) -> None:
        if event.kind == "start":
            joined.set()
            time.sleep(0.3)
            raise KeyError("own")

    def first() -> None:
        try:
            Cache(base, on_event=listen).fetch(url)
        except KeyError as e:
            failed.append(e)

    thread = threading.Thread(target=first)
    thread.start()
    assert joined.wait(10)
    assert nanocache.fetch(url).read_bytes() == BODY
    thread.join()
    assert len(failed) == 1


def test_a_hook_that_fetches_tells_its_own_cache_alone(heard: Heard, tmp_path: Path, origin: Origin) -> None:
    inner = Heard(tmp_path / "inner")
    other = origin.add("/b.bin", b"b")

    def hook(src: Path, dst: Path) -> None:
        inner.cache.fetch(other)
        nanocache.fetch(other, base_dir=tmp_path / "third")
        dst.write_bytes(b"x")

    hook.key = "hook"  # type: ignore[attr-defined]
    heard.cache.fetch(origin.add("/a.bin", BODY), postprocess=hook)
    assert heard.kinds() == inner.kinds() == ["miss", "start", "publish"]


def test_what_is_no_function_is_a_value_error(base: Path) -> None:
    with pytest.raises(ValueError, match="on_event must be a function"):
        Cache(base, on_event="print")  # type: ignore[arg-type]


# --- counters ---------------------------------------------------------------------------------------------------------


def test_counters_are_of_the_base_directory_whoever_calls(base: Path, tmp_path: Path, origin: Origin) -> None:
    assert Cache(base).stats() == Stats(*[0] * 11)
    url = origin.add("/a.bin", BODY)
    nanocache.fetch(url)
    Cache(base).fetch(url)
    asyncio.run(nanocache.afetch(url))
    nanocache.fetch_many([url])
    nanocache.fetch_many([url])
    stats = Cache(base).stats()
    assert (stats.hits, stats.misses, stats.starts, stats.publishes, stats.bytes_published) == (4, 1, 1, 1, len(BODY))
    assert nanocache.Cache().stats() == stats
    assert Cache(tmp_path / "other").stats().hits == 0


def test_a_forked_child_counts_from_zero(base: Path, origin: Origin, spawn: Callable[..., Any]) -> None:
    url = origin.add("/a.bin", BODY)
    code = """
import os
nanocache.fetch(url)
if (pid := os.fork()) == 0:
    first = nanocache.Cache().stats()
    nanocache.fetch(url)
    print(first.misses, first.hits, nanocache.Cache().stats().hits, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
print(nanocache.Cache().stats().misses)
"""
    assert spawn(code, url=url).outputs() == ["0 0 1\n1"]
