"""The head of the first answer: is it the artifact at all, from which byte on, and is there room for it?

A page instead of the file, another size than expected, a file that is larger than the limit or the disk: all of it is
known before the body, and refused then.
"""

from __future__ import annotations

import os

from ..errors import NoSpace
from ..http.exchange import Response
from ..http.failure import Failure, StartOver
from ..http.validation import check_part, read_info
from .ledger import Claim
from .request import DownloadRequest
from .transfer import Transfer

__all__ = ["accept"]

WORTH_ASKING = 1 << 16  # bytes; smaller ones find out as soon when they are written
PAGES = (".htm", ".html", ".xhtml")


def accept(
    transfer: Transfer, request: DownloadRequest, response: Response, claim: Claim | None
) -> tuple[Claim, int | None]:
    """(the claim that the body fulfils, where the body ends as far as that is known).

    `claim`: the range that was asked for, None for a plain GET. Raises StartOver, Failure, NoSpace.
    """
    if response.status == 206 and claim is not None:
        ends, total = check_part(response.headers, transfer.offer, claim.pos, claim.end)
        if total is None:
            raise StartOver("it sent a part without saying of how much")
        transfer.pieced = True
        _set_total(transfer, request, claim, total)
        return claim, ends
    if response.status != 200:
        raise StartOver(f"it answered {response.status} to a {'range' if claim else 'plain GET'}")
    if claim is not None:
        transfer.restart()  # no range, or another version: this answer is the new beginning
    transfer.offer = read_info(response.headers)
    _check_page(transfer, request)
    whole = transfer.ledger.claim_rest()
    assert whole is not None
    if transfer.offer.total is not None:
        _set_total(transfer, request, whole, transfer.offer.total)
    return whole, transfer.offer.total


def _check_page(transfer: Transfer, request: DownloadRequest) -> None:
    meant = "text/html" in (transfer.source.header("accept") or "") or request.name.lower().endswith(PAGES)
    if transfer.offer.page and not request.known and not meant:
        raise Failure(
            "a web page came instead of the file (a login, or a notice?); Accept: text/html takes it", lasting=True
        )


def _set_total(transfer: Transfer, request: DownloadRequest, claim: Claim, total: int) -> None:
    if request.size is not None and total != request.size:
        raise Failure(f"it has {total:,} bytes where {request.size:,} were expected", lasting=True)
    transfer.ledger.total = total
    if claim.end is None:
        claim.end = total
    transfer.check_limit(total)
    if total < WORTH_ASKING:
        return
    room, needed = transfer.partial.room, total - os.fstat(transfer.partial.fd).st_blocks * 512
    if room is not None and needed > room:
        raise NoSpace(path=transfer.partial.base, needed=needed, available=room)
