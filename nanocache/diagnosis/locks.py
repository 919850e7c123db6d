"""Do locks keep another process out, and let it in once they are free?

Two real processes: a lock between two descriptors of one process proves nothing, a POSIX lock least of all. Not how far
a lock reaches: another host would have to be asked, so that `known` goes by the mount's name.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..callers import let_pass
from ..coordination.lock import try_lock
from . import other_process
from .findings import FINE, LOSSES, UNUSABLE, Finding
from .known import lock_remedy
from .other_process import GOT, KEPT_OUT
from .site import Site

__all__ = ["probe"]

OTHER = Path(other_process.__file__)
ANSWERED = 3.0  # seconds for the other process, which needs 0.03 where neither machine nor disk is busy
BETWEEN = "locks between processes"
POSIX = "POSIX locks"
WITHOUT = (
    "processes that want the same at one moment each download it, and `prune` goes by times and pids alone; "
    "no file is wrong by it"
)


def probe(site: Site) -> Iterator[Finding]:
    paths = site.new_file("flock"), site.new_file("posix")
    if getattr(sys, "frozen", False) or not sys.executable:  # the executable is the application
        yield Finding(BETWEEN, FINE, "not probed: there is no Python to run as the other process")
        return
    try:
        held, free = _words_while_held(*paths), _words(*paths)
    except subprocess.SubprocessError as e:
        trouble = f"not probed: {sys.executable} could not be run as the other process ({e.__cause__ or e})"
        yield Finding(BETWEEN, FINE, trouble)
        return
    yield _judge_flock(held[0], free[0], site)
    yield Finding(POSIX, FINE, "not used by nanocache; " + _in_words(held[1], free[1]))


def _words_while_held(flock_path: str, posix_path: str) -> list[str]:
    """What the other process gets while this one has both locks; of one that cannot be had here, why."""
    try:
        lock = try_lock(flock_path, mode=0o600)
    except OSError as e:
        let_pass(e)
        return [str(e.strerror)] * 2
    posix = os.open(posix_path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.lockf(posix, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return _words(flock_path, posix_path)
    except OSError as e:
        let_pass(e)
        return [_words(flock_path, posix_path)[0], str(e.strerror)]
    finally:
        os.close(posix)
        if lock is not None:
            lock.release()


def _words(flock_path: str, posix_path: str) -> list[str]:
    # -I and -S: it needs nothing that is installed, and must not run what a folder of the caller's holds.
    command = [sys.executable, "-I", "-S", str(OTHER), flock_path, posix_path]
    try:
        said = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=ANSWERED)
    except OSError as e:
        let_pass(e)
        raise subprocess.SubprocessError from e
    return said.stdout.decode(errors="replace").splitlines()


def _in_words(held: str, free: str) -> str:
    if (held, free) == (KEPT_OUT, GOT):
        return "they keep another process out, and let it in once they are free"
    if held == GOT:
        return "they let every process in"
    return f"they cannot be had ({held if held != KEPT_OUT else free})"


def _judge_flock(held: str, free: str, site: Site) -> Finding:
    seen = _in_words(held, free)
    if (held, free) == (KEPT_OUT, GOT):
        return Finding(BETWEEN, FINE, seen)
    if held == KEPT_OUT:  # free, and still refused
        hangs = "a caller waits for a process that is not there, until NANOCACHE_LOCK_TIMEOUT"
        return Finding(BETWEEN, UNUSABLE, "a free lock is refused", hangs, lock_remedy(site.mount))
    return Finding(BETWEEN, LOSSES, seen, WITHOUT, lock_remedy(site.mount))
