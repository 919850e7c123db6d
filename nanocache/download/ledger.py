"""Which bytes are here, who is fetching which, and which come next.

Pure bookkeeping: no socket, no file, no thread, no clock of its own; whoever shares a ledger guards it. Ranges are
half open, [start, end). Invariants: what is `done` was written; two claims never overlap; pieces are handed out from
the front, so that the frontier is never more than connections x piece behind, and nothing is written far beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["Claim", "Ledger", "piece_size"]

SMALLEST_PIECE, LARGEST_PIECE = 4 << 20, 16 << 20  # bytes

Range = tuple[int, int]


def piece_size(total: int, connections: int) -> int:
    """Bytes of a piece: a few for each connection, so that none waits long for the last one."""
    return max(SMALLEST_PIECE, min(LARGEST_PIECE, total // (4 * connections) >> 20 << 20))


@dataclass(slots=True, eq=False)
class Claim:
    """A range that one connection is fetching: [pos, end) is still to come. `end` None: to wherever the body ends."""

    pos: int
    end: int | None
    reach: int | None = None  # where the body that is being received ends: further than `end` if others took the rest
    moved: float = 0.0  # when its last byte came
    writing: bool = False  # it stands still because of this machine's disk
    patience: float = math.inf  # seconds that it may stand still before somebody idle takes it over

    @property
    def left(self) -> int | None:
        return None if self.end is None else self.end - self.pos


class Ledger:
    """One artifact's ranges."""

    def __init__(self, total: int | None = None, done: Iterable[Range] = ()) -> None:
        self.total = total
        self.done: list[Range] = []  # sorted, disjoint, not touching
        self.claims: list[Claim] = []
        for start, end in done:
            self.add(start, end)

    @property
    def frontier(self) -> int:
        """The end of what is there without a gap from the first byte on."""
        return self.done[0][1] if self.done and self.done[0][0] == 0 else 0

    @property
    def received(self) -> int:
        return sum(end - start for start, end in self.done)

    @property
    def complete(self) -> bool:
        return self.total is not None and self.frontier == self.total

    def add(self, start: int, end: int) -> None:
        """Mark [start, end) as done."""
        if start >= end:
            return
        apart = [(a, b) for a, b in self.done if b < start or end < a]
        touching = [(a, b) for a, b in self.done if not (b < start or end < a)]
        merged = (min([start, *(a for a, _ in touching)]), max([end, *(b for _, b in touching)]))
        self.done = sorted([*apart, merged])

    def advance(self, claim: Claim, count: int) -> None:
        """`count` bytes of a claim were written. What was taken away from it meanwhile is somebody else's."""
        end = claim.pos + count if claim.end is None else min(claim.pos + count, claim.end)
        self.add(claim.pos, end)
        claim.pos = end

    def release(self, claim: Claim) -> None:
        """Give back what is left of a claim: to the stream that was on its way there, or to whoever comes next."""
        if claim in self.claims:
            self.claims.remove(claim)
        for stream in self.claims:
            if stream.left and stream.reach is not None:
                taken = [start for start, _ in self.done] + [c.pos for c in self.claims]
                stream.end = min([stream.reach, *(at for at in taken if at >= self._end(stream))])

    def _claim(self, start: int, end: int | None) -> Claim:
        claim = Claim(start, end)
        self.claims.append(claim)
        return claim

    def _end(self, claim: Claim) -> int:
        return (self.total or 0) if claim.end is None else claim.end

    def _free(self) -> Iterator[Range]:
        assert self.total is not None
        at = 0
        for start, end in sorted([*self.done, *((c.pos, self._end(c)) for c in self.claims)]):
            if at < start:
                yield at, start
            at = max(at, end)
        if at < self.total:
            yield at, self.total

    def claim_rest(self) -> Claim | None:
        """The first gap, whole: one request for all of it."""
        if self.total is None:
            return self._claim(self.frontier, None)
        gap = next(self._free(), None)
        return None if gap is None else self._claim(*gap)

    def claim_piece(self, size: int) -> Claim | None:
        """The first piece that nobody fetches, even if somebody is on the way to it and has it cut off his claim."""
        if self.total is None:
            return None
        gap = next(self._free(), (self.total, self.total))
        cut = min(self._cuts(size), key=lambda c: self._cut(c, size), default=None)
        if cut is not None and (start := self._cut(cut, size)) < gap[0]:
            gap, cut.end = (start, self._end(cut)), start
        start, end = gap
        return self._claim(start, min(end, (start // size + 1) * size)) if start < end else None

    def _cuts(self, size: int) -> list[Claim]:
        return [c for c in self.claims if self._cut(c, size) < self._end(c)]

    def _cut(self, claim: Claim, size: int) -> int:
        return (claim.pos // size + 1) * size

    def take_over(self, now: float) -> tuple[Claim, Claim] | None:
        """(what is left of the claim that has stood still for the longest, that claim, now empty), or None."""
        still = [c for c in self.claims if c.left and not c.writing and now - c.moved > c.patience]
        if not still:
            return None
        old = min(still, key=lambda c: c.moved)
        claim = self._claim(old.pos, old.end)
        # Twice as patient, lest two idle connections take a slow range from each other for ever.
        claim.moved, claim.patience, old.end = now, 2 * old.patience, old.pos
        return claim, old
