"""What was built on one disk, on its way to those that lack it: from a disk that has it, as one stream down the tree.

    roll call      who has it and who lacks it; the first that has it sends
    item 0         what is in it: paths, digests, sizes
    the store      which of its files each disk lacks
    item 1         the bytes of those files, one after another

One process takes part for each disk. Not how it is built, nor by which rank (`nanodist.building`). Invariants: a disk
that has nothing of it gets its bytes once, small files and large ones alike in full frames; a disk that has some of its
files is sent the others, but for what passes through it; what did not come whole leaves nothing behind.
"""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from nanocache.cancel import ambient
from nanocache.errors import NanocacheError
from nanocache.peer_products import PackReader, Parcel, Unpacking, find_built, receive_built

from ..coordination.coordinator import Coordinator, pauses
from .link import LinkUnreachable
from .receiver import Wanted, receive
from .roll_call import SILENT_DISK_PATIENCE, ClosedRollCall, RollCall
from .tree import Item, TreePosition, send

__all__ = ["Handover"]

logger = logging.getLogger("nanodist")

PARCEL, BYTES = 0, 1  # the items of the stream
WORDS_TIMEOUT = 30.0  # seconds for a disk to look at what it has of the product; it may be reading all of it

_unreachable = False  # once no stream came although its source was there: each further try would cost seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """One product, on its way between the disks of a job."""

    coordinator: Coordinator
    key: str
    disk: str
    built: tuple[str, str]  # its key and its name
    base: Path

    @property
    def reachable(self) -> bool:
        """Whether the disks can be connected, as far as this process knows."""
        return not _unreachable

    def give(self, product: Path, patience: float) -> None:
        """Send it to the disks that lack it. Waits `patience` seconds at most for disks that say nothing."""
        if _unreachable:
            return
        called = self._roll_call(patience).enter(set())
        tree = self._tree(called)
        if tree is None or tree.position or tree.size == 1:
            return  # another disk sends, or none needs it
        try:
            send(tree, self._items(product, tree))
        except (NanocacheError, OSError, ValueError) as e:  # this machine's own fault: the others build it themselves
            logger.warning("cannot send %s to the other disks: %s", product.name, e)

    def take(self) -> bool:
        """Whether it came. Raises CoordinatorLost."""
        global _unreachable
        if _unreachable:
            return False
        called = self._roll_call(SILENT_DISK_PATIENCE).enter({PARCEL})
        tree = self._tree(called)
        if tree is None:
            return False
        try:
            return self._receive(tree)
        except LinkUnreachable as e:
            _unreachable = True
            logger.warning(
                "gloo cannot connect the nodes of this job (%s): from here on each disk builds what it lacks; "
                "set GLOO_SOCKET_IFNAME to the interface that they share",
                e,
            )
        except (NanocacheError, OSError) as e:
            logger.warning("%s is not taken from another disk: %s", self.built[1], e)
            _say_lacking(tree, frozenset())  # so that the source waits for no word of this disk
        return False

    def _roll_call(self, patience: float) -> RollCall:
        return RollCall(self.coordinator, f"{self.key}/hand", self.disk, lists=True, patience=patience)

    def _tree(self, called: ClosedRollCall) -> TreePosition | None:
        """This process's place in the tree, whose top is the first that has it; None if it has no place there."""
        if not called.givers:
            return None
        members = [0, *range(called.givers, called.size)]
        if called.position not in members:
            return None
        return TreePosition(self.coordinator, called.session, members.index(called.position), len(members))

    # the disk that has it

    def _items(self, product: Path, tree: TreePosition) -> Iterator[Item]:
        parcel = Parcel.of(product, ambient())
        data = parcel.data
        yield PARCEL, {"bytes": len(data)}, lambda: io.BytesIO(data)
        lacking = sorted(self._lacking(tree))
        yield BYTES, {"files": lacking}, lambda: PackReader(product.parent, [parcel.files[n] for n in lacking])

    def _lacking(self, tree: TreePosition) -> set[int]:
        """The numbers of the files that any disk lacks. One that does not say so in time builds it itself."""
        lacking: set[int] = set()
        deadline = time.monotonic() + WORDS_TIMEOUT
        for position in range(1, tree.size):
            for _ in pauses(tree.size):
                if self.coordinator.check(_word(tree, position)):
                    lacking.update(json.loads(self.coordinator.get(_word(tree, position))))
                    break
                if time.monotonic() > deadline:
                    break
        return lacking

    # those that lack it

    def _receive(self, tree: TreePosition) -> bool:
        key, name = self.built
        with receive_built(key, name, self.base) as incoming:
            contents = _IncomingContents(incoming, tree)
            items = {
                PARCEL: Wanted(name, lambda _: nullcontext(contents)),
                BYTES: Wanted(name, partial(_place_of_bytes, incoming)),
            }
            whole, _ = receive(tree, items)
        return whole and find_built(key, name, self.base) is not None


class _IncomingContents:
    """What is in the product, as its source says."""

    def __init__(self, incoming: Unpacking, tree: TreePosition) -> None:
        self._incoming = incoming
        self._tree = tree
        self._data = bytearray()

    def write(self, data: memoryview) -> None:
        self._data += data

    def publish(self) -> None:
        """Make what can be made of what is on this disk, and say what is lacking: nothing, if that fails."""
        lacking: frozenset[int] = frozenset()
        try:
            lacking = self._incoming.begin(self._data)
        finally:
            _say_lacking(self._tree, lacking)


def _place_of_bytes(incoming: Unpacking, record: dict[str, Any]) -> AbstractContextManager[Unpacking]:
    incoming.expect(record["files"])
    return nullcontext(incoming)


def _say_lacking(tree: TreePosition, numbers: frozenset[int]) -> None:
    tree.coordinator.set(_word(tree, tree.position), json.dumps(sorted(numbers)))


def _word(tree: TreePosition, position: int) -> str:
    return f"{tree.session}/lacks/{position}"
