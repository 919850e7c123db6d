"""Whether the rank that acts still lives: the signs it gives, and what the ranks that wait make of them.

    its beat      counted in the store, from a thread, for ranks anywhere
    its process   seen by ranks on the same host
    its mark      a descriptor that it holds while it acts, seen there too

Not what the act gave (`election`). Invariants: a process that can be seen and holds its mark is alive, however long one
C call of it keeps the GIL and so its beat; a fresh beat is life, whatever became of a process that seems to be the
leader's, because clones of a virtual machine share the boot id; a stopped process has its beat alone.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from nanocache.coordination.process import Identity

from ..errors import CoordinatorLost
from .coordinator import Coordinator

__all__ = ["Vital", "alive"]

BEAT = 0.5  # seconds between two signs of life
VETO = 1.0  # seconds that a beat has to contradict a process which seems to be gone and was not seen alive
STALE = 15.0  # seconds without one before any other leader counts as lost


@contextmanager
def alive(coordinator: Coordinator, key: str, nonce: str) -> Iterator[None]:
    """Give signs of life under `key` while the block runs."""
    with _marked(nonce), _beating(coordinator, key):
        yield


@contextmanager
def _beating(coordinator: Coordinator, key: str) -> Iterator[None]:
    done = threading.Event()

    def beat() -> None:
        try:
            while not done.wait(BEAT):
                coordinator.add(key, 1)
        except CoordinatorLost:
            pass  # the act goes on; publishing its outcome will meet the same loss

    thread = threading.Thread(target=beat, name="nanodist-beat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        # A thread inside the store while the interpreter ends aborts the process; a frozen store must not hold this
        # rank.
        thread.join(timeout=1.0)


@contextmanager
def _marked(nonce: str) -> Iterator[None]:
    """Hold a descriptor that names the act. It closes with the act, also where its end cannot be published."""
    try:
        mark = os.memfd_create(f"nanodist-{nonce}")
    except (AttributeError, OSError):  # macOS; no descriptor is left, or a sandbox forbids it
        yield
        return
    try:
        yield
    finally:
        os.close(mark)


def _holds_mark(pid: int, nonce: str) -> bool:
    """Whether the process acts; True where that cannot be seen."""
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return True
    return any(nonce in _target(f"/proc/{pid}/fd/{name}") for name in names)


def _target(link: str) -> str:
    with suppress(OSError):  # closed meanwhile
        return os.readlink(link)
    return ""


class Vital:
    """What one waiting rank knows of a leader's life."""

    def __init__(self, coordinator: Coordinator, key: str, nonce: str, process: Identity) -> None:
        """`key`: where the leader counts its beats."""
        self._coordinator = coordinator
        self._key = key
        self._nonce = nonce
        self._process = process
        self._seen_alive = False  # its process, from here
        self._beats: int | None = None  # at the last time of listening
        self._beat_heard = False  # it moved while this rank listened
        self._last_sign = time.monotonic()  # before the first one, the time of coming here
        self._listen_at = 0.0

    def lost(self) -> str:
        """Why the leader counts as lost; empty while it does not."""
        process_alive = self._process.alive
        self._seen_alive = self._seen_alive or process_alive is True
        if process_alive is False and not self._vetoed():
            return "its process is gone"
        self._listen(STALE / 4)
        if self._silent() <= STALE or (process_alive and self._acts()):
            return ""
        return f"no sign of life for {STALE:g} s"

    def _vetoed(self) -> bool:
        """Whether its beat contradicts a process that seems to be gone, or may yet do so."""
        if self._seen_alive:
            return False
        self._listen(BEAT / 2)
        return self._beat_heard or self._silent() < VETO

    def _silent(self) -> float:
        """Seconds without a sign."""
        return time.monotonic() - self._last_sign

    def _listen(self, every: float) -> None:
        now = time.monotonic()
        if now < self._listen_at:
            return
        self._listen_at = now + every
        beats = self._coordinator.add(self._key, 0)
        if self._beats is not None and beats != self._beats:
            self._beat_heard = True
            self._last_sign = now
        self._beats = beats

    def _acts(self) -> bool:
        acts = _holds_mark(self._process.pid, self._nonce)
        if acts:
            self._last_sign = time.monotonic()
        return acts
