"""From URLs to a verified file in a partial: the door, and which error all of it ends in.

    for each source, in order: attempts, until it gave the artifact or is given up
    none gave it: one cause for each

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; secrets
are in no message; on a full disk the bytes are given up at once, since the space is needed more.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

from ..artifact.urls import redact
from ..cancel import Cancel
from ..errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from ..http.failure import Failure, Offline
from ..store.partials import Partial
from .attempts import Attempts, Downloaded, NotModified
from .request import DownloadRequest, Source

__all__ = ["DownloadRequest", "Downloaded", "NotModified", "Source", "download"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def download(
    request: DownloadRequest, partial: Partial, cancel: Cancel, report: Callable[[int, int | None], None]
) -> Downloaded | NotModified:
    """Fill `partial` from the first source that gives the artifact, verified; NotModified if the request's condition
    holds. `report(bytes so far, total or None)` is called from the calling thread only, up to a few hundred times a
    second.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """
    failures: list[tuple[Source, Failure | ChecksumMismatch]] = []
    attempts = Attempts(request, partial, cancel, report)
    try:
        for source in request.sources:
            try:
                return attempts.run(source)
            except (Failure, ChecksumMismatch) as e:
                failures.append((source, e))
    except Offline:
        raise NotCached(url=redact(request.sources[0].url), base_dir=partial.base, sha256=request.digest) from None
    except NoSpace:
        partial.discard()
        raise
    except OSError as e:
        if e.errno not in FULL:
            raise
        raise _no_space(partial, attempts.lacking) from e
    raise _failed(request.sources, failures)


def _no_space(partial: Partial, needed: int | None) -> NoSpace:
    room = partial.room
    partial.discard()
    return NoSpace(path=partial.base, needed=needed, available=room)


def _failed(
    sources: Sequence[Source], failures: Sequence[tuple[Source, Failure | ChecksumMismatch]]
) -> DownloadFailed | ChecksumMismatch:
    mismatches = [e for _, e in failures if isinstance(e, ChecksumMismatch)]
    if mismatches and len(mismatches) == len(failures):
        return mismatches[0]
    others = [e for _, e in failures if isinstance(e, Failure)]
    return DownloadFailed(
        url=redact(sources[0].url) if sources else "",
        causes=tuple((redact(source.url), e.reason if isinstance(e, Failure) else str(e)) for source, e in failures),
        status=next((e.status for e in reversed(others) if e.status is not None), None),
        remedy=next((e.remedy for e in reversed(others) if e.remedy), ""),
    )
