"""The holder of a lock, its progress and its failure: `locks-v1/9f/<key>.json` beside the lock.

Not the lock. Invariants: whatever is unreadable or unparsable counts as absent; the record of a holder names no URL and
has the lock's mode, so that the other users of a group cache see a process at work; the record of a failure is
0600, because its salted hash of URLs and headers could be used to try passwords.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import Any

from ..callers import let_pass, suppress
from ..disk import files
from ..errors import NanocacheError
from .heartbeat import Heartbeat
from .lock import LockPlace
from .process import Identity, me

__all__ = ["RequestIdentity", "HolderWriter", "HolderRecord", "read", "succeed"]

REWRITE = 1.0  # seconds between two rewrites: the sign of life that other hosts go by

RequestIdentity = tuple[Any, ...]  # what was asked, credentials included: plain values whose repr is stable


def fingerprint(identity: RequestIdentity, salt: str) -> str:
    return hashlib.sha256(f"{salt}\n{identity!r}".encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class HolderRecord:
    """What a waiter reads. `error` is set after a failure, and then only `is_of` matters."""

    holder: Identity | None
    beat: int | None  # grows with every rewrite: where a mount keeps old times, only this tells of a sign of life
    done: int | None
    total: int | None
    rate: float | None  # bytes a second
    error: NanocacheError | None
    salt: str
    fingerprint: str  # of the request that failed

    @property
    def moment(self) -> tuple[object, ...]:
        """What differs between two records of one lock."""
        return self.holder, self.beat, self.done, self.salt

    @property
    def left(self) -> float | None:
        """Seconds until the work ends, if it goes on like this; None if the holder does not know."""
        if not self.beat or self.beat < 2:  # a rate of its first 50 ms says little
            return None
        if self.done is None or self.total is None or not self.rate:
            return None
        return max(0, self.total - self.done) / self.rate

    def is_of(self, identity: RequestIdentity) -> bool:
        """Whether the request that failed was exactly this one."""
        return bool(self.fingerprint) and fingerprint(identity, self.salt) == self.fingerprint


def read(path: str) -> HolderRecord | None:
    """The record at `path`; None if it is absent, not ours to read, or damaged."""
    raw = files.read_json(path)
    if raw is None:
        return None
    try:
        return _parse(raw)
    except (ValueError, TypeError, AttributeError):
        return None


def _parse(raw: dict[str, Any]) -> HolderRecord:
    error = raw.get("error")
    return HolderRecord(
        holder=Identity.parse(raw.get("holder") or {}),
        beat=_size(raw.get("beat")),
        done=_size(raw.get("done")),
        total=_size(raw.get("total")),
        rate=_rate(raw.get("rate")),
        error=NanocacheError.from_json(error) if error else None,
        salt=str(raw.get("salt", "")),
        fingerprint=str(raw.get("asker", "")),
    )


def _size(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 63 else None


def _rate(value: Any) -> float | None:
    return value if isinstance(value, float) and 0 <= value < float("inf") else None


def _own_record(beat: int, done: int | None, total: int | None, rate: float | None) -> dict[str, Any]:
    return {"holder": me().to_json(), "beat": beat, "done": done, "total": total, "rate": rate}


def succeed(place: LockPlace, gone: Identity | None, *, standing: bool) -> bool:
    """Put this process's record in the place of that of the holder `gone`, or where none is standing.

    False if another process was faster: of all that try, one succeeds. True as well where that can't be told.
    """
    try:
        if standing and not _take_away(place, gone):
            return False
        files.create_json(place.record, _own_record(0, None, None, None), mode=place.mode)
    except FileExistsError:
        return False
    except OSError as e:  # another user's, in a folder with the sticky bit; or a disk that fails
        let_pass(e)
    return True


def _take_away(place: LockPlace, gone: Identity | None) -> bool:
    """Whether the record of `gone` was taken away, by this process."""
    aside = os.path.join(place.scratch, files.new_name())
    try:
        os.rename(place.record, aside)
    except FileNotFoundError:
        return False
    try:
        record = read(aside)
        if record is None or record.holder == gone:
            return True
        with suppress(OSError):  # of a process that was faster, and writes it again within a second
            os.link(aside, place.record)
        return False
    finally:
        files.remove(aside)


class HolderWriter:
    """The holder's side: writes the record while it works, and leaves the error if it fails.

    Without a lock `place` is None and nothing is written: the record there is the real holder's. `standing`: a record
    lies there already, of a holder that was killed or failed. It stays until this hold has lasted a while, so that
    processes that waited for a failure can still read of it.
    """

    def __init__(self, place: LockPlace | None, *, standing: bool) -> None:
        self._place = place
        self._standing = standing
        self._begun = time.monotonic()
        self._wrote = self._begun
        self._start: int | None = None  # bytes that were there at the first report: they are no rate
        self._done: int | None = None
        self._total: int | None = None
        self._beats = 0
        self._heartbeat = Heartbeat(self._rewrite, REWRITE)
        self._beating = False
        self._pid = os.getpid()

    def start(self) -> None:
        """Write the record from now on. `failed` or `clear` ends it."""
        if self._place is None:
            return
        self._beating = self._heartbeat.start()
        if not self._beating:
            self._rewrite()

    @property
    def _ours(self) -> bool:
        # Not in a forked child: one that unwound through these frames deleted its parent's record.
        return os.getpid() == self._pid

    def _record(self) -> dict[str, Any]:
        return _own_record(self._beats, self._done, self._total, self._rate())

    def _rate(self) -> float | None:
        """Bytes a second since the first report."""
        elapsed = time.monotonic() - self._begun
        if self._done is None or self._start is None or elapsed <= 0:
            return None
        return round((self._done - self._start) / elapsed, 1)

    def _rewrite(self) -> None:
        self._wrote = time.monotonic()
        self._beats += 1
        self._replace(self._record())

    def _replace(self, record: dict[str, Any], mode: int | None = None) -> None:
        if self._place is None or not self._ours:
            return
        self._standing = True  # before it does
        with suppress(OSError):  # no reason to fail a download
            try:
                files.write_json(self._place.record, record, scratch=self._place.scratch, mode=mode or self._place.mode)
            except PermissionError:  # another user's, in a folder with the sticky bit
                if mode is None:
                    files.overwrite_json(self._place.record, record)

    def report(self, done: int, total: int | None) -> None:
        """Say how far the work is, for the next sign of life. Cheap enough for every chunk."""
        if self._start is None:
            self._start = done
        self._done = done
        self._total = total
        if not self._beating and time.monotonic() - self._wrote >= REWRITE:
            self._rewrite()

    def failed(self, error: NanocacheError, identity: RequestIdentity) -> None:
        """Leave the error for waiters whose request was the same."""
        self._heartbeat.stop()
        salt = files.random_name()
        record = {"error": error.to_json(), "ended": time.time(), "salt": salt, "asker": fingerprint(identity, salt)}
        self._replace(record, 0o600)

    def clear(self) -> None:
        """Leave nothing: it went well, or was interrupted and the next process takes over. Again is harmless."""
        self._heartbeat.stop()
        if self._place is None or not self._standing or not self._ours:
            return
        try:
            os.unlink(self._place.record)
        except PermissionError:  # as above
            with suppress(OSError):
                files.overwrite_json(self._place.record, {})
        except OSError as e:
            let_pass(e)

    def stop(self) -> None:
        """Write no more. Ctrl-C in `failed` or `clear` once left the signs of life going for ever."""
        self._heartbeat.stop()
