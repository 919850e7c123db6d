"""One source, asked until it has given the artifact or is given up: what is asked, what each kind of failure leads to.

    begin: a plain GET, or a range if there are bytes to build on
    small: received here.  Large: handed to connections, hashed behind them (one, or many in ranges)
    failed: what came is kept; wait, ask again. Odd parts or a wrong digest: once more, from zero
    finish: compare the digest of what lies on disk

Invariants: bytes are built on only with a strong validator or a digest to judge them; each source ends after a bounded
number of tries without progress; state, progress and the hash are the calling thread's alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack

from ..artifact.urls import redact
from ..callers import suppress
from ..cancel import Cancel
from ..disk.hashing import Vanished, git_sha1
from ..errors import ChecksumMismatch
from ..events import Retry, tell
from ..http import slots
from ..http.failure import Failure, Slow, StartOver
from ..http.slots import Busy
from ..store.partials import Abandoned
from . import instead
from .connections import Connection, Connections
from .ledger import SMALLEST_PIECE, WAITED_PIECE
from .request import Downloaded, DownloadRequest, NotModified
from .resume import SaveSchedule
from .retry import Tries, least_progress
from .transfer import Body, Transfer

__all__ = ["Attempts"]

logger = logging.getLogger("nanocache")

SMALL = 1 << 20  # bytes up to which a body is received, then hashed, by the calling thread alone
WORTH_SPLITTING = 4  # pieces of the smallest size, for more than one connection
LONGEST_SLEEP = 1.0  # seconds; after each the waiters get a sign of life, and the partial stays ours


class Attempts:
    """All attempts of one call to have the artifact from one source."""

    def __init__(
        self,
        transfer: Transfer,
        request: DownloadRequest,
        cancel: Cancel,
        report: Callable[[int, int | None], None],
        *,
        started_over: bool = False,
    ) -> None:
        self._transfer = transfer
        self._request = request
        self._cancel = cancel
        self._report = report
        self._tries = Tries(request.settings.retries)
        self._started_over = started_over

    def run(self) -> Downloaded | NotModified:
        """Raises Failure or ChecksumMismatch if this source does not give the artifact, StartOver to ask it anew."""
        outcome = None
        self._transfer.resume()
        try:
            outcome = self._repeat()
            return outcome
        except ChecksumMismatch:
            self._transfer.restart()
            raise
        finally:
            if outcome is None or self._transfer.partial.state is not None:  # a small one that is here needs no state
                with suppress(Abandoned, OSError):  # something else is being raised, or the bytes are all here
                    self._transfer.save()

    def _repeat(self) -> Downloaded | NotModified:
        most = self._transfer.ledger.received  # more than ever before is progress; as much again, from zero, is none
        while True:
            try:
                return self._attempt()
            except Vanished as e:
                self._start_over(str(e.strerror))
            except StartOver as e:
                self._start_over(e.reason)
            except Busy:
                pass
            except Failure as e:
                received = self._transfer.ledger.received
                self._pause(e, received - most)
                most = max(most, received)

    # --- between attempts ---------------------------------------------------------------------------------------------

    def _start_over(self, reason: str) -> None:
        if self._started_over:
            raise Failure(reason, lasting=True)
        self._started_over = True
        logger.info("%s: %s; it is fetched from the first byte on", self._transfer.shown_url, reason)
        self._transfer.restart()
        if self._transfer.is_resolved:  # its source may say something else of it by now
            raise StartOver(reason)

    def _pause(self, failure: Failure, gained: int) -> None:
        progress = gained >= least_progress(self._transfer.ledger.total) and not isinstance(failure, Slow)
        seconds = self._tries.wait(failure, progress=progress)
        if not progress:
            self._transfer.ask_anew()
        logger.info("%s: %s; asking again in %.1f s", self._transfer.shown_url, failure.reason, seconds)
        tell(Retry(self._transfer.shown_url, failure.reason, seconds))
        while seconds > 0:
            self._transfer.save()
            self._tell()
            self._cancel.sleep(min(seconds, LONGEST_SLEEP))
            seconds -= LONGEST_SLEEP

    # --- one attempt --------------------------------------------------------------------------------------------------

    def _attempt(self) -> Downloaded | NotModified:
        ledger = self._transfer.ledger
        if ledger.done and not self._transfer.resumable:
            self._transfer.restart()
        while not self._transfer.ledger.complete:
            before = self._transfer.ledger.received
            if not self._ask():
                return NotModified()
            self._check_progress(self._transfer.ledger.received - before)
        return self._finish()

    def _check_progress(self, gained: int) -> None:
        ledger = self._transfer.ledger
        if not ledger.complete and gained < least_progress(ledger.total):
            raise Failure(f"it sent {gained:,} bytes of what was asked for")

    def _ask(self) -> bool:
        """One request, and what follows from its answer until no connection is left; False if nothing was modified."""
        first = Connection()
        with ExitStack() as answer:
            answer.enter_context(self._cancel.watch(first.cancel.set))
            body = answer.enter_context(self._transfer.begin(first.cancel))
            if body is None:
                return False
            first.claim = body.claim
            self._settle_if_alone()
            if not self._is_small() or not self._receive_here(body, first.cancel):
                self._receive_by_connections(first, body, answer)
        return True

    def _settle_if_alone(self) -> None:
        turn = self._request.turn
        if turn is not None and not self._is_parallel():
            turn.settle()

    def _is_small(self) -> bool:
        total = self._transfer.ledger.total
        return total is None or total <= SMALL

    def _receive_here(self, body: Body, cancel: Cancel) -> bool:
        """Whether all of the body came; False if it turns out not to be small."""
        for _ in self._transfer.receive(body, cancel):
            self._tell()  # on a slow line a MiB takes minutes, and waiters would think that nothing moves
            if body.claim.pos >= SMALL and body.claim.left != 0:
                return False
        return True

    def _receive_by_connections(self, first: Connection, body: Body, answer: ExitStack) -> None:
        settings = self._request.settings
        limit = slots.most(limit=settings.connections, budget=settings.budget) if self._is_parallel() else 1
        latency = body.response.latency
        schedule = SaveSchedule()
        with Connections(
            self._transfer,
            self._cancel,
            limit=limit,
            smallest=self._smallest_piece,
            latency=latency,
            turn=self._request.turn,
        ) as connections:
            if not connections.go_on(first, body, answer):
                self._receive_in_this_thread(body, first.cancel, schedule)
                return
            while connections.running():
                if not self._look_after(schedule):
                    connections.wait()

    def _receive_in_this_thread(self, body: Body, cancel: Cancel, schedule: SaveSchedule) -> None:
        for _ in self._transfer.receive(body, cancel):
            while self._look_after(schedule):
                pass

    def _look_after(self, schedule: SaveSchedule) -> bool:
        """Save, report, and hash a block; False if there was nothing to hash."""
        self._save_if_due(schedule)
        self._tell()
        return self._transfer.hash_more()

    def _save_if_due(self, schedule: SaveSchedule) -> None:
        received = self._transfer.ledger.received
        if schedule.due(received):
            with schedule.measured(received):
                self._transfer.save()

    def _is_parallel(self) -> bool:
        if self._started_over or not self._transfer.splittable:
            return False
        lacking = self._transfer.lacking
        return lacking is not None and lacking >= WORTH_SPLITTING * self._smallest_piece

    @property
    def _smallest_piece(self) -> int:
        return SMALLEST_PIECE if self._request.turn is None else WAITED_PIECE

    def _tell(self) -> None:
        with self._transfer.changed:
            received, total = self._transfer.ledger.received, self._transfer.ledger.total
        self._report(received, total)
        self._transfer.partial.check_owner()  # the report may have forked: no connection's thread is in the child

    # --- the end ------------------------------------------------------------------------------------------------------

    def _finish(self) -> Downloaded:
        came = self._transfer.finish(self._cancel)
        self._report(came.size, came.size)
        if self._request.digest is None:
            self._look_at(came)
        expected = self._request.digest or self._transfer.vouched
        if expected is not None and came.digest != expected:
            self._refuse(came, expected)
        self._check_git_sha1(came)
        return came

    def _check_git_sha1(self, came: Downloaded) -> None:
        """An extra check, where a Hub says what git calls the file."""
        expected = self._request.git_sha1
        if expected is None or (got := git_sha1(self._transfer.partial.fd, came.size, self._cancel)) == expected:
            return
        raise StartOver(f"git calls it {expected}, and what came {got}")

    def _look_at(self, came: Downloaded) -> None:
        """What a digest would have judged."""
        if not self._request.known and instead.is_pointer(self._transfer.head(), came.size):
            self._transfer.restart()
            raise Failure(
                instead.LFS_POINTER, lasting=True, remedy="give the pointer's own sha256 to have it all the same"
            )
        if came.content_encoding is not None:
            logger.warning(
                "%s came with Content-Encoding: %s, which was not asked for; it is kept as it came, still encoded, and "
                "the next time may come otherwise: give its sha256",
                redact(came.url),
                came.content_encoding,
            )

    def _refuse(self, came: Downloaded, expected: str) -> None:
        if self._transfer.doubtful and not self._started_over:
            raise StartOver("its parts do not make the file")
        encoding = f"it was sent with Content-Encoding: {came.content_encoding}" if came.content_encoding else ""
        seems = instead.recognise(self._transfer.head(), came.size, self._request.name)
        raise ChecksumMismatch(
            url=redact(came.url),
            expected=expected,
            got=came.digest,
            size=came.size,
            note="; ".join(filter(None, (encoding, seems))),
        )
