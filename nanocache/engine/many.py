"""Many artifacts: bounded threads, one bar, the first error stops the rest.

Not the fetch of one (`steps`). Invariants: results come in the order of the artifacts; no thread is left when it
returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from ..artifact import arguments
from ..artifact.artifact import Artifact
from ..callers import CallersError
from ..cancel import Cancel, Cancelled, ambient
from ..config import Settings
from ..coordination.threads import ThreadPool
from ..progress import Display, Progress, ProgressOption, shown
from .ticking import ticking

__all__ = ["FetchOne", "fetch"]

FetchOne = Callable[[Artifact, Cancel, ProgressOption], Path]
Settled = Path | BaseException


class _Tally:
    """How far the set is, in one display."""

    def __init__(self, artifacts: Sequence[Artifact], option: ProgressOption) -> None:
        self._lock = threading.Lock()
        self._done = dict.fromkeys(range(len(artifacts)), 0)
        self._totals = {n: artifact.size for n, artifact in enumerate(artifacts)}
        self._finished = 0
        self.display = Display(option, f"0/{len(artifacts)} files")

    def report(self, n: int, progress: Progress) -> None:
        with self._lock:
            self._done[n] = progress.done
            self._totals[n] = progress.total or self._totals[n]
            self._show()

    def finish(self, n: int) -> None:
        with self._lock:
            self._finished += 1
            self._show()

    def _show(self) -> None:
        self.display.name = f"{self._finished}/{len(self._done)} files"
        self.display.report(sum(self._done.values()), self._total())

    def _total(self) -> int | None:
        # The size of the set is known only once that of each file is; a bar that grows would mislead.
        total = 0
        for size in self._totals.values():
            if size is None:
                return None
            total += size
        return total

    def close(self) -> None:
        self.display.close()


class _Outcomes:
    """What each of `count` artifacts gave: a path or an error, by its place."""

    def __init__(self, count: int, *, first_error_ends: bool) -> None:
        self._by_place: dict[int, Settled] = {}
        self._count = count
        self._first_error_ends = first_error_ends
        self._over = threading.Event()

    def put(self, n: int, outcome: Settled) -> None:
        self._by_place[n] = outcome
        failed = isinstance(outcome, BaseException)
        if (failed and self._first_error_ends) or len(self._by_place) == self._count:
            self._over.set()

    @property
    def over(self) -> bool:
        """Whether no more are waited for."""
        return self._over.is_set()

    def wait(self) -> list[Any]:
        """All of them, in order, once the last one is there; raises the first error if an error ends the set."""
        if self._count:
            self._over.wait()
        outcomes = [self._by_place[n] for n in sorted(self._by_place.copy())]
        if self._first_error_ends:
            _raise_first(outcomes)
        return outcomes


def _raise_first(outcomes: Sequence[Settled]) -> None:
    """Raise the first error; one of the set that was merely cancelled only if there is no other."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    causes = [failure for failure in failures if not isinstance(failure, Cancelled)]
    for error in causes or failures:
        raise error


class _Set:
    """One call of `fetch`: its artifacts, its threads, and what came of each."""

    def __init__(self, artifacts: Sequence[Artifact], fetch_one: FetchOne, outcomes: _Outcomes, tally: _Tally | None):
        self._artifacts = artifacts
        self._fetch_one = fetch_one
        self._outcomes = outcomes
        self._tally = tally
        self._cancel = Cancel()
        self._outer = ambient()  # set if the hook that calls this is cancelled

    def run(self, pool: ThreadPool) -> list[Any]:
        try:
            with self._outer.watch(self._cancel.set):
                for n in range(len(self._artifacts)):
                    if self._outcomes.over:
                        break
                    pool.submit(partial(self._settle, n))
                outcomes = self._outcomes.wait()
            self._outer.check()
            return outcomes
        except BaseException:  # an error, or Ctrl-C: the threads must not go on behind the caller's back
            self._cancel.set()
            raise
        finally:
            pool.close()
            if self._tally is not None:
                self._tally.close()

    def _settle(self, n: int) -> None:
        """Fetch artifact `n` in a thread of the pool, and put down what came of it."""
        try:
            outcome: Settled = self._fetch(n)
        except CallersError as e:
            outcome = e.error
        except BaseException as e:  # noqa: BLE001 - the caller's thread raises it, or returns it in place
            outcome = e
        self._outcomes.put(n, outcome)

    def _fetch(self, n: int) -> Path:
        self._cancel.check()
        if self._tally is None:
            return self._fetch_one(self._artifacts[n], self._cancel, False)
        path = self._fetch_one(self._artifacts[n], self._cancel, partial(self._tally.report, n))
        self._tally.finish(n)
        return path


def fetch(
    artifacts: Sequence[Artifact],
    fetch_one: FetchOne,
    *,
    workers: int | None,
    return_exceptions: bool,
    progress: ProgressOption,
) -> list[Path]:
    """`fetch_one` for each of `artifacts`; with `return_exceptions` an error takes its path's place."""
    if workers is not None:
        arguments.whole("workers", workers, "threads", 1)
    arguments.flag("return_exceptions", return_exceptions)
    arguments.progress(progress)
    outcomes = _Outcomes(len(artifacts), first_error_ends=not return_exceptions)
    tally = _Tally(artifacts, progress) if callable(progress) or shown(progress) else None
    settings = Settings.read()
    pool = ThreadPool(workers or settings.budget or settings.connections)
    with nullcontext() if tally is None else ticking(tally.display):
        return _Set(artifacts, fetch_one, outcomes, tally).run(pool)
