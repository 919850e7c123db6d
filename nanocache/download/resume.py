"""What of a transfer survives its process: the state that a partial keeps, and whether its bytes may be built on.

Invariants: without a strong validator bytes are built on only if a digest will judge them; no secret is in the state
(the URL is there as a hash that leaves credentials out).
"""

from __future__ import annotations

import os
import time
from typing import Any

from ..artifact.urls import url_key
from ..http.validation import ResponseInfo
from .ledger import Ledger
from .transfer import Transfer

__all__ = ["Saver", "load"]

LATEST = 0.25  # seconds that a trickle is left unsaved
BYTES = 1 << 16  # so many are saved sooner: a kill should cost little of a fast transfer
SHARE = 0.02  # of the time is spent saving at most: 100 us a save on a local disk, milliseconds on NFS


def load(transfer: Transfer, *, judged: bool) -> None:
    """Take over what an earlier owner of the partial, or an earlier source, left, as far as it may be built on."""
    state = transfer.partial.state
    if state is None and not os.fstat(transfer.partial.fd).st_size:
        return
    try:
        transfer.ledger, transfer.offer = _parse(transfer, state or {}, judged)
    except (KeyError, TypeError, ValueError):
        transfer.partial.reset()


def _parse(transfer: Transfer, state: dict[str, Any], judged: bool) -> tuple[Ledger, ResponseInfo]:
    same = state["url"] == _key(transfer)
    validator, etag, modified = (_header(state[name]) for name in ("validator", "etag", "last-modified"))
    total = None if state["total"] is None else _size(state["total"])
    if not judged and not (same and validator):
        raise ValueError("nobody can tell whether these bytes belong together")
    ledger = Ledger(total, [(_size(start), _size(end)) for start, end in state["done"]])
    end = ledger.done[-1][1] if ledger.done else 0
    if end > os.fstat(transfer.partial.fd).st_size or (total is not None and end > total):
        raise ValueError("the state claims more than there is")
    if ledger.complete and not judged:
        ledger.done[-1] = (ledger.done[-1][0], end - 1)  # a byte to ask for, so that the server says it is current
    offer = ResponseInfo(
        total=total,
        validator=validator if same else None,
        etag=etag if same else None,
        last_modified=modified if same else None,
        ranges=True,
    )
    transfer.pieced = True
    return ledger, offer


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("not a number of bytes")
    return value


def _header(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and value.isprintable()):
        raise ValueError("not the value of a header")
    return value


def _key(transfer: Transfer) -> str:
    return url_key(transfer.source.url, transfer.source.headers)


class Saver:
    """Writes the state, from one thread."""

    def __init__(self, transfer: Transfer, judged: bool) -> None:
        self._transfer, self._judged = transfer, judged
        self._saved, self._bytes, self._cost = time.monotonic(), 0, 0.0

    @property
    def resumable(self) -> bool:
        offer = self._transfer.offer
        return offer.encoding is None and (self._judged or offer.validator is not None)

    def save_if_due(self) -> None:
        passed, fresh = time.monotonic() - self._saved, self._transfer.ledger.received - self._bytes
        if fresh and (passed >= LATEST or (fresh >= BYTES and passed >= self._cost / SHARE)):
            self.save()

    def save(self) -> None:
        """Record what is there. Raises Abandoned, OSError."""
        with self._transfer.changed:
            done, total = list(self._transfer.ledger.done), self._transfer.ledger.total
        if not done or not self.resumable:
            return
        offer, began = self._transfer.offer, time.monotonic()
        self._transfer.partial.save(
            {
                "url": _key(self._transfer),
                "validator": offer.validator,
                "etag": offer.etag,
                "last-modified": offer.last_modified,
                "total": total,
                "done": done,
            }
        )
        self._saved, self._bytes = time.monotonic(), sum(end - start for start, end in done)
        self._cost = self._saved - began
