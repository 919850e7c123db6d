"""What the environment says, before any disk is looked at: variables that nothing reads, values that cannot be read.

The network is not asked. Invariant: no value is shown but those of our own variables, which are no secrets.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator

from .. import config
from ..artifact import urls
from ..config import READONLY_DIRS, VARIABLES, Settings
from ..http import exchange
from ..http.failure import Failure
from .findings import FINE, LOSSES, UNUSABLE, Finding

__all__ = ["probe_servers", "probe_settings"]

SETTINGS = "settings"
SERVERS = "proxies and certificates"
PREFIX = "NANOCACHE_"


def probe_settings() -> Iterator[Finding]:
    known = [name for name, _, _ in VARIABLES]
    wrong = list(_wrong())
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    for text in wrong:
        yield Finding(SETTINGS, UNUSABLE, text, "each call is a ValueError", "set it right, or unset it")
    for name in unknown:
        near = difflib.get_close_matches(name, known, 1)
        remedy = f"{near[0]} is meant?" if near else "unset it; `nanocache --help` lists those that there are"
        yield Finding(SETTINGS, LOSSES, f"{name} is set, and nothing reads it", "what it was to change stays", remedy)
    missing = [] if wrong else [folder for folder in Settings.read().readonly_dirs if not os.path.isdir(folder)]
    for folder in missing:
        seen = f"{READONLY_DIRS} names {folder}, which is no folder on this host"
        yield Finding(SETTINGS, LOSSES, seen, "nothing of it is used", "mount it, set it right, or leave it out")
    if not (wrong or unknown or missing):
        given = [name for name in known if os.environ.get(name)]
        yield Finding(SETTINGS, FINE, f"set: {', '.join(given)}" if given else "none is set: all defaults")


def _wrong() -> Iterator[str]:
    for read in (Settings.read, config.progress):
        try:
            read()
        except ValueError as e:
            yield urls.redact(str(e)) if "://" in str(e) else str(e)


def probe_servers() -> Iterator[Finding]:
    try:
        used = exchange.check_environment()
    except Failure as e:
        yield Finding(SERVERS, UNUSABLE, e.reason, "no server is reached", e.remedy)
        return
    yield Finding(SERVERS, FINE, "; ".join(used) or "none is set")
