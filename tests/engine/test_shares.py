"""Who gets which shard: each exactly once, whatever happens to the number of ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nanocache.loaders import Prefetch, prefetch

URLS = [f"https://host/{n}.tar" for n in range(40)]


def positions(reader: Prefetch, count: int) -> list[int]:
    """The artifacts that a reader would yield next, without fetching any."""
    reader._settle(reader._here())
    from nanocache.engine import shares

    order = shares.order(len(reader._artifacts), reader._seed, reader._epoch)
    taken = [order[place] for place in reader._share[:count]]
    reader._yielded = len(taken)
    return taken


def readers(count: int, world_size: int, states: list[dict[str, Any]] | None, **options: Any) -> list[Prefetch]:
    made = [prefetch(URLS[:count], rank=rank, world_size=world_size, **options) for rank in range(world_size)]
    for reader in made:
        if states is not None:
            reader.load_state_dict(states)
    return made


@settings(deadline=None)
@given(
    count=st.integers(0, 40),
    seed=st.none() | st.integers(0, 9),
    epoch=st.integers(0, 3),
    runs=st.lists(st.tuples(st.integers(1, 16), st.data()), max_size=4),
    last=st.integers(1, 16),
)
def test_each_shard_of_the_epoch_comes_once_whatever_the_ranks(
    count: int, seed: int | None, epoch: int, runs: list[tuple[int, Any]], last: int
) -> None:
    seen: Counter[int] = Counter()
    states = None
    for world_size, data in runs:
        made = readers(count, world_size, states, seed=seed, epoch=epoch)
        for reader in made:
            seen.update(positions(reader, data.draw(st.integers(0, 5))))
        states = [reader.state_dict() for reader in made]
    for reader in readers(count, last, states, seed=seed, epoch=epoch):
        seen.update(positions(reader, count))
    assert seen == Counter(range(count))


@settings(deadline=None)
@given(count=st.integers(0, 40), world_size=st.integers(1, 8), steps=st.integers(0, 6), new=st.integers(1, 8))
def test_one_state_stands_for_ranks_in_step(count: int, world_size: int, steps: int, new: int) -> None:
    seen: Counter[int] = Counter()
    made = readers(count, world_size, None, seed=1)
    for reader in made:
        seen.update(positions(reader, steps))
    for reader in made:
        after = readers(count, new, None, seed=1)
        for rank in after:
            rank.load_state_dict(reader.state_dict())
        if made[0].state_dict()["yielded"] != reader.state_dict()["yielded"]:
            continue  # the last round did not reach this rank
        rest = [place for rank in after for place in positions(rank, count)]
        if all(r.state_dict()["yielded"] == made[0].state_dict()["yielded"] for r in made):
            assert Counter(rest) + seen == Counter(range(count))


def test_a_state_is_short_and_json() -> None:
    import json

    reader = prefetch(URLS, start=20, seed=3)
    assert json.loads(json.dumps(reader.state_dict())) == reader.state_dict()
    assert reader.state_dict()["consumed"] == [[0, 20]]
    assert len(reader) == 20
