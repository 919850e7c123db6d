"""The one hop that `afetch` makes: a flight that a thread of the pool runs and any number of tasks await.

Nothing of a download is here, and no lock, partial or response crosses between threads. Invariants: a task costs no
thread while it waits; the loop is never held; the last task to be cancelled cancels the work, and nobody else's.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, TypeVar

from . import pool
from .flights import Interrupted, Seat, Work

if TYPE_CHECKING:
    import asyncio

__all__ = ["fly"]

T = TypeVar("T")


def _wake(loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
    def settle() -> None:
        if not done.done():
            done.set_result(None)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        pass  # the loop was closed with the task still waiting: nobody is there to be told


async def fly(key: Hashable, work: Work[T]) -> T:
    """The result of `key`'s flight, from a thread of the pool; takes over from an interrupted one."""
    import asyncio  # here: a script that never awaits should not pay 30 ms for it

    loop = asyncio.get_running_loop()
    while True:
        seat: Seat[T] = Seat()
        done = loop.create_future()
        try:
            flight = seat.take(key, key, work)
            flight.on_end(lambda done=done: _wake(loop, done))  # type: ignore[misc]
            if not flight.submitted:  # by whoever comes first, or by the next one if Ctrl-C kept him from it
                pool.submit(flight.run)
                flight.submitted = True
            await done
            return flight.result(key)
        except Interrupted:
            continue
        finally:
            seat.leave()
