"""How many connections: more only where waiting takes the time, and only for as long as they are seen to help."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from nanocache.download.growth import Growth, Sample


def grown(rate: Callable[[int], float], *, idle: float = 1.0, seconds: float = 5.0, limit: int = 16) -> list[int]:
    """The numbers that are aimed at over time, where `rate(n)` bytes per second come over n connections."""
    growth, sample = Growth(limit, Sample(0.0, 0, 0.0), latency=0.001), Sample(0.0, 0, 0.0)
    targets = [1]
    while sample.time < seconds:
        n = targets[-1]
        sample = Sample(sample.time + 0.01, sample.received + int(rate(n) * 0.01), sample.waited + idle * n * 0.01)
        targets.append(growth.look(sample))
    return targets


def test_connections_that_are_limited_each_are_added_up_to_the_limit_within_a_quarter_of_a_second() -> None:
    assert grown(lambda n: n * 20e6, seconds=0.25)[-1] == 16


def test_a_full_line_is_tried_with_two_once_and_left_alone() -> None:
    targets = grown(lambda n: 100e6, seconds=20)
    assert max(targets) == 2
    assert targets[-1] == 1
    assert sum(n == 2 for n in targets) < 100  # a second


def test_a_line_that_is_full_with_four_ends_with_four() -> None:
    targets = grown(lambda n: min(n, 4) * 20e6, seconds=10)
    assert max(targets) == 8
    assert targets[-1] == 4


def bursting(burst: float, rate: float, line: float = 1e12) -> list[int]:
    """The same for a server that sends each connection `burst` bytes at once, and then `rate` bytes a second."""
    growth, sample = Growth(16, Sample(0.0, 0, 0.0), latency=0.001), Sample(0.0, 0, 0.0)
    targets, begun = [1], 0
    while sample.time < 10:
        n = targets[-1]
        came = min(line, rate * n) * 0.01 + burst * max(0, n - begun)
        begun = max(begun, n)
        sample = Sample(sample.time + 0.01, sample.received + int(came), sample.waited + n * 0.01, n)
        targets.append(growth.look(sample))
    return targets


def test_a_burst_at_the_beginning_costs_a_second_and_not_half_a_minute() -> None:
    targets = bursting(1e6, 1e6)
    assert targets[110] > 1
    assert targets[300] == 16


def test_a_full_line_that_begins_with_a_burst_is_tried_with_two_twice_at_most() -> None:
    targets = bursting(1e6, 50e6, line=50e6)
    assert targets[-1] == 1
    assert sum(a < b for a, b in pairwise(targets)) <= 2


def test_going_back_is_judged_once_the_connections_that_are_too_many_have_ended() -> None:
    growth = Growth(16, Sample(0.0, 0, 0.0, 1), latency=0.001)
    received = [1_000_000]  # a burst, and then 1,000 bytes in each hundredth of a second from each connection

    def look(hundredth: int, n: int) -> int:
        received[0] += 1_000 * n
        return growth.look(Sample(hundredth / 100, received[0], float(hundredth), n))

    assert [look(n, 1) for n in range(1, 7)][-1] == 2
    assert [look(n, 2) for n in range(7, 60)][-1] == 1
    assert {look(n, 2) for n in range(60, 300)} == {1}  # the second one still has its piece
    assert [look(n, 1) for n in range(300, 360)][-1] == 2


def test_a_process_too_busy_to_wait_for_bytes_opens_no_more() -> None:
    assert max(grown(lambda n: 700e6, idle=0.1)) == 1


def test_what_was_no_use_is_tried_again_much_later_and_more_rarely_each_time() -> None:
    targets = grown(lambda n: 100e6, seconds=300)
    tries = [i for i, (a, b) in enumerate(pairwise(targets)) if (a, b) == (1, 2)]
    gaps = [b - a for a, b in pairwise(tries)]
    assert len(tries) <= 5
    assert gaps == sorted(gaps)


def test_a_refusal_is_final() -> None:
    growth = Growth(16, Sample(0.0, 0, 0.0), latency=0.001)
    assert growth.look(Sample(0.1, 1, 0.1)) == 2
    growth.refused(1)
    assert all(growth.look(Sample(t, t * 20_000_000, t * 1.0)) == 1 for t in range(1, 1000))


def test_a_long_way_is_given_the_time_that_a_first_byte_takes() -> None:
    growth = Growth(16, Sample(0.0, 0, 0.0), latency=0.5)
    assert growth.look(Sample(1.9, 1, 1.9)) == 1
    assert growth.look(Sample(2.1, 1, 2.1)) == 2


def test_one_is_one() -> None:
    assert set(grown(lambda n: 1e6, limit=1)) == {1}


def test_a_line_that_stands_still_is_no_reason_for_more() -> None:
    assert max(grown(lambda n: 0.0, seconds=20)) == 2
