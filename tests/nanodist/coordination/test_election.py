"""The state machine, on a store that is a dict and a clock that the test moves."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from nanocache.coordination.process import Identity, me
from nanocache.errors import DownloadFailed
from nanodist import LeaderError, LeaderLost, errors
from nanodist.coordination import election, life
from nanodist.coordination.election import LeaderClaim, decide
from tests.nanodist.fake_store import FakeStore, another


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000.0
        self.wall = 0.0  # what time.time() is off by
        monkeypatch.setattr(life.time, "time", lambda: self.now + self.wall)
        monkeypatch.setattr(life.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(life.time, "clock_gettime", lambda _: self.now)

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


@pytest.mark.parametrize("who", [ELSEWHERE, me()], ids=["another host", "this host, and acts no more"])
def test_leader_without_a_sign_of_life_is_lost_after_15_seconds(at: FakeStore, clock: Clock, who: Identity) -> None:
    at.claim("k", who, made=clock.now)
    begun = clock.now
    assert decide(at, "k", lambda: "mine").value == "mine"
    assert 15 < clock.now - begun < 20


def test_stopped_leader_of_this_host_is_lost_after_15_seconds(at: FakeStore, clock: Clock) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            at.claim("k", process_identity(process.pid), made=clock.now)
            begun = clock.now
            assert decide(at, "k", lambda: "mine").value == "mine"
            assert 15 < clock.now - begun < 20
        finally:
            process.kill()


def process_identity(pid: int) -> Identity:
    start = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return dataclasses.replace(me(), pid=pid, start=start)


def test_leader_that_acts_on_this_host_is_waited_for_without_a_beat(at: FakeStore, clock: Clock) -> None:
    """One C call of it may keep the GIL for minutes."""
    claim = at.claim("k", me(), made=clock.now)
    begun = clock.now

    def later() -> None:
        if clock.now - begun > 3600:
            at.outcome("k", clock.now, ok="done")
        else:
            at.later.append(later)

    at.later = [later]
    with life._marked(claim.nonce):
        assert decide(at, "k", lambda: 1 / 0).value == "done"


def test_fresh_beat_vetoes_that_the_process_is_gone(at: FakeStore, clock: Clock) -> None:
    """Two clones of a virtual machine share the boot id, and each has its own processes."""
    at.claim("k", DEAD, made=clock.now)
    begun = clock.now

    def beat() -> None:
        at.add("k/theirs/beat", 1)
        if clock.now - begun > 3600:
            at.outcome("k", clock.now, ok="done")
        else:
            at.later.append(beat)

    at.later = [beat]
    assert decide(at, "k", lambda: 1 / 0, once="work").value == "done"


def test_beat_that_ends_no_longer_vetoes(at: FakeStore, clock: Clock) -> None:
    at.claim("k", DEAD, made=clock.now)
    begun = clock.now
    at.later = [lambda: at.add("k/theirs/beat", 1)] * 3
    with pytest.raises(LeaderLost, match="no sign of life for 15 s"):
        decide(at, "k", lambda: 1 / 0, once="work")
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
