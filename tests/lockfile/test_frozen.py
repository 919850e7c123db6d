"""NANOCACHE_FROZEN: only what nanocache.lock has, whichever call asks, and before any request."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
import nanodist
from nanocache import Artifact, Cache, NotLocked
from nanocache.cli.main import main
from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import Origin, content

CALLS: dict[str, Callable[[str], Any]] = {
    "fetch": nanocache.fetch,
    "afetch": lambda url: asyncio.run(nanocache.afetch(url)),
    "fetch_many": lambda url: nanocache.fetch_many([url])[0],
    "lookup": nanocache.lookup,
    "prefetch": lambda url: next(nanocache.prefetch([url])),
    "download_file_with_lock": lambda url: Path(nanocache.download_file_with_lock(url, "x.bin")),
    "registry": nanocache.registry,
    "Cache": lambda url: Cache().fetch(url),
    "nanodist.fetch": nanodist.fetch,
    "nanodist.fetch_many": lambda url: nanodist.fetch_many([url])[0],
    "nanodist.fetch, asking again": lambda url: nanodist.fetch(url, max_age=0),
    "into": lambda url: nanocache.fetch(url, into="mine"),
    "max_age": lambda url: nanocache.fetch(url, max_age=0),
    "rehash": lambda url: nanocache.fetch(url, rehash=True),
    "snapshot": lambda url: nanocache.snapshot("hf://owner/other"),
    "nanodist.snapshot": lambda url: nanodist.snapshot("hf://owner/other"),
    "hf": lambda url: nanocache.fetch("hf://owner/other/a.bin"),
}
BYTES = [name for name in CALLS if name not in ("registry", "snapshot", "nanodist.snapshot", "hf")]


@pytest.fixture
def url(base: Path, origin: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (project := tmp_path / "project").mkdir()
    monkeypatch.chdir(project)
    return origin.add("/a.bin", b"old")


@pytest.fixture
def hub(url: str, hub: HubServer) -> HubServer:
    """In the folder of the project."""
    return hub


def lock(*arguments: str) -> None:
    assert main(["lock", "-q", *arguments]) == 0


@pytest.fixture
def freeze(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setenv("NANOCACHE_FROZEN", "1")


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_locked_is_refused_before_any_request(
    name: str, url: str, hub: HubServer, origin: Origin, freeze: Callable[[], None]
) -> None:
    lock(origin.add("/locked.bin", b"locked"))
    origin.reset()
    freeze()
    with pytest.raises(NotLocked, match=r"nanocache\.lock"):
        CALLS[name](url)
    assert not origin.requests()
    assert not hub.requests()


@pytest.mark.parametrize("name", BYTES)
def test_what_is_locked_comes_with_the_locked_digest(
    name: str, url: str, origin: Origin, freeze: Callable[[], None]
) -> None:
    lock(url)
    for entry in Cache().entries():
        Cache().remove(entry.digest)
    freeze()
    if name == "lookup":
        assert nanocache.lookup(url) is None
        nanocache.fetch(url)
    assert Path(CALLS[name](url)).read_bytes() == b"old"


@pytest.mark.parametrize("name", BYTES)
def test_a_locked_url_that_gives_something_else_now_is_an_error(
    name: str, url: str, origin: Origin, freeze: Callable[[], None]
) -> None:
    lock(url)
    Cache().remove(url)
    origin.add("/a.bin", b"new")
    freeze()
    if name == "lookup":
        assert nanocache.lookup(url) is None
        return
    with pytest.raises(nanocache.ChecksumMismatch):
        CALLS[name](url)


def test_a_warm_cache_hides_nothing(url: str, origin: Origin, freeze: Callable[[], None]) -> None:
    digest = nanocache.fetch(url).parent.name
    nanocache.fetch(url)
    nanocache.fetch(url, sha256=digest)
    lock(origin.add("/locked.bin", b"locked"))
    freeze()
    for options in ({}, {"sha256": digest}):
        with pytest.raises(NotLocked):
            nanocache.fetch(url, **options)
    with pytest.raises(NotLocked):
        nanocache.fetch_many([url])


def test_without_a_lock_file_nothing_is_fetched(url: str, origin: Origin, freeze: Callable[[], None]) -> None:
    freeze()
    with pytest.raises(NotLocked, match="there is no such file"):
        nanocache.fetch(url)
    assert not origin.requests()


def test_a_hostile_lock_file_is_a_value_error(url: str, freeze: Callable[[], None]) -> None:
    Path("nanocache.lock").write_text("<<<<<<< HEAD\n")
    freeze()
    with pytest.raises(ValueError, match="merge conflict"):
        nanocache.fetch(url)


def test_a_locked_digest_may_come_from_elsewhere_and_no_other_digest_from_a_locked_url(
    url: str, origin: Origin, freeze: Callable[[], None]
) -> None:
    lock(url)
    elsewhere = origin.add("/b.bin", b"old")
    digest = hashlib.sha256(b"old").hexdigest()
    freeze()
    assert nanocache.fetch(elsewhere, sha256=digest).read_bytes() == b"old"
    with pytest.raises(NotLocked, match=f"it is locked with {digest}"):
        nanocache.fetch(url, sha256="0" * 64)


def test_a_lock_file_that_changes_is_read_anew(url: str, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    other = origin.add("/other.bin", b"other")
    lock(url)
    monkeypatch.setenv("NANOCACHE_FROZEN", "1")
    with pytest.raises(NotLocked):
        nanocache.fetch(other)
    monkeypatch.setenv("NANOCACHE_FROZEN", "0")
    lock(other)
    monkeypatch.setenv("NANOCACHE_FROZEN", "1")
    assert nanocache.fetch(other).read_bytes() == b"other"


def test_what_a_hook_fetches_is_held_to_the_lock_file_too(url: str, origin: Origin, freeze: Callable[[], None]) -> None:
    lock(url)
    origin.add("/more.bin", b"more")
    freeze()
    with pytest.raises((NotLocked, nanocache.PostprocessFailed), match=r"more\.bin is not in"):
        nanocache.fetch(url, postprocess=fetch_more)


def fetch_more(src: Path, dst: Path) -> None:
    import nanocache

    nanocache.fetch("http://127.0.0.1:9/more.bin")


# --- repositories -----------------------------------------------------------------------------------------------------

FILES = {"config.json": b"{}", "deep/model.safetensors": content(LARGE, "model")}


@pytest.mark.parametrize("asked", ["hf://owner/name", "hf://owner/name@main"])
@pytest.mark.parametrize("snapshot", [nanocache.snapshot, nanodist.snapshot])
def test_a_frozen_snapshot_is_what_is_locked_and_asks_no_hub_what_there_is(
    asked: str, snapshot: Callable[[str], Path], hub: HubServer, freeze: Callable[[], None]
) -> None:
    commit = hub.commit("owner/name", FILES)
    lock("hf://owner/name@main")
    hub.commit("owner/name", {"config.json": b"moved"})
    for entry in list(Cache().entries()):
        Cache().remove(entry.digest)
    hub.reset()
    freeze()
    folder = snapshot(asked)
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert not [request for request in hub.requests() if request.path.startswith("/api/")]
    assert nanocache.snapshot(f"hf://owner/name@{commit}") == folder
    assert nanocache.snapshot(asked, offline=True) == folder
    assert {path.name for path in nanocache.snapshot(asked, include="*.json").iterdir()} == {"config.json"}
    hub.reset()
    assert nanocache.fetch(f"{asked}/config.json").read_bytes() == b"{}"
    assert not hub.requests()


def test_files_of_two_versions_are_no_snapshot(hub: HubServer, freeze: Callable[[], None]) -> None:
    hub.commit("owner/name", FILES)
    lock("hf://owner/name@main")
    hub.commit("owner/name", {"config.json": b"moved"})
    lock("--update", "owner/name/config.json")
    freeze()
    with pytest.raises(NotLocked, match="of 2 versions"):
        nanocache.snapshot("hf://owner/name")


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_command_line_says_what_is_not_locked_with_exit_code_3(
    url: str, origin: Origin, freeze: Callable[[], None], capfd: pytest.CaptureFixture[str]
) -> None:
    lock(origin.add("/locked.bin", b"locked"))
    freeze()
    origin.reset()
    for command in (["fetch", url], ["lock", url], ["lookup", url]):
        assert main(command) == 3
        assert f"{url} is not in {Path.cwd()}/nanocache.lock" in capfd.readouterr().err
    assert not origin.requests()
    assert main(["sync"]) == 0
    assert main(["fetch", "locked.bin"]) == 0


def test_an_artifact_is_a_value_in_a_frozen_process_too(url: str, freeze: Callable[[], None]) -> None:
    lock(url)
    freeze()
    assert nanocache.fetch(Artifact(url, filename="other.bin")).name == "other.bin"
