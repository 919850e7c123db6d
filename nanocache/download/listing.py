"""A repository's listing, asked for with the patience of a download.

Not what is made of it (`engine.snapshots`).
"""

from __future__ import annotations

import logging

from ..artifact import urls
from ..cancel import Cancel
from ..config import Settings
from ..errors import DownloadFailed
from ..http.failure import Failure, Offline
from ..sources import listings
from ..sources.protocol import Listing
from .retry import Tries

__all__ = ["ask"]

logger = logging.getLogger("nanocache")


def ask(url: str, settings: Settings, cancel: Cancel) -> Listing | None:
    """The listing of `url` now; None while offline. Raises DownloadFailed, Cancelled, and what the source raises."""
    tries = Tries(settings.retries)
    shown = urls.redact(url)
    while True:
        try:
            return listings.list_files(url, cancel)
        except Offline:
            return None
        except Failure as e:
            seconds = _pause(shown, tries, e)
            logger.info("%s: %s; asking again in %.1f s", shown, e.reason, seconds)
            cancel.sleep(seconds)


def _pause(shown: str, tries: Tries, failure: Failure) -> float:
    try:
        return tries.wait(failure, progress=False)
    except Failure as e:
        raise DownloadFailed(url=shown, causes=((shown, e.reason),), status=e.status, remedy=e.remedy) from None
