"""Which bytes are here, which connection is fetching which, and which come next.

Pure bookkeeping: no socket, no file, no thread, no clock of its own; threads that share a ledger guard it. Ranges are
half open, [start, end). Invariants: what is `done` was written; two claims never overlap; pieces are handed out from
the front, so that the contiguous bytes are never more than connections x piece behind, and nothing is written far
beyond them.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Claim", "Ledger", "Range", "piece_size"]

SMALLEST_PIECE = 4 << 20  # bytes
WAITED_PIECE = 2 << 20  # bytes of the smallest piece of a shard: a loop waits for it, and shards are small
LARGEST_PIECE = 16 << 20  # bytes

Range = tuple[int, int]


def piece_size(total: int, connections: int, smallest: int) -> int:
    """Bytes of a piece: a few for each connection, so that none waits long for the last one."""
    return max(smallest, min(LARGEST_PIECE, total // (4 * connections) >> 20 << 20))


@dataclass(slots=True, eq=False)
class Claim:
    """A range that one connection is fetching: [pos, end) is still to come. `end` None: to wherever the body ends."""

    pos: int
    end: int | None
    reach: int | None = None  # where the body that is being received ends: beyond `end` if others took the rest
    moved: float = 0.0  # seconds of a monotonic clock at which its last bytes came
    writing: bool = False  # it stands still because of this machine's disk
    patience: float = math.inf  # seconds that it may stand still before an idle connection takes it over

    @property
    def left(self) -> int | None:
        return None if self.end is None else self.end - self.pos

    def idle(self, now: float) -> float:
        """Seconds for which its connection has waited for bytes."""
        return now - self.moved if self.left and not self.writing else 0.0


class Ledger:
    """One artifact's ranges."""

    def __init__(self, total: int | None = None, done: Iterable[Range] = ()) -> None:
        self.total = total
        self.done: list[Range] = []  # sorted, disjoint, not touching
        self.received = 0  # bytes
        self.contiguous = 0  # bytes that are here without a gap, counted from the first one
        self.claims: list[Claim] = []
        for start, end in done:
            self.add(start, end)

    @property
    def complete(self) -> bool:
        return self.total is not None and self.contiguous == self.total

    def add(self, start: int, end: int) -> None:
        """Mark [start, end) as done."""
        if start >= end:
            return
        self.done = _merged([*self.done, (start, end)])
        self.received = sum(end - start for start, end in self.done)
        first_start, first_end = self.done[0]
        self.contiguous = 0 if first_start else first_end

    def set_total(self, total: int, claim: Claim) -> None:
        """The answer that `claim` waits for says how long the artifact is."""
        self.total = total
        if claim.end is None:
            claim.end = total

    def advance(self, claim: Claim, count: int) -> None:
        """`count` bytes of a claim were written. Those that another connection took over meanwhile are not counted."""
        end = claim.pos + count
        if claim.end is not None:
            end = min(end, claim.end)
        self.add(claim.pos, end)
        claim.pos = end

    def finish(self, claim: Claim) -> None:
        """The body of a claim ended. Without a length that is where the artifact ends."""
        if claim.end is None:
            self.set_total(claim.pos, claim)

    def release(self, claim: Claim) -> None:
        """Give back what is left of a claim: to the body that was on its way there, else to the next connection."""
        if claim in self.claims:
            self.claims.remove(claim)
        for other in self.claims:
            if other.left and other.reach is not None:
                other.end = min(other.reach, self._first_taken(_end(other)))

    def _taken(self) -> list[Range]:
        """What is here or claimed, from the front."""
        return sorted([*self.done, *((claim.pos, _end(claim)) for claim in self.claims)])

    def _first_taken(self, pos: int) -> int:
        """Where, from `pos` on, something begins that is here or claimed; the largest int if nothing does."""
        return next((start for start, _ in self._taken() if start >= pos), sys.maxsize)

    def _claim(self, start: int, end: int | None) -> Claim:
        claim = Claim(start, end)
        self.claims.append(claim)
        return claim

    def _free(self) -> Iterator[Range]:
        """The gaps, which are neither done nor claimed, from the front."""
        assert self.total is not None
        free_from = 0
        for start, end in self._taken():
            if free_from < start:
                yield free_from, start
            free_from = max(free_from, end)
        if free_from < self.total:
            yield free_from, self.total

    def claim_rest(self) -> Claim | None:
        """The first gap, whole: one request for all of it."""
        if self.total is None:
            return self._claim(self.contiguous, None)
        gap = next(self._free(), None)
        return None if gap is None else self._claim(*gap)

    def claim_piece(self, size: int) -> Claim | None:
        """The first piece that no connection has begun, even if it has to be cut off the end of another claim."""
        if self.total is None:
            return None
        start, end = next(self._free(), (self.total, self.total))
        claim = self._first_divisible(size)
        if claim is not None and _next_piece(claim.pos, size) < start:
            start, end = _next_piece(claim.pos, size), _end(claim)
            claim.end = start
        return self._claim(start, min(end, _next_piece(start, size))) if start < end else None

    def _first_divisible(self, size: int) -> Claim | None:
        """The first claim in which another piece begins."""
        divisible = [claim for claim in self.claims if _next_piece(claim.pos, size) < _end(claim)]
        return min(divisible, key=lambda claim: claim.pos, default=None)

    def take_over(self, now: float) -> tuple[Claim, Claim] | None:
        """(what is left of the claim that has stood still for the longest, that claim, now empty), or None."""
        still = [claim for claim in self.claims if claim.idle(now) > claim.patience]
        if not still:
            return None
        old = min(still, key=lambda claim: claim.moved)
        claim = self._claim(old.pos, old.end)
        claim.moved = now
        claim.patience = 2 * old.patience  # lest two idle connections take a slow range from each other for ever
        old.end = old.pos
        return claim, old


def _end(claim: Claim) -> int:
    """Only a claim of unknown length has no end, and it is the only one then."""
    assert claim.end is not None
    return claim.end


def _next_piece(pos: int, size: int) -> int:
    """Where the piece after the one that holds `pos` begins."""
    return (pos // size + 1) * size


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in ranges that are sorted and neither overlap nor touch."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged
