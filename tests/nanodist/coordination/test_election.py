"""The state machine, on a store that is a dict and a clock that the test moves."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from nanocache.coordination.process import Identity, me
from nanocache.errors import DownloadFailed
from nanodist import LeaderError, LeaderLost, errors
from nanodist.coordination import election
from nanodist.coordination.clock import Moment
from nanodist.coordination.election import LeaderClaim, decide


class FakeStore:
    """What `Coordinator` offers, in one process. `later` runs at the next look at a missing key."""

    def __init__(self, rank: int = 0) -> None:
        self.rank, self.world_size, self.age, self.lost = rank, 4, float("inf"), None
        self.last_outcome: dict[str, str] = {}
        self.where = SimpleNamespace(lasting=True)
        self.values: dict[str, str] = {}
        self.later: list[Callable[[], None]] = []
        self.boot = me().boot

    def oldest(self) -> float:
        return self.age

    def check(self, key: str) -> bool:
        if key not in self.values and self.later:
            self.later.pop(0)()
        return key in self.values

    def wait(self, key: str, seconds: float, looks: Iterator[None]) -> bool:
        next(looks)
        return self.check(key)

    def get(self, key: str) -> str:
        return self.values[key]  # the real one would block

    def set(self, key: str, value: str) -> None:
        self.values[key] = value

    def add(self, key: str, amount: int) -> int:
        self.values[key] = str(int(self.values.get(key, "0")) + amount)
        return int(self.values[key])

    def compare_set(self, key: str, expected: str, desired: str) -> str:
        if self.values.get(key, "") == expected:
            self.values[key] = desired
        return self.values[key]

    def claim(self, key: str, who: Identity, *, made: float, nonce: str = "theirs") -> LeaderClaim:
        self.boot = who.boot
        claim = LeaderClaim(nonce, 3, self.moment(made), who)
        self.values[key] = claim.text
        return claim

    def outcome(self, key: str, ended: float, nonce: str = "theirs", **record: Any) -> None:
        self.values[f"{key}/{nonce}/out"] = json.dumps(record | {"ended": self.moment(ended).to_json()})

    def moment(self, at: float) -> Moment:
        return Moment(at, at, self.boot)


def another(at: FakeStore) -> FakeStore:
    """Another rank at the same store."""
    rank = FakeStore()
    rank.values = at.values
    return rank


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.wall = 0.0  # what time.time() is off by
        monkeypatch.setattr(election.time, "time", lambda: self.now + self.wall)
        monkeypatch.setattr(election.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(election.time, "clock_gettime", lambda _: self.now)

        def pauses(world_size: int):
            while True:
                self.now += 0.5
                yield

        monkeypatch.setattr(election, "pauses", pauses)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def at(clock: Clock) -> FakeStore:
    return FakeStore()


DEAD = dataclasses.replace(me(), pid=2**22 + 1)  # no kernel gives such a pid by default
ELSEWHERE = dataclasses.replace(me(), boot="another", host="node7")


def test_first_one_leads_and_leaves_the_outcome(at: FakeStore) -> None:
    verdict = decide(at, "k", lambda: [1])
    assert (verdict.value, verdict.led) == ([1], True)
    assert decide(another(at), "k", lambda: 1 / 0).value == [1]


def test_outcome_binds_later_callers_while_it_is_fresh(at: FakeStore, clock: Clock) -> None:
    decide(at, "k", lambda: "first", fresh=60)
    clock.now += 59
    assert decide(another(at), "k", lambda: "second", fresh=60).value == "first"
    clock.now += 2
    assert decide(another(at), "k", lambda: "third", fresh=60).value == "third"


@pytest.mark.parametrize("hours", [-5, 5])
def test_clock_that_jumps_makes_no_outcome_of_this_host_older_or_younger(
    at: FakeStore, clock: Clock, hours: float
) -> None:
    at.age = 30
    decide(at, "k", lambda: "first", fresh=60)
    clock.wall = hours * 3600
    assert decide(another(at), "k", lambda: "second", fresh=60).value == "first"
    clock.now += 61
    assert decide(another(at), "k", lambda: "third", fresh=60).value == "third"


def test_outcome_binds_who_waited_however_skewed_its_clock(at: FakeStore, clock: Clock) -> None:
    at.claim("k", ELSEWHERE, made=clock.now)
    at.later = [lambda: None, lambda: at.outcome("k", clock.now - 3600, ok="theirs")]
    assert decide(at, "k", lambda: 1 / 0, fresh=60).value == "theirs"


def test_outcome_binds_nobody_who_was_born_after_it(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now - 50)
    at.outcome("k", clock.now - 40, error="TypeError", facts={"text": "of a dead attempt"})
    at.age = 30
    assert decide(at, "k", lambda: "anew").value == "anew"


def test_outcome_binds_nobody_twice(at: FakeStore) -> None:
    with pytest.raises(LeaderError):
        decide(at, "k", lambda: fail(OSError("once")))
    assert decide(at, "k", lambda: "second try").value == "second try"


def test_dead_leader_is_replaced_where_the_act_may_be_repeated(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now)
    begun = clock.now
    assert decide(at, "k", lambda: "mine").value == "mine"
    assert clock.now - begun < 2


def test_dead_leader_is_the_same_error_for_all_where_it_may_not(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now)
    for rank in (at, another(at)):
        with pytest.raises(LeaderLost, match=f"rank 3 .pid {DEAD.pid} on .*its process is gone"):
            decide(rank, "k", lambda: 1 / 0, once="work")


def test_dead_leader_of_an_earlier_attempt_is_replaced(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now - 50)
    at.age = 30
    assert decide(at, "k", lambda: "anew", once="work").value == "anew"


def test_leader_that_published_and_died_at_once_is_not_lost(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now)
    at.later = [lambda: None, lambda: at.outcome("k", clock.now, ok="done")]
    assert decide(at, "k", lambda: 1 / 0, once="work").value == "done"


@pytest.mark.parametrize("who", [ELSEWHERE, me()], ids=["another host", "stopped on this host"])
def test_leader_without_a_sign_of_life_is_lost_after_15_seconds(at: FakeStore, clock: Clock, who: Identity) -> None:
    at.claim("k", who, made=clock.now)
    begun = clock.now
    assert decide(at, "k", lambda: "mine").value == "mine"
    assert 15 < clock.now - begun < 20


def test_leader_that_beats_is_waited_for_without_end(at: FakeStore, clock: Clock) -> None:
    at.claim("k", ELSEWHERE, made=clock.now)
    begun = clock.now

    def beat() -> None:
        at.add("k/theirs/beat", 1)
        if clock.now - begun > 3600:
            at.outcome("k", clock.now, ok="done")
        else:
            at.later.append(beat)

    at.later = [beat]
    assert decide(at, "k", lambda: 1 / 0).value == "done"


def test_leader_declared_lost_learns_it_itself(at: FakeStore, clock: Clock) -> None:
    def act() -> str:
        claim = LeaderClaim.parse(at.values["k"])
        lost = LeaderLost(key="k", rank=0, host="h", pid=1, reason="no sign of life")
        record = errors.to_record(lost, rank=0, host="h")
        at.outcome("k", clock.now, claim.nonce, **record)
        return "too late"

    with pytest.raises(LeaderLost, match="no sign of life"):
        decide(at, "k", act, once="work")


def test_error_of_ours_is_rebuilt_and_any_other_is_a_leader_error(at: FakeStore) -> None:
    ours = DownloadFailed(url="u", causes=(("u", "503"),), status=503)
    for rank in (at, another(at)):
        with pytest.raises(DownloadFailed) as caught:
            decide(rank, "ours", lambda: fail(ours))
        assert caught.value.facts() == ours.facts()
    with pytest.raises(LeaderError) as led:
        decide(at, "theirs", lambda: fail(KeyError("x")))
    with pytest.raises(LeaderError) as followed:
        decide(another(at), "theirs", lambda: None)
    assert led.value.facts() == followed.value.facts()
    assert isinstance(led.value.__cause__, KeyError)


def test_subclass_that_no_other_rank_knows_travels_as_a_leader_error(at: FakeStore) -> None:
    class Strange(DownloadFailed):
        pass

    with pytest.raises(Strange):
        decide(at, "k", lambda: fail(Strange(url="u", causes=())))
    with pytest.raises(LeaderError, match="Strange"):
        decide(another(at), "k", lambda: None)


def fail(error: Exception) -> None:
    raise error
