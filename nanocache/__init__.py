"""nanocache: an artifact on local disk, verified, downloaded once, however many ask for it at the same moment.

    path = nanocache.fetch("https://host/weights.safetensors", sha256="9f86d0...")

Importing it loads nothing but this file: a name is resolved when it is first used (PEP 562), because even the standard
library's logging, dataclasses and urllib cost 20 ms, and every training script imports this one.
"""

from __future__ import annotations

TYPE_CHECKING = False  # what type checkers take for true; importing typing for it costs 8 ms

if TYPE_CHECKING:
    from . import events as events
    from .api import afetch, build, fetch, fetch_many, get_base_dir, lookup, snapshot
    from .archives.unpack import Decompress, Unpack
    from .artifact.artifact import Artifact
    from .bundle.loading import Loaded
    from .cache import Cache
    from .calls.locks import LockFile, open_lock
    from .calls.registries import registry
    from .compat import download_file_with_lock
    from .diagnosis.doctor import doctor
    from .diagnosis.findings import Finding
    from .errors import (
        ChecksumMismatch,
        DamagedBundle,
        DownloadFailed,
        LockTimeout,
        NanocacheError,
        NoSpace,
        NotCached,
        NotLocked,
        NotSigned,
        PostprocessFailed,
        UnsafeArchive,
        UnsafeCache,
        UpstreamChanged,
    )
    from .events import Stats
    from .loaders import Prefetch, prefetch
    from .progress import Progress
    from .retention.prune import Pruned
    from .sources.protocol import Described, Reader, Resolved, Source
    from .sources.registry import register_source
    from .upkeep.entries import Entry
    from .upkeep.findings import Damage
    from .upkeep.verify import Verified

    __version__: str

_HOMES = {
    "afetch": "api",
    "fetch": "api",
    "fetch_many": "api",
    "get_base_dir": "api",
    "lookup": "api",
    "snapshot": "api",
    "build": "api",
    "prefetch": "loaders",
    "Prefetch": "loaders",
    "registry": "calls.registries",
    "doctor": "diagnosis.doctor",
    "Stats": "events",
    "events": "events",  # the module itself
    "Finding": "diagnosis.findings",
    "Artifact": "artifact.artifact",
    "Cache": "cache",
    "Progress": "progress",
    "Described": "sources.protocol",
    "Reader": "sources.protocol",
    "Resolved": "sources.protocol",
    "Source": "sources.protocol",
    "register_source": "sources.registry",
    "Entry": "upkeep.entries",
    "Verified": "upkeep.verify",
    "Damage": "upkeep.findings",
    "Pruned": "retention.prune",
    "open_lock": "calls.locks",
    "LockFile": "calls.locks",
    "Loaded": "bundle.loading",
    "Unpack": "archives.unpack",
    "Decompress": "archives.unpack",
    "download_file_with_lock": "compat",
    "NanocacheError": "errors",
    "ChecksumMismatch": "errors",
    "UpstreamChanged": "errors",
    "DownloadFailed": "errors",
    "NotCached": "errors",
    "NotLocked": "errors",
    "NotSigned": "errors",
    "LockTimeout": "errors",
    "NoSpace": "errors",
    "UnsafeArchive": "errors",
    "DamagedBundle": "errors",
    "UnsafeCache": "errors",
    "PostprocessFailed": "errors",
}

__all__ = [
    "fetch",
    "afetch",
    "fetch_many",
    "lookup",
    "snapshot",
    "prefetch",
    "build",
    "registry",
    "open_lock",
    "LockFile",
    "doctor",
    "Artifact",
    "Cache",
    "get_base_dir",
    "download_file_with_lock",
    "Unpack",
    "Decompress",
    "Progress",
    "Prefetch",
    "register_source",
    "Resolved",
    "Source",
    "Described",
    "Reader",
    "Entry",
    "Verified",
    "Damage",
    "Pruned",
    "Finding",
    "Stats",
    "Loaded",
    "NanocacheError",
    "ChecksumMismatch",
    "UpstreamChanged",
    "DownloadFailed",
    "NotCached",
    "NotLocked",
    "NotSigned",
    "LockTimeout",
    "NoSpace",
    "UnsafeArchive",
    "DamagedBundle",
    "UnsafeCache",
    "PostprocessFailed",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from .config import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f".{_HOMES[name]}", __name__)
    value: object = home if _HOMES[name] == name else getattr(home, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
