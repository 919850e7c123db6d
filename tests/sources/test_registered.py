"""Sources that a caller registers: what they get from the engine without a line of their own."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import ChecksumMismatch, Described, DownloadFailed, NotCached, Resolved
from nanocache.artifact import schemes
from nanocache.sources import registry
from tests.servers.origin import MIB, Origin, content
from tests.servers.signed import SignedOrigin

DATA = content(24 * MIB, "sources")
OTHER = content(24 * MIB, "other")
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _unregistered() -> Iterator[None]:
    yield
    registry._registered.clear()
    schemes._added.clear()


@dataclass
class Store:
    """A source of toy://shop/name: each call signs a new address."""

    server: SignedOrigin
    seconds: float = 3600
    facts: dict[str, Any] = field(default_factory=dict)
    tells_expiry: bool = True

    def resolve(self, url: str) -> Resolved:
        address = self.server.sign("/" + url.removeprefix("toy://shop/"), self.seconds)
        expires = time.time() + self.seconds if self.tells_expiry else None
        return Resolved(address, condition="if-match", expires=expires, **self.facts)


@pytest.fixture
def server() -> Iterator[SignedOrigin]:
    with SignedOrigin() as server:
        yield server


@pytest.fixture
def store(server: SignedOrigin) -> Store:
    store = Store(server)
    nanocache.register_source("toy", store)
    return store


def sent(server: Origin) -> int:
    return sum(request.sent for request in server.requests())


Fetch = Callable[..., Path]


def test_a_source_gets_parallel_ranges_and_a_hit_asks_it_nothing(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA, rate=40 * MIB)
    assert fetch("toy://shop/f.bin").read_bytes() == DATA
    assert any(request.range for request in store.server.requests())
    assert {request.headers.get("if-match") for request in store.server.requests() if request.range} != {None}
    store.server.reset()
    signatures = store.server.signatures
    assert fetch("toy://shop/f.bin", offline=True).read_bytes() == DATA
    assert nanocache.lookup("toy://shop/f.bin") is not None
    assert (store.server.signatures, store.server.requests()) == (signatures, [])


def test_offline_a_miss_asks_no_source(fetch: Fetch, store: Store) -> None:
    with pytest.raises(NotCached):
        fetch("toy://shop/f.bin", offline=True)
    assert store.server.signatures == 0


@pytest.mark.parametrize(
    ("tells_expiry", "refusal"), [(True, 403), (False, 403), (False, 400), (False, 401), (False, 404)]
)
def test_an_address_that_expires_is_replaced_once_for_all_connections(
    fetch: Fetch, tells_expiry: bool, refusal: int
) -> None:
    with SignedOrigin(refusal=refusal) as server:
        nanocache.register_source("toy", Store(server, 0.75, tells_expiry=tells_expiry))
        server.add("/f.bin", DATA, rate=4 * MIB)
        began = time.monotonic()
        assert fetch("toy://shop/f.bin", sha256=SHA256).read_bytes() == DATA
        spent = time.monotonic() - began
        assert server.signatures <= 2 + 2 * spent  # one and a half would do in each 0.75 s
        assert sent(server) <= 1.1 * len(DATA)


@pytest.mark.parametrize("ignores_conditions", [False, True])
def test_an_object_that_is_overwritten_meanwhile_is_never_mixed(fetch: Fetch, ignores_conditions: bool) -> None:
    with SignedOrigin(ignores_conditions=ignores_conditions) as server:
        nanocache.register_source("toy", Store(server))
        server.add("/f.bin", DATA, rate=4 * MIB)

        def progress(seen: nanocache.Progress) -> None:
            if seen.done > 6 * MIB:
                server.add("/f.bin", OTHER)

        path = fetch("toy://shop/f.bin", progress=progress)
        assert path.read_bytes() in (DATA, OTHER)


def test_what_the_source_vouches_for_is_enforced(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA)
    store.facts = {"sha256": "0" * 64}
    with pytest.raises(ChecksumMismatch) as raised:
        fetch("toy://shop/f.bin")
    assert raised.value.expected == "0" * 64
    store.facts = {"git_sha1": "0" * 40}
    with pytest.raises(DownloadFailed, match="git calls it"):
        fetch("toy://shop/f.bin")
    store.facts = {"size": 5}
    with pytest.raises(DownloadFailed, match="5 were expected"):
        fetch("toy://shop/f.bin")
    git = hashlib.sha1(b"blob %d\0" % len(DATA) + DATA, usedforsecurity=False).hexdigest()
    store.facts = {"sha256": SHA256, "git_sha1": git, "size": len(DATA)}
    assert fetch("toy://shop/f.bin").read_bytes() == DATA


def test_another_digest_than_the_callers_costs_no_download(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA)
    store.facts = {"sha256": SHA256}
    with pytest.raises(ChecksumMismatch, match="says so itself"):
        fetch("toy://shop/f.bin", sha256="0" * 64)
    assert store.server.requests() == []


def test_bytes_that_are_here_under_another_url_are_not_fetched_again(
    fetch: Fetch, store: Store, origin: Origin
) -> None:
    first = fetch(origin.add("/f.bin", DATA))
    store.facts = {"sha256": SHA256}
    second = fetch("toy://shop/g.bin")
    assert second.name == "g.bin"
    assert second.samefile(first)
    assert store.server.requests() == []
    assert fetch("toy://shop/g.bin", offline=True) == second


def test_mirrors_cross_schemes(fetch: Fetch, store: Store, origin: Origin) -> None:
    url = origin.add("/f.bin", DATA)
    assert fetch("toy://shop/missing.bin", mirrors=[url], sha256=SHA256).read_bytes() == DATA
    store.server.add("/g.bin", OTHER)
    assert fetch(origin.url("/missing"), mirrors=["toy://shop/g.bin"]).read_bytes() == OTHER


def test_the_version_that_was_pinned_is_fetched_again_when_its_blob_is_lost(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA)
    store.server.add("/f.bin@1", DATA)
    store.facts = {"pinned": "toy://shop/f.bin@1", "validator": "1"}
    path = fetch("toy://shop/f.bin")
    path.unlink()
    store.server.add("/f.bin", OTHER)
    assert fetch("toy://shop/f.bin").read_bytes() == DATA
    store.facts = {"pinned": "toy://shop/f.bin@2", "validator": "2"}
    assert fetch("toy://shop/f.bin", max_age=0).read_bytes() == OTHER


def test_the_url_is_asked_where_the_version_that_it_gave_is_gone(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA)
    store.facts = {"pinned": "toy://shop/f.bin@1", "validator": "1"}
    fetch("toy://shop/f.bin").unlink()
    store.server.add("/f.bin", OTHER)
    assert fetch("toy://shop/f.bin").read_bytes() == OTHER  # nobody serves /f.bin@1


def test_a_version_that_is_still_current_costs_no_request(fetch: Fetch, store: Store) -> None:
    store.server.add("/f.bin", DATA)
    store.facts = {"validator": "1"}
    path = fetch("toy://shop/f.bin")
    store.server.reset()
    assert fetch("toy://shop/f.bin", max_age=0) == path
    assert store.server.requests() == []


@pytest.mark.parametrize("lasting", [True, False])
def test_a_sources_os_errors_are_causes_and_other_errors_come_out(
    fetch: Fetch, slept: list[float], lasting: bool
) -> None:
    calls = []

    class Failing:
        error: Exception = FileNotFoundError("no such shelf") if lasting else ConnectionResetError("shelf fell")

        def resolve(self, url: str) -> Resolved:
            calls.append(url)
            raise self.error

    nanocache.register_source("toy", Failing())
    with pytest.raises(DownloadFailed, match="shelf"):
        fetch("toy://shop/f.bin")
    assert len(calls) == (1 if lasting else 6)
    Failing.error = KeyError("a bug")
    with pytest.raises(KeyError, match="a bug"):
        fetch("toy://shop/f.bin")


def test_headers_for_a_source_that_takes_none_are_refused_unsent(fetch: Fetch, store: Store) -> None:
    with pytest.raises(DownloadFailed, match="takes no headers"):
        fetch("toy://shop/f.bin", headers={"Authorization": "hunter2"})
    assert store.server.signatures == 0


@pytest.mark.parametrize(
    ("scheme", "source", "reason"),
    [
        ("Toy", object(), "lower-case"),
        ("toy://", object(), "without ://"),
        ("https", object(), "own"),
        ("toy", object(), "resolve"),
        ("toy", Store, "resolve"),
    ],
)
def test_what_is_no_source_is_a_value_error(scheme: str, source: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        nanocache.register_source(scheme, source)


def test_no_signature_reaches_the_disk_or_an_error(fetch: Fetch, store: Store, base: Path) -> None:
    store.server.add("/f.bin", DATA)
    fetch("toy://shop/f.bin")
    with pytest.raises(DownloadFailed) as raised:
        fetch("toy://shop/missing")
    assert "hunter2" not in str(raised.value)
    assert not [path for path in base.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


# --- what reads the bytes itself --------------------------------------------------------------------------------------


@dataclass
class Shelf:
    """A reader of shelf://name, 1 MiB at a time."""

    data: bytes = DATA
    version: str | None = "1"
    knows_size: bool = True
    asked: list[tuple[int, int | None]] = field(default_factory=list)
    breaks_at: int | None = None
    changes_at: int | None = None

    def describe(self, url: str) -> Described:
        return Described(len(self.data) if self.knows_size else None, self.version)

    def read(self, url: str, start: int, end: int | None) -> Iterable[bytes]:
        self.asked.append((start, end))
        for at in range(start, len(self.data) if end is None else end, MIB):
            if self.breaks_at is not None and at >= self.breaks_at:
                self.breaks_at = None
                raise ConnectionResetError("the shelf fell")
            if at == self.changes_at:
                self.data, self.version = OTHER, "2"
            yield self.data[at : at + MIB][: None if end is None else end - at]


@pytest.fixture
def shelf() -> Shelf:
    shelf = Shelf()
    nanocache.register_source("shelf", shelf)
    return shelf


@pytest.mark.parametrize("knows_size", [True, False])
def test_a_reader_gives_a_file(fetch: Fetch, shelf: Shelf, knows_size: bool) -> None:
    shelf.knows_size = knows_size
    path = fetch("shelf://f.bin")
    assert (path.name, path.read_bytes()) == ("f.bin", DATA)
    assert len(shelf.asked) == 1
    assert fetch("shelf://f.bin", offline=True).read_bytes() == DATA


def test_a_reader_that_breaks_off_is_asked_for_the_rest(fetch: Fetch, shelf: Shelf, slept: list[float]) -> None:
    shelf.breaks_at = 5 * MIB
    assert fetch("shelf://f.bin").read_bytes() == DATA
    assert shelf.asked == [(0, None), (5 * MIB, len(DATA))]


def test_a_reader_that_knows_no_size_and_breaks_off_is_read_again(
    fetch: Fetch, shelf: Shelf, slept: list[float]
) -> None:
    shelf.breaks_at, shelf.knows_size = 5 * MIB, False
    assert fetch("shelf://f.bin").read_bytes() == DATA
    assert shelf.asked == [(0, None), (0, None)]


def test_a_readers_two_versions_are_never_mixed(fetch: Fetch, shelf: Shelf, slept: list[float]) -> None:
    shelf.changes_at = 5 * MIB
    assert fetch("shelf://f.bin").read_bytes() == OTHER
