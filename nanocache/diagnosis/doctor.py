"""The doctor: every probe in its order, on the disk under one base directory.

Nothing is judged here but what keeps a probe from being made. Invariants: writes only into a private folder of our own,
which is gone afterwards; harmless beside fetches; a probe that fails is a finding and stops no other one; once the
probes have taken their time, what is left is not probed, and that is said.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace

from .. import config
from ..callers import callers_errors, let_pass
from ..disk import faults
from ..store.layout import NOT_WRITABLE
from . import base, keeping, known, locks, names, settings, space
from .findings import FINE, LOSSES, UNUSABLE, Finding
from .site import Site, bench

__all__ = ["doctor"]

Probe = Callable[[Site], Iterable[Finding]]

WRITING = "writing"
PROBING = 0.9  # seconds after which no further probe of a group is begun
# What is asked of the base directory as it is; what takes another process, whose start is no fault of the disk; and
# what is tried on the disk: title -> probe.
SEEN_FROM_OUTSIDE: dict[str, Probe] = {
    known.PROBE: known.probe,
    base.PERMISSIONS: base.probe_permissions,
    base.OWNERS: base.probe_owners,
    base.ABSENCE: base.probe_absence,
    space.SPACE: space.probe,
}
TOGETHER: dict[str, Probe] = {locks.BETWEEN: locks.probe}
TRIALS: dict[str, Probe] = {
    names.RENAMES: names.probe_renames,
    names.LINKS: names.probe_links,
    names.REFLINKS: names.probe_reflinks,
    names.NAMES: names.probe_kinds,
    keeping.SEAL: keeping.probe_seal,
    keeping.MODES: keeping.probe_mode,
    keeping.SYNC: keeping.probe_sync,
    keeping.CLOCK: keeping.probe_clock,
}


def doctor(base_dir: str | os.PathLike[str] | None = None) -> list[Finding]:
    """What works, what degrades and what to set, for the environment's base directory or `base_dir`: each a Finding.

    Looks at the settings, and tries on the base directory's disk what a fetch needs of it: locks, renames, links,
    times, modes, syncing, room. Safe beside running fetches; takes at most 2 s unless the disk itself hangs. Of a cache
    that this user may not write it says what can be seen. Uses no network. Raises ValueError for a `base_dir` that can
    be no path.
    """
    chosen = None if base_dir is None else config.expand(base_dir, "base_dir")
    with callers_errors():
        return list(_findings(chosen))


def _findings(chosen: str | None) -> Iterator[Finding]:
    yield from settings.probe_settings()
    yield from settings.probe_servers()
    try:
        where = chosen or config.base_dir()
    except ValueError as e:
        yield Finding(base.PLACE, UNUSABLE, str(e), "each call is a ValueError", "set NANOCACHE_DIR to a folder")
        return
    yield from _examine(where)


def _examine(where: str) -> Iterator[Finding]:
    """The probes of one base directory."""
    site = Site.of(where)
    found = list(base.probe_place(site))
    yield from found
    if any(finding.level == UNUSABLE for finding in found):
        return
    with ExitStack() as stack:
        try:
            tried = replace(site, bench=stack.enter_context(bench(site.directory)))
        except OSError as e:
            let_pass(e)
            yield _cannot_write(site, e)
            tried = None
        else:
            yield Finding(WRITING, FINE, "files can be made")
        if os.path.isdir(where):
            yield from _each(SEEN_FROM_OUTSIDE, Site.of(where))  # anew: the base may just have been made
        if tried is not None:
            yield from _each(TOGETHER, tried)
            yield from _each(TRIALS, tried)


def _each(probes: dict[str, Probe], site: Site) -> Iterator[Finding]:
    end = time.monotonic() + PROBING
    for title, probe in probes.items():
        if time.monotonic() > end:
            lost = "every call on this disk is slow"
            yield Finding(title, LOSSES, "not probed: the probes before it took too long", lost, "ask again later")
            continue
        try:
            yield from probe(site)
        except OSError as e:
            let_pass(e)
            yield _failed(title, site, e)


def _cannot_write(site: Site, error: OSError) -> Finding:
    reason = error.strerror or str(error)
    if error.errno in NOT_WRITABLE and os.path.isdir(site.base):
        if error.errno == errno.EROFS:
            reason = "the mount is read-only"
        lost = "what is here already is served, and all else is NotCached; what has to be tried was not probed"
        remedy = "set NANOCACHE_DIR to a folder that this user can write, unless it is meant so"
        return Finding(WRITING, LOSSES, f"no file can be made ({reason})", lost, remedy)
    if (full := faults.no_space(error, site.base)) is not None:
        return Finding(WRITING, UNUSABLE, full.reason, "a fetch is NoSpace; what is here is served", full.remedy)
    remedy = "set NANOCACHE_DIR to a folder that this user can write"
    return Finding(WRITING, UNUSABLE, f"no file can be made ({reason})", "nothing can be fetched", remedy)


def _failed(title: str, site: Site, error: OSError) -> Finding:
    full = faults.no_space(error, site.base)
    reason, remedy = (error.strerror or str(error), "see the log of the kernel (dmesg), or of the file server")
    if full is not None:
        reason, remedy = full.reason, full.remedy
    return Finding(title, UNUSABLE, f"it failed: {reason}", "a fetch meets the same error", remedy)
