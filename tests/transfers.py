"""What the tests of the transfer share: a partial of one's own, a call of `download` with defaults, and clocks that
do not wait."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from nanocache import files, partials, retry, transfer
from nanocache.cancel import Cancel
from nanocache.config import Settings
from nanocache.transfer import NotModified, Received, Source

MIB = 1 << 20
MODES = files.Modes.of(0o755)


def body(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


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
    """A call of `download` after the other, each claiming what the one before left; `reports` of the last one."""

    base: Path
    reports: list[tuple[int, int | None]] = field(default_factory=list)

    def __call__(
        self,
        *urls: str | Source,
        digest: str | None = None,
        size: int | None = None,
        condition: tuple[str | None, str | None] | None = None,
        name: str = "artifact.bin",
        cancel: Cancel | None = None,
        **changes: Any,
    ) -> bytes:
        """The bytes that lie on disk, which `received` describes."""
        self.reports.clear()
        with self.partial(judged=digest is not None) as partial:
            received = transfer.download(
                [url if isinstance(url, Source) else Source(url) for url in urls],
                partial,
                digest=digest,
                size=size,
                condition=condition,
                name=name,
                settings=settings(**changes),
                cancel=cancel or Cancel(),
                report=lambda done, total: self.reports.append((done, total)),
            )
            self.received = received
            partial.state = None  # published, or the same as before: nothing to resume
            return b"" if isinstance(received, NotModified) else partial.data.read_bytes()

    @property
    def got(self) -> Received:
        assert isinstance(self.received, Received)
        return self.received

    def partial(self, *, judged: bool = True) -> partials.Partial:
        return partials.claim(str(self.base / "partials-v1" / "key"), base=str(self.base), modes=MODES, judged=judged)

    def left(self) -> dict[str, Any] | None:
        """The state that the last call left behind, None if nothing."""
        with closing(self.partial()) as partial:
            return partial.state


def no_delays(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have the transfer ask again at once; the seconds it would have waited are appended to the list."""
    slept: list[float] = []

    def sleep(cancel: Cancel, seconds: float) -> None:
        cancel.check()
        slept.append(seconds)

    monkeypatch.setattr(Cancel, "sleep", sleep)
    return slept


def asked(requests: Sequence[Any]) -> list[str | None]:
    """The Range header of each request."""
    return [request.range for request in requests]


__all__ = ["MIB", "Download", "Source", "asked", "body", "no_delays", "retry", "settings"]
