"""What the tests of downloads share: `download` with a partial and defaults, and a clock that does not wait."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanocache.cancel import Cancel
from nanocache.config import Settings
from nanocache.download.download import Condition, Downloaded, DownloadRequest, NotModified, Target
from nanocache.download.download import download as run_download
from nanocache.store import orphans, partials
from nanocache.store.layout import BaseDirectory
from tests.servers.misbehave import Handler, Step, _spoilt
from tests.servers.origin import Loopback, Request

MIB = 1 << 20


def body(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def settings(**changes: Any) -> Settings:
    defaults: dict[str, Any] = {
        "timeout": 5.0,
        "retries": 3,
        "connections": 4,
        "lock_timeout": None,
        "max_artifact": None,
        "offline": False,
    }
    return Settings(**(defaults | changes))


@dataclass
class Download:
    """Calls of `download`, each of which claims what the one before left. `reports` are of the last one."""

    base: Path
    reports: list[tuple[int, int | None]] = field(default_factory=list)

    def __call__(
        self,
        *urls: str | Target,
        digest: str | None = None,
        size: int | None = None,
        condition: Condition | None = None,
        name: str = "artifact.bin",
        cancel: Cancel | None = None,
        **changes: Any,
    ) -> bytes:
        """The bytes that lie on disk, which `received` describes."""
        self.reports.clear()
        with self.partial(judged=digest is not None) as partial:
            request = DownloadRequest(
                urls=[url if isinstance(url, Target) else Target(url) for url in urls],
                name=name,
                settings=settings(**changes),
                digest=digest,
                size=size,
                condition=condition,
            )
            received = run_download(
                request, partial, cancel or Cancel(), lambda done, total: self.reports.append((done, total))
            )
            self.received = received
            partial.state = None  # published, or the same as before: nothing to resume
            return b"" if isinstance(received, NotModified) else Path(partial.data).read_bytes()

    @property
    def got(self) -> Downloaded:
        assert isinstance(self.received, Downloaded)
        return self.received

    def partial(self, *, judged: bool = True) -> partials.Partial:
        return orphans.claim(BaseDirectory(str(self.base)), "key", judged=judged)

    def left(self) -> dict[str, Any] | None:
        """The state that the last call left behind, None if nothing."""
        with closing(self.partial()) as partial:
            return partial.state


@pytest.fixture
def download(base: Path) -> Download:
    return Download(base)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have the transfer ask again at once; the seconds it would have waited are appended to the list."""
    slept: list[float] = []

    def sleep(cancel: Cancel, seconds: float) -> None:
        cancel.check()
        slept.append(seconds)

    monkeypatch.setattr(Cancel, "sleep", sleep)
    return slept


def asked(server: Loopback, path: str | None = None) -> list[str | None]:
    """The Range header of each request, without its unit."""
    return [r.range and r.range.removeprefix("bytes=") for r in server.requests(path)]


def paced(data: bytes, rate: float, **manners: Any) -> Handler:
    """`serve`, at `rate` bytes per second for each request."""

    def spoil(payload: bytes) -> Iterator[Step]:
        step = max(1, int(rate / 200))
        for at in range(0, len(payload), step):
            yield payload[at : at + step]
            yield 0.005

    return _spoilt(data, spoil, **manners)


class Counting:
    """A handler that passes requests on. `peak`: the most requests that were under way at the same moment."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.now = 0
        self.peak = 0
        self.lock = threading.Lock()

    def __call__(self, request: Request) -> Iterator[Step]:
        with self.lock:
            self.now += 1
            self.peak = max(self.peak, self.now)
        try:
            yield from self.handler(request)
        finally:
            with self.lock:
                self.now -= 1
