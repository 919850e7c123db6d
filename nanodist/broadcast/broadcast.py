"""One download for all disks of a job that share none: one process downloads, the bytes go from disk to disk.

    who needs what (roll call) ── alone ──> download
      several
    the first of them downloads, one artifact while another is sent; the others receive them down a tree
    what is still missing then is downloaded; a stream that broke off is tried again, from another source

One process takes part for each disk: the one that leads there. Invariants: an artifact that the origin will not give,
or gives wrong, is the same error for all, and no other process asks for it; any other fault concerns its own disk only;
the call succeeds even if nothing here works, since what is missing afterwards is fetched as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import nanocache
from nanocache import Artifact, Progress
from nanocache.cancel import Cancel, within
from nanocache.coordination.process import me
from nanocache.errors import NanocacheError
from nanocache.peers import BlobInfo, IncomingBlob, describe_blob, receive_blob

from ..coordination.coordinator import Coordinator
from ..errors import ORIGIN_ERRORS, CoordinatorLost, LeaderError, to_record
from .link import LinkUnreachable
from .receiver import Wanted, receive
from .roll_call import ClosedRollCall, RollCall, announce_complete
from .tree import Item, TreePosition, send

__all__ = ["Broadcast"]

logger = logging.getLogger("nanodist")

DOWNLOADS = 16  # at once; nanocache bounds the connections of all of them together
ROUNDS = 3  # streams that may break off before each process downloads by itself

ProgressOption = bool | Callable[[Progress], object] | None
Errors = dict[int, Exception]  # by the artifact's number in the call
Download = tuple[int, Future[Path]]  # the artifact's number in the call, and its path to come

_unreachable = False  # once the source was there and no stream came: each further try would cost seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Broadcast:
    """One call's artifacts, on their way to this disk."""

    coordinator: Coordinator
    key: str
    disk: str
    artifacts: Sequence[Artifact]
    base: Path
    workers: int | None
    return_exceptions: bool
    progress: ProgressOption

    def bring(self) -> Errors:
        """Have what the other disks or the origin give. The errors that every process would get, by number.

        Whatever is missing afterwards is the caller's to download.
        """
        global _unreachable
        failed: Errors = {}
        try:
            if _unreachable:
                announce_complete(self.coordinator, self.key, self.base)  # so that no process waits for this disk
            else:
                self._rounds(failed)
        except LinkUnreachable as e:
            _unreachable = True
            logger.warning(
                "gloo cannot connect the nodes of this job (%s): from here on each one downloads by itself; "
                "set GLOO_SOCKET_IFNAME to the interface that they share, or NANODIST_SCOPE=disk",
                e,
            )
        except (CoordinatorLost, LeaderError) as e:
            logger.warning("%s; what is missing is downloaded", e)
        return failed

    def _rounds(self, failed: Errors) -> None:
        """Send or receive until a stream came to its end. Adds to `failed`."""
        # Of a single artifact no list is sent: each process that enters needs it.
        roll_call = RollCall(self.coordinator, self.key, self.disk, lists=len(self.artifacts) > 1)
        for _ in range(ROUNDS):
            missing = self._missing(failed)
            if not missing:
                return
            called = roll_call.enter(missing)
            if called.size == 1 or self._round(called, missing, failed):
                return

    def _round(self, called: ClosedRollCall, missing: set[int], failed: Errors) -> bool:
        """Whether the stream came to its end."""
        if called.position == 0:
            self._send(called, failed)
            return True
        whole, errors = self._receive(called, missing)
        failed.update(errors)
        return whole

    def _missing(self, failed: Errors) -> set[int]:
        missing = {n for n, artifact in enumerate(self.artifacts) if not self._is_here(artifact)}
        return missing - failed.keys()

    def _is_here(self, artifact: Artifact) -> bool:
        if artifact.url.lower().startswith("file:"):
            return True
        return nanocache.lookup(_without_hook(artifact), base_dir=self.base) is not None

    # the source

    def _send(self, called: ClosedRollCall, failed: Errors) -> None:
        try:
            with self._downloads(sorted(called.needs)) as downloads:
                send(self._tree(called), self._items(downloads, failed))
        except (NanocacheError, OSError) as e:  # this machine's own fault: the others look for another source
            logger.warning("cannot download for all: %s", e)

    @contextmanager
    def _downloads(self, numbers: list[int]) -> Iterator[list[Download]]:
        """The artifacts, each on its way to this disk while the block runs."""
        cancel = Cancel()
        progress = self.progress if len(numbers) == 1 else False
        threads = min(self.workers or DOWNLOADS, len(numbers))
        with ThreadPoolExecutor(threads, "nanodist-fetch") as pool:
            try:
                yield [(n, pool.submit(self._download, self.artifacts[n], progress, cancel)) for n in numbers]
            finally:
                cancel.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _download(self, artifact: Artifact, progress: ProgressOption, cancel: Cancel) -> Path:
        fetch = partial(nanocache.fetch, _without_hook(artifact), progress=progress, base_dir=self.base)
        return within(cancel, fetch)

    def _items(self, downloads: list[Download], failed: Errors) -> Iterator[Item]:
        """What is sent, as the downloads end; the origin's errors, which are added to `failed`, travel too."""
        for n, download in downloads:
            try:
                download.result()
            except ORIGIN_ERRORS as e:
                failed[n] = e
                yield n, to_record(e, rank=self.coordinator.rank, host=me().host), None
                if not self.return_exceptions:
                    return
                continue
            # None: its length was unknown, so that the cache does not remember it, and each process downloads it.
            found = describe_blob(self.artifacts[n], self.base)
            if found is not None:
                path, blob = found
                yield n, blob.to_json(), partial(FileIO, path)

    def _tree(self, called: ClosedRollCall) -> TreePosition:
        return TreePosition(self.coordinator, called.session, called.position, called.size)

    # the others

    def _receive(self, called: ClosedRollCall, missing: set[int]) -> tuple[bool, Errors]:
        progress = self.progress if len(missing) == 1 else False
        return receive(self._tree(called), {n: self._wanted(self.artifacts[n], progress) for n in missing})

    def _wanted(self, artifact: Artifact, progress: ProgressOption) -> Wanted:
        def place(record: dict[str, Any]) -> AbstractContextManager[IncomingBlob]:
            return receive_blob(artifact, BlobInfo.from_json(record), self.base, progress=progress)

        return Wanted(str(artifact), place)


def _without_hook(artifact: Artifact) -> Artifact:
    return replace(artifact, postprocess=None)
