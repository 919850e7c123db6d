"""One rank acts, every rank gets what came of it: a state machine over one key of the store.

    key                 the claim of the rank that acts: who it is, and a nonce
    key/<nonce>/beat    its signs of life, counted: one a second while it acts
    key/<nonce>/out     what came of it: {"ok": value} or an error's record, written once

    claim it if nobody has ── ours ──> act, publish the outcome, success or error
      theirs
    wait for the outcome, or for the leader's death ── outcome ──> it binds us
      dead, or an outcome too old to bind
    claim it in the old claim's place, and so on

Not a barrier: nobody waits for a particular rank, so one that never calls holds up nobody. Invariants: a wait is
bounded by the leader's life, never by a clock or the process group's time-out; an outcome binds those who waited for
it and later callers while it is fresh, but nobody twice (whoever asks again wants a new try) and nobody who was born
after it; it is decided by compare_set, so that all ranks, the leader too, read the same one.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from nanocache.coordination.process import Identity, me
from nanocache.errors import NanocacheError

from ..errors import CoordinatorLost, LeaderLost, from_record, leader_error, to_record
from .clock import Moment
from .coordinator import Coordinator, pauses

__all__ = ["Claim", "Verdict", "decide"]

logger = logging.getLogger("nanodist")

BEAT = 1.0  # seconds between two signs of life
STALE = 15.0  # seconds without one before the leader counts as lost; 1.7 s of held GIL were seen in real work
GLANCE = 0.05  # seconds between two looks at a leader's process on this host
LARGEST = 1 << 20  # bytes of an outcome; the store resets connections at 16 MiB


@dataclass(frozen=True, slots=True)
class Claim:
    """Who acts. The nonce tells this claim from any other of the same process."""

    nonce: str
    rank: int
    made: Moment
    who: Identity

    @property
    def text(self) -> str:
        made, who = self.made.to_json(), self.who.to_json()
        return json.dumps({"nonce": self.nonce, "rank": self.rank, "made": made, "who": who})

    @classmethod
    def parse(cls, text: str) -> Claim:
        record = json.loads(text)
        return cls(record["nonce"], record["rank"], Moment.parse(record["made"]), Identity(**record["who"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the leader's act gave, and who led."""

    value: Any
    leader: Claim
    led: bool  # by this process


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an act ended: a value, or the record of an error."""

    record: dict[str, Any]

    @classmethod
    def of_value(cls, value: Any, limit: int) -> Outcome:
        """Raises TypeError for a value that is not JSON or, encoded, larger than `limit` bytes."""
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as e:
            raise TypeError(f"the leader's result must be None or JSON: {e}") from None
        if json.loads(text) != value:
            raise TypeError("the leader's result must be JSON that comes back as it went: no tuples, keys are str")
        if len(text) > limit:
            raise TypeError(f"the leader's result must be at most {limit:,} bytes of JSON, got {len(text):,}")
        return cls({"ok": value} | _ended())

    @classmethod
    def of_error(cls, error: BaseException, claim: Claim) -> Outcome:
        return cls(to_record(error, rank=claim.rank, host=claim.who.host) | _ended())

    @classmethod
    def refused(cls, error: TypeError) -> Outcome:
        return cls({"error": "TypeError", "facts": {"text": str(error)}} | _ended())

    def binds(self, seconds: float) -> bool:
        """Whether it ended within the last `seconds`. Of another host, an hour of skew is an attempt more, or an old
        answer, never a wrong file."""
        return Moment.parse(self.record["ended"]).age() <= seconds

    def result(self) -> Any:
        """The value. Raises the error, anew."""
        if "ok" in self.record:
            return self.record["ok"]
        raise from_record(self.record)


def _ended() -> dict[str, Any]:
    return {"ended": Moment.now().to_json()}


def decide(
    at: Coordinator,
    key: str,
    act: Callable[[], Any],
    *,
    fresh: float = float("inf"),
    once: str | None = None,
    limit: int = LARGEST,
) -> Verdict:
    """What `act` gave on the one rank that ran it.

    `fresh`: seconds for which an outcome binds those who come later. `once`: the act's name, if it may not be done
    twice: a dead leader is LeaderLost on every rank then, else it is replaced.

    Raises what `act` raised, the same class with the same facts on every rank, if it is an error of ours; LeaderError
    for any other (SystemExit and KeyboardInterrupt stay themselves on the leader); TypeError for a value that can't
    travel; CoordinatorLost.
    """
    mine = Claim(uuid.uuid4().hex, at.rank, Moment.now(), me())
    seen = at.compare_set(key, "", mine.text)
    while seen != mine.text:
        theirs = Claim.parse(seen)
        outcome, waited = _follow(at, key, theirs)
        if outcome is None and once is not None and theirs.made.age() <= at.oldest():
            outcome = _declare_lost(at, key, theirs, once)
        known = at.told.get(key) == theirs.nonce
        if outcome is not None and (waited or (not known and outcome.binds(min(fresh, at.oldest())))):
            at.told[key] = theirs.nonce
            return Verdict(outcome.result(), theirs, led=False)
        seen = at.compare_set(key, seen, mine.text)
    at.told[key] = mine.nonce
    return _lead(at, key, mine, act, limit)


def _lead(at: Coordinator, key: str, claim: Claim, act: Callable[[], Any], limit: int) -> Verdict:
    with _beating(at, f"{key}/{claim.nonce}/beat"):  # around the publishing too: ending the thread would delay it
        try:
            value = act()
        except BaseException as e:
            _publish(at, key, claim, Outcome.of_error(e, claim))
            if isinstance(e, NanocacheError) or not isinstance(e, Exception):
                raise
            raise leader_error(e, rank=claim.rank, host=claim.who.host) from e
        try:
            outcome = Outcome.of_value(value, limit)
        except TypeError as e:
            outcome = Outcome.refused(e)
        decided = _publish(at, key, claim, outcome)
    return Verdict(decided.result(), claim, led=True)


def _publish(at: Coordinator, key: str, claim: Claim, outcome: Outcome) -> Outcome:
    """Write the outcome, unless another is there: then that one counts."""
    text = json.dumps(outcome.record)
    try:
        return Outcome(json.loads(at.compare_set(f"{key}/{claim.nonce}/out", "", text)))
    except CoordinatorLost as e:
        logger.warning("%s; the other ranks do not learn how %s ended", e, key)
        return outcome


def _follow(at: Coordinator, key: str, claim: Claim) -> tuple[Outcome | None, bool]:
    """The outcome of a claim, and whether we waited for it; no outcome if its leader is lost."""
    out = f"{key}/{claim.nonce}/out"
    if at.check(out):
        return Outcome(json.loads(at.get(out))), False
    vital = _Vital(at, key, claim)
    looks = pauses(at.world_size)
    with _reading(at):
        while True:
            # Life first: a leader that published and died at once is not lost.
            lost = vital.lost()
            if at.wait(out, 0 if lost else GLANCE, looks):
                return Outcome(json.loads(at.get(out))), True
            if lost:
                return None, True


def _declare_lost(at: Coordinator, key: str, claim: Claim, name: str) -> Outcome:
    """Have all ranks agree that the leader is lost, unless it has an outcome after all."""
    reason = "its process is gone" if claim.who.alive is False else f"no sign of life for {STALE:g} s"
    lost = LeaderLost(key=name, rank=claim.rank, host=claim.who.host, pid=claim.who.pid, reason=reason)
    return _publish(at, key, claim, Outcome.of_error(lost, claim))


class _Vital:
    """Whether a leader still lives: its process where that can be seen from here, its beat everywhere."""

    def __init__(self, at: Coordinator, key: str, claim: Claim) -> None:
        self._at, self._beat, self._who = at, f"{key}/{claim.nonce}/beat", claim.who
        self._last = 0
        self._moved = time.monotonic()  # when the beat was last seen to move; one that never came counts from here
        self._listen = 0.0

    def lost(self) -> bool:
        if self._who.alive is False:
            return True
        now = time.monotonic()
        if now >= self._listen:
            self._listen = now + STALE / 4
            self._hear(now)
        return now - self._moved > STALE

    def _hear(self, now: float) -> None:
        # Of a leader on this host too: a stopped process is there, and does nothing.
        beat = self._at.add(self._beat, 0)
        if beat != self._last:
            self._last, self._moved = beat, now


@contextmanager
def _beating(at: Coordinator, key: str) -> Iterator[None]:
    """Give a sign of life once a second while the block runs, from a thread that ends with it."""
    done = threading.Event()

    def beat() -> None:
        try:
            while not done.wait(BEAT):
                at.add(key, 1)
        except CoordinatorLost:
            pass  # the act goes on; whoever publishes will see it

    thread = threading.Thread(target=beat, name="nanodist-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        # A thread inside the store while the interpreter ends aborts the process; a frozen store must not hold us.
        thread.join(timeout=BEAT)


@contextmanager
def _reading(at: Coordinator) -> Iterator[None]:
    """Be counted among those who read, so that a process which hosts the store does not end under them."""
    if at.where.lasting:
        yield
        return
    at.add("following", 1)
    try:
        yield
    finally:
        with suppress(CoordinatorLost):
            at.add("following", -1)
