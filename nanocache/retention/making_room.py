"""Making room: so much is evicted as a fetch lacks, in prune's order, and never what prune would leave.

Not the cap (`books`), and no list of what went (`prune`). Invariant: once there is room, nothing more goes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from ..cancel import Cancel
from ..events import Evict, tell
from ..store.blobs import Store
from .eviction import evict
from .prune import Limits, one_at_a_time, prune
from .reasons import AT_WORK, HELD, PINNED, SHOWN, Keepers, disk_time
from .survey import Candidate, Survey, in_order

__all__ = ["Stayed", "clear_disk", "make_room", "what_stays"]


LABELS = {PINNED: "pinned", HELD: "held"}
RECENTLY = "recent"


@dataclass(slots=True)
class Stayed:
    """Bytes that could not be evicted, by what keeps them; a file that several things keep counts for each."""

    _sizes: dict[str, dict[int, int]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, candidate: Candidate, reason: str) -> None:
        if reason not in (AT_WORK, SHOWN):  # what is under way is promised, and a snapshot counts what it shows
            self._sizes[LABELS.get(reason, RECENTLY)].update(candidate.inodes)

    def sizes(self) -> dict[str, int]:
        """Why -> bytes."""
        return {label: sum(self._sizes[label].values()) for label in (*LABELS.values(), RECENTLY)}


def make_room(store: Store, lacking: int, cancel: Cancel, gone: Callable[[int], None]) -> Stayed | None:
    """Evict until `lacking` bytes are free; `gone` is told each time how many went. What stayed if nothing went.

    The caller is `one_at_a_time`. Raises Cancelled, OSError.
    """
    survey = Survey(store)
    keepers = Keepers(store, (), disk_time(store))
    stayed, freed = Stayed(), 0
    for candidate in in_order(survey):
        cancel.check()
        if freed >= lacking:
            break
        size = survey.freed_by(candidate)
        reason = keepers.reason(candidate, survey) or evict(store, candidate, keepers)
        if reason is not None:
            stayed.note(candidate, reason)
            continue
        survey.went(candidate)
        gone(size)
        tell(Evict(candidate.kind, candidate.path, size, "to make room"))
        freed += size
    return None if freed else stayed


def what_stays(store: Store) -> Stayed:
    """What no room can be made of. Raises OSError."""
    survey = Survey(store)
    keepers = Keepers(store, (), disk_time(store))
    stayed = Stayed()
    for candidate in in_order(survey):
        if (reason := keepers.reason(candidate, survey)) is not None:
            stayed.note(candidate, reason)
    return stayed


def clear_disk(store: Store, lacking: int | None, cancel: Cancel) -> bool:
    """On a disk that is full: whether anything went. What killed processes left goes, and with a number of bytes that
    are `lacking` what may be evicted. Raises Cancelled, OSError.
    """
    freed = prune(store, Limits(None, None), keep=(), dry_run=False).freed
    if lacking is not None and freed < lacking:
        with one_at_a_time(store, cancel):
            freed += make_room(store, lacking - freed, cancel, lambda _: None) is None
    return freed > 0
