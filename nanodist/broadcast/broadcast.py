"""One download for all disks of a job that share none: one process downloads, the bytes go from disk to disk.

    who needs what (roll) ── alone ──> download
      several
    the first of them downloads, one artifact while another is sent; the others take them down a tree (relay)
    what then is not here, for whatever reason, is downloaded; a stream that broke off is tried again, from another

Of each disk one process takes part, the one that acts for it. Invariants: an artifact that the origin will not give, or
gives wrong, is the same error for all, and nobody asks again; any other fault is its owner's; nothing here has to work
for the call to succeed, since what is missing afterwards is fetched as ever.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import nanocache
from nanocache import Artifact, ChecksumMismatch, DownloadFailed, Progress
from nanocache.cancel import Cancel, within
from nanocache.coordination.process import me
from nanocache.errors import NanocacheError
from nanocache.peers import BlobInfo, IncomingBlob, describe_blob, receive_blob

from ..coordination.coordinator import Coordinator
from ..errors import CoordinatorLost, LeaderError, to_record
from .link import LinkUnreachable
from .roll_call import ClosedRoll, RollCall, announce_complete
from .tree import Item, TreePosition, receive, send

__all__ = ["Broadcast"]

logger = logging.getLogger("nanodist")

WORKERS = 16  # downloads at once; nanocache bounds the connections of all of them together
ROUNDS = 3  # streams that may break off before everybody downloads for himself

ProgressOption = bool | Callable[[Progress], object] | None
Got = list[Path | BaseException]

_unreachable = False  # no stream came here, though the source was there: to try it each time would cost each time

ORIGIN_ERRORS = (DownloadFailed, ChecksumMismatch)  # errors that anybody who asks would get


@dataclass(frozen=True, slots=True)
class Broadcast:
    """One call's artifacts, on their way to this disk."""

    at: Coordinator
    key: str
    disk: str
    artifacts: Sequence[Artifact]
    base: Path
    workers: int | None
    return_exceptions: bool
    progress: ProgressOption

    def get(self, act: Callable[[Sequence[Artifact]], Got]) -> Got:
        """What `act` gives for the artifacts, most of which are here by then."""
        failed = self._bring()
        if failed and not self.return_exceptions:
            raise failed[min(failed)]
        rest = iter(act([artifact for n, artifact in enumerate(self.artifacts) if n not in failed]))
        return [failed[n] if n in failed else next(rest) for n in range(len(self.artifacts))]

    def _bring(self) -> dict[int, Exception]:
        """Have what can be had from others; the errors that are everybody's, by number."""
        global _unreachable
        failed: dict[int, Exception] = {}
        if _unreachable:
            announce_complete(self.at, self.key, self.base)  # so that nobody waits for this disk
            return failed
        roll = RollCall(self.at, self.key, self.disk, len(self.artifacts))
        try:
            for _ in range(ROUNDS):
                missing = self._missing(failed)
                if not missing or (place := roll.enter(missing)).size == 1:
                    break
                whole, errors = self._send(place) if place.position == 0 else self._receive(place, missing)
                failed |= errors
                if whole:
                    break
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

    def _missing(self, failed: dict[int, Exception]) -> set[int]:
        def here(artifact: Artifact) -> bool:
            plain = replace(artifact, postprocess=None)
            return artifact.url.lower().startswith("file:") or nanocache.lookup(plain, base_dir=self.base) is not None

        return {n for n, artifact in enumerate(self.artifacts) if n not in failed and not here(artifact)}

    # the source

    def _send(self, place: ClosedRoll) -> tuple[bool, dict[int, Exception]]:
        failed: dict[int, Exception] = {}
        try:
            with self._downloads(sorted(place.needs)) as downloads:
                send(self._tree(place), self._items(downloads, failed))
        except (NanocacheError, OSError) as e:  # this machine's own fault: the others look for another source
            logger.warning("cannot download for all: %s", e)
        return True, failed

    @contextmanager
    def _downloads(self, numbers: list[int]) -> Iterator[list[tuple[int, Future[Path]]]]:
        """The artifacts, each on its way to this disk while the block runs."""
        cancel, alone = Cancel(), len(numbers) == 1

        def download(artifact: Artifact) -> Path:
            with within(cancel):
                progress = self.progress if alone else False
                return nanocache.fetch(replace(artifact, postprocess=None), progress=progress, base_dir=self.base)

        workers = min(self.workers or WORKERS, len(numbers))
        with ThreadPoolExecutor(workers, "nanodist-fetch") as pool:
            try:
                yield [(n, pool.submit(download, self.artifacts[n])) for n in numbers]
            finally:
                cancel.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _items(self, downloads: list[tuple[int, Future[Path]]], failed: dict[int, Exception]) -> Iterator[Item]:
        for n, download in downloads:
            try:
                download.result()
            except ORIGIN_ERRORS as e:
                failed[n] = e
                yield n, to_record(e, rank=self.at.rank, host=me().host)
                if not self.return_exceptions:
                    return
                continue
            # None: nothing said how long it is, so nobody remembers it, and each one asks for himself.
            if (found := describe_blob(self.artifacts[n], self.base)) is not None:
                yield n, *found

    def _tree(self, place: ClosedRoll) -> TreePosition:
        return TreePosition(self.at, place.session, place.position, place.size)

    # the others

    def _receive(self, place: ClosedRoll, missing: set[int]) -> tuple[bool, dict[int, Exception]]:
        progress = self.progress if len(missing) == 1 else False

        def open_place(artifact: Artifact, promised: BlobInfo) -> AbstractContextManager[IncomingBlob]:
            return receive_blob(artifact, promised, self.base, progress=progress)

        return receive(self._tree(place), {n: self.artifacts[n] for n in missing}, open_place)
