"""What a Cache offers to people that keep it for years: look, verify, pin, hold, remove, prune.

Each call is a module of this room, imported when it is called: a fetch needs none of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ..artifact import arguments
from ..callers import callers_errors
from ..disk import faults
from ..events import Listener, telling

if TYPE_CHECKING:
    from ..progress import ProgressOption
    from ..retention.prune import Pruned
    from ..store.blobs import Store
    from .entries import Entry
    from .verify import Verified

__all__ = ["Upkeep"]

logger = logging.getLogger("nanocache")


class Upkeep:
    """The part of `Cache` that looks after what is there."""

    _listener: Listener | None

    @property
    def store(self) -> Store:
        raise NotImplementedError

    def entries(self) -> Iterator[Entry]:
        """What is cached, one Entry for each digest, in no order. Safe beside running fetches; writes nothing.

        Raises OSError where a folder of the cache can't be read.
        """
        from .entries import Catalogue

        with faults.named(self.store.base):
            yield from Catalogue(self.store).entries()

    def info(self, target: object) -> Entry:
        """What is cached under `target`: a path, a URL, or a digest of which the first 8 digits suffice.

        A path may be inside what was fetched, or a hard link to it elsewhere. Raises NotCached, and ValueError for a
        beginning that fits several digests. What is not here is looked for in the read-only caches.
        """
        from . import looking
        from .targets import unknown

        with faults.named(self.store.base):
            if (found := looking.entry_of(self.store, target)) is None:
                raise unknown(self.store, target)
            return found

    def verify(
        self,
        targets: object = None,
        *,
        repair: bool = False,
        workers: int | None = None,
        progress: ProgressOption = None,
    ) -> Verified:
        """Read what is cached, all of it or `targets` (see `info`), and compare it with its digests.

        Blobs are hashed on `workers` threads, as many as there are cores. Of a snapshot's folder each file is looked
        at, of what a hook built how many files and bytes there are. A blob that is wrong loses its seal, so that no hit
        gives it; one that is right and had lost it gets it back. `repair`: what is damaged is made or downloaded again,
        and no blob goes before there is a right one in its place. Raises ValueError, NotCached, OSError.
        """
        from . import verify as verifying
        from .targets import digests_of

        arguments.flag("repair", repair)
        arguments.progress(progress)
        if workers is not None:
            arguments.whole("workers", workers, "threads", 1)
        with callers_errors(), faults.named(self.store.base):
            digests = None if targets is None else digests_of(self.store, targets)
            return verifying.verify(self.store, digests, repair=repair, workers=workers, progress=progress)

    def remove(self, targets: object) -> list[str]:
        """Remove `targets` (see `info`), what was built of them, and the memory of their URLs; the digests that went.

        With a snapshot go its files that no other snapshot shows. What is pinned or held by a process is an OSError,
        and nothing goes then. Raises ValueError, NotCached, OSError.
        """
        from . import remove
        from .targets import digests_of

        with faults.named(self.store.base):
            return remove.remove(self.store, digests_of(self.store, targets))

    def pin(self, target: object, note: str = "") -> None:
        """Never evict `target` (see `info`), nor what was built of it. `note`: why, for people.

        Raises ValueError, NotCached, OSError.
        """
        from ..retention import pins
        from ..retention.eviction import check_writable
        from .targets import digests_of

        if not isinstance(note, str):
            raise ValueError(f"note must be a str, got {type(note).__name__}")
        with faults.named(self.store.base):
            check_writable(self.store)
            for digest in digests_of(self.store, target):
                pins.add(self.store, digest, note)
            digests_of(self.store, target)  # an eviction that did not see the pin has taken it by now

    def unpin(self, target: object) -> None:
        """Take back what `pin` did. Raises ValueError, NotCached, OSError."""
        from ..retention import pins
        from ..retention.eviction import check_writable
        from .targets import digests_of

        with faults.named(self.store.base):
            check_writable(self.store)
            for digest in digests_of(self.store, target):
                pins.remove(self.store, digest)

    @contextmanager
    def hold(self, targets: object) -> Iterator[None]:
        """Have nothing of `targets` (see `info`) evicted while the block runs; for paths that are used for hours.

        It ends with the block or the process, and a forked child holds nothing. In a cache that this user may not
        write, it is a warning; of a read-only cache its owner decides. Raises ValueError, NotCached, OSError.
        """
        from ..retention.leases import lease
        from .looking import own_digests
        from .targets import digests_of

        store = self.store
        digests = own_digests(store, targets)
        if not digests:
            yield
            return
        if not store.prepare():
            logger.warning("%s is not writable for this user: nothing in it can be held", store.base)
            yield
            return
        with lease(store, digests):
            digests_of(store, digests)  # an eviction that did not see the lease has taken it by now
            yield

    def prune(
        self,
        *,
        max_size: int | str | None = None,
        older_than: float | None = None,
        keep: object = (),
        dry_run: bool = False,
    ) -> Pruned:
        """Evict what was not used for `older_than` seconds, and then the longest unused until `max_size` is kept.

        `max_size`: bytes, `"50GB"`, or `"80%"` of the disk; it covers blobs, products, snapshots and partials. First go
        dead partials, then what hooks and snapshots made, then artifacts. Never what is pinned, held, in `keep`
        (targets as for `info`, and lock files), or was used within 2 hours. `dry_run`: nothing goes. Without a limit
        only what killed processes left does. One prune at a time; fetches go on beside it. Raises ValueError, OSError.
        """
        from ..retention import prune
        from ..sizes import read_size
        from .listed import listed

        arguments.flag("dry_run", dry_run)
        if older_than is not None:
            arguments.number("older_than", older_than, "seconds")
        with callers_errors(), faults.named(self.store.base):
            most = None if max_size is None else read_size("max_size", max_size, self.store.base)
            kept, limits = listed(self.store, keep), prune.Limits(most, older_than)
            step = partial(prune.prune, self.store, limits, keep=kept, dry_run=dry_run)
            return telling(self.store.counts, self._listener, step)
