"""What a Cache offers to those who live with it for years: look, verify, pin, hold, remove, prune.

Each call is a module of this room, imported when it is called: a fetch needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..artifact import arguments
from ..callers import callers_errors
from ..disk import faults

if TYPE_CHECKING:
    from ..progress import ProgressOption
    from ..store.blobs import Store
    from .entries import Entry
    from .verify import Verified

__all__ = ["Upkeep"]


class Upkeep:
    """The part of `Cache` that looks after what is there."""

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
        beginning that fits several digests.
        """
        from .entries import Catalogue
        from .targets import digest_of

        with faults.named(self.store.base):
            digest = digest_of(self.store, target)
            return next(Catalogue(self.store).of(digest))

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
