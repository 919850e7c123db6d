"""Schemes: what may stand before the :// of a URL.

Names only: what a scheme means is the business of `sources`, and nothing of one is imported to know its name.
Invariant: a name that is not known here is refused before any I/O.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache

__all__ = ["ENTRY_POINTS", "add", "is_address", "refusal_of", "scheme_of"]

ENTRY_POINTS = "nanocache.sources"  # the group under which an installed package brings sources
WEB = ("http", "https")
LISTING = "listing+"  # before a scheme: the list of a repository's files
ADDRESSES = (*WEB, "file")  # whose URLs say themselves where the bytes are
BUILT_IN = (*ADDRESSES, "hf", "s3", "gs", "az")
# What fsspec reads by itself. Its own table is in a module that costs 30 ms to import.
FSSPEC = (
    *("abfs", "abfss", "adl", "box", "dbfs", "dropbox", "dvc", "gcs", "gdrive", "gist", "git", "github", "hdfs"),
    *("jupyter", "lakefs", "memory", "oci", "ocilake", "oss", "root", "s3a", "sftp", "smb", "ssh", "tos", "wandb"),
    *("webdav", "webhdfs"),
)
# Read by fsspec as well, and refused: nothing on the way is encrypted, and no server says which version it sends.
ELSEWHERE = {"ftp": "ask its host for an https address, or register a source for it"}
# Schemes whose userinfo is a place and no login: github://owner:repository@branch/path, abfs://container@account/path.
PLACE_IN_USERINFO = frozenset({"abfs", "abfss", "git", "github", "oci"})

_FSSPECS_OWN = ("fsspec.", "morefs.", "pyscript_fsspec_client.")  # of its table; what of it serves us is in FSSPEC
_added: set[str] = set()


def scheme_of(url: str) -> str:
    """In lower case."""
    return url.partition(":")[0].lower()


def is_address(url: str) -> bool:
    """Whether the URL can be asked as it is, and no source need say where its artifact is now."""
    return scheme_of(url) in ADDRESSES


def add(scheme: str) -> None:
    """Know `scheme` from now on, in this process."""
    _added.add(scheme)


def refusal_of(scheme: str) -> str | None:
    """Why no URL of `scheme` can be fetched, None if one can."""
    scheme = scheme.removeprefix(LISTING)
    if scheme in BUILT_IN or scheme in _added or scheme in _installed(ENTRY_POINTS):
        return None
    if scheme in ELSEWHERE:
        return f"the scheme must be one that says what it sends; {ELSEWHERE[scheme]}"
    if scheme in FSSPEC or scheme in _installed("fsspec.specs") or _is_loaded(scheme):
        if importlib.util.find_spec("fsspec") is not None:
            return None
        return f"{scheme} is read by fsspec: pip install 'nanocache[fsspec]'"
    return "the scheme must be http, https, file, hf, s3, gs, az, one that fsspec reads, or one that was registered"


@cache
def _installed(group: str) -> frozenset[str]:
    from importlib.metadata import entry_points

    return frozenset(point.name.lower() for point in entry_points(group=group))


def _is_loaded(scheme: str) -> bool:
    """Whether this process taught fsspec the protocol itself, by a class or by the name of one."""
    module = sys.modules.get("fsspec.registry")
    named = getattr(module, "known_implementations", {}).get(scheme, {"class": "fsspec."})
    return scheme in getattr(module, "registry", {}) or not named["class"].startswith(_FSSPECS_OWN)
