"""What of a transfer survives its process: the state beside a partial's bytes, and whether they may be built on.

Invariants: without a strong validator bytes are built on only if a digest will judge them; no secret is in the state
(the URL is there as a hash that leaves credentials out).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from ..http.validation import ResponseInfo
from .ledger import Ledger, Range

__all__ = ["SaveSchedule", "parse", "state"]

SAVE_WITHIN = 0.25  # seconds that a trickle is left unsaved
SAVE_AT_ONCE = 1 << 16  # bytes; so many are saved sooner, because a kill should cost little of a fast transfer
SAVING_SHARE = 0.02  # of the time is spent saving at most: 100 us a save on a local disk, milliseconds on NFS


def state(
    url_key: str, info: ResponseInfo, total: int | None, done: list[Range], version: str | None
) -> dict[str, Any]:
    """What the next owner of the partial has to know. `version`: as the source calls it."""
    return {
        "url": url_key,
        "version": version,
        "validator": info.validator,
        "etag": info.etag,
        "last-modified": info.last_modified,
        "sha256": info.sha256,
        "total": total,
        "done": done,
    }


def parse(
    state: dict[str, Any], url_key: str, version: str | None, *, judged: bool, size: int
) -> tuple[Ledger, ResponseInfo]:
    """What an earlier owner, or an earlier source, left: the bytes that may be built on, and of which version they are.

    `version`: as the source calls what the URL gives now. `judged`: a digest will judge the bytes. `size`: of the file
    that holds them. Raises KeyError, TypeError, ValueError for a state that makes no sense, or whose bytes may not be
    built on.
    """
    info = _known(state, url_key, version)
    if not judged and info.validator is None and info.version is None:
        raise ValueError("nothing tells whether these bytes and those to come belong together")
    ledger = _ledger(state, size)
    if ledger.complete and not judged:  # leave a byte to ask for, so that the server says whether it is current
        ledger = Ledger(ledger.total, [(0, ledger.received - 1)])
    return ledger, replace(info, total=ledger.total)


def _ledger(state: dict[str, Any], size: int) -> Ledger:
    total = None if state["total"] is None else _bytes(state["total"])
    longest = size if total is None else min(size, total)
    done = [(_bytes(start), _bytes(end)) for start, end in state["done"]]
    if any(end > longest for _, end in done):
        raise ValueError("the state claims more than there is")
    return Ledger(total, done)


def _known(state: dict[str, Any], url_key: str, version: str | None) -> ResponseInfo:
    if state["url"] != url_key:
        return ResponseInfo(ranges=True)
    if version is None:
        return _same_version(state)
    # The address of today may call the same bytes otherwise than that of yesterday, so its server is not asked.
    return ResponseInfo(ranges=True, version=version if state.get("version") == version else None)


def _same_version(state: dict[str, Any]) -> ResponseInfo:
    return ResponseInfo(
        validator=_header(state["validator"]),
        etag=_header(state["etag"]),
        last_modified=_header(state["last-modified"]),
        sha256=_header(state.get("sha256")),
        ranges=True,
    )


def _bytes(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number of bytes")
    return value


def _header(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.isprintable()):
        raise ValueError("not the value of a header")
    return value


class SaveSchedule:
    """When the state is worth saving again, while bytes come."""

    def __init__(self) -> None:
        self._saved = time.monotonic()
        self._bytes = 0  # received when it was saved
        self._cost = 0.0  # seconds that saving took

    def due(self, received: int) -> bool:
        fresh = received - self._bytes
        if not fresh:
            return False
        passed = time.monotonic() - self._saved
        return passed >= SAVE_WITHIN or (fresh >= SAVE_AT_ONCE and passed >= self._cost / SAVING_SHARE)

    @contextmanager
    def measured(self, received: int) -> Iterator[None]:
        """Save the state in the block, with so many bytes."""
        began = time.monotonic()
        yield
        self._saved = time.monotonic()
        self._bytes = received
        self._cost = self._saved - began
