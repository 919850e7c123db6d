"""One rank acts and every rank gets its result: a state machine over one key of the store.

    key                 the claim of the rank that acts: its process, and a nonce
    key/<nonce>/beat    its signs of life, counted while it acts (`life`)
    key/<nonce>/out     its outcome: {"ok": value} or an error's record, written once

    claim it unless it is claimed ── ours ──> act, publish the outcome, success or error
      theirs
    wait for the outcome, or for the leader's death ── outcome ──> it binds this rank
      dead, or an outcome too old to bind
    claim it in the old claim's place, and so on

Not a barrier: no rank waits for a particular rank, so one that never calls holds up none. Invariants: a wait is
bounded by the leader's life, never by a clock or the process group's time-out; an outcome binds the ranks that waited
for it, and later callers while it is fresh, but no process twice (a second call wants a new try) and no process that
started after it; it is decided by compare_set, so that all ranks, the leader too, read the same one.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from nanocache.coordination.process import Identity, me

from ..errors import CoordinatorLost, LeaderLost, as_it_travels, from_record, to_record
from .clock import Moment
from .coordinator import Coordinator, pauses
from .life import Vital, alive

__all__ = ["LeaderClaim", "Verdict", "decide", "forget"]

logger = logging.getLogger("nanodist")

GLANCE = 0.05  # seconds between two looks at a leader's process on this host
LARGEST = 2 << 20  # bytes of an outcome; the store resets connections at 16 MiB


@dataclass(frozen=True, slots=True)
class LeaderClaim:
    """The rank that acts. The nonce tells this claim from any other of the same process."""

    nonce: str
    rank: int
    made: Moment
    process: Identity

    @property
    def text(self) -> str:
        record = {"nonce": self.nonce, "rank": self.rank, "made": self.made.to_json(), "who": self.process.to_json()}
        return json.dumps(record)

    @classmethod
    def parse(cls, text: str) -> LeaderClaim:
        record = json.loads(text)
        return cls(record["nonce"], record["rank"], Moment.parse(record["made"]), Identity(**record["who"]))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the leader's act gave, and which rank led."""

    value: Any
    leader: LeaderClaim
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
    def of_error(cls, error: BaseException, claim: LeaderClaim) -> Outcome:
        return cls(to_record(error, rank=claim.rank, host=claim.process.host) | _ended())

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
    coordinator: Coordinator,
    key: str,
    act: Callable[[], Any],
    *,
    fresh: float = float("inf"),
    once: str | None = None,
    limit: int = LARGEST,
) -> Verdict:
    """What `act` gave on the one rank that ran it.

    `fresh`: seconds for which an outcome binds later callers. `once`: the act's name, if it may not be done
    twice: a dead leader is LeaderLost on every rank then, else it is replaced.

    Raises what `act` raised, the same class with the same facts on every rank, if it is an error of ours; LeaderError
    for any other (SystemExit and KeyboardInterrupt stay themselves on the leader); TypeError for a value that can't
    travel; CoordinatorLost.
    """
    mine = LeaderClaim(uuid.uuid4().hex, coordinator.rank, Moment.now(), me())
    seen = coordinator.compare_set(key, "", mine.text)
    while seen != mine.text:
        theirs = LeaderClaim.parse(seen)
        outcome, waited = _follow(coordinator, key, theirs)
        if isinstance(outcome, str) and once is not None and theirs.made.age() <= coordinator.oldest():
            outcome = _declare_lost(coordinator, key, theirs, once, outcome)
        if isinstance(outcome, Outcome) and (waited or _binds(coordinator, key, theirs, outcome, fresh)):
            coordinator.last_outcome[key] = theirs.nonce
            return Verdict(outcome.result(), theirs, led=False)
        seen = coordinator.compare_set(key, seen, mine.text)
    coordinator.last_outcome[key] = mine.nonce
    return _lead(coordinator, key, mine, act, limit)


def forget(coordinator: Coordinator, key: str) -> None:
    """Be done with a key that is decided once; the last of all ranks to be done deletes what was said under it.

    A million decisions would leave a GB in the process that serves the store. A rank that was started anew does not
    count, nor does any where agents restart ranks on their own: there the keys stay, because a rank might yet read
    them.
    """
    coordinator.last_outcome.pop(key, None)
    if coordinator.lost is not None or not coordinator.is_first_start:
        return
    with suppress(CoordinatorLost):
        if coordinator.add(f"{key}/done", 1) == coordinator.world_size:
            beat = _beat_key(key, LeaderClaim.parse(coordinator.get(key)))
            for gone in (beat, beat.removesuffix("beat") + "out", f"{key}/done", key):
                coordinator.delete(gone)


def _binds(coordinator: Coordinator, key: str, claim: LeaderClaim, outcome: Outcome, fresh: float) -> bool:
    """Whether an outcome that was there already binds this process: it is fresh, and not the one it had before."""
    if coordinator.last_outcome.get(key) == claim.nonce:
        return False
    return outcome.binds(min(fresh, coordinator.oldest()))


def _lead(coordinator: Coordinator, key: str, claim: LeaderClaim, act: Callable[[], Any], limit: int) -> Verdict:
    with alive(coordinator, _beat_key(key, claim), claim.nonce):  # its end would delay the publishing
        try:
            value = act()
        except BaseException as e:  # noqa: BLE001 - it is raised again
            _publish(coordinator, key, claim, Outcome.of_error(e, claim))
            travelling = as_it_travels(e, rank=claim.rank, host=claim.process.host)
            try:
                if travelling is e:
                    raise
                raise travelling from e
            finally:
                del travelling  # else it holds itself by its traceback, and a peer's thread until it is collected
        try:
            outcome = Outcome.of_value(value, limit)
        except TypeError as e:
            outcome = Outcome.refused(e)
        decided = _publish(coordinator, key, claim, outcome)
    return Verdict(decided.result(), claim, led=True)


def _beat_key(key: str, claim: LeaderClaim) -> str:
    return f"{key}/{claim.nonce}/beat"


def _publish(coordinator: Coordinator, key: str, claim: LeaderClaim, outcome: Outcome) -> Outcome:
    """Write the outcome, unless another is there: then that one counts."""
    text = json.dumps(outcome.record)
    try:
        return Outcome(json.loads(coordinator.compare_set(f"{key}/{claim.nonce}/out", "", text)))
    except CoordinatorLost as e:
        logger.warning("%s; the other ranks do not learn how %s ended", e, key)
        return outcome


def _follow(coordinator: Coordinator, key: str, claim: LeaderClaim) -> tuple[Outcome | str, bool]:
    """The outcome of a claim, or why its leader counts as lost; and whether this rank waited for it."""
    out = f"{key}/{claim.nonce}/out"
    if coordinator.check(out):
        return Outcome(json.loads(coordinator.get(out))), False
    vital = Vital(coordinator, _beat_key(key, claim), claim.nonce, claim.process)
    looks = pauses(coordinator.world_size)
    with _reading(coordinator):
        while True:
            # Life first: a leader that published and died at once is not lost.
            lost = vital.lost()
            if coordinator.wait(out, 0 if lost else GLANCE, looks):
                return Outcome(json.loads(coordinator.get(out))), True
            if lost:
                return lost, True


def _declare_lost(coordinator: Coordinator, key: str, claim: LeaderClaim, name: str, reason: str) -> Outcome:
    """Have all ranks agree that the leader is lost, unless it has an outcome after all."""
    lost = LeaderLost(key=name, rank=claim.rank, host=claim.process.host, pid=claim.process.pid, reason=reason)
    return _publish(coordinator, key, claim, Outcome.of_error(lost, claim))


@contextmanager
def _reading(coordinator: Coordinator) -> Iterator[None]:
    """Be counted as a reader, so that a process which hosts the store does not end under its readers."""
    if coordinator.where.lasting:
        yield
        return
    coordinator.add("following", 1)
    try:
        yield
    finally:
        with suppress(CoordinatorLost):
            coordinator.add("following", -1)
