"""What an origin gave, sent to the store that NANOCACHE_REMOTE names: so that the next machine has it from there.

Done by the process that downloaded it, once it is published and no lock is held. Invariants: an object that is there is
not sent; what the remote answers never fails the fetch; one that takes nothing is not asked again by this process; no
header of the caller's is sent, and no credential but the remote's own.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..artifact import remotes
from ..artifact.urls import is_file, redact
from ..callers import let_pass, suppress
from ..cancel import Cancel, ambient
from ..config import Settings
from ..http import sending
from ..http.failure import Failure, Offline
from ..http.redirects import Target
from ..http.sending import FileBody, Status
from ..sources import writing
from .remote import HURRIED, Remote, usable

__all__ = ["fill_all", "held_back"]

logger = logging.getLogger("nanocache")

READ_ONLY = (401, 403, 405, 501)  # what a store that takes nothing says to a PUT, and some to a HEAD
NO_FOLDER = (404, 409)  # what WebDAV says where the folder is missing, and S3 of a bucket
MADE = (201, 405)  # by us, or by another process meanwhile
WRITE_REFUSED = (PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class _Fill:
    """One artifact on its way to the remote."""

    remote: Remote
    settings: Settings
    digest: str
    cancel: Cancel

    def run(self, data: BinaryIO) -> None:
        try:
            self._run(data, os.fstat(data.fileno()).st_size)
        except Offline:
            pass
        except Failure as e:
            self.remote.is_unreachable(e.reason)
        except OSError as e:
            let_pass(e)
            answer = self._is_read_only if isinstance(e, WRITE_REFUSED) else self.remote.is_full
            answer(e.strerror or str(e))

    def _run(self, data: BinaryIO, size: int) -> None:
        if not is_file(self._url):
            self._send(data.fileno(), size)
        elif self.digest in self.remote.wrong or writing.size_of(self._url) != size:
            writing.copy_to(self._url, data, self.cancel)

    @property
    def _url(self) -> str:
        return remotes.object_url(self.remote.base, self.digest)

    def _send(self, fd: int, size: int) -> None:
        if self._has(size):
            return
        target = writing.target_of(self._url, "PUT", self.cancel)
        if target is None:
            self._is_read_only("its source only reads")
            return
        body = FileBody(fd, size, self.settings.timeout, self.cancel)
        status = sending.put(target, body, self.settings, self.cancel)
        if status.code in NO_FOLDER and self._make_folder():
            status = sending.put(target, body, self.settings, self.cancel)
        self._judge(status)

    def _has(self, size: int) -> bool:
        """Whether the remote has the object already. One of which it gave other bytes is replaced."""
        target = writing.target_of(self._url, "HEAD", self.cancel)
        if target is None or self.digest in self.remote.wrong:
            return False
        status = sending.ask("HEAD", target, self._hurried, self.cancel)
        if status.code >= 500 and status.code not in READ_ONLY:
            raise Failure(f"it answers {status.code} to HEAD")
        return status.code == 200 and status.size in (None, size)

    def _make_folder(self) -> bool:
        target = Target(f"{self._url.rpartition('/')[0]}/")
        return sending.ask("MKCOL", target, self._hurried, self.cancel).code in MADE

    @property
    def _hurried(self) -> Settings:
        return self.settings._replace(timeout=min(HURRIED, self.settings.timeout))

    def _judge(self, status: Status) -> None:
        if 200 <= status.code < 300:
            self.remote.wrong.discard(self.digest)
            logger.info("%s is in the remote %s now", self.digest, redact(self.remote.base))
            return
        reason = f"it answers {status.code} to PUT"
        if status.code not in (*READ_ONLY, *NO_FOLDER):
            self.remote.is_full(reason)
            return
        if status.code in NO_FOLDER:  # there is no such place: worth a word
            self.remote.failed(reason)
        self._is_read_only(reason)

    def _is_read_only(self, reason: str) -> None:
        self.remote.is_read_only = True
        logger.debug("the remote %s is read-only (%s): it is not filled", redact(self.remote.base), reason)


def fill_all(settings: Settings, downloaded: Sequence[tuple[Path, str]], cancel: Cancel) -> None:
    """Have the remote hold what this process had from an origin. Raises Cancelled."""
    for path, digest in downloaded:
        if settings.remote is not None and _later.count:
            _later.fills.append((settings, digest, path))
        elif settings.remote is not None:
            _fill(settings, digest, path, cancel)


def _fill(settings: Settings, digest: str, path: Path, cancel: Cancel) -> None:
    remote = usable(settings)
    if remote is None or not remote.takes:
        return
    with suppress(FileNotFoundError), open(path, "rb") as data:  # it may be evicted by now
        _Fill(remote, settings, digest, cancel).run(data)


# --- later ------------------------------------------------------------------------------------------------------------


class _Later:
    """Fills that wait, because other processes wait for this one. Of a forked child none are."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0  # blocks that hold them back
        self.fills: list[tuple[Settings, str, Path]] = []

    def hold(self) -> None:
        with self.lock:
            self.count += 1

    def release(self) -> list[tuple[Settings, str, Path]]:
        """What is to be filled now."""
        with self.lock:
            self.count -= 1
            ready, self.fills = ([], self.fills) if self.count else (self.fills, [])
        return ready


_later = _Later()


def _reset() -> None:
    global _later
    _later = _Later()


os.register_at_fork(after_in_child=_reset)


@contextmanager
def held_back() -> Iterator[None]:
    """Nothing is sent by this process while the block runs; after it, what was put off, by this thread."""
    later = _later
    ready = []
    try:
        later.hold()
        yield
    finally:
        ready = later.release()
    for settings, digest, path in ready:
        _fill(settings, digest, path, ambient())
