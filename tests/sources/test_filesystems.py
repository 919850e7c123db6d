"""What fsspec opens: memory, a real SFTP server, and file systems of one's own, blocking and asynchronous."""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import nanocache
from nanocache import DownloadFailed
from tests.conftest import Processes
from tests.servers.origin import MIB, content

fsspec = pytest.importorskip("fsspec")
from fsspec.asyn import AsyncFileSystem  # noqa: E402

DATA = content(9 * MIB + 5, "file systems")
OTHER = content(9 * MIB + 5, "another version")

Fetch = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_thread_of_a_reader_is_left() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while left := [thread for thread in threading.enumerate() if thread.name.startswith(("nanocache-", "fsspec"))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    memory = fsspec.filesystem("memory")
    yield memory
    memory.store.clear()


def test_a_file_in_memory_is_fetched_under_its_decoded_name(fetch: Fetch, base: Path, memory: Any) -> None:
    memory.pipe_file("/a b?#%.bin", DATA)
    path = fetch("memory://a%20b%3F%23%25.bin")
    assert path.read_bytes() == DATA
    memory.store.clear()
    assert fetch("memory://a%20b%3F%23%25.bin") == path


def test_a_new_version_is_noticed_and_an_old_one_not_read_again(fetch: Fetch, base: Path, memory: Any) -> None:
    memory.pipe_file("/f.bin", DATA)
    path = fetch("memory://f.bin")
    inode = path.stat().st_ino
    assert fetch("memory://f.bin", max_age=0).stat().st_ino == inode
    memory.pipe_file("/f.bin", OTHER)
    assert fetch("memory://f.bin", max_age=0).read_bytes() == OTHER


def test_two_readers_of_one_file_in_memory_do_not_share_its_position(base: Path, memory: Any) -> None:
    """fsspec hands the same open file to all who open it."""
    memory.pipe_file("/f.bin", DATA)
    file = memory.open("/f.bin", "rb")

    def progress(_: nanocache.Progress) -> None:
        file.seek(3)

    assert nanocache.fetch("memory://f.bin", progress=progress).read_bytes() == DATA


@pytest.mark.parametrize("name", ["absent.bin", "folder"])
def test_what_is_no_file_is_said_at_once(fetch: Fetch, base: Path, memory: Any, slept: list[float], name: str) -> None:
    memory.pipe_file("/folder/f.bin", b"")
    with pytest.raises(DownloadFailed, match=f"/{name}"):
        fetch(f"memory://{name}")
    assert slept == []


def test_a_child_made_by_fork_reads_as_its_parent_does(base: Path, spawn: Callable[..., Processes]) -> None:
    code = """
import fsspec, os
fsspec.filesystem("memory").pipe_file("/f.bin", b"aardvark")
fsspec.filesystem("memory").pipe_file("/g.bin", b"abacus")
assert nanocache.fetch("memory://f.bin").read_bytes() == b"aardvark"
pid = os.fork()
if pid == 0:
    os._exit(nanocache.fetch("memory://g.bin").read_bytes() != b"abacus")
print(os.waitpid(pid, 0)[1])
"""
    assert spawn(code).outputs() == ["0"]


# --- a file system of one's own ---------------------------------------------------------------------------------------


class Shelf(fsspec.AbstractFileSystem):
    """shelf://name: what others write for their own store, with as little as fsspec asks for."""

    protocol = "shelf"
    data = DATA
    facts: ClassVar[dict[str, Any]] = {}
    ranges = True
    breaks_at: int | None = None
    changes_at: int | None = None
    stalls = False
    made = 0
    read_from: ClassVar[list[int]] = []
    let_go = threading.Event()

    def __init__(self, token: str = "", **options: Any) -> None:
        super().__init__(token=token, **options)
        type(self).made += 1
        self.token = token

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if "absent" in path:
            raise FileNotFoundError(f"no {path} for shelf://me:{self.token}@host{path}?sig={self.token}")
        if "secret" in path:
            raise RuntimeError(f"{self.token} was refused for shelf://me:hunter2@host?sig=hunter2")
        return {"name": path, "size": len(self.data), "type": "file", **self.facts}

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return _Book(self)


class _Book(io.RawIOBase):
    def __init__(self, shelf: Shelf) -> None:
        self._kind = type(shelf)
        self._position = 0

    def seekable(self) -> bool:
        return self._kind.ranges

    def seek(self, position: int, whence: int = 0) -> int:
        if not self._kind.ranges:
            raise ValueError("a stream")
        self._position = position
        return position

    def read(self, size: int = -1) -> bytes:
        kind = self._kind
        kind.read_from.append(self._position)
        if kind.stalls and self._position:
            kind.let_go.wait(60)
        if kind.breaks_at is not None and self._position >= kind.breaks_at:
            kind.breaks_at = None
            raise ConnectionResetError("the shelf fell")
        if kind.changes_at is not None and self._position >= kind.changes_at:
            kind.changes_at = None
            kind.data, kind.facts = OTHER, {"ETag": "2"}
        piece = kind.data[self._position : self._position + size]
        self._position += len(piece)
        return piece


@pytest.fixture
def shelf() -> Iterator[type[Shelf]]:
    """A class of its own for each test, since its attributes are what it holds."""
    kind = type("ThisShelf", (Shelf,), {"read_from": [], "facts": {"ETag": "1"}, "let_go": threading.Event()})
    fsspec.register_implementation("shelf", kind, clobber=True)
    yield kind
    kind.let_go.set()
    del sys.modules["fsspec.registry"]._registry["shelf"]


def test_a_file_system_of_ones_own_gives_a_file(fetch: Fetch, base: Path, shelf: type[Shelf]) -> None:
    assert fetch("shelf://host/f.bin").read_bytes() == DATA
    assert fetch("shelf://host/f.bin", sha256=hashlib.sha256(DATA).hexdigest()).read_bytes() == DATA


@pytest.mark.parametrize("ranges", [True, False])
def test_what_breaks_off_goes_on_where_it_was(
    fetch: Fetch, base: Path, shelf: type[Shelf], slept: list[float], ranges: bool
) -> None:
    shelf.breaks_at, shelf.ranges = 5 * MIB, ranges
    assert fetch("shelf://host/f.bin").read_bytes() == DATA
    again = shelf.read_from[shelf.read_from.index(5 * MIB) + 1]
    assert again == (5 * MIB if ranges else 0)


def test_a_later_process_goes_on_where_a_killed_one_was(
    base: Path, spawn: Callable[..., Processes], tmp_path: Path
) -> None:
    (tmp_path / "shared.bin").write_bytes(DATA)
    setup = f"""
import nanocache, fsspec, os, signal, time
from fsspec.implementations.local import LocalFileSystem

class Slow(LocalFileSystem):
    protocol = "slow"
    stop_at = None
    asked = []

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("slow://"))

    def open(self, path, mode="rb", **options):
        file = open(path, mode)
        read, seek = file.read, file.seek
        class Counted:
            def __enter__(self): return self
            def __exit__(self, *_): file.close()
            def seekable(self): return True
            def seek(self, position):
                Slow.asked.append(position)
                return seek(position)
            def read(self, size):
                time.sleep(0.05)
                return read(size)
        return Counted()

fsspec.register_implementation("slow", Slow)
URL = "slow://{tmp_path}/shared.bin"
"""
    dying = """
def progress(seen):
    if seen.done > 5 * 2**20:
        os.kill(os.getpid(), signal.SIGKILL)
nanocache.fetch(URL, progress=progress)
"""
    assert spawn(dying, setup=setup).finish()[0].code == -9
    code = "print(nanocache.fetch(URL, progress=False).stat().st_size, Slow.asked)"
    size, asked = spawn(code, setup=setup).outputs()[0].split(" ", 1)
    assert int(size) == len(DATA)
    assert len(eval(asked)) == 1
    assert eval(asked)[0] >= MIB


def test_two_versions_are_never_mixed(fetch: Fetch, base: Path, shelf: type[Shelf], slept: list[float]) -> None:
    shelf.changes_at = 5 * MIB
    assert fetch("shelf://host/f.bin").read_bytes() == OTHER


@pytest.mark.parametrize("fact", ["etag", "mtime", "LastModified", "checksum", "version_id", "generation"])
def test_whatever_tells_a_version_is_a_version(fetch: Fetch, base: Path, shelf: type[Shelf], fact: str) -> None:
    shelf.facts = {fact: 1}
    fetch("shelf://host/f.bin")
    shelf.data = OTHER  # unnoticed, because its version says that it is the same
    assert fetch("shelf://host/f.bin", max_age=0).read_bytes() == DATA
    shelf.facts = {fact: 2}
    assert fetch("shelf://host/f.bin", max_age=0).read_bytes() == OTHER


def test_without_anything_that_tells_a_version_it_is_read_again(fetch: Fetch, base: Path, shelf: type[Shelf]) -> None:
    shelf.facts = {}
    fetch("shelf://host/f.bin")
    shelf.data = OTHER
    assert fetch("shelf://host/f.bin", max_age=0).read_bytes() == OTHER


def test_an_unknown_size_is_read_to_its_end(fetch: Fetch, base: Path, shelf: type[Shelf]) -> None:
    shelf.facts = {"size": None}
    assert fetch("shelf://host/f.bin").read_bytes() == DATA


def test_cancelling_ends_within_a_second_though_the_library_looks_at_nothing(base: Path, shelf: type[Shelf]) -> None:
    shelf.stalls = True

    async def main() -> float:
        task = asyncio.create_task(nanocache.afetch("shelf://host/f.bin"))
        while not shelf.read_from:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(main()) < 1
    shelf.let_go.set()


def test_a_library_that_stalls_meets_a_time_out(
    base: Path, shelf: type[Shelf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCACHE_TIMEOUT", "0.02")
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    shelf.stalls = True
    with pytest.raises(DownloadFailed, match="nothing came for"):
        nanocache.fetch("shelf://host/f.bin")


def test_no_secret_is_in_an_error_a_log_or_a_file(
    fetch: Fetch,
    base: Path,
    shelf: type[Shelf],
    slept: list[float],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(fsspec.config.conf, "shelf", {"token": "swordfish", "nested": {"deep": ["marlin"]}})
    for name in ("absent", "secret"):
        with pytest.raises(DownloadFailed) as raised:
            fetch(f"shelf://me:hunter2@host/{name}?sig=hunter2")
        text = str(raised.value) + repr(raised.value) + caplog.text
        assert not {secret for secret in ("hunter2", "swordfish", "marlin") if secret in text}, text
    fetch("shelf://me:hunter2@host/f.bin?sig=hunter2")
    held = b"".join(path.read_bytes() for path in base.rglob("*") if path.is_file() and path.suffix == ".json")
    assert b"hunter2" not in held
    assert b"swordfish" not in held
    assert shelf.made > 2
    assert len(slept) == 5


def test_a_protocol_whose_package_is_missing_names_it(fetch: Fetch, base: Path, slept: list[float]) -> None:
    with pytest.raises(DownloadFailed, match=r"boxfs.*install"):
        fetch("box://folder/f.bin")
    assert slept == []


# --- an asynchronous one ----------------------------------------------------------------------------------------------


class Loft(AsyncFileSystem):
    """loft://name, with a connection that has to be closed on the loop that it was opened on."""

    protocol = "loft"
    data = DATA
    ranges = True
    breaks_at: int | None = None
    stalls = False
    asked: ClassVar[list[tuple[int | None, int | None]]] = []
    closed: ClassVar[list[bool]] = []

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        import weakref

        weakref.finalize(self, self._hang_up, self.loop, self.closed)

    @staticmethod
    def _hang_up(loop: asyncio.AbstractEventLoop, closed: list[bool]) -> None:
        closed.append(loop.is_running())

    async def _info(self, path: str, **_: Any) -> dict[str, Any]:
        await asyncio.sleep(0)
        if "absent" in path:
            raise FileNotFoundError(path)
        return {"name": path, "size": len(self.data), "type": "file", "etag": "1"}

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        kind = type(self)
        kind.asked.append((start, end))
        await asyncio.sleep(60 if self.stalls and start else 0)
        if kind.breaks_at is not None and start is not None and start >= kind.breaks_at:
            kind.breaks_at = None
            raise ConnectionResetError("the loft fell")
        return self.data[start:end] if self.ranges else self.data


@pytest.fixture
def loft() -> Iterator[type[Loft]]:
    kind = type("ThisLoft", (Loft,), {"asked": [], "closed": []})
    fsspec.register_implementation("loft", kind, clobber=True)
    yield kind
    del sys.modules["fsspec.registry"]._registry["loft"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_asynchronous_file_system_is_read_in_ranges(
    fetch: Fetch, base: Path, loft: type[Loft], slept: list[float], ranges: bool
) -> None:
    loft.breaks_at, loft.ranges = 4 * MIB, ranges
    assert fetch("loft://host/f.bin").read_bytes() == DATA
    assert len(loft.asked) == (4 if ranges else 1)
    assert loft.closed
    assert all(loft.closed)


def test_an_error_of_one_closes_it_too(fetch: Fetch, base: Path, loft: type[Loft]) -> None:
    with pytest.raises(DownloadFailed, match="/absent"):
        fetch("loft://host/absent")
    assert loft.closed == [True]


def test_cancelling_ends_a_request_on_its_loop(base: Path, loft: type[Loft]) -> None:
    loft.stalls = True

    async def main() -> float:
        task = asyncio.create_task(nanocache.afetch("loft://host/f.bin"))
        while len(loft.asked) < 2:
            await asyncio.sleep(0.01)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(main()) < 1


def test_in_a_running_loop_and_after_a_fork_it_works_without_a_warning(
    base: Path, spawn: Callable[..., Processes]
) -> None:
    setup = "import nanocache\nfrom tests.sources.test_filesystems import Loft, DATA, fsspec\n" + (
        "fsspec.register_implementation('loft', Loft)"
    )
    code = """
import asyncio, os, threading
async def main():
    return nanocache.fetch("loft://host/f.bin")  # blocks the loop, as people do in a notebook
assert asyncio.run(main()).read_bytes() == DATA
assert threading.active_count() == 1, threading.enumerate()
pid = os.fork()
if pid == 0:
    os._exit(nanocache.fetch("loft://host/g.bin").read_bytes() != DATA)
print(os.waitpid(pid, 0)[1])
"""
    assert spawn(code, setup=setup).outputs() == ["0"]


# --- SFTP -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sftp(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("paramiko", reason="fsspec reads sftp:// with paramiko")
    from tests.servers.sftp import SftpServer

    (folder := tmp_path / "served").mkdir()
    (folder / "a b.bin").write_bytes(DATA)
    with SftpServer(folder) as server:
        yield server


def test_sftp_gives_a_file_to_a_user_with_an_odd_password(fetch: Fetch, base: Path, sftp: Any) -> None:
    url = sftp.url("/a%20b.bin")
    path = fetch(url)
    assert path.read_bytes() == DATA
    logins = sftp.logins
    assert fetch(url) == path
    assert nanocache.lookup(sftp.url("/a%20b.bin", password="another")) == path
    assert sftp.logins == logins


@pytest.mark.filterwarnings("ignore:.*_prefetch_thread:pytest.PytestUnhandledThreadExceptionWarning")  # paramiko's own
def test_sftp_goes_on_where_the_connection_broke(fetch: Fetch, base: Path, sftp: Any, slept: list[float]) -> None:
    def hang_up(offset: int) -> None:
        if offset >= 5 * MIB:
            sftp.before_read = lambda _: None
            sftp.hang_up()

    sftp.before_read = hang_up
    assert fetch(sftp.url("/a%20b.bin")).read_bytes() == DATA
    assert sftp.read_at.count(0) == 1
    assert slept


def test_sftp_gives_the_new_version_of_a_file_that_changes_meanwhile(
    fetch: Fetch, base: Path, sftp: Any, slept: list[float]
) -> None:
    def change(offset: int) -> None:
        if offset >= 5 * MIB:
            sftp.before_read = lambda _: None
            (sftp.folder / "a b.bin").write_bytes(OTHER)
            os.utime(sftp.folder / "a b.bin", (1, 1))

    sftp.before_read = change
    assert fetch(sftp.url("/a%20b.bin")).read_bytes() == OTHER


def test_a_wrong_password_is_said_at_once_and_not_shown(
    fetch: Fetch, base: Path, sftp: Any, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DownloadFailed, match="Authentication") as raised:
        fetch(sftp.url("/a%20b.bin", password="swordfish"))
    assert slept == []
    assert "swordfish" not in str(raised.value) + caplog.text
    with pytest.raises(DownloadFailed, match="FileNotFoundError"):
        fetch(sftp.url("/absent"))
    assert slept == []


class Attic(fsspec.get_filesystem_class("memory")):
    """memory:// by another name."""

    protocol = "attic"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("attic://").strip("/")


def test_a_file_system_that_was_registered_by_its_name_is_found(
    base: Path, monkeypatch: pytest.MonkeyPatch, memory: Any
) -> None:
    known = sys.modules["fsspec.registry"].known_implementations
    monkeypatch.setitem(known, "attic", {"class": "tests.sources.test_filesystems.Attic"})
    memory.pipe_file("/f.bin", DATA)
    try:
        assert nanocache.fetch("attic:///f.bin").read_bytes() == DATA
    finally:
        sys.modules["fsspec.registry"]._registry.pop("attic", None)


@pytest.mark.parametrize("member", ["a.txt", "folder/a.txt"])
def test_a_chain_of_urls_is_refused_with_what_to_do_and_without_its_secrets(base: Path, member: str) -> None:
    with pytest.raises(ValueError, match="Unpack") as raised:
        nanocache.fetch(f"zip://{member}::https://me:hunter2@host/a.zip?sig=hunter2")
    assert "hunter2" not in str(raised.value)
    assert "host/a.zip" in str(raised.value)
