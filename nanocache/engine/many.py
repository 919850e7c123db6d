"""Many artifacts: bounded threads, one bar, the first error stops the rest.

Invariants: results come in the order of the artifacts; no thread is left when it returns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..artifact.artifact import Artifact
from ..cancel import Cancel, Cancelled
from ..config import Settings
from ..coordination.threads import ThreadPool
from ..progress import Display, Progress, ProgressOption, shown

__all__ = ["fetch"]

Fetch = Callable[[Artifact, Cancel, ProgressOption], Path]


class _Tally:
    """What the set has so far, in one display."""

    def __init__(self, artifacts: Sequence[Artifact], option: ProgressOption) -> None:
        self._lock = threading.Lock()
        self._done = dict.fromkeys(range(len(artifacts)), 0)
        self._totals = {n: artifact.size for n, artifact in enumerate(artifacts)}
        self._finished = 0
        self._display = Display(option, f"0/{len(artifacts)} files")

    def option(self, n: int) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            with self._lock:
                self._done[n] = progress.done
                self._totals[n] = progress.total or self._totals[n]
                self._show()

        return report

    def finish(self, n: int) -> None:
        with self._lock:
            self._finished += 1
            self._show()

    def _show(self) -> None:
        self._display.name = f"{self._finished}/{len(self._done)} files"
        # The size of the set is known only once that of each file is; a bar that grows would mislead.
        known = [total for total in self._totals.values() if total is not None]
        total = sum(known) if len(known) == len(self._totals) else None
        self._display.report(sum(self._done.values()), total)

    def close(self) -> None:
        self._display.close()


class _Outcomes:
    """What each of `count` gave: a path or an error, by its place."""

    def __init__(self, count: int, *, first_error_ends: bool) -> None:
        self._by_place: dict[int, Path | BaseException] = {}
        self._count, self._first_error_ends = count, first_error_ends
        self.over = threading.Event()

    def put(self, n: int, outcome: Path | BaseException) -> None:
        self._by_place[n] = outcome
        failed = isinstance(outcome, BaseException)
        if (failed and self._first_error_ends) or len(self._by_place) == self._count:
            self.over.set()

    def take(self) -> list[Any]:
        """All of them, in order; raises the first error if that ended it."""
        outcomes = [outcome for _, outcome in sorted(self._by_place.copy().items())]
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if failures and self._first_error_ends:
            raise next((error for error in failures if not isinstance(error, Cancelled)), failures[0])
        return outcomes


def fetch(
    artifacts: Sequence[Artifact],
    fetch_one: Fetch,
    *,
    workers: int | None,
    return_exceptions: bool,
    progress: ProgressOption,
) -> list[Path]:
    """`fetch_one` for each of `artifacts`; with `return_exceptions` an error takes its path's place."""
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers!r}")
    cancel, pool = Cancel(), ThreadPool(workers or Settings.read().connections)
    outcomes = _Outcomes(len(artifacts), first_error_ends=not return_exceptions)
    tally = _Tally(artifacts, progress) if callable(progress) or shown(progress) else None

    def one(n: int) -> None:
        try:
            cancel.check()
            path = fetch_one(artifacts[n], cancel, False if tally is None else tally.option(n))
            if tally is not None:
                tally.finish(n)
        except BaseException as e:  # noqa: BLE001 - the caller's thread raises it, or returns it in place
            outcomes.put(n, e)
        else:
            outcomes.put(n, path)

    try:
        for n in range(len(artifacts)):
            pool.submit(partial(one, n))
        if artifacts:
            outcomes.over.wait()
        return outcomes.take()
    except BaseException:  # an error, or Ctrl-C: the threads must not go on behind the caller's back
        cancel.set()
        raise
    finally:
        pool.close()
        if tally is not None:
            tally.close()
