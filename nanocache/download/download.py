"""From URLs to a verified file in a partial: the door, and which error all of it ends in.

    for each source, in order: attempts, until it gave the artifact or is given up
    none gave it: one cause for each

Not publishing and not locking. Invariants: nothing is returned that was not read back from the disk and hashed; secrets
are in no message; on a full disk the bytes are given up at once, since the space is needed more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..artifact.urls import redact
from ..cancel import Cancel
from ..disk import faults
from ..errors import ChecksumMismatch, DownloadFailed, NoSpace, NotCached
from ..http.failure import Failure, Offline
from ..store.partials import Partial
from .attempts import Attempts
from .request import Downloaded, DownloadRequest, NotModified, Source
from .transfer import Transfer

__all__ = ["DownloadRequest", "Downloaded", "NotModified", "Source", "download"]

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all or None
Cause = tuple[Source, Failure | ChecksumMismatch]


def download(request: DownloadRequest, partial: Partial, cancel: Cancel, report: Report) -> Downloaded | NotModified:
    """Fill `partial` from the first source that gives the artifact, verified; NotModified if the condition holds.

    `report` is called from the calling thread only, up to a few hundred times a second.

    On failure the partial holds what can be resumed, and its state says what that is. Raises DownloadFailed (one cause
    per URL), ChecksumMismatch if every URL gave wrong bytes, NoSpace (the partial is deleted at once), NotCached while
    offline, Cancelled within a second, `partials.Abandoned`, and OSError where the disk fails.
    """
    causes: list[Cause] = []
    for source in request.sources:
        transfer = Transfer(source, request, partial)
        try:
            return Attempts(transfer, request, cancel, report).run()
        except (Failure, ChecksumMismatch) as e:
            causes.append((source, e))
        except Offline:
            raise NotCached(url=_shown(request), base_dir=partial.base, sha256=request.digest) from None
        except NoSpace:
            partial.discard()
            raise
        except OSError as e:
            if (full := faults.no_space(e, partial.base, transfer.lacking)) is None:
                raise
            partial.discard()
            raise full from e
    raise _failed(request, causes)


def _shown(request: DownloadRequest) -> str:
    return redact(request.sources[0].url) if request.sources else ""


def _failed(request: DownloadRequest, causes: Sequence[Cause]) -> DownloadFailed | ChecksumMismatch:
    """ChecksumMismatch if that is what every source ended in; the last HTTP status and remedy tell most otherwise."""
    mismatches = [e for _, e in causes if isinstance(e, ChecksumMismatch)]
    if mismatches and len(mismatches) == len(causes):
        return mismatches[0]
    failures = [e for _, e in causes if isinstance(e, Failure)]
    statuses = [e.status for e in failures if e.status is not None]
    remedies = [e.remedy for e in failures if e.remedy]
    return DownloadFailed(
        url=_shown(request),
        causes=tuple((redact(source.url), _reason(e)) for source, e in causes),
        status=statuses[-1] if statuses else None,
        remedy=remedies[-1] if remedies else "",
    )


def _reason(e: Failure | ChecksumMismatch) -> str:
    return e.reason if isinstance(e, Failure) else str(e)
