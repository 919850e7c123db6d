"""nanocache lock, sync and fetch NAME, and open_lock: what is locked is what comes, for ever."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, Cache, NotCached, NotLocked, UpstreamChanged
from nanocache.cli.main import main
from tests.servers.hub import LARGE, HubServer
from tests.servers.origin import Origin, content

FILES = {"config.json": b"{}", "deep/model.safetensors": content(LARGE, "model")}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def project(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    (folder := tmp_path / "project").mkdir()
    monkeypatch.chdir(folder)
    return folder


def tables() -> dict[str, dict[str, Any]]:
    found = tomllib.loads(Path("nanocache.lock").read_text())["artifact"]
    return {table["name"]: table for table in found}


def text() -> str:
    return Path("nanocache.lock").read_text()


def emptied() -> None:
    for entry in list(Cache().entries()):
        Cache().remove(entry.digest)


# --- nanocache lock ---------------------------------------------------------------------------------------------------


def test_what_is_locked_has_name_url_digest_and_size(origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    url = origin.add("/v1/a.bin", b"aardvark")
    assert main(["lock", url]) == 0
    assert capfd.readouterr().out == f"{sha256(b'aardvark')}  a.bin\n"
    assert tables() == {"a.bin": {"name": "a.bin", "url": url, "sha256": sha256(b"aardvark"), "size": 8}}


def test_the_bytes_do_not_depend_on_order_calls_or_cache(origin: Origin, project: Path) -> None:
    urls = [origin.add(f"/{name}", name.encode()) for name in ("b.bin", "a.bin", "c.bin")]
    seen = set()
    for order in itertools.permutations(urls):
        Path("nanocache.lock").unlink(missing_ok=True)
        assert main(["lock", *order[:2]]) == 0
        assert main(["lock", order[2]]) == 0
        seen.add(text())
        emptied()
    assert len(seen) == 1
    assert main(["lock", *urls]) == 0
    assert {text()} == seen
    assert os.listdir() == ["nanocache.lock"]


def test_what_the_server_gives_now_is_locked_and_not_what_is_cached(origin: Origin) -> None:
    url = origin.add("/a.bin", b"old")
    nanocache.fetch(url)
    origin.add("/a.bin", b"new")
    assert main(["lock", url]) == 0
    assert tables()["a.bin"]["sha256"] == sha256(b"new")


def test_what_cannot_be_asked_now_is_not_locked(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = origin.add("/a.bin", b"old")
    nanocache.fetch(url)
    monkeypatch.setenv("NANOCACHE_OFFLINE", "1")
    from nanocache.calls.locking import Locking

    with pytest.raises(NotCached, match="could not be asked"):
        Locking(Cache()).add([url])
    assert not os.listdir()


def test_a_file_and_a_url_with_its_digest_are_locked(origin: Origin, project: Path) -> None:
    (local := project / "l.bin").write_bytes(b"local")
    url = origin.add("/a.bin", b"aardvark")
    assert main(["lock", local.as_uri(), f"{url}#sha256={sha256(b'aardvark')}"]) == 0
    assert main(["lock", local.as_uri()]) == 0
    assert {name: table["url"] for name, table in tables().items()} == {"a.bin": url, "l.bin": local.as_uri()}


def test_a_change_upstream_is_an_error_with_both_digests_until_an_update_is_asked_for(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    url = origin.add("/a.bin", b"old")
    assert main(["lock", url]) == 0
    before = text()
    origin.add("/a.bin", b"new")
    assert main(["lock", url]) == 4
    said = capfd.readouterr().err
    assert sha256(b"old") in said
    assert sha256(b"new") in said
    assert "nanocache lock --update a.bin" in said
    assert text() == before
    assert main(["lock", "--update", "a.bin"]) == 0
    assert tables()["a.bin"]["sha256"] == sha256(b"new")


def test_an_update_keeps_name_and_mirrors(origin: Origin) -> None:
    url, mirror = origin.add("/a.bin", b"old"), origin.add("/m.bin", b"old")
    assert main(["lock", url, "--name", "deep/vocab", "--mirror", mirror]) == 0
    origin.add("/a.bin", b"new")
    assert main(["lock", "--update", "deep/vocab"]) == 0
    assert tables()["deep/vocab"] | {"size": 0} == {
        "name": "deep/vocab",
        "url": url,
        "sha256": sha256(b"new"),
        "mirrors": [mirror],
        "size": 0,
    }


def test_a_url_keeps_the_name_that_it_was_given(origin: Origin) -> None:
    url = origin.add("/a.bin", b"aardvark")
    assert main(["lock", url, "--name", "animal"]) == 0
    before = text()
    assert main(["lock", url]) == 0
    assert text() == before


def test_one_name_for_two_urls_is_refused(origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    one, two = origin.add("/v1/a.bin", b"1"), origin.add("/v2/a.bin", b"2")
    assert main(["lock", one]) == 0
    assert main(["lock", two]) == 2
    assert "give a name with --name" in capfd.readouterr().err
    assert main(["lock", two, "--name", "v2/a.bin"]) == 0
    assert set(tables()) == {"a.bin", "v2/a.bin"}


def test_all_urls_are_locked_or_none(origin: Origin) -> None:
    one, two = origin.add("/a.bin", b"1"), origin.add("/b.bin", b"2")
    assert main(["lock", one, two, origin.url("/nothing.bin")]) == 1
    assert not os.listdir()
    assert main(["lock", one, two, origin.add("/v2/a.bin", b"3")]) == 2
    assert not os.listdir()


def test_a_login_and_a_signature_are_left_out(origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    url = origin.add("/a.bin", b"aardvark")
    signed = url.replace("://", "://me:hunter2@") + "?X-Amz-Signature=hunter2&X-Amz-Date=1"
    assert main(["lock", signed]) == 0
    assert tables()["a.bin"]["url"] == url
    said = capfd.readouterr()
    assert said.err.endswith(f" is locked as {url}: without a login or a signature\n")
    assert "hunter2" not in text() + said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["lock"], 2, "give a URL to lock"),
        (["lock", "a", "b", "--name", "c"], 2, "said of one URL"),
        (["lock", "--update", "nothing"], 3, "nothing is not in nanocache.lock"),
        (["lock", "https://host/a?api_key=hunter2"], 2, "seems to hold a credential in 'api_key'"),
        (["lock", "https://host/a", "--mirror", "https://host/a?api_key=hunter2"], 2, "seems to hold a credential"),
        (["lock", "https://host/a", "--name", "../a"], 2, "name must be a path that stays in its folder"),
        (["sync"], 1, "nanocache.lock"),
        (["sync", "--file", "elsewhere.lock"], 1, "elsewhere.lock"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == code
    err = capfd.readouterr().err
    assert said in err
    assert "hunter2" not in err
    assert len(err.splitlines()) == 1


def test_two_locks_at_once_lose_nothing(origin: Origin, spawn: Callable[..., Any]) -> None:
    urls = [origin.add(f"/{n}.bin", b"%d" % n) for n in range(4)]
    code = "assert main(['lock', '-q', urls[INDEX]]) == 0"
    spawn(code, 4, setup="from nanocache.cli.main import main", urls=urls).outputs()
    assert len(tables()) == 4
    assert os.listdir() == ["nanocache.lock"]


def test_a_killed_lock_leaves_a_lock_file_that_can_be_used(origin: Origin, project: Path) -> None:
    urls = [origin.add(f"/{n}.bin", b"%d" % n) for n in range(40)]
    line = [sys.executable, "-m", "nanocache", "lock", "-q", *urls]
    for seconds in (0.25, 0.35, 0.45):
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if Path("nanocache.lock").exists():
            tables()
    assert main(["lock", "-q", *urls]) == 0
    assert len(tables()) == 40


# --- repositories -----------------------------------------------------------------------------------------------------


def test_a_repository_is_its_files_each_with_the_digest_of_its_bytes(hub: HubServer) -> None:
    commit = hub.commit("owner/name", FILES)
    assert main(["lock", "hf://owner/name@main"]) == 0
    assert not hub.cdn.requests()  # the Hub gives the digest of what is large
    assert tables() == {
        f"owner/name/{path}": {
            "name": f"owner/name/{path}",
            "url": f"hf://owner/name@main/{path}",
            "sha256": sha256(data),
            "size": len(data),
            "revision": commit,
        }
        for path, data in FILES.items()
    }
    before = text()
    emptied()
    assert main(["lock", "hf://owner/name@main"]) == 0
    assert text() == before


def test_a_locked_repository_stays_at_its_commit_and_an_update_moves_all_of_it(hub: HubServer) -> None:
    hub.commit("owner/name", FILES, kind="datasets")
    assert main(["lock", "hf://datasets/owner/name"]) == 0
    before = text()
    moved = hub.commit("owner/name", {"config.json": b"moved", "new.txt": b"new"}, kind="datasets")
    emptied()
    assert main(["sync", "--into", "data"]) == 0
    for path, data in FILES.items():
        assert Path("data/datasets/owner/name", path).read_bytes() == data
    assert main(["lock", "hf://datasets/owner/name"]) == 4
    assert text() == before
    assert main(["lock", "--update", "datasets/owner/name"]) == 0
    assert {table["revision"] for table in tables().values()} == {moved}
    assert set(tables()) == {"datasets/owner/name/config.json", "datasets/owner/name/new.txt"}


def test_one_file_of_a_repository_is_called_as_among_all_of_them(hub: HubServer) -> None:
    commit = hub.commit("owner/name", FILES)
    assert main(["lock", "hf://owner/name/config.json"]) == 0
    assert tables()["owner/name/config.json"]["revision"] == commit
    hub.commit("owner/name", {"config.json": b"moved"})
    emptied()
    assert nanocache.open_lock("nanocache.lock").fetch("owner/name/config.json").read_bytes() == b"{}"


# --- open_lock, sync, fetch NAME --------------------------------------------------------------------------------------


def test_a_lock_is_a_mapping_from_names_to_artifacts(origin: Origin) -> None:
    urls = [origin.add(f"/{name}", name.encode()) for name in ("b.bin", "a.bin")]
    main(["lock", *urls])
    lock = nanocache.open_lock("nanocache.lock")
    assert list(lock) == ["a.bin", "b.bin"]
    assert lock["a.bin"] == Artifact(urls[1], sha256=sha256(b"a.bin"), size=5)
    assert "c.bin" not in lock
    assert lock.get("c.bin") is None
    with pytest.raises(NotLocked, match=r"c\.bin is not in"):
        lock.fetch("c.bin")
    assert lock.fetch("a.bin").read_bytes() == b"a.bin"
    assert [path.read_bytes() for path in nanocache.fetch_many(lock.values())] == [b"a.bin", b"b.bin"]


def test_sync_has_all_of_them_here_and_asks_nothing_the_second_time(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["lock", *[origin.add(f"/{name}", name.encode()) for name in ("b.bin", "a.bin")]])
    emptied()
    capfd.readouterr()
    assert main(["sync", "--frozen"]) == 0
    paths = [Path(line) for line in capfd.readouterr().out.splitlines()]
    assert [path.read_bytes() for path in paths] == [b"a.bin", b"b.bin"]
    origin.reset()
    assert nanocache.open_lock("nanocache.lock").sync(frozen=True) == {path.name: path for path in paths}
    assert not origin.requests()


def test_sync_says_what_changed_upstream_with_exit_code_4(origin: Origin, capfd: pytest.CaptureFixture[str]) -> None:
    url = origin.add("/a.bin", b"old")
    main(["lock", url, "--name", "animal"])
    emptied()
    origin.add("/a.bin", b"new")
    for command in (["sync"], ["sync", "--frozen"]):
        assert main(command) == 4
        said = capfd.readouterr().err
        assert f"animal changed: {url}" in said
        assert sha256(b"old") in said
        assert sha256(b"new") in said
    with pytest.raises(UpstreamChanged) as caught:
        nanocache.open_lock("nanocache.lock").fetch("animal")
    assert (caught.value.expected, caught.value.got) == (sha256(b"old"), sha256(b"new"))


def test_a_mirror_makes_up_for_a_url_that_changed(origin: Origin) -> None:
    url, mirror = origin.add("/a.bin", b"old"), origin.add("/m.bin", b"old")
    main(["lock", url, "--mirror", mirror])
    emptied()
    origin.add("/a.bin", b"new")
    assert main(["sync"]) == 0


def test_sync_completes_a_lock_file_of_a_persons_and_frozen_leaves_it(origin: Origin) -> None:
    url = origin.add("/a.bin", b"aardvark")
    written = f'[[artifact]]\nurl = "{url}"\nname = "b"\nsha256 = "{sha256(b"aardvark").upper()}"\n'
    Path("nanocache.lock").write_text(written)
    assert main(["sync", "--frozen"]) == 0
    assert text() == written
    assert main(["sync"]) == 0
    assert list(tables().values()) == [{"name": "b", "url": url, "sha256": sha256(b"aardvark"), "size": 8}]


def test_sync_needs_no_right_to_write_what_is_in_its_usual_form(
    origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["lock", "-q", origin.add("/a.bin", b"aardvark")])
    monkeypatch.setattr("nanocache.lockfile.file.change", None)
    assert main(["sync", "-q"]) == 0


def test_an_update_loses_nothing_that_is_locked_meanwhile(hub: HubServer, origin: Origin) -> None:
    from nanocache.calls.locking import Locking

    class Slow(Locking):
        def _again(self, old: Any, name: str) -> Any:
            found = list(super()._again(old, name))
            assert main(["lock", origin.add("/a.bin", b"a"), "--name", "owner/name/a.bin"]) == 0
            return found

    hub.commit("owner/name", FILES)
    assert main(["lock", "hf://owner/name"]) == 0
    hub.commit("owner/name", {"config.json": b"moved"})
    Slow(Cache()).update("owner/name")
    assert set(tables()) == {"owner/name/a.bin", "owner/name/config.json"}


def test_into_gives_each_artifact_its_name_and_nothing_leads_out(origin: Origin, tmp_path: Path) -> None:
    main(["lock", origin.add("/a.bin", b"a"), "--name", "deep/er/x.bin"])
    assert main(["sync", "--into", "data"]) == 0
    assert Path("data/deep/er/x.bin").read_bytes() == b"a"
    lock = nanocache.open_lock("nanocache.lock")
    assert lock.fetch("deep/er/x.bin", into="more") == Path.cwd() / "more/deep/er/x.bin"


def test_fetch_takes_a_name_of_the_lock_file_in_the_current_folder(
    origin: Origin, capfd: pytest.CaptureFixture[str]
) -> None:
    url = origin.add("/a.bin", b"aardvark")
    assert main(["fetch", "a.bin"]) == 2  # no lock file: no URL
    main(["lock", url])
    capfd.readouterr()
    assert main(["fetch", "a.bin", url]) == 0
    assert capfd.readouterr().out.splitlines() == [str(nanocache.lookup(url))] * 2
    assert main(["fetch", "c.bin"]) == 3
    assert main(["fetch", "a.bin", "--sha256", "0" * 64]) == 2


@pytest.mark.parametrize("name", ["registry.txt", "SHA256SUMS"])
def test_lists_that_others_publish_are_opened_too(name: str, origin: Origin) -> None:
    digest = sha256(b"aardvark")
    origin.add("/data/a.bin", b"aardvark")
    Path(name).write_text(f"a.bin sha256:{digest}\n" if name == "registry.txt" else f"{digest}  a.bin\n")
    lock = nanocache.open_lock(name, base_url=origin.url("/data/"))
    assert lock.fetch("a.bin").read_bytes() == b"aardvark"
    assert lock.sync(frozen=True) == lock.sync() == {"a.bin": lock.fetch("a.bin")}
    assert nanocache.open_lock(origin.add("/data/list.txt", Path(name).read_bytes()))["a.bin"].sha256 == digest


def test_prune_keeps_what_is_locked(origin: Origin) -> None:
    from tests.upkeep.conftest import made_old

    url, other = origin.add("/a.bin", b"a"), origin.add("/b.bin", b"b")
    main(["lock", url])
    nanocache.fetch(other)
    made_old(Path(os.environ["NANOCACHE_DIR"]), 30)
    Cache().prune(max_size=0, keep="nanocache.lock")
    assert nanocache.lookup(url) is not None
    assert nanocache.lookup(other) is None
