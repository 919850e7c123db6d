"""NANOCACHE_READONLY_DIRS: caches that are looked into before the network, never written, and believed like our own."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Cache, NotCached
from nanocache.config import READONLY_DIRS
from nanocache.store import tiers
from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import Origin, content

Fetch = Callable[..., Path]
SIZE = 50_000
DATA = content(SIZE, "tier")
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    tiers.opened.cache_clear()


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/weights.bin", DATA)


@pytest.fixture
def site(tmp_path: Path, url: str, origin: Origin, base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A read-only cache that has the artifact, by URL and by digest, and that nothing may change."""
    site = tmp_path / "site"
    Cache(site).fetch(url)
    origin.reset()
    monkeypatch.setenv(READONLY_DIRS, str(site))
    before = look_of(site)
    yield site
    assert look_of(site) == before


@pytest.fixture
def spoilt(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, for tests to spoil."""
    spoilt = shutil.copytree(site, tmp_path / "spoilt", copy_function=shutil.copy2)
    monkeypatch.setenv(READONLY_DIRS, str(spoilt))
    return spoilt


def look_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Everything below `folder`, with all that a write, a mark, a chmod or a link would move."""
    paths = [folder, *folder.rglob("*")] if folder.is_dir() else []
    stats = {str(path): path.lstat() for path in paths}
    return {path: (st.st_mtime_ns, st.st_mode, st.st_nlink, st.st_size, st.st_uid) for path, st in stats.items()}


def blob(base: Path) -> Path:
    return next((base / "blobs-v1/sha256" / DIGEST[:2] / DIGEST).iterdir())


def rot(site: Path) -> Path:
    """Change the site's file behind its seal."""
    path = blob(site)
    st = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes(SIZE))
    path.chmod(0o444)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    return path


def unseal(site: Path) -> Path:
    os.utime(blob(site))
    return blob(site)


# --- what is found ----------------------------------------------------------------------------------------------------


def test_a_file_of_a_read_only_cache_is_returned_where_it_lies_and_nothing_is_copied(
    fetch: Fetch, site: Path, base: Path, origin: Origin, url: str
) -> None:
    for _ in range(2):
        assert fetch(url, sha256=DIGEST) == fetch(url) == blob(site)
    assert nanocache.lookup(url, sha256=DIGEST) == nanocache.lookup(url) == blob(site)
    assert nanocache.fetch_many([url, nanocache.Artifact(url, sha256=DIGEST)]) == [blob(site)] * 2
    assert list(nanocache.prefetch([url])) == [blob(site)]
    assert not origin.requests()
    assert not list(base.iterdir())


def test_it_is_found_by_another_url_and_another_name_also_offline(fetch: Fetch, site: Path, base: Path) -> None:
    elsewhere = "https://elsewhere.invalid/other.bin"
    assert fetch(elsewhere, sha256=DIGEST, offline=True) == blob(site)
    assert nanocache.lookup(elsewhere, sha256=DIGEST) == blob(site)
    with pytest.raises(NotCached):
        fetch(elsewhere, offline=True)


def test_the_base_directory_comes_first(fetch: Fetch, site: Path, base: Path, url: str, tmp_path: Path) -> None:
    os.environ.pop(READONLY_DIRS)
    own = fetch(url)
    os.environ[READONLY_DIRS] = str(site)
    assert fetch(url) == fetch(url, sha256=DIGEST) == nanocache.lookup(url) == own
    assert own.is_relative_to(base)


def test_the_folders_are_asked_in_order_and_what_is_no_cache_is_ignored(
    site: Path, base: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    second = tmp_path / "a:b"
    shutil.copytree(site, second, copy_function=shutil.copy2)
    monkeypatch.setenv("SITES", str(tmp_path))
    monkeypatch.setenv(READONLY_DIRS, rf"$SITES/missing:$SITES/empty:$SITES/file::$SITES/a\:b:{site}")
    assert nanocache.fetch(url) == blob(second)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(READONLY_DIRS, "~/site")
    assert nanocache.fetch(url) == blob(site)  # the answer of the other setting is not given any more
    assert not caplog.records


@pytest.mark.parametrize("value", ["$NOT_SET/cache", "'/site'", "/a: /b"])
def test_a_folder_that_cannot_be_meant_is_a_value_error(
    value: str, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(READONLY_DIRS, value)
    with pytest.raises(ValueError, match=READONLY_DIRS):
        nanocache.fetch(url)


def test_a_hit_there_is_one_stat_once_it_was_found(
    site: Path, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nanocache.fetch(url, sha256=DIGEST)
    seen: list[str] = []
    for name in ("stat", "lstat", "listdir", "open", "utime"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, call=call, **o: seen.append(str(a[0])) or call(*a, **o))
    assert nanocache.fetch(url, sha256=DIGEST) == Path(seen[0])
    assert len(seen) == 1


def test_a_miss_looks_once_into_each_folder(
    site: Path, base: Path, monkeypatch: pytest.MonkeyPatch, origin: Origin
) -> None:
    url = origin.add("/new.bin", b"new")
    digest = hashlib.sha256(b"new").hexdigest()
    nanocache.lookup(url, sha256=digest)
    seen: list[str] = []
    for name in ("stat", "lstat"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, call=call, **o: seen.append(str(a[0])) or call(*a, **o))
    assert nanocache.lookup(url, sha256=digest) is None
    assert len([path for path in seen if path.startswith(str(site))]) <= 2


def test_what_is_not_there_is_downloaded_into_the_base_directory(
    fetch: Fetch, site: Path, base: Path, origin: Origin
) -> None:
    path = fetch(origin.add("/new.bin", b"new"))
    assert path.is_relative_to(base)
    assert path.read_bytes() == b"new"


def test_max_age_goes_by_when_the_other_cache_asked(fetch: Fetch, site: Path, origin: Origin, url: str) -> None:
    assert fetch(url, max_age=3600) == blob(site)
    assert not origin.requests()
    assert fetch(url, max_age=0).read_bytes() == DATA
    assert origin.requests()


def test_a_ref_of_our_own_that_comes_later_is_the_answer_from_then_on(
    site: Path, base: Path, origin: Origin, url: str
) -> None:
    assert nanocache.fetch(url) == nanocache.fetch(url) == blob(site)
    origin.add("/weights.bin", b"newer")
    assert nanocache.fetch(url, max_age=0).read_bytes() == b"newer"
    assert nanocache.fetch(url).read_bytes() == b"newer"


def test_what_lies_there_can_be_held_though_its_owner_decides(site: Path, base: Path, url: str, origin: Origin) -> None:
    own = nanocache.fetch(origin.add("/own.bin", b"own"))
    with Cache().hold([nanocache.fetch(url), own]), Cache().hold(nanocache.fetch(url)):
        assert [entry.held for entry in Cache().entries()] == [True]
    with pytest.raises(NotCached), Cache().hold("ab" * 32):
        pass


def test_into_gives_a_file_of_ones_own(fetch: Fetch, site: Path, base: Path, url: str, tmp_path: Path) -> None:
    for _ in range(2):
        placed = fetch(url, into=tmp_path / "data")
    assert placed.read_bytes() == DATA
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["weights.bin"]


# --- hooks and snapshots ----------------------------------------------------------------------------------------------


def shout(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes() + b"!")


shout.key = "shout-v1"  # type: ignore[attr-defined]


def test_a_product_is_used_where_it_lies_and_else_built_here_of_the_blob_there(
    fetch: Fetch, tmp_path: Path, base: Path, origin: Origin, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "other"
    Cache(site).fetch(url)
    origin.reset()
    monkeypatch.setenv(READONLY_DIRS, str(site))
    before = look_of(site)
    built = fetch(url, postprocess=shout)
    assert built.read_bytes() == DATA + b"!"
    assert built.is_relative_to(base)
    assert look_of(site) == before
    shutil.rmtree(base)
    there = Cache(site).fetch(url, postprocess=shout)
    assert fetch(url, postprocess=shout) == fetch(url, sha256=DIGEST, postprocess=shout) == there
    assert not origin.requests()


FILES = {"config.json": b"{}", "model.bin": content(LARGE, "model"), "sub/vocab.txt": b"a"}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_snapshot_is_found_whole_or_made_of_what_is_there(
    hub: HubServer, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("owner/name", FILES)
    site = tmp_path / "site"
    there = Cache(site).snapshot("hf://owner/name")
    before = look_of(site)
    hub.reset()
    monkeypatch.setenv(READONLY_DIRS, str(site))
    assert nanocache.snapshot("hf://owner/name") == nanocache.snapshot("hf://owner/name", offline=True) == there
    assert contents(nanocache.snapshot("hf://owner/name", into=tmp_path / "own")) == FILES
    part = nanocache.snapshot("hf://owner/name", include="*.bin", offline=True)
    assert part.is_relative_to(base)
    assert contents(part) == {"model.bin": FILES["model.bin"]}
    assert nanocache.snapshot("hf://owner/name", include="*.bin", offline=True) == part
    assert not hub.requests()
    assert look_of(site) == before


# --- an HF_HOME -------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["HF_HOME", "HF_HUB_CACHE"])
def hf_cache(request: pytest.FixtureRequest, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in a cache of the Hub's own client; READONLY_DIRS names that cache."""
    home = tmp_path / "hf"
    repository = home / "hub/models--owner--name"
    path = repository / "blobs" / DIGEST
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    snapshot = repository / "snapshots/0123/weights.bin"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(f"../../blobs/{DIGEST}")
    monkeypatch.setenv(READONLY_DIRS, str(home if request.param == "HF_HOME" else home / "hub"))
    return path


def test_a_file_of_the_hubs_own_client_is_taken_in_once_by_its_digest(
    fetch: Fetch, hf_cache: Path, base: Path, origin: Origin, url: str
) -> None:
    before = look_of(hf_cache)
    path = fetch(url, sha256=DIGEST, offline=True)
    assert path.is_relative_to(base)
    assert path.read_bytes() == DATA
    assert path.stat().st_ino != hf_cache.stat().st_ino  # whose owner may write to it
    hf_cache.unlink()
    assert fetch(url, sha256=DIGEST) == path
    assert not origin.requests()
    assert look_of(hf_cache) == before


def test_one_that_is_damaged_is_passed_over_with_one_warning(
    fetch: Fetch, hf_cache: Path, origin: Origin, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    hf_cache.write_bytes(b"something else")
    with pytest.raises(NotCached):
        fetch(url, sha256=DIGEST, offline=True)
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert [record.message.split(" is damaged")[0] for record in caplog.records] == [str(hf_cache)]


def test_what_the_hub_says_of_a_file_is_enough_to_find_it(
    fetch: Fetch, hub: HubServer, site: Path, hf_cache: Path, monkeypatch: pytest.MonkeyPatch, base: Path
) -> None:
    large = content(LARGE + 1, "large")
    hub.commit("other/name", {"large.bin": large})
    (hf_cache.parent / hashlib.sha256(large).hexdigest()).write_bytes(large)
    assert fetch("hf://other/name/large.bin").read_bytes() == large
    assert not hub.cdn.requests()


# --- what is not believed ---------------------------------------------------------------------------------------------


def test_a_lost_seal_is_read_once_in_a_process(
    spoilt: Path, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = unseal(spoilt)
    from nanocache.store import reading

    reads: list[str] = []
    read = reading.read
    monkeypatch.setattr(reading, "read", lambda path, *rest: reads.append(path) or read(path, *rest))
    assert nanocache.fetch(url, sha256=DIGEST) == nanocache.fetch(url, sha256=DIGEST) == nanocache.lookup(url) == path
    assert reads == [str(path)]
    assert list(base.iterdir()) == []


@pytest.mark.parametrize("offline", [True, False])
def test_a_damaged_file_is_passed_over_with_one_warning(
    fetch: Fetch,
    spoilt: Path,
    base: Path,
    url: str,
    offline: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    rot(spoilt)
    unseal(spoilt)
    for _ in range(2):
        if offline:
            with pytest.raises(NotCached):
                fetch(url, sha256=DIGEST, offline=True)
        else:
            path = fetch(url, sha256=DIGEST)
            assert path.is_relative_to(base)
            assert path.read_bytes() == DATA
    assert len(caplog.records) == 1
    assert "is damaged, and passed over" in caplog.text


def test_rehash_reads_what_lies_behind_an_intact_seal(
    fetch: Fetch, spoilt: Path, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fetch(url, sha256=DIGEST, rehash=True) == blob(spoilt)
    rot(spoilt)
    path = fetch(url, sha256=DIGEST, rehash=True)
    assert path.is_relative_to(base)
    assert path.read_bytes() == DATA


def replaced_by_symlink(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


@pytest.mark.parametrize("what", ["blobs-v1", f"blobs-v1/sha256/{DIGEST[:2]}", "the file", "world-writable"])
def test_what_could_lead_elsewhere_is_refused_with_one_reason(
    what: str,
    fetch: Fetch,
    spoilt: Path,
    base: Path,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if what == "world-writable":
        spoilt.chmod(0o1777)
    else:
        replaced_by_symlink(blob(spoilt) if what == "the file" else spoilt / what)
    for _ in range(2):
        assert fetch(url, sha256=DIGEST).is_relative_to(base)
    assert len(caplog.records) == 1
    assert f"{spoilt} is passed over" in caplog.text
    assert ("every user can replace files" if what == "world-writable" else "symlink") in caplog.text


def test_the_folder_itself_may_be_a_symlink(
    fetch: Fetch, site: Path, tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "current").symlink_to(site)
    monkeypatch.setenv(READONLY_DIRS, str(tmp_path / "current"))
    assert fetch(url, sha256=DIGEST).read_bytes() == DATA
    assert fetch(url, sha256=DIGEST).is_relative_to(tmp_path / "current")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(
    ("folder", "file", "used"), [(60_001, 60_001, True), (60_001, 0, True), (60_001, 60_002, False)]
)
def test_files_of_the_folders_owner_and_of_root_are_used(
    folder: int, file: int, used: bool, spoilt: Path, base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.chown(spoilt, folder, -1)
    path = blob(spoilt)
    st = path.stat()
    os.chown(path, file, -1)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    assert (nanocache.fetch(url, sha256=DIGEST) == path) is used


def test_verify_repair_mends_the_base_directory_itself(site: Path, base: Path, url: str, origin: Origin) -> None:
    os.environ.pop(READONLY_DIRS)
    own = nanocache.fetch(url)
    rot(base)
    unseal(base)
    os.environ[READONLY_DIRS] = str(site)
    Cache().verify(repair=True)
    assert own.read_bytes() == DATA


# --- what a person sees -----------------------------------------------------------------------------------------------


def test_the_command_line_says_which_cache_it_is_in(
    site: Path, base: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from nanocache.cli.main import main

    assert main(["info", DIGEST[:12]]) == 0
    said = capsys.readouterr().out
    assert str(blob(site)) in said
    assert "read-only cache" in said
    assert main(["lookup", url]) == 0
    assert "in a read-only cache" in capsys.readouterr().err
    assert main(["env"]) == 0
    assert f"{site}, there" in capsys.readouterr().out


def test_eight_processes_find_it_at_once(site: Path, base: Path, url: str, origin: Origin, spawn: Any) -> None:
    code = "print(nanocache.fetch(url, sha256=digest), nanocache.fetch(url))"
    assert set(spawn(code, 8, url=url, digest=DIGEST).outputs()) == {f"{blob(site)} {blob(site)}"}
    assert not origin.requests()
