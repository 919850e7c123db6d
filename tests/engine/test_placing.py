"""`into`: an artifact under its name in a folder of the caller's, which loses nothing of theirs."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, NoSpace
from nanocache.disk import copying
from nanocache.engine import placed_file
from tests.conftest import Processes
from tests.servers.origin import MIB, Origin, content

DATA = content(MIB + 3, "into")
OTHER = content(MIB + 3, "another")  # of the same size

Fetch = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine" / "data"


@pytest.fixture
def url(base: Path, origin: Origin) -> str:
    return origin.add("/f.bin", DATA)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another disk, of 4 MiB."""
    (place := tmp_path / "elsewhere").mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", place]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs root, and to mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def there(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- what appears -----------------------------------------------------------------------------------------------------


def test_it_appears_under_its_name_in_a_folder_that_is_made(fetch: Fetch, url: str, folder: Path) -> None:
    path = fetch(url, into=folder)
    assert path == folder / "f.bin"
    assert path.read_bytes() == DATA
    assert there(folder) == ["f.bin"]
    assert fetch(url, into=str(folder), filename="g.bin") == folder / "g.bin"
    assert (folder / "g.bin").read_bytes() == DATA


def test_it_is_the_cached_file_itself_where_blocks_cannot_be_shared(
    fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "share_blocks", lambda *_: False)
    path = fetch(url, into=folder)
    assert path.samefile(fetch(url))
    assert stat.S_IMODE(path.stat().st_mode) == 0o444


def test_it_shares_blocks_where_it_can_and_is_the_callers_to_write(
    fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def share(source: int, target: int) -> bool:
        os.sendfile(target, source, 0, len(DATA))
        return True

    monkeypatch.setattr(copying, "share_blocks", share)
    path = fetch(url, into=folder)
    inode = path.stat().st_ino
    assert not path.samefile(fetch(url))
    assert path.stat().st_mode & stat.S_IWUSR
    assert fetch(url, into=folder).stat().st_ino == inode


def test_real_blocks_are_shared_where_the_disk_can(fetch: Fetch, tmp_path: Path, origin: Origin) -> None:
    image, place = tmp_path / "image", tmp_path / "mounted"
    place.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 320 * MIB)
    if os.geteuid() or not shutil.which("mkfs.xfs"):
        pytest.skip("needs root and mkfs.xfs")
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", image], check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], capture_output=True).returncode:
        pytest.skip("an image can't be mounted here")
    try:
        url = origin.add("/f.bin", DATA)
        path = fetch(url, into=place / "data", base_dir=place / "base")
        assert path.read_bytes() == DATA
        assert path.stat().st_nlink == 1
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("refusal", [errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOTSUP])
def test_it_is_a_copy_where_no_link_can_be(
    fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    """EPERM: fs.protected_hardlinks, on what another user downloaded."""
    blob = fetch(url)

    def link(*_: Any, **__: Any) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "link", link)
    path = fetch(url, into=folder)
    assert path.read_bytes() == DATA
    assert not path.samefile(blob)
    inode = path.stat().st_ino
    assert fetch(url, into=folder).stat().st_ino == inode


def test_another_disk_gets_a_copy(fetch: Fetch, url: str, elsewhere: Path) -> None:
    path = fetch(url, into=elsewhere / "data")
    assert path.read_bytes() == DATA
    assert there(path.parent) == ["f.bin"]
    assert path.stat().st_mtime_ns == fetch(url).stat().st_mtime_ns


def test_a_full_disk_is_named_and_nothing_is_left_there(
    fetch: Fetch, base: Path, origin: Origin, elsewhere: Path
) -> None:
    url = origin.add("/f.bin", content(5 * MIB, "too large"))
    with pytest.raises(NoSpace, match="into=") as raised:
        fetch(url, into=elsewhere / "data")
    assert raised.value.path == str(elsewhere / "data")
    assert there(elsewhere / "data") == []


def test_a_cache_that_may_not_be_written_serves_it(url: str, base: Path, folder: Path) -> None:
    nanocache.fetch(url)
    mounts = [["mount", "--bind", base, base], ["mount", "-o", "remount,ro,bind", base]]
    if os.geteuid() or any(subprocess.run(command, capture_output=True).returncode for command in mounts):
        pytest.skip("needs root, and to mount a folder read-only")
    try:
        assert nanocache.fetch(url, into=folder).read_bytes() == DATA
        assert there(folder) == ["f.bin"]
    finally:
        subprocess.run(["umount", "-l", base], check=True)


# --- a hit ------------------------------------------------------------------------------------------------------------


def test_a_hit_costs_two_looks_more_and_no_lock(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):  # a first answer is not remembered
        nanocache.fetch(url, into=folder)
        nanocache.fetch(url)
    looked: list[str] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: looked.append(str(path)) or lstat(path))  # type: ignore[func-returns-value]
    monkeypatch.setattr(placed_file, "hold_lock", None)
    nanocache.fetch(url)
    alone = len(looked)
    looked.clear()
    nanocache.fetch(url, into=folder)
    assert len(looked) <= alone + 2


def test_a_hit_of_afetch_is_answered_inline(url: str, folder: Path) -> None:
    nanocache.fetch(url, into=folder)

    async def main() -> Path:
        call = nanocache.afetch(url, into=folder)
        with pytest.raises(StopIteration) as ended:
            call.send(None)
        path: Path = ended.value.value
        return path

    assert asyncio.run(main()) == folder / "f.bin"


def test_offline_it_appears_from_what_is_cached(fetch: Fetch, url: str, folder: Path, origin: Origin) -> None:
    fetch(url)
    origin.reset()
    assert fetch(url, into=folder, offline=True).read_bytes() == DATA
    assert origin.requests() == []


# --- what stands there ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mine", [b"mine", OTHER, "folder", "symlink"])
def test_what_is_the_callers_is_moved_aside_and_named(
    fetch: Fetch, url: str, folder: Path, caplog: pytest.LogCaptureFixture, mine: bytes | str
) -> None:
    folder.mkdir(parents=True)
    target = folder / "f.bin"
    (folder / "kept").write_bytes(b"kept")
    if isinstance(mine, bytes):
        target.write_bytes(mine)
    elif mine == "folder":
        target.mkdir()
    else:
        target.symlink_to("kept")
    assert fetch(url, into=folder).read_bytes() == DATA
    assert not target.is_symlink()
    [aside] = folder.glob("f.bin.before-*")
    assert str(aside) in caplog.text
    if isinstance(mine, bytes):
        assert aside.read_bytes() == mine
    assert (folder / "kept").read_bytes() == b"kept"


def test_what_holds_the_same_bytes_is_nothing_to_keep(fetch: Fetch, url: str, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "f.bin").write_bytes(DATA)
    fetch(url, into=folder)
    assert there(folder) == ["f.bin"]


@pytest.mark.parametrize("as_copy", [True, False])
def test_an_edit_is_noticed_and_kept(
    fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, as_copy: bool
) -> None:
    if as_copy:
        monkeypatch.setattr(placed_file.PlacedFile, "_link", lambda *_: False)
    path = fetch(url, into=folder)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"edited")
    assert fetch(url, into=folder).read_bytes() == DATA
    [aside] = folder.glob("f.bin.before-*")
    assert aside.read_bytes().startswith(b"edited")
    assert fetch(url).read_bytes() == DATA


def test_a_new_version_replaces_the_old_one_without_a_trace(
    fetch: Fetch, url: str, folder: Path, origin: Origin, base: Path
) -> None:
    fetch(url, into=folder)
    origin.add("/f.bin", OTHER)
    assert fetch(url, into=folder).read_bytes() == DATA
    shutil.rmtree(next((base / "blobs-v1" / "sha256").iterdir()))  # nothing but the seal tells that it came from here
    assert fetch(url, into=folder, max_age=0).read_bytes() == OTHER
    assert there(folder) == ["f.bin"]


def test_rehash_reads_what_stands_there(fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placed_file.PlacedFile, "_link", lambda *_: False)
    path = fetch(url, into=folder)
    st = path.stat()
    path.write_bytes(OTHER)
    os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
    assert fetch(url, into=folder).read_bytes() == OTHER
    assert fetch(url, into=folder, rehash=True).read_bytes() == DATA


def test_what_a_killed_process_left_is_deleted_later(
    fetch: Fetch, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".nanocache").mkdir(parents=True)
    (folder / ".nanocache" / "0123456789abcdef").write_bytes(b"half")
    fetch(url, into=folder)
    assert there(folder) == [".nanocache", "f.bin"]  # it might still be alive
    monkeypatch.setattr(placed_file, "LEFT_BEHIND", -1.0)
    fetch(url, into=folder, filename="g.bin")
    assert there(folder) == ["f.bin", "g.bin"]


def test_processes_that_want_it_in_one_folder_all_have_it(
    url: str, folder: Path, spawn: Callable[..., Processes], elsewhere: Path
) -> None:
    for into in (folder, elsewhere / "data"):
        code = "print(nanocache.fetch(url, into=into, progress=False).read_bytes() == expected)"
        assert spawn(code, 4, url=url, into=str(into), expected=DATA).outputs() == ["True"] * 4
        assert there(into) == ["f.bin"]


# --- several, and what hooks build ------------------------------------------------------------------------------------


def test_many_appear_in_one_folder(base: Path, origin: Origin, folder: Path) -> None:
    urls = [origin.add(f"/shard_{n}.bin", content(1000 + n, "shard")) for n in range(20)]
    paths = nanocache.fetch_many(urls, into=folder)
    assert paths == [folder / f"shard_{n}.bin" for n in range(20)]
    assert [path.stat().st_size for path in paths] == [1000 + n for n in range(20)]
    assert len(there(folder)) == 20


def test_two_of_one_name_are_refused_before_anything_is_fetched(base: Path, origin: Origin, folder: Path) -> None:
    urls = [origin.add(f"/{name}/config.json", name.encode()) for name in ("a", "b")]
    with pytest.raises(ValueError, match=r"two artifacts would be config\.json"):
        nanocache.fetch_many(urls, into=folder)
    assert origin.requests() == []
    named = [Artifact(url, filename=f"{n}.json") for n, url in enumerate(urls)]
    assert len(nanocache.fetch_many([*named, *named], into=folder)) == 4


@pytest.fixture
def archive(base: Path, origin: Origin) -> str:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("a.txt", "aardvark")
        file.writestr("deep/er/b.txt", "abacus")
    return origin.add("/words.zip", data.getvalue())


def test_a_folder_that_a_hook_built_is_copied_file_by_file(fetch: Fetch, archive: str, folder: Path) -> None:
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "mine.idx").write_bytes(b"mine")
    path = fetch(archive, postprocess=nanocache.Unpack(), into=folder)
    assert path == folder / "words"
    assert sorted(p.name for p in path.rglob("*.*")) == ["a.txt", "b.txt", "mine.idx"]
    inode = (path / "a.txt").stat().st_ino
    assert (fetch(archive, postprocess=nanocache.Unpack(), into=folder) / "a.txt").stat().st_ino == inode
    (path / "a.txt").write_text("mine")
    assert (fetch(archive, postprocess=nanocache.Unpack()) / "a.txt").read_text() == "aardvark"
    assert (fetch(archive, postprocess=nanocache.Unpack(), into=folder) / "a.txt").read_text() == "aardvark"
    assert [aside.read_text() for aside in path.glob("a.txt.before-*")] == ["mine"]


def test_a_file_that_a_hook_built_is_a_copy_that_may_be_written(fetch: Fetch, url: str, folder: Path) -> None:
    def shout(src: Path, dst: Path) -> None:
        dst.write_bytes(src.read_bytes().upper())
        dst.chmod(0o755)

    shout.name = "loud.bin"  # type: ignore[attr-defined]
    shout.key = "shout"  # type: ignore[attr-defined]
    path = fetch(url, postprocess=shout, into=folder)
    assert path == folder / "loud.bin"
    assert path.stat().st_mode & 0o111
    assert not path.samefile(fetch(url, postprocess=shout))


# --- what it may be ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("into", [b"data", 3, "", "$UNSET_FOLDER/data", "'quoted'"])
def test_what_is_no_folder_is_a_value_error_before_any_request(
    fetch: Fetch, url: str, origin: Origin, into: Any
) -> None:
    with pytest.raises(ValueError, match="into"):
        fetch(url, into=into)
    assert origin.requests() == []


def test_the_caches_own_folders_are_refused(fetch: Fetch, url: str, base: Path, origin: Origin) -> None:
    with pytest.raises(ValueError, match="blobs-v1"):
        fetch(url, into=base / "blobs-v1" / "sha256")
    assert origin.requests() == []
    assert fetch(url, into=base).read_bytes() == DATA  # nanochat's data lies there
