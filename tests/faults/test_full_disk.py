"""Disks that are really full: small file systems (which only root can mount), and a limit on the size of files.

Wherever the space ends, the error is NoSpace, the partial is gone at once, and the next call works once there is room.
"""

from __future__ import annotations

import errno
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.archives.unpack import Unpack
from tests.faults.checks import check_visible, orphans, rounds
from tests.servers.misbehave import Misbehaving, chunked
from tests.servers.origin import Origin, content, digest

LARGE = 512 * 1024  # bytes of the artifact


@pytest.fixture
def little(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a small file system: `little(size="1m")`, `little(nr_inodes=20)`."""
    mounted: list[Path] = []

    def mount(**options: Any) -> Path:
        path = tmp_path / f"mount{len(mounted)}"
        path.mkdir()
        given = ",".join(f"{name}={value}" for name, value in options.items())
        tried = subprocess.run(["mount", "-t", "tmpfs", "-o", given, "tmpfs", path], capture_output=True)
        if tried.returncode:
            pytest.skip(f"nothing can be mounted here: {tried.stderr.decode().strip()}")
        mounted.append(path)
        return path

    yield mount
    for path in mounted:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.fixture
def urls(origin: Origin, misbehaving: Callable[..., Misbehaving]) -> dict[str, str]:
    body = content(LARGE, 1)
    return {"told": origin.add("/x.bin", body), "unknown": misbehaving().route("/x.bin", chunked(body))}


def outcome(call: Callable[[], Path]) -> Path | nanocache.NoSpace:
    try:
        return call()
    except nanocache.NoSpace as e:
        return e


def used(path: Path) -> int:
    st = os.statvfs(path)
    return (st.f_blocks - st.f_bfree) * st.f_frsize


@pytest.mark.parametrize("size", ["told", "unknown"])
def test_a_full_disk_is_no_space_with_what_was_needed_and_the_partial_is_gone_at_once(
    little: Callable[..., Path], urls: dict[str, str], size: str
) -> None:
    """Wherever it becomes full: at each page from none free to enough."""
    mount, sha256 = little(size="2m"), digest(LARGE, 1)
    base, ballast = mount / "base", mount / "ballast"
    pages, everything = 512, LARGE // 4096
    fetched = refused = 0
    for free in range(0, everything + 40, rounds(4, 1)):
        ballast.write_bytes(bytes((pages - free) * 4096 - used(mount) if free < pages else 0))
        before, got = used(mount), outcome(lambda: nanocache.fetch(urls[size], sha256=sha256, base_dir=base))
        if isinstance(got, Path):
            fetched += 1
            assert got.read_bytes() == content(LARGE, 1)
        else:
            refused += 1
            assert got.errno == errno.ENOSPC
            assert got.available is not None
            assert got.available <= free * 4096
            if size == "told" and free > 40:  # enough for everything else
                assert got.needed == LARGE
            assert not orphans(base)
            assert used(mount) - before <= 16 * 4096  # the tags, and the lock
        check_visible(base)
        ballast.unlink()
        shutil.rmtree(base, ignore_errors=True)
    assert fetched
    assert refused


def test_no_inode_left_is_no_space_and_the_next_call_works(little: Callable[..., Path], urls: dict[str, str]) -> None:
    sha256 = digest(LARGE, 1)
    for inodes in range(3, 60, rounds(2, 1)):
        base = little(size="4m", nr_inodes=inodes) / "base"
        got = outcome(lambda base=base: nanocache.fetch(urls["told"], sha256=sha256, base_dir=base))
        assert isinstance(got, Path) or "inodes" in str(got)
        check_visible(base)
        assert not orphans(base)
        subprocess.run(["mount", "-o", "remount,nr_inodes=200", base.parent], check=True)
        assert nanocache.fetch(urls["told"], sha256=sha256, base_dir=base).read_bytes() == content(LARGE, 1)


def test_after_a_full_disk_the_next_call_succeeds_once_there_is_room(
    little: Callable[..., Path], urls: dict[str, str]
) -> None:
    mount, sha256 = little(size="1m"), digest(LARGE, 1)
    (mount / "ballast").write_bytes(bytes(700_000))
    for _ in range(3):
        with pytest.raises(nanocache.NoSpace, match="free some") as failed:
            nanocache.fetch(urls["unknown"], sha256=sha256, base_dir=mount / "base")
        assert failed.value.available is not None
        assert not orphans(mount / "base")
    (mount / "ballast").unlink()
    assert nanocache.fetch(urls["unknown"], sha256=sha256, base_dir=mount / "base").stat().st_size == LARGE


def test_unpacking_on_a_full_disk_gives_the_space_back(little: Callable[..., Path], origin: Origin) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name in ("a.bin", "b.bin", "c.bin"):
            (info := tarfile.TarInfo(name)).size = LARGE
            tar.addfile(info, io.BytesIO(bytes(LARGE)))
    mount, url = little(size="1m"), origin.add("/zeros.tgz", made.getvalue())
    packed = nanocache.fetch(url, base_dir=mount / "base")
    before = used(mount)
    with pytest.raises(nanocache.PostprocessFailed, match="No space left"):
        nanocache.fetch(url, base_dir=mount / "base", postprocess=Unpack())
    assert used(mount) - before <= 4 * 4096
    assert not orphans(mount / "base")
    assert packed.exists()
    subprocess.run(["mount", "-o", "remount,size=8m", mount], check=True)
    folder = nanocache.fetch(url, base_dir=mount / "base", postprocess=Unpack())
    assert [path.stat().st_size for path in sorted(folder.iterdir())] == [LARGE] * 3


def test_a_limit_on_the_size_of_files_is_no_space(spawn: Callable[..., Any], base: Path, urls: dict[str, str]) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for url in urls:
    try:
        nanocache.fetch(url, sha256=sha256)
    except nanocache.NoSpace as e:
        print(e.errno == errno.ENOSPC, e.available is not None)
"""
    limit, setup = LARGE - 1, "import errno, nanocache, resource"
    (said,) = spawn(code, setup=setup, limit=limit, urls=list(urls.values()), sha256=digest(LARGE, 1)).outputs()
    assert said.splitlines() == ["True True"] * 2
    assert not check_visible(base)
    assert not orphans(base)


DIE = """
import os
from nanocache.store import partials
from nanocache.store.blobs import Store
partial = partials.create(Store(base), "0" * 64)
partial.write(bytes(900_000), 0)
partial.save({})
os._exit(0)
"""


@pytest.mark.parametrize("size", ["told", "unknown"])
def test_what_a_killed_process_left_makes_room_on_a_full_disk(
    little: Callable[..., Path], urls: dict[str, str], size: str, spawn: Callable[..., Any]
) -> None:
    mount = little(size="2m")
    nanocache.Cache(mount / "base").store.prepare()
    spawn(DIE, base=str(mount / "base")).outputs()
    (mount / "ballast").write_bytes(bytes(900_000))
    path = nanocache.fetch(urls[size], sha256=digest(LARGE, 1), base_dir=mount / "base")
    assert path.read_bytes() == content(LARGE, 1)
    assert not orphans(mount / "base")


def test_under_a_cap_what_was_long_unused_makes_room_on_a_full_disk(
    little: Callable[..., Path], origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = little(size="2m") / "base"
    paths = [nanocache.fetch(origin.url(f"/bytes/{LARGE}/{n}/x.bin"), base_dir=base) for n in range(3)]
    for path in paths[:2]:
        os.utime(path.parent, (1e9, 1e9))
    with pytest.raises(nanocache.NoSpace):  # nothing is deleted that was not asked for
        nanocache.fetch(origin.url(f"/bytes/{LARGE}/7/x.bin"), base_dir=base)
    assert all(path.exists() for path in paths)
    monkeypatch.setenv("NANOCACHE_MAX_SIZE", "1GB")
    nanocache.fetch(origin.url(f"/bytes/{LARGE}/7/x.bin"), base_dir=base)
    assert paths[2].exists()
    with pytest.raises(nanocache.NoSpace, match="MAX_ARTIFACT"):
        monkeypatch.setenv("NANOCACHE_MAX_ARTIFACT", "1000")
        nanocache.fetch(origin.url(f"/bytes/{LARGE}/8/x.bin"), base_dir=base)
    assert paths[2].exists()
