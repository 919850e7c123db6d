"""What a file keeps here: its times, and with them the seal; its mode; its bytes, through a power cut.

And whose clock the times are of. Everything is tried, in the private folder of the probes.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator

from ..callers import let_pass
from ..disk.durable import NO_SYNC
from ..store import seal
from ..store.orphans import STILL
from .findings import FINE, LOCAL_DISK, LOSSES, Finding
from .site import SOME_BYTES, Site

__all__ = ["probe_clock", "probe_mode", "probe_seal", "probe_sync"]

SEAL = "seal"
MODES = "file modes"
SYNC = "syncing"
CLOCK = "clock"
DIGEST = hashlib.sha256(SOME_BYTES).hexdigest()
PRECISE = 1_000_000_123_456_789  # nanoseconds since the epoch, none of whose digits is a round one
STEPS = ((1, "1 ns"), (100, "100 ns"), (1000, "1 µs"), (1_000_000, "1 ms"), (10**9, "1 s"), (2 * 10**9, "2 s"))
DRIFT = 5.0  # seconds between two clocks that do no harm


def probe_seal(site: Site) -> Iterator[Finding]:
    """Is the mtime kept that is set, and does a write move it?"""
    path = site.new_file("sealed", SOME_BYTES)
    with open(path, "r+b", buffering=0) as file:
        os.utime(file.fileno(), ns=(PRECISE, PRECISE))
        step = _step(os.fstat(file.fileno()).st_mtime_ns)
        kept = seal.put(file.fileno(), DIGEST)
    kept = kept and seal.holds(os.lstat(path), DIGEST)
    with open(path, "r+b", buffering=0) as file:
        file.write(b"?")
    if not kept:
        lost = "each process reads a cached file once before its first hit"
        yield Finding(SEAL, LOSSES, "a file does not keep the mtime that it is given", lost, LOCAL_DISK)
    elif seal.holds(os.lstat(path), DIGEST):
        lost = "a write to a cached file goes unnoticed without rehash=True"
        yield Finding(SEAL, LOSSES, "a write does not move the mtime", lost, LOCAL_DISK)
    else:
        yield Finding(SEAL, FINE, f"it is kept, and a write breaks it; times are kept to {step}")


def _step(kept: int) -> str:
    """The finest unit in which a time was kept."""
    return next((name for step, name in STEPS if PRECISE // step * step == kept), "more than 2 s")


def probe_mode(site: Site) -> Iterator[Finding]:
    path = site.new_file("mode")
    try:
        os.chmod(path, 0o444)
        refused = ""
    except OSError as e:
        let_pass(e)
        refused = f" ({e.strerror})"
    mode = stat.S_IMODE(os.lstat(path).st_mode)
    if mode == 0o444:
        yield Finding(MODES, FINE, "they are kept: what is cached is read-only")
        return
    lost = "the mount decides who may write to cached files; a write is noticed by the seal"
    yield Finding(
        MODES, LOSSES, f"0444 becomes {mode:04o}{refused}", lost, "see the mount's options: umask, fmask, dir_mode"
    )


def probe_sync(site: Site) -> Iterator[Finding]:
    paths = {"files": site.new_file("sync", SOME_BYTES), "folders": site.bench}
    started = time.monotonic()
    refused = [what for what, path in paths.items() if not _syncs(path)]
    took = (time.monotonic() - started) * 1000
    if "files" in refused:
        lost = "a power cut may lose what was just downloaded; it is noticed, and downloaded again"
        yield Finding(SYNC, LOSSES, "files cannot be synced", lost, LOCAL_DISK)
        return
    yield Finding(SYNC, FINE, f"a file and its folder took {took:.0f} ms" + ("; folders need none" if refused else ""))


def _syncs(path: str) -> bool:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as e:
        if e.errno not in NO_SYNC:
            raise
        return False
    finally:
        os.close(fd)
    return True


def probe_clock(site: Site) -> Iterator[Finding]:
    """A file server gives the times by its own clock, and we compare them with ours."""
    ahead = os.lstat(site.new_file("clock", b"?")).st_mtime - time.time()
    if abs(ahead) <= DRIFT:
        yield Finding(CLOCK, FINE, f"the disk's clock is this host's, to {DRIFT:.0f} s")
        return
    seen = f"the disk's clock is {_long(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'} this host's"
    yield Finding(CLOCK, LOSSES, seen, _cost(abs(ahead)), "set both clocks by NTP (chrony, systemd-timesyncd)")


def _cost(seconds: float) -> str:
    lost = "`used` and other ages are off by as much"
    more = "; what another host still downloads may be taken for left, and be begun again" if seconds > STILL else ""
    return lost + more


def _long(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
