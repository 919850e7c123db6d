"""The connections of one transfer, a thread each, while the calling thread oversees them.

All connections are alike: the first goes on with the answer that it was given, the others take pieces ahead of it, and
where it meets them it becomes one of them. A connection that fails before its first byte is dropped and no more are
opened. The transfer fails when its last connection does. Invariants: no thread outlives the block (but for one that
hangs in a host look-up, and writes nothing any more); errors leave through the calling thread.
"""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..callers import suppress
from ..cancel import Cancel, Cancelled
from ..http.failure import Failure
from ..http.slots import Busy
from .growth import Growth, Sample
from .ledger import Claim, piece_size
from .retry import least_progress
from .transfer import Body, Transfer
from .turn import Turn

__all__ = ["Connection", "Connections"]

TICK = 0.005  # seconds between two looks of a calling thread that has nothing to hash
LEAST_PATIENCE = 0.2  # seconds that a claim may stand still at least; else ten times the latency
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

    def moving(self, now: float, patience: float) -> bool:
        """Whether bytes came over it lately."""
        return not self.ended and self.claim is not None and now - self.claim.moved < patience


class Connections:
    """A context manager that fetches what the ledger of `transfer` lacks, over at most `limit` connections.

    `smallest`: bytes of a piece at least.

    `go_on` comes first; then `running` and `wait` in turn, until nothing is running.
    """

    def __init__(
        self,
        transfer: Transfer,
        cancel: Cancel,
        *,
        limit: int,
        smallest: int,
        latency: float,
        turn: Turn | None = None,
    ) -> None:
        self._transfer = transfer
        self._turn = turn
        self._cancel = cancel
        self._piece = piece_size(transfer.ledger.total or 0, limit, smallest)
        self._patience = max(LEAST_PATIENCE, 10 * latency)
        self._alive: list[Connection] = []
        self._growth = Growth(limit, self._sample(), latency=latency)
        self._all: list[Connection] = []
        self._error: BaseException | None = None

    def __enter__(self) -> Connections:
        return self

    # --- the calling thread -------------------------------------------------------------------------------------------

    def go_on(self, first: Connection, body: Body, answer: ExitStack) -> bool:
        """Receive the rest of `body` in a thread, which closes `answer` then, and goes on with pieces.

        False if there is no thread to be had. `answer` stays the caller's to close, too: a thread that Ctrl-C kept
        from starting closes nothing.
        """
        self._watch_over(body.claim)
        return self._start(first, body, answer)

    def _start(self, connection: Connection, *first: Body | ExitStack) -> bool:
        with self._transfer.changed:
            self._alive.append(connection)
            self._all.append(connection)
        try:
            connection.thread = threading.Thread(
                target=self._live, args=(connection, *first), name="nanocache-connection", daemon=True
            )
            connection.thread.start()
        except RuntimeError:  # a limit, an interpreter that is ending, or a subinterpreter that allows no daemons
            self._forget(connection)
            return False
        return True

    def _forget(self, connection: Connection) -> None:
        """Take back what a connection without a thread was to fetch, and open no more."""
        with self._transfer.changed:
            self._alive.remove(connection)
            self._all.remove(connection)
            self._growth.refused(len(self._alive))
            if self._alive and connection.claim is not None:
                self._transfer.ledger.release(connection.claim)

    def running(self) -> bool:
        """Whether bytes are still to come, after a look at what ended and what is worth opening.

        Raises the last connection's Failure, any other error at once, and Cancelled.
        """
        with self._transfer.changed:
            self._let_go_of_ended()
            if self._transfer.ledger.complete:
                return False
            if not self._alive:
                raise self._error or Failure("all its connections ended")
        self._cancel.check()
        self._grow()
        return True

    def wait(self) -> None:
        """Wait until something changes, or a few milliseconds."""
        with self._transfer.changed:
            self._transfer.changed.wait(TICK)

    def _let_go_of_ended(self) -> None:
        for connection in [c for c in self._alive if c.ended]:
            self._alive.remove(connection)
            if connection.error is not None:
                self._lost(connection.error)

    def _lost(self, error: BaseException) -> None:
        if isinstance(error, Cancelled):
            return
        if not isinstance(error, Failure):
            raise error
        self._error = error
        if not isinstance(error, Busy):
            self._growth.refused(len(self._alive))

    def _sample(self) -> Sample:
        now = time.monotonic()
        idle = sum(claim.idle(now) for claim in self._transfer.ledger.claims)
        return Sample(now, self._transfer.ledger.received, self._transfer.waited + idle, len(self._alive))

    def _grow(self) -> None:
        if self._turn is not None and not self._turn.first:
            return
        with self._transfer.changed:
            now = self._sample()
            lacking = self._growth.look(now) - len(self._alive)
            claims = [self._next() for _ in range(lacking)]
        for claim in claims:
            if claim is not None:
                self._start(Connection(claim=claim))
        if self._turn is not None and self._growth.is_over(now.time):
            self._turn.settle()

    def __exit__(self, *_: object) -> None:
        if self._transfer.ledger.complete:  # then they are about to end, and leave a connection that can be used again
            deadline = time.monotonic() + TICK
            for connection in self._all:
                self._join(connection, max(0.0, deadline - time.monotonic()))
        for connection in self._all:
            connection.cancel.set()
        with self._transfer.changed:
            self._transfer.changed.notify_all()
        for connection in self._all:
            self._join(connection, FAREWELL)

    def _join(self, connection: Connection, seconds: float) -> None:
        if connection.thread is not None:
            with suppress(RuntimeError):  # Ctrl-C came before it was started; if it was, it finds its cancel set
                connection.thread.join(seconds)

    # --- a connection's thread ----------------------------------------------------------------------------------------

    def _live(self, connection: Connection, body: Body | None = None, answer: ExitStack | None = None) -> None:
        try:
            if body is not None and answer is not None:
                with answer:
                    self._transfer.receive_all(body, connection.cancel)
                connection.worked = True
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

    def _find(self, connection: Connection) -> bool:
        """Give the connection something to do; False if nothing is left to do, or it is one too many."""
        with self._transfer.changed:
            while not connection.cancel.is_set():
                if connection.claim is not None and connection.claim.left != 0:
                    return True
                if connection.claim is not None:
                    self._transfer.ledger.release(connection.claim)
                if self._others_moving(connection) >= self._growth.target:
                    return False
                connection.claim = self._next() or self._take_over()
                if connection.claim is None and not self._wait_for_claims():
                    return False
        return False

    def _others_moving(self, connection: Connection) -> int:
        now = time.monotonic()
        moving = [other for other in self._alive if other.moving(now, self._patience)]
        return len(moving) - moving.count(connection)

    def _wait_for_claims(self) -> bool:
        """Wait for a change while other connections have claims that may come free; False if there are none."""
        if not self._transfer.ledger.claims:
            return False
        self._transfer.changed.wait(self._patience)
        return True

    def _next(self) -> Claim | None:
        ledger = self._transfer.ledger
        claim = ledger.claim_rest() if self._growth.limit == 1 else ledger.claim_piece(self._piece)
        if claim is not None:
            self._watch_over(claim)
        return claim

    def _watch_over(self, claim: Claim) -> None:
        claim.moved = time.monotonic()
        claim.patience = self._patience

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
        """One request for the connection's claim. Raises Failure if it brought nothing, and did not work before."""
        claim = connection.claim
        assert claim is not None
        begun_at = claim.pos
        failure: Failure | None = None
        try:
            with self._cancel.watch(connection.cancel.set):
                self._transfer.fetch_part(claim, connection.cancel)
        except Failure as e:
            failure = e
        gained = claim.pos - begun_at
        if claim.left == 0 or gained >= least_progress(self._transfer.ledger.total):
            connection.worked = True
        elif connection.worked:
            connection.worked = False
            connection.cancel.sleep(SECOND_CHANCE)  # the server may still count a connection closed a moment ago
        else:
            raise failure or Failure(f"it sent {gained:,} bytes of what was asked for")
