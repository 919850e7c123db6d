"""The connections of one transfer, a thread each, and the calling thread, which oversees them and hashes behind them.

All connections are alike: the first goes on with the answer that it was given, the others take pieces ahead of it, and
where it meets them it becomes one of them. One that fails without having brought anything is dropped, and there will be
no more of them; only the failure of the last one is the transfer's. Invariants: no thread outlives `run` (but for one
that hangs in a host look-up, and writes nothing any more); state, progress and errors leave through the calling thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from ..cancel import Cancel, Cancelled
from ..http.exchange import Response
from ..http.failure import Failure
from ..http.slots import Busy
from .growth import Growth, Sample
from .ledger import Claim, piece_size
from .retry import least_progress
from .transfer import Transfer

__all__ = ["Connection", "Connections"]

TICK = 0.005  # seconds between two looks of a calling thread that has nothing to hash
SECOND_CHANCE = 0.2  # seconds until a connection that worked so far asks again
FAREWELL = 1.0  # seconds that a thread is waited for once its socket is shut


@dataclass(eq=False, slots=True)
class Connection:
    """One connection and what it is doing."""

    cancel: Cancel = field(default_factory=Cancel)
    claim: Claim | None = None
    worked: bool = False  # it brought something since it was last refused
    error: BaseException | None = None
    ended: bool = False
    thread: threading.Thread | None = None


class Connections:
    """Fetches what the ledger of `work` lacks, on `most` connections at most.

    `tick` is called over and over; False from it means that it had nothing to do.
    """

    def __init__(self, transfer: Transfer, cancel: Cancel, *, most: int, tick: Callable[[], bool]) -> None:
        self._transfer, self._cancel, self._tick, self._most = transfer, cancel, tick, most
        self._piece = piece_size(transfer.ledger.total or 0, most)
        self._alive: list[Connection] = []
        self._all: list[Connection] = []
        self._error: BaseException | None = None

    def run(self, first: Connection, answer: ExitStack, response: Response, *, ends: int | None) -> None:
        """Return once the ledger is complete. Raises the last connection's Failure, and any other error at once.

        `answer` is closed as soon as its body ended. It stays the caller's to close, for a thread that Ctrl-C kept
        from starting closes nothing.
        """
        assert first.claim is not None
        self._patience = max(0.2, 10 * response.latency)
        self._watch_over(first.claim)
        self._growth = Growth(self._most, self._sample(), latency=response.latency)
        try:
            self._start(first, lambda: self._go_on(first, answer, response, ends))
            while not self._finished():
                self._cancel.check()
                self._grow()
                if not self._tick():
                    with self._transfer.changed:
                        self._transfer.changed.wait(TICK)
        finally:
            self._dismiss()

    # --- the calling thread -------------------------------------------------------------------------------------------

    def _start(self, connection: Connection, begin: Callable[[], None]) -> None:
        connection.thread = threading.Thread(
            target=self._live, args=(connection, begin), name="nanocache-connection", daemon=True
        )
        with self._transfer.changed:
            self._alive.append(connection)
            self._all.append(connection)
        connection.thread.start()

    def _finished(self) -> bool:
        with self._transfer.changed:
            for connection in [c for c in self._alive if c.ended]:
                self._alive.remove(connection)
                self._lost(connection)
            if self._transfer.ledger.complete:
                return True
            if not self._alive:
                raise self._error or Failure("all its connections ended")
            return False

    def _lost(self, connection: Connection) -> None:
        error = connection.error
        if error is None or isinstance(error, Cancelled):
            return
        if not isinstance(error, Failure):
            raise error
        self._error = error
        if not isinstance(error, Busy):
            self._growth.refused(len(self._alive))

    def _sample(self) -> Sample:
        now = time.monotonic()
        waiting = sum(now - claim.moved for claim in self._transfer.ledger.claims if claim.left and not claim.writing)
        return Sample(now, self._transfer.ledger.received, self._transfer.waited + waiting)

    def _grow(self) -> None:
        with self._transfer.changed:
            wanted = self._growth.look(self._sample())
            claims = [self._next() for _ in range(wanted - len(self._alive))]
        for claim in claims:
            if claim is not None:
                connection = Connection(claim=claim)
                self._start(connection, lambda: None)

    def _dismiss(self) -> None:
        if self._transfer.ledger.complete:  # then they are about to end, and leave a connection that can be used again
            deadline = time.monotonic() + TICK
            for connection in self._all:
                self._wait_for(connection, max(0.0, deadline - time.monotonic()))
        for connection in self._all:
            connection.cancel.set()
        with self._transfer.changed:
            self._transfer.changed.notify_all()
        for connection in self._all:
            self._wait_for(connection, FAREWELL)

    def _wait_for(self, connection: Connection, seconds: float) -> None:
        if connection.thread is not None:
            with suppress(RuntimeError):  # Ctrl-C came before it was started; if it was, it finds its cancel set
                connection.thread.join(seconds)

    # --- a connection's thread ----------------------------------------------------------------------------------------

    def _live(self, connection: Connection, begin: Callable[[], None]) -> None:
        try:
            begin()
            while self._find(connection):
                self._fetch(connection)
        except BaseException as e:  # noqa: BLE001  # the calling thread raises it
            connection.error = e
        finally:
            with self._transfer.changed:
                if connection.claim is not None:
                    self._transfer.ledger.release(connection.claim)
                connection.ended = True
                self._transfer.changed.notify_all()

    def _go_on(self, first: Connection, answer: ExitStack, response: Response, ends: int | None) -> None:
        assert first.claim is not None
        with answer:
            self._transfer.take(first.claim, response, first.cancel, ends=ends)
        first.worked = True
        with self._transfer.changed:
            if first.claim.end is None:
                self._transfer.ledger.total = first.claim.end = first.claim.pos

    def _find(self, connection: Connection) -> bool:
        """Give the connection something to do; False if there is nothing any more, or one too many."""
        with self._transfer.changed:
            while not connection.cancel.is_set():
                if connection.claim is not None and connection.claim.left != 0:
                    return True
                if connection.claim is not None:
                    self._transfer.ledger.release(connection.claim)
                if self._others_moving(connection) >= self._growth.wanted:
                    return False
                connection.claim = self._next() or self._take_over()
                if connection.claim is None:
                    if not self._transfer.ledger.claims:
                        return False
                    self._transfer.changed.wait(self._patience)
        return False

    def _others_moving(self, connection: Connection) -> int:
        now = time.monotonic()
        claims = [c.claim for c in self._alive if c is not connection and not c.ended]
        return sum(claim is not None and now - claim.moved < self._patience for claim in claims)

    def _next(self) -> Claim | None:
        ledger = self._transfer.ledger
        claim = ledger.claim_rest() if self._growth.most == 1 else ledger.claim_piece(self._piece)
        return None if claim is None else self._watch_over(claim)

    def _watch_over(self, claim: Claim) -> Claim:
        claim.moved, claim.patience = time.monotonic(), self._patience
        return claim

    def _take_over(self) -> Claim | None:
        """A claim whose connection stands still, while this one has nothing to do: it would be the last to end."""
        taken = self._transfer.ledger.take_over(time.monotonic())
        if taken is None:
            return None
        claim, old = taken
        for connection in self._alive:
            if connection.claim is old:
                connection.cancel.set()
        return claim

    def _fetch(self, connection: Connection) -> None:
        claim = connection.claim
        assert claim is not None
        before = claim.pos
        failure: Failure | None = None
        try:
            with self._cancel.watch(connection.cancel.set):
                self._transfer.fetch_part(claim, connection.cancel, patient=False)
        except Failure as e:
            failure = e
        gained, worked = claim.pos - before, connection.worked
        connection.worked = claim.left == 0 or gained >= least_progress(self._transfer.ledger.total)
        if connection.worked:
            return
        if not worked:
            raise failure or Failure(f"it sent {gained:,} bytes of what was asked for")
        # A server that allows a few connections may count the one that was closed a moment ago.
        connection.cancel.sleep(SECOND_CHANCE)
