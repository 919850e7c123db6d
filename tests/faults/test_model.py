"""Anything in any order: hypothesis fetches, damages, changes upstream, goes offline, fails hooks, cancels, deletes.

The model is what a person would say: what a URL gives now, what this machine remembers of it, and whether right bytes
of a digest lie anywhere on the disk. From that follows what each call returns or raises, and whether it asks at all.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

import nanocache
from nanocache.artifact import urls
from nanocache.coordination import threads
from nanocache.store import seal
from nanocache.store.layout import FOLDERS
from tests.faults.checks import SOAK, orphans, rounds
from tests.servers.misbehave import Misbehaving, serve, silent, stalled, status
from tests.servers.origin import Request

URLS = range(3)
VERSIONS = range(3)
numbers, versions, names = st.sampled_from(URLS), st.sampled_from(VERSIONS), st.sampled_from([None, "other.bin"])
offline = st.sampled_from([False, False, False, True])


def body(url: int, version: int) -> bytes:
    return f"{url}.{version} ".encode() * (1 + 30_000 * version)  # a little, some, and more than a hundred KB


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


BODIES = {sha256(body(url, version)): body(url, version) for url in URLS for version in VERSIONS}


def upper(src: Path, dst: Path) -> None:
    dst.write_bytes(b"built of " + src.read_bytes())


def broken(src: Path, dst: Path) -> None:
    dst.write_bytes(b"half of it")
    raise RuntimeError("the hook's own fault")


def folder(src: Path, dst: Path) -> None:
    (dst / "inner").mkdir(parents=True)
    (dst / "inner" / "x").write_bytes(src.read_bytes())


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)) / "base"
        self.server = Misbehaving().__enter__()
        self.version = dict.fromkeys(URLS, 0)  # what each URL gives
        self.answer: dict[int, str] = dict.fromkeys(URLS, "up")
        self.ref: dict[int, str] = {}  # the digest that is remembered of it
        self.spoilt: set[int] = set()  # inodes that were written to by us
        self.rotten: set[str] = set()  # digests with a name whose seal does not tell that it is wrong
        self.cancelled = 0
        self.urls = [
            self.server.route(f"/{url}.bin", lambda request, url=url: self.handle(request, url)) for url in URLS
        ]

    def teardown(self) -> None:
        self.server.__exit__(None, None, None)
        shutil.rmtree(self.base.parent)

    # --- the world ----------------------------------------------------------------------------------------------------

    def handle(self, request: Request, url: int) -> Any:
        version = self.version[url]
        match self.answer[url]:
            case "up":
                return serve(body(url, version), etag=f'"{version}"')(request)
            case "silent":
                return silent()(request)
            case "stalled":
                return stalled(body(url, version), at=1, etag=f'"{version}"')(request)
            case code:
                return status(int(code))(request)

    def current(self, url: int) -> str:
        return sha256(body(url, self.version[url]))

    def blobs(self, digest: str) -> list[Path]:
        return list(self.base.glob(f"blobs-v1/sha256/{digest[:2]}/{digest}/*"))

    def here(self, digest: str) -> bool:
        """Whether right bytes lie under any name."""
        return any(path.read_bytes() == BODIES[digest] for path in self.blobs(digest))

    def sound(self, digest: str) -> bool:
        return digest not in self.rotten

    # --- calls --------------------------------------------------------------------------------------------------------

    def call(self, url: int, **options: Any) -> tuple[Any, int]:
        """(path or error, requests)."""
        before = self.server.gets()
        try:
            got: Any = nanocache.fetch(self.urls[url], base_dir=self.base, progress=False, **options)
        except nanocache.NanocacheError as e:
            got = e
        return got, self.server.gets() - before

    def expect_download(self, url: int, got: Any, *, digest: str | None, offline: bool) -> None:
        """`got` came of a call that had to ask the server for `digest`, or whatever it has."""
        if offline:
            assert isinstance(got, nanocache.NotCached), got
        elif self.answer[url] != "up":
            assert isinstance(got, nanocache.DownloadFailed), got
            assert got.status == int(self.answer[url])
        elif digest not in (None, self.current(url)):
            assert isinstance(got, nanocache.ChecksumMismatch), got
            assert got.got == self.current(url)
        else:
            assert got.read_bytes() == body(url, self.version[url])
            self.ref[url] = self.current(url)

    @rule(url=numbers, version=versions, name=names, offline=offline)
    def fetch_pinned(self, url: int, version: int, name: str | None, offline: bool) -> None:
        digest = sha256(body(url, version))
        here = self.here(digest)
        got, requests = self.call(url, sha256=digest, filename=name, offline=offline)
        if not self.sound(digest):
            return  # it may be the wrong one behind its seal: that is what rehash is for
        if here:
            assert requests == 0
            assert got.read_bytes() == BODIES[digest]
        else:
            self.expect_download(url, got, digest=digest, offline=offline)
        if isinstance(got, Path):
            assert got.name == (name or f"{url}.bin")

    @rule(url=numbers, offline=offline)
    def fetch(self, url: int, offline: bool) -> None:
        remembered = self.ref.get(url)
        if remembered is not None and not self.sound(remembered):
            return
        here = remembered is not None and self.here(remembered)
        got, requests = self.call(url, offline=offline)
        if here and remembered is not None:
            assert requests == 0
            assert got.read_bytes() == BODIES[remembered]
        elif self.sound(self.current(url)):
            self.expect_download(url, got, digest=None, offline=offline)

    @rule(url=numbers, offline=offline)
    def revalidate(self, url: int, offline: bool) -> None:
        remembered = self.ref.get(url)
        if not all(self.sound(digest) for digest in (remembered or "", self.current(url))):
            return
        here = remembered is not None and self.here(remembered)
        got, _ = self.call(url, max_age=0, offline=offline)
        if here and remembered is not None and (offline or self.answer[url] == "503"):
            assert got.read_bytes() == BODIES[remembered], "what is cached, with a warning"
        else:
            self.expect_download(url, got, digest=None, offline=offline)

    @rule(url=numbers, version=versions, name=names)
    def rehash(self, url: int, version: int, name: str | None) -> None:
        digest = sha256(body(url, version))
        here = self.here(digest)
        got, requests = self.call(url, sha256=digest, filename=name, rehash=True)
        self.rotten.discard(digest)
        if here:
            assert requests == 0
            assert got.read_bytes() == BODIES[digest]
        else:
            self.expect_download(url, got, digest=digest, offline=False)
        if isinstance(got, Path):  # else there is nothing better, and what is wrong stays
            for path in self.blobs(digest):
                assert path.read_bytes() == BODIES[digest]

    @rule(url=numbers, offline=offline)
    def fetch_with_a_wrong_digest(self, url: int, offline: bool) -> None:
        before = set(self.base.glob("blobs-v1/sha256/*/*/*"))
        got, _ = self.call(url, sha256="0" * 64, offline=offline)
        assert isinstance(got, nanocache.NotCached | nanocache.DownloadFailed | nanocache.ChecksumMismatch), got
        assert set(self.base.glob("blobs-v1/sha256/*/*/*")) == before

    @rule(url=numbers, version=versions, hook=st.sampled_from([upper, folder]))
    def build(self, url: int, version: int, hook: Callable[[Path, Path], None]) -> None:
        digest = sha256(body(url, version))
        if not self.sound(digest):
            return
        here, built = self.here(digest), bool(list(self.base.glob(f"products-v1/{digest}/*/{url}.bin")))
        got, _ = self.call(url, sha256=digest, postprocess=hook)
        if isinstance(got, Path):
            data = (got / "inner/x").read_bytes() if hook is folder else got.read_bytes()
            assert data == (b"" if hook is folder else b"built of ") + BODIES[digest]
            if not here and not built:
                self.ref[url] = digest
        else:
            assert not here
            self.expect_download(url, got, digest=digest, offline=False)

    @rule(url=numbers, version=versions)
    def fail_a_hook(self, url: int, version: int) -> None:
        digest = sha256(body(url, version))
        if not self.sound(digest):
            return
        here, before = self.here(digest), set(self.base.glob("products-v1/*/*/*"))
        got, _ = self.call(url, sha256=digest, postprocess=broken)
        assert set(self.base.glob("products-v1/*/*/*")) == before
        if here or (self.answer[url] == "up" and self.version[url] == version):
            assert isinstance(got, nanocache.PostprocessFailed), got
            if not here:
                self.ref[url] = digest
        else:
            self.expect_download(url, got, digest=digest, offline=False)

    @precondition(lambda self: self.cancelled < 3)  # each takes a while
    @rule(url=numbers, phase=st.sampled_from(["silent", "stalled"]))
    def cancel(self, url: int, phase: str) -> None:
        before, self.answer[url] = self.answer[url], phase
        blobs = {path.parent for path in self.base.glob("blobs-v1/sha256/*/*/*")}

        async def main() -> bool:
            task = asyncio.create_task(nanocache.afetch(self.urls[url], max_age=0, base_dir=self.base))
            await asyncio.sleep(0.03)
            task.cancel()
            return bool(await asyncio.gather(task, return_exceptions=True))

        asyncio.run(main())
        deadline = time.monotonic() + 5
        while any(len(pool.threads) > pool.idle for pool in threads._pools.values()):  # it works no more
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.cancelled += 1
        self.answer[url] = before
        assert {path.parent for path in self.base.glob("blobs-v1/sha256/*/*/*")} <= blobs

    # --- what happens to it -------------------------------------------------------------------------------------------

    @rule(url=numbers, version=versions)
    def change_upstream(self, url: int, version: int) -> None:
        self.version[url] = version

    @rule(url=numbers, answer=st.sampled_from(["up", "up", "503", "404"]))
    def go_up_or_down(self, url: int, answer: str) -> None:
        self.answer[url] = answer

    def some_blob(self, data: st.DataObject) -> Path | None:
        found = sorted(self.base.glob("blobs-v1/sha256/*/*/*"))
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), how=st.sampled_from(["damage", "truncate", "touch", "rot", "delete", "delete folder"]))
    def spoil(self, data: st.DataObject, how: str) -> None:
        path = self.some_blob(data)
        if path is None:
            return
        digest, before = path.parent.name, path.stat()
        path.chmod(0o644)
        if how == "delete":
            path.unlink()
        elif how == "delete folder":
            shutil.rmtree(path.parent)
            self.rotten.discard(digest)
        elif how == "touch":
            os.utime(path)
        else:
            self.spoilt.add(before.st_ino)
            with path.open("r+b") as file:
                file.write(b"X")
                if how == "truncate":
                    file.truncate(2)
            if how == "rot":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
                if seal.holds(path.stat(), digest):
                    self.rotten.add(digest)

    @rule(url=numbers, how=st.sampled_from(["delete", "truncate", "zeros"]))
    def spoil_a_ref(self, url: int, how: str) -> None:
        path = self.base / "refs-v1" / (key := urls.url_key(self.urls[url]))[:2] / f"{key}.json"
        if not path.exists():
            return
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:20] if how == "truncate" else bytes(path.stat().st_size))
        self.ref.pop(url, None)

    @rule(what=st.sampled_from(["the base directory", *FOLDERS]))
    def delete_folders(self, what: str) -> None:
        shutil.rmtree(self.base if what == "the base directory" else self.base / what, ignore_errors=True)
        if what in ("the base directory", "refs-v1"):
            self.ref.clear()
        if what in ("the base directory", "blobs-v1"):
            self.rotten.clear()

    # --- what always holds --------------------------------------------------------------------------------------------

    @invariant()
    def nothing_wrong_is_visible_but_what_was_spoilt(self) -> None:
        for path in self.base.glob("blobs-v1/sha256/*/*/*"):
            if path.read_bytes() == BODIES[path.parent.name]:
                self.spoilt.discard(path.stat().st_ino)
            assert path.read_bytes() == BODIES[path.parent.name] or path.stat().st_ino in self.spoilt

    @invariant()
    def nothing_is_left_behind(self) -> None:
        assert len(orphans(self.base)) <= self.cancelled


@pytest.mark.timeout(3600 if SOAK else 300)
def test_any_order_of_anything_gives_what_the_model_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOCACHE_RETRIES", "0")
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=rounds(25, 2000),
            stateful_step_count=rounds(40, 60),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
