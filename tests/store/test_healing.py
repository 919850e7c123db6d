"""A healthy blob is never deleted: however many processes read it at once, and whatever the disk says for a moment."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache.cancel import Cancel
from nanocache.disk import hashing
from nanocache.store import healing, partials
from nanocache.store.blobs import Store
from tests.coordination.test_waiting import HURRIED
from tests.servers.origin import Origin

BODY = b"weights" * 1000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def url(origin: Origin) -> str:
    return origin.add("/w.bin", BODY)


def published(store: Store, name: str = "w.bin") -> Path:
    with partials.create(store, "k") as partial:
        partial.write(BODY, 0)
        return store.publish(partial, DIGEST, name)


def heal(store: Store, *, everything: bool = False, replaceable: bool = False) -> bool:
    return healing.heal(store, DIGEST, everything=everything, replaceable=replaceable, cancel=Cancel())


def spoil(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"damage")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen once between the hash of a file and what is made of it."""
    hash_file = hashing.hash_file

    def arrange(happen: Callable[[], object]) -> None:
        due = [happen]

        def hash_and_wait(fd: int, cancel: Cancel | None = None) -> str:
            digest = hash_file(fd, cancel)
            if due:
                due.pop()()
            return digest

        monkeypatch.setattr(hashing, "hash_file", hash_and_wait)

    return arrange


# --- what others do to a blob while it is read ------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["link", "chmod", "link and unlink", "rename and back"])
def test_what_moves_only_the_ctime_is_no_damage(
    store: Store, base: Path, meanwhile: Callable[..., None], caplog: pytest.LogCaptureFixture, change: str
) -> None:
    path = published(store)
    other = base / "backup.bin"

    def happen() -> None:
        if change == "chmod":
            path.chmod(0o400)
        elif change == "rename and back":
            path.rename(other)
            other.rename(path)
        else:
            os.link(path, other)
            if change == "link and unlink":
                other.unlink()

    inode = path.stat().st_ino
    meanwhile(happen)
    assert heal(store, everything=True)
    assert path.stat().st_ino == inode
    assert not caplog.records


def test_two_that_heal_a_touched_blob_at_once_seal_it_and_keep_it(
    store: Store, meanwhile: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """Where locks let everybody in, or between two versions: the first one seals it while the second one reads it."""
    path = published(store)
    os.utime(path)
    inode = path.stat().st_ino
    meanwhile(lambda: heal(Store(store.base)))
    assert heal(store)
    assert path.stat().st_ino == inode
    assert store.hit(DIGEST, "w.bin") == path
    assert not caplog.records


def test_one_that_read_the_wrong_bytes_leaves_what_another_one_published_since(
    store: Store, meanwhile: Callable[..., None]
) -> None:
    path = published(store)
    spoil(path)
    other = Store(store.base)
    meanwhile(lambda: published(other))
    assert heal(store)
    assert path.read_bytes() == BODY
    inode = path.stat().st_ino
    assert published(store) == path
    assert path.stat().st_ino == inode


def test_a_writer_while_it_is_read_is_damage(store: Store, meanwhile: Callable[..., None]) -> None:
    path = published(store)

    def happen() -> None:
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(b"W")

    os.utime(path)
    meanwhile(happen)
    assert not heal(store)
    assert store.hit(DIGEST, "w.bin") is None


@pytest.mark.parametrize("body", [BODY, b"damage"], ids=["touched", "damaged"])
def test_a_caller_with_a_digest_and_one_without_heal_one_blob(
    base: Path, origin: Origin, url: str, spawn: Callable[..., Any], body: bytes
) -> None:
    path = nanocache.fetch(url)
    path.chmod(0o644)
    path.write_bytes(body)
    code = (
        "real = hashing.hash_file\n"
        "def slow(fd, cancel=None):\n    digest = real(fd, cancel); time.sleep(0.3 + 0.4 * INDEX); return digest\n"
        "hashing.hash_file = slow\n"
        "path = nanocache.fetch(url, sha256=digest if INDEX else None)\n"
        "time.sleep(1); print(path.read_bytes() == body)"
    )
    setup = "import time, nanocache; from nanocache.disk import hashing"
    told = spawn(code, n=2, setup=setup, url=url, digest=DIGEST, body=BODY).outputs()
    assert [line.splitlines()[0] for line in told] == ["True", "True"]
    assert origin.gets() <= (1 if body == BODY else 3)


# --- nothing is deleted before there is a better one ------------------------------------------------------------------


def test_offline_a_wrong_blob_is_named_and_kept(base: Path, url: str, caplog: pytest.LogCaptureFixture) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    spoil(path)
    for _ in range(2):
        with pytest.raises(nanocache.NotCached):
            nanocache.fetch(url, sha256=DIGEST, offline=True)
    assert path.read_bytes() == b"damage"
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == BODY


def test_a_wrong_blob_stays_until_the_download_is_there(base: Path, origin: Origin, url: str) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    spoil(path)
    missing = origin.url("/missing/w.bin")
    with pytest.raises(nanocache.DownloadFailed):
        nanocache.fetch(missing, sha256=DIGEST)
    assert path.exists()
    assert nanocache.fetch(url, sha256=DIGEST) == path
    assert path.read_bytes() == BODY


def test_rot_behind_an_intact_seal_that_was_found_once_is_no_hit_any_more(base: Path, url: str) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    before = path.stat()
    spoil(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(nanocache.NotCached):
        nanocache.fetch(url, sha256=DIGEST, offline=True, rehash=True)
    with pytest.raises(nanocache.NotCached):
        nanocache.fetch(url, sha256=DIGEST, offline=True)
    assert Store(str(base)).hit(DIGEST, "w.bin") is None
    assert nanocache.fetch(url, sha256=DIGEST).read_bytes() == BODY


def test_other_names_of_wrong_bytes_go_once_a_right_blob_is_published(base: Path, url: str) -> None:
    paths = [nanocache.fetch(url, sha256=DIGEST, filename=name) for name in ("a.bin", "b.bin")]
    spoil(paths[0])  # and with it the other one, which is the same file
    assert nanocache.fetch(url, sha256=DIGEST, filename="a.bin").read_bytes() == BODY
    assert not paths[1].exists() or paths[1].read_bytes() == BODY


def test_wrong_bytes_under_another_name_go_also_where_the_trash_was_deleted_by_hand(base: Path, url: str) -> None:
    path = nanocache.fetch(url, sha256=DIGEST, filename="a.bin")
    shutil.rmtree(base / "trash-v1")
    spoil(path)
    assert nanocache.fetch(url, sha256=DIGEST, filename="b.bin", rehash=True).read_bytes() == BODY
    assert not path.exists()


# --- a disk that can't be read ----------------------------------------------------------------------------------------


@pytest.fixture
def failing_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], list[int]]:
    """Reads of a file fail with EIO, `times` times; the list says how often they did."""
    preadv, failed = os.preadv, []

    def arrange(path: Path, times: int) -> list[int]:
        bad = path.stat().st_ino

        def read(fd: int, *args: Any) -> int:
            if os.fstat(fd).st_ino == bad and len(failed) < times:
                failed.append(fd)
                raise OSError(errno.EIO, "Input/output error")
            return preadv(fd, *args)

        monkeypatch.setattr(os, "preadv", read)
        return failed

    return arrange


@pytest.mark.parametrize("offline", [True, False])
def test_a_read_that_fails_once_is_tried_again_and_is_no_damage(
    base: Path, origin: Origin, url: str, failing_reads: Callable[..., list[int]], offline: bool
) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    inode, failed = path.stat().st_ino, failing_reads(path, 1)
    assert nanocache.fetch(url, sha256=DIGEST, rehash=True, offline=offline) == path
    assert len(failed) == 1
    assert path.stat().st_ino == inode
    assert origin.gets() == 1


@pytest.mark.parametrize("touched", [True, False])
def test_what_cannot_be_read_offline_is_an_error_and_no_verdict(
    base: Path, url: str, failing_reads: Callable[..., list[int]], touched: bool
) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    if touched:
        os.utime(path)
    failing_reads(path, 3)
    with pytest.raises(OSError, match="Input/output error"):
        nanocache.fetch(url, sha256=DIGEST, rehash=True, offline=True)
    assert path.read_bytes() == BODY
    assert nanocache.fetch(url, sha256=DIGEST, offline=True) == path  # readable again: nothing was decided


def test_lookup_says_that_it_cannot_read(base: Path, url: str, failing_reads: Callable[..., list[int]]) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    os.utime(path)
    failing_reads(path, 3)
    with pytest.raises(OSError, match="Input/output error"):
        nanocache.lookup(url, sha256=DIGEST)
    assert nanocache.lookup(url, sha256=DIGEST) == path


# --- publishing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("touched", [True, False])
def test_publishing_keeps_a_right_blob_that_stands_there(
    store: Store, monkeypatch: pytest.MonkeyPatch, links: bool, touched: bool
) -> None:
    path = published(store)
    inode = path.stat().st_ino
    if touched:
        os.utime(path)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert published(Store(store.base)) == path
    assert path.stat().st_ino == inode
    assert store.hit(DIGEST, "w.bin") == path
    assert sorted(os.listdir(f"{store.base}/partials-v1")) == [".gitignore", "CACHEDIR.TAG"]


@pytest.mark.parametrize("links", [True, False])
def test_publishing_replaces_wrong_bytes(store: Store, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    path = published(store)
    spoil(path)
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    assert published(store) == path
    assert path.read_bytes() == BODY
    assert path.stat().st_nlink == 1


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def test_a_second_name_that_must_be_a_copy_is_copied_once(
    base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nanocache.fetch(url, sha256=DIGEST)
    monkeypatch.setattr(os, "link", refuse)
    create, copies = partials.create, []

    def counted(*args: Any) -> partials.Partial:
        copies.append(args)
        return create(*args)

    monkeypatch.setattr(partials, "create", counted)
    got: list[Path] = []
    barrier = threading.Barrier(8)

    def ask() -> None:
        barrier.wait()
        got.append(nanocache.fetch(url, sha256=DIGEST, filename="second.bin"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.read_bytes() for path in got} == {BODY}
    assert len(got) == 8
    assert len(copies) == 1


# --- several hosts ----------------------------------------------------------------------------------------------------

NODE = """
read = process._read
process._read = lambda path: f"boot-of-{INDEX}" if path.endswith("boot_id") else read(path)
time.sleep(0.4 * bool(INDEX))
print(nanocache.fetch(url, base_dir=mounts[INDEX], sha256=digest).read_bytes() == body)
"""


@pytest.mark.parametrize("pinned", [True, False])
def test_what_another_host_published_meanwhile_is_seen_where_absence_is_cached(
    mounts: list[str], origin: Origin, spawn: Callable[..., Any], pinned: bool
) -> None:
    url = origin.url("/bytes/200000/1/w.bin?rate=150000")
    body = hashlib.sha256()
    from tests.servers.origin import content

    expected = content(200_000, 1)
    body.update(expected)
    setup = f"import time, nanocache; from nanocache.coordination import process\n{HURRIED}"
    digest = body.hexdigest() if pinned else None
    told = spawn(NODE, n=3, setup=setup, url=url, mounts=mounts, digest=digest, body=expected).outputs()
    assert [line.splitlines()[0] for line in told] == ["True"] * 3
    assert origin.gets() == 1


# --- what a hook builds ----------------------------------------------------------------------------------------------


def test_a_sweep_takes_no_living_hooks_folder_however_old_what_it_builds_looks(
    base: Path, origin: Origin, url: str, spawn: Callable[..., Any]
) -> None:
    other = origin.add("/other.bin", b"other")

    def unpack(src: Path, dst: Path) -> None:
        dst.mkdir()
        (dst / "member").write_bytes(b"x")
        for folder in (dst, dst.parent, dst.parent.parent):  # as tar and `cp -a` do
            for path in (*folder.iterdir(), folder):
                os.utime(path, (1_500_000_000, 1_500_000_000))
        os.utime(base / "trash-v1" / "swept", (1, 1))
        spawn("nanocache.fetch(other)", setup="import nanocache", other=other).outputs()
        assert time.time() - (base / "trash-v1" / "swept").stat().st_mtime < 60

    unpack.key = "unpack-v1"  # type: ignore[attr-defined]
    nanocache.fetch(origin.add("/first.bin", b"first"))
    assert (nanocache.fetch(url, postprocess=unpack) / "member").read_bytes() == b"x"


def test_threads_of_a_read_only_cache_read_a_blob_without_its_seal_once(
    base: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nanocache.fetch(url, sha256=DIGEST)
    os.utime(path)
    monkeypatch.setattr(Store, "prepare", lambda self: False)
    monkeypatch.setattr(Store, "writable", lambda self: False)
    hash_file, hashed = hashing.hash_file, []

    def slow(fd: int, cancel: Cancel | None = None) -> str:
        hashed.append(fd)
        time.sleep(0.2)
        return hash_file(fd, cancel)

    monkeypatch.setattr(hashing, "hash_file", slow)
    got: list[Path] = []
    threads = [threading.Thread(target=lambda: got.append(nanocache.fetch(url, sha256=DIGEST))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [path] * 8
    assert len(hashed) == 1
