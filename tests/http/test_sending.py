"""What is sent to a store: streamed, as often as it is asked for, and not for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanocache.cancel import Cancel, Cancelled
from nanocache.http import sending
from nanocache.http.failure import Slow
from nanocache.http.sending import SENT_BLOCK, FileBody

SIZE = 3 * SENT_BLOCK + 5


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "file").write_bytes(os.urandom(SIZE))
    fd = os.open(tmp_path / "file", os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_file_is_sent_in_blocks_and_again_where_a_connection_was_closed(fd: int) -> None:
    body = FileBody(fd, SIZE, 1.0, Cancel())
    first, second = list(body), list(body)
    assert first == second
    assert max(map(len, first)) <= SENT_BLOCK
    assert b"".join(first) == os.pread(fd, SIZE, 0)


def test_a_store_that_takes_it_too_slowly_is_given_up(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(sending.time, "monotonic", lambda: now)
    blocks = iter(FileBody(fd, SIZE, 10.0, Cancel()))
    next(blocks)
    now += 10.9
    next(blocks)
    now += 2
    with pytest.raises(Slow):
        next(blocks)


def test_a_file_that_was_cut_and_a_caller_that_left_end_it(fd: int) -> None:
    cancel = Cancel()
    blocks = iter(FileBody(fd, SIZE, 1.0, cancel))
    next(blocks)
    os.ftruncate(fd, SENT_BLOCK)
    with pytest.raises(OSError, match="ends after"):
        next(blocks)
    cancel.set()
    with pytest.raises(Cancelled):
        next(iter(FileBody(fd, SIZE, 1.0, cancel)))
