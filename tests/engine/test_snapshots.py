"""Snapshots: a repository's files at one version, verified, as one folder of hard links."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import DownloadFailed, NotCached, UnsafeArchive
from nanocache.store import trees
from nanocache.store.manifest import Manifest, TreeFile
from tests.servers.hub import LARGE, TOKEN, HubServer, git_sha1
from tests.servers.origin import content

MODEL = content(3 * LARGE + 5, "model")
NEWER = content(3 * LARGE + 5, "newer")
FILES = {
    "README.md": b"# name\n",
    "config.json": b"{}",
    "model.safetensors": MODEL,
    "onnx/model.onnx": content(LARGE, "onnx"),
    "onnx/deep/er/vocab.txt": b"a\nb\n",
}
URL = "hf://owner/name"


@pytest.fixture
def hub(hub: HubServer) -> HubServer:
    hub.commit("owner/name", FILES)
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def reset(hub: HubServer) -> None:
    hub.reset()
    hub.cdn.reset()


def requests(hub: HubServer) -> int:
    return len(hub.requests()) + len(hub.cdn.requests())


def test_a_snapshot_is_a_folder_with_every_file_and_no_second_copy(hub: HubServer, base: Path) -> None:
    folder = nanocache.snapshot(URL)
    assert folder.name == "name"
    assert contents(folder) == FILES
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert all(path.stat().st_nlink == 2 for path in files)
    assert not any(path.stat().st_mode & 0o222 for path in files)
    assert hub.requests(method="HEAD") == []  # the listing says what each file is


def test_a_hit_asks_nothing_and_looks_at_eight_paths_at_most(hub: HubServer) -> None:
    folder = nanocache.snapshot(URL)
    reset(hub)
    assert nanocache.snapshot(URL) == nanocache.snapshot(URL, offline=True) == folder
    assert requests(hub) == 0
    trees._read_manifest.cache_clear()  # as in a new process
    assert looked_at(lambda: nanocache.snapshot(URL)) <= 8


def looked_at(call: Callable[[], Any]) -> int:
    """How many stats `call` makes."""
    count = 0
    originals = {name: getattr(os, name) for name in ("stat", "lstat", "fstat")}

    def counted(name: str) -> Callable[..., Any]:
        def look(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            return originals[name](*args, **options)

        return look

    try:
        for name in originals:
            setattr(os, name, counted(name))
        call()
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
    return count


def test_the_next_commit_downloads_what_changed_and_nothing_else(hub: HubServer) -> None:
    first = nanocache.snapshot(URL)
    hub.commit("owner/name", FILES | {"model.safetensors": NEWER, "config.json": b"[]"})
    assert nanocache.snapshot(URL) == first  # the branch is asked again only with max_age
    reset(hub)
    second = nanocache.snapshot(URL, max_age=0)
    assert contents(second) == FILES | {"model.safetensors": NEWER, "config.json": b"[]"}
    assert contents(first) == FILES
    assert {request.path.rpartition("/")[2] for request in hub.requests() if "/resolve/" in request.path} == {
        "model.safetensors",
        "config.json",
    }
    reset(hub)
    assert nanocache.snapshot(URL, max_age=0) == second
    assert hub.cdn.requests() == []


def test_a_commit_is_its_own_snapshot(hub: HubServer) -> None:
    first = hub.repository("owner/name").branches["main"]
    hub.commit("owner/name", {"only.txt": b"1"})
    assert contents(nanocache.snapshot(f"{URL}@{first}")) == FILES
    assert contents(nanocache.snapshot(URL)) == {"only.txt": b"1"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"include": "*.json"}, {"config.json"}),
        ({"include": ["*.md", "onnx/"]}, {"README.md", "onnx/model.onnx", "onnx/deep/er/vocab.txt"}),
        ({"exclude": ["onnx/*", "*.safetensors"]}, {"README.md", "config.json"}),
        ({"include": "onnx/*", "exclude": "*.onnx"}, {"onnx/deep/er/vocab.txt"}),
        ({"include": "no such"}, set()),
    ],
)
def test_patterns_choose_files(hub: HubServer, options: dict[str, Any], expected: set[str]) -> None:
    assert contents(nanocache.snapshot(URL, **options)).keys() == expected
    assert contents(nanocache.snapshot(URL)) == FILES


def test_a_listing_of_several_pages_is_read_to_its_end(hub: HubServer) -> None:
    hub.page = 2
    assert contents(nanocache.snapshot(URL)) == FILES


@pytest.mark.parametrize("where", ["config.json", "model.safetensors", "onnx"])
@pytest.mark.parametrize("offline", [True, False])
def test_a_file_that_was_deleted_is_put_back(hub: HubServer, where: str, offline: bool) -> None:
    folder = nanocache.snapshot(URL)
    victim = folder / where
    if victim.is_dir():
        subprocess.run(["rm", "-r", str(victim)], check=True)
    else:
        victim.unlink()
    reset(hub)
    assert nanocache.snapshot(URL, offline=offline) == folder
    assert contents(folder) == FILES
    assert hub.cdn.requests() == []


def test_a_file_that_was_written_to_heals(hub: HubServer) -> None:
    folder = nanocache.snapshot(URL)
    victim = folder / "model.safetensors"
    victim.chmod(0o644)
    victim.write_bytes(b"no model")
    assert nanocache.snapshot(URL) == folder
    assert contents(folder) == FILES


def test_what_a_loader_writes_beside_the_files_stays(hub: HubServer) -> None:
    folder = nanocache.snapshot(URL)
    (folder / "index.bin").write_bytes(b"mine")
    assert nanocache.snapshot(URL) == folder
    assert contents(folder) == FILES | {"index.bin": b"mine"}


def test_all_blobs_lost_and_the_tree_as_well_is_fetched_at_the_same_commit(hub: HubServer, base: Path) -> None:
    folder = nanocache.snapshot(URL)
    hub.commit("owner/name", {"only.txt": b"1"})
    subprocess.run(["rm", "-r", str(base / "blobs-v1"), str(base / "trees-v1")], check=True)
    assert nanocache.snapshot(URL) == folder
    assert contents(folder) == FILES


def test_an_empty_cache_offline_names_the_command(hub: HubServer) -> None:
    with pytest.raises(NotCached, match="nanocache snapshot 'hf://owner/name'"):
        nanocache.snapshot(URL, offline=True)


def test_a_hub_that_is_down_leaves_what_is_cached_with_a_warning(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = nanocache.snapshot(URL)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    assert nanocache.snapshot(URL, max_age=0) == folder
    assert "using what is cached" in caplog.text


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a\\b", "CON\x00"])
def test_a_listing_that_leads_elsewhere_is_refused(hub: HubServer, path: str, base: Path) -> None:
    hub.commit("owner/name", {path: b"evil", "good.txt": b"good"})
    with pytest.raises(UnsafeArchive):
        nanocache.snapshot(URL)
    assert not list(base.glob("trees-v1/*/*"))


def test_two_names_that_are_one_on_some_disks_are_refused(hub: HubServer) -> None:
    hub.commit("owner/name", {"Config.json": b"1", "config.json": b"2"})
    with pytest.raises(UnsafeArchive, match="one on some disks"):
        nanocache.snapshot(URL)


def test_a_wrong_file_shows_no_folder(hub: HubServer, base: Path) -> None:
    hub.wrong["config.json"] = b"[]"
    with pytest.raises((DownloadFailed, nanocache.ChecksumMismatch)):
        nanocache.snapshot(URL)
    assert not list(base.glob("trees-v1/*/*"))
    hub.wrong.clear()
    assert contents(nanocache.snapshot(URL)) == FILES


def test_many_callers_list_once_and_fetch_each_file_once(hub: HubServer) -> None:
    folders: list[Path] = []
    threads = [threading.Thread(target=lambda: folders.append(nanocache.snapshot(URL))) for _ in range(8)]
    script = f"import nanocache; print(nanocache.snapshot({URL!r}))"
    processes = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert {str(folder) for folder in folders} == told
    assert len(told) == 1
    paths = [request.path for request in hub.requests(method="GET")]
    assert len(paths) == len(set(paths))


def test_blobs_of_the_hubs_client_are_taken_over(hub: HubServer, tmp_path: Path) -> None:
    blobs = tmp_path / "hf" / "hub" / "models--owner--name" / "blobs"
    blobs.mkdir(parents=True)
    for data in FILES.values():
        etag = git_sha1(data) if len(data) < LARGE else hashlib.sha256(data).hexdigest()
        (blobs / etag).write_bytes(data)
    assert contents(nanocache.snapshot(URL)) == FILES
    assert hub.cdn.requests() == []
    assert not [request for request in hub.requests() if "/resolve/" in request.path]


def test_a_private_repository_wants_the_token(hub: HubServer, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    hub.repository("owner/name").private = True
    with pytest.raises(DownloadFailed, match="HF_TOKEN"):
        nanocache.snapshot(URL)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert contents(nanocache.snapshot(URL)) == FILES
    assert not [path for path in base.rglob("*") if path.is_file() and b"hunter2" in path.read_bytes()]


@pytest.mark.parametrize("url", ["hf://owner/name/file", "https://host/a", "owner/name", None, "s3://bucket/key"])
def test_what_is_no_repository_is_a_value_error(base: Path, url: Any) -> None:
    with pytest.raises(ValueError, match=r"repository|snapshot|names one file"):
        nanocache.snapshot(url)


def test_a_manifest_is_the_same_bytes_whatever_the_order() -> None:
    files = [TreeFile("b", "0" * 64, 1), TreeFile("a/c", "1" * 64, 2, executable=True)]
    manifest = Manifest.of(files)
    assert manifest.data == Manifest.of(files[::-1]).data
    assert manifest.data.startswith(b'[{"executable":true,"path":"a/c","sha256":"111')
    assert Manifest.from_bytes(manifest.data) == manifest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}x",
        b"[1]",
        b'[{"path":"../a","sha256":"%s","size":1,"executable":false}]' % (b"0" * 64),
        b'[{"path":"a","sha256":"..","size":1,"executable":false}]',
        b'[{"path":"a","sha256":"%s","size":-1,"executable":false}]' % (b"0" * 64),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not the manifest"):
        Manifest.from_bytes(data)


def test_the_folders_have_the_modes_of_the_base(hub: HubServer, base: Path) -> None:
    base.mkdir(exist_ok=True)
    base.chmod(0o2770)
    folder = nanocache.snapshot(URL)
    assert stat.S_IMODE((folder / "onnx").stat().st_mode) == 0o2770


def test_a_snapshot_appears_in_a_folder_of_the_callers_beside_what_lies_there(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "notes.txt").write_bytes(b"mine")
    (folder / "config.json").write_bytes(b"mine")
    assert nanocache.snapshot(URL, into=folder) == folder
    [aside] = folder.glob("config.json.before-*")
    assert aside.read_bytes() == b"mine"
    aside.unlink()
    assert contents(folder) == {**FILES, "onnx/notes.txt": b"mine"}
    inodes = {path: path.stat().st_ino for path in folder.rglob("*")}
    reset(hub)
    assert nanocache.snapshot(URL, into=folder) == folder
    assert {path: path.stat().st_ino for path in folder.rglob("*")} == inodes
    assert requests(hub) == 0


def test_the_next_commit_replaces_what_changed_in_it(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    nanocache.snapshot(URL, into=folder)
    hub.commit("owner/name", {**FILES, "model.safetensors": NEWER})
    nanocache.snapshot(URL, into=folder, max_age=0)
    assert contents(folder) == {**FILES, "model.safetensors": NEWER}
