"""One call of all ranks: which rank leads, what it publishes for the others, and what they read.

Not what is asked (`calls`), and not the election (`coordination`). Invariants: a rank that leads publishes paths below
the base directory or in a read-only cache, or records of errors; the others open a path only then; where the ranks
cannot agree, or one does not have that cache, each downloads by itself, and the lock on its disk coordinates.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nanocache.coordination.process import me

from .broadcast import roll_call
from .calls import Call, Results
from .coordination.coordinator import REFUSED_FOR, Coordinator, coordination
from .coordination.election import Verdict, decide
from .errors import CoordinatorLost, NotVisible, from_record, to_record
from .rank import has_other_ranks
from .shared_disk import VISIBLE, disk_name, wait_visible

__all__ = ["FRESH", "Question", "SharedCall", "share", "shows", "with_ranks"]

logger = logging.getLogger("nanodist")

T = TypeVar("T")

FRESH = 60.0  # seconds for which an outcome binds the ranks that call later


class Question(Protocol):
    """What is asked by all ranks alike."""

    @property
    def identity(self) -> str:
        """What the ranks that mean the same have in common, and no others."""

    @property
    def base(self) -> Path: ...

    @property
    def broadcasts(self) -> bool:
        """Whether the disks agree further, so that each rank is to be counted."""

    def bring(self, coordinator: Coordinator, domain: str) -> Results:
        """The answers, on the rank that leads in `domain`."""

    def alone(self) -> Results:
        """The answers, as this process alone would get them."""


def share(call: Call) -> Results:
    """The answers, from one rank where the ranks can agree, else from this one."""
    return with_ranks(call.scope, partial(_agree, call), call.alone)


def with_ranks(
    scope: str, agree: Callable[[Coordinator], T], alone: Callable[[], T], *, patience: float = REFUSED_FOR
) -> T:
    """What `agree` gives where the ranks can agree, else, or once they no longer can, what `alone` gives.

    `patience`: seconds that a rank 0 which serves the store has to begin.
    """
    coordinator = None if scope == "disk" or not has_other_ranks() else coordination(patience=patience)
    if coordinator is None:
        return alone()
    try:
        return agree(coordinator)
    except CoordinatorLost as e:
        if coordinator.lost is None:  # an error of the work itself, and not of this job's store
            raise
        logger.warning("%s; file locks alone coordinate from here on", e)
    return alone()


def _agree(call: Call, coordinator: Coordinator) -> Results:
    domain = "job" if call.scope == "job" else disk_name(call.base, coordinator.job)
    if domain is None:
        return call.alone()
    return SharedCall(call, coordinator, domain).results()


class SharedCall:
    """One call of all ranks that have `domain` in common: one leads, the others read what it published."""

    def __init__(self, call: Question, coordinator: Coordinator, domain: str) -> None:
        self._call = call
        self._base = call.base
        self._coordinator = coordinator
        self._domain = domain  # a disk's name, or "job"
        self._after = ExitStack()  # what is left to do once the others have been told

    def results(self) -> Results:
        with self._after:
            return self._results()

    def _results(self) -> Results:
        if self._call.broadcasts:  # each rank, so that the one that leads knows when it has heard of all disks
            roll_call.count_rank(self._coordinator, self._domain)
        verdict = self._decide()
        if self._is_elsewhere(verdict):
            return self._call.alone()
        if self._missing(verdict) is None:
            return self._published(verdict)
        # Published on this very disk, and deleted since, within the minute: once more.
        verdict = self._decide()
        missing = self._missing(verdict)
        if missing is None:
            return self._published(verdict)
        raise _not_visible(missing, verdict, f"it was published twice and did not show within {VISIBLE:g} s")

    def _decide(self) -> Verdict:
        key = f"fetch/{self._domain}/{self._call.identity}"
        return decide(self._coordinator, key, self._lead, fresh=FRESH)

    # the rank that leads

    def _lead(self) -> dict[str, Any]:
        """Get the artifacts, and say where they are."""
        from nanocache.peers import filling_later

        self._after.enter_context(filling_later())
        items = [self._item(result) for result in self._call.bring(self._coordinator, self._domain)]
        return {"disk": self._disk(), "items": items}

    def _item(self, result: Path | BaseException) -> dict[str, Any]:
        if not isinstance(result, BaseException):
            inside = result.is_relative_to(self._base)  # else it is in a read-only cache
            return {"path": os.path.relpath(result, self._base) if inside else str(result)}
        record = to_record(result, rank=self._coordinator.rank, host=me().host)
        as_it_arrives: dict[str, Any] = json.loads(json.dumps(record))  # facts may be tuples
        return as_it_arrives

    def _disk(self) -> str | None:
        return disk_name(self._base, self._coordinator.job)

    # the others

    def _published(self, verdict: Verdict) -> Results:
        return [self._result(item) for item in verdict.value["items"]]

    def _result(self, item: dict[str, Any]) -> Path | BaseException:
        """What `_item` described."""
        if "path" not in item:
            return from_record(item)
        path: Path = self._base / item["path"]
        return path

    def _is_elsewhere(self, verdict: Verdict) -> bool:
        """Whether the leader found something in a read-only cache that this machine does not have."""
        paths = [path for path in self._published(verdict) if isinstance(path, Path)]
        return not verdict.led and not all(path.is_relative_to(self._base) or path.exists() for path in paths)

    def _missing(self, verdict: Verdict) -> Path | None:
        """The first published file that does not show here. Raises NotVisible if the leader's disk is not ours."""
        if verdict.led:
            return None
        for path in self._published(verdict):
            if isinstance(path, Path) and not self._shows(path, verdict):
                return path
        return None

    def _shows(self, path: Path, verdict: Verdict) -> bool:
        if path.exists():
            return True
        self._check_same_disk(path, verdict)
        return shows(path, self._base, verdict)

    def _check_same_disk(self, path: Path, verdict: Verdict) -> None:
        """Raise NotVisible if the disks' names differ: they tell at once what waiting could only suggest."""
        names = {verdict.value["disk"], self._disk()}
        if len(names - {None}) == 2:
            raise _not_visible(path, verdict, "this is another disk")


def shows(path: Path, base: Path, verdict: Verdict) -> bool:
    """Whether what the leader published on this very disk shows here, once a mount has had time to look again."""
    from nanocache.peers import forget_absence

    forget_absence(path, base)
    leader = verdict.leader.process
    # Two pods of one machine are of one boot, and have mounts of their own.
    same_mounts = leader.here and leader.space == me().space
    return wait_visible(path, base, 0.0 if same_mounts else VISIBLE)


def _not_visible(path: Path, verdict: Verdict, reason: str) -> NotVisible:
    return NotVisible(path=str(path), host=me().host, leader_host=verdict.leader.process.host, reason=reason)
