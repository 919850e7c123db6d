"""nanodist.build_once: what a function builds, once for the whole job, and then on every disk of it.

    which rank builds        one of all ranks that ask, unless a disk says that it has it; its error is every rank's
    how it comes elsewhere   one rank of each disk that lacks it takes it from one of a disk that has it (`handover`)
    what is left             a disk that none sends it to has it built anew, once for all such disks

Not how it is built and kept, which is nanocache.build's. Invariants: a rank whose disk has it waits for no transfer,
but for the one of its disk that sends; where the ranks cannot agree, each disk builds, under its lock.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nanocache
from nanocache import Cache
from nanocache.peer_products import built_path, check_build, check_travels, find_built

from .broadcast.roll_call import HAVE, LACK, SILENT_DISK_PATIENCE, announce, has_another
from .calls import PathLike, Results, scope_of
from .coordination.coordinator import REFUSED_FOR, Coordinator
from .coordination.election import Verdict, decide
from .coordination.store_client import ANSWER
from .shared_disk import disk_name
from .sharing import FRESH, SharedCall, shows, with_ranks

if TYPE_CHECKING:
    from .broadcast.handover import Handover

__all__ = ["build_once"]

HANDOVERS = 3  # times that what is sent may break off before a disk builds by itself
LONGEST_PATIENCE = 10.0  # seconds for disks that say nothing; as long as it took to build, if that is less

_agreed: set[tuple[str, Path]] = set()  # what all ranks were asked about: a hit is this disk's alone from then on


def build_once(
    key: str,
    fn: Callable[[Path], object],
    *,
    name: str,
    facts: Iterable[str] = (),
    base_dir: PathLike | None = None,
) -> Path:
    """The file or folder that `fn(dst)` builds, as `nanocache.build` promises it, once for all ranks and disks.

    One rank builds; the ranks on its disk have it then, and one rank of each other disk is sent what that disk lacks.
    A disk that has it from before sends it, and none builds. The ranks need not ask together: what one built binds
    those that ask within a minute. A disk that says nothing is waited for as long as it took to build, at least 2 s and
    at most 10. A rank that dies is replaced. Without a launcher, and with one rank, it is `nanocache.build`.

    `facts`: texts that the result depends on besides `key`, such as `nanodist.facts()`; ranks with other facts build
    for themselves. What is built has to be the same on another disk: names are UTF-8, links are relative and lead to
    something inside. NANODIST_SCOPE is `fetch`'s: "disk" has each disk build.

    Raises what `nanocache.build` raises, on every rank the same class with the same facts (anything that is no error of
    nanocache as LeaderError).
    """
    once = BuildOnce.of(key, fn, name, facts, base_dir)
    found = once.find()
    if found is not None and (once.identity, once.base) in _agreed:
        return found
    # To build in vain costs more than to wait for a rank 0 that is slow to start.
    path = with_ranks(once.scope, once.agree, once.build, patience=REFUSED_FOR if found else ANSWER)
    _agreed.add((once.identity, once.base))
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOnce:
    """What is to be built, by all ranks alike."""

    key: str
    name: str
    fn: Callable[[Path], object]
    base_dir: PathLike | None
    scope: str

    @classmethod
    def of(
        cls, key: str, fn: Callable[[Path], object], name: str, facts: Iterable[str], base_dir: PathLike | None
    ) -> BuildOnce:
        """Raises ValueError."""
        check_build(key, fn, name)
        return cls(key=_with_facts(key, facts), name=name, fn=_checking(fn), base_dir=base_dir, scope=scope_of("auto"))

    @property
    def identity(self) -> str:
        return hashlib.sha256(f"build {self.key}\n{self.name}".encode("utf-8", "surrogatepass")).hexdigest()

    @property
    def base(self) -> Path:
        return Cache(self.base_dir).base_dir

    @property
    def broadcasts(self) -> bool:
        return False  # each disk is counted where it says whether it has it

    @property
    def _place(self) -> str:
        """In the store."""
        return f"build/{self.identity}"

    def find(self) -> Path | None:
        return find_built(self.key, self.name, self.base_dir)

    def build(self) -> Path:
        """As this process alone would."""
        return nanocache.build(self.key, self.fn, name=self.name, base_dir=self.base_dir)

    def alone(self) -> Results:
        return [self.build()]

    # --- all ranks ----------------------------------------------------------------------------------------------------

    def agree(self, coordinator: Coordinator) -> Path:
        disk = disk_name(self.base, coordinator.job)
        if disk is None:
            return self.build()
        if self.scope == "job":
            return self._of_domain(coordinator, "job")
        announce(coordinator, self._place, disk, LACK if self.find() is None else HAVE)
        verdict = self._built(coordinator, disk, look=True)
        found = self._shown(verdict, disk)
        if found is None:
            return self._of_domain(coordinator, disk)
        if coordinator.add(f"{self._place}/{verdict.leader.nonce}/{disk}", 1) == 1:  # one rank of the disk sends
            self._handover(coordinator, disk).give(found, _patience(verdict))
        return found

    def _of_domain(self, coordinator: Coordinator, domain: str) -> Path:
        [path] = SharedCall(self, coordinator, domain).results()
        if isinstance(path, BaseException):
            raise path
        return path

    def _built(self, coordinator: Coordinator, disk: str, *, look: bool) -> Verdict:
        """What came of building it on one rank. `look`: whether a disk may have it already."""
        act = functools.partial(self._lead, coordinator, disk, look)
        return decide(coordinator, f"{self._place}/built", act, fresh=FRESH)

    def _lead(self, coordinator: Coordinator, disk: str, look: bool) -> dict[str, Any]:
        """Have it on a disk; on which, if it is this one, and how long it took."""
        if self.find() is None and look and has_another(coordinator, self._place, disk):
            return {"disk": None, "seconds": 0.0}
        begun = time.monotonic()
        self.build()
        return {"disk": disk, "seconds": time.monotonic() - begun}

    def _shown(self, verdict: Verdict, disk: str) -> Path | None:
        """It, if this disk has it."""
        if verdict.value["disk"] == disk and not verdict.led:
            shows(built_path(self.key, self.name, self.base_dir), self.base, verdict)
        return self.find()

    def _handover(self, coordinator: Coordinator, disk: str) -> Handover:
        from .broadcast.handover import Handover  # loads much more than a job on one disk needs

        return Handover(
            coordinator=coordinator, key=self._place, disk=disk, built=(self.key, self.name), base=self.base
        )

    # --- one rank of a disk that lacks it -----------------------------------------------------------------------------

    def bring(self, coordinator: Coordinator, domain: str) -> Results:
        if self.scope != "job":
            self._take(coordinator, domain)
        return self.alone()

    def _take(self, coordinator: Coordinator, disk: str) -> None:
        """Have it sent; if those that have it are gone, from the one that builds it anew for all that lack it."""
        handover = self._handover(coordinator, disk)
        for _ in range(HANDOVERS):
            if handover.take() or not handover.reachable:
                return
            verdict = self._built(coordinator, disk, look=False)
            if verdict.led:
                handover.give(self.build(), _patience(verdict))
                return


def _with_facts(key: str, facts: Iterable[str]) -> str:
    """What it is kept under: nanocache.build's key where there are no facts."""
    given = [f"{name} {value}" for name, value in facts.items()] if isinstance(facts, Mapping) else facts
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"facts must be a list of str, such as nanodist.facts(), got {given!r}")
    known = list(given)
    if not all(isinstance(fact, str) for fact in known):
        raise ValueError(f"facts must be a list of str, such as nanodist.facts(), got {known!r}")
    return f"{key} {json.dumps(sorted(set(known)))}" if known else key


def _checking(fn: Callable[[Path], object]) -> Callable[[Path], object]:
    """`fn`, which fails if what it built could not be the same on another disk."""

    def build(dst: Path) -> None:
        fn(dst)
        if os.path.lexists(dst):
            check_travels(dst)

    build.__qualname__ = getattr(fn, "__qualname__", type(fn).__qualname__)
    return build


def _patience(verdict: Verdict) -> float:
    seconds: float = verdict.value["seconds"]
    return max(SILENT_DISK_PATIENCE, min(seconds, LONGEST_PATIENCE))
