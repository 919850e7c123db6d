"""NANOCACHE_MAX_SIZE: what is on the disk never takes more, and what cannot fit is refused before it comes."""

from __future__ import annotations

import io
import os
import signal
import tarfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Cache, NoSpace
from nanocache.cancel import Cancel
from nanocache.coordination.process import boot_time, me
from nanocache.retention import books
from nanocache.retention.prune import one_at_a_time
from nanocache.retention.reserved import Reserved
from tests.retention.capped import noted, on_disk, sampled
from tests.servers.misbehave import Misbehaving, chunked
from tests.servers.origin import Origin, content, digest
from tests.upkeep.conftest import Filled, copy, made_old

KIB = 1024
Spawn = Callable[..., Any]


@pytest.fixture
def cap(base: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    return lambda size: monkeypatch.setenv("NANOCACHE_MAX_SIZE", str(size))


def fetch(origin: Origin, size: int, seed: int) -> Path:
    return nanocache.fetch(origin.url(f"/bytes/{size}/{seed}/f{seed}.bin"), sha256=digest(size, seed))


# --- what fits, and what does not -------------------------------------------------------------------------------------


def test_the_oldest_go_and_no_more_than_have_to(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    cap(105 * KIB)
    paths = [fetch(origin, 20 * KIB, n) for n in range(5)]
    made_old(base, 5)
    os.utime(paths[3].parent, (1e9, 1e9))
    with sampled(base) as most:
        new = fetch(origin, 30 * KIB, 5)
    assert [path.exists() for path in paths].count(False) == 2
    assert not paths[3].exists()
    assert new.read_bytes() == content(30 * KIB, 5)
    assert most[0] <= 105 * KIB
    assert noted(base) == on_disk(base)


def test_what_is_larger_than_the_cap_is_refused_before_a_byte_of_it_comes(
    base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap("1MB")
    old = fetch(origin, 500_000, 1)
    made_old(base, 5)
    for size in (1_000_001, 3 << 20):
        with sampled(base) as most, pytest.raises(NoSpace, match="NANOCACHE_MAX_SIZE") as e:
            fetch(origin, size, 2)
        assert (e.value.needed, e.value.available) == (size, 1_000_000)
        assert e.value.kept == {"pinned": 0, "held": 0, "recent": 0}
        assert most[0] <= 501_000
    assert old.exists()
    assert fetch(origin, 400_000, 3).exists()


def test_what_finds_nothing_that_may_go_is_refused_with_the_numbers(
    base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(100 * KIB)
    pinned, held, recent = (fetch(origin, n * 10 * KIB, n) for n in (1, 2, 3))
    made_old(base, 5)
    os.utime(recent.parent)
    Cache(base).pin(pinned)
    with Cache(base).hold(held), pytest.raises(NoSpace) as e:
        fetch(origin, 80 * KIB, 4)
    assert e.value.kept == {"pinned": 10 * KIB, "held": 20 * KIB, "recent": 30 * KIB}
    assert e.value.needed == 80 * KIB
    assert e.value.available is not None
    assert e.value.available == 40 * KIB
    for said in ("NANOCACHE_MAX_SIZE", "102,400", "10,240 bytes pinned", "20,480 bytes held", "30,720 bytes recent"):
        assert said in str(e.value)
    assert all(path.exists() for path in (pinned, held, recent))
    assert noted(base) == on_disk(base)


@pytest.mark.parametrize("whole", [True, False])
def test_a_file_of_unknown_length_is_promised_in_steps(
    whole: bool, base: Path, misbehaving: Callable[..., Misbehaving], cap: Callable[[object], None]
) -> None:
    body = content(300 * KIB, 1)
    url = misbehaving().route("/x.bin", chunked(body))
    cap(310 * KIB if whole else 290 * KIB)
    with sampled(base) as most:
        if whole:
            assert nanocache.fetch(url, sha256=digest(300 * KIB, 1)).read_bytes() == body
        else:
            with pytest.raises(NoSpace, match="NANOCACHE_MAX_SIZE"):
                nanocache.fetch(url, sha256=digest(300 * KIB, 1))
            assert not [path for path in (base / "partials-v1").iterdir() if path.name.startswith("new-")]
    assert most[0] <= (310 if whole else 290) * KIB
    assert noted(base) == on_disk(base)


def test_a_size_that_is_given_counts_where_the_server_gives_none(
    base: Path, misbehaving: Callable[..., Misbehaving], cap: Callable[[object], None]
) -> None:
    body = content(300 * KIB, 1)
    server = misbehaving()
    url = server.route("/x.bin", chunked(body))
    cap(200 * KIB)
    with pytest.raises(NoSpace) as e:
        nanocache.fetch(Artifact(url, sha256=digest(300 * KIB, 1), size=len(body)))
    assert e.value.needed == len(body)


def test_a_file_as_large_as_the_cap_fits(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    fetch(origin, KIB, 1)
    cap(3 << 20)
    made_old(base, 5)
    assert fetch(origin, 3 << 20, 2).stat().st_size == 3 << 20


def test_what_broke_off_is_counted_once_and_goes_on(
    base: Path, origin: Origin, spawn: Spawn, cap: Callable[[object], None]
) -> None:
    size = 8 << 20
    cap(size + 64 * KIB)
    url = origin.url(f"/bytes/{size}/1/w.bin")
    victim = spawn("nanocache.fetch(url, sha256=sha256)", url=f"{url}?rate=2000000", sha256=digest(size, 1))
    deadline = time.monotonic() + 20
    while not (left := list(base.glob("partials-v1/*/*/data"))) or left[0].stat().st_blocks * 512 < 2 << 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    victim.processes[0].send_signal(signal.SIGKILL)
    victim.processes[0].wait()
    with sampled(base) as most:
        path = nanocache.fetch(url, sha256=digest(size, 1), mirrors=[f"{url}?rate=2000000"])
    assert path.stat().st_size == size
    assert most[0] <= size + 64 * KIB
    Cache(base).prune()
    books.Books(Cache(base).store, 1 << 40).count_anew(Cancel())
    assert noted(base) == on_disk(base)


# --- what else is made ------------------------------------------------------------------------------------------------


def test_products_and_snapshots_are_counted(filled: Filled, base: Path, cap: Callable[[object], None]) -> None:
    cap("2MiB")
    filled.cache.remove(filled.folder)
    made_old(base, 5)
    folder = nanocache.snapshot("hf://owner/name")
    product = nanocache.fetch(filled.url, postprocess=copy)
    assert folder.exists()
    assert product.exists()
    assert on_disk(base) <= noted(base) <= on_disk(base) + 128


def test_a_product_that_does_not_fit_is_refused(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    def grow(source: Path, target: Path) -> None:
        target.write_bytes(bytes(range(256)) * 400)

    grow.key = "grow"  # type: ignore[attr-defined]
    cap(60 * KIB)
    url = origin.add("/x.bin", b"x" * KIB)
    with pytest.raises(NoSpace, match="NANOCACHE_MAX_SIZE"):
        nanocache.fetch(url, postprocess=grow)
    assert not list((base / "products-v1").glob("*/*/*"))
    assert noted(base) == on_disk(base)
    cap(200 * KIB)
    nanocache.fetch(url, postprocess=grow)
    nanocache.build("key", lambda path: path.write_bytes(b"y" * KIB), name="built")
    assert on_disk(base) <= noted(base) <= on_disk(base) + 256  # what is noted beside two products


def test_what_is_unpacked_asks_for_room_as_it_comes(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name in "abcdefgh":
            (info := tarfile.TarInfo(name)).size = 100 * KIB
            tar.addfile(info, io.BytesIO(bytes(100 * KIB)))
    url = origin.add("/zeros.tgz", made.getvalue())
    cap(500 * KIB)
    with sampled(base) as most, pytest.raises(NoSpace, match="NANOCACHE_MAX_SIZE"):
        nanocache.fetch(url, postprocess=nanocache.Unpack())
    assert most[0] <= 500 * KIB
    cap(900 * KIB)
    with sampled(base) as most:
        nanocache.fetch(url, postprocess=nanocache.Unpack())
    assert most[0] <= 900 * KIB
    assert on_disk(base) <= noted(base) <= on_disk(base) + 128


def test_a_copy_of_a_second_name_is_counted(
    base: Path, origin: Origin, cap: Callable[[object], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    cap(50 * KIB)
    fetch(origin, 20 * KIB, 1)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    url = origin.url(f"/bytes/{20 * KIB}/1/f1.bin")
    nanocache.fetch(url, sha256=digest(20 * KIB, 1), filename="second")
    assert noted(base) == on_disk(base) >= 40 * KIB
    with pytest.raises(NoSpace):
        nanocache.fetch(url, sha256=digest(20 * KIB, 1), filename="third")


# --- the books --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[1]", b'{"bytes": -1}', bytes(range(256)), b'{"bytes": "x", "promises": 3}']
)
def test_books_that_cannot_be_read_are_made_anew(
    text: bytes, base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(50 * KIB)
    fetch(origin, 40 * KIB, 1)
    (base / "usage-v1.json").write_bytes(text)
    with pytest.raises(NoSpace):
        fetch(origin, 20 * KIB, 2)
    assert noted(base) == on_disk(base)


def test_what_was_there_before_the_cap_is_counted(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    fetch(origin, 40 * KIB, 1)
    assert not (base / "usage-v1.json").exists()
    cap(50 * KIB)
    with pytest.raises(NoSpace):
        fetch(origin, 20 * KIB, 2)
    made_old(base, 5)
    fetch(origin, 20 * KIB, 2)
    assert noted(base) == on_disk(base)


def test_what_was_deleted_by_hand_makes_room(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    cap(50 * KIB)
    fetch(origin, 40 * KIB, 1)
    Cache(base).remove(digest(40 * KIB, 1))
    assert fetch(origin, 45 * KIB, 2).exists()


def test_a_killed_processs_promise_ends_with_it(
    base: Path, origin: Origin, spawn: Spawn, cap: Callable[[object], None]
) -> None:
    cap(50 * KIB)
    url = origin.url(f"/bytes/{40 * KIB}/1/w.bin?rate=10")
    victim = spawn("nanocache.fetch(url, sha256=sha256)", url=url, sha256=digest(40 * KIB, 1))
    deadline = time.monotonic() + 20
    while not (base / "usage-v1.json").exists() or b"room" not in (base / "usage-v1.json").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(NoSpace):
        fetch(origin, 20 * KIB, 2)
    victim.processes[0].send_signal(signal.SIGKILL)
    victim.processes[0].wait()
    assert fetch(origin, 20 * KIB, 2).exists()


@pytest.mark.parametrize(("silent", "fits"), [(60.0, False), (1000.0, True)])
def test_another_hosts_promise_counts_until_it_gives_no_sign_of_life(
    silent: float, fits: bool, base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(50 * KIB)
    fetch(origin, KIB, 1)
    elsewhere = replace(me(), boot="another", host="node7")
    promise = books.Promise(40 * KIB, inode=1, owner=elsewhere, at=time.time() - silent)
    assert books.Books(Cache(base).store, 50 * KIB).promise("theirs", promise, Cancel()) <= 0
    if fits:
        assert fetch(origin, 20 * KIB, 2).exists()
    else:
        with pytest.raises(NoSpace, match="available; what stays"):
            fetch(origin, 20 * KIB, 2)


def test_what_went_while_a_walk_ran_is_not_struck_off_twice(
    base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(90 * KIB)
    page = books.Books(Cache(base).store, 90 * KIB)
    since = page.count_anew(Cancel())
    gone = fetch(origin, 40 * KIB, 1)
    fetch(origin, 40 * KIB, 2)
    gone.unlink()
    page.count_anew(Cancel())  # which saw no more of it
    page.went(40 * KIB, since=since)
    assert noted(base) == on_disk(base) == 40 * KIB


def test_a_download_that_went_on_for_long_says_so_in_the_books(base: Path) -> None:
    room = Reserved(Cache(base).store, 50 * KIB, Cancel())
    room.have(10 * KIB)
    written = (base / "usage-v1.json").read_bytes()
    room.renew(boot_time() + 10)
    assert (base / "usage-v1.json").read_bytes() == written
    (base / "usage-v1.json").unlink()  # with the promise
    room.renew(boot_time() + 301)
    assert books.Books(Cache(base).store, 50 * KIB).free(Cancel()) == 40 * KIB
    room.settle()
    assert noted(base) == 0


def test_books_of_a_stranger_or_behind_a_symlink_are_not_used(
    base: Path, origin: Origin, cap: Callable[[object], None], tmp_path: Path
) -> None:
    cap(50 * KIB)
    (tmp_path / "elsewhere").write_text("mine")
    (base / "usage-v1.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(nanocache.UnsafeCache):
        fetch(origin, KIB, 1)
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_fetch_that_fits_waits_for_no_prune(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    cap(500 * KIB)
    with one_at_a_time(Cache(base).store, Cancel()):
        assert fetch(origin, KIB, 1).exists()


@pytest.mark.parametrize("text", ["big", "-1", "101%", "50XB", "1e9", "nan"])
def test_a_cap_that_is_no_size_is_a_value_error_that_names_the_variable(
    text: str, base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(text)
    with pytest.raises(ValueError, match="NANOCACHE_MAX_SIZE"):
        fetch(origin, KIB, 1)


def test_a_share_of_the_disk_is_a_cap(base: Path, origin: Origin, cap: Callable[[object], None]) -> None:
    cap("100%")
    assert fetch(origin, KIB, 1).exists()
    cap("0%")
    with pytest.raises(NoSpace):
        fetch(origin, KIB, 2)


# --- prefetch ---------------------------------------------------------------------------------------------------------


def test_a_shard_larger_than_the_cap_is_an_error_with_the_number(
    base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(50 * KIB)
    urls = [Artifact(origin.url(f"/bytes/{60 * KIB}/{n}/s{n}"), sha256=digest(60 * KIB, n)) for n in range(3)]
    with nanocache.prefetch(urls) as shards, pytest.raises(NoSpace, match="61,440"):
        next(shards)


def test_an_epoch_larger_than_the_cap_fits_shard_by_shard(
    base: Path, origin: Origin, cap: Callable[[object], None]
) -> None:
    cap(50 * KIB)
    urls = [Artifact(origin.url(f"/bytes/{20 * KIB}/{n}/s{n}"), sha256=digest(20 * KIB, n)) for n in range(9)]
    with sampled(base) as most, nanocache.prefetch(urls, evict_behind=True) as shards:
        for n, path in enumerate(shards):
            assert path.read_bytes() == content(20 * KIB, n)
    assert most[0] <= 50 * KIB
