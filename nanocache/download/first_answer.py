"""What the head of the first answer rules out before the body: a page instead of the file, another size, no room.

Checks only: they change nothing. What a part must be is checked in `http.validation`.
"""

from __future__ import annotations

import math
import os

from ..disk import faults
from ..errors import NoSpace
from ..http.failure import Failure
from ..http.validation import ResponseInfo
from ..store.partials import Partial
from . import instead
from .request import DownloadRequest, Target

__all__ = ["check", "check_condition", "too_long"]

WORTH_ASKING = 1 << 16  # bytes; a smaller file finds out as soon when it is written


def check_condition(request: DownloadRequest) -> None:
    """Raise Failure for a 304 to a request without a condition."""
    if request.condition is None:
        raise Failure("it answered 304 to a request without a condition", lasting=True)


def check(total: int | None, info: ResponseInfo, target: Target, request: DownloadRequest, partial: Partial) -> float:
    """The bytes that the body may have, infinite without a limit. Raises Failure, NoSpace for what is not to be had."""
    _check_page(info, target, request)
    if total is not None:
        _check_size(total, info, request, partial)
    bounds = (request.size, request.settings.max_artifact)
    return min((bound for bound in bounds if bound is not None), default=math.inf)


def _check_page(info: ResponseInfo, target: Target, request: DownloadRequest) -> None:
    """Raise Failure for a web page that was not asked for."""
    if not info.page or request.known or request.name.lower().endswith(instead.PAGE_ENDINGS):
        return
    if "text/html" in (target.header("accept") or ""):
        return
    raise Failure(f"{instead.WEB_PAGE}; Accept: text/html takes it", lasting=True)


def _check_size(total: int, info: ResponseInfo, request: DownloadRequest, partial: Partial) -> None:
    """Raise Failure for another size than expected, NoSpace for one over the limit or larger than the disk."""
    if request.size not in (None, total):
        page = f"; {instead.WEB_PAGE}" if info.page else ""
        raise Failure(f"it has {total:,} bytes where {request.size:,} were expected{page}", lasting=True)
    limit = request.settings.max_artifact
    if limit is not None and total > limit:
        raise faults.too_large(partial.base, limit, total)
    if total >= WORTH_ASKING:
        faults.check_room(partial.base, total - os.fstat(partial.fd).st_blocks * 512)


def too_long(request: DownloadRequest, partial: Partial) -> Failure | NoSpace:
    """The error for a body that goes on after the bytes that `check` allowed."""
    limit = request.settings.max_artifact
    if request.size is not None and (limit is None or request.size <= limit):
        return Failure(f"it has more than the {request.size:,} bytes that were expected", lasting=True)
    return faults.too_large(partial.base, limit)
