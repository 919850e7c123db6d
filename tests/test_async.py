"""afetch alone: the loop is never held, tasks share a flight, and cancelling stops what nobody waits for."""

from __future__ import annotations

import asyncio
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.coordination import threads as pool
from nanocache.engine.steps import Fetch
from tests.servers.misbehave import Misbehaving, silent, stalled
from tests.servers.origin import Origin, content, digest

Server = Callable[..., Misbehaving]
MIB = 1 << 20


@asynccontextmanager
async def watched_loop() -> AsyncIterator[list[float]]:
    """The gaps between the turns of a task that only wants to run every millisecond."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    gaps.clear()
    yield gaps
    ticking.cancel()


def fetch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("nanocache")]


def test_a_thousand_tasks_make_one_download_with_a_handful_of_threads(base: Path, origin: Origin) -> None:
    url = origin.url(f"/bytes/{MIB}/1/x.bin?delay=0.3")
    most = 0

    async def main() -> set[Path]:
        nonlocal most
        tasks = [asyncio.create_task(nanocache.afetch(url, sha256=digest(MIB, 1))) for _ in range(1000)]
        await asyncio.sleep(0.2)
        most = len(fetch_threads())
        return set(await asyncio.gather(*tasks))

    (path,) = asyncio.run(main())
    assert path.read_bytes() == content(MIB, 1)
    assert origin.gets() == 1
    assert most <= 4


@pytest.mark.alone
def test_the_loop_is_never_held(base: Path, origin: Origin) -> None:
    url, sha256 = origin.url(f"/bytes/{16 * MIB}/1/x.bin"), digest(16 * MIB, 1)

    async def main() -> float:
        async with watched_loop() as gaps:
            await asyncio.gather(*(nanocache.afetch(url, sha256=sha256) for _ in range(300)))
            await asyncio.gather(*(nanocache.afetch(url, sha256=sha256) for _ in range(300)))
            return max(gaps)

    longest = (asyncio.run(main()) for _ in range(3))  # one of three: the machine, too, holds the loop at times
    assert any(seconds < 0.05 for seconds in longest)


def test_a_hit_makes_no_hop(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = origin.url("/bytes/1000/1/x.bin")
    nanocache.fetch(url, sha256=digest(1000, 1))
    monkeypatch.setattr(pool, "submit", None)

    async def main() -> None:
        for _ in range(10):
            await nanocache.afetch(url, sha256=digest(1000, 1))

    asyncio.run(main())


@pytest.mark.parametrize("pinned", [True, False])
def test_a_hit_that_another_process_left_makes_no_hop(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, spawn: Callable[..., Any], pinned: bool
) -> None:
    url = origin.url("/bytes/1000/1/x.bin")
    sha256 = digest(1000, 1) if pinned else None
    path = spawn("print(nanocache.fetch(url, sha256=sha256))", 1, url=url, sha256=sha256).outputs()
    monkeypatch.setattr(pool, "submit", None)
    assert [str(asyncio.run(nanocache.afetch(url, sha256=sha256)))] == path
    monkeypatch.setattr(Fetch, "find", None)  # from now on it is remembered
    assert [str(asyncio.run(nanocache.afetch(url, sha256=sha256)))] == path


def awaiting_a_part(origin: Origin) -> Callable[[Path, Path], None]:
    """A hook that waits for another artifact."""

    def build(src: Path, dst: Path) -> None:
        asyncio.run(nanocache.afetch(origin.url(f"/bytes/{len(src.read_bytes())}/3/part.bin")))
        dst.write_bytes(b"x")

    build.key = "build"  # type: ignore[attr-defined]
    return build


def test_hooks_that_await_other_artifacts_end_however_many_they_are(base: Path, origin: Origin) -> None:
    build = awaiting_a_part(origin)

    async def main() -> list[Path]:
        urls = [origin.url(f"/bytes/{1000 + n}/2/x.bin?delay=0.3") for n in range(pool.LIMIT)]
        tasks = [nanocache.afetch(url, postprocess=build) for url in urls]
        return await asyncio.wait_for(asyncio.gather(*tasks), 50)

    assert len(asyncio.run(main())) == pool.LIMIT
    assert origin.gets() == 2 * pool.LIMIT


def test_hooks_of_hooks_that_await_other_artifacts_end_as_well(base: Path, origin: Origin) -> None:
    """One hook waits for as many fetches as there are threads, the hooks of which wait for fetches."""

    inner = awaiting_a_part(origin)

    def outer(src: Path, dst: Path) -> None:
        async def parts() -> None:
            urls = [origin.url(f"/bytes/{1000 + n}/2/x.bin?delay=0.3") for n in range(pool.LIMIT)]
            await asyncio.gather(*(nanocache.afetch(url, postprocess=inner) for url in urls))

        asyncio.run(parts())
        dst.write_bytes(b"x")

    outer.key = "outer"  # type: ignore[attr-defined]
    url = origin.url("/bytes/1000/1/x.bin")
    asyncio.run(asyncio.wait_for(nanocache.afetch(url, postprocess=outer), 50))
    assert origin.gets() == 1 + 2 * pool.LIMIT


def test_hooks_of_many_that_await_other_artifacts_end_as_well(base: Path, origin: Origin) -> None:
    """`fetch_many` has threads of its own, which know how deep in hooks its caller is."""

    inner = awaiting_a_part(origin)

    def outer(src: Path, dst: Path) -> None:
        url = origin.url(f"/bytes/{len(src.read_bytes())}/2/x.bin")
        nanocache.fetch_many([nanocache.Artifact(url, postprocess=inner)], progress=False)
        dst.write_bytes(b"x")

    def outermost(src: Path, dst: Path) -> None:
        async def parts() -> None:
            urls = [origin.url(f"/bytes/{1000 + n}/1/x.bin?delay=0.3") for n in range(pool.LIMIT)]
            await asyncio.gather(*(nanocache.afetch(url, postprocess=outer) for url in urls))

        asyncio.run(parts())
        dst.write_bytes(b"x")

    outer.key, outermost.key = "outer", "outermost"  # type: ignore[attr-defined]
    url = origin.url("/bytes/1000/0/x.bin")
    asyncio.run(asyncio.wait_for(nanocache.afetch(url, postprocess=outermost), 50))
    assert origin.gets() == 1 + 3 * pool.LIMIT


def wait_for_no_threads() -> None:
    deadline = time.monotonic() + 3  # the work within one second, the idle thread after another half
    while fetch_threads():
        assert time.monotonic() < deadline, fetch_threads()
        time.sleep(0.01)


@pytest.mark.parametrize("phase", ["stalled body", "no answer"])
@pytest.mark.parametrize("how", ["cancel", "wait_for"])
def test_cancelling_the_last_waiter_stops_even_a_stalled_read(
    base: Path, misbehaving: Server, phase: str, how: str
) -> None:
    server = misbehaving()
    url = server.route("/x.bin", stalled(content(4 * MIB, 1), at=2 * MIB) if phase == "stalled body" else silent())

    async def main() -> None:
        if how == "wait_for":
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(nanocache.afetch(url), 0.5)
        else:
            task = asyncio.create_task(nanocache.afetch(url))
            await asyncio.sleep(0.5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    wait_for_no_threads()
    assert not [path for path in base.rglob("*.json") if "locks-v1" in path.parts]


def test_cancelling_one_of_several_does_not_disturb_the_others(base: Path, origin: Origin) -> None:
    url = origin.url(f"/bytes/{MIB}/1/x.bin?delay=0.5")

    async def main() -> list[Any]:
        tasks = [asyncio.create_task(nanocache.afetch(url)) for _ in range(5)]
        await asyncio.sleep(0.1)
        tasks[0].cancel()
        tasks[3].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(main())
    assert [type(result) for result in (results[0], results[3])] == [asyncio.CancelledError] * 2
    assert len({results[1], results[2], results[4]}) == 1
    assert origin.gets() == 1


def test_who_comes_after_a_cancelled_flight_does_not_join_it(base: Path, origin: Origin) -> None:
    url = origin.url(f"/bytes/{MIB}/1/x.bin?delay=0.3")

    async def main() -> Path:
        task = asyncio.create_task(nanocache.afetch(url))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.sleep(0)
        return await nanocache.afetch(url)

    assert asyncio.run(main()).read_bytes() == content(MIB, 1)


def test_threads_and_tasks_share_one_flight(base: Path, origin: Origin) -> None:
    url = origin.url(f"/bytes/{MIB}/1/x.bin?delay=0.5")

    async def main() -> set[Path]:
        threads = [asyncio.to_thread(nanocache.fetch, url) for _ in range(4)]
        return set(await asyncio.gather(*threads, *(nanocache.afetch(url) for _ in range(4))))

    assert len(asyncio.run(main())) == 1
    assert origin.gets() == 1


def test_error_reaches_every_task(base: Path, origin: Origin) -> None:
    url = origin.url("/nothing/here?delay=0.2")

    async def main() -> list[Any]:
        return await asyncio.gather(*(nanocache.afetch(url) for _ in range(50)), return_exceptions=True)

    errors = asyncio.run(main())
    assert {type(error) for error in errors} == {nanocache.DownloadFailed}
    assert origin.gets() == 1


def test_more_flights_than_threads_all_land(base: Path, origin: Origin) -> None:
    async def main() -> list[Path]:
        fetches: list[Coroutine[Any, Any, Path]] = [
            nanocache.afetch(origin.url(f"/bytes/1000/{seed}/x.bin?delay=0.02"), postprocess=copied)
            for seed in range(60)
        ]
        return await asyncio.gather(*fetches)

    assert [path.read_bytes() for path in asyncio.run(main())] == [content(1000, seed) for seed in range(60)]


def copied(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes())


def test_a_loop_that_is_closed_early_leaves_nothing_running(base: Path, origin: Origin) -> None:
    url = origin.url(f"/bytes/{MIB}/1/x.bin?delay=0.3")

    async def main() -> None:
        asyncio.get_running_loop().create_task(nanocache.afetch(url))
        await asyncio.sleep(0.1)

    asyncio.run(main())
    time.sleep(1.2)
    assert not fetch_threads()
    assert nanocache.fetch(url).read_bytes() == content(MIB, 1)


def test_cancelling_stops_an_unpacking_and_a_fetch_inside_a_hook(base: Path, tmp_path: Path, origin: Origin) -> None:
    archive = tmp_path / "big.tar"
    member = tarfile.TarInfo("zeros")
    member.size = 1 << 33
    archive.write_bytes(member.tobuf())
    with archive.open("r+b") as file:
        file.truncate((1 << 33) + 10_240)  # a hole: eight GiB to unpack that nobody had to write

    slow = origin.url(f"/bytes/{MIB}/2/x.bin?rate=1000")
    nested_calls: dict[str, Callable[[], object]] = {
        "fetch": lambda: nanocache.fetch(slow + "&n=1"),
        "afetch": lambda: asyncio.run(nanocache.afetch(slow + "&n=2")),
        "fetch_many": lambda: nanocache.fetch_many([slow + "&n=3"]),
        "fetch_many in place": lambda: nanocache.fetch_many([slow + "&n=4"], return_exceptions=True),
        "the seed's": lambda: nanocache.download_file_with_lock(slow + "&n=5", "part.bin"),
    }

    def nested(name: str) -> Callable[[Path, Path], None]:
        def hook(src: Path, dst: Path) -> None:
            nested_calls[name]()

        hook.key = f"nested {name}"  # type: ignore[attr-defined]
        return hook

    async def cancelled(postprocess: Any, begun: Callable[[], bool]) -> None:
        task = asyncio.create_task(nanocache.afetch(url, postprocess=postprocess))
        while not begun():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    url = origin.url(f"/bytes/{MIB}/1/x.bin")
    for number, name in enumerate(nested_calls, 1):
        asked = f"n={number}"
        asyncio.run(cancelled(nested(name), lambda asked=asked: any(asked in r.query for r in origin.requests())))
        wait_for_no_threads()
    nanocache.fetch(url)
    hook = nanocache.Unpack()
    stop = threading.Event()

    def unpack(src: Path, dst: Path) -> None:
        hook(archive, dst)
        stop.set()

    unpack.key = "unpack"  # type: ignore[attr-defined]
    asyncio.run(cancelled(unpack, lambda: any(path.stat().st_size > MIB for path in base.rglob("zeros"))))
    wait_for_no_threads()
    assert not stop.is_set()
    assert not list((base / "products-v1").glob("?" * 64))
