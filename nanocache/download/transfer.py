"""What all connections of one transfer share: the source, the partial, the ledger, and how a body gets onto the disk.

Not the plan (who fetches what, how many there are): that is the crew's. Invariants: the ledger is touched only under
`changed`; a byte is in the ledger only after it is in the file; nobody writes once his own `cancel` is set.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from ..artifact import urls
from ..cancel import Cancel
from ..config import Settings
from ..disk.hashing import FileHasher
from ..errors import NoSpace
from ..http import redirects
from ..http.exchange import Response
from ..http.failure import Failure, StartOver
from ..http.redirects import Address, Answer, Source
from ..http.validation import ResponseInfo, check_part, part_headers
from ..sources import file
from ..store.partials import Partial
from .ledger import Claim, Ledger

__all__ = ["Transfer"]

EXPIRED = (401, 403, 404, 410)  # what a signed address answers when its time is over


@dataclass(slots=True)
class Transfer:
    """One source's transfer into one partial."""

    source: Source
    partial: Partial
    settings: Settings
    size: int | None = None  # bytes that it has to have
    ledger: Ledger = field(default_factory=Ledger)
    offer: ResponseInfo = field(default_factory=ResponseInfo)
    waited: float = 0.0  # seconds that all its connections together had nothing to read
    pieced: bool = False  # bytes of more than one answer are in it
    address: Address | None = None  # where the last answer came from
    expired: set[str] = field(default_factory=set)
    changed: threading.Condition = field(default_factory=threading.Condition)
    frontier: FileHasher = field(init=False)

    def __post_init__(self) -> None:
        self.frontier = FileHasher(self.partial.fd)

    def restart(self) -> None:
        """Forget the bytes: they are wrong, or nobody can tell. Only while no connection is at transfer."""
        self.partial.reset()
        self.ledger, self.frontier, self.pieced = Ledger(), FileHasher(self.partial.fd), False

    @contextmanager
    def ask(self, headers: Sequence[tuple[str, str]], cancel: Cancel, *, patient: bool = True) -> Iterator[Answer]:
        """The answer to a request for the artifact, asked where the last one came from.

        A redirect's address may have been signed for a while only: refused there, it is resolved again, once.
        """
        with ExitStack() as stack:
            try:
                answer = stack.enter_context(self._get(headers, self.address, cancel, patient))
            except Failure as e:
                if not self._expire(e):
                    raise
                answer = stack.enter_context(self._get(headers, None, cancel, patient))
            if answer.response.status in (200, 206):
                self.address = answer.address
            yield answer

    @contextmanager
    def _get(
        self, headers: Sequence[tuple[str, str]], at: Address | None, cancel: Cancel, patient: bool
    ) -> Iterator[Answer]:
        if urls.is_file(self.source.url):
            with file.read(self.source.url) as response:
                yield Answer(response, Address(self.source.url))
            return
        with redirects.get(
            self.source, headers, at=at, settings=self.settings, cancel=cancel, patient=patient
        ) as answer:
            yield answer

    def _expire(self, failure: Failure) -> bool:
        at = self.address
        if at is None or not at.hops or failure.status not in EXPIRED or at.url in self.expired:
            return False
        self.expired.add(at.url)
        return True

    def fetch_part(self, claim: Claim, cancel: Cancel, *, patient: bool) -> None:
        """Fetch [claim.pos, claim.end), or the part of it that the server gives. Raises StartOver, Failure, ..."""
        headers = part_headers(claim.pos, claim.end, self.offer.validator)
        with self.ask(headers, cancel, patient=patient) as answer:
            if answer.response.status != 206:
                raise StartOver(f"it answered {answer.response.status} to a range")
            end, _ = check_part(answer.response.headers, self.offer, claim.pos, claim.end)
            self.pieced = True
            self.take(claim, answer.response, cancel, ends=end)

    def take(
        self,
        claim: Claim,
        response: Response,
        cancel: Cancel,
        *,
        ends: int | None,
        upto: int | None = None,
        tell: Callable[[], None] | None = None,
    ) -> bool:
        """Write the body, which ends at `ends` as far as it says, where the claim says; call `tell` for each chunk.

        False if it stopped at `upto`, so that it can go on; True if all was taken that will be: the body ended, or the
        claim did, because others have the rest.
        """
        claim.reach, before = ends, 0.0
        for chunk in response.body:
            cancel.check()
            with self.changed:
                view = memoryview(chunk)[: claim.left]
                claim.writing = True
            self.check_limit(claim.pos + len(view))
            self.partial.write(view, claim.pos)
            with self.changed:
                self.ledger.advance(claim, len(view))
                claim.moved, claim.writing, waited = time.monotonic(), False, response.waited()
                self.waited, before = self.waited + waited - before, waited
                met = claim.left == 0
            if tell is not None:
                tell()
            if len(view) < len(chunk) or (met and ends != claim.end):
                return True
            if upto is not None and claim.pos >= upto and not met:
                return False
        return True

    def check_limit(self, size: int) -> None:
        if self.size is not None and size > self.size:
            raise Failure(f"it has more than the {self.size:,} bytes that were expected", lasting=True)
        most = self.settings.max_artifact
        if most is not None and size > most:
            raise NoSpace(
                path=self.partial.base,
                needed=self.offer.total,
                available=most,
                reason="larger than NANOCACHE_MAX_ARTIFACT allows",
            )
