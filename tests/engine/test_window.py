"""The window of shards alone: when what it asked for too early is asked for again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nanocache import Artifact, NoSpace
from nanocache.cancel import Cancel
from nanocache.download.turn import Turn
from nanocache.engine.window import FetchShard, Settled, Window

SHARDS = [Artifact(f"http://localhost/{n}.tar") for n in range(2)]


@pytest.fixture
def window() -> Callable[[FetchShard], Window]:
    def made(fetch: FetchShard) -> Window:
        return Window(SHARDS, fetch, 1, None)

    return made


def test_room_is_asked_for_again_once_what_was_passed_has_gone(window: Callable[[FetchShard], Window]) -> None:
    asked: list[str] = []
    wanted = threading.Event()

    def fetch(shard: Artifact, cancel: Cancel, turn: Turn) -> Path:
        asked.append(shard.name)
        turn.settle()
        if asked == ["0.tar", "1.tar"]:  # ahead, while shard 0 is here still
            wanted.wait(10)
            raise NoSpace(path="/", needed=1)
        return Path(shard.name)

    reader = window(fetch)
    assert reader.take(0, Cancel()) == Path("0.tar")
    taken: list[Settled] = []
    taking = threading.Thread(target=lambda: taken.append(reader.take(1, Cancel())))
    taking.start()
    while not reader._waiting:
        taking.join(0.001)
    wanted.set()
    taking.join(10)
    reader.close()
    assert taken == [Path("1.tar")]
    assert asked == ["0.tar", "1.tar", "1.tar"]


def test_no_room_for_a_shard_by_itself_is_told_at_once(window: Callable[[FetchShard], Window]) -> None:
    asked: list[str] = []

    def fetch(shard: Artifact, cancel: Cancel, turn: Turn) -> Path:
        asked.append(shard.name)
        raise NoSpace(path="/", needed=1)

    reader = window(fetch)
    assert isinstance(reader.take(0, Cancel()), NoSpace)
    reader.close()
    assert asked == ["0.tar"]
