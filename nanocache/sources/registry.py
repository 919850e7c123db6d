"""Which source a URL belongs to: the built-in ones, those that this process registered, those of installed packages.

Nothing of a source is imported before one of its URLs misses. Invariants: http, https and file stay what they are; a
child made by fork knows what its parent registered, a spawned one what its own imports register and what is installed.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from typing import Any

from ..artifact import schemes
from ..artifact.schemes import LISTING, is_address, scheme_of
from ..http.failure import Failure
from .listing_reader import ListingReader
from .protocol import HeaderSource, Lister, Reader, Source

__all__ = ["AnySource", "find", "register_source"]

AnySource = Source | HeaderSource | Reader

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PROTOCOLS = (Source, HeaderSource, Reader)
_BUILT_IN = ("hf", "s3", "gs", "az")  # each in a module of its name, which has a function `source`

_registered: dict[str, AnySource] = {}


def register_source(scheme: str, source: Source | Reader) -> None:
    """From now on URLs that begin with `scheme` and :// are fetched by `source`, in this process.

    `source` has `resolve(url) -> Resolved`, or `describe(url) -> Described` and `read(url, start, end)`. It replaces
    what the scheme meant before. An installed package does the same for every process by an entry point of the group
    `nanocache.sources`: its name is the scheme, its object a source, or a class of one. Raises ValueError.
    """
    if not isinstance(scheme, str) or not _SCHEME.fullmatch(scheme):
        raise ValueError(f"scheme must be lower-case letters, digits and +.-, without ://, got {scheme!r}")
    if scheme in schemes.ADDRESSES:
        raise ValueError(f"{scheme} is nanocache's own; register another scheme")
    _registered[scheme] = _checked(scheme, source)
    schemes.add(scheme)


def _checked(scheme: str, source: Any) -> AnySource:
    if isinstance(source, type) or not isinstance(source, _PROTOCOLS):
        raise ValueError(f"the source of {scheme} must have resolve(url), or describe(url) and read(url, start, end)")
    return source


def find(url: str) -> AnySource | None:
    """The source of `url`; None for http, https and file, which are addresses already."""
    if is_address(url):
        return None
    scheme = scheme_of(url)
    if scheme.startswith(LISTING):
        return _listing(scheme.removeprefix(LISTING))
    return _registered.get(scheme) or _installed(scheme)


def _listing(scheme: str) -> AnySource:
    source: object = find(f"{scheme}://")
    if not isinstance(source, Lister):
        raise Failure("its source cannot list files", lasting=True)
    return ListingReader(source)


@cache
def _installed(scheme: str) -> AnySource:
    from importlib.metadata import entry_points

    for point in entry_points(group=schemes.ENTRY_POINTS, name=scheme):
        source = point.load()
        return _checked(scheme, source() if isinstance(source, type) else source)
    module = import_module(f".{scheme if scheme in _BUILT_IN else 'filesystems'}", __package__)
    return _checked(scheme, module.source())
