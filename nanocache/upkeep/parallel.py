"""The same work on many things, by as many threads as there are cores.

For hashing, which lets other threads run; not for waiting (`coordination.threads`). Invariants: the calling thread
shows how far it is and takes Ctrl-C; no thread is left when `each` returns or raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from ..callers import suppress
from ..cancel import Cancel

__all__ = ["each"]

T = TypeVar("T")
LOOK_AGAIN = 0.1  # seconds between two looks at how far it is


def each(
    things: Iterable[T], work: Callable[[T], None], *, workers: int, cancel: Cancel, show: Callable[[], None]
) -> None:
    """`work` on each of `things`, in `workers` threads. The first error ends it and is raised."""
    job = _Job(iter(things), work, cancel)
    threads = [threading.Thread(target=job.run, name="nanocache-verify", daemon=True) for _ in range(workers)]
    try:
        with suppress(RuntimeError):  # no thread can be started: a limit of the user or the container
            for thread in threads:
                thread.start()
        if threads[0].ident is None:
            job.run()
        while any(thread.is_alive() for thread in threads):
            job.over.wait(LOOK_AGAIN)
            show()
        show()
    except BaseException:  # Ctrl-C, or the caller's callback
        cancel.set()
        raise
    finally:
        for thread in threads:
            if thread.ident is not None:
                thread.join()
    for error in job.errors[:1]:
        raise error


class _Job(Generic[T]):
    """What the threads share."""

    def __init__(self, rest: Iterator[T], work: Callable[[T], None], cancel: Cancel) -> None:
        self._rest = rest
        self._work = work
        self._cancel = cancel
        self._lock = threading.Lock()
        self.errors: list[BaseException] = []
        self.over = threading.Event()

    def run(self) -> None:
        try:
            for thing in self._take():
                self._work(thing)
        except BaseException as e:  # noqa: BLE001 - the calling thread raises it
            self.errors.append(e)
            self._cancel.set()
        self.over.set()

    def _take(self) -> Iterator[T]:
        while not self._cancel.is_set():
            with self._lock:
                thing = next(self._rest, None)
            if thing is None:
                return
            yield thing
