"""Which bytes are here, which connection fetches which, what comes next; and what a Content-Range may say."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from nanocache.download.ledger import LARGEST_PIECE, SMALLEST_PIECE, Claim, Ledger, piece_size
from nanocache.http.validation import parse_content_range

GIB = 1 << 30


def test_content_range_is_read() -> None:
    assert parse_content_range("bytes 0-499/1234") == (0, 500, 1234)
    assert parse_content_range("bytes 500-1233/*") == (500, 1234, None)
    assert parse_content_range(" Bytes 5-5/6 ") == (5, 6, 6)


def test_content_range_that_makes_no_sense_is_none() -> None:
    for text in (
        None,
        "",
        "bytes",
        "bytes */1234",
        "octets 0-1/2",
        "bytes 5-4/10",
        "bytes 0-10/10",
        "bytes 0-1",
        "bytes -1-2/3",
    ):
        assert parse_content_range(text) is None


@given(st.text())
def test_content_range_never_raises(text: str) -> None:
    part = parse_content_range(text)
    assert part is None or 0 <= part[0] < part[1]


@given(st.integers(0, 1 << 50), st.integers(1, 64))
def test_pieces_are_four_to_sixteen_mib(total: int, connections: int) -> None:
    assert SMALLEST_PIECE <= piece_size(total, connections, SMALLEST_PIECE) <= LARGEST_PIECE
    assert piece_size(total, connections, SMALLEST_PIECE) % (1 << 20) == 0


def test_the_first_stream_is_cut_where_the_pieces_begin_and_pieces_come_from_the_front() -> None:
    ledger = Ledger(100)
    stream = ledger.claim_rest()
    assert stream is not None
    assert (stream.pos, stream.end) == (0, 100)
    ledger.advance(stream, 3)
    pieces = [ledger.claim_piece(10) for _ in range(3)]
    assert stream.end == 10
    assert [(p.pos, p.end) for p in pieces if p] == [(10, 20), (20, 30), (30, 40)]


def test_what_was_given_back_comes_first() -> None:
    ledger = Ledger(100)
    stream = ledger.claim_rest()
    first, second = ledger.claim_piece(10), ledger.claim_piece(10)
    assert stream is not None
    assert first is not None
    assert second is not None
    ledger.advance(first, 4)
    ledger.release(first)
    again = ledger.claim_piece(10)
    assert again is not None
    assert (again.pos, again.end) == (14, 20)


def test_bytes_of_a_claim_that_was_taken_over_are_not_counted_twice() -> None:
    ledger = Ledger(10)
    old = ledger.claim_rest()
    assert old is not None
    old.patience = 1.0
    ledger.advance(old, 2)
    assert ledger.take_over(0.5) is None  # not still for long enough
    taken = ledger.take_over(2.0)
    assert taken is not None
    assert taken[1] is old
    ledger.advance(old, 3)  # it wakes up, and writes what the other one writes as well
    assert ledger.done == [(0, 2)]
    ledger.advance(taken[0], 8)
    assert ledger.complete
    assert taken[0].patience == 2.0


def test_an_unknown_length_is_one_claim_without_end() -> None:
    ledger = Ledger()
    claim = ledger.claim_rest()
    assert claim is not None
    assert claim.left is None
    ledger.advance(claim, 7)
    assert ledger.claim_piece(10) is None
    assert ledger.contiguous == 7
    assert not ledger.complete


def test_nothing_is_complete_and_so_is_an_empty_artifact() -> None:
    assert not Ledger().complete
    assert not Ledger(1).complete
    assert Ledger(0).complete


@settings(max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(st.data(), st.integers(1, 300), st.integers(1, 40))
def test_whatever_happens_every_byte_is_claimed_once_at_a_time_and_all_of_them_come(
    data: st.DataObject, total: int, size: int
) -> None:
    ledger, alive = Ledger(total), list[Claim]()
    clock = 0.0
    for _ in range(data.draw(st.integers(0, 60))):
        clock += 1
        step = data.draw(st.sampled_from(["rest", "piece", "advance", "advance", "release", "take over"]))
        if step in ("rest", "piece"):
            claim = ledger.claim_rest() if step == "rest" else ledger.claim_piece(size)
            if claim is not None:
                claim.moved, claim.patience = clock, 3.0
                alive.append(claim)
        elif step == "take over":
            if taken := ledger.take_over(clock):
                alive.append(taken[0])
        elif alive:
            claim = data.draw(st.sampled_from(alive))
            if step == "advance":
                ledger.advance(claim, data.draw(st.integers(0, size)))
            else:
                ledger.release(claim)
                alive.remove(claim)
        spans = sorted((c.pos, c.end or 0) for c in ledger.claims)
        assert all(a[1] <= b[0] for a, b in pairwise(spans))
        assert all(start < end for start, end in ledger.done)
        assert all(a[1] < b[0] for a, b in pairwise(ledger.done))
        assert 0 <= ledger.contiguous <= ledger.received <= total
    for claim in list(ledger.claims):
        ledger.release(claim)
    while (claim := ledger.claim_piece(size)) is not None:
        ledger.advance(claim, size)
    assert ledger.complete
    assert ledger.done == [(0, total)]
