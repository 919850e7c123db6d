"""The one hop that `afetch` makes: a flight that a thread of the pool runs and any number of tasks await.

Nothing of a download is here, and no lock, partial or response crosses between threads. Invariants: a task costs no
thread while it waits; the loop is never held; only the last task to be cancelled cancels the job.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from ..callers import suppress
from ..cancel import ambient, hook_depth
from . import threads
from .flights import Flight, Interrupted, Job, Waiter

if TYPE_CHECKING:
    import asyncio

__all__ = ["share_async"]

T = TypeVar("T")


# The waiters of a flight in a loop. One call into it tells them all: a thousand calls fought it for the interpreter.
_waiting: dict[tuple[asyncio.AbstractEventLoop, Flight[Any]], list[asyncio.Future[None]]] = {}


def _end_of(flight: Flight[Any], loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
    """A future that is done once the flight has ended. In the loop's own thread."""
    waiting = _waiting.get((loop, flight))
    if waiting is None:
        flight.on_end(lambda: _tell(flight, loop))
        waiting = _waiting[loop, flight] = []
    waiting.append(done := loop.create_future())
    return done


def _tell(flight: Flight[Any], loop: asyncio.AbstractEventLoop) -> None:
    def settle() -> None:
        for done in _waiting.pop((loop, flight), ()):
            _settle(done)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop was closed with tasks still waiting: no one of them runs any more
        _waiting.pop((loop, flight), None)


def _submit(flight: Flight[Any]) -> None:
    """Have a thread run it: the first task does, or the next one if Ctrl-C kept the first from it.

    A task of a hook submits it again: where it was submitted first, all threads may wait for hooks like this one.
    """
    depth = hook_depth()
    if flight.submitted < depth:
        threads.submit(flight.run)
        flight.submitted = depth


async def _ended(done: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
    """Wait for `done`. In a loop that a hook runs: raises Cancelled as soon as the hook's caller is cancelled."""
    if hook_depth() == 0:
        await done
        return
    outer = ambient()
    with outer.watch(partial(_wake, done, loop)):
        await done
    outer.check()


def _wake(done: asyncio.Future[None], loop: asyncio.AbstractEventLoop) -> None:
    with suppress(RuntimeError):  # the loop was closed
        loop.call_soon_threadsafe(_settle, done)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


async def share_async(key: Hashable, job: Job[T]) -> T:
    """The result of `key`'s flight, from a thread of the pool; takes over from an interrupted one."""
    import asyncio  # here: a script that never awaits should not pay 30 ms for it

    loop = asyncio.get_running_loop()
    while True:
        waiter: Waiter[T] = Waiter()
        try:
            flight = waiter.take(key, key, job)
            done = _end_of(flight, loop)
            _submit(flight)
            await _ended(done, loop)
            return flight.result(key, waiter)
        except Interrupted:
            continue
        finally:
            waiter.leave()
