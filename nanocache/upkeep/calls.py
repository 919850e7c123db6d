"""What a Cache offers to those who live with it for years: look, verify, pin, hold, remove, prune.

Each call is a module of this room, imported when it is called: a fetch needs none of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..disk import faults

if TYPE_CHECKING:
    from ..store.blobs import Store
    from .entries import Entry

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
