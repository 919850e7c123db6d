"""What is in scope for a call: found by all that it calls, and gone with it, wherever Ctrl-C strikes."""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import pytest

from nanocache import events, room
from nanocache.cancel import Cancel, ambient, at_depth, hook_depth, within
from nanocache.room import Room, ambient_room, within_room


class Interrupt:
    """Raises KeyboardInterrupt at the `at`-th line that the block runs of any file but this one."""

    def __init__(self, at: int) -> None:
        self._left = at

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename == __file__:
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self._trace

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    @property
    def struck(self) -> bool:
        return self._left <= 0


def nothing() -> None:
    pass


def test_nothing_stays_in_scope_wherever_ctrl_c_strikes() -> None:
    cancel, own, counts = Cancel(), Room(), events.Counts()

    def all_three() -> None:
        within(cancel, lambda: within_room(own, lambda: events.telling(counts, None, nothing)))

    at = 0
    interrupt = Interrupt(1)
    while at == 0 or interrupt.struck:
        at += 1
        interrupt = Interrupt(at)
        try:
            with interrupt:
                all_three()
        except KeyboardInterrupt:
            pass
        assert hook_depth() == 0, at
        assert ambient() is not cancel, at
        assert ambient_room() is room.UNLIMITED, at
        assert not events.is_heard(), at
    assert at > 10


def test_a_hook_in_a_hook_is_deeper_and_has_its_own_cancellation() -> None:
    outer, inner = Cancel(), Cancel()
    seen: list[Any] = []

    def look() -> None:
        seen.append((hook_depth(), ambient()))

    def both() -> None:
        look()
        within(inner, look)
        look()

    within(outer, both)
    assert seen == [(1, outer), (2, inner), (1, outer)]


def test_an_error_comes_out_and_ends_the_scope() -> None:
    def fail() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        within(Cancel(), fail)
    assert hook_depth() == 0


def test_a_thread_begins_outside_unless_it_is_told_how_deep_its_caller_is() -> None:
    depths: list[int] = []

    def thread(run: Any) -> None:
        one = threading.Thread(target=run)
        one.start()
        one.join()

    within(Cancel(), lambda: thread(lambda: depths.append(hook_depth())))
    within(Cancel(), lambda: thread(lambda: at_depth(1, lambda: depths.append(hook_depth()))))
    assert depths == [0, 1]
