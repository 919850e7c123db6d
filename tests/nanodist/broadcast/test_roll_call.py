"""Who is on a roll call, on a store that is a dict."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from nanodist.broadcast import roll_call
from nanodist.broadcast.roll_call import RollCall, announce_complete, announced, count_rank
from nanodist.coordination.clock import Moment
from nanodist.shared_disk import disk_name
from tests.nanodist.fake_store import FakeStore, another


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    for name, empty in {"_disks": {}, "_announced": set(), "_lonely": {}}.items():
        monkeypatch.setattr(roll_call, name, empty)
    monkeypatch.setattr(roll_call, "SILENT_DISK_PATIENCE", 0.1)
    return FakeStore()


def test_disk_is_counted_once_the_store_has_heard_of_it(at: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(at, "add", interrupt)
        count_rank(at, "disk")
    for _ in range(2):
        assert count_rank(at, "disk") == 0
    assert (at.values["disks/0"], at.values["disks/0/ranks"]) == ("1", "1")
    assert count_rank(at, "another disk") == 1


def test_hit_is_announced_once_the_store_has_heard_of_it(
    at: FakeStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at.job = "ab" * 16
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(at, "add", interrupt)
        announce_complete(at, "k", tmp_path)
    assert not announced("k", tmp_path)
    announce_complete(at, "k", tmp_path)
    assert announced("k", tmp_path)
    assert at.values[f"k/have/{disk_name(tmp_path, at.job)}"] == at.values["k/have"] == "1"


def interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_rank_that_is_started_anew_is_no_further_one(at: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    count_rank(at, "disk")
    monkeypatch.setattr(roll_call, "_disks", {})
    count_rank(another(at), "disk")
    assert at.values["disks/0/ranks"] == "1"


def test_enrolment_of_a_dead_attempt_is_on_no_roll_call_of_the_next(at: FakeStore) -> None:
    dead = RollCall(at, "k", "its disk", lists=False)
    at.add(f"{dead._turn(dead._open_round())}/needs", 1)  # and there it died
    now = Moment.now()
    at.values["k/0/opened"] = json.dumps(dataclasses.replace(now, up=now.up - 3600).to_json())
    at.age = 60
    called = RollCall(at, "k", "disk", lists=False).enter({0})
    assert (called.position, called.size) == (0, 1)


def test_process_that_died_while_it_closed_a_round_leaves_it_closed(at: FakeStore) -> None:
    first = RollCall(at, "k", "disk", lists=False).enter({0})
    second = RollCall(another(at), "k", "other disk", lists=False).enter({0})
    assert (first.size, second.size) == (1, 1)
    assert first.session != second.session
