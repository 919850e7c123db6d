"""Many artifacts: bounded threads, one bar, the first error stops the rest.

Invariants: results come in the order of the artifacts; no thread is left when it returns; a set that is here already
starts none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from .artifact import Artifact
from .cancel import Cancel, Cancelled
from .config import Settings
from .progress import Display, Progress, ProgressOption, shown

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
    count = workers or Settings.read().connections
    cancel = Cancel()
    tally = _Tally(artifacts, progress) if callable(progress) or shown(progress) else None

    def one(n: int) -> Path:
        cancel.check()
        path = fetch_one(artifacts[n], cancel, False if tally is None else tally.option(n))
        if tally is not None:
            tally.finish(n)
        return path

    try:
        with ThreadPoolExecutor(min(count, max(1, len(artifacts))), "nanocache-many") as pool:
            try:
                return _collect([pool.submit(one, n) for n in range(len(artifacts))], return_exceptions)
            except BaseException:  # an error, or Ctrl-C, in `submit` too: the pool would wait for all the others
                cancel.set()
                raise
    finally:
        if tally is not None:
            tally.close()


def _collect(futures: list[Future[Path]], return_exceptions: bool) -> list[Any]:
    wait(futures, return_when="ALL_COMPLETED" if return_exceptions else FIRST_EXCEPTION)
    failures = [error for future in futures if future.done() and (error := future.exception()) is not None]
    if failures and not return_exceptions:
        raise next((error for error in failures if not isinstance(error, Cancelled)), failures[0])
    return [future.exception() or future.result() for future in futures]
