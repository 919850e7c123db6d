"""Every file of a filled base directory is deleted, truncated, or has a bit flipped, in turn: the next fetch is right.

Once with what this process remembers, once without. A bit that is flipped behind an intact seal is found with
`rehash=True`. Products carry no seal, and so are only deleted here: what is in one is not looked at again.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nanocache
from nanocache import Artifact, cache
from nanocache.archives.unpack import Unpack
from nanocache.disk import files
from nanocache.store import partials, seal
from nanocache.store.blobs import Store
from nanocache.store.orphans import claim as claim_one
from tests.faults.checks import SOAK, check_visible, orphans
from tests.servers.misbehave import Misbehaving, in_turn, serve, status, truncated
from tests.servers.origin import MIB, Origin, content, digest

LARGE = content(2 * MIB, "large")
LARGE_SHA256 = digest(2 * MIB, "large")
SMALL = content(1000, "small")
SMALL_SHA256 = digest(1000, "small")


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a/b.txt"), "hello")
    return made.getvalue()


# --- the filled base --------------------------------------------------------------------------------------------------


class Filled:
    """A base directory with one of everything, and the calls that use it."""

    def __init__(self, base: Path, origin: Origin, server: Misbehaving) -> None:
        self.base = base
        small, large = origin.add("/small.bin", SMALL), origin.add("/large.bin", LARGE)
        archive = origin.add("/data.zip", zipped())
        half = server.route("/half.bin", in_turn(truncated(LARGE[::-1], MIB), status(404), serve(LARGE[::-1])))
        self._half = Artifact(half, sha256=hashlib.sha256(LARGE[::-1]).hexdigest())
        self._pinned = Artifact(small, sha256=SMALL_SHA256)
        self._second = Artifact(small, sha256=SMALL_SHA256, filename="second.bin")
        self._calls: list[tuple[Callable[[], Any], bytes]] = [
            (lambda: nanocache.fetch(self._pinned), SMALL),
            (lambda: nanocache.fetch(self._second), SMALL),
            (lambda: nanocache.fetch(large), LARGE),
            (lambda: nanocache.fetch(archive), zipped()),
            (lambda: nanocache.fetch(archive, postprocess=Unpack()) / "a/b.txt", b"hello"),
            (lambda: nanocache.fetch(small, postprocess=reversed_copy), SMALL[::-1]),
            (lambda: nanocache.download_file_with_lock(small, "words.txt"), SMALL),
        ]
        self.check()
        with pytest.raises(nanocache.DownloadFailed):
            nanocache.fetch(self._half)
        with pytest.raises(nanocache.DownloadFailed):
            nanocache.fetch(origin.url("/missing"))

    def files(self) -> list[Path]:
        return sorted(path for path in self.base.rglob("*") if path.is_file())

    def check(self) -> None:
        for call, body in self._calls:
            assert Path(call()).read_bytes() == body
        check_visible(self.base, foreign="words.txt")

    def check_resumed(self) -> None:
        assert nanocache.fetch(self._half).read_bytes() == LARGE[::-1]

    def rehash(self) -> None:
        for artifact in (self._pinned, self._second):
            assert nanocache.fetch(artifact, rehash=True).read_bytes() == SMALL


def reversed_copy(src: Path, dst: Path) -> None:
    dst.write_bytes(src.read_bytes()[::-1])


@pytest.fixture
def filled(
    base: Path, origin: Origin, misbehaving: Callable[..., Misbehaving], monkeypatch: pytest.MonkeyPatch
) -> Filled:
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    return Filled(base, origin, misbehaving())


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a new process would begin."""
    monkeypatch.setattr(cache, "_bases", {})
    monkeypatch.setattr(cache, "_spelled", {})


# --- damage -----------------------------------------------------------------------------------------------------------


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 0)


def flip(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    if data:
        data[len(data) // 3] ^= 0x10
        with path.open("r+b") as file:
            file.write(data)


def zeros(path: Path) -> None:
    """What a power cut makes of blocks that were never written."""
    path.chmod(0o644)
    path.write_bytes(bytes(path.stat().st_size))


DAMAGES = [delete, truncate, flip, *([empty, zeros] if SOAK else [])]


@pytest.mark.parametrize("hits", ["hot", "cold"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_never_makes_the_next_fetch_wrong(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None], hits: str
) -> None:
    looked_at = 0
    for path in filled.files():
        if not path.exists() or ("products-v1" in path.parts and damage is not delete):
            continue
        if "products-v1" in path.parts and path.parent.name == "a":
            continue  # inside of a product
        damage(path)
        if hits == "cold":
            forget(monkeypatch)
        filled.check()
        looked_at += 1
    filled.check_resumed()
    assert looked_at > 30
    assert len(orphans(filled.base)) <= 1


@pytest.mark.parametrize("hits", ["hot", "cold"])
def test_a_flipped_bit_behind_an_intact_seal_is_found_with_rehash(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, hits: str
) -> None:
    blobs = [path for path in filled.files() if "blobs-v1" in path.parts and SMALL_SHA256 in path.parts]
    assert len(blobs) == 2
    for path in blobs:
        before = path.stat()
        flip(path)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert seal.holds(path.stat(), SMALL_SHA256)
        if hits == "cold":
            forget(monkeypatch)
        filled.rehash()
        check_visible(filled.base, foreign="words.txt")


def test_two_damages_at_once_are_no_worse(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ref and its blob, two names of one blob, a lock and its record: each file with each other one."""
    candidates = [path for path in filled.files() if path.name not in ("CACHEDIR.TAG", ".gitignore")]
    candidates = [path for path in candidates if "products-v1" not in path.parts]
    pairs = [(one, other) for n, one in enumerate(candidates) for other in candidates[n + 1 :]]
    for n, (one, other) in enumerate(pairs):
        for path, damage in ((one, DAMAGES[n % len(DAMAGES)]), (other, DAMAGES[n // 3 % len(DAMAGES)])):
            if path.exists():
                damage(path)
        if n % 2:
            forget(monkeypatch)
        filled.check()


@pytest.mark.parametrize("hits", ["hot", "cold"])
def test_a_folder_that_is_deleted_is_made_again(filled: Filled, monkeypatch: pytest.MonkeyPatch, hits: str) -> None:
    folders = [path for path in filled.base.rglob("*") if path.is_dir() and path.name != "a"]
    for folder in [*sorted(folders, reverse=True), filled.base]:
        shutil.rmtree(folder, ignore_errors=True)
        if hits == "cold":
            forget(monkeypatch)
        filled.check()


def test_the_base_directory_may_be_deleted_while_a_process_uses_it(base: Path, origin: Origin) -> None:
    url = origin.add("/x.bin", SMALL)
    for _ in range(3):
        assert nanocache.fetch(url).read_bytes() == SMALL
        shutil.rmtree(base)
    assert origin.gets() == 3


# --- damage that one call does not see, and must not pass on ----------------------------------------------------------


def test_a_second_name_is_never_a_copy_of_wrong_bytes(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source is rotten behind an intact seal, and where links can't be made the copy is read: so it is noticed."""
    url = origin.add("/x.bin", SMALL)
    path = nanocache.fetch(url, sha256=SMALL_SHA256)
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    (path.parent / "damaged.bin").write_bytes(b"damaged")
    for name in ("second.bin", "damaged.bin"):
        assert nanocache.fetch(url, sha256=SMALL_SHA256, filename=name).read_bytes() == SMALL


def test_an_unreadable_sector_is_damage_and_heals(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    url = origin.add("/x.bin", SMALL)
    path = nanocache.fetch(url, sha256=SMALL_SHA256)
    bad, preadv = path.stat().st_ino, os.preadv

    def read(fd: int, *args: Any) -> int:
        if os.fstat(fd).st_ino == bad:
            raise OSError(errno.EIO, "Input/output error")
        return preadv(fd, *args)

    monkeypatch.setattr(os, "preadv", read)
    with path.open("rb"):  # or its inode's number would be the next file's
        assert nanocache.fetch(url, sha256=SMALL_SHA256, rehash=True).read_bytes() == SMALL
    assert origin.gets() == 2


@pytest.mark.parametrize("answer", ["offline", "503", "304"])
def test_a_blob_that_lost_its_seal_is_what_is_cached_when_its_url_is_asked_again(
    base: Path, misbehaving: Callable[..., Misbehaving], monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    """Right bytes that somebody touched: as good as untouched ones where the server cannot be asked, or has no news."""
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    again = {"503": status(503), "304": serve(SMALL, etag='"1"')}
    server = misbehaving()
    url = server.route("/x.bin", in_turn(serve(SMALL, etag='"1"'), again.get(answer, status(404))))
    os.utime(nanocache.fetch(url))
    assert nanocache.fetch(url, max_age=0, offline=answer == "offline").read_bytes() == SMALL


def test_a_failed_fsync_throws_the_bytes_away_and_is_never_tried_again(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel has marked the pages clean: a second fsync, and a read through the page cache, would lie."""
    url, synced, fsync = origin.add("/x.bin", LARGE), [], os.fsync

    def fail(fd: int) -> None:
        if not files.stat.S_ISDIR(os.fstat(fd).st_mode):
            synced.append(os.fstat(fd).st_ino)
            raise OSError(errno.EIO, "Input/output error")
        fsync(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                nanocache.fetch(url, sha256=LARGE_SHA256)
            assert not orphans(base)
    assert nanocache.fetch(url, sha256=LARGE_SHA256).read_bytes() == LARGE
    assert [
        request.range for request in origin.requests() if request.range and request.range.startswith("bytes=0")
    ] == []
    assert origin.downloads() == 3


def test_a_failed_sync_of_a_product_is_final(base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    class Failing:
        def syncfs(self, fd: int) -> int:
            ctypes.set_errno(errno.EIO)
            return -1

    url = origin.add("/data.zip", zipped())
    with monkeypatch.context() as patch:
        patch.setattr(ctypes, "CDLL", lambda *_, **__: Failing())
        with pytest.raises(OSError, match="Input/output error"):
            nanocache.fetch(url, postprocess=Unpack())
        assert nanocache.lookup(url, postprocess=Unpack()) is None
    assert (nanocache.fetch(url, postprocess=Unpack()) / "a/b.txt").read_text() == "hello"


def test_a_full_disk_keeps_a_url_from_being_remembered_and_no_more(
    base: Path, origin: Origin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url, create = origin.add("/x.bin", SMALL), os.open

    def full(path: Any, flags: int, *mode: int, **options: Any) -> int:
        if flags & os.O_CREAT and "refs-v1" in str(path) and str(path).endswith(".json"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return create(path, flags, *mode, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        assert nanocache.fetch(url).read_bytes() == SMALL
    assert [r.levelno for r in caplog.records if "cannot remember" in r.getMessage()] == [logging.WARNING]
    assert nanocache.fetch(url).read_bytes() == SMALL
    assert nanocache.fetch(url).read_bytes() == SMALL
    assert origin.gets() == 2


# --- partials where locks do nothing, or can't be had -----------------------------------------------------------------


@pytest.fixture
def orphaned(base: Path, spawn: Callable[..., Any]) -> Store:
    """A partial whose owner was killed."""
    store = Store(str(base))
    store.prepare()
    spawn(
        "p = partials.create(BaseDirectory(base), 'k')\np.write(b'half', 0); p.save({'x': 1}); os._exit(9)",
        setup="import os; from nanocache.store import partials; from nanocache.store.layout import BaseDirectory",
        base=store.base,
    ).finish()
    return store


def claim(store: Store) -> partials.Partial:
    return claim_one(store, "k", judged=True)


def test_a_partial_is_claimed_once_even_where_locks_let_everybody_in(
    orphaned: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two owners of one partial: what the slower one writes would land in a blob that the other has published."""
    monkeypatch.setattr(partials, "try_lock", lambda path, mode: partials.Lock())
    with claim(orphaned) as one, claim(orphaned) as other:
        assert one.state == {"x": 1}
        assert other.state is None
        assert not os.path.sameopenfile(one.fd, other.fd)


def test_where_locks_cannot_be_had_an_orphan_is_still_resumed(orphaned: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(partials, "try_lock", refuse)
    with claim(orphaned) as one, claim(orphaned) as other:
        assert one.state == {"x": 1}
        assert other.state is None


def test_a_killed_claimants_partial_is_resumed_again(orphaned: Store, spawn: Callable[..., Any]) -> None:
    spawn(
        "p = orphans.claim(BaseDirectory(base), 'k', judged=True); print(p.state); sys.stdout.flush(); os._exit(9)",
        setup="import os, sys; from nanocache.store import orphans; from nanocache.store.layout import BaseDirectory",
        base=orphaned.base,
    ).finish()
    with claim(orphaned) as again:
        assert again.state == {"x": 1}
        assert os.pread(again.fd, 10, 0) == b"half"


def test_a_partial_whose_file_is_also_a_blob_is_never_claimed(orphaned: Store) -> None:
    """A power cut in the middle of a rename may leave both names, and what is written to one is written to both."""
    (data,) = Path(orphaned.partials("k")).glob("*/data")
    os.link(data, blob := data.parents[2] / "blob")
    with claim(orphaned) as mine:
        assert mine.state is None
        mine.write(b"other", 0)
    assert blob.read_bytes() == b"half"
